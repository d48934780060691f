"""One SMPP connection: a window of requests, enquire_link, and what the peer sends."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from channels.wire.smpp import (
    Bind,
    Body,
    MessageResponse,
    Pdu,
    ShortMessage,
    SmppDecodeError,
    decode_pdu,
    encode_pdu,
    take_pdu,
)
from channels.wire.smpp_numbers import Command, CommandStatus

DELIVERIES_MAX = 500
"""deliver_sm taken at once; more are asked to come again."""
LATE_MAX = 1_000
WINDOW_WAIT_S = 1.0
ENQUIRE_ANSWER_S = 5.0
TICK_S, STILL_S = 0.25, 1.0
"""How often we look whether we run, and how long a pause is one."""
CATCH_UP_S = 1.0
"""After a pause: what was sent meanwhile has been read by then."""
CLOSE_S = 1.0
_READ_OCTETS = 64 * 1024
_SEQUENCE_MAX = 0x7FFFFFFF


class NotWritten(Exception):
    """The request certainly did not leave us. The text is the reason."""


class Unanswered(Exception):
    """The request may have been taken: nobody answered in time, or the connection ended first."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What to answer a deliver_sm, and the mark under which its answer is remembered."""

    status: int = CommandStatus.ESME_ROK
    mark: str = ""


@dataclass(slots=True)
class Awake:
    """Notices that this process stood still: what is read then may have come at any moment since."""

    at: float = math.inf
    """When it was last known to run."""
    _behind_s: float = 0.0
    _until: float = -math.inf

    def look(self, now: float) -> float:
        """For how long what is read at `now` may have waited for us, seconds."""
        if now - self.at >= STILL_S:
            self._behind_s, self._until = now - self.at, now + CATCH_UP_S
        self.at = now
        return self._behind_s if now < self._until else 0.0


class Receiver(Protocol):
    """Takes what the message centre delivers."""

    async def take(self, message: ShortMessage, session: str, arrived: float, behind_s: float) -> Taken:
        """Return once it is durable; `arrived` is the event loop's time, and may have been up to `behind_s` earlier."""

    def answered(self, mark: str) -> None:
        """The answer was written."""

    def confirm(self, marks: tuple[str, ...]) -> Coroutine[None, None, None]:
        """The message centre read the answers: it will not deliver these again. Never raises."""


@dataclass(slots=True)
class _Pending:
    command: Command
    answer: asyncio.Future[Pdu]
    note: object


class SmppSession:
    """A connection to a message centre, from the bind to its end. `ended` resolves with the reason."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        receiver: Receiver,
        window: int,
        enquire_link_s: float,
        answered_late: Callable[[object, Pdu], Coroutine[None, None, None]],
    ) -> None:
        self.name = uuid4().hex[:12]
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._writer = writer
        self._receiver = receiver
        self._window = asyncio.Semaphore(window)
        self._enquire_link_s = enquire_link_s
        self._answered_late = answered_late
        self._sequence = 0
        self._pending: dict[int, _Pending] = {}
        self._late: OrderedDict[int, _Pending] = OrderedDict()
        self._unconfirmed: list[str] = []
        self._doubt = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._awake = Awake()
        self._ticking = asyncio.create_task(self._tick())
        self._reading = asyncio.create_task(self._read())
        self._enquiring: asyncio.Task[None] | None = None

    async def bind(self, command: Command, bind: Bind, timeout_s: float) -> Pdu:
        """Bind; with a positive answer, watch the link from now on. Raises NotWritten, Unanswered."""
        answer = await self._exchange(command, bind, timeout_s)
        if answer.status == CommandStatus.ESME_ROK and answer.command is command.response:
            self._enquiring = asyncio.create_task(self._watch())
        return answer

    async def submit(self, message: ShortMessage, timeout_s: float, note: object) -> Pdu:
        """Submit within the window and return the answer, whatever its status.

        An answer that comes after `timeout_s` is handed to `answered_late` with `note`.
        Raises NotWritten, Unanswered, SmppEncodeError.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout(min(WINDOW_WAIT_S, timeout_s)):
                await self._window.acquire()
        except TimeoutError as full:
            self._doubt.set()
            raise NotWritten("window_full") from full
        try:
            return await self._exchange(Command.SUBMIT_SM, message, deadline - asyncio.get_running_loop().time(), note)
        except Unanswered:
            self._doubt.set()
            raise
        finally:
            self._window.release()

    async def enquire(self, timeout_s: float) -> None:
        """Return if the peer answers. Raises NotWritten, Unanswered."""
        marks = tuple(self._unconfirmed)
        await self._exchange(Command.ENQUIRE_LINK, None, timeout_s)
        # The peer reads in order: what was answered before the question has been read.
        del self._unconfirmed[: len(marks)]
        if marks:
            self._begin(self._receiver.confirm(marks))

    async def unbind(self, timeout_s: float) -> None:
        """Part politely, or after `timeout_s` anyway."""
        try:
            await self._exchange(Command.UNBIND, None, timeout_s)
        except (NotWritten, Unanswered):
            pass  # the connection ends either way
        finally:
            await self.close("closed")

    async def close(self, reason: str) -> None:
        """End the connection and everything on it; idempotent."""
        self._end(reason)
        tasks = [self._reading, self._ticking, *self._deliveries]
        if self._enquiring is not None:
            tasks.append(self._enquiring)
        tasks = [task for task in tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()  # a peer that reads nothing may not hold us

    async def _exchange(self, command: Command, body: Body | None, timeout_s: float, note: object = None) -> Pdu:
        if self.ended.done():
            raise NotWritten(self.ended.result())
        if self._writer.is_closing():
            raise NotWritten("connection_lost")
        self._sequence = self._sequence % _SEQUENCE_MAX + 1
        sequence = self._sequence
        raw = encode_pdu(Pdu(command, sequence, body=body))
        pending = _Pending(command, asyncio.get_running_loop().create_future(), note)
        self._pending[sequence] = pending
        self._writer.write(raw)
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                return await pending.answer
        except TimeoutError as late:
            self._keep_for_later(sequence, pending)
            raise Unanswered("no_answer") from late
        except asyncio.CancelledError:
            self._keep_for_later(sequence, pending)
            raise
        finally:
            self._pending.pop(sequence, None)

    def _keep_for_later(self, sequence: int, pending: _Pending) -> None:
        if pending.note is not None:
            self._late[sequence] = pending
            if len(self._late) > LATE_MAX:
                self._late.popitem(last=False)

    async def _read(self) -> None:
        buffer = bytearray()
        reason = "peer_closed"
        try:
            while chunk := await self._reader.read(_READ_OCTETS):
                buffer += chunk
                while (raw := take_pdu(buffer)) is not None:
                    self._take(raw)
        except SmppDecodeError as wrong:
            self._write(Command.GENERIC_NACK, wrong.sequence, wrong.status)
            reason = "bad_length"
        except OSError:
            reason = "connection_lost"
        self._end(reason)

    def _take(self, raw: bytes) -> None:
        try:
            pdu = decode_pdu(raw)
        except SmppDecodeError as wrong:
            if wrong.fatal:
                raise
            # A malformed answer is no answer: its request stays open until its time is up.
            if not raw[4] & 0x80:
                self._write(Command.GENERIC_NACK, wrong.sequence, wrong.status)
            return
        if pdu.command.is_response:
            self._take_answer(pdu)
        elif pdu.command is Command.ENQUIRE_LINK:
            self._write(Command.ENQUIRE_LINK_RESP, pdu.sequence)
        elif pdu.command is Command.UNBIND:
            self._write(Command.UNBIND_RESP, pdu.sequence)
            self._end("peer_unbound")
        elif isinstance(pdu.body, ShortMessage) and pdu.command is Command.DELIVER_SM:
            self._begin_delivery(pdu.sequence, pdu.body)
        else:
            self._write(Command.GENERIC_NACK, pdu.sequence, CommandStatus.ESME_RINVCMDID)

    def _take_answer(self, pdu: Pdu) -> None:
        late = self._late.pop(pdu.sequence, None)
        if late is not None and pdu.command is late.command.response:
            self._begin(self._answered_late(late.note, pdu))
            return
        pending = self._pending.get(pdu.sequence)
        if pending is None or pdu.command not in (pending.command.response, Command.GENERIC_NACK):
            return  # nobody asked, or nobody waits any more
        if not pending.answer.done():
            pending.answer.set_result(pdu)

    def _begin_delivery(self, sequence: int, message: ShortMessage) -> None:
        if len(self._deliveries) >= DELIVERIES_MAX:
            self._write(Command.DELIVER_SM_RESP, sequence, CommandStatus.ESME_RX_T_APPN, MessageResponse())
            return
        arrived = asyncio.get_running_loop().time()
        self._begin(self._deliver(sequence, message, arrived, self._awake.look(arrived)))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _tick(self) -> None:
        while True:
            self._awake.look(asyncio.get_running_loop().time())
            await asyncio.sleep(TICK_S)

    async def _deliver(self, sequence: int, message: ShortMessage, arrived: float, behind_s: float) -> None:
        taken = await self._receiver.take(message, self.name, arrived, behind_s)
        if self._write(Command.DELIVER_SM_RESP, sequence, taken.status, MessageResponse()) and taken.mark:
            self._receiver.answered(taken.mark)
            self._unconfirmed.append(taken.mark)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._enquire_link_s):
                    await self._doubt.wait()
            except TimeoutError:
                pass  # the ordinary case: it is time to ask
            self._doubt.clear()
            try:
                await self.enquire(ENQUIRE_ANSWER_S)
            except (NotWritten, Unanswered):
                self._end("enquire_link_unanswered")
                return

    def _write(self, command: Command, sequence: int, status: int = 0, body: Body | None = None) -> bool:
        if self._writer.is_closing():
            return False
        self._writer.write(encode_pdu(Pdu(command, sequence, status, body)))
        return True

    def _end(self, reason: str) -> None:
        if self.ended.done():
            return
        self.ended.set_result(reason)
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(Unanswered(reason))
        self._writer.close()
