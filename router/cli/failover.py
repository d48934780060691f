"""`throughline failover`: lead traffic away from endpoints by hand. It needs Redis, and nothing else of ours."""

import time
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from health.report import EndpointId
from router.cli.rim import Duration, Fault, Session, ago, clock_time, count_of, out, who_asks

if TYPE_CHECKING:
    from router.domain.failover import Preview
    from router.runtime import Runtime

FOR_DEFAULT = "1h"
WHY_MAX = 200
"""Characters of a reason, as /v1 takes it: it stands on everybody's screen."""
IF_UNKNOWN = "`throughline failover list` shows those that hold now, with --all the ended ones too."

scope_argument = click.argument("scope", nargs=-1, required=True, metavar="ENDPOINT...")
target_option = click.option(
    "--to", "target", metavar="ENDPOINT", help="Where to. Without it: wherever each route leads."
)


@click.group()
def failover() -> None:
    """Lead conversations away from endpoints, whatever health says. It ends by itself."""


@failover.command()
@scope_argument
@target_option
@click.pass_obj
def preview(session: Session, scope: tuple[str, ...], target: str | None) -> None:
    """Say whom a failover would move and what it would cost; change nothing."""

    async def ask(runtime: "Runtime") -> None:
        show_preview(await ask_preview(runtime, scope, target), runtime.settings.currency)

    session.ask(ask)


@failover.command()
@scope_argument
@target_option
@click.option("--why", required=True, help="The reason; everybody sees it.")
@click.option("--for", "lasts_s", type=Duration(), default=FOR_DEFAULT, show_default=True, help="Ends by itself then.")
@click.option("--yes", is_flag=True, help="Do not ask after the preview.")
@click.pass_obj
def start(session: Session, *, scope: tuple[str, ...], target: str | None, why: str, lasts_s: float, yes: bool) -> None:
    """Show the preview, ask, then move."""
    _check(why, lasts_s)

    async def begin(runtime: "Runtime") -> None:
        if not yes:
            show_preview(await ask_preview(runtime, scope, target), runtime.settings.currency)
            if not click.confirm("Start it?"):
                raise click.Abort
        forced = await runtime.switchboard.start_failover(
            scope=_known(runtime, scope),
            target=_known(runtime, (target,))[0] if target else None,
            who=who_asks(),
            why=why,
            expires_in_s=lasts_s,
        )
        out.print(
            f"Started {forced.id}, until {clock_time(forced.expires_at)}. The supervisor moves what is due within "
            f"seconds; watch it with `throughline status`. End it earlier with `throughline failover stop {forced.id}`."
        )

    session.ask(begin)


@failover.command()
@click.argument("failover_id", metavar="FAILOVER")
@click.pass_obj
def stop(session: Session, failover_id: str) -> None:
    """End one: back to health's view. Nobody is moved home at once."""

    async def end(runtime: "Runtime") -> None:
        forced = await runtime.switchboard.stop_failover(failover_id, who_asks())
        out.print(f"Ended {forced.id}. Conversations stay where they are until health sends them home.")

    session.ask(end, if_unknown=IF_UNKNOWN)


@failover.command("list")
@click.option("--all", "ended_too", is_flag=True, help="Also those that ended.")
@click.pass_obj
def show_all(session: Session, ended_too: bool) -> None:
    """What is forced now, by whom, why and until when."""

    async def show(runtime: "Runtime") -> None:
        found = await runtime.switchboard.failovers(active_only=not ended_too)
        for forced in found:
            out.print(
                f"{forced.id}  away from {', '.join(sorted(forced.scope))} to {forced.target or 'any'}, "
                f"begun {ago(forced.started_at, time.time())} ago, until "
                f"{clock_time(forced.ended_at or forced.expires_at)}: {escape(forced.why)} ({escape(forced.who)})"
            )
        if not found:
            out.print("No forced failover.")

    session.ask(show)


async def ask_preview(runtime: "Runtime", scope: tuple[str, ...], target: str | None) -> "Preview":
    """What a failover would do now; nothing moves. Raises Fault for an endpoint there is not."""
    return await runtime.switchboard.preview_failover(
        scope=_known(runtime, scope), target=_known(runtime, (target,))[0] if target else None
    )


def _check(why: str, lasts_s: float) -> None:
    """What would be refused after the preview and a yes to it is refused before."""
    from router.operations import EXPIRES_LEAST_S, EXPIRES_MOST_S

    if not EXPIRES_LEAST_S <= lasts_s <= EXPIRES_MOST_S:
        words = f"a forced failover lasts between {EXPIRES_LEAST_S:.0f}s and {EXPIRES_MOST_S / 86_400:.0f}d."
        raise click.BadParameter(words, param_hint="'--for'")
    if not why.strip() or len(why) > WHY_MAX or not why.isprintable():
        words = f"say why on one line of at most {WHY_MAX} characters: it stands in the journal and on all screens."
        raise click.BadParameter(words, param_hint="'--why'")


def _known(runtime: "Runtime", names: tuple[str, ...]) -> list[EndpointId]:
    unknown = [name for name in names if name not in runtime.adapters]
    if unknown:
        there = ", ".join(sorted(runtime.adapters))
        raise Fault(f"There is no endpoint {', '.join(unknown)}; nothing was changed. There are: {there}.")
    return [EndpointId(name) for name in names]


def show_preview(preview: "Preview", currency: str) -> None:
    """Print it, prices in `currency`."""
    total = sum(preview.moved.values())
    if total:
        said = f"saying {count_of(preview.messages, 'message')} for {preview.cost} {currency}"
        out.print(f"Would move {count_of(total, 'conversation side')}, {said}:")
    else:
        out.print("Nothing would move.")
    for endpoint, count in sorted(preview.moved.items()):
        out.print(f"  {count:>7} to {endpoint}")
    for name, counts in (("wait", preview.parked), ("stay", preview.stayed)):
        for cause, count in sorted(counts.items()):
            out.print(f"  {count:>7} {name}: {cause.replace('_', ' ')}")
    if preview.parked_until:
        out.print(f"  The last that wait are looked at by {clock_time(preview.parked_until)}.")
