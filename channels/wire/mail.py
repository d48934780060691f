"""One mail: an outbound message in, RFC 5322 bytes and an SMTP envelope out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address as ParsedAddress
from email.headerregistry import BaseHeader, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import EmailPolicy, Policy
from typing import cast

from channels.messages import File, Kind, Line, Matter, OutboundMessage
from channels.wire.mail_address import check_header_text, format_mailbox, normalise_mailbox, reply_address
from channels.wire.mail_text import clean_html, html_of_text, normalise_text

ATTEMPT_HEADER = "X-Throughline-Attempt"
"""Carries the attempt's token; a bounce returns the headers, so it names the attempt that bounced."""
THREAD_MAX = 20
ENVID_MAX = 100
"""Octets of an envelope id after encoding (RFC 3461, section 4.4)."""
SUBJECT_MAX = 200

_MESSAGE_ID = re.compile(r"<[^\s<>]{1,900}>")
_SECOND_HEADER = re.compile(rb"[\r\n](?![ \t\n])|\n[\r\n]")
_ANSWER_PREFIX = re.compile(r"^((re|aw|antw|sv|vs|rv|res|ref|r|fwd?|wg|tr)\s*(\[\d+\])?\s*:\s*)+", re.IGNORECASE)
_WROTE = {
    "en": "On {at}, {author} wrote:",
    "de": "Am {at} schrieb {author}:",
    "es": "El {at}, {author} escribió:",
    "fr": "Le {at}, {author} a écrit :",
}


class _ThreadHeader(UnstructuredHeader, BaseHeader):
    """Message-IDs, folded between ids only: the library would encode a long one, and no client could thread by it."""

    def fold(self, *, policy: Policy) -> str:
        return f"{self.name}: " + f"{policy.linesep} ".join(str(self).split()) + policy.linesep


class _WholePolicy(EmailPolicy):
    """Writes a header as one header, or raises ValueError: Python before 3.11.10 writes line breaks that stood in an
    encoded word as they are (CVE-2024-6923)."""

    def fold_binary(self, name: str, value: str) -> bytes:
        folded = super().fold_binary(name, value)
        if _SECOND_HEADER.search(folded.removesuffix(b"\r\n")):
            raise ValueError(f"{name} would become two headers")
        return folded


def _thread_policy() -> "EmailPolicy[EmailMessage]":
    registry = HeaderRegistry()
    registry.map_to_type("in-reply-to", _ThreadHeader)
    registry.map_to_type("references", _ThreadHeader)
    # 7bit: a body in base64 or quoted-printable passes every relay, also one without 8BITMIME.
    return cast("EmailPolicy[EmailMessage]", _WholePolicy(linesep="\r\n", header_factory=registry, cte_type="7bit"))


POLICY = _thread_policy()
POLICY_UTF8 = POLICY.clone(utf8=True)


@dataclass(frozen=True, slots=True)
class Letterhead:
    """Who a mail comes from and where its answers go."""

    mailbox: str
    """Normalised: `support@example.org`."""
    name: str
    reply_domain: str
    """Domain of the reply address and of our Message-IDs."""
    organisation: str = ""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail ready for SMTP."""

    sender: str
    recipient: str
    message_id: str
    content: bytes
    """CRLF line ends only, 7-bit unless `needs_smtputf8`."""
    envid: str
    """Already xtext; empty when the token does not fit."""
    needs_smtputf8: bool = False


def message_id_of(message_id: str, domain: str) -> str:
    """Return the Message-ID of a message, angle brackets included: the same for each of its attempts.

    A client that gets a flagged second copy so shows one mail (RFC 5322, section 3.6.4).
    """
    local = re.sub(r"[^A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]", "-", message_id)[:200] or "message"
    return f"<{local}@{domain}>"


def envelope_id(token: str) -> str:
    """Return the attempt's token as an ENVID in xtext (RFC 3461, section 4), or empty when it is too long."""
    encoded = "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}"
        for octet in token.encode("utf-8", "replace")
    )
    return encoded if len(encoded) <= ENVID_MAX else ""


def build_mail(message: OutboundMessage, letterhead: Letterhead, files: Mapping[str, bytes]) -> Mail:
    """Return the mail that says `message`; `files` holds the bytes of its files by content hash.

    Raises ValueError when an address is none or a header would hold a line break; nothing is repaired silently.
    """
    recipient = normalise_mailbox(message.to.value)
    utf8 = not (recipient.isascii() and letterhead.mailbox.isascii())
    mail = EmailMessage(policy=POLICY_UTF8 if utf8 else POLICY)
    own_id = message_id_of(message.message_id, letterhead.reply_domain)
    _set_headers(mail, message, letterhead, recipient, own_id)
    text, html = render_body(message)
    mail.set_content(text)
    mail.add_alternative(html, subtype="html")
    for file in message.content.files:
        _attach(mail, file, files[file.sha256])
    return Mail(
        sender=letterhead.mailbox,
        recipient=recipient,
        message_id=own_id,
        content=mail.as_bytes(),
        envid=envelope_id(message.token),
        needs_smtputf8=utf8,
    )


def _set_headers(
    mail: EmailMessage, message: OutboundMessage, letterhead: Letterhead, recipient: str, own_id: str
) -> None:
    mail["From"] = format_mailbox(letterhead.mailbox, letterhead.name)
    mail["To"] = format_mailbox(recipient, "")
    mail["Reply-To"] = format_reply_to(letterhead, message.reply_token)
    mail["Subject"] = subject_of(message.matter, message.content.subject or "", letterhead.organisation)
    mail["Date"] = datetime.fromtimestamp(message.created_at, UTC)
    mail["Message-ID"] = own_id
    thread = [ref for ref in message.matter.mail_thread if ref != own_id and _MESSAGE_ID.fullmatch(ref)][-THREAD_MAX:]
    if thread:
        mail["In-Reply-To"] = thread[-1]
        mail["References"] = " ".join(thread)
    mail[ATTEMPT_HEADER] = check_header_text(message.token, "the token")
    # Not `All`: that would also suppress the non-delivery reports (NDR) we live by. MS-OXOMSG, section 2.2.1.77.
    mail["X-Auto-Response-Suppress"] = "DR, RN, NRN, OOF, AutoReply"
    if message.kind is Kind.CONFIRMATION:
        mail["Auto-Submitted"] = "auto-replied"
    elif message.kind in {Kind.NOTICE, Kind.PROMPT}:
        mail["Auto-Submitted"] = "auto-generated"
    if message.possible_duplicate:
        mail["X-Possible-Duplicate"] = "yes"


def format_reply_to(letterhead: Letterhead, token: str) -> ParsedAddress:
    """Return the Reply-To value; the token keeps its case, since it is signed."""
    local, _, domain = reply_address(letterhead.mailbox, letterhead.reply_domain, token).rpartition("@")
    return ParsedAddress(check_header_text(letterhead.name, "the name"), local, domain)


def subject_of(matter: Matter, subject: str, organisation: str) -> str:
    """Return the subject: one `Re:` when it answers, the reference in brackets once, at most 200 characters."""
    own = check_header_text(matter.subject or subject or organisation, "the subject")
    tag = f" [{matter.reference}]" if matter.reference else ""
    topic = own.replace(tag.strip(), "") if tag else own
    topic = _ANSWER_PREFIX.sub("", " ".join(topic.split())).strip()
    prefix = "Re: " if matter.mail_thread else ""
    return f"{prefix}{topic[: SUBJECT_MAX - len(prefix) - len(tag)]}{check_header_text(tag, 'the reference')}".strip()


def render_body(message: OutboundMessage) -> tuple[str, str]:
    """Return the body as text and as HTML: what is said, then the history when the conversation moved here."""
    said = normalise_text(message.content.text)
    html = html_of_text(said) if message.content.html is None else clean_html(message.content.html)
    if message.matter.what_happened and message.matter.history:
        quoted = [_quote(line, message.matter.locale) for line in reversed(message.matter.history[-20:])]
        said += "\n\n" + "\n\n".join(f"{head}\n" + _mark_quoted(text) for head, text in quoted)
        html += "".join(
            f"\n{html_of_text(head)}\n<blockquote>\n{html_of_text(text)}\n</blockquote>" for head, text in quoted
        )
    return said.rstrip("\n") + "\n", f"<!doctype html>\n<html><body>\n{html}\n</body></html>\n"


def _quote(line: Line, locale: str) -> tuple[str, str]:
    wrote = _WROTE.get(locale[:2].lower(), _WROTE["en"])
    at = datetime.fromtimestamp(line.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return wrote.format(at=at, author=" ".join(normalise_text(line.author).split())), normalise_text(line.text).strip()


def _mark_quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _attach(mail: EmailMessage, file: File, content: bytes) -> None:
    maintype, _, subtype = check_header_text(file.media_type, "a file's media type").partition("/")
    if not re.fullmatch(r"[\w.+-]+", subtype) or maintype not in {"text", "image", "audio", "video", "application"}:
        maintype, subtype = "application", "octet-stream"
    name = check_header_text(file.name, "a file's name")
    mail.add_attachment(content, maintype=maintype, subtype=subtype, filename=name, cte="base64")
