"""The process tree, with real processes: ordered start, restart with backoff, and nothing left behind."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from router.private_redis import PrivateRedis
from router.process_tree import Child, Listener, ProcessTree, TreeStopped, end_orphaned_redis, find_taken

SLEEPER = "import time\nprint('awake', flush=True)\ntime.sleep(60)"
STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('awake', flush=True)\ntime.sleep(60)"
)
PARENT = (
    f"import subprocess, sys\np = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}])\n"
    "print(p.pid, flush=True)\np.wait()"
)
LISTENER = (
    "import socket, time\ntime.sleep(0.3)\ns = socket.create_server(('127.0.0.1', {port}))\n"
    "print(time.time(), flush=True)\ntime.sleep(60)"
)
CLOCK = "import time\nprint(time.time(), flush=True)\ntime.sleep(60)"


def child(name: str, code: str, listener: Listener | None = None) -> Child:
    return Child(name, (sys.executable, "-c", code), listener)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


class Running:
    """A tree that runs beside the test."""

    def __init__(
        self,
        folder: Path,
        *children: Child,
        stop_within_s: float = 5.0,
        backoff_first_s: float = 0.05,
        redis: PrivateRedis | None = None,
    ) -> None:
        self.said: list[str] = []
        self.ready = asyncio.Event()
        self.tree = ProcessTree(
            children,
            log_folder=folder,
            private_redis=redis,
            say=self.said.append,
            stop_within_s=stop_within_s,
            backoff_first_s=backoff_first_s,
        )

    async def __aenter__(self) -> "Running":
        self.task = asyncio.create_task(self.tree.run(self.ready.set))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.tree.stop()
        await asyncio.wait([self.task])


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


async def test_children_start_in_order_once_the_one_before_listens(tmp_path: Path, free_port: int) -> None:
    """Who needs the first one's port finds it open."""
    vendor = child("vendor", LISTENER.format(port=free_port), Listener("127.0.0.1", free_port, "[x] port"))
    async with Running(tmp_path, vendor, child("client", CLOCK)) as running:
        await running.ready.wait()
        await until(lambda: bool(lines(tmp_path / "client.log")))
        assert float(lines(tmp_path / "vendor.log")[0]) <= float(lines(tmp_path / "client.log")[0])


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    """A new process takes its place, and people are told."""
    async with Running(tmp_path, child("role", SLEEPER)) as running:
        await until(lambda: len(lines(tmp_path / "role.log")) == 1)
        first = running.tree.pids["role"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(lines(tmp_path / "role.log")) == 2)
        assert running.tree.pids["role"] != first
        assert "role was ended by SIGKILL" in running.said[0]


async def test_a_child_that_cannot_be_started_yet_is_started_later(tmp_path: Path) -> None:
    """No room for its log, or no process left, is no reason to do without it for ever."""
    (tmp_path / "role.log").mkdir()  # nothing can be appended there
    async with Running(tmp_path, child("role", SLEEPER), backoff_first_s=0.01) as running:
        await until(lambda: len(running.said) >= 2)
        assert "role cannot be started" in running.said[0]
        (tmp_path / "role.log").rmdir()
        await until(lambda: len(lines(tmp_path / "role.log")) == 1)


async def test_a_child_whose_last_words_cannot_be_read_is_started_again(tmp_path: Path) -> None:
    """Its log is gone or nothing may be opened just now: that is no reason to do without it for ever."""
    log, elsewhere = tmp_path / "role.log", tmp_path / "elsewhere"
    elsewhere.mkdir()
    vanish = f"import os\nos.remove({str(log)!r})\nos.symlink({str(elsewhere)!r}, {str(log)!r})\nos._exit(1)"
    once = (
        f"import os\nif not os.path.exists({str(elsewhere / 'ended')!r}):\n  open({str(elsewhere / 'ended')!r}, 'w')\n"
    )
    code = once + "  " + vanish.replace("\n", "\n  ") + "\n" + SLEEPER
    async with Running(tmp_path, child("role", code), backoff_first_s=0.01) as running:
        await until(lambda: any("cannot be started" in words for words in running.said))
        log.unlink()
        await until(lambda: lines(log) == ["awake"])


async def test_a_child_that_cannot_live_stops_the_tree_with_its_last_words(tmp_path: Path) -> None:
    """Ten deaths in a row are no accident; the others are stopped too."""
    broken = child("broken", "raise SystemExit('no key')")
    async with Running(tmp_path, child("sound", SLEEPER), broken, backoff_first_s=0.001) as running:
        with pytest.raises(TreeStopped, match=r"(?s)broken died 10 times in a row.*no key"):
            await running.task
        assert running.tree.pids == {}


async def test_a_child_that_refuses_its_settings_stops_the_tree_at_once(tmp_path: Path) -> None:
    """Status 2: starting it again changes nothing."""
    async with Running(tmp_path, child("wrong", "print('no port'); raise SystemExit(2)")) as running:
        with pytest.raises(TreeStopped, match=r"(?s)wrong refuses its settings.*no port"):
            await running.task
        assert running.said == []


@pytest.mark.timeout(30)
async def test_backoff_doubles(tmp_path: Path) -> None:
    """Between deaths the tree waits longer each time."""
    async with Running(tmp_path, child("broken", "raise SystemExit(3)")) as running:
        await until(lambda: len(running.said) >= 4)
        waits = [float(words.split("again in ")[1].split(" s")[0]) for words in running.said[:4]]
        assert waits == [0.05, 0.1, 0.2, 0.4]
        assert "ended with status 3" in running.said[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end each child; none is left."""
    async with Running(tmp_path, child("one", SLEEPER), child("two", SLEEPER)) as running:
        await until(lambda: len(lines(tmp_path / "one.log") + lines(tmp_path / "two.log")) == 2)
        pids = list(running.tree.pids.values())
        os.kill(os.getpid(), number)
        await running.task
        assert not any(alive(pid) for pid in pids)


async def test_a_stubborn_child_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    """SIGTERM first; SIGKILL to what ignores it."""
    async with Running(tmp_path, child("stubborn", STUBBORN), stop_within_s=0.2) as running:
        await until(lambda: bool(lines(tmp_path / "stubborn.log")))
        pid = running.tree.pids["stubborn"]
        running.tree.stop()
        await running.task
        assert not alive(pid)


async def test_grandchildren_go_with_a_killed_child(tmp_path: Path) -> None:
    """A worker pool whose parent was killed does not live on beside its successor."""
    async with Running(tmp_path, child("pool", PARENT)) as running:
        await until(lambda: len(lines(tmp_path / "pool.log")) == 2)
        grandchild = int(next(line for line in lines(tmp_path / "pool.log") if line.isdecimal()))
        os.kill(running.tree.pids["pool"], signal.SIGKILL)
        await until(lambda: not alive(grandchild))


async def test_a_killed_private_redis_comes_back_on_the_same_socket(tmp_path: Path) -> None:
    """Its data is on disk; clients reconnect to where it was. When the tree stops, socket and process are gone."""
    server = PrivateRedis(tmp_path / "redis")
    server.start()
    async with Running(tmp_path, child("role", SLEEPER), redis=server) as running:
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: server.pid not in {None, first} and server.socket.exists())
        assert any("private Redis died" in words for words in running.said)
    assert server.pid is None
    assert not server.socket.exists()


def test_a_taken_port_is_said_with_its_number_and_setting() -> None:
    """Before anything starts, and in one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        faults = find_taken([Listener("127.0.0.1", port, "[web] port")])
    assert faults == [
        f"Port {port} on 127.0.0.1 is in use by another program. Stop that one, or choose another port: [web] port."
    ]


def test_a_free_port_is_no_fault(free_port: int) -> None:
    """Looking does not take it either."""
    listener = Listener("127.0.0.1", free_port, "[web] port")
    assert find_taken([listener]) == []
    assert find_taken([listener]) == []


def test_an_address_that_is_not_ours_is_said() -> None:
    """A wrong host is as plain as a taken port."""
    assert "Correct [web] host" in find_taken([Listener("192.0.2.1", 8080, "[web] host")])[0]


def test_an_orphaned_redis_is_ended_before_the_next_one_starts(tmp_path: Path) -> None:
    """Two servers on one folder would destroy it; what the first accepted is found by the second."""
    orphan = PrivateRedis(tmp_path)
    orphan.start()
    pid = orphan.pid
    assert pid is not None
    assert end_orphaned_redis(orphan.url)
    orphan.stop()
    assert not alive(pid)
    assert not end_orphaned_redis(orphan.url)
