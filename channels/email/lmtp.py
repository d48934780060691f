"""The built-in LMTP or SMTP listener: answers 250 only once the mail is durable."""

import asyncio
import logging
import random
import re
import socket
import time
from types import SimpleNamespace
from typing import Annotated, Literal, cast

import structlog
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import BaseModel, ConfigDict, Field

from channels.contract import Accept
from channels.tools import Tools
from channels.wire.mail_address import normalise_mailbox
from channels.wire.mail_parse import Envelope as Delivery
from channels.wire.mail_parse import Reading, UnreadableMail, parse_mail
from health.report import Direction, Report, Status

CONNECTIONS_MAX = 100
RECIPIENTS_MAX = 50
ACCEPT_S = 30.0
"""Longest wait for a mail to become durable; then 451, and the server tries again."""
IDLE_S = 300.0
"""RFC 5321, section 4.5.3.2.7: five minutes for the next command."""
LINE_MAX = 100_000
"""Octets in one line. RFC 5321 says 1,000; real mail does not keep to it, and what is refused is lost to us."""
OFF_THREAD_BYTES = 50_000
"""Mails larger than this are read beside the event loop."""
REPORT_S = 30.0

log = structlog.get_logger(__name__)
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class LmtpSettings(BaseModel):
    """Where our mail server delivers to us."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9_:][A-Za-z0-9._:-]{0,252}$")] = "127.0.0.1"
    """Loopback unless a firewall lets only our own mail server in: whoever reaches it can write as anybody."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8024
    protocol: Literal["lmtp", "smtp"] = "lmtp"
    message_max_bytes: Annotated[int, Field(ge=10_000, le=150_000_000)] = 35_000_000
    """Larger mails are refused (552)."""


class LmtpListener:
    """Takes mail for one endpoint."""

    def __init__(self, settings: LmtpSettings, reading: Reading, domains: frozenset[str], tools: Tools) -> None:
        self._settings = settings
        self._reading = reading
        self._domains = domains
        self._tools = tools
        self.bound = asyncio.Event()
        """Set while the port is open."""
        self.port = settings.port
        """The port in use once bound; settings may say 0: any."""

    async def listen(self, accept: Accept) -> None:
        """Take mail until cancelled; a port that cannot be opened is reported and tried again."""
        # At info it logs senders and recipients, line by line; at warning every line it takes for a bad command, which
        # may be a piece of somebody's mail. What ends a delivery we log ourselves.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        logging.getLogger("mail.debug").setLevel(logging.CRITICAL)
        wait_s = 0.5
        while True:
            try:
                await self._serve(accept)
            except OSError as error:
                self._report(Status.DOWN, "port_unavailable", f"the mail listener's port cannot be opened: {error}")
                log.warning("mail_listener.failed", endpoint=self._reading.endpoint, reason=str(error.errno))
            await self._tools.clock.sleep(wait_s * random.uniform(0.8, 1.2))
            wait_s = min(wait_s * 2, 30.0)

    async def _serve(self, accept: Accept) -> None:
        loop = asyncio.get_running_loop()
        take = _Take(accept, self._reading, self._domains, self._tools)
        sessions: set[asyncio.BaseTransport] = set()
        kind = _LmtpSession if self._settings.protocol == "lmtp" else _SmtpSession

        def begin() -> SMTP:
            return kind(take, sessions, self._settings.message_max_bytes)

        server = await loop.create_server(begin, self._settings.host, self._settings.port, reuse_address=True)
        try:
            self.port = server.sockets[0].getsockname()[1]
            self.bound.set()
            while True:
                self._report(Status.UP, "listening", "the mail listener takes deliveries")
                await self._tools.clock.sleep(REPORT_S)
        finally:
            self.bound.clear()
            server.close()
            for transport in list(sessions):
                transport.close()
            await server.wait_closed()

    def _report(self, status: Status, reason: str, words: str) -> None:
        self._tools.report(
            Report(
                endpoint=self._reading.endpoint,
                direction=Direction.IN,
                status=status,
                reason=reason,
                words=words,
                at=self._tools.clock.now(),
                ttl_s=REPORT_S * 3,
                source="lmtp",
            )
        )


class _Take:
    """What aiosmtpd asks at each step of a delivery."""

    def __init__(self, accept: Accept, reading: Reading, domains: frozenset[str], tools: Tools) -> None:
        self._accept = accept
        self._reading = reading
        self._domains = domains
        self._tools = tools

    async def take_recipient(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Answer RCPT: only our own domains, a bounded number."""
        try:
            domain = normalise_mailbox(address).rpartition("@")[2]
        except ValueError:
            return "550 5.1.3 not a mail address"
        if domain not in self._domains:
            return "550 5.7.1 we take no mail for that domain"
        if len(envelope.rcpt_tos) >= RECIPIENTS_MAX:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def take_mail(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Answer the final dot: 250 only once the event is durable, 451 to have it delivered again."""
        raw = bytes(envelope.original_content or b"")
        if _BARE.search(raw):  # SMTP smuggling: some servers end a mail at a bare line feed, others do not
            return "554 5.6.0 a line ends in a bare CR or LF"
        delivery = Delivery(
            received_at=self._tools.clock.now(),
            recipients=tuple(envelope.rcpt_tos),
            null_sender=envelope.mail_from in {"", "<>"},
        )
        started = time.monotonic()
        outcome = await self._accept_mail(raw, delivery)
        log.info(
            "mail.received",
            endpoint=self._reading.endpoint,
            outcome=outcome[:9],
            octets=len(raw),
            took_ms=round((time.monotonic() - started) * 1000, 1),
        )
        return outcome

    async def _accept_mail(self, raw: bytes, delivery: Delivery) -> str:
        try:
            if len(raw) > OFF_THREAD_BYTES:
                event = await asyncio.to_thread(parse_mail, raw, delivery, self._reading)
            else:
                event = parse_mail(raw, delivery, self._reading)
            if event is not None:
                async with asyncio.timeout(ACCEPT_S):
                    await self._accept(event)
        except UnreadableMail:
            return "550 5.6.0 the mail names no sender"
        return "250 2.0.0 stored"

    async def answer_failure(self, error: Exception) -> str:
        """Answer whatever kept a mail from being durable: the sender must keep it and try again."""
        # No traceback: its variables hold the mail.
        log.warning("mail.refused", endpoint=self._reading.endpoint, error=type(error).__name__)
        return "451 4.3.0 not stored, try again"


class _SmtpSession(SMTP):
    """One connection, counted."""

    line_length_limit = LINE_MAX

    def __init__(self, take: _Take, sessions: set[asyncio.BaseTransport], size_max: int) -> None:
        # The names aiosmtpd looks for.
        hooks = SimpleNamespace(
            handle_RCPT=take.take_recipient, handle_DATA=take.take_mail, handle_exception=take.answer_failure
        )
        super().__init__(
            hooks,
            data_size_limit=size_max,
            enable_SMTPUTF8=True,
            hostname=socket.gethostname(),
            ident="Throughline",
            timeout=IDLE_S,
            loop=asyncio.get_running_loop(),
        )
        self._sessions = sessions
        self._counted: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many already."""
        self._counted = transport
        self._sessions.add(transport)
        super().connection_made(transport)
        if len(self._sessions) > CONNECTIONS_MAX:
            # Not isinstance: uvloop's transports inherit from nothing.
            stream = cast("asyncio.WriteTransport", transport)
            stream.write(b"421 4.3.2 too many connections\r\n")
            stream.close()

    async def handle_exception(self, error: Exception) -> str:
        """Forget the mail that failed, so that the client can begin again."""
        self.envelope = Envelope()
        return await super().handle_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        if self._counted is not None:
            self._sessions.discard(self._counted)
        super().connection_lost(error)


class _LmtpSession(_SmtpSession, LMTP):
    """LMTP: one answer to the final dot for each recipient taken (RFC 2033, section 4.2)."""

    _answers_due = 0

    async def push(self, status: str | bytes) -> None:
        """Send an answer, once a recipient when it answers the final dot."""
        line = status.decode() if isinstance(status, bytes) else status
        due, self._answers_due = self._answers_due, 0
        if line.startswith("354") and self.envelope is not None:
            self._answers_due = len(self.envelope.rcpt_tos)
        await super().push("\r\n".join([line] * max(due, 1)))
