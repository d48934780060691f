"""The agents' console: no vendor and no wire, the transcript is what it shows."""

import pytest

from channels.errors import MessageRejected, SendFailed
from channels.messages import ReceiptState
from tests.channels.suite.rows import Check, Hook, Must, Probe, Table, Taken, bare_webhook, exempt
from tests.channels.suite.stage import Stage, closed_port, store_at

NO_WIRE = exempt("no vendor and no wire stands between the transcript and the page that shows it")
NO_INBOUND = exempt("agents write through the API, never to this adapter: tests/router/web")


async def _taken(stage: Stage) -> list[Taken]:
    """It has no book: what is said stands in the transcript before it is sent."""
    return []


async def _deliver(stage: Stage) -> None:
    """Delivered at once, under the message's own id, however often it is said."""
    stage.make()
    first, again = await stage.send(stage.message()), await stage.send(stage.message({"possible_duplicate": True}))
    assert first == again
    assert (first.vendor_ids, first.state) == (("m0-1",), ReceiptState.DELIVERED)


async def _refuse_too_long(stage: Stage) -> None:
    text_max = stage.make().capabilities.text_max
    await stage.send(stage.message({"text": "a" * text_max}))
    with pytest.raises(MessageRejected, match="too_long"):
        await stage.send(stage.message({"text": "a" * (text_max + 1)}))


async def _pass_through(stage: Stage) -> None:
    """Nothing is rewritten on the way, for nothing is on its way: a line end or markup changes no receipt."""
    stage.make()
    for text in ("a\r\nb\x00c", "<script>alert(1)</script>"):
        receipt = await stage.send(stage.message({"text": text}))
        assert receipt.vendor_ids == ("m0-1",)


async def _lose_the_store(stage: Stage) -> None:
    """The store is ours: what it raises is no evidence against the endpoint."""
    store_at(stage, await closed_port(stage))
    stage.make()
    with pytest.raises(Exception) as caught:
        await stage.probe()
    assert not isinstance(caught.value, SendFailed)


TABLE = Table(
    provider="console",
    endpoint="chat/console",
    customer="agent-ana",
    vendor=lambda stage: None,
    settings=lambda stage: {"id": "chat/console", "provider": "console"},
    taken=_taken,
    cases={
        Must.TAKEN: Check(_deliver),
        Must.REFUSED_CONNECTION: NO_WIRE,
        Must.HANG: NO_WIRE,
        Must.VENDOR_ERROR: NO_WIRE,
        Must.DROP_AFTER_ACCEPT: NO_WIRE,
        Must.NONSENSE: NO_WIRE,
        Must.THROTTLED: NO_WIRE,
        Must.BAD_CREDENTIAL: exempt("there is no account to sign in to, and no secret in its settings"),
        Must.BAD_RECIPIENT: exempt("every agent reads the same console: an address selects nothing"),
        Must.CONTENT_REFUSED: exempt("whatever the transcript can hold, the page can show: only the length is bounded"),
        Must.EMPTY_TEXT: exempt("a customer's empty mail is still shown to the agent who has to deal with it"),
        Must.TEXT_OVER_MAX: Check(_refuse_too_long),
        Must.LINE_ENDS_AND_NUL: Check(_pass_through, label="text"),
        Must.MARKUP: Check(_pass_through),
        Must.PROBE_WELL: Probe(),
        Must.PROBE_UNWELL: Check(_lose_the_store, label="store"),
        Must.RECEIPT: exempt("send itself says delivered: nothing comes later"),
        Must.INBOUND: NO_INBOUND,
        Must.INBOUND_CONTROLS: NO_INBOUND,
        Must.DELIVERED_TWICE: NO_INBOUND,
        Must.NOT_DURABLE: NO_INBOUND,
        Must.WEBHOOK_FORGED: Hook(bare_webhook, 404),
        Must.WEBHOOK_MALFORMED: exempt("every webhook is refused unread"),
        Must.WEBHOOK_OVERSIZED: exempt("every webhook is refused unread"),
    },
)
