"""The mailbox reader against a small IMAP server that can be renumbered, cut and left for a while."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp
import pytest
from pydantic import SecretStr

from channels.email.imap import ImapListener
from channels.email.imap_settings import ImapSettings
from channels.messages import Accepted, Event, InboundMessage, ReceiptEvent
from channels.sandbox.mail_delivery import write_bounce
from channels.tools import Tools
from channels.wire.mail_parse import Reading
from health.report import Direction, EndpointId, Report, Status
from tests.adapter_store import MemoryStore
from tests.clocks import WallClock, until


@dataclass
class Stored:
    uid: int
    at: float
    raw: bytes


@dataclass
class Imap:
    """An IMAP server with one folder; just what a reader needs (RFC 3501, RFC 2177)."""

    port: int = 0
    uidvalidity: int = 7
    password: str = "secret"
    idle: bool = True
    mails: list[Stored] = field(default_factory=list)
    fetched: list[int] = field(default_factory=list)
    logins: int = 0
    idling: int = 0
    comes_with_idle: bool = False
    _changed: set[asyncio.Event] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    def add(self, number: int, *, at: float | None = None, raw: bytes | None = None, announce: bool = True) -> None:
        uid = self.mails[-1].uid + 1 if self.mails else 1
        text = f"From: bob@example.net\r\nMessage-ID: <{number}@example.net>\r\n\r\nMail {number}\r\n"
        self.mails.append(Stored(uid, time.time() if at is None else at, raw or text.encode()))
        for event in self._changed if announce else ():
            event.set()

    def renumber(self) -> None:
        """What a restored mailbox does: other numbers under another UIDVALIDITY."""
        self.uidvalidity += 1
        for mail in self.mails:
            mail.uid += 100

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            writer.write(b"* OK ready\r\n")
            while line := await reader.readline():
                tag, _, command = line.decode().strip().partition(" ")
                await self._obey(tag, command, reader, writer)
                await writer.drain()
        except ConnectionError:
            pass  # cut by the test
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _obey(self, tag: str, command: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = "OK done"
        match command.upper().split(" ")[:2]:
            case ["CAPABILITY", *_]:
                writer.write(f"* CAPABILITY IMAP4rev1 {'IDLE' if self.idle else ''}\r\n".encode())
            case ["LOGIN", *_]:
                self.logins += 1
                if f'"{self.password}"' not in command:
                    status = "NO [AUTHENTICATIONFAILED] wrong password"
            case ["EXAMINE", *_]:
                uidnext = self.mails[-1].uid + 1 if self.mails else 1
                writer.write(f"* {len(self.mails)} EXISTS\r\n* OK [UIDVALIDITY {self.uidvalidity}] x\r\n".encode())
                writer.write(f"* OK [UIDNEXT {uidnext}] x\r\n".encode())
                status = "OK [READ-ONLY] done"
            case ["UID", "SEARCH"]:
                writer.write(b"* SEARCH" + b"".join(b" %d" % uid for uid in self._search(command)) + b"\r\n")
            case ["UID", "FETCH"]:
                self._fetch(command, writer)
            case ["IDLE", *_]:
                await self._idle(reader, writer)
            case _:
                status = "BAD unknown"
        writer.write(f"{tag} {status}\r\n".encode())

    def _search(self, command: str) -> list[int]:
        if since := re.search(r"SINCE (\S+)", command):
            day = datetime.strptime(since.group(1).strip('"'), "%d-%b-%Y").replace(tzinfo=UTC).timestamp()
            return [mail.uid for mail in self.mails if mail.at >= day]
        first = int(re.search(r"UID SEARCH UID (\d+):\*", command).group(1))
        return [mail.uid for mail in self.mails if mail.uid >= first] or [mail.uid for mail in self.mails[-1:]]

    def _fetch(self, command: str, writer: asyncio.StreamWriter) -> None:
        wanted = {int(uid) for uid in command.split(" ")[2].split(",")}
        for number, mail in enumerate(self.mails, 1):
            if mail.uid not in wanted:
                continue
            if part := re.search(r"BODY\.PEEK\[\]<0\.(\d+)>", command):
                self.fetched.append(mail.uid)
                raw = mail.raw[: int(part.group(1))]
                writer.write(b"* %d FETCH (UID %d BODY[]<0> {%d}\r\n" % (number, mail.uid, len(raw)) + raw + b")\r\n")
            else:
                at = datetime.fromtimestamp(mail.at, UTC).strftime("%d-%b-%Y %H:%M:%S +0000")
                line = f'* {number} FETCH (UID {mail.uid} INTERNALDATE "{at}" RFC822.SIZE {len(mail.raw)})\r\n'
                writer.write(line.encode())

    async def _idle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        changed = asyncio.Event()
        self._changed.add(changed)
        self.idling += 1
        if self.comes_with_idle:
            self.comes_with_idle = False
            self.add(99, announce=False)
            writer.write(b"+ idling\r\n* 1 EXISTS\r\n")
        else:
            writer.write(b"+ idling\r\n")
        done = asyncio.ensure_future(reader.readline())
        try:
            while not done.done():
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait({done, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if changed.is_set():
                    changed.clear()
                    writer.write(f"* {len(self.mails)} EXISTS\r\n".encode())
        finally:
            self.idling -= 1
            self._changed.discard(changed)
            done.cancel()


@dataclass
class World:
    imap: Imap
    store: MemoryStore
    clock: WallClock
    http: aiohttp.ClientSession
    events: list[Event] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    failure: Exception | None = None
    running: list[asyncio.Task[None]] = field(default_factory=list)

    async def accept(self, event: Event) -> Accepted:
        if self.failure is not None:
            raise self.failure
        self.events.append(event)
        return Accepted("c", "m")

    def listener(self, **changes: object) -> ImapListener:
        settings = ImapSettings(
            host="127.0.0.1", port=self.imap.port, tls="none", username="us", password=SecretStr("secret"), idle_s=30
        ).model_copy(update=changes)
        tools = Tools(
            endpoint=EndpointId("email/acme"),
            http=self.http,
            clock=self.clock,
            store=self.store,
            files=None,
            report=self.reports.append,
            organisation="Acme",
            public_url="https://throughline.test",
        )
        return ImapListener(settings, Reading(EndpointId("email/acme"), "support@example.org"), tools)

    def start(self, **changes: object) -> None:
        self.running.append(asyncio.create_task(self.listener(**changes).listen(self.accept)))

    async def stop(self) -> None:
        while self.running:
            task = self.running.pop()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def texts(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, InboundMessage)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    imap = Imap()
    await imap.start()
    async with aiohttp.ClientSession() as http:
        world = World(imap, MemoryStore(), WallClock(pause_max_s=0.05), http)
        yield world
        await world.stop()
        await imap.stop()


async def test_mail_is_pushed_in_order(world: World) -> None:
    """What was there, then what comes while idling, each once and without polling; the folder is reported up."""
    world.imap.add(1)
    world.start()
    await until(lambda: world.texts() == ["Mail 1"] and world.imap.idling == 1)
    for number in (2, 3):
        world.imap.add(number)
    await until(lambda: len(world.events) == 3)
    assert world.texts() == ["Mail 1", "Mail 2", "Mail 3"]
    assert world.imap.fetched == [1, 2, 3]
    assert (world.reports[-1].direction, world.reports[-1].status) == (Direction.IN, Status.UP)


async def test_without_idle_it_polls(world: World) -> None:
    """A server that knows no IDLE is asked now and then."""
    world.imap.idle = False
    world.start()
    await until(lambda: any(report.status is Status.UP for report in world.reports))
    world.imap.add(1)
    await until(lambda: world.texts() == ["Mail 1"])


async def test_the_first_mail_of_an_empty_mailbox_is_read(world: World) -> None:
    """UID 1 is new when there was nothing before."""
    world.start()
    await until(lambda: world.imap.idling == 1)
    world.imap.add(1)
    await until(lambda: world.texts() == ["Mail 1"])


async def test_the_cursor_waits_for_accept(world: World) -> None:
    """A mail that could not be accepted is read again, before any later one, and none is skipped."""
    world.failure = RuntimeError("Redis is away")
    for number in (1, 2):
        world.imap.add(number)
    world.start()
    await until(lambda: world.imap.fetched.count(1) >= 2)
    assert 2 not in world.imap.fetched
    world.failure = None
    await until(lambda: world.texts() == ["Mail 1", "Mail 2"])


async def test_a_mail_that_nobody_can_take_is_left_behind_and_the_next_ones_are_read(world: World) -> None:
    """It stays in the mailbox; everybody else's mail must not wait behind it for ever."""
    taken = world.accept

    async def accept(event: Event) -> Accepted:
        if isinstance(event, InboundMessage) and event.text == "Mail 1":
            raise ValueError("no waiting mends this")
        return await taken(event)

    world.running.append(asyncio.create_task(world.listener().listen(accept)))
    for number in (1, 2):
        world.imap.add(number)
    await until(lambda: world.texts() == ["Mail 2"])
    assert world.imap.fetched.count(1) == 3
    world.imap.add(3)
    await until(lambda: world.texts() == ["Mail 2", "Mail 3"])
    assert world.imap.fetched.count(1) == 3


async def test_two_mails_that_nobody_can_take_hold_up_no_first_reading(world: World) -> None:
    """All of it is read again whenever one fails: what was left behind is passed at once."""
    taken = world.accept

    async def accept(event: Event) -> Accepted:
        if isinstance(event, InboundMessage) and event.text in {"Mail 1", "Mail 3"}:
            raise ValueError("no waiting mends this")
        return await taken(event)

    for number in range(1, 5):
        world.imap.add(number)
    world.running.append(asyncio.create_task(world.listener().listen(accept)))
    await until(lambda: world.texts() == ["Mail 2", "Mail 4"] and world.imap.idling == 1)


async def test_where_no_mail_at_all_can_be_taken_it_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the fault is ours, and passing over everybody's mail would lose it."""
    monkeypatch.setattr("channels.email.imap.TRIES_MAX", 1)
    world.failure = KeyError("a fault of ours")
    world.start()
    await until(lambda: world.imap.idling == 1)
    for number in range(1, 7):
        world.imap.add(number)
    await until(lambda: world.imap.fetched.count(4) >= 3)
    assert 5 not in world.imap.fetched
    world.failure = None
    await until(lambda: world.texts() == ["Mail 4", "Mail 5", "Mail 6"])


async def test_a_restart_goes_on_where_it_was(world: World) -> None:
    """The cursor is durable: after a restart nothing is read twice."""
    world.imap.add(1)
    world.start()
    await until(lambda: world.imap.idling == 1)
    await world.stop()
    world.imap.add(2)
    world.start()
    await until(lambda: len(world.events) == 2)
    assert world.imap.fetched == [1, 2]


async def test_an_outage_is_filled_in_and_marked_late(world: World) -> None:
    """Mail that waited over two minutes while we were away is late; what waited less, or came before, is not."""
    world.imap.add(1)
    world.start()
    await until(lambda: world.imap.idling == 1)
    await world.stop()
    now = time.time()
    world.clock.shift_s = 1_000.0
    world.imap.add(2, at=now + 100.0)
    world.imap.add(3, at=now + 950.0)
    world.start()
    await until(lambda: len(world.events) == 3)
    late = [event.late for event in world.events if isinstance(event, InboundMessage)]
    assert (world.texts(), late) == (["Mail 1", "Mail 2", "Mail 3"], [False, True, False])


async def test_a_renumbered_mailbox_doubles_nothing(world: World) -> None:
    """After a change of UIDVALIDITY all is listed anew; what was accepted before is not accepted again."""
    for number in (1, 2):
        world.imap.add(number)
    world.start()
    await until(lambda: world.imap.idling == 1)
    await world.stop()
    world.imap.renumber()
    world.imap.add(3)
    world.start()
    await until(lambda: len(world.events) == 3 and world.imap.idling == 1)
    world.imap.add(4)
    await until(lambda: len(world.events) == 4)
    assert world.texts() == ["Mail 1", "Mail 2", "Mail 3", "Mail 4"]


async def test_a_known_message_id_in_strange_hands_hides_no_mail_of_a_renumbered_mailbox(world: World) -> None:
    """Somebody else used it before; the customer's mail is read all the same."""
    world.imap.add(1, raw=b"From: mallory@example.net\r\nMessage-ID: <1@example.net>\r\n\r\nNothing\r\n")
    world.start()
    await until(lambda: world.imap.idling == 1)
    await world.stop()
    world.imap.renumber()
    world.imap.add(1)
    world.start()
    await until(lambda: len(world.events) == 2)
    assert world.texts() == ["Nothing", "Mail 1"]


async def test_old_mail_is_left_alone_the_first_time(world: World) -> None:
    """A mailbox full of last year's mail does not become this morning's conversations."""
    world.imap.add(1, at=time.time() - 90 * 86_400)
    world.imap.add(2)
    world.start()
    await until(lambda: bool(world.events) and world.imap.idling == 1)
    assert world.texts() == ["Mail 2"]


async def test_an_outage_is_reported_and_survived(world: World) -> None:
    """The server goes and comes back: reported down, then up; the mail of the meantime is read."""
    world.start()
    await until(lambda: world.imap.idling == 1)
    await world.imap.stop()
    await until(lambda: any(report.status is Status.DOWN for report in world.reports))
    world.imap.add(1)
    await world.imap.start()
    await until(lambda: world.texts() == ["Mail 1"])
    assert world.reports[-1].status is Status.UP


async def test_a_refused_login_is_reported_as_such(world: World) -> None:
    """A wrong password is reported with its reason, without the password."""
    world.imap.password = "another"
    world.start()
    await until(lambda: bool(world.reports))
    assert (world.reports[0].status, world.reports[0].reason) == (Status.DOWN, "login_refused")
    assert "secret" not in world.reports[0].words


async def test_a_silent_connection_is_noticed(world: World) -> None:
    """An IDLE that says nothing is ended after `idle_s`, and what was never announced is found."""
    world.start(idle_s=0.2)
    await until(lambda: world.imap.idling == 1)
    world.imap.add(1, announce=False)
    await until(lambda: world.texts() == ["Mail 1"])


async def test_news_in_one_packet_with_the_answer_to_idle_is_seen(world: World) -> None:
    """Mail that is announced in the packet that begins IDLE does not wait for its end."""
    world.imap.comes_with_idle = True
    world.start(idle_s=30)
    await until(lambda: world.texts() == ["Mail 99"])


async def test_stopping_does_not_wait_for_the_server(world: World) -> None:
    """A listener blocked in IDLE stops at once."""
    world.start(idle_s=30)
    await until(lambda: world.imap.idling == 1)
    began = time.monotonic()
    await world.stop()
    await until(lambda: world.imap.idling == 0)
    assert time.monotonic() - began < 2


async def test_a_bounce_in_the_mailbox_is_a_receipt(world: World) -> None:
    """A delivery status notification becomes a receipt event; a mail without a sender is passed over."""
    returned = b"Message-ID: <m1@example.org>\r\nX-Throughline-Attempt: s0.a\r\n\r\n"
    bounce = write_bounce(returned, "x@example.net", "", action="failed", status="5.1.1", to="support@example.org")
    world.imap.add(1, raw=b"Subject: from nobody\r\n\r\nx\r\n")
    world.imap.add(2, raw=bounce)
    world.start()
    await until(lambda: bool(world.events))
    [event] = world.events
    assert isinstance(event, ReceiptEvent)
    assert event.token == "s0.a"


async def test_a_huge_mail_keeps_its_text(world: World) -> None:
    """Only the beginning is fetched: the words are kept, the files are named and left out."""
    head = (
        "From: bob@example.net\r\nMessage-ID: <big@example.net>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSee film\r\n"
        "--b\r\nContent-Type: video/mp4; name=film.mp4\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    )
    world.imap.add(1, raw=head.encode() + b"QUJD\r\n" * 50_000 + b"--b--\r\n")
    world.start(message_max_bytes=20_000)
    await until(lambda: bool(world.events))
    [event] = world.events
    assert isinstance(event, InboundMessage)
    assert event.text.startswith("See film\n[not kept: film.mp4")
    assert not event.files
