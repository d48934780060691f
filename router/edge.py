"""The doors that stay open while Redis is away: for what comes in and what is to be said, our own disk answers."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import structlog

from channels.errors import LocalFault
from channels.messages import Accepted, Content, Event, File
from router.domain.conversation import MessageClass, SideName
from router.spool import Spool, SpoolFull
from router.spool_records import dump_event, order_of
from router.store.files import Files
from router.store.redis import StoreUnavailable

T = TypeVar("T")
D = TypeVar("D", bound="Unplaced")
EVENT, DRAFT, OPENING = "event", "draft", "opening"
"""What stands in a spool."""

log = structlog.get_logger()


class Unplaced(Protocol):
    """What was said to us and has no place in the order yet; its ids are given."""

    @property
    def conversation_id(self) -> str:
        """Where it belongs: what is said there later waits behind it."""

    @property
    def message_id(self) -> str:
        """What its author is told to look for."""

    @property
    def natural_key(self) -> str:
        """What makes it the same, however often it is said."""

    def dump(self) -> dict[str, Any]:
        """As JSON values."""


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
        row = fields | {"content": load_content(fields["content"]), "side": SideName(fields["side"])}
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


def load_content(fields: dict[str, Any]) -> Content:
    """Words as `asdict` wrote them."""
    return Content(**fields | {"files": tuple(File(**file) for file in fields["files"])})


async def take_unplaced(spool: Spool, kind: str, said: D, put: Callable[[D], Awaitable[T]]) -> T | tuple[str, str]:
    """Give what was said its place; or its ids (conversation, message): it is in the spool, and whatever is said there
    later goes behind it. Said again while it waits, it is the same one.

    Raises:
        StoreUnavailable: neither Redis nor the spool took it.
    """
    sent = await _now(spool, said.conversation_id, lambda: put(said))
    if sent is not None:
        return sent
    fields = said.dump()
    given = {"message_id", "at"} | ({"conversation_id"} if kind == OPENING else set())
    for waiting in spool.find(kind, "natural_key", said.natural_key):
        if all(waiting[name] == value for name, value in fields.items() if name not in given):
            return waiting["conversation_id"], waiting["message_id"]
    try:
        await spool.keep(kind, said.conversation_id, fields)
    except (SpoolFull, OSError) as error:
        raise StoreUnavailable(f"not taken: {error}") from error
    log.warning(
        "message.spooled", kind=kind, conversation=said.conversation_id, message=said.message_id, waiting=spool.waiting
    )
    return said.conversation_id, said.message_id


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
