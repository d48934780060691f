"""`throughline backup`, `restore` and `resume`: a copy of everything, back into an empty store, and its release."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import redis
from rich.markup import escape

from router.cli.rim import RUN_FILE, Fault, Session, ago, clock_time, count_of, out, ping, with_redis, write_run_file
from router.cli.up import only_one, start_redis
from router.settings import Settings
from router.store.freezing import read_frozen, thaw

if TYPE_CHECKING:
    from router.runtime import Runtime

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command()
@file_argument
@click.pass_obj
def backup(session: Session, file: Path) -> None:
    """Copy everything durable of a running router into FILE: the store, its archive, its files.

    It holds names, addresses and what was said, and is readable by you alone. It does not hold settings, nor the
    secret: keep those apart, or reply addresses and chat sessions out there are invalid after a restore elsewhere.
    """
    from router.backup import BackupFault, make_backup

    if not file.parent.is_dir():
        raise Fault(f"No backup was made: there is no folder {file.parent}. Make it, or name another.")
    settings = session.connected()
    try:
        made = make_backup(settings, file)
    except BackupFault as error:
        raise Fault(str(error)) from error
    except redis.RedisError as error:
        raise Fault(f"No backup was made: Redis stopped answering: {error}. Try again.") from error
    out.print(
        f"{escape(str(file))}: {made.bytes / 1e6:.1f} MB as of {clock_time(made.made_at)}: the store"
        f"{f' in {made.parts} parts' if made.parts > 1 else ''}, {made.files} files, "
        f"{'the archive' if made.has_archive else 'no archive'}. Copy it to another machine."
    )


@click.command()
@file_argument
@click.option("--check", is_flag=True, help="Only say whether the backup is sound; change nothing.")
@click.pass_obj
def restore(session: Session, file: Path, check: bool) -> None:
    """Put the backup in FILE into an empty store. It starts frozen: nothing is sent until `throughline resume`."""
    from router.backup import BackupFault, read_backup, restore_backup
    from router.private_redis import NoRedisFound

    try:
        found = read_backup(file)
        if check:
            words = f"{found.bytes / 1e6:.1f} MB as of {clock_time(found.made_at)}, {found.files} files"
            out.print(f"{escape(str(file))} is sound: {words}.")
            return
        with _to_fill(session) as settings:
            restored = restore_backup(settings, file)
            out.print(
                f"Restored {restored.keys} records as of {clock_time(found.made_at)}, and {restored.files} files."
                + (" There was an archive already; it knows more, and stays." if restored.kept_archive else "")
            )
            session.ask(_complete)
    except (BackupFault, NoRedisFound, RuntimeError) as error:
        raise Fault(str(error)) from error
    except redis.RedisError as error:
        raise Fault(
            f"Redis stopped answering: {error}. The store is frozen, and may hold a part of the backup: stop every "
            "role, empty it and restore again."
        ) from error


@click.command()
@click.option("--list", "only_list", is_flag=True, help="Only say what would be sent.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def resume(session: Session, only_list: bool, yes: bool) -> None:
    """Let a restored store send again, after saying what that would be."""

    async def work(runtime: "Runtime") -> None:
        frozen = await read_frozen(runtime.store.redis)
        if frozen is None:
            out.print("Nothing is frozen: what is due is being sent.")
            return
        if not frozen.whole:
            raise Fault(
                "A restore broke off here, so a part of the backup is missing, and this store stays frozen. Stop "
                "every role, empty it and restore again."
            )
        await _say_what_waits(runtime)
        if only_list:
            return
        if not yes and not click.confirm("Send it?"):
            raise click.Abort
        await thaw(runtime.store.redis)
        for shard in range(runtime.store.shards):
            await runtime.store.note(shard, "store.resumed", {"backup_at": frozen.backup_at})
        out.print("Sending. Watch it with `throughline status`.")

    session.ask(work)


@contextmanager
def _to_fill(session: Session) -> Iterator[Settings]:
    """The settings with the Redis to fill: yours, or the private one, which runs for as long as it takes."""
    settings = session.settings
    if settings.redis_url is not None:
        if fault := ping(settings.redis_url):
            raise Fault(f"Redis does not answer: {fault}. Start it, or correct redis_url. Nothing was changed.")
        yield settings
        return
    with only_one(settings.data_dir):
        server = start_redis(settings)
        if server is None:
            raise Fault("There is no Redis to restore into.")
        try:
            write_run_file(settings.data_dir, server.url)
            yield with_redis(settings)
        finally:
            server.stop()
            (settings.data_dir / RUN_FILE).unlink(missing_ok=True)


async def _complete(runtime: "Runtime") -> None:
    from router.restoring import complete

    done = await complete(runtime.core)
    out.print(
        f"{done.flagged} messages waited then, and may have been sent since: each is marked as a possible repeat."
        + (f" {done.spools_again} spools of the last ten minutes are taken again." if done.spools_again else "")
    )
    await _say_what_waits(runtime)
    out.print("The store is frozen. Start the roles, look around, then: `throughline resume`.")


async def _say_what_waits(runtime: "Runtime") -> None:
    from router.restoring import what_waits

    now = runtime.clock.now()
    waiting = await what_waits(runtime.core)
    if not waiting:
        out.print("Nothing waits to be sent.")
    for one in waiting:
        least = "" if one.all_counted else "at least "
        where = one.endpoint or "not decided where"
        count = f"{count_of(one.messages, 'message')} in {count_of(one.sides, 'conversation side')}"
        out.print(f"{escape(where)}: {least}{count}; the oldest:")
        for message in one.oldest:
            what = message.message_id or "a notice"
            whom = "customer" if message.to_customer else "agent"
            out.print(f"  {what}  of {message.conversation_id} to the {whom}, {ago(message.since, now)} old")
