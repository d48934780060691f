"""One SQL for two databases: a SQLite file, or PostgreSQL by URL, behind the same few calls."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from router.archive.postgres_url import ANSWER_WITHIN_S, connect_arguments
from router.archive.schema import SCHEMA, SCHEMA_VERSION, SQLITE_VERSION_ONE, fill_from_version_one

BUSY_S = 10.0
"""How long a writer waits for another process's transaction."""
ROWS_TOGETHER = 200
"""Rows of one INSERT; at most 14 columns each, so far below the 32,766 values SQLite takes."""
POSTGRES_SCHEMA = "throughline"
"""Where our tables stand, so that a database may hold others' too."""

Row = tuple[Any, ...]


class ArchiveError(Exception):
    """The archive cannot be used; the text says why and what to do, and holds no password."""


class DriverCursor(Protocol):
    """What we use of a cursor (PEP 249)."""

    @property
    def rowcount(self) -> int:
        """Rows that the last statement changed."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> object:
        """Run a statement."""

    def fetchall(self) -> Sequence[Any]:
        """Every row that it found."""


class DriverConnection(Protocol):
    """What we use of a connection (PEP 249)."""

    def cursor(self) -> Any:
        """A cursor."""

    def commit(self) -> object:
        """Make it durable."""

    def rollback(self) -> object:
        """Forget it."""

    def close(self) -> object:
        """Let go."""


@dataclass(slots=True)
class Connection:
    """An open database; `?` stands for a value in every statement."""

    driver: DriverConnection
    mark: str
    begin: str = "BEGIN"
    """How a transaction that writes begins."""

    def ask(self, sql: str, *values: Any) -> list[Row]:
        """Every row that a query finds."""
        cursor: DriverCursor = self.driver.cursor()
        cursor.execute(self._marked(sql), values)
        return [tuple(row) for row in cursor.fetchall()]

    def run(self, sql: str, *values: Any) -> int:
        """How many rows a statement changed."""
        cursor: DriverCursor = self.driver.cursor()
        cursor.execute(self._marked(sql), values)
        return cursor.rowcount

    def add(self, table: str, columns: str, rows: Sequence[Sequence[Any]], *, then: str = "") -> None:
        """Insert rows, many in a statement. NUL, which PostgreSQL's text cannot hold, is left out."""
        count = columns.count(",") + 1
        one = f"({', '.join('?' * count)})"
        for start in range(0, len(rows), ROWS_TOGETHER):
            some = rows[start : start + ROWS_TOGETHER]
            sql = f"INSERT INTO {table} ({columns}) VALUES {', '.join([one] * len(some))} {then}"  # noqa: S608 - our own names
            self.run(sql, *(_storable(value) for row in some for value in row))

    def _marked(self, sql: str) -> str:
        return sql if self.mark == "?" else sql.replace("?", self.mark)


class Database(Protocol):
    """Where the archive stands."""

    @property
    def words(self) -> str:
        """Which one it is, for people: no password."""

    @property
    def is_remote(self) -> bool:
        """A connection may be broken through no fault of ours: another one is tried once."""

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What its driver raises."""

    def open(self) -> Connection:
        """A connection with the tables in place. Raises ArchiveError: a newer version, no driver; and its faults."""

    def scrub(self, connection: Connection) -> None:
        """After an erasure, outside any transaction: what was deleted leaves our own files too."""


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """One file with a write-ahead log; other processes may read beside us."""

    path: Path
    faults: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
    is_remote: bool = False

    @property
    def words(self) -> str:
        """Which one it is."""
        return str(self.path)

    def open(self) -> Connection:
        """The file, made where it is not there, for its owner alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)
        driver = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            connection = Connection(driver, "?", "BEGIN IMMEDIATE")  # else two that read first may both want to write
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                driver.execute(f"PRAGMA {pragma}")  # FULL: on disk before Redis forgets
            if connection.ask("PRAGMA user_version") != [(SCHEMA_VERSION,)]:
                with transaction(connection):
                    _make_tables(connection, self.words, had=connection.ask("PRAGMA user_version")[0][0])
                    # The program of version 1 looks only here.
                    driver.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except BaseException:  # whatever happened: the file is not left open
            driver.close()
            raise
        return connection

    def scrub(self, connection: Connection) -> None:
        """`secure_delete` wrote zeros; the log is written back and emptied."""
        connection.ask("PRAGMA wal_checkpoint(TRUNCATE)")


@dataclass(frozen=True, slots=True)
class Postgres:
    """A PostgreSQL server, in a schema of our own."""

    url: str = field(repr=False)
    is_remote: bool = True

    @property
    def words(self) -> str:
        """Which one it is."""
        parts = urlsplit(self.url)
        folder = parse_qs(parts.query).get("host", [""])[0]
        return f"PostgreSQL {unquote(parts.path.lstrip('/'))} at {folder or parts.hostname}:{parts.port or 5432}"

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What its driver raises."""
        return (_driver().Error, OSError)

    def open(self) -> Connection:
        """A connection that waits for the server's disk at each commit."""
        driver = _driver().connect(**connect_arguments(self.url))
        try:
            driver.autocommit = True
            connection = Connection(driver, "%s")
            connection.run(f"SET statement_timeout = '{ANSWER_WITHIN_S:.0f}s'")
            connection.run(f"SET lock_timeout = '{BUSY_S:.0f}s'")
            # Stricter than `on` stays as it is.
            connection.ask(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            )
            with transaction(connection):
                connection.ask("SELECT pg_advisory_xact_lock(7401)")  # two processes that start at once make it once
                if connection.ask("SELECT to_regnamespace(?) IS NULL", POSTGRES_SCHEMA)[0][0]:
                    connection.run(f"CREATE SCHEMA {POSTGRES_SCHEMA}")
                connection.run(f"SET search_path TO {POSTGRES_SCHEMA}")
                _make_tables(connection, self.words, had=0)
        except BaseException:  # whatever happened: the connection is not left open
            with suppress(Exception):
                driver.close()
            raise
        return connection

    def scrub(self, connection: Connection) -> None:
        """Nothing: no query finds what was deleted, and the server's own autovacuum gives its pages free."""


def database_of(url: str, path: Path) -> Database:
    """The database of a URL; the file where there is none."""
    return Postgres(url) if url else SqliteFile(path)


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """All of it, or nothing; durable at the end."""
    connection.run(connection.begin)
    try:
        yield
        connection.run("COMMIT")
    except BaseException:  # cancelled or not: no transaction may stay open
        with suppress(Exception):  # a connection that is gone has forgotten it already
            connection.run("ROLLBACK")
        raise


def _make_tables(connection: Connection, words: str, *, had: int) -> None:
    """Tables of our version, in the caller's transaction. `had`: the version that stands elsewhere than in a table."""
    connection.run("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    rows = connection.ask("SELECT version FROM schema_version")
    version = max(had, rows[0][0] if rows else 0)
    if version > SCHEMA_VERSION:
        raise ArchiveError(f"{words} was written by a newer version ({version}). Upgrade this program.")
    if version == SCHEMA_VERSION:
        return
    if version == SQLITE_VERSION_ONE:
        connection.run("DROP TABLE words")
    for statement in SCHEMA:
        connection.run(statement)
    if version == SQLITE_VERSION_ONE:
        fill_from_version_one(connection)
    connection.run("DELETE FROM schema_version")
    connection.run("INSERT INTO schema_version VALUES (?)", SCHEMA_VERSION)


def _storable(value: Any) -> Any:
    return value.replace("\x00", "") if isinstance(value, str) else value


def _driver() -> Any:
    try:
        import pg8000.dbapi  # noqa: PLC0415 - an extra: only who names PostgreSQL needs it
    except ImportError as error:
        raise ArchiveError(
            "archive_url names PostgreSQL, and its driver is not installed. "
            "Install it: pip install 'throughline[postgres]'."
        ) from error
    return pg8000.dbapi
