"""What a bench sends: conversations with messages that say their own place in the order, and the check of a journal."""

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from channels.messages import Content, Kind
from health.report import EndpointId
from router.core import CONSOLE_ENDPOINT, CONSOLE_PLACE
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import NewConversation, NewLeg, NewMessage
from router.store.store import Store

HERE = EndpointId("sms/here")
THERE = EndpointId("sms/there")
BODY_BYTES = 300
ACCEPTS_AT_ONCE = 256
_FILL = "Your parcel left our warehouse this morning and will be with you before noon tomorrow. " * 4
_MARK = re.compile(r"#(\d+)/(\d+)#")


def phone(number: int) -> str:
    """A distinct E.164 number."""
    return f"+1555{number:07d}"


def body(conversation: int, sequence: int) -> str:
    """A text of 300 bytes that says whose it is and its place in the order."""
    mark = f"#{conversation}/{sequence}# "
    return mark + _FILL[: BODY_BYTES - len(mark)]


def whose(text: str) -> int | None:
    """The conversation a text says it belongs to."""
    found = _MARK.search(text)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Verified:
    """A journal read back."""

    messages: int
    lost: int
    doubled: int
    disordered: int

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing doubled, order kept."""
        return not (self.lost or self.doubled or self.disordered)


def verify(journal: Iterable[str], conversations: int, each: int, *, ordered: bool = True) -> Verified:
    """Compare what a provider took with what was to be sent: every (conversation, sequence) once and in order."""
    seen: dict[int, list[int]] = {}
    count = 0
    for text in journal:
        found = _MARK.search(text)
        if found:
            count += 1
            seen.setdefault(int(found[1]), []).append(int(found[2]))
    lost = doubled = disordered = 0
    for conversation in range(conversations):
        order = seen.get(conversation, [])
        once = set(order)
        lost += each - len(once)
        doubled += len(order) - len(once)
        disordered += ordered and order != sorted(order)
    return Verified(count, lost, doubled, disordered)


async def seed(
    store: Store, conversations: int, each: int, *, first: int = 0, endpoint: EndpointId = HERE
) -> list[str]:
    """Open conversations `first`, `first + 1`, ... with `each` messages waiting to be said; their ids.

    Every accept is durable; as many are under way at a time as `ACCEPTS_AT_ONCE`.
    """
    now_ms = int(time.time() * 1000)
    ids = [new_id("v", 0, now_ms) for _ in range(conversations)]
    for start in range(0, conversations, ACCEPTS_AT_ONCE):
        page = range(start, min(start + ACCEPTS_AT_ONCE, conversations))
        for sequence in range(each):
            await asyncio.gather(*(accept_one(store, ids[n], first + n, sequence, endpoint) for n in page))
    return ids


async def accept_one(store: Store, identity: str, number: int, sequence: int, endpoint: EndpointId = HERE) -> None:
    """Accept one message to the customer, under an idempotency key; the first opens its conversation."""
    message = NewMessage(
        id=new_id("m", 0, int(time.time() * 1000)),
        side=SideName.CUSTOMER,
        kind=Kind.MESSAGE,
        author="a0-bench",
        author_name="",
        content=Content(body(number, sequence)),
        message_class=MessageClass.NORMAL,
        expires_at=time.time() + 86_400,
        endpoint=EndpointId(""),
    )
    answer = await store.accept(
        identity,
        message,
        natural_key=f"bench:{message.id}",
        said_hash="0123456789abcdef",
        create=_conversation(number, endpoint) if sequence == 0 else None,
    )
    if answer.verdict != "new":
        raise RuntimeError(f"a message of the bench was not accepted: {answer.verdict}")


def _conversation(number: int, endpoint: EndpointId) -> NewConversation:
    owner = f"c0-{number:022d}"
    return NewConversation(
        customer_id=owner,
        reference=f"{number:05d}",
        subject="",
        locale="en",
        message_class=MessageClass.NORMAL,
        priority=5,
        team="",
        customer=NewLeg(owner, endpoint, f"sms:{phone(number)}"),
        agent=NewLeg("", CONSOLE_ENDPOINT, CONSOLE_PLACE),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
