"""A virtual clock, a board on a real Redis, a vendor that fails on cue, and a stage for one endpoint under watch."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio

from health.board import Board
from health.monitor import Monitor
from health.report import Direction, EndpointId, Evidence, Status, Transition, Verdict, Witness
from health.thresholds import DetectorSettings
from health.watch import EndpointWatch, MonitorTarget

ENDPOINT = EndpointId("sms/acme")
START = 1_790_000_000.0
STEP_S = 0.25


class VirtualClock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds
        await asyncio.sleep(0)


class Stage:
    """Poisson traffic and probes over one endpoint, healthy (2 % failures) until `outage_at`, then failing in a way."""

    def __init__(self, kind: str, seed: int, *, rate: float = 1.0, probes: str = "same", quiet_s: float = 60.0) -> None:
        self.random = random.Random(seed)
        self.kind, self.rate, self.probes, self.outage_at = kind, rate, probes, START + quiet_s
        self.watch = EndpointWatch(
            ENDPOINT, MonitorTarget("acme"), DetectorSettings(), now=START, random=self.random.random
        )
        self.transitions: list[Transition] = []
        self._evidence: list[tuple[float, int, Evidence]] = []
        self._probe_ends: float | None = None
        self._probe_verdict = Verdict.OK

    def play(self, duration_s: float, *, until: Status | None = None) -> float | None:
        """Run; the seconds from the outage until that status was reached, if it was."""
        self._write_evidence(duration_s)
        now, index = START, 0
        while now < self.outage_at + duration_s:
            now += STEP_S
            found: list[Transition] = []
            while index < len(self._evidence) and self._evidence[index][0] <= now:
                found += self.watch.observe(self._evidence[index][2])
                index += 1
            found += self._probe(now)
            found += self.watch.tick(now, 0)
            self.transitions += found
            if until is not None and any(transition.after is until for transition in found):
                return now - self.outage_at
        return None

    def _write_evidence(self, duration_s: float) -> None:
        at, number = START, 0
        while at < self.outage_at + duration_s:
            at += self.random.expovariate(self.rate)
            number += 1
            failing = self.random.random() < (0.02 if at < self.outage_at else self._share)
            if not failing:
                self._say(at + 0.1, number, Verdict.OK, "")
            elif self.kind == "hang" and at >= self.outage_at:
                self._say(at + 2, number, Verdict.PROVISIONAL, "no_answer")
                self._say(at + 5, number, Verdict.FAILURE, "read_timeout")
            else:
                self._say(at + 0.01, number, Verdict.FAILURE, "connect_refused")
        self._evidence.sort(key=lambda entry: entry[:2])

    @property
    def _share(self) -> float:
        return {"refused": 1.0, "hang": 1.0, "half": 0.5, "healthy": 0.02}[self.kind]

    def _say(self, at: float, number: int, verdict: Verdict, reason: str) -> None:
        said = Evidence(ENDPOINT, Direction.OUT, verdict, Witness.OUTCOME, at, f"t{number}", reason)
        self._evidence.append((at, number, said))

    def _probe(self, now: float) -> list[Transition]:
        found: list[Transition] = []
        if self._probe_ends is not None:
            overdue, found = self.watch.probe_overdue(now)
            if overdue or now >= self._probe_ends:
                verdict = Verdict.FAILURE if overdue else self._probe_verdict
                found += self.watch.probe_ended(now, verdict, "" if verdict is Verdict.OK else "connect_refused")
                self._probe_ends = None
        self.watch.hurry(now)
        if self._probe_ends is None and self.watch.probe_due(now):
            self.watch.probe_began(now)
            failing = self.random.random() < (0.02 if now < self.outage_at or self.probes == "ok" else self._share)
            hanging = failing and self.kind == "hang"
            self._probe_ends = now + (3600 if hanging else 0.05)
            self._probe_verdict = Verdict.FAILURE if failing else Verdict.OK
        return found


class Vendor:
    """Endpoints as a probe meets them: each `up`, `refused`, `hang` or `unauthorised`."""

    def __init__(self) -> None:
        self.state: dict[EndpointId, str] = {}
        self.probes: list[EndpointId] = []
        self.under_way: dict[EndpointId, int] = {}
        self.most_at_once = 0

    async def probe(self, endpoint: EndpointId) -> None:
        self.probes.append(endpoint)
        self.under_way[endpoint] = self.under_way.get(endpoint, 0) + 1
        self.most_at_once = max(self.most_at_once, self.under_way[endpoint])
        try:
            match self.state.get(endpoint, "up"):
                case "refused":
                    raise ConnectionRefusedError
                case "unauthorised":
                    raise PermissionError
                case "hang":
                    await asyncio.Event().wait()
        finally:
            self.under_way[endpoint] -= 1


def judge(error: BaseException) -> tuple[Verdict | None, str]:
    if isinstance(error, PermissionError):
        return Verdict.MISCONFIGURED, "auth_rejected"
    return Verdict.FAILURE, "connect_refused"


class Scene:
    """A monitor on a virtual clock, a real board, and one message a second over each endpoint that has traffic."""

    def __init__(self, board: Board, clock: VirtualClock, **targets: Any) -> None:
        self.board, self.clock, self.vendor = board, clock, Vendor()
        self.transitions: list[Transition] = []
        self.silent: list[tuple[str, str]] = []
        self.options: dict[str, Any] = {}
        self.targets = {EndpointId(f"sms/{name}"): target for name, target in targets.items()}
        self.traffic = set(self.targets)
        self.number = 0
        self._late: list[tuple[float, Evidence]] = []

    def monitor(self, **options: Any) -> Monitor:
        async def on_transition(transition: Transition) -> None:
            self.transitions.append(transition)

        async def on_silent(worker: str, role: str) -> None:
            self.silent.append((worker, role))

        settings: dict[str, Any] = {
            "probe": self.vendor.probe,
            "judge": judge,
            "clock": self.clock,
            "on_transition": on_transition,
            "on_worker_silent": on_silent,
            "random": random.Random(7).random,
        }
        return Monitor(self.board, self.targets, **(settings | options))

    async def play(self, monitor: Monitor, seconds: float, each: Callable[[float], Any] | None = None) -> None:
        """Let virtual time pass in steps of a quarter of a second."""
        for step in range(round(seconds / STEP_S)):
            self.clock.at += STEP_S
            if step % round(1 / STEP_S) == 0:
                self._send()
            due = [evidence for at, evidence in self._late if at <= self.clock.at]
            self._late = [entry for entry in self._late if entry[0] > self.clock.at]
            await self.board.record(due)
            if each is not None and (answer := each(self.clock.at)) is not None:
                await answer
            await monitor.step(self.clock.at)

    def _send(self) -> None:
        for endpoint in sorted(self.traffic):
            self.number += 1
            now, token = self.clock.at, f"t{self.number}"

            def say(delay_s: float, verdict: Verdict, endpoint: EndpointId = endpoint, token: str = token) -> None:
                at = self.clock.at + delay_s
                reason = "" if verdict is Verdict.OK else "connect_refused"
                said = Evidence(endpoint, Direction.OUT, verdict, Witness.OUTCOME, at, token, reason)
                self._late.append((at, said))

            match self.vendor.state.get(endpoint, "up"):
                case "up":
                    say(0, Verdict.OK)
                case "hang":
                    say(2, Verdict.PROVISIONAL)
                    say(5, Verdict.FAILURE)
                case _:
                    say(0, Verdict.FAILURE)
            assert now == self.clock.at

    def became(self, name: str, status: Status) -> list[float]:
        """When an endpoint took a status."""
        endpoint = EndpointId(f"sms/{name}")
        return [found.at for found in self.transitions if found.endpoint == endpoint and found.after is status]


@pytest.fixture
def clock() -> VirtualClock:
    """A virtual clock."""
    return VirtualClock()


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """An empty real Redis."""
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
async def board(redis_client: redis.asyncio.Redis) -> AsyncIterator[Board]:
    """An empty board."""
    board = Board(redis_client)
    yield board
    await board.settle()


@pytest.fixture
def stage() -> type[Stage]:
    """Builds a stage of a kind of outage and a seed."""
    return Stage


@pytest.fixture
def scene(board: Board, clock: VirtualClock) -> Callable[..., Scene]:
    """Builds a scene of named endpoints."""

    def build(**targets: MonitorTarget) -> Scene:
        return Scene(board, clock, **targets)

    return build
