"""What an SMTP server's negative reply means: whose fault, and what to do."""

import re
from enum import StrEnum

from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    MessageRejected,
    RecipientUnreachable,
    SendFailed,
    Throttled,
)


class Stage(StrEnum):
    """How far the conversation with the server had come."""

    CONNECT = "connect"  # greeting, EHLO, STARTTLS
    AUTH = "auth"
    SENDER = "sender"  # MAIL FROM
    RECIPIENT = "recipient"  # RCPT TO
    DATA = "data"  # DATA, and the answer to the final dot


RETRY_AFTER_S = 30.0
"""How long to wait when a server asks us to, without saying how long; SMTP has no field for it."""

_ENHANCED = re.compile(r"^\s*([245]\.\d{1,3}\.\d{1,3})\b")
_CREDENTIAL_CODES = frozenset({530, 534, 535, 538})  # RFC 4954, section 6
_WAIT = re.compile(r"rate|too many|throttl|slow down|try again later|limit", re.IGNORECASE)
_RELAY = re.compile(r"relay", re.IGNORECASE)


def failure_of(stage: Stage, code: int, text: str) -> SendFailed:
    """Return the error a reply stands for; a reply, even after the final dot, says that the message was not taken.

    Codes: RFC 5321, section 4.2; enhanced codes: RFC 3463. The server's words are kept, 200 characters of them.
    """
    found = _ENHANCED.match(text)
    enhanced = found.group(1) if found else ""
    subject = enhanced[2:].partition(".")[0]
    reason = f"smtp_{code}" + (f"_{enhanced}" if enhanced else "")
    words = f"the mail server answered {code} {' '.join(text.split())[:200]}"
    if code in _CREDENTIAL_CODES or (stage is Stage.AUTH and 500 <= code < 600):
        return EndpointMisconfigured(reason, words)
    if 400 <= code < 500:
        return _temporary(stage, code, subject, reason, words)
    if stage in {Stage.CONNECT, Stage.AUTH} or not 550 <= code < 560:
        return EndpointUnavailable(reason, words)  # 500-504, 521, 554 at the greeting: the server, not the message
    return _permanent(stage, code, subject, reason, words)


def _permanent(stage: Stage, code: int, subject: str, reason: str, words: str) -> SendFailed:
    if stage is Stage.SENDER and code in {550, 553}:
        return EndpointMisconfigured(reason, words)  # our own sender address is refused
    if stage is Stage.RECIPIENT and _RELAY.search(words):
        return EndpointMisconfigured(reason, words)  # so is our right to relay
    if subject == "1" or (stage is Stage.RECIPIENT and code != 554 and subject != "3"):
        return RecipientUnreachable(reason, words)
    return MessageRejected(reason, words)


def _temporary(stage: Stage, code: int, subject: str, reason: str, words: str) -> SendFailed:
    if stage is Stage.AUTH:
        return EndpointUnavailable(reason, words)  # 454 4.7.0 here means that its password store is away
    if subject == "7" or _WAIT.search(words.partition(" answered ")[2]):
        return Throttled(reason, words, RETRY_AFTER_S)
    if stage is Stage.RECIPIENT and subject in {"1", "2"}:
        return RecipientUnreachable(reason, words)  # that mailbox is full or its domain is lost; others are not
    if stage is Stage.RECIPIENT and code == 450:
        return Throttled(reason, words, RETRY_AFTER_S)  # busy mailbox or greylisting: the server is alive
    return EndpointUnavailable(reason, words)
