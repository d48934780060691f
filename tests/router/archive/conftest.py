"""A store on a virtual clock, and an archive: in a SQLite file, and (marked `peer`) in a real PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pg8000.dbapi
import pytest

from channels.messages import Content, Kind
from health.report import EndpointId
from router.archive.archive import Archive
from router.archive.database import Database, Postgres, SqliteFile
from router.archive.postgres_url import connect_arguments
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import LeaseTerms, NewConversation, NewLeg, NewMessage, Rebind, Settlement
from router.store.connecting import connect
from router.store.redis import Pipelined
from router.store.store import Store

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")
CONSOLE = EndpointId("chat/console")
NOWHERE = EndpointId("")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)
P = "tl:{s0}:"


@dataclass
class Shelf:
    """A store on a virtual clock, and an archive."""

    store: Store
    archive: Archive
    clock: list[int]

    async def accept(
        self, conversation: str, text: str, side: SideName, *, create: str = "", key: str = "", original: str = ""
    ) -> str:
        answer = await self.store.accept(
            conversation,
            NewMessage(
                new_id("m", 0, self.clock[0]),
                side,
                Kind.MESSAGE,
                "somebody",
                "Somebody",
                Content(text, subject="Réponse"),
                MessageClass.NORMAL,
                0,
                NOWHERE,
                original=original,
            ),
            natural_key=key,
            reopen=True,
            create=NewConversation(
                create,
                "4F2K9",
                "Order",
                "fr",
                MessageClass.NORMAL,
                3,
                "billing",
                NewLeg(create, MAIL, "email:ann@example.org"),
                NewLeg("", CONSOLE, "chat:console@chat/console"),
            )
            if create
            else None,
        )
        assert answer.verdict in {"new", "duplicate"}
        return answer.message_id

    async def drain(self) -> None:
        """Say everything that waits, on both sides."""
        while True:
            leased = [*await self.lease(MAIL), *await self.lease(SMS), *await self.lease(CONSOLE)]
            if not leased:
                return
            for one in leased:
                row = Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")
                await self.store.settle(
                    0, [Settlement(*_values(row), vendor_ids=(f"<{one.token}>",), receipt_within_s=60)]
                )

    async def lease(self, endpoint: EndpointId):
        return await self.store.lease(endpoint, "w1", 50, TERMS)

    async def talk(self, customer: str = "c0-ann", *, words: str = "Où est ma commande?") -> str:
        """A conversation that moved once, said and heard, and closed."""
        identity = new_id("v", 0, self.clock[0])
        await self.accept(identity, words, SideName.AGENT, create=customer, key=f"k{identity}", original="ab" * 32)
        await self.accept(identity, "It left on Monday.", SideName.CUSTOMER)
        await self.drain()
        await self.store.rebind(0, [Rebind(identity, SideName.CUSTOMER, 1, SMS, "sms:+15550100", "failover")])
        await self.accept(identity, "Anything else?", SideName.CUSTOMER)
        await self.drain()
        assert await self.store.close(identity) == "ok"
        return identity

    async def left(self, identity: str) -> list[str]:
        """Keys of Redis that speak of a conversation or its messages."""
        names = [str(name) for name in await self.store.redis.call("KEYS", "*")]
        return sorted(name for name in names if identity in name or name.startswith(f"{P}m:"))


def _values(row: Settlement) -> tuple[object, ...]:
    return row.conversation_id, row.side, row.message_id, row.number, row.fence, row.outcome


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server of our own."""

    folder: Path
    binaries: Path

    @property
    def url(self) -> str:
        """How the archive reaches it."""
        return f"postgresql://throughline:{PASSWORD}@/postgres?host={self.folder}"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs, as somebody who is not root: it refuses root."""
        user = "postgres" if os.geteuid() == 0 else None
        command = [str(self.binaries / program), "-D", str(self.folder / "cluster"), *arguments]
        subprocess.run(command, user=user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=60)


PASSWORD = "a-pass%2Fword"
"""`a-pass/word`, as a URL writes it."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Started once a test process, on a Unix socket; it keeps nothing, so it need not wait for the disk."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "PostgreSQL is missing. Debian, Ubuntu: apt install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="tl-pg-"))
    try:
        (folder / "password").write_text("a-pass/word")
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        one = Cluster(folder, found[-1].parent)
        one.run(
            "initdb", "-U", "throughline", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync",
            "-E", "UTF8", "--locale=C.UTF-8",
        )  # fmt: skip
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        one.run("pg_ctl", "start", "-w", "-o", options, "-l", str(folder / "log"))
        try:
            yield one
        finally:
            one.run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres(cluster: Cluster) -> Postgres:
    """An empty database on a real server."""
    with pg8000.dbapi.connect(**connect_arguments(cluster.url)) as connection:
        connection.autocommit = True
        connection.cursor().execute("DROP SCHEMA IF EXISTS throughline CASCADE")
    return Postgres(cluster.url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.peer)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "archive.sqlite3")
    return request.getfixturevalue("postgres")


@pytest.fixture
async def shelf(redis_url: str, database: Database) -> AsyncIterator[Shelf]:
    """All of it, empty."""
    clock = [1_800_000_000_000]
    redis = Pipelined(connect(redis_url))
    shelf = Shelf(Store(redis, now_ms=lambda: clock[0]), Archive(database), clock)
    yield shelf
    await shelf.archive.close()
    await redis.close()
