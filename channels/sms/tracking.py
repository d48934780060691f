"""Which segment belongs to which message: what lets one message be `delivered` when all its segments are."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from channels.messages import ReceiptState

SEGMENTS_KNOWN_MAX = 20_000
EARLY_MAX = 100
"""Receipts that wait for an answer they may have overtaken; far below the session's DELIVERIES_MAX."""


@dataclass(slots=True)
class Submission:
    """One message on its way, by segments."""

    token: str
    to: str
    """The customer's number as it went out."""
    total: int
    vendor_ids: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)

    @property
    def is_taken(self) -> bool:
        """Every segment has been taken."""
        return len(self.vendor_ids) == self.total


class Tracker:
    """Segments sent lately, at most `SEGMENTS_KNOWN_MAX`; what it has forgotten is reported segment by segment."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Submission] = OrderedDict()
        self._by_reference: OrderedDict[int, Submission] = OrderedDict()
        self._early: dict[str, asyncio.Event] = {}
        self._open = 0

    def begin(self, submission: Submission, references: range) -> None:
        """Segments with these user_message_references are about to be submitted."""
        self._open += 1
        for reference in references:
            self._by_reference.pop(reference & 0xFFFF, None)
            self._by_reference[reference & 0xFFFF] = submission
        while len(self._by_reference) > SEGMENTS_KNOWN_MAX:
            self._by_reference.popitem(last=False)

    def end(self) -> None:
        """A submission that began has been answered, or will not be."""
        self._open -= 1
        if not self._open:
            for event in self._early.values():
                event.set()

    def take(self, submission: Submission, vendor_id: str) -> None:
        """A segment was taken under `vendor_id`."""
        submission.vendor_ids.add(vendor_id)
        self._by_id[vendor_id] = submission
        if len(self._by_id) > SEGMENTS_KNOWN_MAX:
            self._by_id.popitem(last=False)
        event = self._early.get(vendor_id)
        if event is not None:
            event.set()

    def find(self, vendor_id: str, reference: int | None, sender: str) -> Submission | None:
        """The submission a receipt speaks of: by its id, else by our own number if it went to `sender`."""
        found = self._by_id.get(vendor_id)
        if found is None and reference is not None:
            found = self._by_reference.get(reference)
            # 16 bits come round again within minutes; the number it went to settles whose it is.
            if found is not None and found.to.lstrip("+") != sender.lstrip("+"):
                found = None
        return found

    async def wait_for(self, vendor_id: str, timeout_s: float) -> None:
        """Wait until a submission that is open now may have named `vendor_id`: receipts can overtake answers."""
        if not self._open or vendor_id in self._by_id or len(self._early) >= EARLY_MAX:
            return
        event = self._early.setdefault(vendor_id, asyncio.Event())
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass  # it is none of ours, or the answer was lost: the receipt speaks for itself
        finally:
            self._early.pop(vendor_id, None)


def settle_receipt(submission: Submission | None, vendor_id: str, state: ReceiptState) -> bool:
    """Whether this receipt says something of the whole message now.

    `delivered` does when all segments are; a failed segment does at once. Saying it twice is harmless:
    receipts only move up.
    """
    if submission is None or submission.total == 1:
        return True
    submission.vendor_ids.add(vendor_id)
    if state is ReceiptState.DELIVERED:
        submission.delivered.add(vendor_id)
        return len(submission.delivered) == submission.total
    if state is ReceiptState.SENT:
        return submission.is_taken
    return True
