"""What is read from the archive, each in the caller's transaction."""

import json
from collections.abc import Sequence
from typing import Any

from router.archive.database import Connection
from router.archive.records import FOUND_MAX, ArchivedConversation, ArchivedHead, ArchivedLeg, Sought
from router.archive.words import sought
from router.domain.conversation import Message, Side, SideName
from router.store import codec

MESSAGES_MAX = 100_000
"""Messages of one conversation that are read at once."""
SEQUENCE_MAX = 2**53 - 1
"""Beyond the place of any message: no conversation has as many."""
HASHES_TOGETHER = 500
UNKNOWN_SIDE = {"e": "1", "f": "0"}
"""A side that version 1 did not keep."""
WITH_WORDS = (
    "id IN (SELECT conversation_id FROM messages WHERE id IN "
    "(SELECT message_id FROM words WHERE word IN ({marks}) GROUP BY message_id HAVING COUNT(*) = ?))"
)


def load(connection: Connection, conversation_id: str) -> ArchivedConversation | None:
    """One conversation with everything, or None."""
    rows = connection.ask("SELECT record FROM conversations WHERE id = ?", conversation_id)
    if not rows:
        return None
    records = _message_records(connection, conversation_id, 0, MESSAGES_MAX)
    sql = "SELECT side, epoch, endpoint, address, began_at, reason FROM legs WHERE conversation_id = ? ORDER BY 5, 2"
    return ArchivedConversation(
        conversation=codec.load_conversation(conversation_id, json.loads(rows[0][0])),
        messages=tuple(codec.load_message(name, record) for name, record in records.items()),
        originals={name: record["og"] for name, record in records.items() if record.get("og")},
        natural_keys={name: record["nk"] for name, record in records.items() if record.get("nk")},
        legs=tuple(ArchivedLeg(SideName(leg[0]), *leg[1:]) for leg in connection.ask(sql, conversation_id)),
    )


def ids_of(connection: Connection, customer_id: str) -> list[str]:
    """Every conversation of a customer."""
    return [str(row[0]) for row in connection.ask("SELECT id FROM conversations WHERE customer_id = ?", customer_id)]


def load_head(connection: Connection, conversation_id: str) -> ArchivedHead | None:
    """One conversation at a glance, or None."""
    rows = connection.ask("SELECT record FROM conversations WHERE id = ?", conversation_id)
    if not rows:
        return None
    rows_of_sides = connection.ask("SELECT side, record FROM sides WHERE conversation_id = ?", conversation_id)
    sides: dict[str, str] = {row[0]: row[1] for row in rows_of_sides}
    sql = "SELECT content FROM messages WHERE conversation_id = ? ORDER BY sequence DESC LIMIT 1"
    last = connection.ask(sql, conversation_id)

    def side(name: SideName) -> Side:
        record = json.loads(sides[name.value]) if name.value in sides else UNKNOWN_SIDE
        return codec.load_side(conversation_id, name, record, (), 0.0)

    return ArchivedHead(
        conversation=codec.load_conversation(conversation_id, json.loads(rows[0][0])),
        customer_side=side(SideName.CUSTOMER),
        agent_side=side(SideName.AGENT),
        last_text=str(json.loads(last[0][0])["text"]) if last else "",
    )


def load_messages(connection: Connection, conversation_id: str, after: int, limit: int) -> list[Message]:
    """Messages whose place in the order is above `after`, with their attempts."""
    records = _message_records(connection, conversation_id, after, min(limit, MESSAGES_MAX))
    return [codec.load_message(name, record) for name, record in records.items()]


def load_messages_before(connection: Connection, conversation_id: str, before: int, limit: int) -> list[Message]:
    """The last messages whose place is below `before` (0: the last of all), in their order, with their attempts."""
    sql = "SELECT sequence FROM messages WHERE conversation_id = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?"
    rows = connection.ask(sql, conversation_id, before or SEQUENCE_MAX, min(limit, MESSAGES_MAX))
    return load_messages(connection, conversation_id, rows[-1][0] - 1, len(rows)) if rows else []


def load_message(connection: Connection, message_id: str) -> Message | None:
    """One message with its attempts, or None."""
    rows = connection.ask("SELECT content, record FROM messages WHERE id = ?", message_id)
    if not rows:
        return None
    record = json.loads(rows[0][1]) | {"b": rows[0][0]}
    for number, text in connection.ask("SELECT number, record FROM attempts WHERE message_id = ?", message_id):
        record[f"a{number}"] = text
    return codec.load_message(message_id, record)


def find(connection: Connection, wanted: Sought, before: tuple[float, str] | None, limit: int) -> list[ArchivedHead]:
    """Conversations closed last first."""
    terms = ["customer_id <> ''"]  # what was only held is nobody's
    values: list[Any] = []
    for column, value in (
        ("customer_id", wanted.customer_id), ("reference", wanted.reference), ("assignee", wanted.assignee)
    ):  # fmt: skip
        if value:
            terms.append(f"{column} = ?")
            values.append(value)
    if wanted.text:
        words = sought(wanted.text)
        if not words:
            return []
        terms.append(WITH_WORDS.format(marks=_marks(words)))
        values += [*words, len(words)]
    if before is not None:
        terms.append("(closed_at < ? OR (closed_at = ? AND id < ?))")
        values += [before[0], before[0], before[1]]
    where = " AND ".join(terms)
    sql = f"SELECT id FROM conversations WHERE {where} ORDER BY closed_at DESC, id DESC LIMIT ?"  # noqa: S608 - our own terms
    ids = [str(row[0]) for row in connection.ask(sql, *values, min(limit, FOUND_MAX + 1))]
    heads = [load_head(connection, identity) for identity in ids]
    return [head for head in heads if head is not None]


def referred(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Which of these files somebody refers to."""
    found: set[str] = set()
    for start in range(0, len(hashes), HASHES_TOGETHER):
        some = hashes[start : start + HASHES_TOGETHER]
        sql = f"SELECT DISTINCT sha256 FROM files WHERE sha256 IN ({_marks(some)})"  # noqa: S608 - question marks
        found |= {str(row[0]) for row in connection.ask(sql, *some)}
    return found


def _message_records(connection: Connection, conversation_id: str, after: int, limit: int) -> dict[str, dict[str, str]]:
    """Messages as they stood in Redis, by id, in their order."""
    sql = (
        "SELECT id, content, record, sequence FROM messages WHERE conversation_id = ? AND sequence > ? "
        "ORDER BY sequence, id LIMIT ?"
    )
    rows = connection.ask(sql, conversation_id, after, limit)
    records: dict[str, dict[str, str]] = {row[0]: json.loads(row[2]) | {"b": row[1]} for row in rows}
    if rows:
        sql = (
            "SELECT message_id, attempts.number, attempts.record FROM attempts JOIN messages "
            "ON messages.id = message_id WHERE conversation_id = ? AND sequence BETWEEN ? AND ?"
        )
        for message_id, number, text in connection.ask(sql, conversation_id, rows[0][3], rows[-1][3]):
            if message_id in records:
                records[message_id][f"a{number}"] = text
    return records


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
