"""The doors that stay open while Redis is away: for what comes in and what is to be said, our own disk answers."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import structlog

from channels.errors import LocalFault
from channels.messages import Accepted, Content, Event, File
from router.domain.conversation import MessageClass, SideName
from router.spool import Spool, SpoolFull
from router.spool_records import dump_event, order_of
from router.store.files import Files
from router.store.redis import StoreUnavailable

T = TypeVar("T")
EVENT, DRAFT = "event", "draft"
"""What stands in a spool."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as its author gave it to us; its files are on disk."""

    conversation_id: str
    message_id: str
    content: Content
    author: str
    author_name: str
    natural_key: str
    message_class: MessageClass | None
    """None: the conversation's."""
    at: float
    """When it was given to us, Unix seconds: its time to live counts from here."""
    expires_in_s: float | None
    side: SideName

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def load(cls, fields: dict[str, Any]) -> "Draft":
        """What `dump` wrote."""
        row, content = dict(fields), dict(fields["content"])
        content["files"] = tuple(File(**file) for file in content["files"])
        row |= {"content": Content(**content), "side": SideName(row["side"])}
        row["message_class"] = MessageClass(row["message_class"]) if row["message_class"] else None
        return cls(**row)


async def take_event(
    spool: Spool, files: Files, event: Event, accept: Callable[[Event], Awaitable[Accepted]]
) -> Accepted:
    """Have an event accepted, now or once Redis is back; what is only in the spool has no conversation yet.

    Raises:
        LocalFault: neither Redis nor the spool took it; the vendor is to deliver it again.
        OSError: its files could not be stored.
    """
    key = order_of(event)
    accepted = await _now(spool, key, lambda: accept(event))
    if accepted is not None:
        return accepted
    try:
        await spool.keep(EVENT, key, await dump_event(event, files))
    except (SpoolFull, OSError) as error:
        raise LocalFault(f"not taken: {error}") from error
    log.warning("event.spooled", endpoint=event.endpoint, waiting=spool.waiting)
    return Accepted()


async def take_draft(spool: Spool, draft: Draft, put: Callable[[Draft], Awaitable[T]]) -> T | None:
    """Put a message into its conversation; None: it is in the spool, and behind it whatever is said there later.

    Raises:
        StoreUnavailable: neither Redis nor the spool took it.
    """
    sent = await _now(spool, draft.conversation_id, lambda: put(draft))
    if sent is not None:
        return sent
    try:
        await spool.keep(DRAFT, draft.conversation_id, draft.dump())
    except (SpoolFull, OSError) as error:
        raise StoreUnavailable(f"not taken: {error}") from error
    log.warning("message.spooled", conversation=draft.conversation_id, message=draft.message_id, waiting=spool.waiting)
    return None


async def _now(spool: Spool, key: str, work: Callable[[], Awaitable[T]]) -> T | None:
    """What Redis answers, if it takes anything now and nothing of this key waits before it."""

    async def begin() -> T:
        return await work()

    if spool.holds(key):
        return None
    try:
        return await spool.within(begin())
    except StoreUnavailable:
        return None
