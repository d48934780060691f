"""The chat's WebSocket from strangers: refused in words or closed with a code, and nobody else's talk is shown."""

import asyncio
import json
import os
import random
import secrets
import struct
import time
from typing import Any

import aiohttp
import pytest
import requests

from channels.chat.session import SESSION_TTL_S, sign_session
from health.report import EndpointId
from router.web import chat_socket
from router.web.chat_frames import FRAME_MAX
from tests.hostile.mutation import cases

CHAT = EndpointId("chat/web")
SECRET = "a secret for tests, of 32 characters or more"
HELLO = {"type": "hello", "token": "", "cursor": 0, "locale": "en"}
FRAMES = [
    json.dumps(frame).encode()
    for frame in (
        HELLO,
        {"type": "say", "id": "client-id-1", "text": "Where is my order?", "name": "Ada"},
        {"type": "seen", "number": 1},
        {"type": "details", "name": "Ada", "email": "ada@example.net", "phone": "+12025550177", "consent": True},
        {"type": "ping"},
    )
]
TOKENS = [
    b'"type"',
    b'"say"',
    b"null",
    b"[[[[[[",
    b"1e999",
    b"\\ud800",
    b"\\u0000",
    b'"text":',
    b"-1",
    b"{}",
    b'"id":""',
]
CLOSED_WITH = {1003, 1007, 1008, 1009}
TOLD = {"welcome", "trouble", "history", "place", "wait", "refused", "taken", "noted", "details_refused"}
TOLD |= {"details_taken", "pong", "message"}


HOSTILE: list[Any] = [
    *(None, True, -1, 2**53, 2**64, 1e308, "", "\x00", "\u2028", "\U0010ffff", "x" * 300, "y" * 11_000, [], {}, [[]]),
    *("<script>alert(1)</script>", "../../x", "client-id-1", "a" * 64, "+19005550100", "=cmd()", "{0}{text}", "hello"),
]


def _with_a_hostile_value(chance: random.Random) -> bytes:
    """A frame that is well-formed but for one value, one field more, or one less."""
    frame = json.loads(chance.choice(FRAMES))
    name = chance.choice([*frame, "extra"])
    if chance.random() < 0.2:
        frame.pop(name, None)
    else:
        frame[name] = chance.choice(HOSTILE)
    return json.dumps(frame).encode()


async def _told(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    """Everything told up to the answer to a ping; what is told is told in order. Closed: what was told before."""
    await socket.send_json({"type": "ping"})
    heard: list[dict[str, Any]] = []
    while not heard or heard[-1]["type"] != "pong":
        async with asyncio.timeout(10):
            message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            break
        heard.append(message.json())
    return heard


async def test_no_frame_makes_us_fall_over(fortress: Any) -> None:
    """Mutants of every frame, as text and as octets: an answer we know, or the socket closed with a reason."""
    refused = answered = 0
    async with aiohttp.ClientSession() as http:
        socket: aiohttp.ClientWebSocketResponse | None = None
        for case in cases("websocket", FRAMES, TOKENS, size_max=70_000):
            if socket is None or socket.closed:
                socket = await http.ws_connect(f"{fortress.url}/chat/ws")
                if case.chance.random() < 0.9:
                    await socket.send_json(HELLO)
            octets = case.octets if case.chance.random() < 0.5 else _with_a_hostile_value(case.chance)
            if case.chance.random() < 0.05:
                await socket.send_bytes(octets)
            else:
                await socket.send_str(octets.decode("utf-8", "replace"))
            told = await _told(socket)
            assert {frame["type"] for frame in told} <= TOLD, case.name
            if socket.closed:
                assert socket.close_code in CLOSED_WITH, (case.name, socket.close_code)
            refused += socket.closed
            answered += not socket.closed
        honest = await http.ws_connect(f"{fortress.url}/chat/ws")
        await honest.send_json(HELLO)
        await honest.send_json({"type": "say", "id": secrets.token_hex(8), "text": "An honest word"})
        told = await _told(honest)
        assert "taken" in {frame["type"] for frame in told}, told
    assert refused > 20
    assert answered > 20


UPGRADE = (
    b"GET /chat/ws HTTP/1.1\r\nHost: talk.example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n"
)


def _frame(payload: bytes, *, first: int = 0x81, length: bytes = b"") -> bytes:
    mask = os.urandom(4)
    size = len(payload)
    said = length or (bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size))
    return bytes([first]) + said + mask + bytes(octet ^ mask[at % 4] for at, octet in enumerate(payload))


@pytest.mark.parametrize(
    "octets",
    [
        _frame(b"{}", first=0xF1),
        _frame(b"{}", first=0x83),
        _frame(b"\xff\xfe"),
        _frame(b"{}", length=b"\xff" + struct.pack("!Q", 1 << 62)),
        _frame(b"{}", length=b"\xff" + struct.pack("!Q", FRAME_MAX + 1)),
        b"\x81\x02{}",
        _frame(b"x" * 126, first=0x89),
        _frame(b"x", first=0x88),
        _frame(b"a", first=0x01) + _frame(b"b", first=0x01),
        b"".join(_frame(b"x" * 125, first=0x00) for _ in range(3)),
        _frame(b"", first=0x01) + _frame(b"", first=0x00) * 5_000,
        _frame(b"x", first=0x01) + _frame(b"x" * 60_000, first=0x00) * 3,
    ],
    ids=range(12),
)
async def test_no_octets_on_the_wire_make_us_fall_over(
    fortress: Any, octets: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserved bits, unknown operations, absurd lengths, no mask, endless fragments: closed, and little was kept."""
    monkeypatch.setattr(chat_socket, "HELLO_WITHIN_S", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", fortress.port)
    writer.write(UPGRADE)
    async with asyncio.timeout(5):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    began = time.monotonic()
    try:
        writer.write(octets)
        await writer.drain()
        async with asyncio.timeout(8):  # nobody said hello
            while await reader.read(65_536):
                pass
    except ConnectionError:
        pass  # cut off
    finally:
        writer.close()
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "forge",
    [
        lambda session, now: session,
        lambda session, now: sign_session("another secret", CHAT, session, now),
        lambda session, now: sign_session(SECRET, EndpointId("chat/other"), session, now),
        lambda session, now: sign_session(SECRET, CHAT, session, now - SESSION_TTL_S - 60),
        lambda session, now: sign_session(SECRET, CHAT, session, now + 86_400),
        lambda session, now: sign_session(SECRET, CHAT, session, now).swapcase(),
        lambda session, now: sign_session(SECRET, CHAT, secrets.token_hex(16), now),
        lambda session, now: sign_session(SECRET, CHAT, session, now).replace(session, secrets.token_hex(16)),
    ],
    ids=["bare id", "other secret", "other chat", "expired", "from the future", "case", "own session", "own mac"],
)
async def test_nobody_reads_anothers_talk(fortress: Any, forge: Any) -> None:
    """With a forged or expired token, the id alone, or another's: a new session, which has seen and heard nothing."""
    async with aiohttp.ClientSession() as http:
        victim = await http.ws_connect(f"{fortress.url}/chat/ws")
        await victim.send_json(HELLO)
        async with asyncio.timeout(5):
            token = (await victim.receive_json())["token"]
        await victim.send_json({"type": "say", "id": "client-id-1", "text": "my secret"})
        assert "taken" in {frame["type"] for frame in await _told(victim)}
        session = token.partition(".")[0]
        thief = await http.ws_connect(f"{fortress.url}/chat/ws")
        await thief.send_json(HELLO | {"token": forge(session, time.time())})
        await thief.send_json({"type": "seen", "number": 1})
        told = await _told(thief)
        assert told[0]["type"] == "welcome"
        assert not any(session in json.dumps(frame) or "my secret" in json.dumps(frame) for frame in told)
        again = await http.ws_connect(f"{fortress.url}/chat/ws")
        await again.send_json(HELLO | {"token": token})
        told = await _told(again)
        assert told[0]["resumed"]
        assert "my secret" in json.dumps(told), "its owner still has it"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://shop.example", 101),
        ("https://talk.example.org", 101),
        ("http://shop.example", 403),
        ("https://shop.example.evil.example", 403),
        ("https://evil.example", 403),
        ("https://shop.example:8443", 403),
        ("null", 403),
        ("", 403),
        ("https://shop.example/", 403),
        ("http://[", 403),
    ],
)
def test_other_sites_embed_nothing(fortress: Any, origin: str, status: int) -> None:
    """Origins are compared whole: no prefix, no other scheme or port."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "A" * 22 + "==", "Origin": origin}
    with requests.get(f"{fortress.url}/chat/ws", headers=upgrade | key, timeout=5, stream=True) as answer:
        assert answer.status_code == status
