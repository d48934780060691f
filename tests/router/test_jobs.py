"""The clockwork: slots run once, a dead worker's work is caught up with, and it ends when told."""

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from channels.messages import Content, Kind
from health.report import EndpointId
from router import jobs
from router.archive.archive import ARCHIVE_FILE, Archive
from router.archive.database import SqliteFile
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.jobs import QUEUE, Slots, in_celerys_words
from router.settings import default_broker_url
from router.store import keys
from router.store.asked import LeaseTerms, NewConversation, NewLeg, NewMessage, Settlement
from router.store.connecting import connect
from router.store.redis import Pipelined
from router.store.store import Store

ROOT = Path(__file__).parents[2]
MAIL = EndpointId("email/support")
CONSOLE = EndpointId("chat/console")


class Clockwork:
    """`throughline clockwork` in a process of its own, with its log."""

    def __init__(self, folder: Path, redis_url: str, **environment: str) -> None:
        self.folder = folder
        self.log = folder / "clockwork.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("THROUGHLINE_")},
            "THROUGHLINE_REDIS_URL": redis_url,
            "THROUGHLINE_DATA_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore::celery.platforms.SecurityWarning",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "router", "clockwork"], cwd=self.folder, env=self.environment, stderr=log
            )

    def end(self, number: signal.Signals = signal.SIGTERM, within_s: float = 10.0) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def done(self, job: str) -> list[dict[str, Any]]:
        """The job's runs, from the log."""
        if not self.log.exists():
            return []
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [row for row in map(json.loads, lines) if row["event"] == "job.done" and row["job"] == job]


@pytest.fixture
def clockwork(redis_url: str, tmp_path: Path) -> Iterator[Clockwork]:
    found = Clockwork(tmp_path, redis_url)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.process.kill()
        found.process.wait()


@pytest.fixture
def plain(redis_url: str) -> Iterator["redis.Redis"]:
    """The same Redis for a test that only looks."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def sender(redis_url: str) -> Iterator[Celery]:
    """Somebody who delivers jobs, as beat does."""
    app = Celery("sender", broker=default_broker_url(redis_url), set_as_current=False)
    app.conf.task_default_queue = QUEUE
    yield app
    app.close()


def until(true: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


async def close_long_ago(redis_url: str) -> str:
    """A conversation that was closed forty days ago, with everything said."""
    pipelined = Pipelined(connect(redis_url))
    long_ago = int((time.time() - 40 * 86_400) * 1000)
    store = Store(pipelined, now_ms=lambda: long_ago)
    identity = new_id("v", 0, long_ago)
    await store.accept(
        identity,
        NewMessage(
            new_id("m", 0, long_ago), SideName.AGENT, Kind.MESSAGE, "c0-ann", "", Content("Thanks!"),
            MessageClass.NORMAL, 0, MAIL,
        ),
        create=NewConversation(
            "c0-ann", "4F2K9", "Order", "en", MessageClass.NORMAL, 5, "",
            NewLeg("c0-ann", MAIL, "email:ann@example.org"), NewLeg("", CONSOLE, "chat:console@chat/console"),
        ),
    )  # fmt: skip
    (one,) = await store.lease(CONSOLE, "w1", 1, LeaseTerms(8.0, {"normal": 60.0}, False, 3))
    await store.settle(0, [Settlement(identity, one.side, one.message_id, one.number, one.fence, "sent")])
    await store.close(identity)
    await pipelined.close()
    return identity


async def archived(folder: Path, identity: str) -> bool:
    archive = Archive(SqliteFile(folder / ARCHIVE_FILE))
    try:
        return await archive.conversation(identity) is not None
    finally:
        await archive.close()


def test_a_slot_delivered_twice_runs_once_and_the_worker_ends_cleanly(
    clockwork: Clockwork, sender: Celery, plain: "redis.Redis"
) -> None:
    """However often the broker delivers it; SIGTERM ends worker and beat, status 0, no sign of life left."""
    clockwork.start()
    until(lambda: plain.get(keys.BEAT))
    for slot in (7, 7, 8, 7):
        sender.send_task("router.jobs.report_queue_age", kwargs={"slot": slot})
    until(lambda: any(run["slot"] == 8 for run in clockwork.done("report_queue_age")))
    sender.send_task("router.jobs.report_queue_age", kwargs={"slot": 9})
    until(lambda: any(run["slot"] == 9 for run in clockwork.done("report_queue_age")))
    assert sorted(run["slot"] for run in clockwork.done("report_queue_age") if run["slot"] < 10) == [7, 8, 9]
    until(lambda: any("clockwork" in worker for worker in plain.hkeys("tl:{h}:beats")))
    assert clockwork.end() == 0
    assert plain.hkeys("tl:{h}:beats") == []
    assert "clockwork.stopped" in clockwork.log.read_text()


async def test_a_killed_worker_is_caught_up_with_once(
    clockwork: Clockwork, redis_url: str, plain: "redis.Redis"
) -> None:
    """SIGKILL; what comes due meanwhile, for many slots, is done once after the restart, and at once."""
    clockwork.start()
    await asyncio.to_thread(until, lambda: clockwork.done("archive_closed"))
    clockwork.end(signal.SIGKILL)
    identity = await close_long_ago(redis_url)
    for key in plain.keys("tl:job:*"):
        plain.delete(key)  # as if the minutes had passed in which nobody ran
    clockwork.log.unlink()
    clockwork.start()
    await asyncio.to_thread(until, lambda: clockwork.done("archive_closed"))
    assert [run["outcome"] for run in clockwork.done("archive_closed")] == [{"ok": 1}]
    assert await archived(clockwork.folder, identity)
    assert clockwork.end(signal.SIGINT) == 0
    assert len(clockwork.done("archive_closed")) == 1


def test_it_ends_while_its_broker_is_gone(clockwork: Clockwork, unused_tcp_port: int) -> None:
    """It waits for a broker that may come back, and still hears SIGTERM."""
    clockwork.environment["THROUGHLINE_BROKER_URL"] = f"redis://127.0.0.1:{unused_tcp_port}/0"
    clockwork.start()
    until(lambda: clockwork.log.exists() and "Trying again" in clockwork.log.read_text())
    assert clockwork.end() == 0
    assert "clockwork.stopped" in clockwork.log.read_text()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    pipelined = Pipelined(connect(redis_url))
    yield Store(pipelined)
    await pipelined.close()


async def test_a_slot_is_one_workers(store: Store) -> None:
    """While it is held, after it is done; a job that failed leaves it free."""
    mine, other = Slots(store, "w1"), Slots(store, "w2")
    with pytest.raises(ZeroDivisionError):
        async with mine.claim("job", 1) as ours:
            assert ours
            async with other.claim("job", 1) as theirs:
                assert not theirs
            1 / 0  # noqa: B018 - the job fails
    async with other.claim("job", 1) as theirs:
        assert theirs
    async with mine.claim("job", 1) as ours:
        assert not ours
    async with mine.claim("job", 2) as ours:
        assert ours


async def test_a_dead_workers_slot_is_free_after_its_claim_lapsed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A living worker renews its claim for as long as the job runs; a dead one cannot."""
    monkeypatch.setattr(jobs, "SLOT_HELD_S", 1)
    mine, other = Slots(store, "w1"), Slots(store, "w2")
    await store.redis.call("SET", "tl:job:job:1:held", "dead", "EX", 30)
    async with mine.claim("job", 1) as ours:
        assert not ours
    await store.redis.call("PEXPIRE", "tl:job:job:1:held", 1)
    async with asyncio.timeout(5):
        while await store.redis.call("EXISTS", "tl:job:job:1:held"):
            await asyncio.sleep(0.01)
    async with mine.claim("job", 1) as ours:
        assert ours
        await asyncio.sleep(1.3)
        async with other.claim("job", 1) as theirs:
            assert not theirs


def test_nothing_is_pickled_and_every_job_ticks_by_the_minute() -> None:
    """One constant table; what beat could not deliver in its minute is not delivered later."""
    assert jobs.app.conf.accept_content == ["json"]
    assert jobs.app.conf.task_acks_late
    table = jobs.app.conf.beat_schedule
    names = ("mark_beat", "archive_closed", "close_hidden", "collect_files", "report_queue_age")
    assert set(table) == {f"router.jobs.{name}" for name in names}
    for entry in table.values():
        assert entry["schedule"]._orig_minute == "*"
        assert entry["options"]["expires"] < jobs.SLOT_S
    assert jobs.app.conf.broker_transport_options["visibility_timeout"] > jobs.app.conf.task_time_limit > jobs.JOB_MAX_S


@pytest.mark.parametrize(("name", "heard_of"), [("IP:127.0.0.1", [b"AMQP"]), ("DNS:elsewhere.test", [])])
def test_no_broker_with_another_ones_certificate_is_believed(
    name: str, heard_of: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that somebody we trust has signed, but for another host: nothing is said to whoever shows it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate to test TLS with")
    pem, signing = tmp_path / "certificate", tmp_path / "key"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tests"
    named = ["-addext", f"subjectAltName={name}", "-keyout", str(signing), "-out", str(pem)]
    subprocess.run(["openssl", *options.split(), *named], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, signing)
    heard: list[bytes] = []

    def listen() -> None:
        plain, _ = server.accept()
        server.close()  # it tries again, in vain
        plain.settimeout(5)
        with suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as line:
            heard.append(line.recv(4))

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        listening = threading.Thread(target=listen)
        listening.start()
        broker = Celery("tests", set_as_current=False)
        url = f"amqps://guest:guest@127.0.0.1:{server.getsockname()[1]}//"
        broker.conf.broker_url, _, broker.conf.broker_use_ssl = in_celerys_words(url)
        with closing(broker.connection_for_write(connect_timeout=1)) as connection, suppress(OperationalError):
            connection.ensure_connection(max_retries=1, interval_start=0)
        listening.join()
    assert heard == heard_of
