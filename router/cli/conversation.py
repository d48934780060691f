"""`throughline conversation`: list what is open, show one with every attempt, answer one."""

import secrets
import time
from typing import TYPE_CHECKING

import click
from rich.table import Table

from router.archive.records import Sought
from router.cli.rim import Session, ago, clock_time, out, plain
from router.continuing import FIELD
from router.domain.conversation import Message, SideName

if TYPE_CHECKING:
    from router.domain.foresight import NextLeg
    from router.runtime import Runtime
    from router.switchboard import ConversationView

SHOWN_MAX = 200
"""Conversations in a list; messages read at a time."""
TRANSCRIPT_MAX = 20_000
"""Messages of one conversation that are shown at once."""
AUTHOR = "cli"
IF_UNKNOWN = (
    "Name a conversation by its reference, like 4F2K9, or its id: `throughline conversation list` shows the open ones, "
    "--closed and --archived the others."
)
IF_NO_CUSTOMER = "`throughline conversation show REFERENCE` says whose a conversation is, with the customer's id."


@click.group()
def conversation() -> None:
    """Look at conversations and answer them."""


@conversation.command("list")
@click.option("--closed", is_flag=True, help="Closed ones too.")
@click.option("--archived", is_flag=True, help="Archived ones instead, closed last first.")
@click.option("--customer", "customer_id", default="", metavar="ID", help="Of this customer.")
@click.option("--text", default="", metavar="WORDS", help="With --archived: where one message has all these words.")
@click.option("--limit", type=click.IntRange(1, SHOWN_MAX), default=50, show_default=True)
@click.pass_obj
def list_them(session: Session, closed: bool, archived: bool, customer_id: str, text: str, limit: int) -> None:
    """Whoever waits longest for us comes first."""
    if text and not archived:
        raise click.UsageError("--text searches the archive: add --archived.")

    async def show(runtime: "Runtime") -> None:
        if archived:
            page = await runtime.switchboard.archived_conversations(Sought(customer_id, text=text), limit=limit)
        else:
            page = await runtime.switchboard.conversations(
                open_only=not closed, customer_id=customer_id or None, limit=limit
            )
        now = time.time()
        table = Table("reference", "customer", "at", "agent's side", "waits", "subject", box=None, pad_edge=False)
        for view in page.items:
            table.add_row(
                view.conversation.reference,
                plain(view.customer.name or "(no name)"),
                view.customer_side.leg.endpoint or "parked",
                view.agent_side.leg.endpoint or "parked",
                ago(view.conversation.waiting_since, now),
                plain(view.conversation.subject[:50]),
            )
        out.print(table if page.items else "No conversation.")
        if page.next_cursor:
            more = "raise --limit" if limit < SHOWN_MAX else "the API lists all of them, page by page"
            out.print(f"There are more: {more}.")

    session.ask(show, if_unknown=IF_NO_CUSTOMER)


@conversation.command()
@click.argument("identity", metavar="ID-OR-REFERENCE")
@click.option("--last", type=click.IntRange(1, TRANSCRIPT_MAX), default=50, show_default=True, help="Messages to show.")
@click.pass_obj
def show(session: Session, identity: str, last: int) -> None:
    """The transcript's end in order, with every attempt and why the conversation is where it is."""

    async def ask(runtime: "Runtime") -> None:
        view = await runtime.switchboard.conversation(identity, archived_too=True)
        _show_head(view)
        if (leg := await runtime.switchboard.next_leg(view)) is not None:
            _show_next(leg, view.customer_side.leg.endpoint)
        out.print("")
        messages = await _read_end(runtime, view.conversation.id, last)
        if messages and (earlier := messages[0].sequence - 1):
            whole = earlier + len(messages)
            how = f"--last {whole} shows them" if whole <= TRANSCRIPT_MAX else "the API has them, page by page"
            out.print(f"  {earlier} earlier messages are left out: {how}.\n")
        for message in messages:
            _show_message(message)

    session.ask(ask, if_unknown=IF_UNKNOWN)


@conversation.command()
@click.argument("identity", metavar="ID-OR-REFERENCE")
@click.argument("text")
@click.option("--as", "name", default="", metavar="NAME", help="Who speaks. Without it: the organisation.")
@click.pass_obj
def reply(session: Session, identity: str, text: str, name: str) -> None:
    """Say something to the customer, wherever the conversation is now."""

    async def say(runtime: "Runtime") -> None:
        view = await runtime.switchboard.conversation(identity)
        sent = await runtime.switchboard.send(
            view.conversation.id,
            text=text,
            author=AUTHOR,
            author_name=name or runtime.settings.organisation,
            idempotency_key=secrets.token_urlsafe(16),
        )
        out.print(
            f"Accepted as {sent.message_id}; it goes out at {sent.endpoint or 'no endpoint yet: it is parked'}. "
            f"See how far it got: throughline conversation show {view.conversation.reference}"
        )

    session.ask(say, if_unknown=IF_UNKNOWN)


async def _read_end(runtime: "Runtime", identity: str, count: int) -> list[Message]:
    """The transcript's last `count` messages, in order."""
    found: list[Message] = []
    while len(found) < count:
        wanted = min(SHOWN_MAX, count - len(found))
        before = found[0].sequence if found else 0
        part = await runtime.switchboard.transcript_part(identity, before_sequence=before, limit=wanted)
        found[:0] = part.messages
        if len(part.messages) < wanted:
            break
    return found


def _show_head(view: "ConversationView") -> None:
    about = view.conversation
    state = "open" if about.open else f"closed {clock_time(about.closed_at)}"
    state += ", archived: it can only be read" if view.archived else ""
    out.print(f"[bold]{about.reference}[/bold]  {plain(about.subject)}  ({state}; {about.id})")
    if older := about.fields.get(FIELD):
        out.print(f"  goes on with  {plain(older)}, which is archived")
    out.print(f"  customer      {plain(view.customer.name or '(no name)')}  {view.customer.id}")
    for name, side in (("customer's side", view.customer_side), ("agent's side", view.agent_side)):
        where = f"{side.leg.endpoint} {side.leg.address}" if side.leg.endpoint else "parked"
        out.print(f"  {name:<15} {plain(where)}, epoch {side.epoch}, {side.queued} waiting ({plain(side.leg.reason)})")


def _show_next(leg: "NextLeg", here: str) -> None:
    """Where the next message would go; where that is not where the conversation is, what speaks against each other."""
    until = f", until {clock_time(leg.waits_until)}" if leg.waits_until else ""
    where = f"to {leg.endpoint}" if leg.endpoint else "nowhere yet"
    out.print(f"  {'next message':<15} {where}{until}: {leg.reason.words}")
    if leg.endpoint and leg.endpoint == here:
        return
    for choice in leg.route.choices:
        if not choice.taken:
            out.print(f"  {'':<15} not {choice.endpoint}: {choice.reason.words}")


def _show_message(message: Message) -> None:
    arrow = "->" if message.side is SideName.CUSTOMER else "<-"
    marks = [
        word
        for word, true in (
            ("possible duplicate", message.possible_duplicate),
            ("late", message.late),
            ("unverified", message.unverified),
        )
        if true
    ]
    notes = "; ".join([message.state.value, *marks, *([message.reason] if message.reason else [])])
    who = plain(message.author_name or message.author)
    out.print(f"{message.sequence:>4} {arrow} {clock_time(message.created_at)}  [bold]{who}[/bold]  ({plain(notes)})")
    for line in message.content.text.splitlines():
        out.print(f"        {plain(line)}")
    for attempt in message.attempts:
        took = f", {attempt.ended_at - attempt.begun_at:.2f} s" if attempt.ended_at else ""
        why = f": {plain(attempt.reason)}" if attempt.reason else ""
        out.print(
            f"        [dim]attempt {attempt.number} at {attempt.endpoint}: {attempt.outcome or 'open'}{why}{took}[/dim]"
        )
