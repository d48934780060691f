"""The loop that watches: evidence and probes in, statuses, transitions and incidents out."""

import asyncio
import random as random_
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import structlog

from health.board import BEGINNING, Board, LeaseLost
from health.doubt import LocalDoubt, Onsets, Standing, we_are_broken
from health.errands import Errands
from health.incident import IncidentEvent, append, find_incident, open_incident, take_in, withdraw
from health.records import Freeze, StatusRecord
from health.report import EndpointId, Evidence, Report, Status, Transition, Verdict
from health.thresholds import DetectorSettings
from health.watch import PROBE_TIMEOUT, EndpointWatch, MonitorTarget
from health.workers import WorkerWatch

STEP_S = 0.25
BATCH = 100
BATCHES_MAX = 20
"""Of evidence in one step; the rest waits for the next, so that probes and ticks are not starved."""
STALE_S = 60.0
"""Older evidence says nothing about now."""
REPORTS_EVERY_S = 1.0
SAVE_EVERY_S = 1.0
REFRESH_EVERY_S = 5.0
CONTROL_EVERY_S = 2.0
CONTROL_BOUND_S = 2.0
CONTROL_TTL_S = 30.0
LATE_S = 0.5
"""A step this late cannot tell others' silence from its own."""
PENDING_MAX = 10_000
CONTROL = EndpointId("control")
CURSOR = "cursor"

Probe = Callable[[EndpointId], Awaitable[None]]
Judge = Callable[[BaseException], tuple[Verdict | None, str]]
"""What an exception says of the endpoint: a verdict and a machine-readable reason; None: nothing (our own fault)."""

log = structlog.get_logger(__name__)


class Clock(Protocol):
    """Time as the monitor sees it."""

    def now(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


async def _ignore_silence(_worker: str, _role: str) -> None:
    """Nobody asked to be told."""


class Monitor:
    """Watches every endpoint and worker; runs inside the one supervisor process.

    `probe` returns only if a message would be taken now; `judge` says what its exception means. `on_transition` is
    called once the transition is durable, in order, again if it raised. `control` (optional) tries at least two
    hosts unrelated to any provider and raises only when none answers. `canary` (optional) sends a message to
    ourselves and returns once it was read back. `fence` gives the supervisor's current fence; None: unchecked.
    """

    def __init__(
        self,
        board: Board,
        endpoints: Mapping[EndpointId, MonitorTarget],
        *,
        probe: Probe,
        judge: Judge,
        clock: Clock,
        on_transition: Callable[[Transition], Awaitable[None]],
        on_worker_silent: Callable[[str, str], Awaitable[None]] = _ignore_silence,
        settings: DetectorSettings | None = None,
        canary: Probe | None = None,
        control: Callable[[], Awaitable[None]] | None = None,
        fence: Callable[[], int | None] = lambda: None,
        random: Callable[[], float] = random_.random,
    ) -> None:
        self._board = board
        self._targets = dict(endpoints)
        self._probe = probe
        self._judge = judge
        self._clock = clock
        self._on_transition = on_transition
        self._on_worker_silent = on_worker_silent
        self._settings = settings or DetectorSettings()
        self._canary = canary
        self._control = control
        self._fence = fence
        self._random = random
        self._watches: dict[EndpointId, EndpointWatch] = {}
        self._cursor = BEGINNING
        self._started = False
        self._probes, self._canaries, self._controls = Errands(), Errands(), Errands()
        self._doubt = LocalDoubt()
        self._onsets = Onsets()
        self._control_at = float("-inf")
        self._control_said: tuple[float, bool] | None = None
        self._workers = WorkerWatch(self._settings)
        self._reports: list[Report] = []
        self._reports_at = self._saved_at = self._refreshed_at = float("-inf")
        self._written: dict[tuple[str, str], StatusRecord] = {}
        self._dirty: set[EndpointId] = set()
        self._uncommitted: deque[Transition] = deque(maxlen=PENDING_MAX)
        self._untold: deque[Transition] = deque(maxlen=PENDING_MAX)
        self._frozen: Freeze | None = None
        self._stepped_at: float | None = None

    @property
    def frozen(self) -> Freeze | None:
        """Most providers seem to fail at once, so it is us: move nobody until this is None again."""
        return self._frozen

    @property
    def has_started(self) -> bool:
        """What the last supervisor knew is known here."""
        return self._started

    def proven_at(self, endpoint: EndpointId) -> float:
        """When the last canary was sent that came back while nothing was suspected, unix seconds; 0: none yet."""
        watch = self._watches.get(endpoint)
        return watch.proven_at if watch is not None else 0.0

    @property
    def doubt(self) -> int:
        """In ourselves, 0 to 8."""
        return self._doubt.level

    @property
    def silent_workers(self) -> list[str]:
        """Workers known to be silent."""
        return self._workers.silent

    async def run(self) -> None:
        """Step every quarter of a second until cancelled.

        Raises:
            LeaseLost: another supervisor has taken over; this one must stop.
        """
        failing_since: float | None = None
        lag_s = 0.0
        try:
            while True:
                began = self._clock.monotonic()
                try:
                    await self.step(self._clock.now(), lag_s)
                    if failing_since is not None:
                        log.info("monitor.recovered", took_s=round(began - failing_since, 1))
                        failing_since = None
                except LeaseLost:
                    raise
                except Exception:  # the loop's rim: a step that fails (Redis, a callback) is tried again
                    if failing_since is None:
                        failing_since = began
                        log.exception("monitor.step_failed")
                planned = max(began + STEP_S, self._clock.monotonic())
                await self._clock.sleep(planned - self._clock.monotonic())
                lag_s = self._clock.monotonic() - planned
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of running probes; nothing is written."""
        for errands in (self._probes, self._canaries, self._controls):
            await errands.close()

    async def start(self, now: float) -> None:
        """Go on where the last supervisor stopped; `step` does this by itself the first time."""
        saved = await self._board.detectors()
        self._cursor = str(saved.get(CURSOR, BEGINNING))
        for endpoint, target in self._targets.items():
            watch = EndpointWatch(endpoint, target, self._settings, now=now, random=self._random)
            if endpoint in saved:
                # A snapshot of an older shape is dropped with a word: the endpoint begins as unknown.
                try:
                    watch.restore(saved[endpoint])
                except (KeyError, TypeError, ValueError) as error:
                    log.warning("monitor.snapshot_dropped", endpoint=endpoint, error=repr(error))
                    watch = EndpointWatch(endpoint, target, self._settings, now=now, random=self._random)
            self._watches[endpoint] = watch
        directions = [(name, way) for name, watch in self._watches.items() for way in watch.detectors]
        await self._board.keep_only(directions, {*self._watches, CURSOR})
        for incident in await self._board.open_incidents():
            for gone in {entry.endpoint for entry in incident.affected} - self._watches.keys():
                await self._board.change_incident(incident.id, partial(withdraw, endpoint=gone, at=now))
        self._started = True

    async def step(self, now: float, lag_s: float = 0.0) -> list[Transition]:
        """Look once at everything and act on it; what changed. `lag_s`: how much later than planned this comes."""
        if not self._started:
            await self.start(now)
        gap_s = now - self._stepped_at if self._stepped_at is not None else 0.0
        late = lag_s > LATE_S or gap_s > 10 * STEP_S + LATE_S
        changed = await self._read(now, lag_s)
        changed += self._collect(now, lag_s)
        await self._read_reports(now)
        changed += await self._tick(now, late=late)
        self._send_out(now)
        self._uncommitted.extend(changed)
        self._dirty.update(transition.endpoint for transition in changed)
        await self._write(now)
        while self._untold:
            await self._tell(self._untold[0])
            self._untold.popleft()
        await self._watch_workers(now, late=late)
        # Only now: a step that failed (Redis was away, for the workers too) leaves a gap, and the next one is late.
        self._stepped_at = now
        return changed

    async def _read(self, now: float, lag_s: float) -> list[Transition]:
        changed: list[Transition] = []
        for _ in range(BATCHES_MAX):
            asked = self._clock.monotonic()
            entries = await self._board.read_evidence(self._cursor, BATCH)
            redis_s = self._clock.monotonic() - asked if len(entries) < BATCH else 0.0
            self._doubt.notice(now, lag_s=lag_s, redis_s=redis_s, control_failed=self._control_failed(now))
            for entry_id, pieces in entries:
                self._cursor = entry_id
                for evidence in pieces:
                    changed += self._observe(evidence, now)
            if len(entries) < BATCH:
                break
        return changed

    def _observe(self, evidence: Evidence, now: float) -> list[Transition]:
        watch = self._watches.get(evidence.endpoint)
        if watch is None or now - evidence.at > STALE_S:
            return []
        self._dirty.add(evidence.endpoint)
        # A worker whose clock runs ahead must not drag the detector's time along.
        return watch.observe(evidence if evidence.at <= now else replace(evidence, at=now))

    def _collect(self, now: float, lag_s: float) -> list[Transition]:
        """Take in what probes, canaries and the control probe have said, or failed to say in time."""
        changed: list[Transition] = []
        for endpoint, error in self._probes.ended():
            changed += self._watches[endpoint].probe_ended(now, *self._verdict(error))
            self._dirty.add(endpoint)
        for endpoint, error in self._canaries.ended():
            changed += self._watches[endpoint].canary_ended(now, *self._verdict(error))
            self._dirty.add(endpoint)
        for endpoint, watch in self._watches.items():
            overdue, transitions = watch.probe_overdue(now, max(0.0, lag_s))
            changed += transitions
            if overdue:
                self._probes.abandon(endpoint)
                changed += watch.probe_ended(now, Verdict.FAILURE, PROBE_TIMEOUT)
            if watch.canary_overdue(now):
                self._canaries.abandon(endpoint)
                changed += watch.canary_ended(now, Verdict.FAILURE, "canary_lost")
        for _, error in self._controls.ended():
            self._control_said = (now, error is not None)
        if self._controls.busy(CONTROL) and now - self._control_at >= CONTROL_BOUND_S:
            self._controls.abandon(CONTROL)
            self._control_said = (now, True)
        return changed

    def _verdict(self, error: BaseException | None) -> tuple[Verdict | None, str]:
        if error is None:
            return Verdict.OK, ""
        if isinstance(error, asyncio.CancelledError):
            return None, "cancelled"
        return self._judge(error)

    def _control_failed(self, now: float) -> bool | None:
        if self._control_said is None or now - self._control_said[0] > CONTROL_TTL_S:
            return None
        return self._control_said[1]

    async def _read_reports(self, now: float) -> None:
        if now - self._reports_at >= REPORTS_EVERY_S:
            self._reports_at = now
            self._reports = await self._board.reports(now)

    async def _tick(self, now: float, *, late: bool) -> list[Transition]:
        await self._judge_ourselves(now)
        doubt = float("inf") if self._frozen is not None else float(self._doubt.level)
        by_endpoint: dict[EndpointId, list[Report]] = {}
        for report in self._reports:
            by_endpoint.setdefault(report.endpoint, []).append(report)
        changed: list[Transition] = []
        for endpoint, watch in self._watches.items():
            if late:
                watch.look_away(now)
            changed += watch.tick(now, doubt, by_endpoint.get(endpoint, ()))
            watch.hurry(now)
        return changed

    async def _judge_ourselves(self, now: float) -> None:
        standings = [
            Standing(
                endpoint,
                watch.target.family,
                detector.status,
                self._onsets.since(endpoint, direction, detector.status, detector.since),
                misconfigured=detector.reason == "misconfigured",
            )
            for endpoint, watch in self._watches.items()
            for direction, detector in watch.detectors.items()
        ]
        words = we_are_broken(
            standings, now, self._settings, control_failed=self._control_failed(now), doubt=self._doubt.level
        )
        if words is not None and self._frozen is None:
            self._frozen = Freeze(now, words)
            log.warning("monitor.froze", reason=words)
            await self._board.write_freeze(self._frozen)
            await self._note(now, "frozen", f"Nothing is moved for now, as it seems to be us: {words}.")
        elif words is None and self._frozen is not None:
            self._frozen = None
            log.info("monitor.thawed")
            await self._board.write_freeze(None)
            await self._note(now, "thawed", "Our own senses are sound again; moving goes on.")

    async def _note(self, now: float, kind: str, words: str) -> None:
        for incident in await self._board.open_incidents():
            await self._board.append_to_incident(incident.id, IncidentEvent(now, kind, words))

    def _send_out(self, now: float) -> None:
        """Begin the probes and canaries that are due."""
        unsure = False
        for endpoint, watch in self._watches.items():
            unsure = unsure or any(detector.wants_probe_burst for detector in watch.detectors.values())
            if watch.probe_due(now) and not self._probes.busy(endpoint):
                watch.probe_began(now)
                self._probes.start(endpoint, self._probe(endpoint))
            if self._canary is not None and watch.canary_due(now) and not self._canaries.busy(endpoint):
                watch.canary_began(now)
                self._canaries.start(endpoint, self._canary(endpoint))
        unsure = unsure or self._control_failed(now) is True
        idle = now - self._control_at >= CONTROL_EVERY_S and not self._controls.busy(CONTROL)
        if self._control is not None and unsure and idle:
            self._control_at = now
            self._controls.start(CONTROL, self._control())

    def records(self, now: float) -> list[StatusRecord]:
        """Every conclusion as of now."""
        return [
            StatusRecord(
                endpoint,
                direction,
                detector.status,
                detector.since,
                detector.reason,
                detector.words,
                share=round(detector.share(now), 2),
                failback_suppressed_until=detector.failback_suppressed_until(now),
                probe_ok_at=detector.probe_ok_at,
                probe_failed_at=detector.probe_failed_at,
                receipts_degraded=detector.receipts_degraded,
                written_at=now,
            )
            for endpoint, watch in self._watches.items()
            for direction, detector in watch.detectors.items()
        ]

    async def _write(self, now: float) -> None:
        """Make what changed durable in one go: statuses, transitions, snapshots and the place in the stream."""
        refresh = now - self._refreshed_at >= REFRESH_EVERY_S
        save = bool(self._uncommitted) or now - self._saved_at >= SAVE_EVERY_S
        records = [record for record in self.records(now) if refresh or self._differs(record)]
        if not (records or save):
            return
        dirty = list(self._dirty) if save else []
        snapshots: dict[str, Any] = {endpoint: self._watches[endpoint].snapshot() for endpoint in dirty}
        if save:
            snapshots[CURSOR] = self._cursor
        transitions = list(self._uncommitted)
        await self._board.commit(statuses=records, transitions=transitions, snapshots=snapshots, fence=self._fence())
        self._uncommitted.clear()
        self._untold.extend(transitions)
        self._written.update({(record.endpoint, record.direction): record for record in records})
        if save:
            self._saved_at = now
            self._dirty.clear()
        if refresh:
            self._refreshed_at = now
            if self._frozen is not None:
                await self._board.write_freeze(self._frozen)

    def _differs(self, record: StatusRecord) -> bool:
        written = self._written.get((record.endpoint, record.direction))
        return written is None or written != replace(
            record,
            written_at=written.written_at,
            probe_ok_at=written.probe_ok_at,
            probe_failed_at=written.probe_failed_at,
        )

    async def _tell(self, transition: Transition) -> None:
        """Into its incident, then to whoever acts on it."""
        target = self._targets.get(transition.endpoint)
        family = target.family if target is not None else ""
        found = find_incident(await self._board.open_incidents(), transition, family)
        if found is not None:
            await self._board.change_incident(found.id, lambda incident: take_in(incident, transition, family))
        elif transition.after is Status.DOWN:
            opened = open_incident(await self._board.next_incident_id(), transition, family)
            if self._frozen is not None:
                opened = append(opened, IncidentEvent(transition.at, "frozen", self._frozen.words))
            await self._board.open_incident(opened)
        log.info(
            "endpoint.status_changed",
            endpoint=transition.endpoint,
            direction=transition.direction.value,
            before=transition.before.value,
            after=transition.after.value,
            reason=transition.reason,
        )
        await self._on_transition(transition)

    async def _watch_workers(self, now: float, *, late: bool) -> None:
        silent = self._workers.look(await self._board.beats(), now, late=late, doubt=self._doubt.level)
        for beat in silent:
            await self._on_worker_silent(beat.worker, beat.role)
            self._workers.told(beat.worker, now)
            log.warning("worker.fell_silent", worker=beat.worker, role=beat.role)
        for worker in self._workers.forgettable(now):
            await self._board.forget_worker(worker)
