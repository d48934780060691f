"""A mail as it came, translated into an event."""

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import EmailPolicy
from email.utils import parsedate_to_datetime
from typing import cast

from channels.messages import Address, Channel, Event, InboundFile, InboundMessage, ReceiptEvent
from channels.wire.mail_address import find_mailboxes, find_reply_token, mend_bytes
from channels.wire.mail_status import HEADER_MAX, fails_dmarc, header, headers, is_automatic, raw_headers, read_bounce
from channels.wire.mail_text import HTML_MAX, clean_html, normalise_text, strip_quoted, text_of_html
from health.report import EndpointId

LATE_S = 120.0
"""Mail that waited for us longer than this at our mail server is marked late."""
REFERENCES_MAX = 20
PARTS_MAX = 200
VENDOR_ID_MAX = 200
BOUNDARIES_MAX = 100
"""Multiparts within a mail; each nested one slows the library's parser down for every line."""

_NOT_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape"})
"""Codecs of Python's that no mail is written in: a few megabytes take the first two hours."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")
"""What some charsets bring along and UTF-8 cannot write."""
_MESSAGE_ID = re.compile(r"<[^\s<>]{1,900}>")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,100}")
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a mailbox's mail is read by: whose it is, whom to believe, how much to keep."""

    endpoint: EndpointId
    mailbox: str
    """Ours, normalised; replies carry a token behind its plus sign."""
    authserv_id: str = ""
    """Our mail server's name in Authentication-Results; empty: nobody is believed, nothing is marked."""
    files_max: int = 20
    files_max_bytes: int = 20_000_000
    text_max: int = 200_000
    original_max_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the delivery said besides the mail itself."""

    received_at: float
    """Since when the mailbox had it; where it is handed to us at once, now."""
    recipients: tuple[str, ...] = ()
    null_sender: bool = False
    taken_at: float | None = None
    """When we could first take it out of the mailbox. None: it was handed to us at `received_at`."""
    away_from: float = 0.0
    """Since when we could not read the mailbox: what it had before is old, not late."""
    truncated: bool = False
    """Only the beginning was fetched: its files are incomplete and not kept."""


class _BoundedPolicy(EmailPolicy):
    """Clips what the library parses in more than linear time: 60 kB of Content-Type take it 40 s."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[: 2_000 if name.lower().startswith("content-") else HEADER_MAX]


_POLICY = cast("EmailPolicy[EmailMessage]", _BoundedPolicy())
_LIBRARY_TRIPPED = (RecursionError, ValueError, IndexError, AttributeError, TypeError, LookupError, AssertionError)
"""What the standard library's mail parser raises on some malformed mail: nested hundreds deep, NULs, bad parameters."""


class UnreadableMail(Exception):
    """Nobody is named as the sender: there is nobody to answer."""


def parse_mail(raw: bytes, envelope: Envelope, reading: Reading) -> Event | None:
    """Return the event a mail stands for: words, or what became of an attempt. None: a bounce that decides nothing.

    However malformed, what a sender wrote is kept. Raises UnreadableMail when no sender is named.
    """
    if raw.count(b"boundary=") > BOUNDARIES_MAX:
        return _read(_flatten(raw), raw, envelope, reading)
    try:
        return _read(message_from_bytes(raw, _class=EmailMessage, policy=_POLICY), raw, envelope, reading)
    except _LIBRARY_TRIPPED:
        return _read(_flatten(raw), raw, envelope, reading)


def _read(mail: EmailMessage, raw: bytes, envelope: Envelope, reading: Reading) -> Event | None:
    bounce = read_bounce(mail)
    if bounce is not None and (bounce.token or bounce.message_id):
        if bounce.state is None:
            return None
        return ReceiptEvent(
            endpoint=reading.endpoint,
            state=bounce.state,
            at=envelope.received_at,
            token=bounce.token,
            vendor_id="" if bounce.token else bounce.message_id,
            reason=bounce.reason,
            permanent=bounce.permanent,
        )
    return _read_message(mail, raw, envelope, reading)


def _vendor_id(mail: Message, raw: bytes) -> str:
    found = _MESSAGE_ID.search(header(mail, "Message-ID"))
    if found and len(found.group()) <= VENDOR_ID_MAX:
        return found.group()
    return "sha256:" + hashlib.sha256(found.group().encode() if found else raw).hexdigest()


def _flatten(raw: bytes) -> EmailMessage:
    """The mail as its headers and one piece of text."""
    head, _, body = re.sub(rb"\r?\n", b"\n", raw).partition(b"\n\n")
    mail = EmailMessage(policy=_POLICY)
    for line in re.sub(rb"\n[ \t]+", b" ", head).split(b"\n")[:500]:
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon and re.fullmatch(r"[!-9;-~]+", name) and not name.lower().startswith("content-"):
            mail.set_raw(name, value.strip())
    mail.set_payload(body.decode("utf-8", "replace"))
    return mail


def _read_message(mail: EmailMessage, raw: bytes, envelope: Envelope, reading: Reading) -> InboundMessage:
    senders = find_mailboxes(raw_headers(mail, "From")) or find_mailboxes(raw_headers(mail, "Sender"))
    if not senders:
        raise UnreadableMail("the mail names no sender")
    name, sender = senders[0]
    text, html, bodies = _read_body(mail)
    files, dropped = _read_files(mail, bodies, reading, truncated=envelope.truncated)
    own = strip_quoted(text)[: reading.text_max]
    if dropped:
        own = "\n".join([own, *(f"[not kept: {what}]" for what in dropped[:10])]).strip()
    subject = header(mail, "Subject")[:500]
    recipients = _find_recipients(mail, envelope)
    return InboundMessage(
        endpoint=reading.endpoint,
        vendor_id=_vendor_id(mail, raw),
        sender=Address(Channel.EMAIL, sender),
        text=own,
        sent_at=_read_date(mail, envelope.received_at),
        recipient=recipients[0] if recipients else "",
        html=clean_html(html) if html else None,
        subject=subject or None,
        files=files,
        sender_name=name,
        locale=_read_locale(mail),
        reply_token=find_reply_token(recipients, reading.mailbox),
        in_reply_to=_read_references(mail),
        references_text=f"{subject}\n{text[:20_000]}",
        automatic=is_automatic(mail, null_sender=envelope.null_sender) or sender == reading.mailbox,
        unverified=len(senders) > 1 or fails_dmarc(mail, reading.authserv_id),
        late=_is_late(mail, envelope),
        original=raw[: reading.original_max_bytes],
    )


def _find_recipients(mail: Message, envelope: Envelope) -> list[str]:
    """Whom it was delivered to, surest first, as written: a token's case counts."""
    named = [value for name in ("Delivered-To", "X-Original-To", "Envelope-To") for value in headers(mail, name)]
    addressed = ", ".join(value for name in ("To", "Cc") for value in headers(mail, name))
    return [
        *envelope.recipients,
        *(value.strip("<> ") for value in named),
        *re.findall(r"[^\s<>,;:\"()]+@[^\s<>,;:\"()]+", addressed[:16_000])[:50],
    ]


def _read_body(mail: EmailMessage) -> tuple[str, str, list[Message]]:
    """The text, the HTML (not cleaned) and the parts they stand in."""
    plain = mail.get_body(preferencelist=("plain",))
    rich = mail.get_body(preferencelist=("html",))
    html = _content_of(rich)[:HTML_MAX] if rich is not None else ""
    text = normalise_text(_content_of(plain)) if plain is not None else ""
    if not text.strip() and html:
        text = text_of_html(html)
    return text, html, [part for part in (plain, rich) if part is not None]


def _content_of(part: Message) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""  # parts, where a leaf was announced: they are read one by one
    for charset in (part.get_content_charset("utf-8"), "utf-8"):
        try:
            if codecs.lookup(charset).name not in _NOT_CHARSETS:
                return _HALF_PAIR.sub("\ufffd", content.decode(charset))
        except (LookupError, ValueError):
            continue  # an unknown or a wrong charset: the next guess, the last of which takes anything
    return content.decode("windows-1252", "replace")


def _read_files(
    mail: EmailMessage, bodies: list[Message], reading: Reading, *, truncated: bool
) -> tuple[tuple[InboundFile, ...], list[str]]:
    """The files within the limits, and what was left out, in words."""
    files: list[InboundFile] = []
    dropped: list[str] = []
    total = 0
    for part in _leaves(mail):
        if any(part is body for body in bodies):
            continue
        content = _bytes_of(part)
        name = _file_name(part)
        if not content:
            continue
        if truncated or len(files) >= reading.files_max or total + len(content) > reading.files_max_bytes:
            dropped.append(f"{name}, {len(content):,} bytes")
            continue
        total += len(content)
        kind = part.get_content_type()
        files.append(InboundFile(name, kind if _MEDIA_TYPE.fullmatch(kind) else "application/octet-stream", content))
    return tuple(files), dropped


def _leaves(mail: Message) -> Iterator[Message]:
    """Parts that hold content, an enclosed mail as one, at most `PARTS_MAX`."""
    waiting: list[Message] = [mail]
    seen = 0
    while waiting and seen < PARTS_MAX:
        part = waiting.pop(0)
        seen += 1
        if part.get_content_maintype() == "multipart" and (inner := _enclosed(part)) is not None:
            waiting[:0] = inner
        else:
            yield part


def _enclosed(part: Message) -> list[Message] | None:
    """The mails or parts within; None: it is a leaf. The payload of a leaf is decoded by whatever charset it names."""
    payload = part.get_payload() if part.is_multipart() else None
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else None


def _bytes_of(part: Message) -> bytes:
    inner = _enclosed(part)
    if inner is not None:
        return b"\r\n".join(one.as_bytes() for one in inner[:PARTS_MAX])
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _file_name(part: Message) -> str:
    name = mend_bytes(part.get_filename(""))
    name = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029/\\]+", "_", " ".join(name.split())).strip(". ")[:150]
    if name:
        return name
    return "mail.eml" if part.get_content_type() == "message/rfc822" else "file"


def _is_late(mail: Message, envelope: Envelope) -> bool:
    """Whether our mail server had it for long before we took it, however it comes to us.

    A mailbox says since when it has a mail. A server that hands it to us wrote that into the uppermost Received header
    (RFC 5321, section 4.4); where there is none, the sender's Date is all there is.
    """
    if envelope.taken_at is not None:
        return envelope.away_from <= envelope.received_at < envelope.taken_at - LATE_S
    stamps = [one.rpartition(";")[2] for one in headers(mail, "Received")[:1]] or [header(mail, "Date")]
    return _parse_date(stamps[0], envelope.received_at) < envelope.received_at - LATE_S


def _read_date(mail: Message, received_at: float) -> float:
    """When it was sent; the sender's clock is not believed when it runs ahead."""
    return min(_parse_date(header(mail, "Date"), received_at), received_at)


def _parse_date(text: str, otherwise: float) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return otherwise


def _read_locale(mail: Message) -> str:
    found = _LOCALE.match(header(mail, "Content-Language"))
    return found.group() if found else ""


def _read_references(mail: Message) -> tuple[str, ...]:
    nearest = _MESSAGE_ID.findall(header(mail, "In-Reply-To"))
    earlier = _MESSAGE_ID.findall(header(mail, "References"))[::-1]
    return tuple(dict.fromkeys([*nearest, *earlier]))[:REFERENCES_MAX]
