"""`throughline up` as people run it, in a folder of a test's own, and what its processes are."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
UP_WITHIN_S = 90.0
STOP_WITHIN_S = 40.0
PORTS = 7
"""The web role's, and those of the stand-in vendors."""


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
    """Look until it is true; `what` says what there is instead."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def living_children(pid: int) -> list[int]:
    """The processes that it started."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def alive(pid: int) -> bool:
    """Whether it runs, or is at least not waited for."""
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
        """What it printed."""
        return (self.folder / "said").read_text()

    @property
    def url(self) -> str:
        """Of the web role."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pocket_url(self) -> str:
        """Of the customer's pocket."""
        return f"http://127.0.0.1:{self.port + 1}"

    def start(self) -> None:
        """Start it; it is up when this returns."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("THROUGHLINE_")}
        environment |= {"PYTHONPATH": str(ROOT), "THROUGHLINE_WEB__PORT": str(self.port)}
        environment |= {"THROUGHLINE_SANDBOX__PORT": str(self.port + 1), "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "router", "up"], cwd=self.folder, env=environment, stdout=said, stderr=said
            )
        until(lambda: "Throughline is up." in self.said, UP_WITHIN_S, self.everything)

    def everything(self) -> str:
        """What it printed, and the ends of its logs."""
        logs = [f"{log.name}:\n{log.read_text()[-1500:]}" for log in (self.folder / "var/log").glob("*.log")]
        return "\n".join([self.said, *logs])

    def stop(self, number: signal.Signals) -> list[int]:
        """Stop it and return the children that it had."""
        assert self.process is not None
        children = living_children(self.process.pid)
        self.process.send_signal(number)
        self.process.wait(STOP_WITHIN_S)
        return children


@contextmanager
def one_up(folder: Path) -> Iterator[Up]:
    """Not started; ended in any case."""
    run = Up(folder, free_ports(PORTS))
    try:
        yield run
    finally:
        if run.process is not None and run.process.poll() is None:
            run.stop(signal.SIGTERM)
