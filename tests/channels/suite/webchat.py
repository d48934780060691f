"""Our own web chat: the wire is a durable outbox in the endpoint's store, real Redis here as everywhere."""

import time
from collections.abc import Mapping

import pytest

from channels.chat.session import BEAT_KEY, OutboxEntry, outbox_key
from channels.errors import EndpointUnavailable, LocalFault, LocalOutcomeUnknown, MessageRejected, RecipientUnreachable
from channels.messages import File
from tests.channels.suite.rows import (
    Bounds,
    Check,
    Hook,
    Must,
    Probe,
    Send,
    Table,
    Taken,
    TextMax,
    bare_webhook,
    exempt,
    shorten,
)
from tests.channels.suite.stage import TOKEN, Stage, closed_port, silent_port, store_at

SESSION = "0123456789abcdef" * 2
NO_VENDOR = exempt("the only thing behind it is our own store, whose faults are ours: see the rows of hang and refused")
NO_INBOUND = exempt("browsers write over their WebSocket, in the web role: tests/router/web_chat")


async def _outbox(stage: Stage) -> list[OutboxEntry]:
    return [entry for _, entry in await _numbered(stage)]


async def _numbered(stage: Stage) -> list[tuple[int, OutboxEntry]]:
    entries = await stage.tools.store.read_after(outbox_key(SESSION), 0, 100)
    return [(number, OutboxEntry.decode(entry)) for number, entry in entries]


async def _taken(stage: Stage) -> list[Taken]:
    return [Taken(SESSION, entry.text, f"{SESSION}:{number}") for number, entry in await _numbered(stage)]


async def _lose_the_store(stage: Stage) -> None:
    """Neither send nor probe says anything against the endpoint; what was said may have been taken."""
    store_at(stage, await closed_port(stage))
    stage.make()
    with pytest.raises(LocalOutcomeUnknown):
        await stage.send(stage.message())
    with pytest.raises(LocalFault):
        await stage.probe()


async def _hang(stage: Stage) -> None:
    """Given up within `io_s`, as a fault of our own; what the store got later, it shows."""
    shorten(stage, Bounds({"channels.chat.webchat.APPEND_S": 0.2}))
    store_at(stage, await silent_port(stage))
    stage.make()
    with pytest.raises(LocalOutcomeUnknown):
        await stage.send(stage.message())


async def _beat_long_ago(stage: Stage) -> Mapping[str, object]:
    await stage.tools.store.put(BEAT_KEY, str(time.time() - 60), 600)
    return {}


async def _beat_now(stage: Stage) -> Mapping[str, object]:
    await stage.tools.store.put(BEAT_KEY, str(time.time()), 600)
    return {}


async def _name_the_attempt(stage: Stage) -> None:
    """The web role says `delivered` with the token that stands in the outbox."""
    stage.make()
    await stage.send(stage.message())
    assert [entry.token for entry in await _outbox(stage)] == [TOKEN]


async def _show_once(stage: Stage) -> None:
    """A lost answer costs nothing: both copies have the message's own id, and a browser shows an id once."""
    stage.make()
    assert stage.adapter.capabilities.idempotent
    for number in range(2):
        await stage.send(stage.message({"token": f"s0.attempt-{number}"}))
    assert [entry.id for entry in await _outbox(stage)] == ["m0-1", "m0-1"]


FILE = File("0" * 64, "a", "b", 1)
TABLE = Table(
    provider="webchat",
    endpoint="chat/suite",
    customer=SESSION,
    vendor=lambda stage: None,
    settings=lambda stage: {
        "id": "chat/suite",
        "provider": "webchat",
        "secret": "sessions-are-signed-with-this-and-no-log-knows-it",
    },
    taken=_taken,
    cases={
        Must.TAKEN: Send(),
        Must.REFUSED_CONNECTION: Check(_lose_the_store, label="store"),
        Must.HANG: Check(_hang, label="store"),
        Must.VENDOR_ERROR: NO_VENDOR,
        Must.DROP_AFTER_ACCEPT: Check(_show_once),
        Must.NONSENSE: NO_VENDOR,
        Must.THROTTLED: NO_VENDOR,
        Must.BAD_CREDENTIAL: exempt("there is no account: the secret signs browsers' sessions, and nothing signs in"),
        Must.BAD_RECIPIENT: (
            Send(label="path", message={"to": "../etc"}, raises=RecipientUnreachable),
            Send(label="empty", message={"to": ""}, raises=RecipientUnreachable),
            Send(label="upper", message={"to": SESSION.upper()}, raises=RecipientUnreachable),
        ),
        Must.CONTENT_REFUSED: Send(label="file", message={"content": {"files": (FILE,)}}, raises=MessageRejected),
        Must.EMPTY_TEXT: Send(message={"text": " \n"}, raises=MessageRejected),
        Must.TEXT_OVER_MAX: TextMax(letter="\N{GRINNING FACE}"),
        Must.LINE_ENDS_AND_NUL: (
            Send(label="text", message={"text": "a\r\nb\x00c"}),
            Send(label="reference", message={"matter": {"reference": "4F\r\n\x00"}}),
            Send(label="token", message={"token": "s0\r\n\x00"}),
            Send(label="address", message={"to": f"{SESSION}\r\n"}, raises=RecipientUnreachable),
        ),
        Must.MARKUP: Send(
            message={"text": "<b>&amp;</b> \" '", "matter": {"organisation": "<script>alert(1)</script>"}}
        ),
        Must.PROBE_WELL: (Probe(label="no web process yet"), Probe(label="beat", arrange=_beat_now)),
        Must.PROBE_UNWELL: Probe(label="web process died", arrange=_beat_long_ago, raises=EndpointUnavailable),
        Must.RECEIPT: Check(_name_the_attempt, label="token"),
        Must.INBOUND: NO_INBOUND,
        Must.INBOUND_CONTROLS: NO_INBOUND,
        Must.DELIVERED_TWICE: NO_INBOUND,
        Must.NOT_DURABLE: NO_INBOUND,
        Must.WEBHOOK_FORGED: Hook(bare_webhook, 404),
        Must.WEBHOOK_MALFORMED: exempt("every webhook is refused unread"),
        Must.WEBHOOK_OVERSIZED: exempt("every webhook is refused unread"),
    },
)
