"""The auditor: each corruption is found, live traffic is not."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from channels.messages import Content, File, Kind
from health.board import Board
from health.records import StatusRecord
from health.report import Direction, EndpointId, Status
from router.audit import auditor as audit_module
from router.audit.auditor import Finding, audit
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import LeaseTerms, NewConversation, NewLeg, NewMessage, Park, Rebind, Settlement
from router.store.codec import Leased, Notice
from router.store.connecting import connect
from router.store.control import Control
from router.store.files import Files
from router.store.redis import Pipelined
from router.store.store import Store

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")
CONSOLE = EndpointId("chat/console")
NOWHERE = EndpointId("")
PLACES = {MAIL: "email:ann@example.org", SMS: "sms:+15550100"}
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)
P = "tl:{s0}:"


@dataclass
class Bench:
    """A store on a virtual clock with one conversation, and the auditor."""

    store: Store
    files: Files
    clock: list[int]
    conversation: str = ""
    first: str = ""

    @property
    def side(self) -> str:
        return f"{P}s:{self.conversation}:c"

    async def redis(self, *command: object) -> object:
        return await self.store.redis.call(*command)

    async def accept(
        self,
        text: str,
        *,
        side: SideName = SideName.CUSTOMER,
        create: bool = False,
        key: str = "",
        expires_s: float = 0,
        message_class: MessageClass = MessageClass.NORMAL,
        files: tuple[File, ...] = (),
        conversation: str = "",
        endpoint: EndpointId = NOWHERE,
        pin: tuple[EndpointId, str] | None = None,
    ) -> str:
        now = await self.store.clock_ms()
        answer = await self.store.accept(
            conversation or self.conversation,
            NewMessage(
                new_id("m", 0, now),
                side,
                Kind.MESSAGE,
                "somebody",
                "Somebody",
                Content(text, files=files),
                message_class,
                now / 1000 + expires_s if expires_s else 0,
                endpoint,
            ),
            natural_key=key,
            pin=pin,
            reopen=True,
            create=NewConversation(
                "c0-ann",
                "4F2K9",
                "Order",
                "en",
                MessageClass.NORMAL,
                5,
                "",
                NewLeg("c0-ann", MAIL, PLACES[MAIL]),
                NewLeg("", CONSOLE, "chat:console@chat/console"),
            )
            if create
            else None,
        )
        assert answer.verdict in {"new", "duplicate"}, answer
        return answer.message_id

    async def lease(self, endpoint: EndpointId = MAIL, terms: LeaseTerms = TERMS) -> list[Leased]:
        return await self.store.lease(endpoint, "w1", 10, terms)

    async def settle(self, leased: Leased, outcome: str, **more: object) -> str:
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

    async def move(self, endpoint: EndpointId = SMS, *, conversation: str = "", notice: bool = False) -> str:
        identity = conversation or self.conversation
        side = await self.store.side(identity, SideName.CUSTOMER)
        assert side is not None
        now = await self.store.clock_ms()
        told = Notice(new_id("m", 0, now), "failover", side.leg.endpoint, now / 1000) if notice else None
        change = Rebind(identity, SideName.CUSTOMER, side.epoch, endpoint, PLACES[endpoint], "failover", told)
        return (await self.store.rebind(0, [change]))[0]

    async def audit(self, *, pace_per_s: float = 1e6) -> list[Finding]:
        store = self.store
        board = Board(store.redis.client)
        now = await store.clock_ms() / 1000
        return await audit(store, Control(store.redis), board, self.files, now=now, pace_per_s=pace_per_s)

    async def attempt(self, message_id: str, number: int, **changes: object) -> None:
        """Change an attempt's record behind the scripts' back."""
        key = f"{P}m:{message_id}"
        row = json.loads(str(await self.redis("HGET", key, f"a{number}"))) | changes
        await self.redis("HSET", key, f"a{number}", json.dumps(row))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look comes after a tenth of the time."""
    monkeypatch.setattr(audit_module, "SECOND_LOOK_S", 0.1)


@pytest.fixture
async def bench(redis_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    clock = [1_800_000_000_000]
    redis = Pipelined(connect(redis_url))
    bench = Bench(Store(redis, now_ms=lambda: clock[0]), Files(tmp_path), clock)
    bench.conversation = new_id("v", 0, clock[0])
    await bench.accept("Where is my order?", side=SideName.AGENT, create=True, key="email/support:1")
    bench.first = await bench.accept("On its way.")
    yield bench
    await redis.close()


async def _transcript_loses_a_message(bench: Bench) -> None:
    await bench.redis("DEL", f"{P}m:{bench.first}")


async def _transcript_loses_a_name(bench: Bench) -> None:
    await bench.redis("LREM", f"{P}g:{bench.conversation}", 1, bench.first)


async def _accept_vanishes(bench: Bench) -> None:
    for name in (f"v:{bench.conversation}", f"g:{bench.conversation}", f"m:{bench.first}"):
        await bench.redis("DEL", P + name)


async def _words_change(bench: Bench) -> None:
    await bench.redis("HSET", f"{P}m:{bench.first}", "b", '{"text":"It was never sent."}')


async def _queue_loses_a_message(bench: Bench) -> None:
    await bench.redis("DEL", f"{P}q:{bench.conversation}:c")


async def _queue_keeps_what_ended(bench: Bench) -> None:
    (leased,) = await bench.lease()
    await bench.settle(leased, "sent")
    await bench.redis("RPUSH", f"{P}q:{bench.conversation}:c", bench.first)


async def _queue_holds_it_twice(bench: Bench) -> None:
    await bench.redis("RPUSH", f"{P}q:{bench.conversation}:c", bench.first)


async def _sending_without_attempt(bench: Bench) -> None:
    await bench.redis("HSET", f"{P}m:{bench.first}", "st", "sending")


async def _notice_left_behind(bench: Bench) -> None:
    await bench.move(notice=True)
    (told,) = await bench.lease(SMS)
    await bench.settle(told, "unavailable")
    await bench.redis("HDEL", bench.side, "nd")


async def _no_due_set(bench: Bench) -> None:
    await bench.redis("HSET", bench.side, "dp", "")
    await bench.redis("DEL", f"{P}d:{MAIL}")


async def _due_entry_lost(bench: Bench) -> None:
    await bench.redis("DEL", f"{P}d:{MAIL}")


async def _due_elsewhere(bench: Bench) -> None:
    await bench.redis("ZADD", f"{P}d:{SMS}", bench.clock[0], f"{bench.conversation}:c")


async def _due_for_nobody(bench: Bench) -> None:
    await bench.redis("ZADD", f"{P}d:{SMS}", bench.clock[0], "v0-GONE:c")


async def _parked_without_reason(bench: Bench) -> None:
    await bench.store.rebind(0, [Park(bench.conversation, SideName.CUSTOMER, 1, 30, "none")])
    await bench.redis("HDEL", f"{P}m:{bench.first}", "pu")


async def _second_open_attempt(bench: Bench) -> None:
    (leased,) = await bench.lease()
    await bench.settle(leased, "sent")
    await bench.attempt(bench.first, 1, o="")


async def _fence_goes_back(bench: Bench) -> None:
    (leased,) = await bench.lease()
    await bench.settle(leased, "sent")
    await bench.redis("HSET", bench.side, "f", 0)


async def _fence_used_twice(bench: Bench) -> None:
    second = await bench.accept("It has arrived.")
    for _ in range(2):
        (leased,) = await bench.lease()
        await bench.settle(leased, "sent")
    await bench.attempt(second, 1, f=1)


async def _out_of_order(bench: Bench) -> None:
    second = await bench.accept("It has arrived.")
    for _ in range(2):
        (leased,) = await bench.lease()
        await bench.settle(leased, "sent")
    await bench.attempt(bench.first, 1, f=2)
    await bench.attempt(second, 1, f=1)


async def _lease_forgotten(bench: Bench) -> None:
    await bench.lease()
    bench.clock[0] += 60_000


async def _begun_after_expiry(bench: Bench) -> None:
    (leased,) = await bench.lease()
    await bench.settle(leased, "sent")
    await bench.redis("HSET", f"{P}m:{bench.first}", "xp", bench.clock[0] - 1)


async def _resent_unflagged(bench: Bench) -> None:
    await bench.lease()
    bench.clock[0] += 10_000
    await bench.lease()
    bench.clock[0] += 60_000
    (again,) = await bench.lease()
    await bench.settle(again, "sent")
    await bench.redis("HDEL", f"{P}m:{bench.first}", "fl")


async def _tried_without_end(bench: Bench) -> None:
    (leased,) = await bench.lease()
    await bench.settle(leased, "sent")
    row = json.loads(str(await bench.redis("HGET", f"{P}m:{bench.first}", "a1")))
    for number in range(2, 43):
        text = json.dumps(row | {"n": number, "f": number, "t": f"{row['t']}{number}"})
        await bench.redis("HSET", f"{P}m:{bench.first}", f"a{number}", text)
    await bench.redis("HSET", f"{P}m:{bench.first}", "ac", 42, "fl", 1)
    await bench.redis("HSET", bench.side, "f", 42)


async def _secret_hops(bench: Bench) -> None:
    secret = await bench.accept("123456", message_class=MessageClass.SECRET)
    for _ in range(2):
        (leased,) = await bench.lease()
        await bench.settle(leased, "sent")
    await bench.redis("HINCRBY", f"{P}m:{secret}", "ac", 1)
    await bench.redis("HSET", f"{P}m:{secret}", "fl", 1)
    row = json.loads(str(await bench.redis("HGET", f"{P}m:{secret}", "a1")))
    await bench.redis("HSET", f"{P}m:{secret}", "a2", json.dumps(row | {"n": 2, "f": 3, "t": "t", "ep": SMS}))
    await bench.redis("HSET", bench.side, "f", 3)


async def _said_after_stop(bench: Bench) -> None:
    (leased,) = await bench.lease()
    await bench.settle(leased, "sent")
    await bench.accept("STOP", side=SideName.AGENT, endpoint=MAIL)
    bench.clock[0] += 1000
    await bench.accept("One more thing.")
    (leased,) = await bench.lease()
    await bench.settle(leased, "sent")
    await bench.redis("SADD", f"{P}no:c0-ann", PLACES[MAIL])


async def _natural_key_lost(bench: Bench) -> None:
    await bench.redis("DEL", f"{P}nk:email/support:1")


async def _rebind_not_in_the_journal(bench: Bench) -> None:
    bench.clock[0] += 1000
    await bench.move()
    for identity, row in await bench.store.journal_last(0, 100):
        if row["k"] == "side.rebound":
            await bench.redis("XDEL", f"{P}jr", identity)


async def _context_changed(bench: Bench) -> None:
    await bench.move()
    key = f"{P}lg:{bench.conversation}:c"
    leg = json.loads(str(await bench.redis("LINDEX", key, 0)))
    await bench.redis("LSET", key, 0, json.dumps(leg | {"ca": "0" * 40}))


async def _leg_is_elsewhere(bench: Bench) -> None:
    await bench.move()
    await bench.redis("HSET", bench.side, "ad", "sms:+15550199")


async def _file_lost(bench: Bench) -> None:
    sha256 = await bench.files.write(b"a file")
    await bench.accept("Here it is.", files=(File(sha256, "a.txt", "text/plain", 6),))
    assert await bench.audit() == []
    (bench.files.folder / sha256[:2] / sha256).unlink()


async def _not_listed_at_its_endpoint(bench: Bench) -> None:
    await bench.redis("DEL", f"{P}at:{MAIL}")


async def _not_listed_open(bench: Bench) -> None:
    await bench.redis("DEL", f"{P}open")


async def _gate_unreadable(bench: Bench) -> None:
    await bench.redis("HSET", f"{P}gate", MAIL, "ajar")


async def _gate_missing(bench: Bench) -> None:
    await bench.redis("HSET", f"{P}gate", MAIL, f"open|{bench.clock[0] + 60_000}")
    status = StatusRecord(SMS, Direction.OUT, Status.UP, 0.0, "", "")
    await Board(bench.store.redis.client).commit(statuses=[status])


CORRUPTIONS: list[tuple[int, str, Callable[[Bench], Awaitable[None]]]] = [
    (1, "names a message that is gone", _transcript_loses_a_message),
    (1, "the transcript has 1", _transcript_loses_a_name),
    (1, "accepted and is gone", _accept_vanishes),
    (10, "rolling hash", _words_change),
    (2, "in no queue", _queue_loses_a_message),
    (2, "will be said again", _queue_keeps_what_ended),
    (2, "queued twice", _queue_holds_it_twice),
    (2, "no attempt is open", _sending_without_attempt),
    (2, "a notice waits", _notice_left_behind),
    (3, "in no due set", _no_due_set),
    (3, "says that it is due at email/support, and is not", _due_entry_lost),
    (3, "stands in the due set sms/acme", _due_elsewhere),
    (3, "stands in the due set sms/acme", _due_for_nobody),
    (15, "without a time or a reason", _parked_without_reason),
    (6, "its side knows nothing of", _second_open_attempt),
    (6, "a fence below", _fence_goes_back),
    (6, "the same fence", _fence_used_twice),
    (4, "begun before a message", _out_of_order),
    (3, "ran out long ago", _lease_forgotten),
    (12, "after it had expired", _begun_after_expiry),
    (5, "unflagged", _resent_unflagged),
    (13, "more often than ever allowed", _tried_without_end),
    (11, "more than one channel", _secret_hops),
    (11, "had refused", _said_after_stop),
    (9, "natural key", _natural_key_lost),
    (14, "the journal does not tell", _rebind_not_in_the_journal),
    (10, "its context changed", _context_changed),
    (10, "not where its last rebind put it", _leg_is_elsewhere),
    (1, "is not on disk", _file_lost),
    (0, "not listed at its endpoint", _not_listed_at_its_endpoint),
    (0, "not listed as open", _not_listed_open),
    (7, "cannot be read", _gate_unreadable),
    (7, "has no gate", _gate_missing),
]


@pytest.mark.parametrize(("invariant", "words", "corrupt"), CORRUPTIONS, ids=[one[2].__name__ for one in CORRUPTIONS])
async def test_each_corruption_is_found(
    bench: Bench, invariant: int, words: str, corrupt: Callable[[Bench], Awaitable[None]]
) -> None:
    """Planted behind the scripts' back; before it, the same store is clean."""
    assert await bench.audit() == []
    await corrupt(bench)
    found = [one for one in await bench.audit() if one.invariant == invariant and words in one.words]
    assert found, await bench.audit()
    assert all(one.repair and one.conversation_id in str(one) for one in found)
    assert not any("example.org" in str(one) or "+1555" in str(one) for one in found), "ids only, no addresses"


async def test_an_attempt_at_a_closed_gate_is_found(bench: Bench) -> None:
    """Closed before and after, never opened between: what began meanwhile passed it."""
    control = Control(bench.store.redis, now_ms=lambda: bench.clock[0])
    await control.set_gates({MAIL: False})

    async def pass_the_gate() -> None:
        await asyncio.sleep(0.05)
        bench.clock[0] += 10
        await bench.redis("HDEL", f"{P}gate", MAIL)
        await bench.lease()
        await control.set_gates({MAIL: False})
        bench.clock[0] += 10

    # Something to look at twice, so that the audit lasts as long as the second look is away.
    await bench.redis("ZADD", f"{P}d:{SMS}", 0, "v0-GONE:c")
    found, _ = await asyncio.gather(bench.audit(), pass_the_gate())
    assert [one.invariant for one in found] == [3, 7]
    assert "while its gate was closed" in found[1].words


async def test_an_attempt_at_a_place_that_refused_meanwhile_is_found(bench: Bench) -> None:
    """Consent was withdrawn before the first look, and something was begun before the second."""
    await bench.redis("SADD", f"{P}no:c0-ann", PLACES[MAIL])

    async def ignore_it() -> None:
        await asyncio.sleep(0.05)
        bench.clock[0] += 10
        await bench.redis("SREM", f"{P}no:c0-ann", PLACES[MAIL])
        await bench.lease()
        await bench.redis("SADD", f"{P}no:c0-ann", PLACES[MAIL])

    found, _ = await asyncio.gather(bench.audit(), ignore_it())
    assert [one.invariant for one in found] == [11]


async def test_what_holds_only_at_the_first_look_is_no_finding(bench: Bench) -> None:
    """A fault that is put right within the second is what a race looks like."""
    await bench.redis("DEL", f"{P}at:{MAIL}")

    async def put_right() -> None:
        await asyncio.sleep(0.05)
        await bench.redis("ZADD", f"{P}at:{MAIL}", 0, f"{bench.conversation}:c")

    found, _ = await asyncio.gather(bench.audit(), put_right())
    assert found == []


async def test_a_long_transcript_is_read_in_pages(bench: Bench) -> None:
    """Its rolling hash and its order hold over the whole of it, and so does a fault near its end."""
    for number in range(430):
        await bench.accept(f"message {number}")
    assert await bench.audit() == []
    last = (await bench.store.transcript_ids(bench.conversation, -1, -1))[0]
    await bench.redis("HSET", f"{P}m:{last}", "b", '{"text":"other words"}')
    assert [one.invariant for one in await bench.audit()] == [10]


async def test_the_audit_keeps_its_pace(bench: Bench) -> None:
    """40 conversations at 100 a second take a good part of a second, however fast Redis is."""
    for _ in range(40):
        await bench.accept("hello", conversation=new_id("v", 0, bench.clock[0]), create=True)
    began = time.monotonic()
    assert await bench.audit(pace_per_s=100) == []
    assert time.monotonic() - began > 0.4


class Traffic:
    """Everything the router does to a store, at once, on the real clock, with outages and lost workers."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.store = bench, bench.store
        self.random = random.Random(seed)
        self.conversations: list[str] = []
        self.settled = 0
        self.terms = LeaseTerms(lease_s=0.15, hold_s={"normal": 0.1}, idempotent=False, attempts_max=3)

    async def begin(self, count: int) -> None:
        for number in range(count):
            identity = new_id("v", 0, int(time.time() * 1000))
            await self.bench.accept("hello", side=SideName.AGENT, create=True, conversation=identity, key=f"k{number}")
            self.conversations.append(identity)

    async def talk(self) -> None:
        while True:
            identity = self.random.choice(self.conversations)
            if self.random.random() < 0.4:
                where = self.random.choice([MAIL, SMS])
                pin = (where, PLACES[where]) if self.random.random() < 0.3 else None
                await self.bench.accept("and?", side=SideName.AGENT, conversation=identity, pin=pin, endpoint=where)
            else:
                await self.bench.accept("soon", conversation=identity, expires_s=self.random.choice([0.2, 30]))
            await asyncio.sleep(0.002)

    async def work(self, endpoint: EndpointId, worker: str) -> None:
        while True:
            leased = await self.store.lease(endpoint, worker, 8, self.terms)
            for one in leased:
                outcome = self.random.choice(
                    ["sent"] * 6 + ["unknown", "unavailable", "rejected", "throttled", "returned", "lost", "late"]
                )
                if outcome == "lost":
                    continue
                if outcome == "late":
                    await asyncio.sleep(0.2)
                    outcome = "sent"
                await self.bench.settle(
                    one,
                    outcome,
                    retry_after_s=0.1 if outcome == "throttled" else 0,
                    receipt_within_s=5 if outcome == "sent" else 0,
                    said=Content("You are here now.") if one.notice else None,
                )
                self.settled += 1
                if outcome in {"sent", "unknown"} and self.random.random() < 0.5:
                    state = self.random.choice(["delivered", "read", "undelivered"])
                    await self.store.receipt(one.token, state)
            await asyncio.sleep(0.003)

    async def plan(self) -> None:
        while True:
            changes: list[Rebind | Park] = []
            for facts in await self.store.plan(0, 50):
                if facts.side is SideName.AGENT or self.random.random() < 0.3:
                    changes.append(Park(facts.conversation_id, facts.side, facts.epoch, 0.05, "no_way"))
                    continue
                where = self.random.choice([MAIL, SMS])
                changes.append(Rebind(facts.conversation_id, facts.side, facts.epoch, where, PLACES[where], "rejected"))
            await self.store.rebind(0, changes)
            await asyncio.sleep(0.003)

    async def move(self) -> None:
        while True:
            identity = self.random.choice(self.conversations)
            await self.bench.move(self.random.choice([MAIL, SMS]), conversation=identity, notice=True)
            if self.random.random() < 0.2:
                await self.store.close(identity)
            if self.random.random() < 0.05:
                await self.store.recall(0, SMS, time.time() - 1)
            await asyncio.sleep(0.004)


async def test_a_busy_store_has_no_finding(redis_url: str, tmp_path: Path) -> None:
    """Accepts, leases, lost workers, receipts, rebinds, notices, recalls and closings meanwhile: all of it is sound."""
    redis = Pipelined(connect(redis_url))
    bench = Bench(Store(redis), Files(tmp_path), [0])
    traffic = Traffic(bench, seed=4)
    await traffic.begin(30)
    tasks = [
        asyncio.create_task(one)
        for one in (
            traffic.talk(),
            traffic.work(MAIL, "w1"),
            traffic.work(MAIL, "w2"),
            traffic.work(SMS, "w3"),
            traffic.work(CONSOLE, "w4"),
            traffic.plan(),
            traffic.move(),
        )
    ]
    try:
        for _ in range(3):
            await asyncio.sleep(0.3)
            assert await bench.audit() == []
            assert not [one.exception() for one in tasks if one.done()]
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert traffic.settled > 100
    assert await bench.audit() == []
    await redis.close()
