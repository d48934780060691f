"""Records as they stand in Redis, and back."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from channels.messages import Address, Channel, Content, File, Kind
from health.report import EndpointId
from router.domain.conversation import (
    Attempt,
    Binding,
    Conversation,
    Customer,
    Leg,
    Message,
    MessageClass,
    MessageState,
    Side,
    SideName,
)
from router.store.keys import place
from router.store.redis import StoreUnavailable

Hash = Mapping[str, str]
UNREADABLE = (KeyError, TypeError, ValueError)
"""What reading a damaged record raises. It is that record's fault alone: nobody else's work may wait for it."""
RECORDS_VERSION = 1
"""Of conversations and messages; see prelude.lua for what makes a new one."""
_ENDPOINT = re.compile(r"(email|chat|sms|phone)/[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notice must say when it is rendered: told at the place its side is bound to now."""

    id: str
    """The message id it will have."""
    reason: str
    """`failover`, `forced`, `inbound_down`, `undelivered`, ..."""
    left: EndpointId
    """The endpoint the conversation left."""
    at: float


@dataclass(frozen=True, slots=True)
class Leased:
    """A message handed to a worker, its attempt already written."""

    conversation_id: str
    side: SideName
    owner: str
    epoch: int
    message_id: str
    kind: Kind
    content: Content
    message_class: MessageClass
    possible_duplicate: bool
    late: bool
    created_at: float
    expires_at: float
    author: str
    author_name: str
    sequence: int
    number: int
    token: str
    fence: int
    endpoint: EndpointId
    address: Address
    begun_at: float
    deadline: float
    reference: str
    locale: str
    subject: str
    customer_id: str
    open_question: str
    hidden: bool
    moved_at: float
    notice: Notice | None
    references: tuple[str, ...]
    """A notice speaks for all of these."""
    shared: int
    """Conversations that spoke over this exact address pair."""


@dataclass(frozen=True, slots=True)
class SideFacts:
    """What planning needs to know of a side, read in one call for many."""

    conversation_id: str
    side: SideName
    owner: str
    epoch: int
    endpoint: EndpointId
    place: str
    why: str
    leased_until: float
    held_until: float
    queued: int
    notice_due: bool
    customer_id: str
    conversation_class: MessageClass
    waiting_since: float
    moved_at: float
    last_inbound_at: float
    opened_at: float
    priority: int
    locale: str
    reference: str
    open: bool
    home: EndpointId
    hidden: bool
    head: str
    head_class: MessageClass
    head_state: str
    head_kind: Kind
    head_expires_at: float
    head_created_at: float
    head_length: int
    head_content: Content | None
    not_here: tuple[tuple[EndpointId, str, str, str], ...]
    """(endpoint, place, outcome, reason) where this message was refused, or nobody heard the notice before it."""
    head_waited: bool
    """It was parked since it was last refused."""

    @property
    def address(self) -> Address:
        """Where the side is reached now; an empty one if nowhere."""
        return read_place(self.place)[0] if self.place else Address(Channel.CHAT, "")


def dump_content(content: Content) -> str:
    """As it stands in a message's record."""
    facts: dict[str, Any] = {"text": content.text}
    if content.html is not None:
        facts["html"] = content.html
    if content.subject is not None:
        facts["subject"] = content.subject
    if content.files:
        facts["files"] = [[f.sha256, f.name, f.media_type, f.size] for f in content.files]
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def load_content(text: str) -> Content:
    """The reverse of `dump_content`."""
    facts = json.loads(text)
    return Content(
        text=facts["text"],
        html=facts.get("html"),
        subject=facts.get("subject"),
        files=load_files(facts.get("files") or ()),
    )


def load_files(rows: Sequence[Sequence[Any]]) -> tuple[File, ...]:
    """Files as they stand in records."""
    return tuple(File(row[0], row[1], row[2], int(row[3])) for row in rows)


def read_place(text: str) -> tuple[Address, EndpointId | None]:
    """The reverse of `keys.place`."""
    channel, _, value = text.partition(":")
    head, _, tail = value.rpartition("@")
    if _ENDPOINT.fullmatch(tail):
        return Address(Channel(channel), head), EndpointId(tail)
    return Address(Channel(channel), value), None


def seconds(milliseconds: Any) -> float:
    """Unix seconds of what Redis holds in milliseconds; 0 where it holds nothing."""
    return float(milliseconds or 0) / 1000


def load_side(conversation_id: str, name: SideName, row: Hash, queue: Sequence[str], due_ms: float) -> Side:
    """A side's record with its queue."""
    where = row.get("ad", "")
    return Side(
        conversation_id=conversation_id,
        name=name,
        epoch=int(row["e"]),
        fence=int(row.get("f", 0)),
        leg=Leg(
            endpoint=EndpointId(row.get("ep", "")),
            address=read_place(where)[0] if where else Address(Channel.CHAT, ""),
            since=seconds(row.get("ls")),
            reason=row.get("lr", ""),
        ),
        queued=len(queue),
        head=queue[0] if queue else "",
        notice_due="nd" in row,
        lease_until=seconds(row.get("l")),
        attempt=row.get("t", ""),
        due_at=seconds(due_ms),
    )


class NewerRecords(StoreUnavailable):
    """A newer version of the router writes here: this one stands by until it is replaced."""


def _refuse_newer(row: Hash) -> None:
    if int(row.get("v", RECORDS_VERSION)) > RECORDS_VERSION:
        raise NewerRecords(f"a record of version {row['v']} stands here; this process knows {RECORDS_VERSION}")


def load_conversation(identity: str, row: Hash) -> Conversation:
    """A conversation's record. Raises NewerRecords."""
    _refuse_newer(row)
    return Conversation(
        id=identity,
        customer_id=row["cu"],
        reference=row["rf"],
        subject=row.get("sj", ""),
        open=row["op"] == "1",
        opened_at=seconds(row.get("oa")),
        closed_at=seconds(row.get("ca")),
        locale=row.get("lo", ""),
        message_class=MessageClass(row.get("cl", "normal")),
        priority=int(row.get("pr", 5)),
        assignee=row.get("as", ""),
        team=row.get("te", ""),
        fields=json.loads(row.get("fi") or "{}"),
        files=load_files(json.loads(row.get("fl") or "[]")),
        open_question=row.get("qu", ""),
        waiting_since=seconds(row.get("wa")),
        last_inbound_at=seconds(row.get("li")),
        moved_at=seconds(row.get("mv")),
        home=EndpointId(row.get("ho", "")),
    )


def load_customer(identity: str, row: Hash, bindings: Hash) -> Customer:
    """A customer's record with their bindings, in their order."""
    loaded = (load_binding(where, text) for where, text in bindings.items())
    return Customer(
        id=identity,
        name=row["n"],
        locale=row["l"],
        bindings=tuple(sorted(loaded, key=lambda one: (one.order, str(one.address)))),
        created_at=float(row["at"]),
        alias_of=row.get("al", ""),
    )


def load_attempt(text: str) -> Attempt:
    """An attempt as settle and receipt left it."""
    row = json.loads(text)
    vendor_ids = row.get("v") or ()
    return Attempt(
        number=int(row["n"]),
        token=row["t"],
        endpoint=EndpointId(row["ep"]),
        address=read_place(row["ad"])[0],
        epoch=int(row["e"]),
        fence=int(row["f"]),
        begun_at=seconds(row["b"]),
        deadline=seconds(row["d"]),
        outcome=row["o"],
        ended_at=seconds(row.get("x")),
        vendor_ids=tuple(vendor_ids) if isinstance(vendor_ids, list) else (),
        reason=row.get("r", ""),
        worker=row.get("w", ""),
    )


def load_message(identity: str, row: Hash) -> Message:
    """A message's record with its attempts. Raises NewerRecords."""
    _refuse_newer(row)
    count = int(row.get("ac", 0))
    attempts = [load_attempt(row[f"a{n}"]) for n in range(1, count + 1) if f"a{n}" in row]
    return Message(
        id=identity,
        conversation_id=row["c"],
        side=SideName(row["s"]),
        kind=Kind(row["k"]),
        author=row["au"],
        author_name=row["an"],
        content=load_content(row["b"]),
        message_class=MessageClass(row["cl"]),
        state=MessageState(row["st"]),
        sequence=int(row["q"]),
        created_at=seconds(row["ca"]),
        expires_at=seconds(row.get("xp")),
        possible_duplicate=row.get("fl") == "1",
        late=row.get("lt") == "1",
        unverified=row.get("uv") == "1",
        reason=row.get("r", ""),
        parked_until=seconds(row.get("pu")) if row["st"] == "parked" else 0.0,
        endpoint=EndpointId(row.get("ep", "")),
        attempts=tuple(attempts),
    )


def load_leased(text: str) -> Leased:
    """What lease.lua answers for one attempt."""
    row = json.loads(text)
    attempt, about = row["a"], row["v"]
    told = row.get("nd")
    return Leased(
        conversation_id=row["c"],
        side=SideName(row["s"]),
        owner=row["o"],
        epoch=int(row["e"]),
        message_id=row["m"],
        kind=Kind(row["k"]),
        content=load_content(row["b"]),
        message_class=MessageClass(row["cl"]),
        possible_duplicate=row["fl"] == 1,
        late=row["lt"] == 1,
        created_at=seconds(row["ca"]),
        expires_at=seconds(row["xp"]),
        author=row["au"],
        author_name=row["an"],
        sequence=int(row["q"]),
        number=int(attempt["n"]),
        token=attempt["t"],
        fence=int(attempt["f"]),
        endpoint=EndpointId(attempt["ep"]),
        address=read_place(attempt["ad"])[0],
        begun_at=seconds(attempt["b"]),
        deadline=seconds(attempt["d"]),
        reference=about["rf"],
        locale=about["lo"],
        subject=about["sj"],
        customer_id=about["cu"],
        open_question=about["qu"],
        hidden=about["hd"] == "1",
        moved_at=seconds(about["mv"]),
        notice=Notice(told["id"], told["reason"], EndpointId(told["left"]), seconds(told["at"])) if told else None,
        references=tuple(row.get("refs") or ()),
        shared=int(row["shared"]),
    )


def load_facts(text: str) -> SideFacts:
    """What plan.lua and affected.lua answer for one side."""
    row = json.loads(text)
    refused = [*json.loads(row.get("mna") or "[]"), *json.loads(row.get("nna") or "[]")]
    body = row.get("mb")
    return SideFacts(
        conversation_id=row["c"],
        side=SideName(row["s"]),
        owner=row["o"],
        epoch=int(row["e"]),
        endpoint=EndpointId(row["ep"]),
        place=row["ad"],
        why=row["w"],
        leased_until=seconds(row["l"]),
        held_until=seconds(row["h"]),
        queued=int(row["q"]),
        notice_due=row["nd"] == 1,
        customer_id=row["cu"],
        conversation_class=MessageClass(row["cl"]),
        waiting_since=seconds(row["wa"]),
        moved_at=seconds(row["mv"]),
        last_inbound_at=seconds(row["li"]),
        opened_at=seconds(row["oa"]),
        priority=int(row["pr"]),
        locale=row["lo"],
        reference=row["rf"],
        open=row["op"] == "1",
        home=EndpointId(row["ho"]),
        hidden=row["hd"] == "1",
        head=row["head"],
        head_class=MessageClass(row.get("mcl") or "normal"),
        head_state=row.get("mst") or "",
        head_kind=Kind(row.get("mk") or "message"),
        head_expires_at=seconds(row.get("mxp")),
        head_created_at=seconds(row.get("mca")),
        head_length=int(row.get("mlen") or 0),
        head_content=load_content(body) if body else None,
        not_here=tuple((EndpointId(x["ep"]), x["ad"], x["o"], x.get("r") or "") for x in refused),
        head_waited=row.get("mst") == "parked" or int(row.get("mpu") or 0) > 0,
    )


def dump_binding(binding: Binding) -> str:
    """A binding's value; its key is its place."""
    return json.dumps(
        {
            "v": int(binding.verified),
            "c": int(binding.consent),
            "o": binding.order,
            "l": binding.locale,
            "h": binding.hours,
            "u": binding.unreachable_until,
        },
        separators=(",", ":"),
    )


def load_binding(where: str, text: str) -> Binding:
    """The reverse of `dump_binding`."""
    row = json.loads(text)
    address, endpoint = read_place(where)
    return Binding(
        address=address,
        endpoint=endpoint,
        verified=row["v"] == 1,
        consent=row["c"] == 1,
        order=row["o"],
        locale=row["l"],
        hours=row["h"],
        unreachable_until=row["u"],
    )


def place_of(binding: Binding) -> str:
    """The place string of a binding."""
    return place(binding.address, binding.endpoint)
