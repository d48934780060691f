"""The use cases: everything a face, a vendor or a job may ask of the router."""

from collections.abc import AsyncIterator
from typing import Any, Final

from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as NotAnswered

from channels.errors import LocalFault
from channels.messages import About, Accepted, Event, Matter
from router.archive.records import Sought
from router.core import ArchiveUnavailable, Conflict, Core, Invalid, NotFound, SwitchboardError
from router.edge import EVENT, OPENING, Draft, take_event
from router.erasure import Erased, erase_customer
from router.evidence_desk import EvidenceDesk
from router.held_desk import HeldDesk
from router.holding import Holding
from router.journal_reader import JournalEntry, decisions_of, follow
from router.openings import Opening
from router.operations import EndpointState, Operations
from router.people_desk import PeopleDesk
from router.reading import ConversationView, Page, known
from router.reception import Reception
from router.spool_records import load_event
from router.store.redis import StoreUnavailable
from router.talk import Sent, Talk, Upload

__all__ = [
    "REDIS_AWAY",
    "ArchiveUnavailable",
    "Conflict",
    "ConversationView",
    "EndpointState",
    "Erased",
    "Invalid",
    "JournalEntry",
    "NotFound",
    "Page",
    "Sent",
    "Sought",
    "StoreUnavailable",
    "Switchboard",
    "SwitchboardError",
    "Upload",
]


REDIS_AWAY: Final = (NotConnected, NotAnswered)
"""What reads of the board raise while Redis is away: nothing is wrong with what was asked, ask again."""


class Switchboard(Talk, HeldDesk, PeopleDesk, Operations):
    """One hand on everything; the processes share nothing but Redis and the disk.

    Whatever reads or writes may raise `StoreUnavailable`: nothing was promised, ask again.
    """

    def __init__(self, core: Core, desk: EvidenceDesk) -> None:
        super().__init__(core)
        self._reception = Reception(core, desk, Holding(core))

    @property
    def organisation(self) -> str:
        """The name customers know."""
        return self.core.organisation

    async def accept(self, event: Event) -> Accepted:
        """Take an inbound message or a receipt; durable when it returns, in Redis or, while that is away, on our disk.

        Raises:
            LocalFault: we cannot take it now (Redis, disk); the vendor is to deliver it again.
        """
        try:
            # Our own chat's browsers say it again by themselves, and want to know in which conversation it stands.
            if self.core.spool is None or self.core.capabilities[event.endpoint].provider == "webchat":
                return await self._reception.accept(event)
            return await take_event(self.core.spool, self.core.files, event, self._reception.accept)
        except (StoreUnavailable, OSError) as error:
            raise LocalFault(f"not taken: {error}") from error

    async def matter(self, about: About) -> Matter | None:
        """The conversation a vendor's answer is about; None where nothing may be said of one, or Redis is away."""
        spool = self.core.spool
        if spool is None:
            return await self._reception.matter(about)
        try:
            return None if spool.away else await spool.within(self._reception.matter(about))
        except StoreUnavailable:
            return None

    async def empty_spool(self) -> None:
        """Have Redis take, once it is back, what it could not take; until cancelled. Nothing to do without a spool."""
        if self.core.spool is not None:
            await self.core.spool.run(self._take_spooled)

    async def _take_spooled(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == EVENT:
            await self._reception.accept(await load_event(fields, self.core.files))
        elif kind == OPENING:
            await self.begin(Opening.load(fields))
        else:
            await self.put(Draft.load(fields))

    async def erase_customer(self, customer_id: str, *, who: str, why: str, close: bool = False) -> Erased:
        """Erase a customer wherever they stand; see `erasure.erase_customer`, also for what it raises."""
        return await erase_customer(self.core, known(customer_id), who=who, why=why, close=close)

    async def read_file(self, sha256: str) -> bytes:
        """A stored file's bytes. Raises NotFound."""
        try:
            return await self.core.files.read(sha256)
        except FileNotFoundError as error:
            raise NotFound("unknown_file", "There is no such file.") from error

    async def decisions(self, conversation_id: str, limit: int = 100) -> list[JournalEntry]:
        """What was decided about a conversation and on what evidence, newest first. Raises NotFound."""
        view = await self.conversation(conversation_id, archived_too=True)
        return await decisions_of(self.core.store, view.conversation.id, limit)

    def events(self, *, after: str | None, wait_s: float = 15.0) -> AsyncIterator[JournalEntry | None]:
        """Journal entries from `after` on (None: from now on); None whenever nothing came for `wait_s`."""
        return follow(self.core.store, self.core.clock, after, wait_s)
