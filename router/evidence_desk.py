"""Carries evidence and reports to the board in batches; what the board cannot take now is tried again, bounded."""

import asyncio

import structlog
from redis.exceptions import RedisError

from channels.tools import Clock
from health.board import Board, BoardFull
from health.report import Evidence, Report
from router.trouble import Trouble

WAITING_MAX = 10_000
"""Evidence that may wait while Redis is away; older evidence is dropped first: it would be stale anyway."""
PAUSE_S = 0.05
AWAY_PAUSE_S = 0.5
"""The same while Redis is away."""

log = structlog.get_logger()


class EvidenceDesk:
    """Takes evidence without blocking; `run` carries it to the board."""

    def __init__(self, board: Board, clock: Clock) -> None:
        self._board = board
        self._clock = clock
        self._evidence: list[Evidence] = []
        self._reports: list[Report] = []
        self._wake = asyncio.Event()
        self._carrying = Trouble("evidence", log)

    def say(self, evidence: Evidence) -> None:
        """Record evidence soon."""
        self._evidence.append(evidence)
        self._wake.set()

    def report(self, report: Report) -> None:
        """Push an adapter's own claim soon."""
        self._reports.append(report)
        self._wake.set()

    async def run(self) -> None:
        """Carry until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            await self._clock.sleep(AWAY_PAUSE_S if self._carrying.failures else PAUSE_S)

    async def flush(self) -> None:
        """Carry what is there now; what Redis does not take stays for the next time."""
        evidence, self._evidence = self._evidence, []
        reports, self._reports = self._reports, []
        try:
            if evidence:
                await self._board.record(evidence)
                evidence = []
            while reports:
                await self._push(reports[0])
                reports.pop(0)
        except (RedisError, OSError, TimeoutError) as error:
            self._carrying.failed(error)
            self._evidence = (evidence + self._evidence)[-WAITING_MAX:]
            self._reports = (reports + self._reports)[-WAITING_MAX:]
            self._wake.set()
        else:
            self._carrying.worked()

    async def _push(self, report: Report) -> None:
        try:
            await self._board.push_report(report)
        except BoardFull as error:  # whoever invents names must not end the process that sends
            log.warning("report.dropped", endpoint=report.endpoint, error=str(error))
