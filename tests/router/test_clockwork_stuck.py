"""A clockwork that runs and does nothing ends itself, so that whoever keeps it starts it again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEAT_DIES = """
import celery.beat

def tick(self, *_, **__):
    raise RuntimeError("beat's thread dies")

celery.beat.Scheduler.tick = tick
"""
WORKER_HANGS = """
import threading
from router import jobs

jobs.ALIVE_S = jobs.STUCK_S = 0.5  # nothing went through for so long
jobs.END_WITHIN_S = 1.0
jobs.app.Worker.start = lambda self: threading.Event().wait()  # and SIGTERM is heard by nobody
import signal
signal.signal(signal.SIGTERM, lambda *_: None)
"""
START = """
from router.cli.app import throughline
throughline(["clockwork"])
"""


@pytest.mark.parametrize(("broken", "why"), [(BEAT_DIES, "beat died"), (WORKER_HANGS, "no job went through")])
def test_it_ends_and_says_why(tmp_path: Path, redis_url: str, broken: str, why: str) -> None:
    """With status 1, within seconds, also where the worker itself does not hear it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THROUGHLINE_")}
    environment |= {"THROUGHLINE_REDIS_URL": redis_url, "THROUGHLINE_DATA_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", broken + START],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert '"event": "clockwork.stuck"' in ended.stderr and why in ended.stderr
