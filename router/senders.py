"""Who writes: the customers and the agent known at the address a message came from."""

import asyncio
from dataclasses import dataclass

from channels.messages import Address, Channel, InboundMessage
from router.core import Core
from router.domain.conversation import Agent, Customer
from router.domain.ids import shard_for, shard_of
from router.holding import Place
from router.store.keys import place as place_text

SPOKEN_MAX = 50
"""Conversations over one address pair that are looked at."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is known at the address a message came from."""

    place: Place
    customers: tuple[Customer, ...]
    """Whose address it is; nobody where it is an agent's. One who only claimed it counts once a conversation of
    theirs has spoken over it: else anybody could read a stranger's message by leaving their number in a chat form."""
    everybody: tuple[Customer, ...]
    """Those who only claimed it, too: a STOP from there holds for all of them."""
    agent: Agent | None

    def may_be_asked(self, address: Address) -> bool:
        """Not where everybody known there has withdrawn consent."""
        known = [one for customer in self.everybody for one in customer.bindings if one.address == address]
        return not known or any(one.consent for one in known)


async def find_sender(core: Core, event: InboundMessage) -> Sender:
    """Everybody at the address a message came from, and where their records are.

    An address that is an agent's is nobody else's: whoever writes from it speaks for us, whichever customers claim it.
    """
    bound = event.endpoint if event.sender.channel is Channel.CHAT else None
    ids = await core.people.at(event.sender, bound)
    customers = await asyncio.gather(*(core.people.customer(one) for one in ids if one.startswith("c")))
    agents = await asyncio.gather(*(core.people.agent(one) for one in ids if one.startswith("a")))
    everybody = tuple(sorted((one for one in customers if one), key=lambda one: one.created_at))
    where = place_text(event.sender, bound)
    shard = shard_of(everybody[0].id) if everybody else shard_for(where, core.store.shards)
    place = Place(event.endpoint, where, shard)
    claimed = [one for one in everybody if not _is_verified(one, event.sender)]
    spoke = await _spoke_here(core, place) if claimed else frozenset()
    agent = next((one for one in agents if one), None)
    found = () if agent else tuple(one for one in everybody if one not in claimed or one.id in spoke)
    return Sender(place, found, everybody, agent)


async def spoken_over(core: Core, place: Place) -> dict[str, float]:
    """Conversations that spoke over this exact address pair, by when last (unix seconds).

    In every shard: an agent's address, and one that customers of several shards share, is spoken over in all of them.
    """
    shards = range(core.store.shards)
    found = await asyncio.gather(*(core.store.spoke_over(shard, place.endpoint, place.place) for shard in shards))
    return {conversation: at for of_shard in found for conversation, at in of_shard.items()}


async def accepted_before(core: Core, key: str) -> tuple[str, str] | None:
    """(message id, conversation id) accepted under a natural key, wherever the conversation is; None: not yet."""
    found = await asyncio.gather(*(core.store.natural_key(shard, key) for shard in range(core.store.shards)))
    return next((one for one in found if one), None)


async def _spoke_here(core: Core, place: Place) -> frozenset[str]:
    """Customers with a conversation that spoke over this exact pair: somebody there has heard of it."""
    over = await spoken_over(core, place)
    records = await asyncio.gather(*(core.store.conversation(one) for one in list(over)[:SPOKEN_MAX]))
    return frozenset(one.customer_id for one in records if one is not None)


def _is_verified(customer: Customer, address: Address) -> bool:
    return any(one.address == address and one.verified for one in customer.bindings)
