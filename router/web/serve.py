"""The web role: the HTTP listener, the mailboxes it holds open, its beat."""

import asyncio
import logging
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from channels.contract import Listening
from router.listening import listen_alone
from router.rollback import POSITION_FILE, RollbackWatch
from router.web.app import build_app
from router.workers import keep_beating, worker_name

if TYPE_CHECKING:
    from router.runtime import Runtime

SHUTDOWN_S = 3.0

log = structlog.get_logger()


async def run_web(runtime: "Runtime") -> None:
    """Serve until cancelled. Raises OSError when the port is taken."""
    settings = runtime.settings.web
    runner = make_runner(build_app(runtime))
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
        log.info("web.started", host=settings.host, port=settings.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(runtime.desk.run())
            group.create_task(keep_beating(runtime.core, worker_name("web"), "web"))
            group.create_task(runtime.switchboard.empty_spool())
            memory = runtime.settings.data_dir / POSITION_FILE
            group.create_task(RollbackWatch(runtime.store, runtime.clock, runtime.core.spool, memory).run())
            for endpoint, adapter in runtime.adapters.items():
                if isinstance(adapter, Listening) and adapter.capabilities.listens_in == "web":
                    group.create_task(listen_alone(runtime.core, endpoint, adapter, runtime.switchboard.accept))
    finally:
        await runner.cleanup()


def make_runner(app: web.Application) -> web.AppRunner:
    """What listens. Its log tells our faults, not strangers': malformed requests, and callers that hang up.

    The server would log each as an error, with a traceback and what was sent. Nor does it unpack what is compressed:
    no path takes that, and a small body must not become a large one.
    """
    faults = logging.getLogger("router.web.server")
    faults.addFilter(_is_ours)
    return web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, logger=faults, auto_decompress=False)


def _is_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))
