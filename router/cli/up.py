"""`throughline up` runs everything in one process tree; `throughline demo` tells the story of two outages."""

import asyncio
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from channels.messages import Address, Channel
from channels.registry import listens_on
from channels.sandbox.app import DEMO_CUSTOMERS
from channels.sandbox.pocket_site import Person
from router.api_keys import Role
from router.cli.rim import RUN_FILE, Fault, Session, err, out, ping, read_run_file, with_redis, write_run_file
from router.domain.conversation import Binding
from router.private_redis import NoRedisFound, PrivateRedis
from router.process_tree import Child, Listener, ProcessTree, TreeStopped, end_orphaned_redis, find_taken
from router.settings import (
    PRIVATE_FOLDER_MODE,
    SETTINGS_VARIABLE,
    Settings,
    default_broker_url,
    write_private_file,
)
from router.settings_faults import ENVIRONMENT_PREFIX
from router.telemetry import configure_logging

if TYPE_CHECKING:
    from router.runtime import Runtime

ADMIN_KEY_FILE = "admin.key"
"""In `data_dir`: the first admin's key, for its owner's eyes only."""
SANDBOX_PORTS = 6
"""The pocket, four vendors, and our mail listener that one of them delivers to."""


@click.command()
@click.pass_obj
def up(session: Session) -> None:
    """Run everything here: private Redis, web, dispatchers, supervisor, clockwork; without endpoints, the sandbox.

    Ctrl-C stops it all and leaves nothing behind; what was accepted is found again at the next start.
    """
    configure_logging("warning")
    settings = session.settings
    with only_one(settings.data_dir):
        if taken := find_taken(listeners(settings)):
            raise Fault("Nothing was started.\n" + "\n".join(taken))
        server = start_redis(settings)
        try:
            if server is not None:
                write_run_file(settings.data_dir, server.url)
            _run_tree(session, with_redis(settings), server)
        finally:
            if server is not None:
                server.stop()
                (settings.data_dir / RUN_FILE).unlink(missing_ok=True)
    out.print("Stopped. Everything that was accepted is on disk; the next start finds it.")


@click.command()
@click.option("--customers", type=click.IntRange(4, 5_000), default=200, show_default=True, help="How many take part.")
@click.pass_obj
def demo(session: Session, customers: int) -> None:
    """Tell the story unattended: customers on four channels, two outages, a recovery; judge it by what vendors got."""
    from router.demo.story import run_demo

    del session
    sys.exit(run_demo(customers=customers))


def listeners(settings: Settings) -> list[Listener]:
    """The ports that `up` will listen on, each with the setting that chooses it."""
    own = [
        Listener(*place, setting=f"the listener's port in the [[endpoints]] table of {endpoint.id}")
        for endpoint in settings.endpoints
        if (place := listens_on(endpoint))
    ]
    return [_web(settings), *(_sandbox(settings) if settings.sandbox_enabled else []), *own]


def _web(settings: Settings) -> Listener:
    return Listener(settings.web.host, settings.web.port, "[web] port, or THROUGHLINE_WEB__PORT")


def _sandbox(settings: Settings) -> list[Listener]:
    """The customer's pocket first, then the vendors' ports."""
    table = settings.sandbox
    setting = "[sandbox] port, or THROUGHLINE_SANDBOX__PORT, which moves all six of the sandbox"
    return [Listener(table.host, table.port + number, setting) for number in range(SANDBOX_PORTS)]


def children(settings: Settings, file: Path | None) -> list[Child]:
    """What runs, in the order it starts: vendors first, so that nobody begins by finding them down."""
    environment = {
        f"{ENVIRONMENT_PREFIX}DATA_DIR": str(settings.data_dir),
        f"{ENVIRONMENT_PREFIX}REDIS_URL": settings.redis_url or "",
        f"{ENVIRONMENT_PREFIX}BROKER_URL": settings.broker_url or default_broker_url(settings.redis_url or ""),
        "PROMETHEUS_MULTIPROC_DIR": str(settings.data_dir / "metrics"),
        "PYTHONUNBUFFERED": "1",
    }
    if file is not None:
        environment[SETTINGS_VARIABLE] = str(file)

    def child(name: str, *arguments: str, listener: Listener | None = None) -> Child:
        return Child(name, (sys.executable, "-m", "router", *arguments), listener, environment)

    vendors = [child("sandbox", "sandbox", listener=_sandbox(settings)[0])] if settings.sandbox_enabled else []
    dispatchers = [
        child(f"dispatch-{channel}", "dispatch", "--channel", channel.value) for channel in served_channels(settings)
    ]
    return [
        *vendors,
        child("web", "web", listener=_web(settings)),
        *dispatchers,
        child("supervise", "supervise"),
        child("clockwork", "clockwork"),
    ]


def served_channels(settings: Settings) -> list[Channel]:
    """The channels that have an endpoint. Chat always has: the console, and our own page."""
    if settings.sandbox_enabled:
        return list(Channel)
    configured = {endpoint.id.split("/")[0] for endpoint in settings.endpoints} | {Channel.CHAT.value}
    return [channel for channel in Channel if channel.value in configured]


def _run_tree(session: Session, settings: Settings, server: PrivateRedis | None) -> None:
    metrics = settings.data_dir / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)  # counters of processes that are gone
    metrics.mkdir(mode=PRIVATE_FOLDER_MODE)
    key = asyncio.run(prepare_store(settings))
    logs = settings.data_dir / "log"
    err.print(f"Starting. Logs: {escape(str(logs))}/")
    tree = ProcessTree(
        children(settings, session.file),
        log_folder=logs,
        private_redis=server,
        say=lambda text: err.print(escape(text)),
        when_ended=lambda pid: _forget_gauges(metrics, pid),
    )
    try:
        asyncio.run(tree.run(lambda: _say_where_to_look(settings, key)))
    except TreeStopped as error:
        raise Fault(str(error)) from error


def _forget_gauges(metrics: Path, pid: int) -> None:
    """A process that ended is counted no longer; its counters stay (prometheus_client, multiprocess mode)."""
    for file in metrics.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)


async def prepare_store(settings: Settings) -> str:
    """What a first start needs: an admin's key, and in the sandbox the customers whose pockets it shows.

    Returns the key, which stays in `data_dir/admin.key`; a new one is made where Redis does not know that one any more.
    """
    from router.runtime import open_runtime

    async with open_runtime(settings, "cli") as runtime:
        if settings.sandbox_enabled:
            for person in DEMO_CUSTOMERS:
                await _introduce_customer(runtime, person)
        return await _first_admin_key(runtime)


async def _first_admin_key(runtime: "Runtime") -> str:
    file = runtime.settings.data_dir / ADMIN_KEY_FILE
    kept = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    if kept and await runtime.keys.check(kept) is not None:
        return kept
    _, plain = await runtime.keys.create(Role.ADMIN, "first admin")
    write_private_file(file, plain)
    return plain


async def _introduce_customer(runtime: "Runtime", person: Person) -> None:
    """They agreed to mail, texts and calls; otherwise there would be nowhere to move to."""
    mailbox = Address(Channel.EMAIL, person.email)
    if await runtime.switchboard.find_customers(mailbox):
        return
    places = [mailbox, Address(Channel.SMS, person.phone), Address(Channel.PHONE, person.phone)]
    bindings = [Binding(place, verified=True, order=order) for order, place in enumerate(places)]
    await runtime.switchboard.create_customer(name=person.name, locale="en", bindings=bindings)


def _say_where_to_look(settings: Settings, key: str) -> None:
    base = settings.public_url
    lines = [
        ("Console", f"{base}/console/#{key}"),
        ("Customer's chat", f"{base}/chat"),
        ("API", f"{base}/docs"),
    ]
    if settings.sandbox_enabled:
        pocket = f"http://{settings.sandbox.host}:{settings.sandbox.port}/"
        lines.insert(2, ("Customer's pocket", f"{pocket}   mailbox, phone, and a fault switch for each vendor"))
    out.print("\n[bold]Throughline is up.[/bold]")
    for name, where in lines:
        out.print(f"  {name:<18} {escape(where)}")
    out.print(
        f"  {'Admin key':<18} in {escape(str(settings.data_dir / ADMIN_KEY_FILE))}; keep the console's link to you"
    )
    if settings.sandbox_enabled:
        out.print("It runs on stand-in vendors. For real ones: [bold]throughline endpoint add[/bold].")
    out.print("Ctrl-C stops it.\n")


def start_redis(settings: Settings) -> PrivateRedis | None:
    """The private Redis, started; None where the settings name one, which must answer."""
    if settings.redis_url is not None:
        if fault := ping(settings.redis_url):
            raise Fault(
                f"Redis does not answer: {fault}. Start it, or correct redis_url; without redis_url a private "
                "one is started."
            )
        return None
    if left := read_run_file(settings.data_dir):
        end_orphaned_redis(left)
    try:
        server = PrivateRedis(settings.data_dir / "redis")
        server.start()
    except (NoRedisFound, RuntimeError) as error:
        raise Fault(str(error)) from error
    return server


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Keep a second `up` away from the same folder: two servers on one folder would destroy it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER_MODE)
        descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Fault(
            f"data_dir: the folder {data_dir} cannot be written: {error.strerror}. Give this user the folder, or name "
            "another one. Nothing was started."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Fault(
                f"`throughline up` is already running on {data_dir}. Look at it with `throughline status`, or give "
                "this one a data_dir of its own."
            ) from error
        yield
    finally:
        os.close(descriptor)
