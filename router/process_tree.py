"""Run the roles as children of one process: start in order, restart what dies, stop and leave nothing behind."""

import asyncio
import ctypes
import errno
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis

from router.private_redis import PrivateRedis
from router.settings import PARENT_VARIABLE

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 10.0
SETTINGS_STATUS = 2
"""A child that ends with it was started wrongly: starting it again changes nothing."""
STEADY_AFTER_S = 30.0
"""A child that lived this long is sound: its next death begins with the first backoff again."""
DEATHS_MAX = 10
"""In a row, without once being steady: the whole tree stops, for a person must look."""
STOP_WITHIN_S = 15.0
"""From SIGTERM to SIGKILL: longer than the longest send of the fast channels; leases cover the rest."""
READY_WITHIN_S = 30.0
LOG_MAX_BYTES = 20_000_000
"""Of one child; the older half is kept beside it in `.1`."""
LOG_CHECK_S = 5.0
TAIL_LINES = 5
REDIS_CHECK_S = 0.2
SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG in prctl(2)."""


class TreeStopped(Exception):
    """The tree could not start or go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that something of ours will listen on, and the setting that chooses it."""

    host: str
    port: int
    setting: str
    """For people: `[web] port`."""


@dataclass(frozen=True, slots=True)
class Child:
    """One process of the tree."""

    name: str
    command: tuple[str, ...]
    listener: Listener | None = None
    """Where it listens: the next child starts once it does."""
    environment: Mapping[str, str] = field(default_factory=dict)


def find_taken(listeners: Sequence[Listener]) -> list[str]:
    """One sentence for each port that cannot be listened on: its number, its setting, what to do."""
    faults: list[str] = []
    for listener in listeners:
        try:
            found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            faults.append(_say_why_taken(listener, error))
    return faults


def end_with_parent() -> None:
    """Make Linux end this process when the tree above it dies without a word (SIGKILL, out of memory).

    Does nothing outside a tree. Elsewhere than on Linux an orphan ends when its parent is seen to be gone: never
    by itself.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if not parent or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the call above
        os.kill(os.getpid(), signal.SIGTERM)


class ProcessTree:
    """Children in the order they start; they stop in the opposite order, and the private Redis last."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        log_folder: Path,
        private_redis: PrivateRedis | None = None,
        say: Callable[[str], None],
        when_ended: Callable[[int], object] | None = None,
        stop_within_s: float = STOP_WITHIN_S,
        backoff_first_s: float = BACKOFF_FIRST_S,
    ) -> None:
        self._children = tuple(children)
        self._log_folder = log_folder
        self._redis = private_redis
        self._say = say
        self._when_ended = when_ended
        self._stop_within_s = stop_within_s
        self._backoff_first_s = backoff_first_s
        self._stopping = asyncio.Event()
        self._reason = ""
        self._running: dict[str, asyncio.subprocess.Process] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The living children by name."""
        return {name: process.pid for name, process in self._running.items() if process.returncode is None}

    def stop(self, reason: str = "") -> None:
        """Ask the tree to end; `reason` makes it a fault."""
        self._reason = self._reason or reason
        self._stopping.set()

    async def run(self, when_ready: Callable[[], None]) -> None:
        """Run until SIGINT, SIGTERM or `stop`; call `when_ready` once every child with a port listens.

        On return no child is alive and no socket file is left.

        Raises:
            TreeStopped: a child died ten times in a row, or did not listen within 30 s.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        self._log_folder.mkdir(parents=True, exist_ok=True)
        keepers: list[asyncio.Task[None]] = [asyncio.create_task(self._keep_logs_short())]
        try:
            if self._redis is not None:
                keepers.append(asyncio.create_task(self._keep_redis(self._redis)))
            started: list[asyncio.Task[None]] = []
            for child in self._children:
                if self._stopping.is_set():
                    break
                started.append(asyncio.create_task(self._keep(child)))
                await self._until_listening(child)
            if not self._stopping.is_set():
                when_ready()
            await self._stopping.wait()
        finally:
            self._stopping.set()
            await self._stop_children()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            if self._redis is not None:
                await asyncio.to_thread(self._redis.stop)
            for number in (signal.SIGINT, signal.SIGTERM):  # only now: a second Ctrl-C must leave no child behind
                loop.remove_signal_handler(number)
        if self._reason:
            raise TreeStopped(self._reason)

    async def _keep(self, child: Child) -> None:
        """Start it, and start it again when it dies, until the tree stops."""
        deaths = refused = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                process = await self._start(child)
            except OSError as error:  # no room for its log, no memory, no process left: that passes
                wait_s = min(BACKOFF_MAX_S, self._backoff_first_s * 2 ** min(refused, DEATHS_MAX))
                refused += 1
                self._say(f"{child.name} cannot be started: {error}. Next try in {wait_s:g} s.")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)
                continue
            refused = 0
            code = await process.wait()
            _kill_group(process.pid)
            if self._when_ended is not None:
                self._when_ended(process.pid)
            if self._stopping.is_set():
                return
            lived_s = time.monotonic() - began
            deaths = 1 if lived_s >= STEADY_AFTER_S else deaths + 1
            last = "\n  ".join(self._tail(child))
            if deaths >= DEATHS_MAX or code == SETTINGS_STATUS:
                how = f"died {deaths} times in a row" if deaths >= DEATHS_MAX else "refuses its settings"
                self.stop(
                    f"{child.name} {how}, so everything was stopped. Its last words in "
                    f"{self._log(child)}:\n  {last}\nCorrect what they name and start again."
                )
                return
            wait_s = min(BACKOFF_MAX_S, self._backoff_first_s * 2 ** (deaths - 1))
            self._say(
                f"{child.name} {_say_how(code)} after {lived_s:.0f} s; it starts again in {wait_s:g} s.\n  {last}"
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _start(self, child: Child) -> asyncio.subprocess.Process:
        environment = {**os.environ, **child.environment, PARENT_VARIABLE: str(os.getpid())}
        with self._log(child).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the tree, which stops children in order
            )
        self._running[child.name] = process
        return process

    async def _keep_redis(self, server: PrivateRedis) -> None:
        """Start the private Redis again when it dies: what it acknowledged is on disk."""
        backoff_s = self._backoff_first_s
        while True:
            await asyncio.sleep(REDIS_CHECK_S)
            if server.pid is not None or self._stopping.is_set():
                continue
            self._say("The private Redis died; it starts again. Nothing that was accepted is lost.")
            try:
                await asyncio.to_thread(server.start)
                backoff_s = self._backoff_first_s
            except (RuntimeError, OSError, redis.RedisError) as error:
                self._say(f"{error}\nNext try in {backoff_s:g} s.")
                await asyncio.sleep(backoff_s)
                backoff_s = min(BACKOFF_MAX_S, backoff_s * 2)

    async def _until_listening(self, child: Child) -> None:
        if child.listener is None:
            return
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._stopping.is_set():
            try:
                _, writer = await asyncio.open_connection(child.listener.host, child.listener.port)
            except OSError:
                if time.monotonic() > deadline:
                    last = "\n  ".join(self._tail(child))
                    self.stop(
                        f"{child.name} did not listen on {child.listener.host}:{child.listener.port} within "
                        f"{READY_WITHIN_S:g} s. Its last words in {self._log(child)}:\n  {last}"
                    )
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return

    async def _stop_children(self) -> None:
        """SIGTERM to each, last started first; SIGKILL by pid to whatever is left when the time is up."""
        alive = [process for process in reversed(self._running.values()) if process.returncode is None]
        for process in alive:
            with suppress(ProcessLookupError):
                process.terminate()
        ends = [asyncio.create_task(process.wait()) for process in alive]
        if not ends:
            return
        _, late = await asyncio.wait(ends, timeout=self._stop_within_s)
        for process in alive:
            _kill_group(process.pid)
        if late:
            await asyncio.wait(late)

    async def _keep_logs_short(self) -> None:
        """Children append, so that a log can be copied away and emptied under them."""
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for child in self._children:
                log = self._log(child)
                with suppress(OSError):  # gone, or nothing may be opened now: there is another look
                    if log.stat().st_size > LOG_MAX_BYTES:
                        await asyncio.to_thread(_keep_older_half, log)
                        os.truncate(log, 0)

    def _log(self, child: Child) -> Path:
        return self._log_folder / f"{child.name}.log"

    def _tail(self, child: Child) -> list[str]:
        try:
            with self._log(child).open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - 8_000))
                return stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        except OSError as error:  # gone, or nothing may be opened now: whoever died is started again without them
            return [f"(its log cannot be read: {error.strerror})"]


def end_orphaned_redis(url: str) -> bool:
    """Shut down a private Redis whose tree was killed, so that two never write to one folder; whether there was one.

    What it accepted is on disk: the next server on the same folder finds it all.
    """
    path = Path(url.removeprefix("unix://").split("?")[0])
    if not path.exists():
        return False
    with redis.Redis.from_url(url, socket_timeout=5.0) as client:
        try:
            client.shutdown(nosave=True)
        except (redis.ConnectionError, redis.TimeoutError):
            path.unlink(missing_ok=True)  # only the file was left
            return False
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return True


def _keep_older_half(log: Path) -> None:
    """In `.1`; where the disk is full nothing is kept, so that there is room again."""
    older = log.with_suffix(".log.1")
    try:
        shutil.copyfile(log, older)
    except OSError:
        older.unlink(missing_ok=True)


def _kill_group(pid: int) -> None:
    """A child leads a group of its own: what it started, and did not end, goes with it."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _say_how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _say_why_taken(listener: Listener, error: OSError) -> str:
    place = f"Port {listener.port} on {listener.host}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use by another program. Stop that one, or choose another port: {listener.setting}."
    if error.errno == errno.EACCES:
        return f"{place} needs more rights than this user has. Choose a port above 1023: {listener.setting}."
    return f"{place} cannot be listened on: {error.strerror or error}. Correct {listener.setting}."
