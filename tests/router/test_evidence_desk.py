"""What is said while Redis is away: kept, bounded, and told of once."""

import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from health.board import BEGINNING, Board
from health.report import Direction, EndpointId, Evidence, Verdict, Witness
from router.evidence_desk import EvidenceDesk
from router.store.connecting import connect
from tests.clocks import until


class Quick:
    """Nobody waits; how long they would have is kept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def test_an_outage_of_redis_is_told_once_and_what_was_said_arrives(redis_url: str, tmp_path: Path) -> None:
    """Not twenty times a second, by every process."""
    away, back = connect(f"unix://{tmp_path}/none"), connect(redis_url)
    clock, said = Quick(), Evidence(EndpointId("sms/acme"), Direction.OUT, Verdict.OK, Witness.OUTCOME, 1.0)
    desk = EvidenceDesk(Board(away), clock)
    with capture_logs() as lines:
        running = asyncio.create_task(desk.run())
        desk.say(said)
        await until(lambda: len(clock.slept) >= 5)
        desk._board = Board(back)
        await until(lambda: "evidence.works_again" in {line["event"] for line in lines})
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [line["event"] for line in lines] == ["evidence.failed", "evidence.works_again"]
    assert min(clock.slept[:5]) >= 0.5
    assert [pieces for _, pieces in await Board(back).read_evidence(BEGINNING)] == [[said]]
    await back.aclose()
