"""The archive as a SQLite file: what is true of it alone."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from router.archive.archive import Archive
from router.archive.database import ArchiveError, SqliteFile
from router.archive.moving import archive_conversation
from router.archive.records import Sought
from router.archive.schema import SCHEMA_VERSION

Shelf = Any
"""Of conftest.py."""
VERSION_ONE = """
CREATE TABLE conversations (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, reference TEXT NOT NULL, subject TEXT NOT NULL, class TEXT NOT NULL,
  team TEXT NOT NULL, assignee TEXT NOT NULL, opened_at REAL NOT NULL, closed_at REAL NOT NULL, record TEXT NOT NULL);
CREATE TABLE messages (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, sequence INTEGER NOT NULL,
  side TEXT NOT NULL, kind TEXT NOT NULL, author TEXT NOT NULL, class TEXT NOT NULL, state TEXT NOT NULL,
  endpoint TEXT NOT NULL, created_at REAL NOT NULL, content TEXT NOT NULL, record TEXT NOT NULL);
CREATE TABLE attempts (
  message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE, number INTEGER NOT NULL, token TEXT NOT NULL,
  endpoint TEXT NOT NULL, begun_at REAL NOT NULL, ended_at REAL NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
  record TEXT NOT NULL, PRIMARY KEY (message_id, number));
CREATE TABLE legs (
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, side TEXT NOT NULL,
  epoch INTEGER NOT NULL, endpoint TEXT NOT NULL, address TEXT NOT NULL, began_at REAL NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (conversation_id, side, epoch));
CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');
PRAGMA user_version = 1;
"""


@pytest.fixture
def database(tmp_path: Path) -> SqliteFile:
    """The file alone."""
    return SqliteFile(tmp_path / "archive.sqlite3")


async def test_erasure_leaves_no_word_in_the_file(shelf: Shelf, tmp_path: Path) -> None:
    """Nor in the search index, nor in the log beside it; others' conversations stay."""
    secret = "Zweiundvierzigtausend"
    for customer, words in (("c0-ann", secret), ("c0-bob", "Bleibt")):
        await archive_conversation(shelf.store, shelf.archive, await shelf.talk(customer, words=words))
    assert await shelf.archive.find(Sought(text=secret))
    await shelf.archive.erase("c0-ann")
    # Before it is closed: closing writes the log back by itself.
    files = [file.read_bytes().lower() for file in tmp_path.iterdir() if file.is_file()]
    assert any(b"bleibt" in content for content in files)
    assert not any(secret.lower().encode() in content for content in files)


async def test_another_process_reads_while_we_write(shelf: Shelf, database: SqliteFile) -> None:
    """A write-ahead log: a reader blocks no writer, and has its own moment."""
    await archive_conversation(shelf.store, shelf.archive, await shelf.talk())
    reader = sqlite3.connect(database.path)
    try:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM conversations").fetchone() == (1,)
        await archive_conversation(shelf.store, shelf.archive, await shelf.talk())
        assert reader.execute("SELECT count(*) FROM conversations").fetchone() == (1,)
    finally:
        reader.close()


async def test_a_broken_archive_removes_nothing(shelf: Shelf, database: SqliteFile) -> None:
    """The error says what to do, and Redis keeps the conversation."""
    identity = await shelf.talk()
    database.path.write_bytes(b"this is no database" * 100)
    before = await shelf.left(identity)
    with pytest.raises(ArchiveError, match="Nothing was removed from Redis"):
        await archive_conversation(shelf.store, shelf.archive, identity)
    assert await shelf.left(identity) == before


async def test_nobody_else_may_read_it(shelf: Shelf, database: SqliteFile) -> None:
    """It holds what people said."""
    await shelf.archive.check()
    assert database.path.stat().st_mode & 0o777 == 0o600


async def test_a_file_of_version_one_becomes_one_of_ours(shelf: Shelf, tmp_path: Path) -> None:
    """Found by words as before, with its files; and the program of version 1 refuses it from then on."""
    identity = await shelf.talk()
    await archive_conversation(shelf.store, shelf.archive, identity)
    new = shelf.archive.database.open()
    older = tmp_path / "older.sqlite3"
    old = sqlite3.connect(older)
    old.executescript(VERSION_ONE)
    for table, left_out in (("conversations", ()), ("messages", ("number",)), ("attempts", ()), ("legs", ())):
        names = [row[1] for row in old.execute(f"PRAGMA table_info({table})") if row[1] not in left_out]
        rows = new.ask(f"SELECT {', '.join(names)} FROM {table}")
        old.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", rows)
    old.commit()
    old.close()
    new.driver.close()
    archive = Archive(SqliteFile(older))
    try:
        assert await archive.conversation(identity) == await shelf.archive.conversation(identity)
        assert [head.conversation.id for head in await archive.find(Sought(text="commande"))] == [identity]
        assert await archive.referred(["ab" * 32]) == {"ab" * 32}
        assert (await archive.head(identity)).customer_side.leg.endpoint == "", "where it was is not known any more"
        assert (await archive.erase("c0-ann")).conversations == (identity,)
    finally:
        await archive.close()
    with sqlite3.connect(older) as again:
        assert again.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    again.close()
    assert json.dumps(SCHEMA_VERSION) != "1"
