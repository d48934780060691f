"""The archive in PostgreSQL: what is true of it alone. The URL's part needs no server."""

import sys
from pathlib import Path
from typing import Any

import pytest

from channels.messages import Address, Channel, InboundMessage
from health.report import EndpointId
from router.archive.archive import Archive
from router.archive.database import ArchiveError, Postgres, database_of
from router.archive.moving import archive_conversation
from router.archive.postgres_url import connect_arguments
from router.archive.records import Sought
from router.runtime import open_runtime
from router.settings import Settings
from router.store.asked import LeaseTerms, Settlement

Shelf = Any
"""Of conftest.py."""
URL = "postgresql://tl:a-pass%2Fword@db.example.org:6432/archive?sslmode=require"


@pytest.fixture
def database(postgres: Postgres) -> Postgres:
    """A real server alone."""
    return postgres


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (URL, {"user": "tl", "password": "a-pass/word", "host": "db.example.org", "port": 6432, "ssl_context": True}),
        ("postgres://tl@db/a", {"password": None, "port": 5432, "database": "a", "ssl_context": None}),
        ("postgresql://tl@/a?host=/run/postgresql", {"unix_sock": "/run/postgresql/.s.PGSQL.5432"}),
        ("postgresql://tl@db/a?sslmode=disable", {"ssl_context": False}),
    ],
)
def test_the_url_is_read_as_libpq_does(url: str, wanted: dict[str, object]) -> None:
    """What people copy from their provider works."""
    found = connect_arguments(url)
    assert {name: found[name] for name in wanted} == wanted


def test_verify_full_checks_whom_the_certificate_names() -> None:
    """And verify-ca only who signed it."""
    assert connect_arguments("postgresql://db/a?sslmode=verify-full")["ssl_context"].check_hostname
    assert not connect_arguments("postgresql://db/a?sslmode=verify-ca")["ssl_context"].check_hostname


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/a",
        "postgresql://db",
        "postgresql://db/a?sslmode=maybe",
        "postgresql://db/a?options=-c",
        "postgresql://tl:pa/ss@db/a",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    """Before anything is started, and without a word of the password."""
    with pytest.raises(ValueError) as said:
        connect_arguments(url)
    assert "pa" not in str(said.value).replace("password", "").replace("parameter", "")


def test_no_password_is_shown() -> None:
    """Neither where it is printed nor in its words."""
    database = Postgres(URL)
    assert "pass" not in f"{database!r} {database} {database.words}"
    assert database.words == "PostgreSQL archive at db.example.org:6432"
    assert database_of(URL, None) == database


async def test_a_missing_driver_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "pg8000", None)
    monkeypatch.setitem(sys.modules, "pg8000.dbapi", None)
    archive = Archive(Postgres(URL))
    with pytest.raises(ArchiveError, match="pip install 'throughline\\[postgres\\]'"):
        await archive.check()
    await archive.close()


async def test_a_server_that_is_not_there_is_said_without_the_password() -> None:
    """Within the bound, and Redis keeps everything."""
    archive = Archive(Postgres("postgresql://tl:a-pass%2Fword@127.0.0.1:1/archive"))
    with pytest.raises(ArchiveError, match=r"PostgreSQL archive at 127\.0\.0\.1:1 cannot be used") as said:
        await archive.check()
    assert "pass" not in str(said.value)
    await archive.close()


@pytest.mark.peer
async def test_a_wrong_password_is_the_servers_sentence(cluster: Any) -> None:
    """Not a dictionary of fields."""
    archive = Archive(Postgres(cluster.url.replace("a-pass", "no-pass")))
    with pytest.raises(ArchiveError, match="cannot be used: password authentication failed") as said:
        await archive.check()
    assert "no-pass" not in str(said.value)
    await archive.close()


async def test_the_servers_sentence_is_found_behind_the_drivers_stumble() -> None:
    """The driver says goodbye to a connection that the server closed with its refusal, and reports only that."""

    class Refusing:
        words, is_remote, faults = "PostgreSQL archive at db:5432", True, (OSError, LookupError)

        def open(self) -> None:
            try:
                raise LookupError({"S": "FATAL", "M": "too many connections"})
            finally:
                raise OSError("network error")

    archive = Archive(Refusing())
    with pytest.raises(ArchiveError, match="cannot be used: too many connections"):
        await archive.check()
    await archive.close()


@pytest.mark.peer
async def test_a_connection_that_the_server_ended_is_made_anew(shelf: Shelf, database: Postgres) -> None:
    """Servers are restarted; a statement that finds its connection gone is said again over another one."""
    identity = await shelf.talk()
    await shelf.archive.check()
    other = database.open()
    others = "FROM pg_stat_activity WHERE usename = 'throughline' AND pid <> pg_backend_pid()"
    assert (True,) in other.ask(f"SELECT pg_terminate_backend(pid) {others}")
    other.driver.close()
    assert await archive_conversation(shelf.store, shelf.archive, identity) == "ok"


@pytest.mark.peer
async def test_our_tables_stand_apart(shelf: Shelf, database: Postgres) -> None:
    """A table of the same name that is somebody else's is left alone; each commit waits for the disk."""
    other = database.open()
    other.run("DROP TABLE IF EXISTS public.messages")
    other.run("CREATE TABLE public.messages (theirs INTEGER)")
    await archive_conversation(shelf.store, shelf.archive, await shelf.talk())
    assert other.ask("SELECT count(*) FROM public.messages") == [(0,)]
    assert other.ask("SELECT count(*) FROM throughline.messages") == [(3,)]
    assert other.ask("SHOW synchronous_commit") == [("on",)]
    other.driver.close()


@pytest.mark.peer
async def test_the_router_archives_reads_and_erases_there(postgres: Postgres, redis_url: str, tmp_path: Path) -> None:
    """By its settings alone: no file is made."""
    settings = Settings(redis_url=redis_url, data_dir=tmp_path, archive_url=postgres.url, secret="s" * 40)
    async with open_runtime(settings, "web") as runtime:
        event = InboundMessage(
            endpoint=EndpointId("sms/sandbox"), vendor_id="1", sender=Address(Channel.SMS, "+12025550177"),
            text="Wo ist mein Paket?", sent_at=0.0,
        )  # fmt: skip
        identity = (await runtime.switchboard.accept(event)).conversation_id
        for one in await runtime.store.lease(
            EndpointId("chat/console"), "w", 9, LeaseTerms(8.0, {"normal": 60.0}, False, 3)
        ):
            await runtime.store.settle(
                0, [Settlement(identity, one.side, one.message_id, one.number, one.fence, "sent")]
            )
        await runtime.store.close(identity)
        assert await archive_conversation(runtime.store, runtime.core.archive, identity) == "ok"
        view = await runtime.switchboard.conversation(identity, archived_too=True)
        assert view.archived and view.last_text == "Wo ist mein Paket?"
        (found,) = (await runtime.switchboard.archived_conversations(Sought(text="PAKET"))).items
        assert found.conversation.id == identity
        erased = await runtime.switchboard.erase_customer(view.customer.id, who="cli", why="asked for it")
        assert erased.archived == 1
        assert (await runtime.switchboard.archived_conversations(Sought())).items == []
    assert not list(tmp_path.glob("archive*"))
