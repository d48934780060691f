"""Who writes: the customers and the agent known at the address a message came from."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from channels.messages import Address, Channel, InboundMessage
from router.core import Core
from router.domain.conversation import Agent, Conversation, Customer
from router.domain.ids import shard_for, shard_of
from router.holding import Place
from router.store.asked import Known
from router.store.keys import place as place_text
from router.store.reading import KNOWN_MAX, SPOKEN_MAX


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is known at the address a message came from, and where they spoke."""

    place: Place
    customers: tuple[Customer, ...]
    """Whose address it is; nobody where it is an agent's. One who only claimed it counts once a conversation of
    theirs has spoken over it: else anybody could read a stranger's message by leaving their number in a chat form."""
    everybody: tuple[Customer, ...]
    """Those who only claimed it, too: a STOP from there holds for all of them."""
    agent: Agent | None
    spoken: Mapping[str, float]
    """Conversations that spoke over this exact address pair, the latest ones, by when last (unix seconds)."""
    open_conversations: tuple[str, ...]
    """Of `customers`."""
    conversations: Mapping[str, Conversation]
    """The records of all these; what is archived is not among them."""
    has_held: bool
    """Something that came from here was held; perhaps it is filed since."""

    def may_be_asked(self, address: Address) -> bool:
        """Not where everybody known there has withdrawn consent."""
        known = [one for customer in self.everybody for one in customer.bindings if one.address == address]
        return not known or any(one.consent for one in known)


async def find_sender(core: Core, event: InboundMessage, key: str) -> tuple[Sender, tuple[str, str] | None]:
    """Who is at the address a message came from, and the (message id, conversation id) accepted under its natural key.

    Every shard is asked: an agent's address, and one that customers of several shards share, is spoken over in all of
    them. An address that is an agent's is nobody else's: whoever writes from it speaks for us, whichever customers
    claim it.

    Raises:
        StoreUnavailable: nothing was promised; deliver it again.
    """
    bound = event.endpoint if event.sender.channel is Channel.CHAT else None
    where = place_text(event.sender, bound)
    ids = await core.people.at(event.sender, bound)
    pages = list(_pages(ids, core.store.shards))
    answers = await asyncio.gather(
        *(core.store.known(shard, key, event.endpoint, where, customers) for shard, customers in pages)
    )
    agents = [await core.people.agent(one) for one in ids if one.startswith("a")]
    known = [(shard, answer) for (shard, _), answer in zip(pages, answers, strict=True)]
    there = next((shard for shard, answer in known if answer.accepted), None)
    accepted = await core.store.natural_key(there, key) if there is not None else None
    agent = next((one for one in agents if one), None)
    return _told(event, where, known, await _records(core, answers), agent, core.store.shards), accepted


def _pages(ids: Sequence[str], shards: int) -> Iterator[tuple[int, list[str]]]:
    """Every shard with the customers who live there, as many as one call may name."""
    for shard in range(shards):
        here = [one for one in ids if one.startswith("c") and shard_of(one) == shard]
        for start in range(0, max(len(here), 1), KNOWN_MAX):
            yield shard, here[start : start + KNOWN_MAX]


async def _records(core: Core, answers: Sequence[Known]) -> dict[str, Conversation]:
    """Every conversation that was named; those that one call did not read are read now."""
    records = {one: record for answer in answers for one, record in answer.conversations.items()}
    for answer in answers:
        if len(answer.conversations) >= KNOWN_MAX:
            named = [*(one for ids in answer.open_of.values() for one in ids), *_latest(answer.spoken)]
            found = await asyncio.gather(*(core.store.conversation(one) for one in named if one not in records))
            records |= {record.id: record for record in found if record is not None}
    return records


def _latest(spoken: Mapping[str, float]) -> list[str]:
    return sorted(spoken, key=lambda one: -spoken[one])[:SPOKEN_MAX]


def _told(
    event: InboundMessage,
    where: str,
    known: Sequence[tuple[int, Known]],
    records: Mapping[str, Conversation],
    agent: Agent | None,
    shards: int,
) -> Sender:
    """Who it is, by what the shards said."""
    everybody = sorted((one for _, answer in known for one in answer.customers), key=lambda one: one.created_at)
    spoken = {one: at for _, answer in known for one, at in answer.spoken.items()}
    latest = {one: spoken[one] for one in _latest(spoken)}
    # Of whoever only claimed the address somebody there has heard if a conversation of theirs spoke over this pair.
    heard = {records[one].customer_id for one in latest if one in records}
    found = tuple(one for one in everybody if one.id in heard or _is_verified(one, event.sender))
    customers = () if agent else found
    open_of = {one: ids for _, answer in known for one, ids in answer.open_of.items()}
    place = Place(event.endpoint, where, shard_of(everybody[0].id) if everybody else shard_for(where, shards))
    return Sender(
        place=place,
        customers=customers,
        everybody=tuple(everybody),
        agent=agent,
        spoken=latest,
        open_conversations=tuple(sorted(one for customer in customers for one in open_of[customer.id])),
        conversations=records,
        has_held=any(answer.has_held for shard, answer in known if shard == place.shard),
    )


def _is_verified(customer: Customer, address: Address) -> bool:
    return any(one.address == address and one.verified for one in customer.bindings)
