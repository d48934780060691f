"""What many would write instead: a Celery task a message that tries a second provider if the first one fails."""

import asyncio
import http.client
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from celery import Celery

BROKER_VARIABLE = "BENCH_CELERY_BROKER"
QUEUE = "bench"
WORKERS = 2
READY_WITHIN_S = 30.0
REQUEST_S = 5.0

app = Celery("bench", broker=os.environ.get(BROKER_VARIABLE, "memory://"))
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE, broker_connection_retry_on_startup=True)

_connections: dict[str, http.client.HTTPConnection] = {}
"""Kept open, one a provider and worker process, as a `requests.Session` would."""


@app.task  # type: ignore[untyped-decorator]  # Celery ships no types
def send(primary: str, fallback: str, path: str, form: dict[str, str], headers: dict[str, str]) -> None:
    """Post a message to the first provider, or to the second."""
    try:
        _post(primary, path, form, headers)
    except (OSError, http.client.HTTPException):
        _post(fallback, path, form, headers)


def _post(base: str, path: str, form: dict[str, str], headers: dict[str, str]) -> None:
    connection = _connections.get(base)
    if connection is None:
        connection = _connections[base] = http.client.HTTPConnection(urlsplit(base).netloc, timeout=REQUEST_S)
    try:
        body = urlencode(form)
        connection.request("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded", **headers})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        del _connections[base]
        raise
    if response.status != 201:
        raise http.client.HTTPException(f"answered {response.status}")


class Workers:
    """The prefork workers; they consume only while told to."""

    async def publish(self, tasks: Sequence[Sequence[Any]]) -> None:
        """Queue a task for each tuple of arguments."""
        await asyncio.to_thread(lambda: [send.apply_async(args=one) for one in tasks])

    async def consume(self) -> None:
        """Begin to work on what is queued."""
        await asyncio.to_thread(lambda: app.control.add_consumer(QUEUE))

    async def pause(self) -> None:
        """Take nothing more."""
        await asyncio.to_thread(lambda: app.control.cancel_consumer(QUEUE, reply=True))


@asynccontextmanager
async def workers(folder: Path, broker: str, cores: frozenset[int]) -> AsyncIterator[Workers]:
    """Two prefork workers on every core there is, with the broker at `broker`, ready to work."""
    app.conf.broker_url = broker
    with (folder / "celery.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "celery", "-A", "router.bench.celery_fallback", "worker", "--pool", "prefork",
            "--concurrency", str(WORKERS), "--queues", "parked", "--loglevel", "WARNING",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {BROKER_VARIABLE: broker},
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not await asyncio.to_thread(lambda: app.control.ping(timeout=0.5)):
            if process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the Celery workers did not start; see {folder / 'celery.log'}")
        yield Workers()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        app.close()
