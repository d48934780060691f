"""A mailbox whose server says anything: the reader reports it, bounds it, goes on, and reads what comes later."""

import asyncio
import re
import resource
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from pydantic import SecretStr

from channels.email import imap, imap_wire
from channels.email.imap import ImapListener
from channels.email.imap_settings import ImapSettings
from channels.messages import Accepted, Event, InboundMessage
from channels.tools import Tools
from channels.wire.mail_parse import Reading
from health.report import EndpointId, Report, Status
from tests.adapter_store import MemoryStore
from tests.clocks import WallClock
from tests.hostile.mutation import cases

MAIL = b"From: bob@example.net\r\nMessage-ID: <%d@example.net>\r\n\r\nMail %d\r\n"
Change = Callable[[bytes, bytes], bytes]
"""What goes out instead of an answer, by the command that was asked."""


@dataclass
class Server:
    """Answers like an IMAP server, but for what `change` makes of it; octets, not syntax."""

    change: Change | None = None
    mails: dict[int, bytes] = field(default_factory=dict)
    connections: int = 0
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            await self._say(writer, b"GREETING", b"* OK ready\r\n")
            while line := await reader.readline():
                tag, _, command = line.strip().partition(b" ")
                if command.upper().startswith(b"IDLE"):
                    await self._say(writer, b"IDLE", b"+ idling\r\n")
                    await reader.readline()
                answer = self._answer(command.upper()) + tag + b" OK done\r\n"
                await self._say(writer, command.upper(), answer)
        except ConnectionError:
            pass  # cut, by either
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, command: bytes, answer: bytes) -> None:
        for start in range(0, len(said := self.change(command, answer) if self.change else answer), 65_536):
            writer.write(said[start : start + 65_536])
            await writer.drain()

    def _answer(self, command: bytes) -> bytes:
        if command.startswith(b"CAPABILITY"):
            return b"* CAPABILITY IMAP4rev1 IDLE\r\n"
        if command.startswith(b"EXAMINE"):
            last = max(self.mails, default=0)
            return b"* %d EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT %d] x\r\n" % (len(self.mails), last + 1)
        if command.startswith(b"UID SEARCH"):
            return b"* SEARCH" + b"".join(b" %d" % uid for uid in self.mails) + b"\r\n"
        if not command.startswith(b"UID FETCH"):
            return b""
        answer = b""
        for number, (uid, raw) in enumerate(self.mails.items(), 1):
            if uid not in {int(one) for one in command.split()[2].split(b",")}:
                continue
            if b"BODY" in command:
                answer += b"* %d FETCH (UID %d BODY[]<0> {%d}\r\n" % (number, uid, len(raw)) + raw + b")\r\n"
            else:
                date = time.strftime("%d-%b-%Y %H:%M:%S +0000", time.gmtime()).encode()
                answer += b'* %d FETCH (UID %d INTERNALDATE "%s" RFC822.SIZE %d)\r\n' % (number, uid, date, len(raw))
        return answer

    def add(self) -> int:
        number = len(self.mails) + 1
        self.mails[max(self.mails, default=0) + 1] = MAIL % (number, number)
        return number

    def hang_up(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()


@dataclass
class Mailbox:
    """The server, and our reader of it."""

    server: Server
    reports: list[Report]
    texts: list[str]
    task: asyncio.Task[None]

    async def until(self, condition: Callable[[], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                assert not self.task.done(), "the reader has ended"
                await asyncio.sleep(0.01)

    async def turn(self, change: Change | None) -> None:
        """From now on answers are changed so, beginning with a new connection."""
        self.server.change = change
        before = self.server.connections
        self.server.hang_up()
        await self.until(lambda: self.server.connections > before)
        self.reports.clear()  # of the cut itself

    def is_down(self) -> bool:
        return any(report.status is Status.DOWN for report in self.reports)

    async def reads_on(self) -> None:
        """An honest server again: a mail that comes now is read."""
        text = f"Mail {self.server.add()}"
        await self.turn(None)
        await self.until(lambda: text in self.texts)


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    server, reports, texts = Server(), list[Report](), list[str]()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]

    async def accept(event: Event) -> Accepted:
        if isinstance(event, InboundMessage):
            texts.append(event.text)
        return Accepted("c", "m")

    settings = ImapSettings(
        host="127.0.0.1", port=port, tls="none", username="us", password=SecretStr("a-password"), idle_s=0.5
    ).model_copy(update={"message_max_bytes": 100_000})
    async with aiohttp.ClientSession() as http:
        clock, store = WallClock(pause_max_s=0.01), MemoryStore()
        tools = Tools(EndpointId("email/acme"), http, clock, store, None, reports.append, "Acme", "https://x.example")
        listener = ImapListener(settings, Reading(EndpointId("email/acme"), "support@example.org"), tools)
        box = Mailbox(server, reports, texts, asyncio.create_task(listener.listen(accept)))
        server.add()
        await box.until(lambda: texts == ["Mail 1"])
        yield box
        box.task.cancel()
        await asyncio.gather(box.task, return_exceptions=True)
    server.hang_up()
    listening.close()


def instead(of: bytes, said: bytes) -> Change:
    """To commands that begin so, this; a `TAGGED` in it stands for the honest answer's last line."""

    def change(command: bytes, answer: bytes) -> bytes:
        if not command.startswith(of):
            return answer
        tagged = answer[answer[:-2].rfind(b"\n") + 1 :]
        return said.replace(b"TAGGED", tagged)

    return change


def edited(of: bytes, pattern: bytes, put: bytes) -> Change:
    """In answers to commands that begin so, this instead of that."""
    return lambda command, answer: re.sub(pattern, lambda _: put, answer) if command.startswith(of) else answer


UNREADABLE = {
    "a greeting that is none": instead(b"GREETING", b"220 mx.example.org ESMTP\r\n"),
    "a line without an end": instead(b"GREETING", b"* OK " + b"x" * 2_000_000),
    "nothing but NUL": instead(b"CAPABILITY", b"\0" * 1000 + b"\r\n"),
    "another's tag": instead(b"EXAMINE", b"* OK [UIDVALIDITY 7] x\r\nXXXX99 OK done\r\n"),
    "no numbering": edited(b"EXAMINE", rb"\* OK \[UIDVALIDITY 7\] x\r\n", b""),
    "a numbering of words": edited(b"EXAMINE", b"UIDVALIDITY 7", b"UIDVALIDITY x"),
    "a numbering of nothing": edited(b"EXAMINE", b"UIDVALIDITY 7", b"UIDVALIDITY 0"),
    "a numbering beyond 32 bits": edited(b"EXAMINE", b"UIDVALIDITY 7", b"UIDVALIDITY 99999999999"),
    "a next number of words": edited(b"EXAMINE", rb"UIDNEXT \d+", b"UIDNEXT -"),
    "a next number beyond 32 bits": edited(b"EXAMINE", rb"UIDNEXT \d+", b"UIDNEXT 99999999999"),
    "mails of no number": edited(b"UID SEARCH", rb"SEARCH[ \d]*", b"SEARCH one two"),
    "mails beyond 32 bits": edited(b"UID SEARCH", rb"SEARCH[ \d]*", b"SEARCH 99999999999999999999"),
    "brackets in brackets": edited(b"UID FETCH", b"UID", b"(" * 100_000 + b"UID"),
    "brackets that never close": edited(b"UID FETCH", rb"\)\r\n", b"\r\n"),
    "an uneven list": edited(b"UID FETCH", b"UID", b"UID UID"),
    "a date that is a number": edited(b"UID FETCH", b'"[^"]*"', b"5"),
    "a literal of two gigabytes": edited(b"UID FETCH", rb"\{\d+\}", b"{2000000000}"),
    "a literal beyond counting": edited(b"UID FETCH", rb"\{\d+\}", b"{99999999999999999999999}"),
    "a literal far longer than was asked for": instead(
        b"UID FETCH", b"* 1 FETCH (UID 2 BODY[]<0> {3000000}\r\n" + b"x" * 3_000_000 + b")\r\nTAGGED"
    ),
    "a literal longer than it is": edited(b"UID FETCH", rb"\{\d+\}", b"{60000}"),
    "a literal shorter than it is": edited(b"UID FETCH", rb"\{\d+\}", b"{7}"),
    "mail without end": instead(b"UID SEARCH", (b"* 1 FETCH (FLAGS (" + b"x" * 500 + b"))\r\n") * 5000 + b"TAGGED"),
    "a flood instead of quiet": instead(b"IDLE", b"+ idling\r\n" + (b"* OK " + b"x" * 500 + b"\r\n") * 5000),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_answer_that_is_none_is_reported_and_survived(
    mailbox: Mailbox, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mailbox is said to be down, little is kept of it, and once the server is sane, later mail is read."""
    monkeypatch.setattr(imap, "ANSWER_S", 0.5)
    grown_from = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mailbox.server.add()  # something to ask for
    await mailbox.turn(UNREADABLE[name])
    await mailbox.until(mailbox.is_down)
    await mailbox.reads_on()
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown_from
    assert grown_kb < 150_000


async def test_an_answer_that_drips_is_given_up(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Always something, never all of it: each piece comes in time, the whole does not."""
    monkeypatch.setattr(imap_wire, "ANSWER_MAX_S", 0.5)
    dripping = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter, command: bytes, answer: bytes) -> None:
        if not command.startswith(b"UID SEARCH"):
            writer.write(answer)
            return
        dripping.set()
        for _ in range(500):
            writer.write(b"* OK still searching\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(answer)

    monkeypatch.setattr(mailbox.server, "_say", drip)
    await mailbox.turn(None)
    await dripping.wait()
    await mailbox.until(mailbox.is_down, within_s=5.0)


@pytest.mark.parametrize(
    ("of", "pattern", "put"),
    [(b"EXAMINE", rb"UIDNEXT \d+", b"UIDNEXT 4000000000"), (b"UID SEARCH", rb"SEARCH[ \d]*", b"SEARCH 4000000000")],
    ids=["the next number", "a mail's number"],
)
async def test_a_number_that_was_false_hides_no_later_mail(
    mailbox: Mailbox, of: bytes, pattern: bytes, put: bytes
) -> None:
    """Believed once, it would be how far we have read, and nothing below it would ever be new."""
    store = mailbox.server
    await mailbox.turn(edited(of, pattern, put))
    await mailbox.until(lambda: any(report.status is Status.UP for report in mailbox.reports))
    for _ in range(3):
        await mailbox.reads_on()
    assert sorted(mailbox.texts) == sorted(set(mailbox.texts)), "none was read twice"
    assert len(mailbox.texts) == len(store.mails)


async def test_no_answers_make_the_reader_fall_over(mailbox: Mailbox) -> None:
    """Whatever comes, in whatever place: it goes on, and reads what comes later."""
    places = (b"GREETING", b"CAPABILITY", b"LOGIN", b"EXAMINE", b"UID SEARCH", b"UID FETCH", b"IDLE")
    mailbox.server.add()
    samples = [
        mailbox.server._answer(b"EXAMINE") + b"TAG OK done\r\n",
        mailbox.server._answer(b"UID SEARCH") + b"TAG OK done\r\n",
        mailbox.server._answer(b"UID FETCH 1,2 (RFC822.SIZE)") + b"TAG OK done\r\n",
        mailbox.server._answer(b"UID FETCH 1 (BODY)") + b"TAG OK done\r\n",
        b"+ idling\r\n* 2 EXISTS\r\n* BYE x\r\n",
    ]
    tokens = [
        b"{5}\r\n",
        b"{99999999}\r\n",
        b"(",
        b")",
        b"NIL",
        b"\r\n* ",
        b"[UIDVALIDITY ",
        b'"',
        b"\\",
        b"4294967295",
    ]
    for case in cases("imap", samples, tokens, size_max=20_000, least=25):
        place = case.chance.choice(places)
        said = instead(place, case.octets.replace(b"TAG OK done", b"TAGGED"))
        await mailbox.turn(said)
        served = mailbox.server.connections
        for _ in range(100):
            if mailbox.reports or mailbox.server.connections > served:
                break
            await asyncio.sleep(0.002)
        assert not mailbox.task.done(), case.name
    await mailbox.reads_on()
