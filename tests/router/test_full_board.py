"""A board that something fills with names it invents: what is said elsewhere goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from health.report import Direction, EndpointId, Report, Status
from router.runtime import Runtime, open_runtime
from router.settings import load_settings
from router.workers import keep_beating
from tests.clocks import until

SMS = EndpointId("sms/sandbox")


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """A process beside a board that has room for one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    monkeypatch.setattr("health.board.BEATS_MAX", 1)
    monkeypatch.setattr("health.board.REPORTS_MAX", 1)
    async with open_runtime(load_settings(), "dispatch") as opened:
        yield opened


async def test_who_finds_no_room_to_beat_works_on(runtime: Runtime) -> None:
    """It is unknown to the supervisor, and sends all the same."""
    await runtime.core.board.beat("somebody", "dispatch", runtime.clock.now())
    begun = 0

    def facts() -> dict[str, object]:
        nonlocal begun
        begun += 1
        return {}

    beating = asyncio.create_task(keep_beating(runtime.core, "us", "dispatch", facts))
    await until(lambda: begun > 1 or beating.done())
    assert not beating.done()
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    assert {one.worker for one in await runtime.core.board.beats()} == {"somebody"}


async def test_a_report_that_finds_no_room_is_dropped_and_evidence_goes_on(runtime: Runtime) -> None:
    now = runtime.clock.now()
    for source in ("one", "two"):
        report = Report(SMS, Direction.OUT, Status.UP, "bound", "It is bound.", now, 60.0, source)
        runtime.desk.report(report)
        await runtime.desk.flush()
    assert [one.source for one in await runtime.core.board.reports(now)] == ["one"]
