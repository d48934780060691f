"""Customers and agents: what they say, what they were promised, what they agreed to. Their journals are the truth."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from channels.messages import Accepted, Content, InboundMessage, Kind
from health.report import EndpointId
from router.core import CONSOLE_ENDPOINT, CONSOLE_PLACE, Conflict, Core, NotFound
from router.domain.conversation import Agent, Binding, MessageClass, SideName
from router.domain.ids import new_id, shard_of
from router.edge import DRAFT, Draft, take_unplaced
from router.store.asked import NewConversation, NewLeg, NewMessage
from router.store.codec import place_of
from router.switchboard import Switchboard
from router.talk import Sent
from tests.simulation.loop import EPOCH_S

if TYPE_CHECKING:
    from tests.simulation.world import World

LIFETIMES_S = {"urgent": (20.0, 600.0), "secret": (20.0, 300.0), "normal": (86_400.0, 86_400.0), "bulk": (3e5, 3e5)}


@dataclass(slots=True)
class Said:
    """One message as its author's client knows it."""

    key: str
    """Its natural key, and the words in it."""
    where: str
    """Over what it is said."""
    to: str
    """The side that is to hear it."""
    asked_at: float
    message_class: str
    expires_at: float
    lifetime: float
    message_id: str = ""
    conversation_id: str = ""
    sequence: int = 0
    answer: str = ""
    """What the client was told; empty: nothing was promised."""
    spooled: bool = False
    """Some answer promised it from the disk of the process that took it."""
    placed: bool = False
    """Redis itself answered for it."""
    answered_at: float = float("inf")
    doors: set[str] = field(default_factory=set)
    """Processes that were asked."""
    cancelled: bool = False
    state: str = ""
    reason: str = ""
    """What the client sees at the end."""


@dataclass
class Talk:
    """A customer, an agent, and what they say to each other."""

    world: "World"
    customer_id: str
    reference: str
    bindings: list[Binding]
    homes: dict[str, list[EndpointId]]
    """By place: the endpoints that serve it."""
    agent: Agent | None
    conversation_id: str = ""
    said: list[Said] = field(default_factory=list)
    closed: bool = False
    """The agent has closed it at least once."""
    refused: dict[str, float] = field(default_factory=dict)
    """Places without consent, by since when on the virtual clock."""

    @property
    def rng(self) -> Random:
        return self.world.rng

    async def live(self, ends: float) -> None:
        """Write, answer, change one's mind, until then."""
        world = self.world
        await world.sleep(self.rng.uniform(0.0, ends * 0.4))
        await self.hear()
        while (pause := self.rng.expovariate(1 / world.climate.pause_s)) < ends - world.now:
            await world.sleep(pause)
            turn = self.rng.random()
            if turn < 0.62:
                world.spawn(self.say())
            elif turn < 0.92:
                world.spawn(self.hear())
            elif turn < 0.95:
                await self.withdraw()
            elif turn < 0.97:
                await self.cancel()
            else:
                await self.close()

    async def hear(self) -> None:
        """The customer writes from somewhere they agreed to."""
        ours = [one for one in self.bindings if place_of(one) not in self.refused]
        if not ours:
            return
        binding = ours[0] if self.rng.random() < 0.7 else self.rng.choice(ours)
        place = place_of(binding)
        endpoint = self.rng.choice(self.homes[place])
        said = self._note("a", endpoint, "normal", 0.0)
        event = InboundMessage(endpoint, said.key, binding.address, said.key, self.world.unix)
        redelivered = 2 if self.rng.random() < 0.15 else 1
        for _ in range(redelivered):
            self.world.spawn(self._deliver(said, event))
        if not self.conversation_id:
            await self._find_conversation()

    async def _deliver(self, said: Said, event: InboundMessage) -> None:
        accepted = await self.world.request(lambda web: web.accept(event), said.doors)
        self._promised(said, accepted.message_id, accepted.conversation_id, spooled=not accepted.message_id)
        if not accepted.message_id and self.conversation_id:
            await self._write_on(self.hear)

    async def _find_conversation(self) -> None:
        """What was only spooled has no conversation yet: the agent looks for it in the list."""
        while not self.conversation_id:
            found = await self.world.request(lambda web: web.conversations(customer_id=self.customer_id))
            if found.items:
                self.conversation_id = found.items[0].conversation.id
            else:
                await self.world.sleep(3.0)

    async def take(self, core: Core, event: InboundMessage) -> Accepted:
        """Have Redis take what the customer said."""
        place = next(place_of(one) for one in self.bindings if one.address == event.sender)
        message = NewMessage(
            self._new_id("m", core), SideName.AGENT, Kind.MESSAGE, self.customer_id, "Ann", Content(event.text),
            MessageClass.NORMAL, 0, event.endpoint,
        )  # fmt: skip
        agent = (
            NewLeg(self.agent.id, self.homes_of_agent()[0], place_of(self.agent.bindings[0]))
            if self.agent is not None
            else NewLeg("", CONSOLE_ENDPOINT, CONSOLE_PLACE)
        )
        create = NewConversation(
            self.customer_id, self.reference, "Order", "en", MessageClass.NORMAL, 5, "",
            NewLeg(self.customer_id, event.endpoint, place), agent, assignee=agent.owner,
        )  # fmt: skip
        answer = await core.store.accept(
            self.conversation_id or self._new_id("v", core), message, natural_key=f"{event.endpoint}:{event.vendor_id}",
            said_hash=event.text, create=create, reopen=True, pin=(event.endpoint, place),
        )  # fmt: skip
        if answer.verdict not in {"new", "duplicate"}:
            self.world.wrong.append(f"{event.text}, said by a customer, was answered {answer.verdict}")
        self.conversation_id = answer.conversation_id
        return Accepted(answer.conversation_id, answer.message_id, duplicate=answer.verdict == "duplicate")

    def homes_of_agent(self) -> list[EndpointId]:
        """Where the agent's first address is served."""
        return self.homes[place_of(self.agent.bindings[0])] if self.agent else []

    async def say(self) -> None:
        """An agent writes in the box."""
        name = self.rng.choices(("normal", "urgent", "bulk", "secret"), (12, 4, 2, 1))[0]
        lifetime = self.rng.uniform(*LIFETIMES_S[name])
        said = self._note("c", "api", name, lifetime)
        for _ in range(2 if self.rng.random() < 0.1 else 1):
            self.world.spawn(self._post(said))

    async def _post(self, said: Said) -> None:
        conversation_id = self.conversation_id

        async def post(web: Switchboard) -> Sent | tuple[str, str]:
            draft = Draft(
                conversation_id, self._new_id("m", web.core), Content(said.key), "a0-bob", "Bob", f"api:{said.key}",
                MessageClass(said.message_class), EPOCH_S + said.asked_at, said.lifetime, SideName.CUSTOMER,
            )  # fmt: skip
            if web.core.spool is None:
                return await web.put(draft)
            return await take_unplaced(web.core.spool, DRAFT, draft, web.put)

        try:
            sent = await self.world.request(post, said.doors)
        except (Conflict, NotFound) as error:
            said.answer = said.answer or error.reason
            if error.reason == "key_reused":
                self.world.wrong.append(f"{said.key}: its key is said to belong to other words")
            return
        if isinstance(sent, Sent):
            self._promised(said, sent.message_id, sent.conversation_id)
        else:
            self._promised(said, sent[1], sent[0], spooled=True)
            await self._write_on(self.say)

    async def _write_on(self, more: Callable[[], Awaitable[None]]) -> None:
        """Whose words only a spool has says more, and soon: it must not overtake them."""
        if self.rng.random() < 0.5:
            await self.world.sleep(self.rng.uniform(0.0, 8.0))
            if not self.world.calm:
                await more()

    async def withdraw(self) -> None:
        """STOP on one address."""
        ours = [one for one in self.bindings if place_of(one) not in self.refused]
        if len(ours) < 2 or self.world.rng.random() < 0.5:
            return
        binding = self.rng.choice(ours)
        withdrawn = replace(binding, consent=False)
        await self.world.request(lambda web: web.core.people.set_binding(self.customer_id, withdrawn))
        self.refused.setdefault(place_of(binding), self.world.now)

    async def cancel(self) -> None:
        """Take the last words back."""
        mine = [one for one in self.said if one.to == "c" and one.message_id and not one.cancelled]
        if mine:
            last = mine[-1]
            answer = await self.world.request(lambda web: web.core.store.cancel(last.message_id, "cancelled"))
            last.cancelled = last.cancelled or answer == "ok"

    async def close(self) -> None:
        """The agent thinks that this is over."""
        if self.rng.random() < 0.3:
            self.closed = True
            await self.world.request(lambda web: web.core.store.close(self.conversation_id))

    def _new_id(self, kind: str, core: Core) -> str:
        return new_id(kind, shard_of(self.customer_id), int(core.clock.now() * 1000))

    def _note(self, to: str, where: str, message_class: str, lifetime: float) -> Said:
        self.world.words += 1
        key = f"word{self.world.words:04d}"
        expires = EPOCH_S + self.world.now + lifetime if lifetime else 0.0
        said = Said(key, where, to, self.world.now, message_class, expires, lifetime)
        self.said.append(said)
        return said

    def _promised(self, said: Said, message_id: str, conversation_id: str, *, spooled: bool = False) -> None:
        said.answered_at = min(said.answered_at, self.world.now)
        said.answer = "accepted"
        if spooled:
            said.spooled = True
            said.message_id = said.message_id or message_id
            return
        if said.message_id and said.message_id != message_id:
            if said.placed or not said.spooled:
                self.world.wrong.append(f"{said.key} was accepted twice: {said.message_id} and {message_id}")
            else:
                self.world.renamed += 1  # a spool named it, and another process, asked again, could not know
        said.placed = True
        said.message_id, said.conversation_id = message_id, conversation_id
        self.conversation_id = conversation_id
