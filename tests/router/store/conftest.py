"""A store on a virtual clock, and short ways to talk through it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from channels.messages import Content, Kind
from health.report import EndpointId
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import AcceptAnswer, LeaseTerms, NewConversation, NewLeg, NewMessage, Rebind, Settlement
from router.store.codec import Leased, Notice
from router.store.connecting import connect
from router.store.redis import Pipelined
from router.store.store import Store

SMS = EndpointId("sms/acme")
MAIL = EndpointId("email/support")
CONSOLE = EndpointId("chat/console")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0, "urgent": 15.0}, idempotent=False, attempts_max=3)


@dataclass
class Desk:
    """A store and its virtual clock, in milliseconds."""

    store: Store
    clock: list[int]
    count: int = 0
    conversation: str = ""
    said: list[str] = field(default_factory=list)

    def advance(self, seconds: float) -> None:
        self.clock[0] += int(seconds * 1000)

    @property
    def now(self) -> float:
        return self.clock[0] / 1000

    def fresh(self, kind: str) -> str:
        return new_id(kind, 0, self.clock[0])

    async def open(self, endpoint: EndpointId = MAIL, place: str = "email:ann@example.org") -> str:
        """A conversation that the customer began at `endpoint`."""
        identity = self.fresh("v")
        await self.hear("Where is my order?", conversation=identity, create=True, endpoint=endpoint, place=place)
        self.conversation = identity
        return identity

    async def hear(
        self,
        text: str,
        *,
        conversation: str = "",
        create: bool = False,
        endpoint: EndpointId = MAIL,
        place: str = "email:ann@example.org",
        key: str = "",
        pin: tuple[EndpointId, str] | None = None,
        reopen: bool = False,
    ) -> AcceptAnswer:
        """The customer writes."""
        return await self.store.accept(
            conversation or self.conversation,
            NewMessage(
                self.fresh("m"),
                SideName.AGENT,
                Kind.MESSAGE,
                "c0-ann",
                "Ann",
                Content(text),
                MessageClass.NORMAL,
                0,
                endpoint,
            ),
            natural_key=key,
            said_hash=text if key else "",
            pin=pin,
            reopen=reopen,
            create=NewConversation(
                "c0-ann",
                "4F2K9",
                "Order",
                "en",
                MessageClass.NORMAL,
                5,
                "",
                NewLeg("c0-ann", endpoint, place),
                NewLeg("", CONSOLE, "chat:console@chat/console"),
            )
            if create
            else None,
        )

    async def say(
        self, text: str, *, expires_in: float = 0, key: str = "", kind: Kind = Kind.MESSAGE, conversation: str = ""
    ) -> str:
        """An agent writes to the customer; the message's id."""
        answer = await self.store.accept(
            conversation or self.conversation,
            NewMessage(
                self.fresh("m"),
                SideName.CUSTOMER,
                kind,
                "a0-bob",
                "Bob",
                Content(text),
                MessageClass.NORMAL,
                self.now + expires_in if expires_in else 0,
                EndpointId(""),
            ),
            natural_key=key,
            said_hash=text if key else "",
        )
        assert answer.verdict in {"new", "duplicate", "other"}, answer
        return answer.message_id

    async def lease(
        self, endpoint: EndpointId = MAIL, worker: str = "w1", count: int = 10, **more: object
    ) -> list[Leased]:
        """Take what is due."""
        return await self.store.lease(endpoint, worker, count, more.pop("terms", TERMS), **more)

    async def settle(self, leased: Leased, outcome: str, **more: object) -> str:
        """Record what came of it."""
        answers = await self.store.settle(
            0,
            [
                Settlement(
                    leased.conversation_id,
                    leased.side,
                    leased.message_id,
                    leased.number,
                    leased.fence,
                    outcome,
                    **more,
                )
            ],
        )
        return answers[0]

    async def move(
        self,
        endpoint: EndpointId = SMS,
        place: str = "sms:+15550100",
        *,
        notice: bool = True,
        hold_s: float = -1,
        conversation: str = "",
        epoch: int | None = None,
        left: EndpointId = MAIL,
    ) -> str:
        """Rebind the customer's side."""
        conversation = conversation or self.conversation
        side = await self.store.side(conversation, SideName.CUSTOMER)
        assert side is not None
        told = Notice(self.fresh("m"), "failover", left, self.now) if notice else None
        answers = await self.store.rebind(
            0,
            [
                Rebind(
                    conversation,
                    SideName.CUSTOMER,
                    side.epoch if epoch is None else epoch,
                    endpoint,
                    place,
                    "failover",
                    told,
                    hold_s,
                )
            ],
        )
        return answers[0]

    async def state(self, message_id: str) -> str:
        """A message's state."""
        message = await self.store.message(message_id)
        assert message is not None
        return message.state


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    clock = [1_800_000_000_000]
    redis = Pipelined(connect(redis_url))
    store = Store(redis, now_ms=lambda: clock[0])
    yield Desk(store, clock)
    await redis.close()
