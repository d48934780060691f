"""`/v1/events`: told as it happens, resumed where it broke off, bounded for everybody."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.switchboard import JournalEntry
from router.telemetry import EVENT_STREAMS
from router.web import events

DEADLINE_S = 10.0


async def _read(response: Any, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The next events: id and data."""
    found: list[tuple[str, dict[str, Any]]] = []
    identity = ""
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            line = (await response.content.readline()).decode().rstrip("\n")
            if line.startswith("id: "):
                identity = line[4:]
            elif line.startswith("data: "):
                found.append((identity, json.loads(line[6:])))
    return found


async def test_what_happens_is_told_and_can_be_resumed(face: Any) -> None:
    """A listener that comes back with its last id hears everything after it, once and in order."""
    stream = await face.client.get("/v1/events", headers=face.agent)
    assert stream.status == 200
    assert stream.content_type == "text/event-stream"
    assert (await stream.content.readline()).startswith(b"retry: ")
    conversation_id = await face.hear("Hello", vendor_id="SM" + "1" * 32)
    [(first, entry)] = await _read(stream, 1)
    assert entry["conversation_id"] == conversation_id
    assert entry["id"] == first
    stream.close()
    await face.hear("Still there?", vendor_id="SM" + "2" * 32)
    await face.hear("Hello?", vendor_id="SM" + "3" * 32)
    whole = await face.client.get("/v1/events?after=0:0-0", headers=face.agent)
    told = [one for one in await _read(whole, 3) if one[1]["conversation_id"] == conversation_id]
    whole.close()
    resumed = await face.client.get("/v1/events", headers=face.agent | {"Last-Event-ID": told[0][0]})
    assert await _read(resumed, len(told) - 1) == told[1:]
    resumed.close()
    assert "Hello" not in str(told)


@pytest.mark.parametrize(
    "after", ["rubbish", "0-0", "0:", "0:1", "0:1-2,0:1-2", "99:0-0", "0:0-0,", "0:\u0661-0", "1" * 3000]
)
async def test_an_id_of_nothing_is_refused(face: Any, after: str) -> None:
    """A listener that came back with it would miss what happened meanwhile, and not know."""
    answer = await face.client.get("/v1/events", params={"after": after}, headers=face.agent)
    assert answer.status == 400
    assert (await answer.json())["reason"] == "bad_request"


async def test_zero_is_the_beginning_of_what_is_kept(face: Any) -> None:
    """`Last-Event-ID: 0` tells everything, as the document says."""
    conversation_id = await face.hear("Hello", vendor_id="SM" + "7" * 32)
    stream = await face.client.get("/v1/events", headers=face.agent | {"Last-Event-ID": "0"})
    [(_, entry)] = await _read(stream, 1)
    assert entry["conversation_id"] == conversation_id
    stream.close()


async def test_one_conversation_can_be_listened_to_alone(face: Any) -> None:
    """The others are not told."""
    await face.hear("Hello", "+12025550201", "SM" + "4" * 32)
    wanted = await face.hear("Hello", "+12025550202", "SM" + "5" * 32)
    stream = await face.client.get(f"/v1/events?after=0:0-0&conversation_id={wanted}", headers=face.ops)
    assert {entry["conversation_id"] for _, entry in await _read(stream, 1)} == {wanted}
    stream.close()


async def test_who_may_not_listen(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key 401, with an id that is none 400, one more than there may be 503."""
    assert (await face.client.get("/v1/events")).status == 401
    bad = await face.client.get("/v1/events", headers=face.agent | {"Last-Event-ID": "<script>"})
    assert bad.status == 400
    monkeypatch.setattr(events, "STREAMS_MAX", 1)
    first = await face.client.get("/v1/events", headers=face.agent)
    await first.content.readline()
    second = await face.client.get("/v1/events", headers=face.agent)
    assert second.status == 503
    assert second.headers["Retry-After"]
    first.close()


async def test_an_open_stream_ends_with_its_key(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose key was revoked hears nothing more."""
    monkeypatch.setattr(events, "CHECK_EVERY_S", 0.0)
    stream = await face.client.get("/v1/events", headers=face.agent)
    await stream.content.readline()
    await face.runtime.keys.revoke(face.plain["agent"].split("_")[1])
    await face.hear("Hello")
    async with asyncio.timeout(DEADLINE_S):
        rest = await stream.content.read()
    assert b"data:" not in rest


async def test_a_listener_that_does_not_listen_is_cut_off(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs us its socket's buffer and a bounded time, no more; others go on."""
    entry = JournalEntry("0:1-1", 1.0, "message.accepted", "v0-1", "m0-1", "sms/twilio", {"padding": "x" * 100_000})

    async def endless(self: Any, *, after: str | None, wait_s: float) -> AsyncIterator[JournalEntry]:
        while True:
            yield entry

    monkeypatch.setattr(type(face.runtime.switchboard), "events", endless)
    monkeypatch.setattr(events, "SLOW_S", 0.3)
    url = face.client.make_url("/v1/events")
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1_000)
    key = face.plain["agent"]
    writer.write(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    while not (await reader.readline()).startswith(b"retry:"):
        assert not reader.at_eof()
    assert (await face.client.get("/healthz")).status == 200
    async with asyncio.timeout(DEADLINE_S):
        while EVENT_STREAMS.collect()[0].samples[0].value > 0:
            await asyncio.sleep(0.05)
    writer.close()
