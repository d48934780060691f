"""The archive: closed conversations in SQL, found again by id, reference or words, erased by customer."""

import asyncio
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from router.audit.records import MessageRecord, Page, SideRecord, read_page
from router.domain.conversation import Conversation, Message, SideName
from router.store import codec
from router.store.store import Store

ARCHIVE_FILE = "archive.sqlite3"
SCHEMA_VERSION = 1
BUSY_S = 10.0
"""How long a writer waits for another process's transaction."""
FOUND_MAX = 200
ATTEMPT = re.compile(r"^a\d+$")
SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, reference TEXT NOT NULL, subject TEXT NOT NULL, class TEXT NOT NULL,
  team TEXT NOT NULL, assignee TEXT NOT NULL, opened_at REAL NOT NULL, closed_at REAL NOT NULL, record TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS conversations_of_customer ON conversations (customer_id, closed_at);
CREATE INDEX IF NOT EXISTS conversations_by_reference ON conversations (reference, closed_at);
CREATE TABLE IF NOT EXISTS messages (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, sequence INTEGER NOT NULL,
  side TEXT NOT NULL, kind TEXT NOT NULL, author TEXT NOT NULL, class TEXT NOT NULL, state TEXT NOT NULL,
  endpoint TEXT NOT NULL, created_at REAL NOT NULL, content TEXT NOT NULL, record TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS messages_of_conversation ON messages (conversation_id, sequence);
CREATE TABLE IF NOT EXISTS attempts (
  message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE, number INTEGER NOT NULL, token TEXT NOT NULL,
  endpoint TEXT NOT NULL, begun_at REAL NOT NULL, ended_at REAL NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
  record TEXT NOT NULL, PRIMARY KEY (message_id, number));
CREATE TABLE IF NOT EXISTS legs (
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, side TEXT NOT NULL,
  epoch INTEGER NOT NULL, endpoint TEXT NOT NULL, address TEXT NOT NULL, began_at REAL NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (conversation_id, side, epoch));
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');
"""
# `record` holds the fields as they stood in Redis (scripts' short names, see prelude.lua): nothing is lost in between.

T = TypeVar("T")


class ArchiveError(Exception):
    """The archive cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class ArchivedLeg:
    """Where a side was."""

    side: SideName
    epoch: int
    endpoint: str
    address: str
    began_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class ArchivedConversation:
    """A closed conversation with all that was said and tried."""

    conversation: Conversation
    messages: tuple[Message, ...]
    """In the conversation's order, with their attempts."""
    originals: Mapping[str, str]
    """SHA-256 of the raw mail on disk, by message id, where there is one."""
    legs: tuple[ArchivedLeg, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A message that has the words."""

    conversation_id: str
    message_id: str
    excerpt: str


class Archive:
    """One SQLite file (write-ahead log), used by one thread of this process; other processes may read beside it.

    Every method raises `ArchiveError` where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        self._here = threading.local()

    async def keep(self, pages: Sequence[Page]) -> None:
        """Write a conversation, read whole in these pages. Durable when it returns; again, it is replaced."""
        await self._run(lambda database: _keep(database, pages))

    async def conversation(self, conversation_id: str) -> ArchivedConversation | None:
        """One conversation, or None."""
        return await self._run(lambda database: _load(database, conversation_id))

    async def by_reference(self, reference: str) -> str:
        """The id of the newest conversation with this reference, or ''."""
        sql = "SELECT id FROM conversations WHERE reference = ? ORDER BY closed_at DESC LIMIT 1"
        return await self._run(lambda database: str((database.execute(sql, (reference,)).fetchone() or [""])[0]))

    async def of_customer(self, customer_id: str, *, limit: int = FOUND_MAX) -> list[str]:
        """Ids of a customer's conversations, newest first."""
        sql = "SELECT id FROM conversations WHERE customer_id = ? ORDER BY closed_at DESC LIMIT ?"
        return await self._run(
            lambda database: [str(row[0]) for row in database.execute(sql, (customer_id, min(limit, FOUND_MAX)))]
        )

    async def search(self, text: str, *, limit: int = 50) -> list[Found]:
        """Messages that have all of these words, in any order, best first; case and accents do not matter."""
        words = " ".join('"' + word.replace('"', '""') + '"' for word in text.split()[:20])
        if not words:
            return []
        sql = (
            "SELECT conversation_id, id, snippet(words, 0, '', '', '...', 16) FROM words "
            "JOIN messages ON messages.number = words.rowid WHERE words MATCH ? ORDER BY rank LIMIT ?"
        )
        return await self._run(
            lambda database: [Found(*row) for row in database.execute(sql, (words, min(limit, FOUND_MAX)))]
        )

    async def erase(self, customer_id: str) -> int:
        """Remove everything of a customer, also from the free pages of the file; how many conversations there were."""
        return await self._run(lambda database: _erase(database, customer_id))

    async def close(self) -> None:
        """Let go of the file."""

        def close() -> None:
            database: sqlite3.Connection | None = getattr(self._here, "database", None)
            if database is not None:
                database.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction. Cancelling the caller does not cut it short: the thread finishes it."""

        def run() -> T:
            try:
                database = self._database()
                with database:
                    return work(database)
            except sqlite3.Error as error:
                raise ArchiveError(
                    f"The archive {self.path} cannot be used: {error}. Nothing was removed from Redis. Check the disk "
                    "and who may write the file."
                ) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _database(self) -> sqlite3.Connection:
        known: sqlite3.Connection | None = getattr(self._here, "database", None)
        if known is not None:
            return known
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)
        database = sqlite3.connect(self.path, timeout=BUSY_S)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")  # on disk before Redis forgets
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA secure_delete = ON")
            self._check_version(database)
            database.executescript(SCHEMA)
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except BaseException:  # whatever happened: the file is not left open
            database.close()
            raise
        self._here.database = database
        return database

    def _check_version(self, database: sqlite3.Connection) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ArchiveError(f"{self.path} was written by a newer version ({version}). Upgrade this program.")


async def archive_conversation(store: Store, archive: Archive, conversation_id: str) -> str:
    """Move one closed conversation from Redis to the archive, where it stands first.

    Answers `ok`; `open`, `busy` or `changed` (it stays); `missing` (gone; what an earlier run left is removed).
    """
    pages: list[Page] = []
    while not pages or (pages[-1].messages and pages[-1].end < pages[-1].length):
        page = await read_page(store, conversation_id, pages[-1].end if pages else 0)
        if page is None:
            return await store.forget(conversation_id, sequence="", closed_at="")
        pages.append(page)
    last = pages[-1]
    if last.fields.get("op") == "0" and any(_has_work(side) for side in last.sides):
        return "busy"
    if last.fields.get("op") != "0":
        return await store.forget(conversation_id, sequence="", closed_at="")
    await archive.keep(pages)
    answer = await store.forget(conversation_id, sequence=last.fields["sq"], closed_at=last.fields["ca"])
    if answer == "ok":
        await store.let_reference_go(last.fields["rf"])
    return answer


def _has_work(side: SideRecord) -> bool:
    return bool(side.queue or side.notice or side.number("l") or side.fields.get("dp"))


def _keep(database: sqlite3.Connection, pages: Sequence[Page]) -> None:
    last = pages[-1]
    one = codec.load_conversation(last.conversation_id, last.fields)
    _forget(database, one.id)
    database.execute(
        "INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            one.id,
            one.customer_id,
            one.reference,
            one.subject,
            one.message_class,
            one.team,
            one.assignee,
            one.opened_at,
            one.closed_at,
            _json(last.fields),
        ),
    )
    for page in pages:
        for record in page.messages:
            if record.fields:
                _keep_message(database, record)
    for side in last.sides:
        database.executemany(
            "INSERT INTO legs VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(one.id, side.name, int(leg["e"]), leg["ep"], leg["ad"], leg["at"] / 1000, leg["r"]) for leg in side.legs],
        )


def _keep_message(database: sqlite3.Connection, record: MessageRecord) -> None:
    one = codec.load_message(record.id, record.fields)
    fields = {name: value for name, value in record.fields.items() if name != "b" and not ATTEMPT.match(name)}
    number = database.execute(
        "INSERT INTO messages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            one.id,
            one.conversation_id,
            one.sequence,
            one.side,
            one.kind,
            one.author,
            one.message_class,
            one.state,
            one.endpoint,
            one.created_at,
            record.fields["b"],
            _json(fields),
        ),
    ).lastrowid
    database.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, one.content.text))
    texts = {attempt.number: record.fields[f"a{attempt.number}"] for attempt in one.attempts}
    database.executemany(
        "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                one.id,
                attempt.number,
                attempt.token,
                attempt.endpoint,
                attempt.begun_at,
                attempt.ended_at,
                attempt.outcome,
                attempt.reason,
                texts[attempt.number],
            )
            for attempt in one.attempts
        ],
    )


def _load(database: sqlite3.Connection, conversation_id: str) -> ArchivedConversation | None:
    row = database.execute("SELECT record FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
    if row is None:
        return None
    records: dict[str, dict[str, str]] = {}
    sql = "SELECT id, content, record FROM messages WHERE conversation_id = ? ORDER BY sequence, id"
    for message_id, content, text in database.execute(sql, (conversation_id,)):
        records[message_id] = json.loads(text) | {"b": content}
    sql = (
        "SELECT message_id, attempts.number, attempts.record FROM attempts JOIN messages ON messages.id = message_id "
        "WHERE conversation_id = ?"
    )
    for message_id, number, text in database.execute(sql, (conversation_id,)):
        records[message_id][f"a{number}"] = text
    sql = "SELECT side, epoch, endpoint, address, began_at, reason FROM legs WHERE conversation_id = ? ORDER BY 5, 2"
    return ArchivedConversation(
        conversation=codec.load_conversation(conversation_id, json.loads(row[0])),
        messages=tuple(codec.load_message(name, record) for name, record in records.items()),
        originals={name: record["og"] for name, record in records.items() if record.get("og")},
        legs=tuple(ArchivedLeg(SideName(leg[0]), *leg[1:]) for leg in database.execute(sql, (conversation_id,))),
    )


def _forget(database: sqlite3.Connection, conversation_id: str) -> None:
    database.execute(
        "DELETE FROM words WHERE rowid IN (SELECT number FROM messages WHERE conversation_id = ?)", (conversation_id,)
    )
    database.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))


def _erase(database: sqlite3.Connection, customer_id: str) -> int:
    sql = "SELECT id FROM conversations WHERE customer_id = ?"
    with closing(database.execute(sql, (customer_id,))) as rows:
        found = [str(row[0]) for row in rows]
    for conversation_id in found:
        _forget(database, conversation_id)
    if found:
        # The index keeps deleted words until its parts are merged, the log until it is written back.
        database.execute("INSERT INTO words (words) VALUES ('optimize')")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return len(found)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
