"""Mail from an IMAP mailbox: IDLE, a durable cursor, back-fill after an outage."""

import asyncio
import hashlib
import json
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import ParamSpec, TypeVar

import structlog
from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError, LoginError

from channels.contract import Accept
from channels.email.imap_settings import ImapSettings
from channels.email.imap_wire import BoundedClient, Budget, ask
from channels.email.oauth import TokenSource
from channels.errors import EndpointMisconfigured, EndpointUnavailable
from channels.messages import Event, InboundMessage
from channels.tools import Tools
from channels.wire.mail_parse import Envelope, Reading, UnreadableMail, parse_mail
from health.report import Direction, Report, Status

CONNECT_S = 10.0
ANSWER_S = 30.0
"""For one answer of the server; a mail of 35 MB must come through within it, a piece at a time."""
AWAY_MARGIN_S = 5.0
"""How much earlier than we last looked the server's clock may date what came after."""
CURSOR_TTL_S = 30 * 86_400.0
SEEN_TTL_S = 30 * 86_400.0
BATCH_MAX = 100
"""Mails listed at once; each is fetched, accepted and remembered before the next."""
REREAD_MARGIN_S = 86_400.0
BACKOFF_MAX_S = 30.0
REPORT_TTL_S = 180.0
TRIES_MAX = 3
"""Of one mail that cannot be taken for a reason no waiting mends; then the next one is read."""
LEFT_MAX = 3
"""Mails left behind with none taken in between: beyond, it is us, and everything waits."""
FAILING_MAX = 1_000
"""Such mails remembered; beyond, their tries begin anew."""
UNTAKABLE = (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Such reasons: faults of ours, or of what it holds."""
UID_MAX = 2**32 - 1
"""RFC 3501, section 2.3.1.1: a UID and a UIDVALIDITY are 32 bits, not zero."""
LITERALS_BESIDE = 1_000_000
"""Octets of literals that an answer may hold beside the mail that was asked for."""

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Cursor:
    """How far a folder is read."""

    uidvalidity: int
    uid: int
    """The last one accepted; -1: nothing yet under this numbering."""
    seen_at: float
    """Until when we could read: unix seconds."""


@dataclass(slots=True)
class _Session:
    """One connection with the folder open, and the thread it is used from."""

    client: IMAPClient
    thread: ThreadPoolExecutor
    budget: Budget
    connected_at: float
    uidvalidity: int
    uidnext: int
    """0: the server does not say."""
    idles: bool

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the blocking client in its thread."""
        self.budget.renew()
        return await asyncio.get_running_loop().run_in_executor(self.thread, partial(ask, call, *args, **kwargs))


class ImapListener:
    """Reads one mailbox; each mail is accepted before the cursor passes it."""

    def __init__(self, settings: ImapSettings, reading: Reading, tools: Tools) -> None:
        self._settings = settings
        self._reading = reading
        self._tools = tools
        oauth2 = settings.oauth2
        self._tokens = TokenSource(oauth2, tools.http, tools.clock) if oauth2 is not None else None
        self._key = "imap-cursor:" + hashlib.sha256(f"{settings.username} {settings.folder}".encode()).hexdigest()
        self._is_down = False
        self._failing: dict[int, int] = {}
        """How often a mail could not be taken, by UID."""
        self._left = 0

    async def listen(self, accept: Accept) -> None:
        """Read until cancelled, reconnecting with backoff (0.5 s to 30 s)."""
        wait_s = 0.5
        while True:
            started = self._tools.clock.monotonic()
            [ended] = await asyncio.gather(self._read(accept), return_exceptions=True)
            if isinstance(ended, OSError | IMAPClientError | EndpointUnavailable | EndpointMisconfigured):
                self._say_down(ended)
            else:  # a mail that cannot be accepted now must not end the mailbox; no traceback, it would hold the mail
                log.warning("mailbox.read_failed", endpoint=self._reading.endpoint, error=type(ended).__name__)
            if self._tools.clock.monotonic() - started > BACKOFF_MAX_S:
                wait_s = 0.5
            await self._tools.clock.sleep(wait_s * random.uniform(0.8, 1.2))
            wait_s = min(wait_s * 2, BACKOFF_MAX_S)

    async def _read(self, accept: Accept) -> None:
        async with self._connect() as session:
            cursor, since = await self._load_cursor(session)
            gap_from = cursor.seen_at
            while True:
                cursor = await self._take_new(session, cursor, since, gap_from, accept)
                self._say_up()
                await self._wait_for_more(session)
                cursor = replace(cursor, seen_at=self._tools.clock.now())
                await self._save(cursor)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[_Session]:
        token = await self._tokens.fetch() if self._tokens is not None else ""
        line = _Line(self._settings, token)
        # One thread a connection: one that is stuck never holds up the next.
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="imap")
        loop = asyncio.get_running_loop()
        try:
            try:
                client = await loop.run_in_executor(thread, partial(ask, line.open))
            except LoginError:
                if self._tokens is not None:
                    self._tokens.forget(token)
                raise
            session = _Session(client, thread, line.budget, self._tools.clock.now(), 0, 0, idles=False)
            folder = await session.run(client.select_folder, self._settings.folder, True)
            session.idles = await session.run(client.has_capability, "IDLE")
            session.uidvalidity = _number(folder.get(b"UIDVALIDITY"), "UIDVALIDITY")
            session.uidnext = _number(folder[b"UIDNEXT"], "UIDNEXT") if b"UIDNEXT" in folder else 0
            yield session
        finally:
            line.hang_up()
            thread.submit(line.close)
            thread.shutdown(wait=False)

    async def _load_cursor(self, session: _Session) -> tuple[_Cursor, float]:
        """How far we are, and from when to read if the numbers of the folder say nothing to us."""
        saved = await self._tools.store.get(self._key)
        if saved is None:
            since = session.connected_at - self._settings.first_read_days * 86_400.0
            return _Cursor(session.uidvalidity, -1, 0.0), since
        known = _Cursor(**json.loads(saved))
        if known.uidvalidity != session.uidvalidity:
            log.warning("mailbox.renumbered", endpoint=self._reading.endpoint)
            known = _Cursor(session.uidvalidity, -1, known.seen_at)
        elif known.uid >= session.uidnext > 0:
            # Past the end: the folder was set back, or a number we believed was false. Later mail would never be read.
            log.warning("mailbox.ended_before_cursor", endpoint=self._reading.endpoint, uid=known.uid)
            known = _Cursor(session.uidvalidity, -1, known.seen_at)
        return known, known.seen_at - REREAD_MARGIN_S

    async def _take_new(
        self, session: _Session, cursor: _Cursor, since: float, gap_from: float, accept: Accept
    ) -> _Cursor:
        """Accept what is new, in order; the cursor passes each mail once it is durable."""
        rereading = cursor.uid < 0
        uids = await session.run(_list_after, session.client, cursor.uid, since)
        for start in range(0, len(uids), BATCH_MAX):
            batch = uids[start : start + BATCH_MAX]
            listed = await session.run(session.client.fetch, batch, ["INTERNALDATE", "RFC822.SIZE"])
            for uid in batch:
                if uid in listed:  # else deleted meanwhile
                    try:
                        await self._take(session, uid, listed[uid], accept, gap_from=gap_from, rereading=rereading)
                    except UNTAKABLE as error:
                        if not self._gives_up(uid, error):
                            raise
                if not rereading:
                    cursor = replace(cursor, uid=uid)
                    await self._save(cursor)
        if rereading:  # only now: broken off in the midst, all of it is read again
            cursor = replace(cursor, uid=max([0, *uids, session.uidnext - 1]))
            await self._save(cursor)
        return cursor

    def _gives_up(self, uid: int, error: Exception) -> bool:
        """Whether this mail has been tried often enough. It stays in the mailbox, where a person finds it."""
        if len(self._failing) >= FAILING_MAX:
            self._failing.clear()
        tries = self._failing.get(uid, 0) + 1
        if tries < TRIES_MAX or (tries == TRIES_MAX and self._left >= LEFT_MAX):
            self._failing[uid] = min(tries, TRIES_MAX - 1)
            return False
        self._failing[uid] = tries
        if tries == TRIES_MAX:
            self._left += 1
            # No traceback: its variables hold the mail.
            log.error("mail.left_behind", endpoint=self._reading.endpoint, uid=uid, error=type(error).__name__)
        return True

    async def _take(
        self,
        session: _Session,
        uid: int,
        listed: Mapping[bytes, object],
        accept: Accept,
        *,
        gap_from: float,
        rereading: bool,
    ) -> None:
        size_max = self._settings.message_max_bytes
        size, arrived = listed.get(b"RFC822.SIZE", 0), listed.get(b"INTERNALDATE")
        arrived_at = arrived.timestamp() if isinstance(arrived, datetime) else session.connected_at
        fetched = await session.run(session.client.fetch, [uid], [f"BODY.PEEK[]<0.{size_max}>"])
        raw = fetched.get(uid, {}).get(b"BODY[]<0>")
        if not isinstance(raw, bytes):
            return  # deleted meanwhile
        envelope = Envelope(
            received_at=max(arrived_at, 0.0),
            taken_at=session.connected_at,
            away_from=gap_from - AWAY_MARGIN_S,
            truncated=isinstance(size, int) and size > size_max,
        )
        try:
            event = await asyncio.to_thread(parse_mail, raw, envelope, self._reading)
        except UnreadableMail:
            log.warning("mail.dropped", endpoint=self._reading.endpoint, reason="no_sender", uid=uid)
            return
        if event is None:
            return
        mark = (
            "imap-seen:"
            + hashlib.sha256(raw if _natural_key(event) == "" else _natural_key(event).encode()).hexdigest()
        )
        if rereading and await self._tools.store.get(mark) is not None:
            return
        await accept(event)
        self._left = 0
        await self._tools.store.put(mark, "1", SEEN_TTL_S)
        log.info("mail.received", endpoint=self._reading.endpoint, outcome="accepted", octets=len(raw))

    async def _wait_for_more(self, session: _Session) -> None:
        if session.idles:
            await session.run(_idle, session.client, session.budget, self._settings.idle_s)
        else:
            await self._tools.clock.sleep(self._settings.poll_s)

    async def _save(self, cursor: _Cursor) -> None:
        await self._tools.store.put(self._key, json.dumps(asdict(cursor)), CURSOR_TTL_S)

    def _say_up(self) -> None:
        if self._is_down:
            log.info("mailbox.came_back", endpoint=self._reading.endpoint)
        self._is_down = False
        self._report(Status.UP, "reading", "the mailbox is being read")

    def _say_down(self, error: Exception) -> None:
        match error:
            case LoginError() | EndpointMisconfigured():
                reason, words = "login_refused", "the mailbox refuses our login"
            case ssl.SSLCertVerificationError():
                reason, words = "certificate_invalid", "the mailbox's certificate is not valid"
            case _:
                reason, words = "unreachable", f"the mailbox cannot be read: {type(error).__name__}"
        if not self._is_down:
            log.warning("mailbox.went_down", endpoint=self._reading.endpoint, reason=reason)
        self._is_down = True
        self._report(Status.DOWN, reason, words)

    def _report(self, status: Status, reason: str, words: str) -> None:
        self._tools.report(
            Report(
                endpoint=self._reading.endpoint,
                direction=Direction.IN,
                status=status,
                reason=reason,
                words=words,
                at=self._tools.clock.now(),
                ttl_s=max(REPORT_TTL_S, 3 * self._settings.idle_s),
                source="imap",
            )
        )


class _Line:
    """A connection that can be cut from another thread than the one that is blocked in it."""

    def __init__(self, settings: ImapSettings, token: str) -> None:
        self._settings = settings
        self._token = token
        self.budget = Budget(settings.message_max_bytes + LITERALS_BESIDE)
        self._client: IMAPClient | None = None
        self._cut = threading.Event()

    def open(self) -> IMAPClient:
        """Connect and log in; blocks."""
        settings = self._settings
        context = None
        if settings.tls != "none":
            context = ssl.create_default_context(cafile=settings.ca_file)
        client = BoundedClient(
            settings.host,
            settings.port,
            tls=context if settings.tls == "tls" else None,
            connect_s=CONNECT_S,
            answer_s=ANSWER_S,
            budget=self.budget,
        )
        self._client = client
        if self._cut.is_set():
            raise ConnectionAbortedError("cut while connecting")
        client.normalise_times = False
        if settings.tls == "starttls":
            client.starttls(context)
        if settings.password is not None:
            client.login(settings.username, settings.password.get_secret_value())
        else:
            client.oauth2_login(settings.username, self._token)
        return client

    def hang_up(self) -> None:
        """Wake whoever is blocked; never blocks."""
        self._cut.set()
        if self._client is not None:
            # Of the plain socket below TLS: SSLSocket.shutdown would pull the TLS state from under the reader.
            with suppress(OSError):
                socket.socket.shutdown(self._client.socket(), socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket, in the thread that used it."""
        if self._client is not None:
            with suppress(OSError, IMAPClientError):
                self._client.shutdown()


def _natural_key(event: Event) -> str:
    """What makes a message the same one: not its Message-ID alone. Empty for a receipt, which may come twice."""
    if not isinstance(event, InboundMessage):
        return ""
    return f"{event.sender.value}|{event.unverified}|{event.vendor_id}"


def _list_after(client: IMAPClient, uid: int, since: float) -> list[int]:
    """UIDs above `uid`, rising; with `uid` -1, those that arrived since a day (the server's, hence a day's margin)."""
    client._imap.response("EXISTS")  # forget what we are about to see anyway
    if uid < 0:
        day = datetime.fromtimestamp(max(since, 0.0), UTC).date() - timedelta(days=1)
        return sorted({_number(found, "UID") for found in client.search(["SINCE", day])})
    # `n:*` always names the last mail, also one below n (RFC 3501, section 6.4.8).
    found = {_number(one, "UID") for one in client.search(["UID", f"{min(uid + 1, UID_MAX)}:*"])}
    return sorted(one for one in found if one > uid)


def _number(value: object, what: str) -> int:
    """A number that may stand there. One beyond would be remembered, and hide all mail that comes later."""
    if not isinstance(value, int) or not 0 < value <= UID_MAX:
        raise EndpointUnavailable("answer_garbled", f"the mailbox's server gives no {what} that can be one")
    return value


def _idle(client: IMAPClient, budget: Budget, seconds: float) -> None:
    """Wait until the server tells of something, at most `seconds`; blocks."""
    budget.renew(extra_s=seconds)
    client.idle()
    # Mail that was announced while we listed is not announced again.
    if client._imap.response("EXISTS")[1] == [None] and not _has_unread(client):
        client.idle_check(timeout=seconds)
    client.idle_done()


def _has_unread(client: IMAPClient) -> bool:
    """Whether something came in one packet with what was read: `idle_check` looks at the socket alone, and waits."""
    sock = client.socket()
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        return bool(client._imap.file.peek(1))
    except OSError:
        return False  # nothing there: what a TLS socket says instead of returning nothing
    finally:
        sock.settimeout(timeout)
