"""What strangers say, in any signs, over any channel: kept once, answered or not, and never a fault of ours."""

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channels.messages import Address, Channel, InboundFile, InboundMessage
from health.report import EndpointId
from router.runtime import Runtime, open_runtime
from router.settings import load_settings
from tests.hostile.mutation import SECONDS, SEED

SENDERS = [
    (EndpointId("sms/sandbox"), Address(Channel.SMS, "+12025550177")),
    (EndpointId("sms/sandbox"), Address(Channel.SMS, "ACME & Co")),
    (EndpointId("sms/sandbox"), Address(Channel.SMS, "12345")),
    (EndpointId("phone/sandbox"), Address(Channel.PHONE, "+12025550177")),
    (EndpointId("email/sandbox"), Address(Channel.EMAIL, "o'brien+x={y}@xn--bcher-kva.example")),
    (EndpointId("chat/web"), Address(Channel.CHAT, "0123456789abcdef" * 2)),
]
PIECES = [
    "STOP",
    "start",
    "help",
    "ref ",
    "#",
    "\u0664F2K9",
    "4F2K9",
    "[",
    "]",
    "\u00b2" * 6,
    "\u0661" * 6,
    "123456",
    "0",
]
PIECES += [
    "\u202e",
    "\u0130",
    "\u00df",
    "\ufb01",
    "\U0001f469\u200d\U0001f4bb",
    "\n",
    " ",
    "}",
    "{",
    "*",
    "\\",
    "\u2028",
]
PIECES += [
    "\u1e9e" * 40,
    "x" * 9_000,
    "\u0301" * 500,
    "re: ",
    "> a\n",
    "%s",
    "{{ 1 }}",
    "\x7f",
    ":",
    "@",
    "/",
    "-",
    "v0-",
]


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """The use cases over stand-in vendors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    async with open_runtime(load_settings(), "web") as opened:
        yield opened


def _words(chance: random.Random, references: list[str]) -> str:
    pieces = [*PIECES, *references]
    return "".join(chance.choice(pieces) for _ in range(chance.randint(0, 6)))


async def test_whatever_is_said_is_kept_once(runtime: Runtime) -> None:
    """Every message has its id, a second delivery has the same one, and none is taken for another's reference."""
    desk, references = runtime.switchboard, []
    started, number = time.monotonic(), 0
    while number < 60 or time.monotonic() - started < SECONDS:
        chance = random.Random(f"{SEED}/inbound/{number}")
        endpoint, sender = chance.choice(SENDERS)
        mail = sender.channel is Channel.EMAIL
        event = InboundMessage(
            endpoint=endpoint,
            vendor_id=f"{number}:" + _words(chance, [])[:100],
            sender=sender,
            text=_words(chance, references),
            sent_at=chance.choice([0.0, 1.0, runtime.clock.now(), 4e9]),
            recipient=_words(chance, [])[:100],
            subject=_words(chance, references) if mail else None,
            html="<p>x</p>" if mail and chance.random() < 0.5 else None,
            files=(InboundFile(_words(chance, [])[:150] or "x", "a/b", b"x"),) if chance.random() < 0.2 else (),
            sender_name=_words(chance, []),
            locale=chance.choice(["", "de", "tr", "x-klingon", "zh-Hant-TW"]),
            reply_token=chance.choice(["", _words(chance, references)]),
            in_reply_to=(f"<{_words(chance, [])[:60]}@x>",) if mail else (),
            automatic=chance.random() < 0.1,
            unverified=chance.random() < 0.1,
            opt=chance.choice(["", "", "", "stop", "start"]),
        )
        first = await desk.accept(event)
        again = await desk.accept(event)
        case = f"FUZZ_SEED={SEED} inbound case {number}: {event.text[:80]!r}"
        assert first.message_id, case
        assert (again.message_id, again.duplicate) == (first.message_id, True), case
        if first.conversation_id and len(references) < 20:
            references.append((await desk.conversation(first.conversation_id)).conversation.reference)
        number += 1
    listed = await desk.conversations(limit=200)
    for one in listed.items:
        assert await desk.transcript(one.conversation.id)
