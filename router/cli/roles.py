"""The single roles, each a process of its own: what `up` starts as children and what a larger site runs apart."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from channels.messages import Channel
from router.cli.rim import Fault, Session
from router.process_tree import end_with_parent
from router.telemetry import configure_logging

if TYPE_CHECKING:
    from router.runtime import Runtime

PATIENCE_S = 35.0
"""A role that starts while Redis is away waits for it longer than a process tree needs to call it steady: else ten such
starts in a row would stop the whole tree, and with it what Redis' return would find at work."""
LEVELS = click.Choice(["debug", "info", "warning", "error"])
log_level = click.option("--log-level", type=LEVELS, default="info", show_default=True, help="The least to log.")


@click.command()
@log_level
@click.pass_obj
def web(session: Session, log_level: str) -> None:
    """Answer HTTP: API, webhooks, chat, console; hold mailboxes open."""
    from router.web.serve import run_web

    place = session.settings.web
    try:
        _run(session, log_level, "web", run_web)
    except OSError as error:
        raise Fault(
            f"The web role cannot listen on {place.host}:{place.port}: {error.strerror or error}. Stop what uses that "
            "port, or choose another: [web] port, or THROUGHLINE_WEB__PORT."
        ) from error


@click.command()
@click.option(
    "--channel",
    "names",
    multiple=True,
    type=click.Choice([channel.value for channel in Channel]),
    help="Only this one; repeatable.",
)
@log_level
@click.pass_obj
def dispatch(session: Session, names: tuple[str, ...], log_level: str) -> None:
    """Send: lease what is due, say it once, record what came of it."""
    from router.dispatcher import run_dispatcher

    channels = frozenset(Channel(name) for name in names) or frozenset(Channel)
    _run(session, log_level, "dispatch", lambda runtime: run_dispatcher(runtime, channels))


@click.command()
@log_level
@click.pass_obj
def supervise(session: Session, log_level: str) -> None:
    """Judge health, open and close gates, move conversations. One works, others stand by."""
    from router.supervisor import run_supervisor

    _run(session, log_level, "supervise", run_supervisor)


@click.command()
@log_level
@click.pass_obj
def clockwork(session: Session, log_level: str) -> None:
    """Run what is due by the clock: the Celery worker with its beat."""
    _prepare(log_level)
    settings = session.connected(PATIENCE_S)
    from router.jobs import ClockworkStuck, run_clockwork

    try:
        run_clockwork(settings)
    except ClockworkStuck as error:
        raise Fault(f"The clockwork ended itself: {error}. Whatever came due is done when it starts again.") from error


@click.command()
@log_level
@click.pass_obj
def sandbox(session: Session, log_level: str) -> None:
    """Run the stand-in vendors with their fault switches, and the customer's pocket."""
    _prepare(log_level)
    settings = session.settings
    from channels.sandbox.app import run_sandbox

    _until_told(lambda: run_sandbox(settings))


def _run(session: Session, log_level: str, role: str, loop: Callable[["Runtime"], Awaitable[object]]) -> None:
    _prepare(log_level)
    settings = session.connected(PATIENCE_S)

    async def work() -> None:
        from router.runtime import open_runtime

        async with open_runtime(settings, role) as runtime:
            await loop(runtime)

    _until_told(work)


def _prepare(log_level: str) -> None:
    end_with_parent()
    configure_logging(log_level)


def _until_told(work: Callable[[], Awaitable[object]]) -> None:
    """Run until the work ends or SIGINT or SIGTERM cancels it; a second signal changes nothing."""

    async def run() -> None:
        task = asyncio.ensure_future(work())
        loop = asyncio.get_running_loop()
        told = False

        def cancel() -> None:
            nonlocal told
            if not told:
                told = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, cancel)
        try:
            await task
        except asyncio.CancelledError:
            if not told:
                raise

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Where there is a faster event loop, roles run on it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
