"""Holds the bind to a message centre: connects, reports, and comes back after every loss."""

import asyncio
import random
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from channels.errors import EndpointMisconfigured, EndpointUnavailable, LocalFault, SendFailed
from channels.sms.session import NotWritten, Receiver, SmppSession, Taken, Unanswered
from channels.sms.smpp_settings import SmppSettings
from channels.tools import Tools
from channels.wire.smpp import Bind, Pdu, ShortMessage
from channels.wire.smpp_numbers import Command, CommandStatus, name_status
from health.report import Direction, Report, Status

CONNECT_S = 5.0
BACKOFF_S = 0.25
BACKOFF_MAX_S = 5.0
"""A message centre that works again carries conversations within seconds; one bind in five
seconds costs it nothing."""
REFUSED_PAUSE_S = 30.0
"""At most, before a refused credential is tried again."""
STEADY_S = 10.0
"""A connection that lasted this long was a good one: the backoff begins anew."""
REPORT_TTL_S = 60.0
UNBIND_S = 1.0

_MISCONFIGURED = (CommandStatus.ESME_RINVPASWD, CommandStatus.ESME_RINVSYSID)

AnsweredLate = Callable[[object, Pdu], Coroutine[None, None, None]]


class Link:
    """At most one bound session at a time."""

    def __init__(self, settings: SmppSettings, tools: Tools) -> None:
        self._settings = settings
        self._tools = tools
        self._session: SmppSession | None = None
        self._bound = asyncio.Event()
        self._wake = asyncio.Event()
        self._failed = asyncio.Event()
        self._why_not: SendFailed | LocalFault = EndpointUnavailable(
            "not_bound", "this process holds no connection to the message centre"
        )

    async def session(self, wait_s: float) -> SmppSession:
        """The bound session, waited for at most `wait_s`. Raises why there is none: nothing was written."""
        try:
            # A refused credential does not mend itself within the wait.
            async with asyncio.timeout(0 if isinstance(self._why_not, EndpointMisconfigured) else wait_s):
                await self._bound.wait()
        except TimeoutError:
            pass  # said below, with the reason
        if self._session is None:
            # A new instance each time: a raised exception carries its traceback along.
            failure = self._why_not
            if isinstance(failure, SendFailed):
                raise type(failure)(failure.reason, failure.words)
            raise LocalFault(str(failure))
        return self._session

    async def try_now(self, wait_s: float) -> None:
        """Connect now rather than when the backoff ends, and wait at most `wait_s` for what comes of it."""
        if self._session is not None or isinstance(self._why_not, EndpointMisconfigured):
            return
        self._wake.set()
        self._failed.clear()
        waits = [asyncio.ensure_future(self._bound.wait()), asyncio.ensure_future(self._failed.wait())]
        await _wait_for_first(waits, wait_s)

    async def hold(self, receiver: Receiver, answered_late: AnsweredLate) -> None:
        """Stay bound until cancelled: full jitter between tries, at most 5 s."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            self._wake.clear()
            began = loop.time()
            try:
                session = await self._bind(Command.BIND_TRANSCEIVER, receiver, answered_late)
            except (SendFailed, LocalFault) as failure:
                self._why_not = failure
                self._failed.set()
                if isinstance(failure, SendFailed):  # our own faults say nothing of the endpoint
                    self._report(Status.DOWN, failure.reason, failure.words)
            else:
                await self._stay(session)
                failures = 0 if loop.time() - began >= STEADY_S else failures
            failures = min(failures + 1, 16)
            await self._back_off(failures)

    async def try_apart(self) -> None:
        """Bind as a transmitter, ask, unbind: a probe from a process that holds no bind. Raises SendFailed."""
        try:
            session = await self._bind(Command.BIND_TRANSMITTER, _Nobody(), _ignore_late)
        except AlreadyBound:
            return  # one bind per account, and it is ours: the message centre answers and knows us
        try:
            await session.enquire(2.0)
        except (NotWritten, Unanswered) as failure:
            raise EndpointUnavailable("enquire_link_unanswered", "the message centre does not answer") from failure
        finally:
            await session.unbind(UNBIND_S)

    async def close(self) -> None:
        """Unbind; idempotent."""
        session, self._session = self._session, None
        self._bound.clear()
        if session is not None:
            await session.unbind(UNBIND_S)

    async def _stay(self, session: SmppSession) -> None:
        self._session = session
        self._why_not = EndpointUnavailable("not_bound", "the connection to the message centre has just ended")
        self._bound.set()
        self._report(Status.UP, "bound", "bound to the message centre")
        reason = await asyncio.shield(session.ended)
        self._session = None
        self._bound.clear()
        self._why_not = EndpointUnavailable(reason, f"the connection to the message centre ended: {reason}")
        self._report(Status.DOWN, reason, f"the connection to the message centre ended: {reason}")
        await session.close(reason)

    async def _bind(self, command: Command, receiver: Receiver, answered_late: AnsweredLate) -> SmppSession:
        reader, writer = await self._connect()
        session = SmppSession(
            reader,
            writer,
            receiver=receiver,
            window=self._settings.window,
            enquire_link_s=self._settings.enquire_link_s,
            answered_late=answered_late,
        )
        bind = Bind(
            system_id=self._settings.system_id,
            password=self._settings.password.get_secret_value(),
            system_type=self._settings.system_type,
        )
        try:
            answer = await session.bind(command, bind, CONNECT_S)
            _check_bind(answer, command)
        except (NotWritten, Unanswered) as failure:
            await session.close("bind_failed")
            raise EndpointUnavailable(
                f"bind_{failure}", "the message centre took the connection, but not the bind"
            ) from failure
        except BaseException:  # a cancellation too: leave no socket behind
            await session.close("bind_failed")
            raise
        return session

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = f"{self._settings.host}:{self._settings.port}"
        try:
            context = ssl.create_default_context(cafile=self._settings.ca_file) if self._settings.tls else None
        except OSError as unreadable:
            raise EndpointMisconfigured(
                "ca_file", f"cannot read {self._settings.ca_file}: {unreadable}"
            ) from unreadable
        try:
            async with asyncio.timeout(CONNECT_S):
                return await asyncio.open_connection(self._settings.host, self._settings.port, ssl=context)
        except TimeoutError as late:
            raise EndpointUnavailable("connect_timeout", f"{where} did not answer in {CONNECT_S:g} s") from late
        except socket.gaierror as unresolved:
            raise LocalFault(f"the name {self._settings.host} could not be resolved: {unresolved}") from unresolved
        except ssl.SSLCertVerificationError as untrusted:
            raise EndpointMisconfigured(
                "certificate", f"{where} has a certificate we do not trust: {untrusted.verify_message}; check `ca_file`"
            ) from untrusted
        except ConnectionRefusedError as refused:
            raise EndpointUnavailable("connect_refused", f"nobody listens at {where}") from refused
        except OSError as failure:
            raise EndpointUnavailable("connect_failed", f"{where}: {failure}") from failure

    async def _back_off(self, failures: int) -> None:
        """A random part of a doubling, capped pause; `wake` ends it, but not after a refused credential.

        A wrong password is not hammered at: many message centres lock the account.
        """
        pause = random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**failures))
        if isinstance(self._why_not, EndpointMisconfigured):
            await self._tools.clock.sleep(REFUSED_PAUSE_S * random.uniform(0.5, 1.0))
            return
        waits = [
            asyncio.ensure_future(self._tools.clock.sleep(pause)),
            asyncio.ensure_future(self._wake.wait()),
        ]
        await _wait_for_first(waits, None)

    def _report(self, status: Status, reason: str, words: str) -> None:
        """A transceiver carries both directions: they come and go together."""
        for direction in (Direction.OUT, Direction.IN):
            self._tools.report(
                Report(
                    endpoint=self._tools.endpoint,
                    direction=direction,
                    status=status,
                    reason=reason,
                    words=words,
                    at=self._tools.clock.now(),
                    ttl_s=REPORT_TTL_S,
                    source="smpp",
                )
            )


class AlreadyBound(EndpointUnavailable):
    """The account is bound elsewhere, and may be only once."""


class _Nobody:
    """Takes nothing: a transmitter is delivered nothing."""

    async def take(self, message: ShortMessage, session: str, arrived: float, behind_s: float) -> Taken:
        return Taken(CommandStatus.ESME_RX_T_APPN)

    def answered(self, mark: str) -> None:
        """Nothing was taken."""

    async def confirm(self, marks: tuple[str, ...]) -> None:
        """Nothing was taken."""


async def _wait_for_first(waits: Sequence[asyncio.Future[Any]], timeout_s: float | None) -> None:
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _ignore_late(note: object, answer: Pdu) -> None:
    """Nothing was submitted."""


def _check_bind(answer: Pdu, command: Command) -> None:
    """Raise unless the bind was granted; a wrong name or password is a person's to mend."""
    if answer.command is command.response and answer.status == CommandStatus.ESME_ROK:
        return
    name = name_status(answer.status)
    if answer.status in _MISCONFIGURED:
        raise EndpointMisconfigured(
            name, "the message centre refused system_id or password: check them in the endpoint's settings"
        )
    failure = AlreadyBound if answer.status == CommandStatus.ESME_RALYBND else EndpointUnavailable
    raise failure(name, f"the message centre refused the bind: {name}")
