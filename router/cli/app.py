"""The command line: `throughline up` runs everything, the other commands look at it, steer it, or run one role."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from router.cli import backup, bench, conversation, customer, doctor, drill, endpoint, failover, key, roles, status, up
from router.cli.rim import SETTINGS_STATUS, Session, say_fault
from router.domain.catalogues import WordingError
from router.settings import SETTINGS_FILE, SETTINGS_VARIABLE, SettingsError


def _version() -> str:
    try:
        return version("throughline")
    except PackageNotFoundError:
        return "not installed, run from its folder"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--settings",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The settings file. Without it: ${SETTINGS_VARIABLE}, else ./{SETTINGS_FILE} if it is there.",
)
@click.version_option(_version(), prog_name="throughline")
@click.pass_context
def throughline(context: click.Context, path: Path | None) -> None:
    """An outage-aware omnichannel message router.

    Without any settings, `throughline up` runs on stand-in vendors: watch an outage by hand in two minutes.
    """
    context.obj = Session(path)


for command in (
    up.up,
    up.demo,
    roles.web,
    roles.dispatch,
    roles.supervise,
    roles.clockwork,
    roles.sandbox,
    doctor.doctor,
    status.status,
    status.audit,
    failover.failover,
    drill.drill,
    conversation.conversation,
    customer.customer,
    key.key,
    endpoint.endpoint,
    bench.bench,
    backup.backup,
    backup.restore,
    backup.resume,
):
    throughline.add_command(command)


def main() -> None:
    """Run the command that was typed; wrong settings end it with status 2 and one line for each fault."""
    try:
        throughline()
    except (SettingsError, WordingError) as error:
        say_fault(f"The settings cannot be used; nothing was started.\n{error}")
        sys.exit(SETTINGS_STATUS)
