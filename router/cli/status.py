"""`throughline status` shows endpoints, incidents and forced failovers; `throughline audit` checks the invariants."""

import sys
import time
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from health.report import Status
from router.cli.rim import CLOCKWORK_LATE_S, FAULT_STATUS, Session, ago, clock_time, out, say_frozen, say_went_back
from router.held_desk import HELD_PAGE_MAX
from router.store import keys
from router.store.freezing import read_frozen
from router.store.going_back import read_went_back

if TYPE_CHECKING:
    from router.runtime import Runtime

COLOURS = {
    Status.UP: "green",
    Status.SUSPECT: "yellow",
    Status.DOWN: "red",
    Status.RECOVERING: "cyan",
    Status.UNKNOWN: "dim",
}


@click.command()
@click.pass_obj
def status(session: Session) -> None:
    """Each endpoint's state and why, open incidents, forced failovers."""
    session.ask(_show_status)


async def _show_status(runtime: "Runtime") -> None:
    now = time.time()
    if restored := await read_frozen(runtime.store.redis):
        out.print(f"[red]{escape(say_frozen(restored, now))}.[/red]\n")
    if went_back := await read_went_back(runtime.store.redis):
        out.print(f"[red]{escape(say_went_back(went_back, now))}.[/red] See deploy/runbook/redis-down.md\n")
    table = Table(box=None, pad_edge=False)
    for name in ("endpoint", "provider", "out", "in", "gate", "share", "due", "for"):
        table.add_column(name, no_wrap=True)
    table.add_column("why")
    for state in await runtime.switchboard.endpoints():
        forced = f"forced {state.forced}; " if state.forced else ""
        table.add_row(
            state.id,
            state.provider,
            _coloured(state.out),
            _coloured(state.in_),
            "open" if state.gate_open else "[red]closed[/red]",
            f"{state.share:.0%}",
            str(state.due),
            ago(state.since, now),
            escape(forced + (state.words or state.reason)),
        )
    out.print(table)
    if frozen := await runtime.switchboard.frozen():
        words = f"Moves: [red]frozen[/red] for {ago(frozen.since, now)}, as it seems to be us"
        out.print(f"\n{words}: {escape(frozen.words)}. Messages are still accepted")
    incidents = await runtime.switchboard.incidents(open_only=True)
    out.print(f"\nOpen incidents: {len(incidents) or 'none'}")
    for incident in incidents:
        seen = f"; {incident.acknowledged_by} looks after it" if incident.acknowledged_by else ""
        out.print(f"  {escape(incident.id)}  {escape(incident.title + seen)}")
    failovers = await runtime.switchboard.failovers()
    out.print(f"Forced failovers: {len(failovers) or 'none'}")
    for failover in failovers:
        out.print(
            f"  {failover.id}  away from {escape(', '.join(sorted(failover.scope)))} to {failover.target or 'any'} "
            f"until {clock_time(failover.expires_at)}: {escape(failover.why)} ({escape(failover.who)})"
        )
    out.print(await _say_held(runtime, now))
    out.print(await _say_clockwork(runtime, now))


async def _say_held(runtime: "Runtime", now: float) -> str:
    """What matches no conversation, and only agents can file."""
    page = await runtime.switchboard.held(limit=HELD_PAGE_MAX)
    if not page.items:
        return "Held: nothing waits for a sender's proof"
    count = sum(one.count for one in page.items)
    words = "1 message waits" if count == 1 else f"{count} messages wait"
    more = "more than " if page.next_cursor else ""
    oldest = ago(page.items[0].since, now)
    return f"Held: {more}{words} for a sender's proof; oldest {oldest}. See deploy/runbook/held-messages.md"


async def _say_clockwork(runtime: "Runtime", now: float) -> str:
    """Whether jobs go through; nothing that customers wait for depends on them."""
    at = float(await runtime.store.redis.call("GET", keys.BEAT) or 0)
    if not at:
        return "Clockwork: never ran here"
    if now - at > CLOCKWORK_LATE_S:
        return f"Clockwork: [red]has not ticked for {now - at:.0f} s[/red]; start `throughline clockwork`"
    return f"Clockwork: last ran {ago(at, now)} ago"


def _coloured(status: Status) -> str:
    return f"[{COLOURS[status]}]{status}[/{COLOURS[status]}]"


@click.command()
@click.pass_obj
def audit(session: Session) -> None:
    """Check every invariant over everything stored. Status 1 if anything is wrong."""
    findings = session.ask(_audit)
    for finding in findings:
        out.print(f"[red]{escape(str(finding))}[/red]")
    if findings:
        out.print(f"\n{len(findings)} findings. Each is a bug: keep the data folder and report them.")
        sys.exit(FAULT_STATUS)
    out.print("Nothing wrong: every accepted message is in one place, in order, within its bounds.")


async def _audit(runtime: "Runtime") -> list[object]:
    from router.audit.auditor import audit as find_faults

    core = runtime.core
    return list(await find_faults(core.store, core.control, core.board, core.files, now=core.clock.now()))
