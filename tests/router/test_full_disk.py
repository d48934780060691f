"""A disk without room: nothing half-written is promised, nobody ends for want of a log line, all of it drains later."""

import asyncio
import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from channels.errors import LocalFault
from router.metric_files import FOLDER_VARIABLE, reserve_metric_files
from router.process_tree import _keep_older_half
from router.spool import Spool
from router.telemetry import configure_logging
from router.web.problems import REQUEST_ID, answer_problems

FULL = OSError(errno.ENOSPC, "No space left on device")
LIMIT_BYTES = 4096
BOUNDED = f"""
import asyncio, resource, sys
from pathlib import Path
from router.spool import Spool
from router.store.files import Files
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, most))  # Python ignores SIGXFSZ: writes end short, then fail
"""
KEEP = (
    BOUNDED
    + """
async def main():
    spool, kept = Spool(Path(sys.argv[1]), "web"), 0
    try:
        while True:
            await spool.keep("draft", "v0-1", {"n": kept, "text": "x" * 700})
            kept += 1
    except OSError:
        print(kept)
asyncio.run(main())
"""
)
WRITE = (
    BOUNDED
    + """
try:
    asyncio.run(Files(Path(sys.argv[1])).write(b"x" * 9000))
except OSError as error:
    print(error.errno)
"""
)


def run(script: str, folder: Path) -> str:
    """In a process of its own, that may write files of 4 KB."""
    return (
        subprocess.run(
            [sys.executable, "-B", "-c", script, str(folder)], capture_output=True, text=True, timeout=30, check=True
        )
        .stdout.strip()
        .splitlines()[-1]
    )


async def test_the_spool_holds_whole_what_it_promised_and_nothing_of_what_it_refused(tmp_path: Path) -> None:
    """The kernel takes the part of a line that fits, and says so only by a number."""
    kept = int(run(KEEP, tmp_path))
    assert 3 <= kept <= 5
    content = next(tmp_path.glob("*.spool")).read_bytes()
    assert content.count(b"\n") == kept and content.endswith(b"\n")
    taken: list[int] = []

    async def take(_kind: str, fields: dict[str, int]) -> None:
        taken.append(fields["n"])

    emptying = asyncio.create_task(Spool(tmp_path, "web").run(take))
    async with asyncio.timeout(10):
        while len(taken) < kept:
            await asyncio.sleep(0.01)
    emptying.cancel()
    await asyncio.gather(emptying, return_exceptions=True)
    assert taken == list(range(kept))


def test_a_file_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """Half files would keep a full disk full."""
    assert int(run(WRITE, tmp_path)) == errno.EFBIG
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


class FullStream(io.StringIO):
    """A log on a full disk."""

    def write(self, _text: str) -> int:
        raise FULL

    def flush(self) -> None:
        raise FULL


def test_a_log_line_that_cannot_be_written_stops_nobody() -> None:
    """It is dropped; a mail must not be refused for ever because its refusal cannot be logged."""
    try:
        configure_logging("info", FullStream())
        structlog.get_logger().warning("mail.refused")
    finally:
        structlog.reset_defaults()


@pytest.mark.parametrize(
    ("error", "status"),
    [(FULL, 503), (OSError(errno.EDQUOT, "quota"), 503), (LocalFault("no"), 503), (OSError(errno.EBADF, "bug"), 500)],
)
async def test_what_our_disk_cannot_take_is_answered_with_ask_again(error: Exception, status: int) -> None:
    """503 with Retry-After, which vendors and clients obey; a defect stays a 500."""

    @web.middleware
    async def number(request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:
        request[REQUEST_ID] = "r1"
        return cast(web.StreamResponse, await handler(request))

    async def upload(_request: web.Request) -> web.Response:
        raise error

    app = web.Application(middlewares=[number, answer_problems])
    app.router.add_post("/files", upload)
    async with TestClient(TestServer(app)) as client, client.post("/files") as answer:
        assert answer.status == status
        assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_log_too_long_to_be_kept_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is room again, and whoever keeps logs short goes on doing so."""
    log = tmp_path / "web.log"
    log.write_text("x" * 100)
    monkeypatch.setattr("router.process_tree.shutil.copyfile", _no_room)
    _keep_older_half(log)
    assert not (tmp_path / "web.log.1").exists()


def _no_room(_source: Path, target: Path) -> None:
    Path(target).write_text("half")
    raise FULL


def test_metric_files_are_no_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write into a hole of a mapped file on a full disk is a SIGBUS, which ends the process."""
    mine, others = tmp_path / f"counter_{os.getpid()}.db", tmp_path / "counter_1.db"
    for path in (mine, others):
        with path.open("wb") as file:
            file.truncate(1 << 16)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert reserve_metric_files() == 1
    assert mine.stat().st_blocks * 512 >= 1 << 16 and others.stat().st_blocks == 0
    assert reserve_metric_files() == 0
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert reserve_metric_files() == 0


async def test_what_cannot_be_put_aside_stays_in_the_spool(tmp_path: Path) -> None:
    """It was promised: neither is it dropped nor does the process end."""
    (tmp_path / "aside").mkdir()  # nothing can be written there
    spool = Spool(tmp_path, "web")
    tries: list[int] = []

    async def refuse(_kind: str, _fields: dict[str, int]) -> None:
        tries.append(1)
        raise ValueError("nobody can take this")

    await spool.keep("draft", "v0-1", {"n": 1})
    emptying = asyncio.create_task(spool.run(refuse))
    async with asyncio.timeout(10):
        while len(tries) < 6:
            await asyncio.sleep(0.01)
    assert not emptying.done() and spool.waiting == 1
    emptying.cancel()
    await asyncio.gather(emptying, return_exceptions=True)
