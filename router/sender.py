"""Says leased messages at one endpoint: resident workers, one attempt each, settled in batches."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog
from redis.exceptions import RedisError

from channels.contract import Adapter
from channels.messages import OutboundMessage, Receipt, ReceiptState
from health.report import EndpointId, Status, Verdict
from router.core import Core
from router.domain.ids import shard_of
from router.evidence import Judgement, judge
from router.evidence_desk import EvidenceDesk
from router.provisional import Provisional
from router.rendering import render
from router.settling import Settling
from router.store.asked import LeaseTerms, Settlement
from router.store.codec import Leased
from router.store.redis import StoreUnavailable
from router.store.store import BATCH_MAX
from router.telemetry import ATTEMPT_SECONDS, ATTEMPTS
from router.trouble import Trouble

SLACK_S = 2.0
"""A lease lasts gate + io + this."""
RECEIPT_INDEXED_S = 3 * 24 * 3600.0
"""How long a sent message stands among those awaiting a receipt."""
RECALLABLE_S = 3600.0
"""The same where no receipts come, so that what is lost can be said again once a canary tells of it."""
RENDER_PAUSE_S = 15.0
"""After a fault of ours in wording a message, before it is tried again; the attempts kept bound it."""
POLL_S = 0.5
"""Between two looks at the due set when no bell rings."""
DOUBT_PAUSE_S = 5.0
"""Before a message is tried again at an endpoint that is suspect."""
ENDING_S = 10.0
"""From being told to stop: longer than a send of the fast channels takes. What takes longer is in doubt when its lease
has run out."""
AHEAD_BELOW_S = 0.1
"""Where a send takes less, messages are leased before there is room for them: else all wait while leases are synced."""
TOOK_WEIGHT = 0.1
"""Of the last send in the mean by which that is told."""
SETTLE_TRIES = 40
"""With a growing pause, some 60 s: past the lease, when the attempt has become `unknown` by itself."""

log = structlog.get_logger()


@dataclass(slots=True)
class Tally:
    """What one process did at an endpoint; told with its beat."""

    begun: int = 0
    sent: int = 0
    throttled: int = 0


@dataclass(slots=True)
class _Said:
    """What a send came to."""

    judgement: Judgement | None
    receipt: Receipt | None
    message: OutboundMessage | None = None
    error: str = ""
    took_s: float = 0.0


@dataclass(slots=True)
class Sender:
    """One endpoint's feeder and workers in this process."""

    core: Core
    endpoint: EndpointId
    adapter: Adapter
    desk: EvidenceDesk
    worker: str
    in_flight: int
    tally: Tally = field(default_factory=Tally)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    _tokens: float = 1.0
    _refilled: float = 0.0
    _idle: int = 0
    _unsent: int = 0
    """Leased, and not said yet."""
    _more: bool = False
    _stopping: bool = False
    _took_s: float = AHEAD_BELOW_S
    """About how long a send takes."""
    _work: asyncio.Queue[tuple[Leased, float]] = field(default_factory=asyncio.Queue)
    _room: asyncio.Semaphore = field(init=False)
    """For what is being sent."""
    _asked: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Leases whose answer has not come, by shard: under which name they were asked for, and when."""
    _settling: Settling = field(init=False)
    _log: structlog.typing.FilteringBoundLogger = field(init=False)
    _leasing: Trouble = field(init=False)

    def __post_init__(self) -> None:
        """What ends in one process is settled together; its lines share a logger, which costs half of a new one."""
        self._settling = Settling(self.core.store)
        self._room = asyncio.Semaphore(self.in_flight)
        self._log = log.bind(endpoint=self.endpoint)
        self._leasing = Trouble("lease", self._log)

    @property
    def terms(self) -> LeaseTerms:
        """How this endpoint's attempts are leased."""
        capabilities = self.adapter.capabilities
        hold = capabilities.hold_s
        limits = self.core.settings.messages
        return LeaseTerms(
            lease_s=self.core.settings.dispatch.gate_s + capabilities.io_s + SLACK_S,
            hold_s={"urgent": min(hold, 15.0), "secret": min(hold, 15.0), "normal": hold, "bulk": hold * 2},
            idempotent=capabilities.idempotent,
            attempts_max=limits.attempts_max,
            needs_human_s=limits.needs_human_s,
        )

    async def run(self) -> None:
        """Feed and work until cancelled; what has begun is said and settled first, for up to `ENDING_S`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._crew):
                group.create_task(self._worker())
            feeder = group.create_task(self._feed())
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await self._finish(feeder)
                raise

    async def _finish(self, feeder: "asyncio.Task[None]") -> None:
        """Lease nothing more; wait until every worker is idle. A lease is not broken off: it may have been granted."""
        self._stopping = True
        self.bell.set()
        try:
            async with asyncio.timeout(ENDING_S):
                await asyncio.wait({feeder})
                while self._idle < self._crew:
                    self.bell.clear()
                    await self.bell.wait()
        except TimeoutError:
            log.warning("sender.cut_off", endpoint=self.endpoint, under_way=self._crew - self._idle)

    async def _feed(self) -> None:
        while not self._stopping:
            # Cleared before looking: what rings while we look is looked at next.
            self.bell.clear()
            taken = 0
            self._more = False
            try:
                for shard in range(self.core.store.shards):
                    taken += await self._lease(shard)
            except StoreUnavailable as error:
                self._leasing.failed(error)
                await self.core.clock.sleep(1.0)
                continue
            except Exception:  # the loop's rim: a record that the script stumbles over must not stop other endpoints
                log.exception("lease.broke", endpoint=self.endpoint)
                await self.core.clock.sleep(1.0)
                continue
            self._leasing.worked()
            if taken and self._more and self._idle and self._room_to_lease > 0:
                continue
            try:
                async with asyncio.timeout(POLL_S):
                    await self.bell.wait()
            except TimeoutError:
                continue

    @property
    def _crew(self) -> int:
        """As many workers: while a third sends, another has what is next, and the outcomes of the last are synced."""
        return 3 * self.in_flight

    @property
    def _is_quick(self) -> bool:
        """What is leased ahead is sent soon: else it would be given back, as too late."""
        return self._took_s < AHEAD_BELOW_S

    @property
    def _room_to_lease(self) -> int:
        """How many more may be leased: what is being sent, and where that is quick as many that are next.

        These are leased in large parts: each call costs as much as two messages.
        """
        if not self._is_quick:
            return self.in_flight - self._unsent
        room = 2 * self.in_flight - self._unsent
        return room if room > self.in_flight // 2 else 0

    async def _lease(self, shard: int) -> int:
        """Take what may begin now. `_more` says that there may be more: then every worker that is free again rings.

        Where an answer was lost, the same is asked for again: what was leased then has an open attempt, and would wait
        for its end. It has been held for too long to be said now, so that it is given back, and leased anew.
        """
        count = min(self._idle, self._room_to_lease, self._allowance())
        if count < 1:
            self._more = True
            return 0
        is_again = shard in self._asked
        request, begun = self._asked.setdefault(shard, (secrets.token_hex(8), self.core.clock.monotonic()))
        leased = await self.core.store.lease(
            self.endpoint, self.worker, count, self.terms, shard=shard, request=request
        )
        del self._asked[shard]
        self._more |= len(leased) >= min(count, BATCH_MAX)
        self._tokens -= len(leased)
        for one in leased:
            self._idle -= 1
            self._unsent += 1
            self._work.put_nowait((one, begun))
        # Asked for again, it tells of nothing else that is due.
        return len(leased) + (await self._lease(shard) if is_again else 0)

    def _allowance(self) -> int:
        """How many the endpoint's own rate lets begin now; a burst is at most half a second's worth."""
        rate = self.adapter.capabilities.rate_per_s
        now = self.core.clock.monotonic()
        self._tokens = min(max(1.0, rate / 2), self._tokens + rate * max(0.0, now - self._refilled))
        self._refilled = now
        return int(self._tokens)

    async def _worker(self) -> None:
        self._idle += 1
        self.bell.set()
        while True:
            leased, begun = await self._work.get()
            try:
                await self._work_on(leased, begun)
            except Exception:  # the loop's rim: one broken message must not stop the others
                log.exception("attempt.broke", message=leased.message_id, endpoint=self.endpoint)
            finally:
                self._idle += 1
                self._ring()

    def _ring(self) -> None:
        """Something may begin again: look for it, if there was more than could begin. Or this was the last to end."""
        if self._stopping or (self._more and self._room_to_lease > 0):
            self.bell.set()

    async def _work_on(self, leased: Leased, begun: float) -> None:
        try:
            said = await self._say_in_turn(leased, begun)
        finally:
            self._unsent -= 1
            self._ring()
        await self._settle(leased, said)
        outcome = said.judgement.outcome if said.judgement else "sent"
        ATTEMPTS.labels(self.endpoint, outcome, leased.message_class).inc()
        if said.took_s:
            ATTEMPT_SECONDS.labels(self.endpoint).observe(said.took_s)
        self._log.info(
            "attempt.ended",
            conversation=leased.conversation_id,
            message=leased.message_id,
            epoch=leased.epoch,
            attempt=leased.number,
            outcome=outcome,
            reason=said.judgement.reason if said.judgement else "",
            took_ms=round(said.took_s * 1000, 1),
        )

    async def _say_in_turn(self, leased: Leased, begun: float) -> _Said:
        """Say it once there is room; where sends suddenly take long, give it back instead."""
        if self._room.locked():
            left_s = begun + self.core.settings.dispatch.gate_s - self.core.clock.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    await self._room.acquire()
            except TimeoutError:
                # Nothing is leased ahead until sends end quickly again.
                self._took_s = self.core.settings.dispatch.gate_s
                return _Said(Judgement("returned", None, "late"), None)
        else:
            await self._room.acquire()
        try:
            said = await self._say(leased, begun)
        finally:
            self._room.release()
        if said.took_s:  # what was not sent tells nothing of it
            self._took_s += TOOK_WEIGHT * (said.took_s - self._took_s)
        return said

    async def _say(self, leased: Leased, begun: float) -> _Said:
        clock = self.core.clock
        try:
            message = await render(self.core, leased)
        except StoreUnavailable as error:  # nothing was begun: it goes back as soon as Redis answers
            return _Said(Judgement("returned", None, "store_unavailable"), None, error=str(error))
        except Exception as error:  # a text of ours that breaks must not hold its side until the lease runs out
            log.exception("render.broke", message=leased.message_id, endpoint=self.endpoint)
            return _Said(Judgement("throttled", None, "render_fault", RENDER_PAUSE_S), None, error=str(error))
        started = clock.monotonic()
        if started - begun > self.core.settings.dispatch.gate_s:
            return _Said(Judgement("returned", None, "late"), None)
        self.tally.begun += 1
        provisional = Provisional(self.desk, clock, self.endpoint, self.worker, leased.token)
        try:
            async with asyncio.timeout(self.adapter.capabilities.io_s):
                receipt = await self.adapter.send(message)
        except Exception as error:  # whatever an adapter raises is judged; what is not in the tree is logged
            judgement = judge(error)
            if judgement.reason == "adapter_fault":
                log.exception("adapter.broke", endpoint=self.endpoint, message=leased.message_id)
            provisional.end(judgement.verdict, judgement.reason, None)
            if judgement.outcome == "throttled" and judgement.verdict is Verdict.PRESSURE:
                self.tally.throttled += 1
                self._tokens = min(self._tokens, 0.0)
            return _Said(judgement, None, message, str(error), clock.monotonic() - started)
        took = clock.monotonic() - started
        provisional.end(Verdict.OK, "", took)
        self.tally.sent += 1
        return _Said(None, receipt, message, "", took)

    async def _settle(self, leased: Leased, said: _Said) -> None:
        if said.judgement is not None and said.judgement.outcome == "unavailable" and await self._in_doubt():
            # Another attempt would only wait for the same silence: let the detector decide first.
            said.judgement = replace(said.judgement, retry_after_s=DOUBT_PAUSE_S)
        settlement = self._settlement(leased, said)
        if settlement.vendor_ids and not self.adapter.capabilities.echoes_token:
            await self._insist(lambda: self._claim(leased, settlement.vendor_ids), leased, "claim")
        shard = shard_of(leased.message_id)
        await self._insist(lambda: self._settling.settle(shard, settlement), leased, "settle")

    async def _in_doubt(self) -> bool:
        try:
            views = await self.core.views()
        except RedisError:
            return False
        return any(view.id == self.endpoint and view.status_out in {Status.SUSPECT, Status.DOWN} for view in views)

    def _settlement(self, leased: Leased, said: _Said) -> Settlement:
        capabilities = self.adapter.capabilities
        outcome, reason, retry_after_s = "sent", "", 0.0
        vendor_ids: tuple[str, ...] = ()
        occupied_s = receipt_within_s = 0.0
        if said.judgement is not None:
            outcome, reason = said.judgement.outcome, said.judgement.reason
            retry_after_s = said.judgement.retry_after_s
        elif said.receipt is not None:
            vendor_ids = said.receipt.vendor_ids
            occupied_s = said.receipt.occupied_s
            if said.receipt.state is ReceiptState.DELIVERED:
                outcome = "delivered"
            elif capabilities.receipts:
                receipt_within_s = capabilities.receipt_due_s or RECEIPT_INDEXED_S
            elif self.endpoint in self.core.canaries:
                receipt_within_s = RECALLABLE_S
        return Settlement(
            conversation_id=leased.conversation_id,
            side=leased.side,
            message_id=leased.message_id,
            number=leased.number,
            fence=leased.fence,
            outcome=outcome,
            reason=reason,
            vendor_ids=vendor_ids,
            retry_after_s=retry_after_s,
            occupied_s=occupied_s,
            receipt_within_s=receipt_within_s,
            said=said.message.content if leased.notice is not None and said.message is not None else None,
        )

    async def _claim(self, leased: Leased, vendor_ids: tuple[str, ...]) -> None:
        """Say which attempt the vendor's ids mean: whatever is said of them later is found by it.

        A receipt that came before its attempt was known waits there until the attempt has it.
        """
        waiting = await self.core.control.claim_vendor_id(self.endpoint, vendor_ids, leased.token)
        for one in waiting:
            await self.core.store.receipt(
                leased.token, one.state, reason=one.reason, permanent=one.permanent, final=one.final
            )
        if waiting:
            await self.core.control.drop_early(self.endpoint, vendor_ids)

    async def _insist(self, ask: Callable[[], Awaitable[object]], leased: Leased, what: str) -> None:
        """Ask again and again while Redis is away: every step here may be taken twice, the fence sees to it."""
        pause = 0.1
        for _ in range(SETTLE_TRIES):
            try:
                await ask()
                return
            except StoreUnavailable:
                await self.core.clock.sleep(pause)
                pause = min(2.0, pause * 1.5)
        log.error("settlement.given_up", step=what, message=leased.message_id, endpoint=self.endpoint)
