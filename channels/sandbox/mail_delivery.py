"""The stand-in mail server's other half: what customers write, bounces, and their delivery over LMTP or SMTP."""

import asyncio
import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.policy import default as default_policy
from email.utils import format_datetime

from channels.sandbox.vendor import Entry

DELIVERY_S = 600.0
RETRY_S = 1.0
ANSWER_S = 60.0
QUOTED_LINES_MAX = 200


class Deferred(Exception):
    """Not taken this time: try again."""


def write_mail(customer: str, to: str, text: str, *, subject: str, message_id: str, answers: Entry | None) -> bytes:
    """What a customer's mail program sends: an answer quotes what it answers and names it."""
    mail = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    local, _, domain = customer.rpartition("@")
    mail["From"] = Address("", local, domain)
    mail["To"] = Address("", *to.rsplit("@", 1))
    mail["Date"] = datetime.now(UTC)
    mail["Message-ID"] = message_id
    if answers is not None:
        answered = answers.details.get("message_id", "")
        mail["In-Reply-To"] = answered
        mail["References"] = f"{answers.details.get('references', '')} {answered}".strip()
        theirs = answers.subject or subject
        subject = subject or (theirs if theirs.lower().startswith("re:") else f"Re: {theirs}")
        at = datetime.fromtimestamp(answers.at, UTC).strftime("%a, %d %b %Y at %H:%M")
        quoted = "\n".join(f"> {line}" for line in answers.text.splitlines()[:QUOTED_LINES_MAX])
        text = f"{text}\n\nOn {at}, Support <{to}> wrote:\n{quoted}\n"
    mail["Subject"] = " ".join(subject.split()) or "Hello"
    mail.set_content(text)
    return mail.as_bytes()


def write_bounce(returned: bytes, recipient: str, envid: str, *, action: str, status: str, to: str) -> bytes:
    """A delivery status notification about a mail (RFC 3464)."""
    code = "550" if action == "failed" else "450"
    lines = [
        "From: Mail Delivery System <mailer-daemon@sandbox.test>",
        f"To: <{to}>",
        f"Date: {format_datetime(datetime.now(UTC))}",
        f"Subject: {'Undelivered' if action == 'failed' else 'Delayed'} mail",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type=delivery-status; boundary="=_report"',
        "",
        "--=_report",
        "Content-Type: text/plain",
        "",
        f"Your mail to {recipient}: {action}, {status}.",
        "",
        "--=_report",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; mail.sandbox.test",
        *([f"Original-Envelope-Id: {envid}"] if envid else []),
        "",
        f"Final-Recipient: rfc822; {recipient}",
        f"Action: {action}",
        f"Status: {status}",
        f"Diagnostic-Code: smtp; {code} {status} as switched",
        "",
        "--=_report",
        "Content-Type: text/rfc822-headers",
        "",
        returned.partition(b"\r\n\r\n")[0].decode("ascii", "replace"),
        "",
        "--=_report--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii", "replace")


def read_submitted(content: bytes) -> tuple[str, str, dict[str, str]]:
    """The text, the subject and the telling headers of a mail we were handed."""
    mail = message_from_bytes(content, _class=EmailMessage, policy=default_policy)
    body = mail.get_body(preferencelist=("plain", "html"))
    text = str(body.get_content()).replace("\r\n", "\n").rstrip("\n") if body is not None else ""
    names = {
        "message_id": "Message-ID",
        "in_reply_to": "In-Reply-To",
        "references": "References",
        "reply_to": "Reply-To",
        "from": "From",
        "auto_submitted": "Auto-Submitted",
        "possible_duplicate": "X-Possible-Duplicate",
        "token": "X-Throughline-Attempt",
    }
    details = {key: " ".join(str(mail[name]).split()) for key, name in names.items() if mail[name] is not None}
    files = [part.get_filename() or "file" for part in mail.iter_attachments()]
    if files:
        details["files"] = ", ".join(files)
    if "reply_to" in details and (found := re.search(r"<([^<>]+)>", details["reply_to"])):
        details["reply_to"] = found.group(1)
    return text, str(mail["Subject"] or ""), details


async def deliver(raw: bytes, sender: str, recipient: str, *, port: int, protocol: str) -> None:
    """Hand one mail to the listener on 127.0.0.1 until it says 250; at most `DELIVERY_S`.

    Raises TimeoutError after that, PermissionError when it is refused for good.
    """
    async with asyncio.timeout(DELIVERY_S):
        while True:
            try:
                await _deliver_once(raw, sender, recipient, port=port, protocol=protocol)
                return
            except (Deferred, OSError, asyncio.IncompleteReadError) as error:
                if isinstance(error, PermissionError):
                    raise
            await asyncio.sleep(RETRY_S)


async def _deliver_once(raw: bytes, sender: str, recipient: str, *, port: int, protocol: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await _expect(reader, b"2")
        greeting = "LHLO" if protocol == "lmtp" else "EHLO"
        steps = (f"{greeting} mail.sandbox.test", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>")
        for command in steps:
            writer.write(command.encode() + b"\r\n")
            await _expect(reader, b"2")
        writer.write(b"DATA\r\n")
        await _expect(reader, b"3")
        writer.write(re.sub(rb"(?m)^\.", b"..", raw) + b".\r\n")
        await writer.drain()
        await _expect(reader, b"2")
        writer.write(b"QUIT\r\n")
        await writer.drain()
    finally:
        writer.close()


async def _expect(reader: asyncio.StreamReader, kind: bytes) -> None:
    async with asyncio.timeout(ANSWER_S):
        while (line := await reader.readuntil(b"\r\n"))[3:4] == b"-":
            pass
    if line[:1] == b"5":
        raise PermissionError(line.decode("ascii", "replace").strip())
    if line[:1] != kind:
        raise Deferred(line.decode("ascii", "replace").strip())
