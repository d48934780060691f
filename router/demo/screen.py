"""What demo and drill show: what happens, line by line, above a live table; a verdict. In a pipe, plain lines."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from channels.sandbox.app import MAIL, PHONE, SMS, SMS_BACKUP
from router.demo.judge import Ledger, Verdict
from router.demo.people import CHAT, Json

WIDTH_MAX = 100
REFRESH_PER_S = 4
SHOWN = (MAIL, CHAT, SMS, SMS_BACKUP, PHONE)
"""The demo's."""
COLOURS = {"up": "green", "suspect": "yellow", "down": "red", "recovering": "cyan", "unknown": "dim"}


@dataclass(slots=True)
class Screen:
    """One terminal, or a file. Enter it around the story; `say` and `verdict` may be used outside, too."""

    shown: Sequence[str] = SHOWN
    """Endpoints, in this order."""
    console: Console = field(default_factory=lambda: Console(highlight=False))
    began: float = field(default_factory=time.monotonic)
    states: Mapping[str, Json] = field(default_factory=dict)
    """What `/v1/endpoints` said last."""
    ledger: Ledger | None = None
    _live: Live | None = None

    def __post_init__(self) -> None:
        self.console.width = min(WIDTH_MAX, self.console.width) if self.console.is_terminal else WIDTH_MAX

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._now, console=self.console, refresh_per_second=REFRESH_PER_S, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self.states:
            self.console.print(self._table())

    def say(self, words: str, style: str = "") -> None:
        """One line that stays, with the seconds since it began."""
        since = time.monotonic() - self.began
        line = Text.assemble((f"{since:5.1f} s  ", "dim"), (words, style))
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def begin(self, phase: str) -> None:
        """A new part of the story."""
        self.console.print()
        self.say(phase, "bold")

    def _now(self) -> Table | str:
        """Nothing until somebody knows how the endpoints are."""
        return self._table() if self.states else ""

    def _table(self) -> Table:
        since = time.monotonic() - self.began
        table = Table(box=SIMPLE_HEAD, title=f"after {since:.0f} s", title_justify="left", pad_edge=False)
        for name in ("endpoint", "status", "gate"):
            table.add_column(name, no_wrap=True, min_width=13 if name == "endpoint" else 10)
        for name in ("due", "answers", "moved here"):
            table.add_column(name, justify="right", min_width=6)
        for endpoint in self.shown:
            table.add_row(endpoint, *self._row(endpoint))
        return table

    def _row(self, endpoint: str) -> tuple[str | Text, ...]:
        state = self.states.get(endpoint)
        if state is None or self.ledger is None:
            return "", "", "", "", ""
        arrived = [one for one in self.ledger.arrived if one.endpoint == endpoint]
        moved = sum(1 for one in arrived if self.ledger.has_moved(one))
        status, gate = str(state["status_out"]), "open" if state["gate_open"] else "closed"
        return (
            Text(status, COLOURS.get(status, "")),
            Text(gate, "" if state["gate_open"] else "red"),
            str(state["due"]),
            str(len(arrived)),
            Text(str(moved or ""), "bold"),
        )

    def settings(
        self, settings: Mapping[str, Mapping[str, object]], accounts: Mapping[str, Mapping[str, object]]
    ) -> None:
        """What the demo sets differently from the defaults."""
        self.console.print(
            "Shorter than by default, so that you need not wait; ordinary settings all the same:", style="dim"
        )
        for table, fields in settings.items():
            self.console.print(f"  {f'[{table}]':<15}" + _fields(fields), style="dim", markup=False)
        for endpoint, fields in accounts.items():
            self.console.print(f"  {endpoint:<15}" + _fields(fields), style="dim", markup=False)

    def verdict(self, verdict: Verdict) -> None:
        """What the records say, in two tables and one sentence."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("outage", "noticed after", "first moved", "last moved", "moved", "notices"):
            table.add_column(name, justify="left" if name == "outage" else "right", no_wrap=name == "outage")
        for one in verdict.outages:
            times = (seconds(one.noticed_s), seconds(one.first_s), seconds(one.last_s))
            table.add_row(f"{one.outage.endpoint} {one.outage.words}", *times, str(one.moved), str(one.notices))
        self.console.print("What vendors and browsers recorded; only `noticed` is the router's own word:", style="bold")
        self.console.print(table)
        self.counts(verdict)
        self.console.print()
        for fault in verdict.faults:
            self.console.print(Text(f"  {fault}", "red"))

    def counts(self, verdict: Verdict) -> None:
        """What was said, and what must not have happened to it."""
        counts = (
            ("questions asked", verdict.asked, True),
            ("answers that arrived", verdict.answered, verdict.answered == verdict.asked),
            ("moved to another endpoint", verdict.moved, True),
            ("lost", len(verdict.lost), not verdict.lost),
            ("doubled, and flagged so", verdict.doubled_flagged, True),
            ("doubled without a flag", len(verdict.doubled), not verdict.doubled),
            ("out of order", len(verdict.reordered), not verdict.reordered),
            ("second notices of an outage", len(verdict.notices_repeated), not verdict.notices_repeated),
            ("unexpected messages", len(verdict.strange), not verdict.strange),
        )
        for words, count, good in counts:
            self.console.print(Text.assemble(f"  {words:<28}", (f"{count:>5}", "" if good else "bold red")))


def _fields(fields: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}" for name, value in fields.items()
    )


def seconds(count: float) -> str:
    """For a table: `4.2 s`; none, a dash."""
    return f"{count:.1f} s" if count else "-"
