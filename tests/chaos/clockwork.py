"""The clockwork of a chaos run: the real one, its minutes made seconds; its beat can die and its worker can hang."""

import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import Any

import celery.beat
from celery.schedules import schedule

from router import jobs
from router.cli.app import throughline

TICK_S = 2.0
"""Jobs come due as often. A minute's slot is still run once; asked again, a job goes through and does nothing."""
ALIVE_S, STUCK_S, END_WITHIN_S = 6.0, 10.0, 3.0


class Ailment(StrEnum):
    """What a file of that name in the run's folder gives it, once."""

    BEAT_DIES = "beat-dies"
    WORKER_HANGS = "worker-hangs"


def catches(folder: Path, ailment: Ailment) -> bool:
    """Whether it has it now; whoever starts next is well."""
    try:
        (folder / ailment).unlink()
    except FileNotFoundError:
        return False
    return True


def main() -> None:
    """Run it until told to stop."""
    folder = Path(sys.argv[1])
    jobs.ALIVE_S, jobs.STUCK_S, jobs.END_WITHIN_S = ALIVE_S, STUCK_S, END_WITHIN_S  # type: ignore[misc]  # Final: real minutes are too long to wait for here
    for entry in jobs.app.conf.beat_schedule.values():
        entry["schedule"] = schedule(TICK_S)
    run_job, tick = jobs.run_job, celery.beat.Scheduler.tick

    def run_or_hang(*arguments: Any) -> bool:
        if catches(folder, Ailment.WORKER_HANGS):
            threading.Event().wait()
        return run_job(*arguments)

    def tick_or_die(self: Any, *arguments: Any, **more: Any) -> Any:
        if catches(folder, Ailment.BEAT_DIES):
            raise RuntimeError("beat's thread dies")
        return tick(self, *arguments, **more)

    jobs.run_job, celery.beat.Scheduler.tick = run_or_hang, tick_or_die
    throughline(["clockwork"])


if __name__ == "__main__":
    main()
