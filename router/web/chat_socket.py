"""One browser's WebSocket: numbered and acknowledged both ways, resumed from where the browser was."""

import asyncio
import contextlib
import json
from collections.abc import Mapping

import structlog
from aiohttp import WSMsgType, web
from pydantic import ValidationError

from channels.chat.session import (
    OUTBOX_TTL_S,
    OutboxEntry,
    new_session,
    outbox_key,
    read_session,
    sign_session,
    talk_key,
)
from channels.messages import Address, Channel, InboundMessage, ReceiptEvent, ReceiptState
from channels.text import clean_text
from router.switchboard import ConversationView, NotFound, SwitchboardError
from router.web.chat_details import leave_details, left_by
from router.web.chat_frames import FRAMES, Details, Hello, Ping, Say, Seen
from router.web.chat_hub import STORE_TROUBLE, Allowance, ChatHub
from router.web.chat_view import Elsewhere, find_conversation, place_of, read_lines

HELLO_WITHIN_S = 10.0
SEND_WITHIN_S = 10.0
"""A browser that does not read for this long is cut off; it comes back and resumes."""
ACCEPT_WITHIN_S = 10.0
BELL_WITHIN_S = 5.0
"""A bell that was lost costs no more than this."""
WINDOW = 32
"""Messages on their way to one browser that it has not acknowledged."""
WAIT_S = 2.0
"""What a browser is asked to wait when the store cannot take its words."""
FRAMES_PER_S = 20.0
FRAMES_BURST = 120.0
"""Acknowledgements and pings; words have an allowance of their own."""
DETAILS_MAX = 5
"""Forms one socket may send."""
HISTORY_FRAME_MAX = 48 * 1024

log = structlog.get_logger()


class ChatSocket:
    """One open socket. `run` returns when it is closed, from either end."""

    def __init__(self, hub: ChatHub, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.hub = hub
        self.session = ""
        self.conversation_id = ""
        self._socket = socket
        self._transport = request.transport
        self._remote = request.remote or ""
        self._locale = ""
        self._number = 0
        self._unseen: dict[int, str] = {}
        self.rung = asyncio.Event()
        """Set when there may be something to deliver."""
        self._place: Mapping[str, object] = {}
        self._frames = Allowance(FRAMES_PER_S, FRAMES_BURST, hub.clock.monotonic())
        self._forms = 0
        self._left: tuple[Elsewhere, ...] = ()

    async def run(self) -> None:
        """Greet, replay, then listen and deliver until the socket closes."""
        self.hub.come(self)
        try:
            hello = await self._read_hello()
            if hello is None:
                await self.leave("say hello first", code=1008)
            else:
                await self._talk(hello)
        finally:
            self.hub.part(self)

    async def _talk(self, hello: Hello) -> None:
        token = read_session(self.hub.secret, self.hub.door.endpoint, hello.token, self.hub.clock.now())
        self.session = token or new_session()
        self._locale = hello.locale
        await self.hub.join(self)
        deliver: asyncio.Task[None] | None = None
        try:
            if token:
                self._number = await self._cursor(hello.cursor)
            await self._welcome(resumed=token is not None)
            deliver = asyncio.create_task(self._deliver(), name="chat delivery")
            await self._listen()
        except STORE_TROUBLE:
            await self.leave("try again", code=1013)
        finally:
            if deliver is not None:
                deliver.cancel()
                await asyncio.gather(deliver, return_exceptions=True)

    async def leave(self, why: str, *, code: int = 1001) -> None:
        """Close, politely if the browser listens."""
        try:
            async with asyncio.timeout(1):
                await self._socket.close(code=code, message=why.encode())
        except TimeoutError:
            self.cut()

    async def tell(self, frame: Mapping[str, object]) -> None:
        """Send one frame; a browser that does not take it in time is cut off."""
        try:
            async with asyncio.timeout(SEND_WITHIN_S):
                await self._socket.send_str(json.dumps(frame, ensure_ascii=False, separators=(",", ":")))
        except TimeoutError:
            log.info("chat.browser_cut_off", endpoint=self.hub.door.endpoint, reason="slow")
            self.cut()
        except ConnectionError:
            pass  # it is gone, which `run` notices by itself; nothing is lost, for nothing was acknowledged

    async def tell_place(self) -> None:
        """Say where the conversation is, if that is news."""
        view = None
        with contextlib.suppress(*STORE_TROUBLE, SwitchboardError):
            view = await self.hub.switchboard.conversation(self.conversation_id)
        if view is not None:
            await self._tell_place(place_of(view, self.hub.door.endpoint, self.session, self._left).frame())

    async def _tell_place(self, frame: dict[str, object]) -> None:
        if frame != self._place:
            self._place = frame
            await self.tell(frame)

    def cut(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    async def _read_hello(self) -> Hello | None:
        with contextlib.suppress(TimeoutError, ValidationError):
            async with asyncio.timeout(HELLO_WITHIN_S):
                message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                frame = FRAMES.validate_json(message.data)
                return frame if isinstance(frame, Hello) else None
        return None

    async def _welcome(self, *, resumed: bool) -> None:
        door = self.hub.door
        await self.tell(
            {
                "type": "welcome",
                "token": sign_session(self.hub.secret, door.endpoint, self.session, self.hub.clock.now()),
                "resumed": resumed,
                "cursor": self._number,
                "title": door.title,
                "organisation": self.hub.organisation,
                "ask_details": door.ask_details,
            }
        )
        if self.hub.trouble:
            await self.tell({"type": "trouble", "on": True})
        view = await self._conversation() if resumed else None
        if view is None:
            return
        self.conversation_id = view.conversation.id
        self._left = await left_by(self.hub.store, self.session)
        lines = await read_lines(self.hub.switchboard, view, door.endpoint)
        while lines:
            taken, size = 0, 0
            while taken < len(lines) and (size := size + _size(lines[taken])) <= HISTORY_FRAME_MAX:
                taken += 1
            part, lines = lines[: max(taken, 1)], lines[max(taken, 1) :]
            await self.tell({"type": "history", "lines": part})
        await self._tell_place(place_of(view, door.endpoint, self.session, self._left).frame())

    async def _cursor(self, claimed: int) -> int:
        """Where to go on. Where the outbox ran out, or was lost, everything is new."""
        if claimed and await self.hub.store.read_after(outbox_key(self.session), claimed - 1, 1):
            return claimed
        return 0

    async def _conversation(self) -> ConversationView | None:
        """The one this session last spoke in, open or not; else the one that was brought to it."""
        with contextlib.suppress(NotFound):
            if last := await self.hub.store.get(talk_key(self.session)):
                return await self.hub.switchboard.conversation(last)
        return await find_conversation(self.hub.switchboard, self.hub.door.endpoint, self.session)

    async def _remember(self, conversation_id: str) -> None:
        if conversation_id and conversation_id != self.conversation_id:
            self.conversation_id = conversation_id
            with contextlib.suppress(*STORE_TROUBLE):
                await self.hub.store.put(talk_key(self.session), conversation_id, OUTBOX_TTL_S)

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                await self.leave("text frames only", code=1003)
                return
            try:
                frame = FRAMES.validate_json(message.data)
            except ValidationError:
                await self.leave("malformed frame", code=1008)
                return
            if not isinstance(frame, Say) and self._frames.take(self.hub.clock.monotonic()):
                await self.leave("too many frames", code=1008)
                return
            match frame:
                case Say():
                    await self._say(frame)
                case Seen():
                    await self._seen(frame.number)
                case Details():
                    await self._details(frame)
                case Ping():
                    await self.tell({"type": "pong"})
                case Hello():
                    await self.leave("said hello already", code=1008)

    async def _say(self, say: Say) -> None:
        wait_s = self.hub.may_say(self.session)
        if not wait_s and not self.conversation_id:
            wait_s = self.hub.may_begin(self._remote)
        if wait_s:
            await self.tell({"type": "wait", "id": say.id, "after_s": round(wait_s, 2)})
            return
        text = clean_text(say.text).strip()
        if not text:
            await self.tell({"type": "refused", "id": say.id, "reason": "empty", "words": "there is no text in it"})
            return
        now = self.hub.clock.now()
        event = InboundMessage(
            endpoint=self.hub.door.endpoint,
            vendor_id=f"{self.session}:{say.id}",
            sender=Address(Channel.CHAT, self.session),
            text=text,
            sent_at=now,
            sender_name=" ".join(clean_text(say.name).split()),
            locale=self._locale,
        )
        try:
            async with asyncio.timeout(ACCEPT_WITHIN_S):
                accepted = await self.hub.switchboard.accept(event)
        except (*STORE_TROUBLE, TimeoutError) as fault:
            log.warning("chat.message_not_taken", endpoint=self.hub.door.endpoint, reason=type(fault).__name__)
            await self.tell({"type": "wait", "id": say.id, "after_s": WAIT_S})
            return
        except SwitchboardError as error:
            await self.tell({"type": "refused", "id": say.id, "reason": error.reason, "words": error.words})
            return
        await self._remember(accepted.conversation_id)
        reference = self._place.get("reference", "")
        taken = {"type": "taken", "id": say.id, "message": accepted.message_id, "at": now, "reference": reference}
        await self.tell(taken)
        if not accepted.duplicate:
            line = {"id": accepted.message_id, "from": "customer", "text": text, "author": "", "at": now, "via": ""}
            await self.hub.show_elsewhere(self, {"type": "history", "lines": [line]})
        await self.tell_place()

    async def _seen(self, number: int) -> None:
        token = self._unseen.get(number)
        if token is not None:
            receipt = ReceiptEvent(
                endpoint=self.hub.door.endpoint,
                state=ReceiptState.DELIVERED,
                at=self.hub.clock.now(),
                token=token,
            )
            try:
                async with asyncio.timeout(ACCEPT_WITHIN_S):
                    await self.hub.switchboard.accept(receipt)
            except (*STORE_TROUBLE, TimeoutError, SwitchboardError) as fault:
                # Not noted: the browser says it again, also after a reload.
                log.warning("chat.receipt_not_taken", endpoint=self.hub.door.endpoint, reason=type(fault).__name__)
                return
            del self._unseen[number]
            self.rung.set()
        elif number > self._number:
            return
        await self.tell({"type": "noted", "number": number})

    async def _details(self, details: Details) -> None:
        self._forms += 1
        if self._forms > DETAILS_MAX:
            await self.tell({"type": "details_refused", "reason": "enough"})
            return
        try:
            refused = await leave_details(
                self.hub.switchboard, self.hub.store, self.hub.door.endpoint, self.session, details, self._locale
            )
            self._left = await left_by(self.hub.store, self.session)
        except (*STORE_TROUBLE, SwitchboardError) as fault:
            log.warning("chat.details_not_taken", endpoint=self.hub.door.endpoint, reason=type(fault).__name__)
            return
        if refused:
            await self.tell({"type": "details_refused", "reason": refused})
            return
        await self.tell({"type": "details_taken"})
        await self.tell_place()

    async def _deliver(self) -> None:
        """Bring what is in the outbox after the browser's cursor, at most `WINDOW` ahead of its acknowledgements."""
        key = outbox_key(self.session)
        while not self._socket.closed:
            self.rung.clear()
            room = WINDOW - len(self._unseen)
            try:
                entries = await self.hub.store.read_after(key, self._number, room) if room > 0 else []
            except STORE_TROUBLE:
                await asyncio.sleep(WAIT_S)
                continue
            for number, text in entries:
                await self._bring(number, text)
            if not entries:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BELL_WITHIN_S):
                        await self.rung.wait()

    async def _bring(self, number: int, text: str) -> None:
        self._number = number
        try:
            entry = OutboxEntry.decode(text)
        except ValueError:
            log.warning("chat.entry_unreadable", endpoint=self.hub.door.endpoint, number=number)
            return
        self._unseen[number] = entry.token
        if not self.conversation_id and entry.conversation.startswith("v"):
            self.conversation_id = entry.conversation
        await self.tell(
            {
                "type": "message",
                "number": number,
                "id": entry.id,
                "kind": entry.kind,
                "text": entry.text,
                "author": entry.author,
                "at": entry.at,
                "reference": entry.reference,
                "late": entry.late,
            }
        )


def _size(line: Mapping[str, object]) -> int:
    return len(json.dumps(line, ensure_ascii=False).encode())
