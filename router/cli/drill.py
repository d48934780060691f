"""`throughline drill`: rehearse an outage with your own policy, on stand-in vendors that touch no customer."""

import sys
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from channels.sandbox.vendor import Fault as VendorFault
from router.cli.failover import ask_preview, show_preview
from router.cli.rim import Duration, Fault, Session, out

if TYPE_CHECKING:
    from router.runtime import Runtime

FAULTS = {
    "hang": VendorFault.HANG,
    "refuse": VendorFault.REFUSE,
    "5xx": VendorFault.ERROR,
    "drop": VendorFault.DROP_AFTER_ACCEPT,
    "slow": VendorFault.SLOW,
    "lose": VendorFault.LOSE_SILENTLY,
    "flap": VendorFault.FLAP,
}
LASTS_LEAST_S, LASTS_MOST_S = 5.0, 600.0
CUSTOMERS_MAX = 1_000


@click.command()
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@click.option(
    "--fault",
    "faults",
    type=click.Choice(list(FAULTS)),
    multiple=True,
    default=("hang",),
    show_default=True,
    help="What their vendors do; once for all of them, or once for each.",
)
@click.option(
    "--customers", type=click.IntRange(1, CUSTOMERS_MAX), default=40, show_default=True, help="How many are invented."
)
@click.option("--for", "lasts_s", type=Duration(), default="20s", show_default=True, help="The vendor is mended then.")
@click.option("--quick", is_flag=True, help="The demo's shorter hold and ramp instead of your own.")
@click.option("--no-preview", is_flag=True, help="Do not look at the people in the real store.")
@click.pass_obj
def drill(
    session: Session,
    *,
    endpoints: tuple[str, ...],
    faults: tuple[str, ...],
    customers: int,
    lasts_s: float,
    quick: bool,
    no_preview: bool,
) -> None:
    """Rehearse an outage of ENDPOINTs with your own policy, on stand-in vendors; nobody real is touched.

    Without ENDPOINT: of the first one in the settings. Status 1: something was lost, doubled without a flag or out of
    order, the outage was never noticed, or nothing could move.
    """
    # Only this command needs the drill: others start without loading it.
    from router.demo.screen import Screen
    from router.drill.crowd import check_drilled, find_drillable
    from router.drill.plot import Order, announce, run_drill
    from router.drill.rehearsal import RehearsalFault

    settings = session.settings
    drilled = tuple(dict.fromkeys(endpoints)) or tuple(find_drillable(settings)[:1])
    if not drilled:
        raise Fault("No endpoint could be drilled: web chat alone has no vendor that could fail.")
    if not LASTS_LEAST_S <= lasts_s <= LASTS_MOST_S:
        raise click.UsageError(f"--for is from {LASTS_LEAST_S:g}s to {LASTS_MOST_S:g}s.")
    if len(faults) not in {1, len(drilled)}:
        raise click.UsageError(f"Give --fault once for all, or as often as there are endpoints: {len(drilled)}.")
    if len(faults) == 1:
        faults *= len(drilled)
    try:
        check_drilled(settings, drilled)
    except RehearsalFault as error:
        raise Fault(str(error)) from error
    order = Order({one: FAULTS[word] for one, word in zip(drilled, faults, strict=True)}, customers, lasts_s, quick)
    screen = Screen(shown=find_drillable(settings))
    announce(order, screen, whose=str(session.file) if session.file else "no settings file, so the defaults")
    status = run_drill(settings, order, screen)
    if not no_preview and status in {0, 1}:
        _say_what_it_means_now(session, drilled)
    sys.exit(status)


def _say_what_it_means_now(session: Session, drilled: tuple[str, ...]) -> None:
    """The preview of a failover away from `drilled`, from the real store; nothing is changed there."""

    async def ask(runtime: "Runtime") -> None:
        preview = await ask_preview(runtime, drilled, None)
        out.print(f"\nIn your store now, an outage of {', '.join(drilled)}:")
        show_preview(preview, runtime.settings.currency)
        for endpoint, count in sorted(preview.moved.items()):
            rate = runtime.adapters[endpoint].capabilities.rate_per_s
            out.print(f"  {endpoint} takes at most {rate:g} a second: {count / rate:.0f} s for those.")

    try:
        session.ask(ask)
    except Fault as error:
        why = error.message.splitlines()[0].split(". ")[0].rstrip(".")
        out.print(f"\nYour store was not asked what this outage would mean now: {escape(why)}.")
