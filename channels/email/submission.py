"""Submission over a few reused SMTP connections; the final dot divides what is certain from what is not."""

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aiosmtplib import SMTP, SMTPException, SMTPResponse, SMTPResponseException, SMTPServerDisconnected
from aiosmtplib.errors import SMTPAuthenticationError, SMTPConnectError, SMTPTimeoutError
from aiosmtplib.protocol import SMTPProtocol

from channels.email.oauth import TokenSource
from channels.email.replies import Stage, failure_of
from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    LocalFault,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    Throttled,
)
from channels.tools import Clock
from channels.wire.mail import Mail

TO_DOT_S = 10.0
"""Everything up to the final dot, connecting included: longer, and the message is certainly not taken."""
AFTER_DOT_S = 60.0
"""For the answer to the final dot. RFC 5321, section 4.5.3.2.6, allows 10 min; nobody waits that long for a reply."""
PROBE_S = 5.0
REUSED_S = 3.0
"""For the first answer on a reused connection: one that a firewall forgot costs this much, not the whole message."""
MESSAGES_MAX = 100
"""Messages over one connection; many servers end it soon after."""
CHUNK = 65_536

TlsMode = Literal["starttls", "tls", "none"]


@dataclass(frozen=True, slots=True)
class Server:
    """Whom to submit to."""

    host: str
    port: int
    tls: TlsMode
    ca_file: Path | None
    sender: str
    greet_as: str
    """Our name in EHLO."""
    username: str
    password: str | None = field(repr=False)
    tokens: TokenSource | None
    connections_max: int
    idle_s: float


class _Connection:
    """One authenticated session."""

    def __init__(self, smtp: SMTP, opened_at: float) -> None:
        self.smtp = smtp
        self.used = 0
        self.reset_due = False
        """An envelope was begun and refused: RSET before the next."""
        self.idle_since = opened_at

    @property
    def alive(self) -> bool:
        return self.smtp.is_connected and self.used < MESSAGES_MAX

    def leave(self) -> None:
        """Say goodbye, wait for no answer."""
        if self.smtp.protocol is not None and self.smtp.is_connected:
            self.smtp.protocol.write(b"QUIT\r\n")
        self.close()

    def close(self) -> None:
        self.smtp.close()


class Submission:
    """Submits mails to one server, each once."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._idle: deque[_Connection] = deque()
        self._slots = asyncio.Semaphore(server.connections_max)
        self._sweeper: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def submit(self, mail: Mail) -> None:
        """Return once the server took the mail; at most `TO_DOT_S` + `AFTER_DOT_S`. Raises from SendFailed."""
        deadline = asyncio.get_running_loop().time() + TO_DOT_S
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        except TimeoutError:
            words = "all our connections to the mail server are busy"
            raise Throttled("connections_busy", words, retry_after_s=1.0) from None
        try:
            async with _certain("timeout_before_dot"), asyncio.timeout_at(deadline):
                connection = await self._begin(mail)
            await self._finish(connection)
        finally:
            self._slots.release()

    async def probe(self) -> None:
        """Return if a mail would be taken now: connect, log in, name the sender, take it back. Within `PROBE_S`."""
        async with _certain("timeout_probe"), asyncio.timeout(PROBE_S):
            connection = await self._open()
            try:
                await _command(connection.smtp, Stage.SENDER, b"MAIL", b"FROM:<%b>" % self._server.sender.encode())
                await _command(connection.smtp, Stage.SENDER, b"RSET")
                await connection.smtp.execute_command(b"QUIT")
            finally:
                connection.close()

    async def close(self) -> None:
        """End all idle connections; those in use end with their message."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().leave()

    async def _begin(self, mail: Mail) -> _Connection:
        """Everything before the final dot. The connection returned has the whole mail written out but for the dot."""
        connection = await self._open_envelope(mail)
        try:
            await _command(connection.smtp, Stage.RECIPIENT, b"RCPT", *_recipient_arguments(connection.smtp, mail))
            await _command(connection.smtp, Stage.DATA, b"DATA", expected=354)
            await _write_body(connection.smtp, mail.content)
        except (RecipientUnreachable, MessageRejected, Throttled):
            connection.reset_due = True
            self._keep(connection)
            raise
        except BaseException:  # whatever broke off, a cancellation too: never reuse a session in the midst of a mail
            connection.close()
            raise
        return connection

    async def _open_envelope(self, mail: Mail) -> _Connection:
        """A session that has accepted MAIL FROM. A reused one that has died meanwhile is replaced by a new one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.alive:
                connection.close()
                continue
            try:
                async with asyncio.timeout(REUSED_S):
                    await self._name_sender(connection, mail)
                return connection
            except (SMTPServerDisconnected, TimeoutError, EndpointUnavailable):
                connection.close()
                self._drop_idle()  # the others are no better: trying each would use up the time of this mail
            except BaseException:  # the envelope is open or the session broken: never reuse it
                connection.close()
                raise
        connection = await self._open()
        try:
            await self._name_sender(connection, mail)
        except BaseException:  # as above
            connection.close()
            raise
        return connection

    async def _name_sender(self, connection: _Connection, mail: Mail) -> None:
        if connection.reset_due:
            await _command(connection.smtp, Stage.SENDER, b"RSET")
            connection.reset_due = False
        await _command(connection.smtp, Stage.SENDER, b"MAIL", *_sender_arguments(connection.smtp, mail))

    async def _finish(self, connection: _Connection) -> None:
        """The final dot, and its answer: from here on silence means that nobody knows."""
        taken = False
        try:
            answer = await _end_mail(connection.smtp)
            taken = 200 <= answer.code < 300
        finally:
            if taken:
                self._keep(connection)
            else:
                connection.close()
        if not taken:
            raise failure_of(Stage.DATA, answer.code, answer.message)

    def _keep(self, connection: _Connection) -> None:
        connection.used += 1
        connection.idle_since = self._clock.monotonic()
        if self._closed or not connection.alive:
            connection.close()
            return
        self._idle.append(connection)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._close_idle())

    async def _close_idle(self) -> None:
        while self._idle:
            await asyncio.sleep(self._server.idle_s / 2)
            while self._idle and self._clock.monotonic() - self._idle[0].idle_since >= self._server.idle_s:
                self._idle.popleft().leave()

    async def _open(self) -> _Connection:
        """A new session, with TLS and logged in."""
        server = self._server
        smtp = SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.tls == "tls",
            start_tls=False,
            tls_context=self._tls_context() if server.tls != "none" else None,
            local_hostname=server.greet_as,
            timeout=None,  # every caller bounds the whole
        )
        try:
            await self._connect(smtp)
            await self._log_in(smtp)
        except BaseException:  # whatever went wrong, also a cancellation: leave no socket behind
            smtp.close()
            raise
        return _Connection(smtp, self._clock.monotonic())

    async def _connect(self, smtp: SMTP) -> None:
        try:
            await smtp.connect()
        except SMTPConnectError as error:
            if isinstance(error, SMTPResponseException):
                raise failure_of(Stage.CONNECT, error.code, error.message) from error
            raise _connect_failure(error) from error
        try:
            await smtp.ehlo()
            if self._server.tls == "starttls":
                if not smtp.supports_extension("starttls"):
                    words = "the mail server offers no STARTTLS; we do not log in or send in the clear"
                    raise EndpointMisconfigured("starttls_missing", words)
                await smtp.starttls()
                await smtp.ehlo()
        except SMTPResponseException as error:
            raise failure_of(Stage.CONNECT, error.code, error.message) from error

    async def _log_in(self, smtp: SMTP) -> None:
        server = self._server
        if not server.username:
            return
        try:
            if server.tokens is None:
                await smtp.login(server.username, server.password or "")
                return
            token = await server.tokens.fetch()
            try:
                await smtp.auth_xoauth2(server.username, token)
            except SMTPAuthenticationError:
                if not server.tokens.forget(token):
                    raise
                await smtp.auth_xoauth2(server.username, await server.tokens.fetch())
        except SMTPResponseException as error:
            raise failure_of(Stage.AUTH, error.code, error.message) from error
        except (SMTPServerDisconnected, SMTPTimeoutError):
            raise
        except SMTPException as error:
            raise EndpointMisconfigured("auth_unsupported", "the mail server offers no way to log in") from error

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self._server.ca_file)
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        return self._tls


@asynccontextmanager
async def _certain(timeout_reason: str) -> AsyncIterator[None]:
    """What breaks in here broke before the final dot: certainly not taken."""
    try:
        yield
    except TimeoutError as error:
        raise EndpointUnavailable(timeout_reason, "the mail server did not answer in time") from error
    except ssl.SSLCertVerificationError as error:
        raise EndpointMisconfigured("certificate_invalid", f"the certificate is not valid: {error.reason}") from error
    except SMTPResponseException as error:
        raise failure_of(Stage.CONNECT, error.code, error.message) from error
    except (SMTPException, OSError) as error:
        raise EndpointUnavailable("connection_lost", "the connection to the mail server broke") from error


def _connect_failure(error: SMTPConnectError) -> Exception:
    cause = error.__cause__
    if isinstance(cause, socket.gaierror):
        return LocalFault("the mail server's name cannot be resolved")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return EndpointMisconfigured("certificate_invalid", f"the certificate is not valid: {cause.reason}")
    if isinstance(cause, ConnectionRefusedError):
        return EndpointUnavailable("connect_refused", "the mail server refuses connections")
    return EndpointUnavailable("connect_failed", "no connection to the mail server")


async def _command(smtp: SMTP, stage: Stage, *words: bytes, expected: int = 250) -> None:
    answer = await smtp.execute_command(*words)
    if answer.code != expected and not (expected == 250 and 200 <= answer.code < 300):
        raise failure_of(stage, answer.code, answer.message)


def _sender_arguments(smtp: SMTP, mail: Mail) -> list[bytes]:
    """Arguments of MAIL: SIZE (RFC 1870), SMTPUTF8 (RFC 6531), RET and ENVID (RFC 3461), where offered."""
    arguments = [b"FROM:<%b>" % mail.sender.encode()]
    if mail.needs_smtputf8:
        if not smtp.supports_extension("smtputf8"):
            raise RecipientUnreachable("smtputf8_missing", "the mail server takes no address beyond ASCII")
        arguments.append(b"SMTPUTF8")
    if smtp.supports_extension("size"):
        size_max = smtp.esmtp_extensions.get("size", "")
        if re.fullmatch("[0-9]{1,20}", size_max) and 0 < int(size_max) < len(mail.content):
            raise MessageRejected("too_large", f"the mail server takes at most {int(size_max):,} bytes")
        arguments.append(b"SIZE=%d" % len(mail.content))
    if smtp.supports_extension("dsn") and mail.envid:
        arguments += [b"RET=HDRS", b"ENVID=%b" % mail.envid.encode()]
    return arguments


def _recipient_arguments(smtp: SMTP, mail: Mail) -> list[bytes]:
    arguments = [b"TO:<%b>" % mail.recipient.encode()]
    if smtp.supports_extension("dsn"):
        arguments.append(b"NOTIFY=FAILURE")
    return arguments


async def _write_body(smtp: SMTP, content: bytes) -> None:
    """Write the mail, dots stuffed (RFC 5321, section 4.5.2), all but its final dot."""
    protocol = _protocol_of(smtp)
    stuffed = re.sub(rb"(?m)^\.", b"..", content if content.endswith(b"\r\n") else content + b"\r\n")
    for start in range(0, len(stuffed), CHUNK):
        protocol.write(stuffed[start : start + CHUNK])
        # What StreamWriter.drain() calls; a StreamWriter here would close the transport when it is collected.
        await protocol._drain_helper()


async def _end_mail(smtp: SMTP) -> SMTPResponse:
    protocol = _protocol_of(smtp)
    try:
        protocol.write(b".\r\n")
    except SMTPServerDisconnected as error:  # the dot was not written
        raise EndpointUnavailable("lost_before_dot", "the connection broke before the mail was complete") from error
    try:
        answer = await protocol.read_response(timeout=AFTER_DOT_S)
    except TimeoutError as error:
        raise OutcomeUnknown("timeout_after_dot", "the mail server did not say whether it took the mail") from error
    except (SMTPException, OSError) as error:
        raise OutcomeUnknown("lost_after_dot", "the connection broke before the mail server answered") from error
    if answer.code // 100 not in {2, 4, 5}:  # RFC 5321, section 4.2.1: nothing else can answer it
        raise OutcomeUnknown("odd_answer", f"the mail server answered {answer.code} to the final dot")
    return answer


def _protocol_of(smtp: SMTP) -> SMTPProtocol:
    if smtp.protocol is None:
        raise SMTPServerDisconnected("the connection was lost")
    return smtp.protocol
