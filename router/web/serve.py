"""The web role: the HTTP listener, the mailboxes it holds open, its beat."""

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from channels.contract import Listening
from router.listening import listen_alone
from router.rollback import RollbackWatch
from router.web.app import build_app
from router.workers import keep_beating, worker_name

if TYPE_CHECKING:
    from router.runtime import Runtime

SHUTDOWN_S = 3.0

log = structlog.get_logger()


async def run_web(runtime: "Runtime") -> None:
    """Serve until cancelled. Raises OSError when the port is taken."""
    settings = runtime.settings.web
    runner = web.AppRunner(build_app(runtime), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
        log.info("web.started", host=settings.host, port=settings.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(runtime.desk.run())
            group.create_task(keep_beating(runtime.core, worker_name("web"), "web"))
            group.create_task(runtime.switchboard.empty_spool())
            group.create_task(RollbackWatch(runtime.store, runtime.clock, runtime.core.spool).run())
            for endpoint, adapter in runtime.adapters.items():
                if isinstance(adapter, Listening) and adapter.capabilities.listens_in == "web":
                    group.create_task(listen_alone(runtime.core, endpoint, adapter, runtime.switchboard.accept))
    finally:
        await runner.cleanup()
