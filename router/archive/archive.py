"""The archive: closed conversations in SQL, found again by id, reference or words, erased by customer."""

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from router.archive import reading, writing
from router.archive.database import ArchiveError, Connection, Database, transaction
from router.archive.records import ArchivedConversation, ArchivedHead, Erased, Sought
from router.audit.records import Page
from router.domain.conversation import Message

ARCHIVE_FILE = "archive.sqlite3"
ERASED_TOGETHER = 200
"""Conversations one transaction erases."""

T = TypeVar("T")


class Archive:
    """One database, opened when it is first needed, used by one thread of this process; others may beside it.

    Every method raises `ArchiveError` where it cannot be read or written.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        self._here = threading.local()

    async def keep(self, pages: Sequence[Page]) -> None:
        """Write a conversation, read whole in these pages. Durable when it returns; again, it is replaced."""
        await self._run(lambda connection: writing.keep(connection, pages))

    async def conversation(self, conversation_id: str) -> ArchivedConversation | None:
        """One conversation, or None."""
        return await self._run(lambda connection: reading.load(connection, conversation_id))

    async def head(self, conversation_id: str) -> ArchivedHead | None:
        """One conversation at a glance, or None."""
        return await self._run(lambda connection: reading.load_head(connection, conversation_id))

    async def transcript(
        self, conversation_id: str, *, after_sequence: int = 0, before_sequence: int | None = None, limit: int
    ) -> list[Message]:
        """Messages in the conversation's order, with their attempts.

        The first ones above `after_sequence`, or the last ones below `before_sequence` (0: the last of all).
        """
        if before_sequence is None:
            return await self._run(lambda one: reading.load_messages(one, conversation_id, after_sequence, limit))
        before = before_sequence
        return await self._run(lambda one: reading.load_messages_before(one, conversation_id, before, limit))

    async def message(self, message_id: str) -> Message | None:
        """One message with its attempts, or None."""
        return await self._run(lambda connection: reading.load_message(connection, message_id))

    async def by_reference(self, reference: str) -> str:
        """The id of the newest conversation with this reference, or ''."""
        sql = "SELECT id FROM conversations WHERE reference = ? ORDER BY closed_at DESC LIMIT 1"
        return await self._run(lambda connection: str((connection.ask(sql, reference) or [("",)])[0][0]))

    async def ids_of(self, customer_id: str) -> list[str]:
        """Ids of all of a customer's conversations."""
        return await self._run(lambda connection: reading.ids_of(connection, customer_id))

    async def find(
        self, sought: Sought, *, before: tuple[float, str] | None = None, limit: int = 50
    ) -> list[ArchivedHead]:
        """Conversations closed last first; those closed before one that is named by (when it closed, id)."""
        return await self._run(lambda connection: reading.find(connection, sought, before, limit))

    async def referred(self, hashes: Sequence[str]) -> set[str]:
        """Which of these files (SHA-256) archived conversations refer to."""
        return await self._run(lambda connection: reading.referred(connection, hashes))

    async def erase(self, customer_id: str, places: Collection[str] = ()) -> Erased:
        """Remove everything of a customer, and what was held from `places`.

        From a SQLite file it goes at once, with what its free pages and its log show; a server does that by itself.
        """
        ids: list[str] = []
        files: set[str] = set()
        one = await self._run(lambda connection: writing.erase_held(connection, places))
        while True:
            ids += one.conversations
            files |= one.files
            one = await self._run(lambda connection: writing.erase(connection, customer_id, ERASED_TOGETHER))
            if not one.conversations:
                break
        await self._run(self.database.scrub, in_transaction=False)
        return Erased(tuple(ids), frozenset(files))

    async def check(self) -> str:
        """Which database it is and how many conversations it holds, for people."""
        ((count,),) = await self._run(lambda connection: connection.ask("SELECT count(*) FROM conversations"))
        return f"{self.database.words}: {count} conversations"

    async def is_durable(self) -> bool:
        """Whether what it acknowledged is on its disk."""
        if not self.database.is_remote:
            return True
        return await self._run(lambda connection: connection.ask("SHOW fsync") == [("on",)])

    async def close(self) -> None:
        """Let go of it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
        self._thread.shutdown()

    async def _run(self, work: Callable[[Connection], T], *, in_transaction: bool = True) -> T:
        """One transaction. Cancelling the caller does not cut it short: the thread finishes it."""

        def run() -> T:
            try:
                return self._once_more(work, in_transaction)
            except self.database.faults as error:
                self._let_go()
                raise ArchiveError(
                    f"The archive {self.database.words} cannot be used: {_short(error)}. Nothing was removed from "
                    "Redis. Check the disk or the server, and who may write there."
                ) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _once_more(self, work: Callable[[Connection], T], in_transaction: bool) -> T:
        """A connection that stood idle may have been ended by the server: the same again over a new one.

        All our work may be done twice.
        """
        had = getattr(self._here, "connection", None) is not None
        try:
            return self._on_connection(work, in_transaction)
        except self.database.faults:
            if not had or not self.database.is_remote:
                raise
            self._let_go()
            return self._on_connection(work, in_transaction)

    def _on_connection(self, work: Callable[[Connection], T], in_transaction: bool) -> T:
        connection: Connection | None = getattr(self._here, "connection", None)
        if connection is None:
            connection = self._here.connection = self.database.open()
        if not in_transaction:
            return work(connection)
        with transaction(connection):
            return work(connection)

    def _let_go(self) -> None:
        connection: Connection | None = getattr(self._here, "connection", None)
        self._here.connection = None
        if connection is not None:
            with suppress(*self.database.faults):  # it is broken, and we are done with it
                connection.driver.close()


def _short(error: BaseException) -> str:
    """The server's own sentence where there is one, else the driver's.

    PostgreSQL's errors are dictionaries of fields (documentation, section 55.8); the driver may stumble over the
    connection that the server closed with it, and the dictionary is what stood behind that.
    """
    behind: BaseException | None = error
    while behind is not None:
        first = behind.args[0] if behind.args else ""
        if isinstance(first, dict) and first.get("M"):
            return str(first["M"])[:300]
        behind = behind.__context__
    return str(error)[:300] or type(error).__name__
