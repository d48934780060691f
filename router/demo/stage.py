"""The stage of demo and drill: vendors in this process, the real process tree beside it, all of it gone afterwards."""

import asyncio
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from channels.sandbox.app import MAIL, PHONE, SMS, SMS_BACKUP, Sandbox, SandboxSettings
from router.cli.up import children, prepare_store
from router.private_redis import PrivateRedis
from router.process_tree import ProcessTree
from router.settings import (
    PRIVATE_FOLDER_MODE,
    SETTINGS_FILE,
    Settings,
    default_broker_url,
    load_settings,
    write_private_file,
)
from router.settings_faults import ENVIRONMENT_PREFIX
from router.telemetry import configure_logging

STOP_WITHIN_S = 5.0
"""There is nothing left to send when it stops."""
VENDOR_LOG = "vendors.log"

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "failover": {"one_move_per_s": 3.0},
    "messages": {"hold_while_down_s": 2.0},
    "health": {"hold_s": 2.0, "ramp_s": 4.0},
}
"""What the demo sets shorter than the defaults; every one an ordinary setting."""
HOLD_S = 4.0
"""How long an unknown outcome waits for a receipt: stand-in vendors send theirs within a second."""
ACCOUNTS: Mapping[str, Mapping[str, object]] = {
    MAIL: {"rate_per_s": 50.0, "hold_s": HOLD_S},
    SMS: {"rate_per_s": 50.0, "hold_s": HOLD_S},
    SMS_BACKUP: {"rate_per_s": 100.0, "hold_s": HOLD_S},
    PHONE: {"rate_per_s": 20.0, "hold_s": HOLD_S},
}
"""What the accounts at the vendors allow, and how long an unknown outcome waits for a receipt there."""


class StageFault(Exception):
    """The stage could not be built, or fell down; the text says why."""


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, closed the terminal, or asked the process to end."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything, running."""

    settings: Settings
    key: str
    """An admin's."""
    sandbox: Sandbox
    playing: asyncio.Task[None]
    """Ends when the tree does: because a child will not live."""
    interrupted: asyncio.Event
    """Set by SIGINT, SIGTERM and SIGHUP."""


def make_folder(name: str = "demo") -> Path:
    """A temporary folder for its owner's eyes only."""
    return Path(tempfile.mkdtemp(prefix=f"throughline-{name}-"))


def forget_environment() -> None:
    """The play has settings of its own: the environment's, which would win over them, are for another router."""
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
        del os.environ[name]


@asynccontextmanager
async def open_stage(
    folder: Path, sandbox: Sandbox, write: Callable[[], str], say: Callable[[str], None]
) -> AsyncIterator[Stage]:
    """Vendors, private Redis and process tree; all ended on leaving, whatever happened.

    `write` is called once the vendors listen, and returns the text of `throughline.toml`. `say` is told when a
    process of the tree dies.

    Raises:
        StageFault, TreeStopped: it could not be started.
        Interrupted: before it was ready.
        NoRedisFound: there is no Redis binary.
    """
    logs = folder / "log"
    logs.mkdir()
    with (logs / VENDOR_LOG).open("a", encoding="utf-8") as log:
        configure_logging("info", log)  # the vendors live in this process, whose terminal tells a story
        await sandbox.start()
        server = PrivateRedis(folder / "redis")
        try:
            await asyncio.to_thread(server.start)
            file = folder / SETTINGS_FILE
            write_private_file(file, write())
            settings = _with_redis(load_settings(file), server)
            key = await prepare_store(settings)
            async with _playing(settings, file, server, say) as (playing, interrupted):
                yield Stage(settings, key, sandbox, playing, interrupted)
        finally:
            server.stop()
            await sandbox.stop()
            configure_logging("error")


@asynccontextmanager
async def _playing(
    settings: Settings, file: Path, server: PrivateRedis, say: Callable[[str], None]
) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.Event]]:
    (settings.data_dir / "metrics").mkdir(mode=PRIVATE_FOLDER_MODE)
    tree = ProcessTree(
        children(settings, file),
        log_folder=settings.data_dir / "log",
        private_redis=server,
        say=lambda text: say(text.split("\n")[0]),  # the log has the rest
        stop_within_s=STOP_WITHIN_S,
    )
    ready, interrupted = asyncio.Event(), asyncio.Event()
    playing = asyncio.create_task(tree.run(ready.set))
    await asyncio.sleep(
        0
    )  # now the tree listens to signals; we take them out of its hands: people leave before it goes
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    waits = [asyncio.create_task(event.wait()) for event in (ready, interrupted)]
    try:
        await asyncio.wait({playing, *waits}, return_when=asyncio.FIRST_COMPLETED)
        if interrupted.is_set():
            raise Interrupted
        if playing.done():
            playing.result()
            raise StageFault("The process tree ended before it was ready.")
        yield playing, interrupted
    finally:
        for wait in waits:
            wait.cancel()
        tree.stop()
        await asyncio.gather(playing, return_exceptions=True)


def clear(folder: Path) -> None:
    """Remove everything that was written."""
    shutil.rmtree(folder)


def write_settings(port: int, tables: list[dict[str, object]]) -> str:
    """The `throughline.toml` of the demo."""
    head = {"organisation": "Example Parcels", "data_dir": "."}
    accounts = [{**row, **ACCOUNTS[str(row["id"])]} for row in tables]
    return write_toml(head, {"web": {"port": port}, **SETTINGS}, accounts)


def write_toml(
    head: Mapping[str, object], tables: Mapping[str, Mapping[str, object]], endpoints: Sequence[Mapping[str, object]]
) -> str:
    """A `throughline.toml`: what stands at its head, its tables, its endpoints."""
    lines = [f"{name} = {_toml(value)}" for name, value in head.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{field} = {_toml(value)}" for field, value in table.items())]
    for row in endpoints:
        lines += ["", "[[endpoints]]", *(f"{field} = {_toml(value)}" for field, value in row.items())]
    return "\n".join(lines)


def vendor_settings(folder: Path, port: int) -> SandboxSettings:
    """Vendors on any free ports, whose webhooks reach the router on `port`, whose telephones are answered."""
    return SandboxSettings(
        pocket_port=0,
        mail_port=0,
        sms_port=0,
        sms_backup_port=0,
        phone_port=0,
        lmtp_port=0,
        router_url=f"http://127.0.0.1:{port}",
        journal_folder=folder / "sandbox",
        secret=SecretStr(""),
        phone_auto="answer",
    )


def _with_redis(settings: Settings, server: PrivateRedis) -> Settings:
    return settings.model_copy(update={"redis_url": server.url, "broker_url": default_broker_url(server.url)})


def _toml(value: object) -> str:
    """Strings, numbers, truths and flat tables, as TOML writes them."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
