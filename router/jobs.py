"""What is due by the clock: the Celery application, its one beat table, its jobs, and the process that runs them.

No customer message and no health decision waits for any of it. Beat ticks by the minute; each job decides what is due.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

import structlog
from celery import Celery
from celery.beat import EmbeddedService
from celery.schedules import crontab
from celery.signals import setup_logging, worker_ready
from prometheus_client import Gauge
from redis.exceptions import RedisError

from health.board import Board
from router import collecting
from router.archive.database import ArchiveError
from router.archive.moving import archive_conversation
from router.core import Core
from router.domain.conversation import MessageState
from router.metric_files import reserve_metric_files
from router.runtime import Runtime, open_runtime
from router.settings import Settings, default_broker_url, load_settings
from router.store import keys
from router.store.connecting import connect, disconnect, read_address
from router.store.store import Store
from router.trouble import Trouble
from router.workers import BEAT_S, tell_records, worker_name

QUEUE: Final = "throughline.clockwork"
SLOT_S: Final = 60
SLOT_HELD_S = 30
"""How long a slot stays taken by a worker that says nothing more; renewed three times as often."""
SLOT_KEPT_S: Final = 3 * 3600
JOB_MAX_S: Final = 45.0
"""A job that is not done by then has failed; the next slot tries again."""
VISIBILITY_S: Final = 600
"""Redis as a broker delivers again what nobody acknowledged for this long: longer than any job."""
ARCHIVED_MAX: Final = 500
"""Conversations moved in one slot, at most: 30,000 an hour."""
ARCHIVE_S: Final = 8.0
"""And for this long: a worker that is told to stop finishes its job first."""
COLLECT_S: Final = 30.0
JOURNAL_READ_MAX: Final = 5_000
ALIVE_S: Final = 150.0
"""The clockwork is alive while a job went through within this: two missed minutes are a fault."""
STUCK_S: Final = 300.0
"""Redis answers, and no job has gone through for this long: this process is stuck, and another one is to take over."""
END_WITHIN_S: Final = 20.0
"""A worker that does not stop by itself when its beat is dead is ended."""
STOP_WITHIN_S: Final = 3.0
DAY_S: Final = 86_400.0
HIDDEN_DAYS: Final = 30

TLS_CHECKS: dict[str, dict[str, Any]] = {
    "rediss": {"ssl_cert_reqs": "required"},
    "amqps": {"server_hostname": None},  # None: the URL's
}
"""What Celery must be told of TLS: else it believes any certificate, or one that was made for any other host."""
OLDEST_DUE = Gauge(
    "throughline_oldest_due_seconds",
    "How long the longest waiting side has been due at an endpoint.",
    ["endpoint"],
    multiprocess_mode="mostrecent",
)

log = structlog.get_logger()
T = TypeVar("T")
Job = Callable[[Core], Awaitable[object]]


@dataclass(slots=True)
class _Process:
    """What one worker process keeps: its settings, its event loop and its router, made when a job first needs them."""

    settings: Settings | None = None
    runner: asyncio.Runner | None = None
    runtime: Runtime | None = None
    worked_at: float = 0.0
    """Monotonic time of the last job that went through."""
    _open: AsyncExitStack | None = None

    def run(self, job: Callable[[Runtime], Awaitable[T]]) -> T:
        """Run a job's coroutine on the process's own loop."""
        if self.runner is None:
            self.runner = asyncio.Runner()
        return self.runner.run(self._with_runtime(job))

    def close(self) -> None:
        """Let go of everything."""
        runner, self.runner = self.runner, None
        if runner is None:
            return
        with runner:
            if self._open is not None:
                runner.run(self._open.aclose())
        self._open = self.runtime = None

    async def _with_runtime(self, job: Callable[[Runtime], Awaitable[T]]) -> T:
        if self.runtime is None:
            async with AsyncExitStack() as stack:
                settings = self.settings or load_settings()
                self.runtime = await stack.enter_async_context(open_runtime(settings, "clockwork"))
                self._open = stack.pop_all()
        return await job(self.runtime)


_process = _Process()


@dataclass(frozen=True, slots=True)
class Slots:
    """One run a job and slot, whoever asks how often: a claim in Redis that a dead worker loses after 30 s."""

    store: Store
    owner: str

    @asynccontextmanager
    async def claim(self, job: str, slot: int) -> AsyncIterator[bool]:
        """Whether this slot is ours to run. Left without an error it is done for good; with one, free again."""
        done, held = f"tl:job:{job}:{slot}", f"tl:job:{job}:{slot}:held"
        call = self.store.redis.call
        if not await call("SET", held, self.owner, "NX", "EX", SLOT_HELD_S):
            yield False
            return
        renewing = asyncio.create_task(self._renew(held))
        try:
            if await call("EXISTS", done):
                yield False
            else:
                yield True
                await call("SET", done, self.owner, "NX", "EX", SLOT_KEPT_S)
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            await call("DEL", held)

    async def _renew(self, held: str) -> None:
        while True:
            await asyncio.sleep(SLOT_HELD_S / 3)
            try:
                await self.store.redis.call("EXPIRE", held, SLOT_HELD_S)
            except RedisError as error:
                log.warning("slot.not_renewed", error=type(error).__name__)


def run_job(name: str, job: Job, slot: int | None = None) -> bool:
    """Run a job for a slot (default: the current minute); False: the slot has been run, or is being run."""

    async def run(runtime: Runtime) -> bool:
        core = runtime.core
        chosen = int(core.clock.now() // SLOT_S) if slot is None else slot
        async with Slots(core.store, f"{socket.gethostname()[:20]}-{os.getpid()}").claim(name, chosen) as ours:
            if not ours:
                return False
            began = time.monotonic()
            async with asyncio.timeout(JOB_MAX_S):
                outcome = await job(core)
            took_ms = round((time.monotonic() - began) * 1000, 1)
            log.info("job.done", job=name, slot=chosen, outcome=outcome, took_ms=took_ms)
            return True

    ran = _process.run(run)
    _process.worked_at = time.monotonic()
    return ran


async def _mark_beat(core: Core) -> float:
    now = core.clock.now()
    await core.store.redis.call("SET", keys.BEAT, f"{now:.3f}")
    return now


async def _archive_closed(core: Core) -> dict[str, int]:
    """At most 500 conversations and 8 s; the others in the next slots. Those that stay are passed over."""
    until = time.monotonic() + ARCHIVE_S
    before = core.clock.now() - core.settings.archive.after_days * DAY_S
    outcomes: dict[str, int] = {}
    for shard in range(core.store.shards):
        kept = 0
        while sum(outcomes.values()) < ARCHIVED_MAX and time.monotonic() < until:
            found = await core.store.closed_before(shard, before, offset=kept, limit=50)
            if not found:
                break
            for conversation_id in found:
                outcome = await _archive_or_pass_over(core, conversation_id)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                kept += outcome in {"busy", "changed", "failed"}
    return outcomes


async def _archive_or_pass_over(core: Core, conversation_id: str) -> str:
    """One that the archive refuses must not hold up those behind it. Raises ArchiveError: it refuses everything."""
    try:
        return await archive_conversation(core.store, core.archive, conversation_id)
    except ArchiveError as error:
        await core.archive.by_reference("")
        log.warning("conversation.not_archived", conversation=conversation_id, error=str(error))
        return "failed"


async def _close_hidden(core: Core) -> dict[str, int]:
    """What could not be matched and was asked about in vain for 30 days goes the way of everything closed."""
    before = core.clock.now() - HIDDEN_DAYS * DAY_S
    count = 0
    for shard in range(core.store.shards):
        for conversation_id in await core.store.hidden_before(shard, before):
            count += await core.store.close(conversation_id) == "ok"
    return {"closed": count}


async def _collect_files(core: Core) -> dict[str, int]:
    """Once a day, for 30 s at most: what is not done by then is tried again an hour later."""
    async with asyncio.timeout(COLLECT_S):
        return await collecting.collect_files(core)


async def _report_queue_age(core: Core) -> dict[str, float]:
    now = core.clock.now()
    oldest = 0.0
    for endpoint in (*core.capabilities, keys.PLAN):
        age = 0.0
        for shard in range(core.store.shards):
            due = await core.store.due_since(shard, endpoint)
            age = max(age, now - due if due else 0.0)
        if endpoint != keys.PLAN:
            OLDEST_DUE.labels(endpoint).set(age)
        oldest = max(oldest, age)
    asked = 0
    for shard in range(core.store.shards):
        for _, entry in await core.store.journal_last(shard, JOURNAL_READ_MAX):
            recent = now - int(entry["at"]) / 1000 < core.settings.messages.needs_human_s
            asked += recent and entry["k"] == "message.changed" and f'"{MessageState.NEEDS_HUMAN}"' in entry["f"]
    parked = await core.store.due_count(keys.PLAN)
    return {"parked": parked, "asked_for_a_person": asked, "oldest_due_s": round(max(0.0, oldest), 1)}


app = Celery("throughline", set_as_current=False)
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    event_serializer="json",
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    result_expires=None,
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=JOB_MAX_S + 30,  # kept by Celery's prefork pool; jobs bound themselves tighter
    task_soft_time_limit=JOB_MAX_S + 15,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": VISIBILITY_S, "socket_keepalive": True},
    timezone="UTC",
    enable_utc=True,
)


def _define(name: str, job: Job) -> Any:
    def run(slot: int | None = None) -> None:
        run_job(name, job, slot)

    return app.task(name=f"router.jobs.{name}")(run)


mark_beat = _define("mark_beat", _mark_beat)
archive_closed = _define("archive_closed", _archive_closed)
close_hidden = _define("close_hidden", _close_hidden)
collect_files = _define("collect_files", _collect_files)
report_queue_age = _define("report_queue_age", _report_queue_age)
app.conf.beat_schedule = {
    job.name: {"task": job.name, "schedule": crontab(), "options": {"expires": SLOT_S - 5}}
    for job in (mark_beat, archive_closed, close_hidden, collect_files, report_queue_age)
}


def in_celerys_words(broker_url: str) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """A broker's URL as Celery wants it, what its transport wants to be told beside it, and its TLS; None: no TLS.

    It names sentinels one by one. For what the transport must be told of TLS see `TLS_CHECKS`.
    """
    scheme = broker_url.partition("://")[0]
    address = read_address(broker_url) if "+sentinel" in scheme else None
    if address is None:
        return broker_url, {}, {**TLS_CHECKS[scheme]} if scheme in TLS_CHECKS else None
    login = ""
    if address.password:
        login = f"{quote(address.username or '', safe='')}:{quote(address.password, safe='')}@"
    urls = [f"sentinel://{login}{host}:{port}/{address.database}" for host, port in address.places]
    options: dict[str, Any] = {"master_name": address.service}
    if not address.tls:
        return ";".join(urls), options, None
    options["sentinel_kwargs"] = address.tls_facts
    return ";".join(urls), options, {**TLS_CHECKS["rediss"], **address.tls_options}


def run_clockwork(settings: Settings) -> None:
    """Run worker and beat in this process until SIGTERM or SIGINT; what is being done is finished first.

    Beat is a thread that keeps its times in memory: the table is constant, and the slots in Redis remember what ran.

    Raises:
        ClockworkStuck: beat died, or no job goes through any more: whoever started this is to start it again.
    """
    if settings.redis_url is None:
        raise ValueError("run_clockwork needs settings.redis_url; `up` starts a Redis and sets it")
    broker_url = settings.broker_url or default_broker_url(settings.redis_url)
    app.conf.broker_url, more, tls = in_celerys_words(broker_url)
    app.conf.broker_use_ssl = tls
    app.conf.broker_transport_options = app.conf.broker_transport_options | more
    app.set_current()
    _process.settings = settings
    worker = app.Worker(
        pool="solo",
        concurrency=1,
        hostname=f"clockwork-{secrets.token_hex(2)}@{socket.gethostname()}",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        redirect_stdouts=False,
    )
    beat: Any = EmbeddedService(app, thread=True, scheduler_cls="celery.beat:Scheduler")
    life = _SignOfLife(settings.redis_url, beat)
    beat.start()
    life.start()
    log.info("clockwork.started", jobs=sorted(app.conf.beat_schedule))
    try:
        worker.start()
    finally:
        beat.service.stop(wait=False)  # it may be waiting for a broker that is gone
        beat.join(STOP_WITHIN_S)
        life.stop()
        _process.close()
    if life.fault:
        raise ClockworkStuck(life.fault)
    log.info("clockwork.stopped")


class ClockworkStuck(Exception):
    """The clockwork runs and does nothing; the text says why."""


class _SignOfLife(threading.Thread):
    """Beats on the board each second, as every loop does, for as long as jobs go through; ends what is stuck."""

    def __init__(self, redis_url: str, beat: threading.Thread) -> None:
        super().__init__(name="sign-of-life", daemon=True)
        self.fault = ""
        """Why this process ends itself."""
        self._redis_url = redis_url
        self._ticking = beat
        self._over = threading.Event()
        self._worker = worker_name("clockwork")

    def run(self) -> None:
        """Beat until told to stop, then take the name away."""
        asyncio.run(self._beat())

    def stop(self) -> None:
        """End, and wait for it."""
        self._over.set()
        self.join(STOP_WITHIN_S)

    async def _beat(self) -> None:
        client = connect(self._redis_url)
        board = Board(client)
        began, beating = time.monotonic(), Trouble("beat", log)
        while not self._over.is_set():
            reserve_metric_files()
            try:
                idle_s = time.monotonic() - max(began, _process.worked_at)
                if not self._ticking.is_alive():
                    self._end("beat died")
                elif idle_s < ALIVE_S:
                    await board.beat(self._worker, "clockwork", time.time(), tell_records())
                elif await client.ping() and idle_s > STUCK_S:
                    self._end(f"no job went through for {idle_s:.0f} s")
            except (RedisError, OSError, TimeoutError) as error:
                beating.failed(error)
            else:
                beating.worked()
            await asyncio.to_thread(self._over.wait, BEAT_S)
        with contextlib.suppress(RedisError, OSError, TimeoutError):  # it lapses by itself
            await board.forget_worker(self._worker)
        await disconnect(client)

    def _end(self, why: str) -> None:
        """As SIGTERM would; and if the worker does not hear it, without asking."""
        if self._over.is_set() or self.fault:
            return
        self.fault = why
        log.error("clockwork.stuck", why=why)
        os.kill(os.getpid(), signal.SIGTERM)
        last_resort = threading.Timer(END_WITHIN_S, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()


def _leave_logging_alone(**_: object) -> None:
    """The command line has set up logging; where somebody listens to this signal Celery does not."""


def _catch_up(**_: object) -> None:
    """Whatever came due while no worker ran is looked at once, now, not at the next full minute."""
    for entry in app.conf.beat_schedule.values():
        app.send_task(entry["task"], **entry["options"])


setup_logging.connect(_leave_logging_alone)
worker_ready.connect(_catch_up)
