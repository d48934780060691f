"""The built-in listener, spoken to byte by byte."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.utils import formatdate

import aiohttp
import pytest

from channels.email import lmtp
from channels.email.lmtp import LmtpListener, LmtpSettings
from channels.messages import Accepted, Event, InboundMessage
from channels.tools import Tools
from channels.wire.mail_parse import Reading
from health.report import Direction, EndpointId, Report, Status
from tests.clocks import WallClock

MAIL = b"From: Bob <bob@example.net>\r\nTo: support@example.org\r\nMessage-ID: <1@example.net>\r\n\r\nHelp\r\n"


class Client:
    """Speaks to the listener a line at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: str | bytes) -> str:
        """Send a command and return the answer's last line."""
        self.writer.write(data if isinstance(data, bytes) else data.encode() + b"\r\n")
        return await self.hear()

    async def hear(self) -> str:
        async with asyncio.timeout(5):
            while (line := (await self.reader.readuntil(b"\r\n")).decode())[3:4] == "-":
                pass
        return line.strip()

    async def deliver(self, mail: bytes, *recipients: str, sender: str = "bob@example.net") -> list[str]:
        """Hand in one mail; the answers to the final dot."""
        assert (await self.say(f"MAIL FROM:<{sender}>")).startswith("250")
        for recipient in recipients:
            assert (await self.say(f"RCPT TO:<{recipient}>")).startswith("250")
        assert (await self.say("DATA")).startswith("354")
        first = await self.say(mail + b".\r\n")
        return [first, *[await self.hear() for _ in recipients[1:]]]


@dataclass
class Post:
    """A running listener, and what came of it."""

    listener: LmtpListener
    events: list[Event] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    failure: Exception | None = None
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[Client] = field(default_factory=list)

    async def accept(self, event: Event) -> Accepted:
        await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        self.events.append(event)
        return Accepted("c", "m")

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.listener.port)))
        return self.clients[-1]

    async def call(self, greeting: str = "LHLO") -> Client:
        client = await self.connect()
        assert (await client.hear()).startswith("220")
        assert (await client.say(f"{greeting} mx.example.org")).startswith("250")
        return client


@pytest.fixture(params=["lmtp"])
async def post(request: pytest.FixtureRequest) -> AsyncIterator[Post]:
    settings = LmtpSettings(port=0, protocol=request.param, message_max_bytes=100_000)
    reading = Reading(EndpointId("email/acme"), "support@example.org", "mx.example.org")
    reports: list[Report] = []
    async with aiohttp.ClientSession() as http:
        tools = Tools(
            endpoint=EndpointId("email/acme"),
            http=http,
            clock=WallClock(),
            store=None,
            files=None,
            report=reports.append,
            organisation="Acme",
            public_url="https://throughline.test",
        )
        post = Post(LmtpListener(settings, reading, frozenset({"example.org"}), tools), reports=reports)
        post.hold.set()
        task = asyncio.create_task(post.listener.listen(post.accept))
        async with asyncio.timeout(5):
            await post.listener.bound.wait()
        yield post
        for client in post.clients:
            client.writer.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_250_only_once_durable(post: Post) -> None:
    """While `accept` has not returned there is no answer; afterwards there is, and the mail was read right."""
    post.hold.clear()
    client = await post.call()
    delivering = asyncio.create_task(client.deliver(MAIL, "support+To.ken@example.org"))
    done, _ = await asyncio.wait({delivering}, timeout=0.1)
    assert not done
    post.hold.set()
    assert (await delivering)[0].startswith("250")
    [event] = post.events
    assert isinstance(event, InboundMessage)
    assert (event.text, event.reply_token, event.vendor_id) == ("Help", "To.ken", "<1@example.net>")
    assert event.original == MAIL


async def test_451_when_it_could_not_be_stored(post: Post) -> None:
    """The sender keeps the mail and tries again; the second time it is taken."""
    post.failure = RuntimeError("Redis is away")
    client = await post.call()
    answers = await client.deliver(MAIL, "support@example.org")
    assert answers[0].startswith("451")
    assert "Redis" not in answers[0]
    post.failure = None
    assert (await client.deliver(MAIL, "support@example.org"))[0].startswith("250")


async def test_451_when_it_takes_too_long(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs does not hold the mail server for ever."""
    monkeypatch.setattr(lmtp, "ACCEPT_S", 0.1)
    post.hold.clear()
    client = await post.call()
    assert (await client.deliver(MAIL, "support@example.org"))[0].startswith("451")


async def test_lmtp_answers_once_a_recipient(post: Post) -> None:
    """Three recipients, three answers, one event; also when the mail is refused."""
    client = await post.call()
    recipients = ("support@example.org", "support+t@example.org", "info@example.org")
    assert [answer[:3] for answer in await client.deliver(MAIL, *recipients)] == ["250"] * 3
    assert len(post.events) == 1
    big = MAIL + b"x" * 60 + b"\r\n" + (b"y" * 900 + b"\r\n") * 200
    assert [answer[:3] for answer in await client.deliver(big, *recipients)] == ["552"] * 3
    assert (await client.say("NOOP")).startswith("250")


@pytest.mark.parametrize("post", ["smtp"], indirect=True)
async def test_smtp_answers_once(post: Post) -> None:
    """As SMTP listener there is one answer, however many recipients."""
    client = await post.call("EHLO")
    assert (await client.say("MAIL FROM:<bob@example.net>")).startswith("250")
    for recipient in ("support@example.org", "info@example.org"):
        assert (await client.say(f"RCPT TO:<{recipient}>")).startswith("250")
    assert (await client.say("DATA")).startswith("354")
    assert (await client.say(MAIL + b".\r\n")).startswith("250")
    assert (await client.say("NOOP")).startswith("250 OK")


@pytest.mark.parametrize(
    "ending",
    [b"a\n.\r\nb\r\n", b"a\r\n.\nMAIL FROM:<x@y.z>\r\n", b"a\n.\nb\r\n", b"a\r.\r\r\n", b"a\rb\r\n", b"\n\r\n"],
)
async def test_smuggling_is_refused(post: Post, ending: bytes) -> None:
    """A bare CR or LF, which another server may take for the end of the mail, makes the whole mail refused."""
    client = await post.call()
    assert (await client.deliver(MAIL + ending, "support@example.org"))[0].startswith("554")
    assert not post.events


async def test_other_peoples_mail_is_refused(post: Post) -> None:
    """We relay for nobody."""
    client = await post.call()
    await client.say("MAIL FROM:<bob@example.net>")
    assert (await client.say("RCPT TO:<x@example.com>")).startswith("550 5.7.1")
    assert (await client.say("RCPT TO:<no-address>")).startswith("550 5.1.3")
    assert (await client.say("DATA")).startswith("503")


async def test_an_oversized_mail_is_refused(post: Post) -> None:
    """By its SIZE before it is sent, by its size afterwards; the session goes on."""
    client = await post.call()
    assert (await client.say("MAIL FROM:<bob@example.net> SIZE=200000")).startswith("552")
    big = MAIL + (b"y" * 900 + b"\r\n") * 200
    assert (await client.deliver(big, "support@example.org"))[0].startswith("552")
    assert (await client.deliver(MAIL, "support@example.org"))[0].startswith("250")


async def test_a_bounce_has_no_sender_and_is_taken(post: Post) -> None:
    """MAIL FROM:<> is how bounces and auto-replies come; words that come so are automatic."""
    client = await post.call()
    assert (await client.deliver(MAIL, "support@example.org", sender=""))[0].startswith("250")
    [event] = post.events
    assert isinstance(event, InboundMessage)
    assert event.automatic


async def test_a_mail_without_sender_is_refused(post: Post) -> None:
    """Nobody to answer: refused for good, so that whoever sent it learns of it."""
    client = await post.call()
    mail = b"Subject: hello\r\n\r\nHelp\r\n"
    assert (await client.deliver(mail, "support@example.org"))[0].startswith("550")


async def test_only_our_own_server_is_believed(post: Post) -> None:
    """DMARC failed, says our server: unverified. Says somebody else's: not believed."""
    client = await post.call()
    for server in (b"mx.example.org", b"mx.example.com"):
        mail = b"Authentication-Results: " + server + b"; spf=pass; dmarc=fail\r\n" + MAIL
        await client.deliver(mail, "support@example.org")
    assert [event.unverified for event in post.events if isinstance(event, InboundMessage)] == [True, False]


async def test_long_lines_are_taken(post: Post) -> None:
    """Real mail does not keep to 998 octets a line, and what is refused is lost to us."""
    client = await post.call()
    assert (await client.deliver(MAIL + b"z" * 20_000 + b"\r\n", "support@example.org"))[0].startswith("250")


async def test_connections_are_bounded(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the limit is told so and let go."""
    monkeypatch.setattr(lmtp, "CONNECTIONS_MAX", 1)
    first = await post.call()
    client = await post.connect()
    assert (await client.hear()).startswith("421")
    assert (await first.say("NOOP")).startswith("250")


async def test_a_port_in_use_is_reported_and_tried_again(post: Post) -> None:
    """The listener says that it is down, and opens the port as soon as it is free."""
    blocker = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = blocker.sockets[0].getsockname()[1]
    reading = Reading(EndpointId("email/acme"), "support@example.org")
    second = LmtpListener(LmtpSettings(port=port), reading, frozenset({"example.org"}), post.listener._tools)
    task = asyncio.create_task(second.listen(post.accept))
    async with asyncio.timeout(5):
        while not any(report.status is Status.DOWN for report in post.reports):
            await asyncio.sleep(0.01)
        blocker.close()
        await second.bound.wait()
    assert post.reports[-1].status is Status.UP
    assert all(report.direction is Direction.IN for report in post.reports)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("received_ago_s", "date_ago_s", "late"),
    [
        (6 * 3600, 6 * 3600, True),  # our mail server kept it while we were away
        (1, 6 * 3600, False),  # it was long under way, and we took it at once
        (None, 6 * 3600, True),  # nobody says since when our server has it
        (None, None, False),
    ],
)
async def test_mail_that_waited_for_us_is_late_as_in_a_mailbox(
    post: Post, received_ago_s: float | None, date_ago_s: float | None, late: bool
) -> None:
    """Over two minutes at our own mail server, by its uppermost Received header, else by the mail's Date."""
    head = b""
    for name, ago_s in ((b"Received: from mx by mail.example.org; ", received_ago_s), (b"Date: ", date_ago_s)):
        if ago_s is not None:
            head += name + formatdate(time.time() - ago_s).encode() + b"\r\n"
    post.hold.set()
    client = await post.call()
    (answer,) = await client.deliver(head + MAIL, "support@example.org")
    assert answer.startswith("250")
    (event,) = post.events
    assert isinstance(event, InboundMessage)
    assert event.late is late
