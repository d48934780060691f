"""What every command shares: settings, a running router, errors said in words, exit statuses."""

import asyncio
import getpass
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click
import redis
from rich.console import Console
from rich.markup import escape

from channels.text import clean_text
from router.settings import Settings, default_broker_url, find_settings_file, load_settings
from router.store.connecting import open_primaries, without_password
from router.store.freezing import Frozen
from router.store.going_back import WentBack
from router.telemetry import configure_logging

if TYPE_CHECKING:
    from router.runtime import Runtime

FAULT_STATUS: Final = 1
"""Something is wrong with the router, or a check found something."""
SETTINGS_STATUS: Final = 2
"""The command or the settings are wrong; nothing was done."""
RUN_FILE = "run.json"
"""In `data_dir`: where the private Redis of a running `throughline up` is."""
ANSWER_WITHIN_S = 3.0
ASK_AGAIN_S = 0.5
CLOCKWORK_LATE_S = 150.0
"""Jobs run each minute: two missed ones are a fault."""
DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h|d)$")
UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Answer = TypeVar("Answer")

WIDTH_IN_PIPE = 200
"""Columns of a table that no terminal shows: wide enough that nothing is broken apart."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_IN_PIPE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Fault(click.ClickException):
    """Ends a command with status 1 and a text that says what happened, what it means and what to do."""

    exit_code = FAULT_STATUS

    def show(self, file: IO[Any] | None = None) -> None:
        """Say it on standard error."""
        del file
        say_fault(self.message)


class Session:
    """One run of the command line: the settings are read when a command first needs them."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @cached_property
    def file(self) -> Path | None:
        """The settings file in use, absolute; None: defaults and environment alone."""
        return find_settings_file(self.path)

    @cached_property
    def settings(self) -> Settings:
        """The settings as they are. Raises SettingsError."""
        return load_settings(self.path)

    def connected(self, patience_s: float = 0.0) -> Settings:
        """The settings with the Redis to use in them: their own, or the private one of a running `throughline up`.

        It is asked again for `patience_s` seconds where it does not answer.

        Raises:
            Fault: there is none, or it does not answer.
        """
        settings = with_redis(self.settings)
        if settings.redis_url is None:
            raise Fault(
                "There is no Redis to ask: `throughline up` is not running with data_dir "
                f"{settings.data_dir}, and redis_url is not set. Start it, or set redis_url."
            )
        until = time.monotonic() + patience_s
        while (fault := ping(settings.redis_url)) and time.monotonic() < until:
            time.sleep(ASK_AGAIN_S)
        if fault:
            raise Fault(
                f"Redis does not answer at {without_password(settings.redis_url)}: {fault}. Until it does, nothing "
                "can be read or changed. What to do: deploy/runbook/redis-down.md."
            )
        return settings

    def ask(self, question: Callable[["Runtime"], Awaitable[Answer]], *, if_unknown: str = "") -> Answer:
        """Open the router without any of its loops, ask it, close it; its errors become words.

        `if_unknown` is said too where what was named is not there: how to find what is.
        """
        return asyncio.run(_ask(self.connected(), question, if_unknown))


async def _ask(settings: Settings, question: Callable[["Runtime"], Awaitable[Answer]], if_unknown: str) -> Answer:
    # Imported here: commands that need no router start without loading it.
    from router.runtime import open_runtime
    from router.switchboard import NotFound, StoreUnavailable, SwitchboardError

    configure_logging("warning")  # what is asked for is said by the command; a log line would stand in between
    async with open_runtime(settings, "cli") as runtime:
        try:
            return await question(runtime)
        except NotFound as error:
            raise Fault(f"{error.words} {if_unknown}".rstrip()) from error
        except (SwitchboardError, StoreUnavailable) as error:
            raise Fault(error.words) from error
        except redis.RedisError as error:
            raise Fault(
                f"Redis stopped answering: {error}. What was asked may or may not be done: look again."
            ) from error


def with_redis(settings: Settings) -> Settings:
    """Fill in Redis and broker: what is set wins, then the private Redis of a running `up`, then nothing."""
    url = settings.redis_url or read_run_file(settings.data_dir)
    if url is None:
        return settings
    return settings.model_copy(
        update={"redis_url": url, "broker_url": settings.broker_url or default_broker_url(url)},
    )


def ping(url: str) -> str:
    """Why Redis does not answer at `url`, without a full stop; empty: it does."""
    try:
        with open_primaries(url, timeout_s=ANSWER_WITHIN_S) as servers:
            for server in servers:
                server.ping()
    except redis.RedisError as error:
        return str(error).rstrip(".")
    return ""


def write_run_file(data_dir: Path, url: str) -> None:
    """Let other commands on this machine find the private Redis."""
    (data_dir / RUN_FILE).write_text(json.dumps({"redis_url": url}) + "\n", encoding="utf-8")


def read_run_file(data_dir: Path) -> str | None:
    """The private Redis of the last `up`; None: there was none, or it was stopped cleanly."""
    try:
        found: dict[str, str] = json.loads((data_dir / RUN_FILE).read_text(encoding="utf-8"))
        return found["redis_url"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Fault(f"{data_dir / RUN_FILE} is damaged. Stop `throughline up`, delete it, start again.") from error


def say_fault(text: str) -> None:
    """On standard error, in red where there is colour."""
    err.print(f"[red]{escape(text)}[/red]")


def plain(text: str) -> str:
    """Somebody's words, fit for a terminal: neither our markup nor the terminal's own commands."""
    return escape(clean_text(text))


def who_asks() -> str:
    """Who runs this command, for the journal: in a container it may be a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return f"uid {os.getuid()}"


def say_frozen(frozen: Frozen, now: float) -> str:
    """One line for whoever looks at a frozen store."""
    if not frozen.whole:
        return "Frozen: a restore broke off; nothing is sent. Empty the store and restore again"
    return (
        f"Frozen for {ago(frozen.since, now)}: restored from a backup of {clock_time(frozen.backup_at)}; messages are "
        "accepted, and nothing is sent or moved until `throughline resume`. `throughline resume --list` says what waits"
    )


def say_went_back(found: WentBack, now: float) -> str:
    """One line for whoever looks at a store that lost what it had taken."""
    marked = f"{found.flagged} messages are" if found.flagged != 1 else "1 message is"
    return (
        f"Redis came back older than it was {ago(found.at, now)} ago: {marked} marked as possible duplicates, and what "
        "was accepted in the time that is missing may be lost"
    )


class Duration(click.ParamType[float]):
    """`90s`, `30m`, `2h`, `1d`, as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds; a usage error where it has another form."""
        if isinstance(value, int | float):
            return float(value)
        found = DURATION.match(str(value))
        if found is None:
            self.fail(f"{value!r} is no duration. Write 90s, 30m, 2h or 1d.", param, ctx)
        return float(found[1]) * UNIT_S[found[2]]


def ago(then: float, now: float) -> str:
    """How long since `then`, for a table: `3 s`, `12 min`, `5 h`, `2 d`; empty for 0."""
    if not then:
        return ""
    seconds = max(0.0, now - then)
    for bound, unit, size in ((120, "s", 1), (7_200, "min", 60), (172_800, "h", 3_600)):
        if seconds < bound:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def count_of(number: int, noun: str) -> str:
    """How many, in words: `1 message`, `0 messages`, `2 conversation sides`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clock_time(at: float) -> str:
    """A Unix time as people here read it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""
