"""`throughline key`: make, list and revoke the bearer keys of the API."""

from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from router.api_keys import Role
from router.cli.rim import Fault, Session, clock_time, out

if TYPE_CHECKING:
    from router.runtime import Runtime


@click.group()
def key() -> None:
    """Keys for the API and the console."""


@key.command()
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]), help="What it may do.")
@click.option("--name", required=True, help="Whose it is; shown in lists and in the journal.")
@click.option("--agent", "agent_id", default="", metavar="AGENT", help="The agent who speaks through it.")
@click.pass_obj
def create(session: Session, role: str, name: str, agent_id: str) -> None:
    """Make a key. It is shown once and kept as a hash only."""

    async def make(runtime: "Runtime") -> None:
        there = [agent.id for agent in await runtime.switchboard.agents()] if agent_id else []
        if agent_id and agent_id not in there:
            named = f"There are: {', '.join(there)}" if there else "There is none yet: POST /v1/agents makes one"
            raise Fault(f"There is no agent {agent_id}; no key was made. {named}.")
        try:
            key_id, plain = await runtime.keys.create(Role(role), name, agent_id)
        except ValueError as error:
            raise Fault(f"No key was made: {error}.") from error
        out.print(plain)
        out.print(f"This is key {key_id}. Keep it now: nobody can show it again.", style="dim")

    session.ask(make)


@key.command("list")
@click.pass_obj
def list_keys(session: Session) -> None:
    """All keys, oldest first, without their secrets."""

    async def show(runtime: "Runtime") -> None:
        table = Table("id", "role", "name", "agent", "made", box=None, pad_edge=False)
        for found in await runtime.keys.list():
            table.add_row(
                found.id, found.role, escape(found.name), escape(found.agent_id), clock_time(found.created_at)
            )
        out.print(table)

    session.ask(show)


@key.command()
@click.argument("key_id", metavar="KEY")
@click.pass_obj
def revoke(session: Session, key_id: str) -> None:
    """End a key and the console sessions begun with it, at once."""

    async def end(runtime: "Runtime") -> None:
        if not await runtime.keys.revoke(key_id):
            raise Fault(f"There is no key {key_id}; nothing was changed. `throughline key list` shows all.")
        out.print(f"Revoked {key_id}.")

    session.ask(end)
