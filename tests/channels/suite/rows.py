"""What a provider's table is made of: one row a case, or an exemption with its reason."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import pytest

from channels.errors import SendFailed, Throttled, WebhookRefused
from channels.messages import Address, Receipt, ReceiptState, Webhook
from channels.registry import CHANNELS
from channels.sandbox.vendor import Fault
from health.report import Status
from tests.channels.suite.stage import TOKEN, WORDS, Stage, until

NOTHING: Mapping[str, Any] = {}
Arrange = Callable[[Stage], Awaitable[Mapping[str, object]]]
"""Prepares what a vendor's switch cannot do, before the adapter is built; returns changes of its settings."""


class Must(StrEnum):
    """A case that every provider's table has, or is exempt from with a reason."""

    TAKEN = "taken"  # a message the vendor takes ends in a receipt, and arrives as it was said
    REFUSED_CONNECTION = "refused_connection"  # nobody listens: certainly not taken
    HANG = "hang"  # the vendor never answers: given up within `io_s`, with what that means on this protocol
    VENDOR_ERROR = "vendor_error"  # 421, 503, ESME_RSYSERR: the endpoint's failure, as certain as the protocol makes it
    DROP_AFTER_ACCEPT = "drop_after_accept"  # taken, then the line breaks before the answer: unknown
    NONSENSE = "nonsense"  # what answers does not speak the protocol
    THROTTLED = "throttled"  # alive, wait: with a positive `retry_after_s`
    BAD_CREDENTIAL = "bad_credential"  # a person must act
    BAD_RECIPIENT = "bad_recipient"  # not at this address: the vendor's word, and our own check before any I/O
    CONTENT_REFUSED = "content_refused"  # not here, as it is: a filter, a size
    EMPTY_TEXT = "empty_text"  # nothing to say is not said
    TEXT_OVER_MAX = "text_over_max"  # `text_max` characters go, one more is refused before any I/O
    LINE_ENDS_AND_NUL = "line_ends_and_nul"  # in each field that reaches the wire: refused, or harmless there
    MARKUP = "markup"  # `<Dial>` in a name or a text is text
    PROBE_WELL = "probe_well"  # returns, and nothing reaches a customer
    PROBE_UNWELL = "probe_unwell"  # raises from the tree, within its bound
    RECEIPT = "receipt"  # a later receipt names the attempt's token, or an id that `send` returned
    INBOUND = "inbound"  # what a customer writes is translated whole
    INBOUND_CONTROLS = "inbound_controls"  # control characters in it stay out
    DELIVERED_TWICE = "delivered_twice"  # the vendor comes again: one vendor id
    NOT_DURABLE = "not_durable"  # we could not keep it: the vendor is not acknowledged, and comes again
    WEBHOOK_FORGED = "webhook_forged"  # not signed, wrongly signed, another's: refused
    WEBHOOK_MALFORMED = "webhook_malformed"  # signed and unreadable: refused
    WEBHOOK_OVERSIZED = "webhook_oversized"  # refused
    CAPABILITIES = "capabilities"  # sane, and the channel is the id's
    CLOSED_TWICE = "closed_twice"  # harmless
    SETTINGS = "settings"  # unknown fields are refused, and no refusal, repr or dump shows a secret


@dataclass(frozen=True, slots=True)
class Exempt:
    """Why a mandatory case cannot be, at this provider."""

    reason: str


def exempt(reason: str) -> Exempt:
    """Claim an exemption; the reason stands in the test's name."""
    return Exempt(reason)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of the code that are shortened for one row: there is no setting for them, and waiting shows no more."""

    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Taken:
    """One message as the vendor's customer has it."""

    customer: str
    text: str
    vendor_id: str


class Row(Protocol):
    """One case."""

    @property
    def label(self) -> str:
        """What tells it from the other rows of the same case; may be empty."""

    async def play(self, stage: Stage) -> None:
        """Play it, and judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A provider: how to set it up, and what each case comes to there."""

    provider: str
    endpoint: str
    customer: str
    """Whom messages go to, as a normalised address."""
    vendor: Callable[[Stage], Any]
    """The stand-in, not started; None where there is none."""
    settings: Callable[[Stage], Mapping[str, object]]
    """The `[[endpoints]]` table, once the vendor is started."""
    taken: Callable[[Stage], Awaitable[list[Taken]]]
    """What the vendor took for customers so far, by its own book."""
    cases: Mapping[Must, Row | tuple[Row, ...] | Exempt]
    says_later: bool = False
    """The vendor's book shows no text yet: a call is placed before anything is said."""
    pace: Mapping[str, object] = field(default_factory=dict)
    """The stand-in's own waits, shortened."""


async def switch(stage: Stage, fault: Fault) -> None:
    """Set the vendor's fault."""
    if fault is not Fault.NONE:
        await stage.vendor.set_fault(fault)


def shorten(stage: Stage, bounds: Bounds | None) -> None:
    """Put the row's bounds into force; before the adapter is built."""
    for name, value in bounds.values.items() if bounds else ():
        stage.monkeypatch.setattr(name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """One send, and what comes of it."""

    label: str = ""
    fault: Fault = Fault.NONE
    arrange: Arrange | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    message: Mapping[str, Any] = field(default_factory=dict)
    bounds: Bounds | None = None
    raises: type[Exception] | None = None
    reason: str = ""
    """What the error's reason begins with, where that matters."""
    taken: int | None = None
    """How many messages the vendor then has; None: one if nothing is raised, else none."""
    arrives: str | None = None
    """The text as the customer has it; None: as it was said."""
    once_down: bool = False
    """Send once the adapter noticed that its connection is gone; before that, what it writes may have been read."""

    async def play(self, stage: Stage) -> None:
        """Send one message; judge by the error or receipt, and by the vendor's book."""
        shorten(stage, self.bounds)
        changed = await self.arrange(stage) if self.arrange else NOTHING
        await stage.open({**changed, **self.settings})
        await switch(stage, self.fault)
        if self.once_down:
            await until(lambda: stage.reports[-1].status is Status.DOWN, "the adapter reports that it is down")
        message = stage.message(self.message)
        if self.raises is None:
            _judge_receipt(await stage.send(message), await stage.table.taken(stage))
        else:
            with pytest.raises(self.raises) as caught:
                await stage.send(message)
            self._judge_error(caught.value)
        taken = await stage.table.taken(stage)
        assert len(taken) == ((self.raises is None) if self.taken is None else self.taken)
        for one in taken:
            assert one.customer == message.to.value
            if not stage.table.says_later:
                assert one.text == (message.content.text if self.arrives is None else self.arrives)

    def _judge_error(self, error: Exception) -> None:
        assert self.raises is not None
        assert isinstance(error, self.raises)
        if isinstance(error, SendFailed):
            assert type(error) is self.raises or self.raises is SendFailed
            assert error.reason
            assert " " not in error.reason, "the reason is for machines"
            assert error.words, "the words are for people"
            assert error.reason.startswith(self.reason)
        if isinstance(error, Throttled):
            assert error.retry_after_s > 0


def _judge_receipt(receipt: Receipt, taken: list[Taken]) -> None:
    assert receipt.state in (ReceiptState.SENT, ReceiptState.DELIVERED)
    assert all(isinstance(vendor_id, str) and vendor_id for vendor_id in receipt.vendor_ids)
    assert len(set(receipt.vendor_ids)) == len(receipt.vendor_ids) > 0
    assert [one.vendor_id in receipt.vendor_ids for one in taken] == [True]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMax:
    """`text_max` characters go through; one more is refused before any I/O."""

    label: str = ""
    letter: str = "a"

    async def play(self, stage: Stage) -> None:
        """Send the longest text there may be, and one that is longer."""
        text_max = stage.make().capabilities.text_max
        await Send(message={"text": self.letter * text_max}).play(stage)
        for length in (text_max + 1, 1_000_000):
            with pytest.raises(SendFailed) as caught:
                await stage.send(stage.message({"text": self.letter * length}))
            assert type(caught.value).__name__ == "MessageRejected"
        assert len(await stage.table.taken(stage)) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One probe, and what it says."""

    label: str = ""
    fault: Fault = Fault.NONE
    arrange: Arrange | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    bounds: Bounds | None = None
    raises: type[SendFailed] | None = None
    listens: bool = True
    """Whether the adapter's listening runs in this process; the supervisor asks from one where it does not."""

    async def play(self, stage: Stage) -> None:
        """Probe; nothing may reach a customer."""
        shorten(stage, self.bounds)
        changed = await self.arrange(stage) if self.arrange else NOTHING
        table = {**changed, **self.settings}
        if self.listens:
            await stage.open(table)
        else:
            stage.make(table)
        await switch(stage, self.fault)
        began = time.monotonic()
        if self.raises is None:
            await stage.probe()
        else:
            with pytest.raises(self.raises) as caught:
                await stage.probe()
            assert type(caught.value) is self.raises
        assert time.monotonic() - began < stage.adapter.capabilities.probe_s
        assert await stage.table.taken(stage) == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipted:
    """A receipt that comes later finds its attempt."""

    label: str = ""
    message: Mapping[str, Any] = field(default_factory=dict)
    arrange: Arrange | None = None
    state: ReceiptState = ReceiptState.DELIVERED

    async def play(self, stage: Stage) -> None:
        """Send, and wait for the receipt."""
        changed = await self.arrange(stage) if self.arrange else NOTHING
        await stage.open(changed)
        receipt = await stage.send(stage.message(self.message))
        await until(lambda: self.state in {event.state for event in stage.receipts}, f"a receipt says {self.state}")
        for event in stage.receipts:
            assert event.endpoint == stage.tools.endpoint
            assert event.token == TOKEN or (not event.token and event.vendor_id in receipt.vendor_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A customer writes; we fail to keep it, or to say that we kept it, so many times."""

    label: str = ""
    text: str = WORDS
    arrives: str | None = None
    fail_before: int = 0
    fail_after: int = 0
    same_id: bool = True
    """The vendor's own id is the event's; False where the wire carries none."""

    async def play(self, stage: Stage) -> None:
        """Let the customer write, and judge what was accepted, and how often."""
        await stage.open()
        stage.fail_before, stage.fail_after = self.fail_before, self.fail_after
        vendor_id = await stage.vendor.write(stage.table.customer, self.text)
        count = 1 + self.fail_after
        await until(lambda: len(stage.words) >= count, f"{count} deliveries of what was written")
        await asyncio.sleep(0.05)  # a delivery too many would come now
        assert len(stage.words) == count
        assert stage.tries == count + self.fail_before
        assert len({event.vendor_id for event in stage.words}) == 1
        event = stage.words[0]
        if self.same_id:
            assert event.vendor_id == vendor_id
        assert event.vendor_id
        assert event.endpoint == stage.tools.endpoint
        assert event.sender == Address(CHANNELS[stage.table.provider], stage.table.customer)
        assert event.text == (self.text if self.arrives is None else self.arrives)
        assert abs(event.sent_at - time.time()) < 60
        if stage.answers and not self.fail_before and not self.fail_after:
            assert set(stage.answers) == {200}


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook that is refused."""

    make: Callable[[Stage], Webhook]
    status: int
    label: str = ""

    async def play(self, stage: Stage) -> None:
        """Hand it over; the refusal tells its status, and nothing is accepted."""
        stage.make()
        with pytest.raises(WebhookRefused) as caught:
            await stage.receive(self.make(stage))
        assert caught.value.status == self.status
        assert not stage.events


@dataclass(frozen=True, slots=True)
class Check:
    """A case of its own making."""

    run: Callable[[Stage], Awaitable[None]]
    label: str = ""

    async def play(self, stage: Stage) -> None:
        """Run it."""
        await self.run(stage)


def bare_webhook(stage: Stage) -> Webhook:
    """A webhook at an endpoint that takes none."""
    url = f"{stage.public_url}/hooks/{stage.tools.endpoint}"
    return Webhook("POST", url, "", {}, {"content-type": "application/json"}, b"{}", time.time())
