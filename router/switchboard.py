"""The use cases: everything a face, a vendor or a job may ask of the router."""

from collections.abc import AsyncIterator

from channels.errors import LocalFault
from channels.messages import About, Accepted, Event, Matter
from router.core import Conflict, Core, Invalid, NotFound, SwitchboardError
from router.evidence_desk import EvidenceDesk
from router.holding import Holding
from router.journal_reader import JournalEntry, decisions_of, follow
from router.operations import EndpointState, Operations
from router.people_desk import PeopleDesk
from router.reception import Reception
from router.store.redis import StoreUnavailable
from router.talk import ConversationView, Page, Sent, Talk, Upload

__all__ = [
    "Conflict",
    "ConversationView",
    "EndpointState",
    "Invalid",
    "JournalEntry",
    "NotFound",
    "Page",
    "Sent",
    "StoreUnavailable",
    "Switchboard",
    "SwitchboardError",
    "Upload",
]


class Switchboard(Talk, PeopleDesk, Operations):
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
        """Take an inbound message or a receipt; durable when it returns.

        Raises:
            LocalFault: we cannot take it now (Redis, disk); the vendor is to deliver it again.
        """
        try:
            return await self._reception.accept(event)
        except (StoreUnavailable, OSError) as error:
            raise LocalFault(f"not taken: {error}") from error

    async def matter(self, about: About) -> Matter | None:
        """The conversation a vendor's answer is about; None where nothing may be said of one."""
        return await self._reception.matter(about)

    async def read_file(self, sha256: str) -> bytes:
        """A stored file's bytes. Raises NotFound."""
        try:
            return await self.core.files.read(sha256)
        except FileNotFoundError as error:
            raise NotFound("unknown_file", "There is no such file.") from error

    async def decisions(self, conversation_id: str, limit: int = 100) -> list[JournalEntry]:
        """What was decided about a conversation and on what evidence, newest first. Raises NotFound."""
        view = await self.conversation(conversation_id)
        return await decisions_of(self.core.store, view.conversation.id, limit)

    def events(self, *, after: str | None, wait_s: float = 15.0) -> AsyncIterator[JournalEntry | None]:
        """Journal entries from `after` on (None: from now on); None whenever nothing came for `wait_s`."""
        return follow(self.core.store, self.core.clock, after, wait_s)
