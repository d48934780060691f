"""What is written into the archive and removed from it, each in the caller's transaction."""

import json
import re
from collections.abc import Collection, Sequence

from router.archive.database import Connection
from router.archive.records import Erased
from router.archive.schema import files_of_conversation, files_of_message
from router.archive.words import words_of
from router.audit.records import MessageRecord, Page
from router.domain.conversation import SideName
from router.store import codec

ATTEMPT = re.compile(r"^a\d+$")
CONVERSATION = "id, customer_id, reference, subject, class, team, assignee, opened_at, closed_at, record"
MESSAGE = "id, conversation_id, sequence, side, kind, author, class, state, endpoint, created_at, content, record"
ATTEMPTS = "message_id, number, token, endpoint, begun_at, ended_at, outcome, reason, record"
LEG = "conversation_id, side, epoch, endpoint, address, began_at, reason"


def keep(connection: Connection, pages: Sequence[Page]) -> None:
    """Write a conversation in the place of what was there of it."""
    last = pages[-1]
    one = codec.load_conversation(last.conversation_id, last.fields)
    row = (
        one.id, one.customer_id, one.reference, one.subject, one.message_class.value, one.team, one.assignee,
        one.opened_at, one.closed_at, _json(last.fields),
    )  # fmt: skip
    # First of all, and not after a DELETE: of two processes with the same conversation the second waits here.
    changed = ", ".join(f"{name} = excluded.{name}" for name in CONVERSATION.split(", ")[1:])
    connection.add("conversations", CONVERSATION, [row], then=f"ON CONFLICT (id) DO UPDATE SET {changed}")
    for table in ("messages", "legs", "sides", "files"):
        connection.run(f"DELETE FROM {table} WHERE conversation_id = ?", one.id)  # noqa: S608 - our own names
    files = files_of_conversation(dict(last.fields))
    for page in pages:
        records = [record for record in page.messages if record.fields]
        _keep_messages(connection, records)
        for record in records:
            files |= files_of_message(json.loads(record.fields["b"]), dict(record.fields))
    connection.add("files", "conversation_id, sha256", [(one.id, sha256) for sha256 in sorted(files)])
    legs = [
        (one.id, side.name.value, int(leg["e"]), leg["ep"], leg["ad"], leg["at"] / 1000, leg["r"])
        for side in last.sides
        for leg in side.legs
    ]
    connection.add("legs", LEG, legs)
    sides = [(one.id, side.name.value, _json(side.fields)) for side in last.sides if side.fields]
    connection.add("sides", "conversation_id, side, record", sides)


def erase(connection: Connection, customer_id: str, most: int) -> Erased:
    """Remove up to `most` conversations of a customer; none: there are no more."""
    rows = connection.ask("SELECT id FROM conversations WHERE customer_id = ? LIMIT ?", customer_id, most)
    return remove(connection, [str(row[0]) for row in rows])


def erase_held(connection: Connection, places: Collection[str]) -> Erased:
    """Remove what was only held, from these places."""
    sql = (
        "SELECT conversation_id, sides.record FROM sides JOIN conversations ON id = conversation_id "
        "WHERE customer_id = '' AND side = ?"
    )
    rows = connection.ask(sql, SideName.CUSTOMER.value)
    return remove(connection, [str(row[0]) for row in rows if json.loads(row[1]).get("ad") in places])


def remove(connection: Connection, ids: Sequence[str]) -> Erased:
    """Remove these conversations with what hangs on them."""
    files: set[str] = set()
    for identity in ids:
        files |= {row[0] for row in connection.ask("SELECT sha256 FROM files WHERE conversation_id = ?", identity)}
        connection.run("DELETE FROM conversations WHERE id = ?", identity)
    return Erased(tuple(ids), frozenset(files))


def _keep_messages(connection: Connection, records: Sequence[MessageRecord]) -> None:
    messages, attempts, words = [], [], []
    for record in records:
        one = codec.load_message(record.id, record.fields)
        fields = {name: value for name, value in record.fields.items() if name != "b" and not ATTEMPT.match(name)}
        messages.append(
            (
                one.id, one.conversation_id, one.sequence, one.side.value, one.kind.value, one.author,
                one.message_class.value, one.state.value, one.endpoint, one.created_at, record.fields["b"],
                _json(fields),
            )
        )  # fmt: skip
        attempts += [
            (
                one.id, attempt.number, attempt.token, attempt.endpoint, attempt.begun_at, attempt.ended_at,
                attempt.outcome, attempt.reason, record.fields[f"a{attempt.number}"],
            )
            for attempt in one.attempts
        ]  # fmt: skip
        words += [(word, one.id) for word in words_of(one.content.text)]
    connection.add("messages", MESSAGE, messages)
    connection.add("attempts", ATTEMPTS, attempts)
    connection.add("words", "word, message_id", words)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
