"""Mailboxes: normalised, checked, carrying a reply token."""

import re
from email.errors import HeaderParseError
from email.headerregistry import Address as ParsedAddress
from email.policy import default as default_policy
from email.utils import getaddresses

LOCAL_PART_MAX = 64
"""Octets before the @ (RFC 5321, section 4.5.3.1.1)."""
MAILBOX_MAX = 254
"""Octets of a whole mailbox (RFC 5321, section 4.5.3.1.3, less its angle brackets)."""

_UNSAFE = re.compile(r"[\r\n\x00]")
_LOCAL_PART = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~.\-\u0080-\U0010ffff]+")
_DOMAIN_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_REPLY_TOKEN = re.compile(r"[A-Za-z0-9._=~-]+")


def check_header_text(text: str, name: str) -> str:
    """Return `text` for a header; raises ValueError when a CR, LF or NUL could end the header it goes into.

    What looks like the beginning of an encoded word (RFC 2047) gets a space into it: the standard library would decode
    the word, and the line break in it, before it writes the header.
    """
    if _UNSAFE.search(text):
        raise ValueError(f"{name} holds a line break or a NUL, which a mail header must not")
    return text.replace("=?", "= ?")


def normalise_domain(domain: str) -> str:
    """Return the domain in lower case and ASCII (IDNA); raises ValueError when it is none."""
    try:
        ascii_domain = domain.strip().rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ValueError("not a domain name") from None
    if len(ascii_domain) > 253 or not all(_DOMAIN_LABEL.fullmatch(label) for label in ascii_domain.split(".")):
        raise ValueError("not a domain name")
    return ascii_domain


def normalise_mailbox(mailbox: str) -> str:
    """Return the bare mailbox in lower case with an ASCII domain; raises ValueError when it is none.

    Quoted local parts and address literals are refused: nobody writes from them, and forgers do.
    """
    check_header_text(mailbox, "the address")
    local, at, domain = mailbox.strip().rpartition("@")
    local = local.lower()
    if not at or not _LOCAL_PART.fullmatch(local) or local.startswith(".") or local.endswith(".") or ".." in local:
        raise ValueError("not a mail address")
    if not local.isprintable():  # line and paragraph separators, invisible and reversing signs beyond ASCII
        raise ValueError("not a mail address")
    if len(local.encode()) > LOCAL_PART_MAX:
        raise ValueError("the part before the @ is longer than 64 octets")
    whole = f"{local}@{normalise_domain(domain)}"
    if len(whole.encode()) > MAILBOX_MAX:
        raise ValueError("the address is longer than 254 octets")
    return whole


def format_mailbox(mailbox: str, name: str) -> ParsedAddress:
    """Return a header value `name <mailbox>`; raises ValueError for an unsafe name or no mailbox."""
    local, _, domain = normalise_mailbox(mailbox).rpartition("@")
    try:
        return ParsedAddress(check_header_text(name, "the name"), local, domain)
    except HeaderParseError as error:
        raise ValueError("not a mail address") from error


def mend_bytes(text: str) -> str:
    """Return header text whose raw 8-bit octets, which the standard library keeps as surrogates, are read as UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if not text.isascii() else text


def decode_words(raw: str) -> str:
    """Return header text with its encoded words (RFC 2047) decoded, on one line, without control characters."""
    try:
        decoded = str(default_policy.header_factory("subject", raw))
    except (ValueError, IndexError, AttributeError, TypeError, LookupError):
        decoded = raw  # the library trips over some malformed encoded words; the raw ones still say enough
    return " ".join(re.sub(r"[\x00-\x1f\x7f\u0085\u2028\u2029]", " ", decoded).split())


def find_mailboxes(values: list[str]) -> list[tuple[str, str]]:
    """Return `(name, mailbox)` for each valid mailbox in some raw address headers, in order, at most 50."""
    found: list[tuple[str, str]] = []
    clipped = [value[:8_000] for value in values[:20]]
    try:
        pairs = getaddresses(clipped)
    except RecursionError:  # comments nested hundreds deep: take what stands in angle brackets
        pairs = [("", mailbox) for value in clipped for mailbox in re.findall(r"<([^<>\s]+@[^<>\s]+)>", value)]
    for name, mailbox in pairs:
        try:
            found.append((decode_words(name)[:200], normalise_mailbox(mailbox)))
        except ValueError:
            continue  # a group name, "undisclosed-recipients:;", or plain rubbish
    return found[:50]


def reply_address(mailbox: str, domain: str, token: str) -> str:
    """Return the mailbox at the reply domain, with the token behind a plus sign (RFC 5233).

    Without a token, or with one that would make the local part longer than 64 octets, the plain mailbox: the reply
    then joins by its Message-IDs.
    """
    local = mailbox.rpartition("@")[0]
    if token and _REPLY_TOKEN.fullmatch(token) and len(local) + 1 + len(token) <= LOCAL_PART_MAX:
        return f"{local}+{token}@{domain}"
    return f"{local}@{domain}"


def find_reply_token(recipients: list[str], mailbox: str) -> str:
    """Return the token behind our mailbox's plus sign in the first recipient that has one, as it was written."""
    ours = mailbox.rpartition("@")[0].lower() + "+"
    for recipient in recipients:
        local = recipient.strip().strip("<>").rpartition("@")[0]
        if local.lower().startswith(ours) and _REPLY_TOKEN.fullmatch(local[len(ours) :]):
            return local[len(ours) :]
    return ""
