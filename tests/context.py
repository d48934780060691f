"""What must be the same after a rebind as before it: the context of a conversation, and its canonical hash."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from channels.messages import File
from router.domain.conversation import Binding, Conversation, Message

HASH_VERSION = 1
"""Part of what is hashed, so that hashes made by different rules never seem equal by chance."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the transcript: what was said, by whom, not how far it got."""

    id: str
    side: str
    kind: str
    author: str
    text: str
    html: str
    subject: str
    files: tuple[str, ...]
    """Content hashes, in order."""
    message_class: str
    sequence: int
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Context:
    """All that goes along when a conversation moves. Where it lives (legs, epochs, attempts) is not part of it."""

    conversation_id: str
    customer_id: str
    reference: str
    subject: str
    locale: str
    transcript: tuple[Said, ...]
    """In the conversation's order."""
    open_question: str
    fields: Mapping[str, str]
    files: tuple[File, ...]
    assignee: str
    team: str
    priority: int
    message_class: str
    opened_at: float
    waiting_since: float
    last_inbound_at: float
    consent: Mapping[str, bool]
    """By address; an address bound to one endpoint is named with it."""


def context_of(conversation: Conversation, messages: Iterable[Message], bindings: Sequence[Binding]) -> Context:
    """The context as the store's records have it."""
    return Context(
        conversation_id=conversation.id,
        customer_id=conversation.customer_id,
        reference=conversation.reference,
        subject=conversation.subject,
        locale=conversation.locale,
        transcript=tuple(sorted((_said(message) for message in messages), key=lambda said: (said.sequence, said.id))),
        open_question=conversation.open_question,
        fields=dict(conversation.fields),
        files=conversation.files,
        assignee=conversation.assignee,
        team=conversation.team,
        priority=conversation.priority,
        message_class=conversation.message_class.value,
        opened_at=float(conversation.opened_at),
        waiting_since=float(conversation.waiting_since),
        last_inbound_at=float(conversation.last_inbound_at),
        consent={_binding_key(binding): binding.consent for binding in bindings},
    )


def context_hash(context: Context) -> str:
    """64 hexadecimal digits, equal exactly when the contexts are: mappings in any order, times to the millisecond."""
    canonical = json.dumps(
        [HASH_VERSION, _plain(context)], sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def differences(before: Context, after: Context) -> list[str]:
    """The names of the fields that differ, and for the transcript of the messages: no content, fit for a log."""
    found: list[str] = []
    for field in fields(Context):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if _plain(old) == _plain(new):
            continue
        found.extend(_transcript_differences(old, new) if field.name == "transcript" else [field.name])
    return found


def _said(message: Message) -> Said:
    return Said(
        id=message.id,
        side=message.side.value,
        kind=message.kind.value,
        author=message.author,
        text=message.content.text,
        html=message.content.html or "",
        subject=message.content.subject or "",
        files=tuple(file.sha256 for file in message.content.files),
        message_class=message.message_class.value,
        sequence=message.sequence,
        created_at=float(message.created_at),
        expires_at=float(message.expires_at),
    )


def _binding_key(binding: Binding) -> str:
    return f"{binding.address}@{binding.endpoint}" if binding.endpoint else str(binding.address)


def _plain(value: object) -> object:
    """What JSON writes one way only. Times become whole milliseconds: Redis scripts round doubles to 14 digits."""
    if isinstance(value, float):
        return round(value * 1000)
    if isinstance(value, (Context, Said, File)):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value


def _transcript_differences(before: Sequence[Said], after: Sequence[Said]) -> list[str]:
    old = {said.id: said for said in before}
    new = {said.id: said for said in after}
    found = [f"transcript: lost {identity}" for identity in old.keys() - new.keys()]
    found += [f"transcript: added {identity}" for identity in new.keys() - old.keys()]
    found += [f"transcript: changed {one}" for one in old.keys() & new.keys() if _plain(old[one]) != _plain(new[one])]
    return sorted(found) or ["transcript: another order"]
