"""SMTP submission and LMTP delivery against the stand-in mail provider."""

from collections.abc import Mapping

from aiohttp import web

from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    Throttled,
)
from channels.messages import File, Line, ReceiptState
from channels.sandbox.mail import MailVendor
from channels.sandbox.vendor import Fault
from tests.channels.suite.rows import (
    Bounds,
    Hook,
    Inbound,
    Must,
    Probe,
    Receipted,
    Send,
    Table,
    Taken,
    TextMax,
    bare_webhook,
    exempt,
)
from tests.channels.suite.stage import WORDS, Stage, babbling_port, closed_port, serving

BAD = "a\r\nBcc: x@example.org\x00"
SHORT = Bounds(
    {
        **{f"channels.email.{module}.TO_DOT_S": 0.3 for module in ("submission", "smtp")},
        **{f"channels.email.{module}.AFTER_DOT_S": 0.3 for module in ("submission", "smtp")},
        "channels.email.submission.PROBE_S": 0.3,
    }
)
"""Ten, sixty and five seconds."""


def _vendor(stage: Stage) -> MailVendor:
    return MailVendor(stage.journal, endpoint="email/suite", password="the-mailbox-password-nobody-may-see")


async def _taken(stage: Stage) -> list[Taken]:
    entries = [entry for entry in stage.journal.entries if entry.to_customer]
    return [Taken(entry.customer, entry.text, entry.vendor_id) for entry in entries]


async def _babble(stage: Stage) -> Mapping[str, object]:
    return {"port": await babbling_port(stage)}


async def _refused_tokens(stage: Stage) -> Mapping[str, object]:
    """A token server that refuses our refresh token, and a mailbox at which nobody answers."""

    async def refuse(request: web.Request) -> web.Response:
        form = dict(await request.post())
        assert form["refresh_token"] == "the-refresh-token-nobody-may-see"
        return web.json_response({"error": "invalid_grant", "error_description": str(form)}, status=400)

    tokens = {
        "token_url": await stage.at_end.enter_async_context(serving(refuse)),
        "client_id": "throughline",
        "client_secret": "the-client-secret-nobody-may-see",
        "refresh_token": "the-refresh-token-nobody-may-see",
    }
    mailbox = {"host": "127.0.0.1", "port": await closed_port(stage), "tls": "none", "username": "support"}
    return {
        "password": None,
        "oauth2": tokens,
        "imap": {**mailbox, "password": "the-mailbox-password-nobody-may-see"},
    }


async def _small_mailbox(stage: Stage) -> Mapping[str, object]:
    stage.monkeypatch.setattr("channels.sandbox.mail_server.SIZE_MAX", 3_000)
    return {}


def _file_named(name: str, media_type: str = "text/plain", size: int = 1) -> Mapping[str, object]:
    return {"content": {"files": (File(FILE, name, media_type, size),)}}


async def _with_file(stage: Stage) -> Mapping[str, object]:
    assert await stage.files.write(b"x") == FILE
    return {}


async def _send_hangs_after_the_dot(stage: Stage) -> Mapping[str, object]:
    """The provider takes the mail and is slower than our bound."""
    stage.monkeypatch.setattr("channels.sandbox.mail_server.SLOW_S", 30.0)
    return {}


FILE = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
"""The SHA-256 of the letter x."""
HOSTILE = Line(author=f"Eve {BAD}", text=f"said\r\n.\r\n{BAD}", at=1.0, from_customer=True)
HISTORY = f"""{WORDS}

On 1970-01-01 00:00 UTC, Eve a Bcc: x@example.org wrote:
> said
> .
> a
> Bcc: x@example.org"""

TABLE = Table(
    provider="smtp",
    endpoint="email/suite",
    customer="customer@example.net",
    vendor=_vendor,
    settings=lambda stage: stage.vendor.endpoint_table(),
    taken=_taken,
    pace={"channels.sandbox.mail_delivery.RETRY_S": 0.03},
    cases={
        Must.TAKEN: (
            Send(label="plain"),
            Send(label="dots and long lines", message={"text": "first\n.\n..two\n.hidden\n" + "x" * 3000 + "\nlast"}),
            Send(label="beyond ASCII", message={"text": "Grüße 😀", "matter": {"subject": "Größe"}}),
            Send(label="file", arrange=_with_file, message=_file_named("ünvoice.pdf", "application/pdf")),
        ),
        Must.REFUSED_CONNECTION: Send(fault=Fault.REFUSE, raises=EndpointUnavailable, reason="connect_refused"),
        Must.HANG: (
            Send(
                label="before the dot",
                fault=Fault.HANG,
                bounds=SHORT,
                raises=EndpointUnavailable,
                reason="timeout_before_dot",
            ),
            Send(
                label="after the dot",
                fault=Fault.SLOW,
                arrange=_send_hangs_after_the_dot,
                bounds=SHORT,
                raises=OutcomeUnknown,
                reason="timeout_after_dot",
            ),
        ),
        Must.VENDOR_ERROR: Send(fault=Fault.ERROR, raises=EndpointUnavailable, reason="smtp_421"),
        Must.DROP_AFTER_ACCEPT: Send(
            fault=Fault.DROP_AFTER_ACCEPT, raises=OutcomeUnknown, reason="lost_after_dot", taken=1
        ),
        Must.NONSENSE: Send(arrange=_babble, raises=EndpointUnavailable),
        Must.THROTTLED: Send(fault=Fault.THROTTLE, raises=Throttled, reason="smtp_450"),
        Must.BAD_CREDENTIAL: (
            Send(
                label="password",
                settings={"password": "another-password-nobody-may-see"},
                raises=EndpointMisconfigured,
                reason="smtp_535",
            ),
            Send(
                label="refresh token",
                arrange=_refused_tokens,
                raises=EndpointMisconfigured,
                reason="oauth_refused",
            ),
            Send(label="no STARTTLS", settings={"tls": "starttls"}, raises=EndpointMisconfigured),
        ),
        Must.BAD_RECIPIENT: (
            Send(label="vendor", message={"to": "nobody@example.net"}, raises=RecipientUnreachable, reason="smtp_550"),
            Send(label="no mailbox", message={"to": "customer"}, raises=RecipientUnreachable),
            Send(label="empty", message={"to": ""}, raises=RecipientUnreachable),
            Send(label="long", message={"to": "x" * 65 + "@example.net"}, raises=RecipientUnreachable),
        ),
        Must.CONTENT_REFUSED: (
            Send(
                label="SIZE",
                arrange=_small_mailbox,
                message={"text": "x" * 5_000},
                raises=MessageRejected,
                reason="too_large",
            ),
            Send(label="files", message=_file_named("a", size=10**9), raises=MessageRejected, reason="files_too_large"),
            Send(label="file gone", message=_file_named("a"), raises=MessageRejected, reason="file_missing"),
        ),
        Must.EMPTY_TEXT: (
            Send(label="nothing", message={"text": " \n"}, raises=MessageRejected),
            Send(label="a file alone", arrange=_with_file, message={"text": "", **_file_named("a")}, arrives=""),
        ),
        Must.TEXT_OVER_MAX: TextMax(),
        Must.LINE_ENDS_AND_NUL: (
            Send(
                label="text",
                message={"text": "a\r\n.\r\nMAIL FROM:<x@example.org>\rb\x00c"},
                arrives="a\n.\nMAIL FROM:<x@example.org>\nbc",
            ),
            Send(label="html", message={"content": {"html": f"<p>{BAD}</p>"}}),
            Send(label="subject", message={"matter": {"subject": BAD}}, raises=MessageRejected),
            Send(
                label="own subject",
                message={"matter": {"subject": ""}, "content": {"subject": BAD}},
                raises=MessageRejected,
            ),
            Send(label="reference", message={"matter": {"reference": BAD}}, raises=MessageRejected),
            Send(label="token", message={"token": BAD}, raises=MessageRejected),
            Send(label="file name", arrange=_with_file, message=_file_named(BAD), raises=MessageRejected),
            Send(label="media type", arrange=_with_file, message=_file_named("a", BAD), raises=MessageRejected),
            Send(label="address", message={"to": f"{BAD}@example.net"}, raises=RecipientUnreachable),
            Send(label="message id", message={"message_id": BAD}),
            Send(label="reply token", message={"reply_token": BAD}),
            Send(label="thread", message={"matter": {"mail_thread": (f"<{BAD}@example.net>",)}}),
            Send(
                label="history",
                message={"matter": {"what_happened": BAD, "history": (HOSTILE,)}},
                arrives=HISTORY,
            ),
        ),
        Must.MARKUP: Send(
            message={
                "text": "<script>alert(1)</script> &amp; \" '",
                "matter": {"subject": '<b>"Parcel"</b>', "reference": "<4F2K9>"},
            }
        ),
        Must.PROBE_WELL: Probe(),
        Must.PROBE_UNWELL: (
            Probe(label="refused", fault=Fault.REFUSE, raises=EndpointUnavailable),
            Probe(label="hang", fault=Fault.HANG, bounds=SHORT, raises=EndpointUnavailable),
            Probe(label="error", fault=Fault.ERROR, raises=EndpointUnavailable),
            Probe(label="nonsense", arrange=_babble, raises=EndpointUnavailable),
            Probe(label="credential", settings={"password": "another"}, raises=EndpointMisconfigured),
        ),
        Must.RECEIPT: (
            Receipted(label="bounce", message={"to": "bounce@example.net"}, state=ReceiptState.UNDELIVERED),
            Receipted(label="full", message={"to": "full@example.net"}, state=ReceiptState.UNDELIVERED),
        ),
        Must.INBOUND: (
            Inbound(label="plain", text="Anybody there?\nHello?"),
            Inbound(label="beyond ASCII", text="Grüße 😀"),
        ),
        Must.INBOUND_CONTROLS: Inbound(text="a\x00b\x07c", arrives="abc"),
        Must.DELIVERED_TWICE: Inbound(fail_after=1),
        Must.NOT_DURABLE: Inbound(fail_before=2),
        Must.WEBHOOK_FORGED: Hook(bare_webhook, 404),
        Must.WEBHOOK_MALFORMED: exempt("every webhook is refused unread"),
        Must.WEBHOOK_OVERSIZED: exempt("every webhook is refused unread"),
    },
)
