"""A conversation as the auditor reads it: pages of one moment each, parsed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.domain.conversation import SideName
from router.store.store import Store

SIDE_WORDS = {"c": "the customer's side", "a": "the agent's side"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must hold and does not."""

    invariant: int
    """Its number in the design's list; 0: an index or reference that others rely on."""
    words: str
    """What is wrong: the same words for the same fault at every look; no address, no content."""
    conversation_id: str
    message_id: str
    repair: str
    """What to do."""

    def __str__(self) -> str:
        about = " ".join(one for one in (self.conversation_id, self.message_id) if one)
        where = f" ({about})" if about else ""
        return f"{f'Invariant {self.invariant}' if self.invariant else 'Index'}: {self.words}{where}. {self.repair}"


@dataclass(frozen=True, slots=True)
class SideRecord:
    """One side's fields with what stands about it elsewhere."""

    name: SideName
    fields: Mapping[str, str]
    queue: Sequence[str]
    due: float | None
    """Its score in the due set it says it stands in; None: it does not stand there."""
    indexed: bool
    """It stands in the index of its leg's endpoint."""
    legs: Sequence[Mapping[str, Any]]
    refused: bool
    """Its person refused to be written to where the leg is."""

    def number(self, field: str) -> int:
        """A numeric field; 0 where it is absent."""
        return int(float(self.fields.get(field) or 0))

    @property
    def words(self) -> str:
        """Which side it is, for people."""
        return SIDE_WORDS[self.name]

    @property
    def notice(self) -> Mapping[str, Any]:
        """The notice that is due, or an empty mapping."""
        text = self.fields.get("nd")
        found: Mapping[str, Any] = json.loads(text) if text else {}
        return found


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One message of the transcript; `fields` is empty where the record is gone."""

    id: str
    fields: Mapping[str, str]
    natural_key_says: str
    """The id its natural key leads to; empty: the key is gone, or there never was one."""

    @property
    def attempts(self) -> list[Mapping[str, Any]]:
        """Its attempts by number; an empty mapping stands for one that is gone."""
        count = int(self.fields.get("ac") or 0)
        return [json.loads(self.fields.get(f"a{number}") or "{}") for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Page:
    """A conversation of one moment, with a part of its transcript."""

    conversation_id: str
    fields: Mapping[str, str]
    at_ms: int
    """The store's clock."""
    length: int
    """Of the whole transcript."""
    listed_open: bool
    listed_closed: bool
    listed_of_customer: bool
    sides: Sequence[SideRecord]
    start: int
    messages: Sequence[MessageRecord]

    @property
    def end(self) -> int:
        """The position after the last message of this page."""
        return self.start + len(self.messages)

    def side(self, name: str) -> SideRecord | None:
        """One of the two sides; None for any other name."""
        return next((one for one in self.sides if one.name == name), None)


async def read_page(store: Store, conversation_id: str, start: int) -> Page | None:
    """The conversation with its messages from `start` on; None: there is no such conversation."""
    answer = await store.inspect(conversation_id, start)
    if not answer:
        return None
    fields, at_ms, length, listed, customer, agent, messages = answer
    return Page(
        conversation_id=conversation_id,
        fields=pairs(fields),
        at_ms=int(at_ms),
        length=int(length),
        listed_open=listed[0] != "",
        listed_closed=listed[1] != "",
        listed_of_customer=listed[2] == 1,
        sides=(_side(SideName.CUSTOMER, customer), _side(SideName.AGENT, agent)),
        start=start,
        messages=[MessageRecord(row[0], pairs(row[1]), row[2].partition(" ")[0]) for row in messages],
    )


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """A hash as scripts answer it."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _side(name: SideName, row: Sequence[Any]) -> SideRecord:
    fields, queue, due, at, legs, refused = row
    return SideRecord(
        name=name,
        fields=pairs(fields),
        queue=queue,
        due=float(due) if due != "" else None,
        indexed=at != "",
        legs=[json.loads(leg) for leg in legs],
        refused=refused == 1,
    )
