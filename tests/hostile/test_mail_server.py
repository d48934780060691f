"""A submission server that says anything: each send ends in time, in a receipt it earned or in an error of ours."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest

from channels.email import submission
from channels.email.smtp import SmtpAdapter, SmtpSettings
from channels.errors import EndpointUnavailable, MessageRejected, OutcomeUnknown, SendFailed
from channels.messages import Address, Channel, Content, Kind, Matter, OutboundMessage
from channels.tools import Tools
from health.report import EndpointId
from tests.clocks import WallClock
from tests.hostile.mutation import cases

Change = Callable[[bytes, bytes], bytes]
"""What goes out instead of an answer, by what was asked: a command's first word, GREETING or DOT."""
HONEST = {
    b"GREETING": b"220 mx.example.org ESMTP\r\n",
    b"EHLO": b"250-mx.example.org\r\n250-SIZE 1000000\r\n250-DSN\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
    b"DATA": b"354 go\r\n",
    b"DOT": b"250 2.0.0 queued\r\n",
    b"QUIT": b"221 bye\r\n",
}


@dataclass
class Server:
    """Answers like a server, but for what `change` makes of it."""

    change: Change = lambda _, answer: answer
    dots: int = 0
    answered: list[bytes] = field(default_factory=list)
    """What went out for each dot."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._say(writer, b"GREETING")
            while line := await reader.readline():
                word = line[:4].strip().upper()
                await self._say(writer, word)
                if word == b"DATA":
                    await reader.readuntil(b"\r\n.\r\n")
                    self.dots += 1
                    self.answered.append(await self._say(writer, b"DOT"))
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass  # cut off, or too much said
        finally:
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, word: bytes) -> bytes:
        said = self.change(word, HONEST.get(word, b"250 ok\r\n"))
        for start in range(0, len(said), 65_536):
            writer.write(said[start : start + 65_536])
            await writer.drain()
        return said


@dataclass
class Post:
    """A server, our adapter at it, and how long it waits."""

    server: Server
    adapter: SmtpAdapter
    wait: Callable[[float], None]

    async def goes_on(self) -> None:
        """An honest server again, and time enough: the next mail goes out."""
        self.server.change = Server().change
        self.wait(5.0)
        assert await self.send(10_000_000) is None

    async def send(self, number: int) -> SendFailed | None:
        """What it came to; anything but an error of ours, or one that takes long, fails the test."""
        message = OutboundMessage(
            message_id=f"m{number}",
            conversation_id="c1",
            token=f"s0.attempt{number}",
            kind=Kind.MESSAGE,
            to=Address(Channel.EMAIL, "bob@example.net"),
            content=Content("Hello"),
            matter=Matter("Acme", "4F2K9", "en", subject="Help", mail_thread=()),
            reply_token="sealed.Token",
            created_at=1_700_000_000.0,
        )
        try:
            async with asyncio.timeout(10):
                await self.adapter.send(message)
        except SendFailed as failed:
            return failed
        return None


@pytest.fixture
async def post(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Post]:
    """Our adapter at the server; it waits for a fifth of a second where it would for 10 and 60."""

    def wait(seconds: float) -> None:
        monkeypatch.setattr(submission, "TO_DOT_S", seconds)
        monkeypatch.setattr(submission, "AFTER_DOT_S", seconds)
        monkeypatch.setattr(submission, "REUSED_S", seconds / 5)

    wait(0.2)
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    table = {"id": "email/acme", "provider": "smtp", "host": "127.0.0.1", "tls": "none"}
    table |= {"port": listening.sockets[0].getsockname()[1], "from_address": "support@example.org"}
    async with aiohttp.ClientSession() as http:
        tools = Tools(EndpointId("email/acme"), http, WallClock(), None, None, print, "Acme", "https://x.example")
        adapter = SmtpAdapter(SmtpSettings.model_validate(table), tools)
        yield Post(server, adapter, wait)
        await adapter.close()
    listening.close()


def instead(of: bytes, said: bytes) -> Change:
    """To this, that."""
    return lambda word, answer: said if word == of else answer


GARBAGE = {
    "silence": b"",
    "a line without an end": b"250 " + b"x" * 100_000,
    "lines without end": b"250-x\r\n" * 100_000,
    "no code": b"OK\r\n",
    "a code below zero": b"-50 ok\r\n",
    "a code with a sign": b"+25 ok\r\n",
    "a code in other digits": "\u0662\u0665\u0660 ok\r\n".encode(),
    "a code nobody knows": b"999 ok\r\n",
    "NULs": b"\0" * 500 + b"\r\n",
    "octets that are no text": b"250 \xff\xfe\r\n250-\xed\xa0\x80\r\n",
    "two codes in one answer": b"250-a\r\n550 b\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "goodbye": b"421 4.3.0 bye\r\n",
}

SAID_ALL_THE_SAME = {
    "octets that are no text": type(None),
    "two codes in one answer": MessageRejected,
    "goodbye": EndpointUnavailable,
}
"""What of it answers the final dot: with the code that its last line begins with."""


@pytest.mark.parametrize("word", [b"GREETING", b"EHLO", b"MAIL", b"RCPT", b"DATA", b"DOT"], ids=bytes.decode)
@pytest.mark.parametrize("name", GARBAGE)
async def test_an_answer_that_is_none_ends_in_an_error_that_is_true(post: Post, word: bytes, name: str) -> None:
    """Before the dot it is certain that nothing was taken; after it, silence and garbage are no answer."""
    post.server.change = instead(word, GARBAGE[name])
    failed = await post.send(1)
    if post.server.dots == 0:
        assert failed is not None
        assert not isinstance(failed, OutcomeUnknown), "the dot was never written"
    elif word == b"DOT":
        assert type(failed) is SAID_ALL_THE_SAME.get(name, OutcomeUnknown), failed
    else:
        assert (failed, name) == (None, "octets that are no text")
    await post.goes_on()


async def test_no_answers_make_a_send_fall_over(post: Post) -> None:
    """A receipt only for a mail that was written to its end; what was taken is in doubt at least.

    But where the server says more than it was asked for: what comes next is taken for the answer to the dot.
    """
    words = (*HONEST, b"MAIL", b"RCPT", b"RSET")
    samples = [*HONEST.values(), b"250 ok\r\n", b"550 5.1.1 no such user\r\n", b"451-later\r\n451 4.2.0 later\r\n"]
    tokens = [b"250", b"354", b"421", b"554", b"-", b" ", b"250-", b"5.7.1", b"SIZE 99999999999999999999", b"\r\n250 "]
    for number, case in enumerate(cases("smtp answers", samples, tokens, size_max=50_000, least=30)):
        post.server.change = instead(case.chance.choice(words), case.octets)
        before = post.server.dots
        failed = await post.send(number)
        if failed is None:
            assert post.server.dots == before + 1, case.name
        elif post.server.dots > before and post.server.answered[-1] == HONEST[b"DOT"]:
            assert isinstance(failed, OutcomeUnknown) or case.octets.count(b"\n") > 1, case.name
    await post.goes_on()
