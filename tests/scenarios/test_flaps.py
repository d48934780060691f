"""Outages on a virtual clock: the monitor, the supervisor, senders and planner step by step on a real Redis."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from channels.contract import Capabilities
from channels.errors import EndpointUnavailable, OutcomeUnknown, RecipientUnreachable, SendFailed, Throttled
from channels.messages import Address, Channel, OutboundMessage, Receipt
from health.monitor import Monitor
from health.report import EndpointId, Status, Transition
from router.domain.conversation import Binding, SideName
from router.evidence import judge_probe
from router.mover import Mover
from router.pace import Pace
from router.planner import Planner
from router.runtime import Runtime, open_runtime
from router.sender import Sender
from router.settings import Settings
from router.store.store import Store
from router.supervisor import Supervisor, targets_of
from tests.clocks import START, StillClock

STEP_S = 0.25
MAIL, SMS = EndpointId("email/acme"), EndpointId("sms/acme")


@dataclass
class ScriptedAdapter:
    """An endpoint that answers at once, as the story says: None takes it, an exception class refuses it."""

    capabilities: Capabilities
    mood: type[SendFailed] | None = None
    failing_share: float = 1.0
    taken: list[OutboundMessage] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    async def send(self, message: OutboundMessage) -> Receipt:
        """Take it, or fail."""
        self._fail()
        self.taken.append(message)
        return Receipt((f"x{len(self.taken)}",))

    async def probe(self) -> None:
        """As a message would fare; of a message's own faults it sees nothing."""
        if self.mood in {None, EndpointUnavailable, OutcomeUnknown}:
            self._fail()

    async def close(self) -> None:
        """Nothing is held."""

    def _fail(self) -> None:
        if self.mood is not None and self.chance.random() < self.failing_share:
            if self.mood is Throttled:
                raise Throttled("busy", "wait", retry_after_s=1.0)
            raise self.mood("scripted", "as the story says")


@dataclass
class Stage:
    """Two endpoints, one supervisor, one dispatcher; time passes in quarters of a second."""

    runtime: Runtime
    clock: StillClock
    adapters: dict[EndpointId, ScriptedAdapter]
    transitions: list[Transition] = field(default_factory=list)
    moves: Counter[str] = field(default_factory=Counter)
    number: int = 0

    def __post_init__(self) -> None:
        core = self.runtime.core
        self.supervisor = Supervisor(core, self.adapters, self.runtime.desk, "supervise-1")
        self.pace = Pace(core.capabilities)
        self.mover = Mover(core, self.pace)
        self.monitor = Monitor(
            core.board,
            targets_of(self.adapters),
            probe=lambda endpoint: self.adapters[endpoint].probe(),
            judge=judge_probe,
            clock=self.clock,
            on_transition=self._on_transition,
            random=random.Random(7).random,
        )
        self.planner = Planner(core, asyncio.Event())
        self.senders = [
            Sender(core, one, adapter, self.runtime.desk, "dispatch-1", 32) for one, adapter in self.adapters.items()
        ]

    async def _on_transition(self, transition: Transition) -> None:
        self.transitions.append(transition)
        await self.supervisor._on_transition(transition)

    async def customer(self, number: int) -> str:
        """Somebody with a mailbox and a phone, and an open conversation by mail."""
        places = (Address(Channel.EMAIL, f"c{number}@customer.test"), Address(Channel.SMS, f"+1202555{number:04d}"))
        bindings = [Binding(place, verified=True, order=order) for order, place in enumerate(places)]
        board = self.runtime.switchboard
        made = await board.create_customer(name=f"C{number}", locale="en", bindings=bindings)
        self.number += 1
        sent = await board.open_conversation(
            made.id,
            subject="Order",
            text="Hello.",
            author="a0-1",
            author_name="Ada",
            idempotency_key=f"k{self.number}",
            channel=Channel.EMAIL,
        )
        return sent.conversation_id

    async def say(self, conversation: str, text: str = "") -> None:
        """The agent writes."""
        self.number += 1
        await self.runtime.switchboard.send(
            conversation,
            text=text or f"Word {self.number}.",
            author="a0-1",
            author_name="Ada",
            idempotency_key=f"k{self.number}",
        )

    async def pass_time(self, seconds: float, each: Any = None, *, step_s: float = STEP_S) -> None:
        """Let virtual time pass; `each` is called once a second."""
        for step in range(round(seconds / step_s)):
            self.clock.at += step_s
            if each is not None and step % max(1, round(1 / step_s)) == 0:
                await each()
            await self._dispatch()
            await self.runtime.desk.flush()
            await self.monitor.step(self.clock.at)
            await asyncio.sleep(0)  # probes answer at once, in tasks of their own
            await self.supervisor.step(self.monitor, self.mover, self.pace)

    async def _dispatch(self) -> None:
        for _ in range(3):
            busy = await self.planner.step(0)
            for sender in self.senders:
                leased = await self.runtime.core.store.lease(sender.endpoint, "dispatch-1", 100, sender.terms)
                await asyncio.gather(*(sender._work_on(one, self.clock.at) for one in leased))
                busy += len(leased)
            if not busy:
                return

    async def legs(self, conversation: str) -> list[str]:
        """Where it has been, and why."""
        return [leg["ep"] for leg in await self.runtime.core.store.legs(conversation, SideName.CUSTOMER)]

    def went(self, endpoint: EndpointId, status: Status) -> list[float]:
        """When an endpoint took a status, in seconds since the start."""
        return [one.at - START for one in self.transitions if one.endpoint == endpoint and one.after is status]


@pytest.fixture
async def stage(redis_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """Mail and SMS, both well."""
    clock = StillClock()
    adapters = {
        MAIL: ScriptedAdapter(Capabilities(Channel.EMAIL, "acme", 100_000, 5.0, rate_per_s=500.0)),
        SMS: ScriptedAdapter(Capabilities(Channel.SMS, "other", 1_000, 5.0, rate_per_s=500.0)),
    }
    monkeypatch.setattr("router.runtime._adapters", lambda *_: adapters)
    broker = "redis://127.0.0.1:1/1"  # nothing here waits for Celery
    settings = Settings(
        organisation="Example Shop", redis_url=redis_url, broker_url=broker, data_dir=tmp_path, secret="s" * 40
    )
    async with open_runtime(settings, "supervise", clock=clock) as runtime:
        redis = runtime.core.store.redis
        runtime.core.store = Store(redis, now_ms=lambda: round(clock.at * 1000))
        one = Stage(runtime, clock, adapters)
        await one.pass_time(2)
        yield one
        await one.monitor.close()


async def test_ten_flaps_in_a_minute_make_one_move_and_one_notice(stage):
    """Mail is gone for 3 s and back for 3 s, ten times: each conversation moves and hears at most once."""
    talks = [await stage.customer(number) for number in range(20)]
    await stage.pass_time(1)
    assert len(stage.adapters[MAIL].taken) == 20

    async def talk_on() -> None:
        for talk in talks[stage.number % 5 :: 5]:
            await stage.say(talk)

    for _ in range(10):
        stage.adapters[MAIL].mood = EndpointUnavailable
        await stage.pass_time(3, talk_on)
        stage.adapters[MAIL].mood = None
        await stage.pass_time(3, talk_on)
    await stage.pass_time(30)
    notices = Counter(m.conversation_id for one in stage.adapters.values() for m in one.taken if m.kind == "notice")
    assert stage.went(MAIL, Status.DOWN), "the story is about an outage"
    assert set(notices.values()) == {1}, notices
    moved = {talk: await stage.legs(talk) for talk in talks}
    assert {len(legs) for legs in moved.values()} <= {0, 1}, moved
    assert sum(len(legs) for legs in moved.values()) == len(notices), "whoever was moved was told"
    said = Counter(m.message_id for one in stage.adapters.values() for m in one.taken)
    assert set(said.values()) == {1}
    assert len(said) - sum(notices.values()) == stage.number, "everything that was said arrived"


async def test_the_first_moved_message_is_at_the_new_vendor_within_two_seconds_of_down(stage):
    """Without an open attempt; counted from the transition."""
    talk = await stage.customer(1)
    await stage.pass_time(1)
    stage.adapters[MAIL].mood = EndpointUnavailable
    await stage.say(talk, "Are you there?")
    while not stage.went(MAIL, Status.DOWN):
        await stage.pass_time(STEP_S)
        assert stage.clock.at - START < 60
    down = stage.went(MAIL, Status.DOWN)[0]
    while not any("Are you there?" in one.content.text for one in stage.adapters[SMS].taken):
        await stage.pass_time(STEP_S)
        assert stage.clock.at - START - down < 2
    assert [one.kind for one in stage.adapters[SMS].taken] == ["notice", "message"]


@pytest.mark.timeout(240)
async def test_two_percent_failures_for_an_hour_take_nothing_down(stage):
    """One message every two seconds; what fails is simply said again."""
    talks = [await stage.customer(number) for number in range(10)]
    await stage.pass_time(1)
    stage.adapters[MAIL].mood, stage.adapters[MAIL].failing_share = EndpointUnavailable, 0.02
    turn = iter(range(10_000))

    async def one_message() -> None:
        await stage.say(talks[next(turn) % 10])

    await stage.pass_time(3600, one_message, step_s=2.0)
    assert stage.went(MAIL, Status.DOWN) == []
    assert stage.adapters[SMS].taken == []


@pytest.mark.parametrize("mood", [RecipientUnreachable, Throttled])
async def test_what_is_about_one_recipient_or_their_patience_takes_no_endpoint_down(stage, mood):
    """Bad addresses lead each of their customers elsewhere, throttling waits; the endpoint stays up."""
    talks = [await stage.customer(number) for number in range(12)]
    await stage.pass_time(1)
    stage.adapters[MAIL].mood = mood
    for talk in talks:
        await stage.say(talk)
    await stage.pass_time(20)
    assert stage.went(MAIL, Status.DOWN) == stage.went(MAIL, Status.SUSPECT) == []
    texts = [one for one in stage.adapters[SMS].taken if one.kind == "message"]
    assert len(texts) == (12 if mood is RecipientUnreachable else 0)
    stage.adapters[MAIL].mood = None
    await stage.pass_time(40)
    assert len(texts) + len(stage.adapters[MAIL].taken) - 12 == 12, "nothing is lost"


async def test_our_own_stall_takes_nothing_down(stage):
    """The loop stands still for a minute while answers are under way: nobody else is blamed."""
    talks = [await stage.customer(number) for number in range(5)]
    await stage.pass_time(5)
    for talk in talks:
        await stage.say(talk)
    stage.clock.at += 60
    await stage.monitor.step(stage.clock.at, lag_s=60)
    await stage.pass_time(20)
    assert stage.went(MAIL, Status.DOWN) == stage.went(SMS, Status.DOWN) == []
