"""The SMTP adapter against a real submission server that can be switched wrong."""

import asyncio
import base64
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from pydantic import ValidationError

from channels.contract import Adapter, Listening
from channels.email import submission
from channels.email.replies import Stage, failure_of
from channels.email.smtp import SmtpAdapter, SmtpSettings
from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    LocalFault,
    MessageRejected,
    RecipientUnreachable,
    Throttled,
)
from channels.messages import (
    Accepted,
    Address,
    Channel,
    Content,
    Event,
    InboundMessage,
    Kind,
    Matter,
    OutboundMessage,
    ReceiptEvent,
    ReceiptState,
)
from channels.sandbox.mail import MailVendor
from channels.sandbox.vendor import Fault, Journal
from channels.tools import Tools
from health.report import EndpointId, Report
from tests.clocks import WallClock, until


class Files:
    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    async def read(self, sha256: str) -> bytes:
        try:
            return self.stored[sha256]
        except KeyError:
            raise FileNotFoundError(sha256) from None


@dataclass
class World:
    """An adapter, the stand-in provider it speaks to, and what came in."""

    vendor: MailVendor
    journal: Journal
    tools: Tools
    files: Files
    adapter: SmtpAdapter
    reports: list[Report]
    events: list[Event] = field(default_factory=list)

    async def accept(self, event: Event) -> Accepted:
        self.events.append(event)
        return Accepted("conversation", "message")

    def build(self, **changes: object) -> SmtpAdapter:
        """Another adapter, with some settings changed."""
        return SmtpAdapter(SmtpSettings.model_validate(self.vendor.endpoint_table() | changes), self.tools)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    journal = Journal()
    vendor = MailVendor(journal)
    await vendor.start()
    files, reports = Files(), []
    async with aiohttp.ClientSession() as http:
        tools = Tools(
            endpoint=EndpointId("email/sandbox"),
            http=http,
            clock=WallClock(),
            store=None,  # type-checked code never reaches it: only IMAP keeps anything
            files=files,
            report=reports.append,
            organisation="Acme",
            public_url="https://throughline.test",
        )
        adapter = SmtpAdapter(SmtpSettings.model_validate(vendor.endpoint_table()), tools)
        yield World(vendor, journal, tools, files, adapter, reports)
        await adapter.close()
        await vendor.stop()


def message(number: int = 1, *, to: str = "Customer@Example.net", **changes: object) -> OutboundMessage:
    content = Content(f"Hello, this is number {number}.")
    matter = Matter("Acme", "4F2K9", "en", subject="Broken parcel", mail_thread=("<first@example.net>",))
    base = OutboundMessage(
        message_id=f"m{number}",
        conversation_id="c1",
        token=f"s0.attempt{number}",
        kind=Kind.MESSAGE,
        to=Address(Channel.EMAIL, to),
        content=content,
        matter=matter,
        reply_token="sealed.Token",
        created_at=1_700_000_000.0,
    )
    return replace(base, **changes)


async def test_the_adapter_keeps_the_contract(world: World) -> None:
    """It is an Adapter and Listening, and its bounds are the design's: 10 s to the final dot, 60 s after it."""
    adapter: Adapter = world.adapter
    assert isinstance(adapter, Listening)
    assert adapter.capabilities.listens_in == "web"
    assert 70 <= adapter.capabilities.io_s <= 72
    assert adapter.capabilities.threads
    assert adapter.capabilities.replyable


async def test_a_mail_arrives_whole(world: World) -> None:
    """Text, thread, reply token, attempt token and Message-ID arrive as they were said."""
    receipt = await world.adapter.send(message())
    assert receipt.vendor_ids == ("<m1@throughline.test>",)
    [entry] = world.journal.entries
    assert entry.customer == "customer@example.net"
    assert entry.text == "Hello, this is number 1."
    assert entry.subject == "Re: Broken parcel [4F2K9]"
    assert entry.details["message_id"] == "<m1@throughline.test>"
    assert entry.details["in_reply_to"] == "<first@example.net>"
    assert entry.details["reply_to"] == "support+sealed.Token@throughline.test"
    assert entry.details["envid"] == "s0.attempt1"
    assert entry.details["token"] == "s0.attempt1"


async def test_every_attempt_of_a_message_has_one_message_id(world: World) -> None:
    """A second attempt differs in its token only, so a mail program shows one mail."""
    await world.adapter.send(message(token="s0.a"))
    await world.adapter.send(message(token="s0.b", possible_duplicate=True))
    first, second = world.journal.entries
    assert first.details["message_id"] == second.details["message_id"]
    assert [first.details["envid"], second.details["envid"]] == ["s0.a", "s0.b"]
    assert second.details["possible_duplicate"] == "yes"


async def test_connections_are_reused(world: World) -> None:
    """Twenty mails, one after the other, open one connection."""
    opened = 0
    serve = world.vendor._serve

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await serve(reader, writer)

    world.vendor._serve = count
    await world.vendor.set_fault(Fault.REFUSE)
    await world.vendor.set_fault(Fault.NONE)
    for number in range(20):
        await world.adapter.send(message(number))
    assert opened == 1
    assert len(world.journal.entries) == 20


async def test_a_connection_that_died_while_idle_costs_nothing(world: World) -> None:
    """The server restarts between two mails: the second goes out over a new connection, once."""
    await world.adapter.send(message(1))
    await world.vendor.set_fault(Fault.REFUSE)
    await world.vendor.set_fault(Fault.NONE)
    await world.adapter.send(message(2))
    assert [entry.details["message_id"] for entry in world.journal.entries] == [
        "<m1@throughline.test>",
        "<m2@throughline.test>",
    ]


async def test_idle_connections_are_closed(world: World) -> None:
    """An unused connection does not stay open for ever."""
    adapter = world.build(idle_s=0.05)
    await adapter.send(message())
    assert world.vendor._writers
    await until(lambda: not world.vendor._writers)
    await adapter.close()


async def test_an_idle_connection_that_hangs_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reused connection that says nothing costs a moment, not the mail."""
    monkeypatch.setattr(submission, "REUSED_S", 0.1)
    await world.adapter.send(message(1))
    await world.vendor.set_fault(Fault.HANG)
    sending = asyncio.create_task(world.adapter.send(message(2)))
    await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    await world.vendor.set_fault(Fault.NONE)
    await sending
    assert len(world.journal.entries) == 2


async def test_dead_idle_connections_are_dropped_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five idle connections that all say nothing cost one wait, not five."""
    monkeypatch.setattr(submission, "REUSED_S", 0.3)
    monkeypatch.setattr(submission, "TO_DOT_S", 1.0)
    await asyncio.gather(*(world.adapter.send(message(number)) for number in range(5)))
    assert len(world.vendor._writers) == 5
    await world.vendor.set_fault(Fault.HANG)
    sending = asyncio.create_task(world.adapter.send(message(9)))
    await asyncio.sleep(0.1)
    await world.vendor.set_fault(Fault.NONE)
    await sending
    assert len(world.adapter._submission._idle) == 1


async def test_a_server_fault_is_the_endpoints(world: World) -> None:
    """421 at any step: certainly not taken, a failure; the probe sees it too."""
    await world.vendor.set_fault(Fault.ERROR)
    with pytest.raises(EndpointUnavailable, match="smtp_421"):
        await world.adapter.send(message())
    with pytest.raises(EndpointUnavailable, match="smtp_421"):
        await world.adapter.probe()
    await world.vendor.set_fault(Fault.ERROR, share=0.999)
    with pytest.raises(EndpointUnavailable, match="smtp_451"):
        await world.adapter.send(message())


async def test_throttling_is_no_failure(world: World) -> None:
    """450 4.7.1 asks to wait; the session stays usable for the next mail."""
    await world.vendor.set_fault(Fault.THROTTLE)
    with pytest.raises(Throttled) as caught:
        await world.adapter.send(message())
    assert caught.value.retry_after_s > 0
    await world.vendor.set_fault(Fault.NONE)
    await world.adapter.send(message())


async def test_what_is_lost_silently_looks_sent(world: World) -> None:
    """A vendor that loses mail says 250: only receipts and canaries can tell."""
    await world.vendor.set_fault(Fault.LOSE_SILENTLY)
    await world.adapter.send(message())
    assert [entry.delivered for entry in world.journal.entries] == [False]


async def test_flapping_opens_and_closes_the_port(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flapping vendor refuses first, then takes mail again by itself."""
    monkeypatch.setattr("channels.sandbox.vendor.FLAP_PERIOD_S", 0.6)
    await world.vendor.set_fault(Fault.FLAP)
    with pytest.raises(EndpointUnavailable):
        await world.adapter.send(message())
    await until(lambda: world.vendor._server is not None)
    await world.adapter.send(message())


async def test_nobody_is_the_recipients_fault(world: World) -> None:
    """550 at RCPT counts against the address, and the connection goes on."""
    with pytest.raises(RecipientUnreachable, match=r"smtp_550_5\.1\.1"):
        await world.adapter.send(message(to="nobody@example.net"))
    before = set(world.vendor._writers)
    await world.adapter.send(message())
    assert set(world.vendor._writers) == before


async def test_a_name_that_does_not_resolve_is_our_own_fault(world: World) -> None:
    """DNS never counts against the endpoint."""
    adapter = world.build(host="does-not-exist.invalid", tls="starttls")
    with pytest.raises(LocalFault):
        await adapter.send(message())


async def test_when_all_connections_are_busy_we_ask_to_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pool is pressure, never a failure of the endpoint."""
    monkeypatch.setattr(submission, "TO_DOT_S", 0.2)
    adapter = world.build(connections_max=1)
    await world.vendor.set_fault(Fault.SLOW)
    first = asyncio.create_task(adapter.send(message(1)))
    await until(lambda: bool(world.vendor._writers))
    with pytest.raises(Throttled, match="connections_busy"):
        await adapter.send(message(2))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await adapter.close()


async def test_a_cancelled_send_never_leaves_half_a_mail_to_the_next(world: World) -> None:
    """The connection of a cancelled send is not used again."""
    adapter = world.build(connections_max=1)
    await adapter.send(message(1))
    await world.vendor.set_fault(Fault.SLOW)
    sending = asyncio.create_task(adapter.send(message(2)))
    await asyncio.sleep(0.05)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await world.vendor.set_fault(Fault.NONE)
    await adapter.send(message(3))
    assert world.journal.entries[-1].details["message_id"] == "<m3@throughline.test>"
    await adapter.close()


async def test_many_at_once(world: World) -> None:
    """A hundred at once over ten connections: each arrives once."""
    await asyncio.gather(*(world.adapter.send(message(number)) for number in range(100)))
    assert len({entry.details["message_id"] for entry in world.journal.entries}) == 100
    assert len(world.vendor._writers) <= 10


async def test_a_customer_answers_and_it_comes_back_whole(world: World) -> None:
    """The answer comes in over LMTP, without the quoted mail, with the reply token and the Message-ID it answers."""
    listening = asyncio.create_task(world.adapter.listen(world.accept))
    await world.adapter.send(message())
    vendor_id = await world.vendor.write(
        "customer@example.net", "Yes please!\nSoon.", in_reply_to=world.journal.entries[0]
    )
    await until(lambda: bool(world.events))
    [event] = world.events
    assert isinstance(event, InboundMessage)
    assert event.vendor_id == vendor_id
    assert event.text == "Yes please!\nSoon."
    assert event.reply_token == "sealed.Token"
    assert event.in_reply_to[0] == "<m1@throughline.test>"
    assert event.sender == Address(Channel.EMAIL, "customer@example.net")
    assert not event.automatic
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_the_stand_in_provider_keeps_mail_until_it_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A customer writes while nobody listens, then while nothing can be stored: the mail comes, once."""
    monkeypatch.setattr("channels.sandbox.mail_delivery.RETRY_S", 0.05)
    await world.vendor.write("customer@example.net", "Anybody there?", subject="Hello")
    failures = 1

    async def accept(event: Event) -> Accepted:
        nonlocal failures
        if failures:
            failures -= 1
            raise LocalFault("Redis is away")
        return await world.accept(event)

    listening = asyncio.create_task(world.adapter.listen(accept))
    await until(lambda: bool(world.events))
    [event] = world.events
    assert isinstance(event, InboundMessage)
    assert (event.text, event.subject) == ("Anybody there?", "Hello")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(("name", "permanent"), [("bounce", True), ("full", False)])
async def test_a_bounce_ends_the_right_attempt(world: World, name: str, permanent: bool) -> None:
    """A delivery status notification comes back with the attempt's token and says whether the address is bad."""
    listening = asyncio.create_task(world.adapter.listen(world.accept))
    await world.adapter.send(message(to=f"{name}.1@example.net"))
    await until(lambda: bool(world.events))
    [event] = world.events
    assert isinstance(event, ReceiptEvent)
    assert (event.state, event.token, event.permanent) == (ReceiptState.UNDELIVERED, "s0.attempt1", permanent)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_delay_decides_nothing(world: World) -> None:
    """A `delayed` notification is taken and makes no event: the next bounce is the first."""
    listening = asyncio.create_task(world.adapter.listen(world.accept))
    await world.adapter.send(message(1, to="delayed@example.net"))
    await until(lambda: len(world.vendor._tasks) == 1)  # only the flapping is left: the notification was taken
    await world.adapter.send(message(2, to="bounce@example.net"))
    await until(lambda: bool(world.events))
    assert [event.token for event in world.events if isinstance(event, ReceiptEvent)] == ["s0.attempt2"]
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@dataclass
class TlsServer:
    """A submission server with TLS that knows one access token."""

    ca_file: Path
    port: int = 0
    tls_port: int = 0
    good_token: str = "token-2"
    mails: list[bytes] = field(default_factory=list)


def hooks_of(server: TlsServer) -> SimpleNamespace:
    async def take(smtp: object, session: object, envelope: Envelope) -> str:
        server.mails.append(bytes(envelope.original_content or b""))
        return "250 taken"

    async def log_in(smtp: SMTP, words: list[str]) -> AuthResult:
        if f"Bearer {server.good_token}\x01" in base64.b64decode(words[1]).decode():
            return AuthResult(success=True)
        await smtp.push("334 eyJzdGF0dXMiOiI0MDEifQ==")
        await smtp._reader.readline()
        await smtp.push("535 5.7.8 token refused")
        return AuthResult(success=False, handled=True)

    return SimpleNamespace(handle_DATA=take, auth_XOAUTH2=log_in)


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[TlsServer]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate to test TLS with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *options.split(), *names], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = TlsServer(certificate)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: SMTP(hooks_of(server), tls_context=context, require_starttls=True, loop=loop), "127.0.0.1", 0
    )
    implicit = await loop.create_server(
        lambda: SMTP(hooks_of(server), hostname="localhost", loop=loop), "127.0.0.1", 0, ssl=context
    )
    server.port = listener.sockets[0].getsockname()[1]
    server.tls_port = implicit.sockets[0].getsockname()[1]
    yield server
    for each in (listener, implicit):
        each.close()
        await each.wait_closed()


@pytest.fixture
async def token_server() -> AsyncIterator[tuple[str, list[dict[str, str]], dict[str, int]]]:
    """Hands out token-1, token-2, ... for the right refresh token; its status can be switched."""
    forms: list[dict[str, str]] = []
    switch = {"status": 200}

    async def refresh(request: web.Request) -> web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        forms.append(form)
        if switch["status"] != 200:
            return web.json_response({"error": "invalid_grant"}, status=switch["status"])
        return web.json_response({"access_token": f"token-{len(forms)}", "expires_in": 3600})

    app = web.Application()
    app.router.add_post("/token", refresh)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/token", forms, switch
    await runner.cleanup()


def oauth2(url: str) -> dict[str, object]:
    return {
        "oauth2": {"token_url": url, "client_id": "us", "client_secret": "s3cret", "refresh_token": "r3fresh"},
        "password": None,
    }


async def test_starttls_and_oauth2(
    world: World, tls_server: TlsServer, token_server: tuple[str, list[dict[str, str]], dict[str, int]]
) -> None:
    """Over STARTTLS with XOAUTH2: a refused token is refreshed once, a good one is kept for the next connection."""
    url, forms, _ = token_server
    adapter = world.build(port=tls_server.port, tls="starttls", ca_file=str(tls_server.ca_file), **oauth2(url))
    await adapter.send(message())
    assert len(tls_server.mails) == 1
    assert [form["grant_type"] for form in forms] == ["refresh_token", "refresh_token"]
    assert forms[0]["refresh_token"] == "r3fresh"
    await adapter.probe()
    assert len(forms) == 2
    await adapter.close()


async def test_tls_from_the_first_byte(world: World, tls_server: TlsServer) -> None:
    """Port 465: TLS before the greeting."""
    adapter = world.build(
        port=tls_server.tls_port, tls="tls", ca_file=str(tls_server.ca_file), username="", password=None
    )
    await adapter.send(message())
    assert len(tls_server.mails) == 1
    await adapter.close()


async def test_a_refused_refresh_token_needs_a_person(
    world: World, tls_server: TlsServer, token_server: tuple[str, list[dict[str, str]], dict[str, int]]
) -> None:
    """invalid_grant: down at once; a token server that fails: certainly not taken. No secret in either."""
    url, _, switch = token_server
    adapter = world.build(port=tls_server.port, tls="starttls", ca_file=str(tls_server.ca_file), **oauth2(url))
    switch["status"] = 400
    with pytest.raises(EndpointMisconfigured, match="oauth_refused") as caught:
        await adapter.send(message())
    switch["status"] = 503
    with pytest.raises(EndpointUnavailable, match="oauth_http_503") as later:
        await adapter.send(message())
    for text in (repr(caught.value), repr(later.value), repr(adapter.capabilities)):
        assert "s3cret" not in text
        assert "r3fresh" not in text


async def test_an_untrusted_certificate_needs_a_person(world: World, tls_server: TlsServer) -> None:
    """Nobody logs in to a server that cannot prove its name."""
    for tls, port in (("starttls", tls_server.port), ("tls", tls_server.tls_port)):
        adapter = world.build(port=port, tls=tls)
        with pytest.raises(EndpointMisconfigured, match="certificate_invalid"):
            await adapter.send(message())
    assert not tls_server.mails


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"host": "mail.example.org"}, "only for loopback"),
        ({"from_address": "not an address"}, "not a mail address"),
        ({"from_name": "A\r\nBcc: x"}, "line break"),
        ({"username": ""}, "needs a username"),
        ({"password": None}, "needs a password"),
        ({"tls_mode": "none"}, "extra"),
        ({"imap": {"host": "imap.example.org", "username": "x", "password": "y", "tls": "none"}}, "only for loopback"),
        ({"imap": {"host": "imap.example.org", "username": "x"}}, "either password or oauth2"),
        ({"reply_domain": "no domain"}, "not a domain"),
    ],
)
async def test_wrong_settings_are_refused(world: World, changes: dict[str, object], complaint: str) -> None:
    """Each says what is wrong; no secret stands in what it says."""
    with pytest.raises(ValidationError, match=complaint):
        SmtpSettings.model_validate(world.vendor.endpoint_table() | changes)


@pytest.mark.parametrize(
    ("stage", "code", "text", "error"),
    [
        (Stage.CONNECT, 421, "4.3.2 shutting down", EndpointUnavailable),
        (Stage.CONNECT, 554, "no service", EndpointUnavailable),
        (Stage.AUTH, 535, "5.7.8 wrong", EndpointMisconfigured),
        (Stage.AUTH, 534, "5.7.9 weak", EndpointMisconfigured),
        (Stage.AUTH, 454, "4.7.0 later", EndpointUnavailable),
        (Stage.SENDER, 530, "5.7.0 log in", EndpointMisconfigured),
        (Stage.SENDER, 553, "5.7.1 not your address", EndpointMisconfigured),
        (Stage.SENDER, 552, "5.3.4 too large", MessageRejected),
        (Stage.SENDER, 450, "4.7.1 too many", Throttled),
        (Stage.SENDER, 421, "4.7.0 try again later", Throttled),
        (Stage.SENDER, 452, "4.3.1 disk full", EndpointUnavailable),
        (Stage.SENDER, 451, "error", EndpointUnavailable),
        (Stage.SENDER, 503, "sequence", EndpointUnavailable),
        (Stage.RECIPIENT, 550, "5.1.1 no such user", RecipientUnreachable),
        (Stage.RECIPIENT, 551, "moved", RecipientUnreachable),
        (Stage.RECIPIENT, 553, "bad mailbox", RecipientUnreachable),
        (Stage.RECIPIENT, 552, "5.2.2 full", RecipientUnreachable),
        (Stage.RECIPIENT, 552, "5.3.4 too large", MessageRejected),
        (Stage.RECIPIENT, 452, "4.2.2 full", RecipientUnreachable),
        (Stage.RECIPIENT, 450, "4.1.2 no such domain", RecipientUnreachable),
        (Stage.RECIPIENT, 450, "greylisted", Throttled),
        (Stage.RECIPIENT, 451, "local error", EndpointUnavailable),
        (Stage.RECIPIENT, 554, "5.7.1 relay access denied", EndpointMisconfigured),
        (Stage.DATA, 554, "5.7.1 spam", MessageRejected),
        (Stage.DATA, 552, "too large", MessageRejected),
        (Stage.DATA, 550, "5.1.1 no such user", RecipientUnreachable),
        (Stage.DATA, 421, "4.3.0 shutting down", EndpointUnavailable),
        (Stage.DATA, 452, "4.3.1 disk full", EndpointUnavailable),
    ],
)
def test_what_a_reply_means(stage: Stage, code: int, text: str, error: type[Exception]) -> None:
    """Whose fault a reply is depends on its code, its enhanced code and how far we had come."""
    assert type(failure_of(stage, code, text)) is error
