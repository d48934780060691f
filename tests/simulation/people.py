"""Customers and agents: what they say, what they were promised, what they agreed to. Their journals are the truth."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from channels.messages import Content, Kind
from health.report import EndpointId
from router.core import CONSOLE_ENDPOINT, CONSOLE_PLACE, Core
from router.domain.conversation import Agent, Binding, MessageClass, SideName
from router.domain.ids import new_id, shard_of
from router.store.asked import NewConversation, NewLeg, NewMessage
from router.store.codec import place_of

if TYPE_CHECKING:
    from tests.simulation.world import World

LIFETIMES_S = {"urgent": (20.0, 600.0), "secret": (20.0, 300.0), "normal": (86_400.0, 86_400.0), "bulk": (3e5, 3e5)}


@dataclass(slots=True)
class Said:
    """One message as its author's client knows it."""

    key: str
    """Its natural key, and the words in it."""
    to: str
    """The side that is to hear it."""
    asked_at: float
    message_class: str
    expires_at: float
    message_id: str = ""
    conversation_id: str = ""
    sequence: int = 0
    answer: str = ""
    """What the client was told; empty: nothing was promised."""
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
        while world.now < ends:
            await world.sleep(self.rng.expovariate(1 / world.climate.pause_s))
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
        redelivered = 2 if self.rng.random() < 0.15 else 1
        for _ in range(redelivered):
            self.world.spawn(self._deliver(said, endpoint, place))
        if not self.conversation_id:
            await self.world.wait_for(lambda: bool(self.conversation_id))

    async def _deliver(self, said: Said, endpoint: EndpointId, place: str) -> None:
        def request(core: Core) -> object:
            message = NewMessage(
                self._new_id("m", core), SideName.AGENT, Kind.MESSAGE, self.customer_id, "Ann",
                Content(said.key), MessageClass.NORMAL, 0, endpoint,
            )  # fmt: skip
            agent = (
                NewLeg(self.agent.id, self.homes_of_agent()[0], place_of(self.agent.bindings[0]))
                if self.agent is not None
                else NewLeg("", CONSOLE_ENDPOINT, CONSOLE_PLACE)
            )
            create = NewConversation(
                self.customer_id, self.reference, "Order", "en", MessageClass.NORMAL, 5, "",
                NewLeg(self.customer_id, endpoint, place), agent, assignee=agent.owner,
            )  # fmt: skip
            identity = self.conversation_id or self._new_id("v", core)
            return core.store.accept(
                identity, message, natural_key=f"{endpoint}:{said.key}", said_hash=said.key, create=create, reopen=True,
                pin=(endpoint, place),
            )  # fmt: skip

        answer = await self.world.request(request)
        self._promised(said, answer)
        self.conversation_id = said.conversation_id

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
        def request(core: Core) -> object:
            message = NewMessage(
                self._new_id("m", core), SideName.CUSTOMER, Kind.MESSAGE, "a0-bob", "Bob",
                Content(said.key), MessageClass(said.message_class), said.expires_at, EndpointId(""),
            )  # fmt: skip
            return core.store.accept(
                self.conversation_id, message, natural_key=f"api:{said.key}", said_hash=said.key
            )  # fmt: skip

        self._promised(said, await self.world.request(request))

    async def withdraw(self) -> None:
        """STOP on one address."""
        ours = [one for one in self.bindings if place_of(one) not in self.refused]
        if len(ours) < 2 or self.world.rng.random() < 0.5:
            return
        binding = self.rng.choice(ours)
        await self.world.request(
            lambda core: core.people.set_binding(self.customer_id, replace(binding, consent=False))
        )
        self.refused.setdefault(place_of(binding), self.world.now)

    async def cancel(self) -> None:
        """Take the last words back."""
        mine = [one for one in self.said if one.to == "c" and one.message_id and not one.cancelled]
        if mine:
            last = mine[-1]
            answer = await self.world.request(lambda core: core.store.cancel(last.message_id, "cancelled"))
            last.cancelled = last.cancelled or answer == "ok"

    async def close(self) -> None:
        """The agent thinks that this is over."""
        if self.rng.random() < 0.3:
            await self.world.request(lambda core: core.store.close(self.conversation_id))

    def _new_id(self, kind: str, core: Core) -> str:
        return new_id(kind, shard_of(self.customer_id), int(core.clock.now() * 1000))

    def _note(self, to: str, where: str, message_class: str, lifetime: float) -> Said:
        self.world.words += 1
        key = f"word{self.world.words:04d}"
        expires = self.world.unix + lifetime if lifetime else 0.0
        said = Said(key, to, self.world.now, message_class, expires)
        self.said.append(said)
        return said

    def _promised(self, said: Said, answer: object) -> None:
        verdict = str(getattr(answer, "verdict", ""))
        message_id = str(getattr(answer, "message_id", ""))
        if verdict not in {"new", "duplicate"}:
            said.answer = said.answer or verdict
            if verdict == "other":
                self.world.wrong.append(f"{said.key}: its key is said to belong to other words")
            return
        if said.message_id and said.message_id != message_id:
            self.world.wrong.append(f"{said.key} was accepted twice: {said.message_id} and {message_id}")
        said.answer, said.message_id = "accepted", message_id
        said.conversation_id = str(getattr(answer, "conversation_id", ""))
        said.sequence = int(getattr(answer, "sequence", 0))
