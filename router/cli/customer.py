"""`throughline customer`: erase one, wherever they stand."""

from typing import TYPE_CHECKING

import click

from router.cli.conversation import IF_NO_CUSTOMER
from router.cli.rim import Fault, Session, count_of, out, plain, who_asks

if TYPE_CHECKING:
    from router.runtime import Runtime


@click.group()
def customer() -> None:
    """Look after what we keep of people."""


@customer.command()
@click.argument("customer_id", metavar="ID")
@click.option("--why", required=True, help="The reason; it stays in the journal, so it may not name them.")
@click.option("--close", is_flag=True, help="Also while conversations of theirs are open: what waits is never said.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def erase(session: Session, customer_id: str, why: str, close: bool, yes: bool) -> None:
    """Remove a customer: names, addresses, all that was said, files, archive. The journal keeps ids.

    Nothing brings it back. Backups and other machines' disks: deploy/runbook/erase-a-customer.md.
    """

    from router.switchboard import Conflict

    async def look(runtime: "Runtime") -> str:
        found = await runtime.switchboard.customer(customer_id)
        addresses = "1 address" if len(found.bindings) == 1 else f"{len(found.bindings)} addresses"
        still_open = await runtime.store.open_of_customer(found.id)
        return f"{plain(found.name) or '(no name)'}, {addresses}, {count_of(len(still_open), 'open conversation')}."

    async def end(runtime: "Runtime") -> None:
        try:
            erased = await runtime.switchboard.erase_customer(customer_id, who=who_asks(), why=why, close=close)
        except Conflict as error:
            if error.reason == "conversations_open":
                raise Fault(f"{error.words} Here: add --close. Nothing was erased.") from error
            raise
        also = f" with {', '.join(erased.aliases)}" if erased.aliases else ""
        out.print(
            f"Erased {erased.customer_id}{also}: {erased.conversations} conversations, {erased.archived} archived "
            f"ones, {erased.files} files, {erased.spooled} entries of the spool."
        )

    if not yes:
        out.print(session.ask(look, if_unknown=IF_NO_CUSTOMER))
        click.confirm("Erase them? Nothing brings it back", abort=True)
    session.ask(end, if_unknown=IF_NO_CUSTOMER)
