"""The archive's tables, the same in SQLite and PostgreSQL, and how those of an older version become them."""

import json
from typing import TYPE_CHECKING, Any

from router.archive.words import words_of

if TYPE_CHECKING:
    from router.archive.database import Connection

SCHEMA_VERSION = 2
SQLITE_VERSION_ONE = 1
"""Had SQLite's own word index, no files and no sides."""
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS conversations (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, reference TEXT NOT NULL, subject TEXT NOT NULL, class TEXT NOT NULL,
  team TEXT NOT NULL, assignee TEXT NOT NULL, opened_at DOUBLE PRECISION NOT NULL,
  closed_at DOUBLE PRECISION NOT NULL, record TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS conversations_of_customer ON conversations (customer_id, closed_at)",
    "CREATE INDEX IF NOT EXISTS conversations_by_reference ON conversations (reference, closed_at)",
    "CREATE INDEX IF NOT EXISTS conversations_by_closing ON conversations (closed_at, id)",
    """CREATE TABLE IF NOT EXISTS messages (
  id TEXT PRIMARY KEY, conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  sequence BIGINT NOT NULL, side TEXT NOT NULL, kind TEXT NOT NULL, author TEXT NOT NULL, class TEXT NOT NULL,
  state TEXT NOT NULL, endpoint TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL, content TEXT NOT NULL,
  record TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS messages_of_conversation ON messages (conversation_id, sequence)",
    """CREATE TABLE IF NOT EXISTS attempts (
  message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE, number BIGINT NOT NULL, token TEXT NOT NULL,
  endpoint TEXT NOT NULL, begun_at DOUBLE PRECISION NOT NULL, ended_at DOUBLE PRECISION NOT NULL,
  outcome TEXT NOT NULL, reason TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (message_id, number))""",
    """CREATE TABLE IF NOT EXISTS legs (
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, side TEXT NOT NULL,
  epoch BIGINT NOT NULL, endpoint TEXT NOT NULL, address TEXT NOT NULL, began_at DOUBLE PRECISION NOT NULL,
  reason TEXT NOT NULL, PRIMARY KEY (conversation_id, side, epoch))""",
    """CREATE TABLE IF NOT EXISTS sides (
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, side TEXT NOT NULL,
  record TEXT NOT NULL, PRIMARY KEY (conversation_id, side))""",
    """CREATE TABLE IF NOT EXISTS files (
  conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, sha256 TEXT NOT NULL,
  PRIMARY KEY (conversation_id, sha256))""",
    "CREATE INDEX IF NOT EXISTS files_by_hash ON files (sha256)",
    """CREATE TABLE IF NOT EXISTS words (
  word TEXT NOT NULL, message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
  PRIMARY KEY (word, message_id))""",
    "CREATE INDEX IF NOT EXISTS words_of_message ON words (message_id)",
)
# `record` holds the fields as they stood in Redis (scripts' short names, see prelude.lua): nothing is lost in between.


def files_of_message(content: dict[str, Any], record: dict[str, Any]) -> set[str]:
    """SHA-256 of everything on disk that a message refers to."""
    found = {str(row[0]) for row in content.get("files") or ()}
    return found | ({str(record["og"])} if record.get("og") else set())


def files_of_conversation(record: dict[str, Any]) -> set[str]:
    """SHA-256 of everything on disk that a conversation's own record refers to."""
    return {str(row[0]) for row in json.loads(record.get("fl") or "[]")}


def fill_from_version_one(connection: "Connection") -> None:
    """Fill the tables that version 1 did not have, in the caller's transaction."""
    then = "ON CONFLICT DO NOTHING"
    for identity, text in connection.ask("SELECT id, record FROM conversations"):
        rows = [(identity, sha256) for sha256 in sorted(files_of_conversation(json.loads(text)))]
        connection.add("files", "conversation_id, sha256", rows, then=then)
        messages = connection.ask("SELECT id, content, record FROM messages WHERE conversation_id = ?", identity)
        for message_id, content_text, record in messages:
            content = json.loads(content_text)
            rows = [(identity, sha256) for sha256 in sorted(files_of_message(content, json.loads(record)))]
            connection.add("files", "conversation_id, sha256", rows, then=then)
            connection.add("words", "word, message_id", [(word, message_id) for word in words_of(content["text"])])
