"""`throughline up` as people run it: one command, one process tree, nothing left behind."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UP_WITHIN_S = 90.0
STOP_WITHIN_S = 40.0

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        importlib.util.find_spec("router.jobs") is None, reason="the clockwork's jobs are not there yet"
    ),
]


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on just now."""
    for base in range(20_000 + os.getpid() % 10_000, 60_000, count):
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


def until(true: Callable[[], bool], within_s: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def living_children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass
class Up:
    """One run of it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("THROUGHLINE_")}
        environment |= {"PYTHONPATH": str(ROOT), "THROUGHLINE_WEB__PORT": str(self.port)}
        environment |= {"THROUGHLINE_SANDBOX__PORT": str(self.port + 1), "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "router", "up"], cwd=self.folder, env=environment, stdout=said, stderr=said
            )
        until(lambda: "Throughline is up." in self.said, UP_WITHIN_S, self.everything)

    def everything(self) -> str:
        logs = [f"{log.name}:\n{log.read_text()[-1500:]}" for log in (self.folder / "var/log").glob("*.log")]
        return "\n".join([self.said, *logs])

    def stop(self, number: signal.Signals) -> list[int]:
        """Stop it and return the children that it had."""
        assert self.process is not None
        children = living_children(self.process.pid)
        self.process.send_signal(number)
        self.process.wait(STOP_WITHIN_S)
        return children


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Not started; ended in any case."""
    run = Up(tmp_path, free_ports(7))
    yield run
    if run.process is not None and run.process.poll() is None:
        run.stop(signal.SIGTERM)


def test_up_starts_says_where_to_look_and_stops_without_a_trace(up: Up) -> None:
    """The pages answer; Ctrl-C ends every child and every socket."""
    up.start()
    key = (up.folder / "var/admin.key").read_text().strip()
    assert f"/console/#{key}" in up.said
    for path in ("/healthz", "/readyz", "/console/", "/chat", "/docs"):
        with urllib.request.urlopen(f"http://127.0.0.1:{up.port}{path}", timeout=10) as answer:
            assert answer.status == 200, path
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port + 1}/", timeout=10) as pocket:
        assert pocket.status == 200
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.port}/v1/endpoints", headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "sandbox" in json.dumps(json.load(answer))

    children = up.stop(signal.SIGINT)
    assert up.process is not None
    assert up.process.returncode == 0, up.everything()
    assert len(children) >= 8
    assert [pid for pid in children if alive(pid)] == []
    assert list((up.folder / "var").rglob("*.sock")) == []
    assert "Stopped." in up.said


def test_a_killed_up_takes_its_children_along_and_the_next_one_takes_over(up: Up) -> None:
    """SIGKILL leaves only the Redis behind; the next start ends it, opens the same folder and finds everything."""
    up.start()
    children = up.stop(signal.SIGKILL)
    redis_pids = [pid for pid in children if "redis-server" in Path(f"/proc/{pid}/cmdline").read_text()]
    roles = [pid for pid in children if pid not in redis_pids]
    until(lambda: not any(alive(pid) for pid in roles), STOP_WITHIN_S, up.everything)
    key = (up.folder / "var/admin.key").read_text().strip()
    up.start()
    assert not any(alive(pid) for pid in redis_pids)
    assert f"/console/#{key}" in up.said
