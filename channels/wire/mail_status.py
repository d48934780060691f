"""What a mail is besides somebody's words: a bounce (RFC 3464), automatic (RFC 3834), unproven (RFC 8601)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage, Message

from channels.messages import ReceiptState
from channels.wire.mail import ATTEMPT_HEADER
from channels.wire.mail_address import decode_words, mend_bytes

HEADER_MAX = 16_000
"""Longest header value looked at, in characters: the library's header parser is not linear."""

_STATUS = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")
_MESSAGE_ID = re.compile(r"<[^\s<>]{1,900}>")
_COMMENT = re.compile(r"\([^()]{0,1000}\)")


@dataclass(frozen=True, slots=True)
class Bounce:
    """A delivery status notification about one of our attempts."""

    state: ReceiptState | None
    """None: delayed or relayed, nothing is decided yet."""
    token: str
    message_id: str
    """Of the mail it is about, with angle brackets; for when no token came back."""
    reason: str
    permanent: bool


def header(mail: Message, name: str) -> str:
    """Return a header's decoded value on one line, bounded; empty when absent or unreadable."""
    values = headers(mail, name)
    return values[0] if values else ""


def headers(mail: Message, name: str) -> list[str]:
    """Return all values of a header, each decoded, on one line and bounded; at most 50."""
    return [decode_words(value) for value in raw_headers(mail, name)]


def raw_headers(mail: Message, name: str) -> list[str]:
    """Return all values of a header as they came, bounded; at most 50."""
    wanted = name.lower()
    return [mend_bytes(str(value)[:HEADER_MAX]) for key, value in mail.raw_items() if key.lower() == wanted][:50]


def read_bounce(mail: EmailMessage) -> Bounce | None:
    """Return what a delivery status notification says, or None when the mail is none (RFC 3464, section 2)."""
    if mail.get_content_type() != "multipart/report":
        return None
    parts = list(mail.walk())[:50]
    report = next((part for part in parts if part.get_content_type() == "message/delivery-status"), None)
    if report is None or not report.is_multipart() or not isinstance(blocks := report.get_payload(), list):
        return None
    fields = [block for block in blocks if isinstance(block, Message)][:50]
    envids = [value for block in fields[:1] if (value := header(block, "Original-Envelope-Id"))]
    returned = _find_returned_headers(parts)
    token = header(returned, ATTEMPT_HEADER) if returned else ""
    message_id = _MESSAGE_ID.search(header(returned, "Message-ID")) if returned else None
    action, status = _read_outcome(fields[1:])
    return Bounce(
        state={"failed": ReceiptState.UNDELIVERED, "delivered": ReceiptState.DELIVERED}.get(action),
        token=decode_xtext(envids[0]) if envids else token,
        message_id=message_id.group() if message_id else "",
        reason=f"dsn_{status or 'unspecified'}",
        permanent=_is_permanent(status),
    )


def _read_outcome(recipients: list[Message]) -> tuple[str, str]:
    """The action and status of the worst recipient: a failure before anything else."""
    outcomes = [(header(block, "Action").lower(), header(block, "Status")) for block in recipients]
    outcomes = [(action.split(" ")[0], status) for action, status in outcomes if action]
    if not outcomes:
        return "", ""
    action, status = next((outcome for outcome in outcomes if outcome[0] == "failed"), outcomes[0])
    found = _STATUS.search(status)
    return action, found.group() if found else ""


def _is_permanent(status: str) -> bool:
    """Whether the address is bad, not the moment, our content or a policy (RFC 3463, section 3)."""
    klass, _, rest = status.partition(".")
    return klass != "4" and rest not in {"2.2", "2.3"} and rest.partition(".")[0] not in {"3", "6", "7"}


def _find_returned_headers(parts: Sequence[Message]) -> Message | None:
    for part in parts:
        if part.get_content_type() == "message/rfc822" and part.is_multipart():
            payload = part.get_payload()
            if not isinstance(payload, list):
                return None
            return payload[0] if payload and isinstance(payload[0], Message) else None
        if part.get_content_type() == "text/rfc822-headers":
            return _parse_headers(part)
    return None


def _parse_headers(part: Message) -> Message:
    content = part.get_payload(decode=True)
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else ""
    returned = Message(policy=part.policy)
    unfolded = re.sub(r"\r?\n[ \t]+", " ", text[: HEADER_MAX * 4])
    for line in unfolded.splitlines()[:500]:
        name, colon, value = line.partition(":")
        if colon and re.fullmatch(r"[!-9;-~]+", name) and name.lower() in {"message-id", ATTEMPT_HEADER.lower()}:
            returned.set_raw(name, value.strip())
    return returned


def decode_xtext(text: str) -> str:
    """Return xtext decoded (RFC 3461, section 4); some servers echo an ENVID encoded, some decoded."""
    return re.sub(r"\+([0-9A-F]{2})", lambda found: chr(int(found.group(1), 16)), text)[:500]


def is_automatic(mail: Message, *, null_sender: bool) -> bool:
    """Whether no person wrote this: never to be answered automatically (RFC 3834, section 2; RFC 2919)."""
    if null_sender or header(mail, "Return-Path") == "<>" or header(mail, ATTEMPT_HEADER):
        return True
    submitted = header(mail, "Auto-Submitted").lower().partition(";")[0].strip()
    if submitted not in {"", "no"}:
        return True
    if header(mail, "Precedence").lower() in {"bulk", "junk", "list", "auto_reply"}:
        return True
    suppressed = re.split(r"[,\s]+", header(mail, "X-Auto-Response-Suppress").lower())
    if {"all", "oof", "autoreply"} & set(suppressed):
        return True
    return any(header(mail, name) for name in ("List-Id", "List-Post", "X-Autoreply", "X-Autorespond"))


def fails_dmarc(mail: Message, authserv_id: str) -> bool:
    """Whether our own mail server says that DMARC failed; what other servers claim is not believed (RFC 8601, 5)."""
    if not authserv_id:
        return False
    for value in headers(mail, "Authentication-Results"):
        plain = _COMMENT.sub(" ", value)
        server, _, results = plain.partition(";")
        if server.strip().split(" ")[0].lower() == authserv_id.lower():
            return re.search(r"(?:^|;)\s*dmarc\s*=\s*fail\b", results, re.IGNORECASE) is not None
    return False
