"""The wire to an IMAP server that may say anything: what one answer comes to is bounded, in octets and in time."""

import imaplib
import socket
import ssl
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from imapclient import IMAPClient, SocketTimeout
from imapclient.exceptions import IMAPClientError

from channels.errors import EndpointUnavailable

LINES_MAX = 2_000_000
"""Octets of lines in the answer to one command. A single line, such as a search's, may be half of it."""
ANSWER_MAX_S = 300.0
"""From a command to the end of its answer, however steadily it drips."""

GARBLED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
)
"""What the library, which trusts the server, trips over in an answer that is none (too deep: a RuntimeError)."""

P = ParamSpec("P")
T = TypeVar("T")


class Budget:
    """What the answer to one command may still come to."""

    def __init__(self, literals_max: int) -> None:
        """`literals_max`: octets of mail in one answer."""
        self._literals_max = literals_max
        self.renew()

    def renew(self, extra_s: float = 0.0) -> None:
        """Another command begins; its answer may take `extra_s` longer."""
        self._lines_left = LINES_MAX
        self._literals_left = self._literals_max
        self._until = time.monotonic() + ANSWER_MAX_S + extra_s

    def spend_line(self, octets: int) -> None:
        """A line came. Raises IMAPClientError beyond the budget, as `spend_literal` does."""
        self._lines_left -= octets
        self._check(self._lines_left)

    def spend_literal(self, octets: int) -> None:
        """A literal is announced; nothing of it is read, or kept room for, unless it fits."""
        self._literals_left -= octets
        self._check(self._literals_left)

    def _check(self, left: int) -> None:
        if left < 0:
            raise IMAPClientError("the server's answer is larger than any that was asked for")
        if time.monotonic() > self._until:
            raise IMAPClientError("the server's answer takes too long")


class _Wire(imaplib.IMAP4):
    """As imaplib's, but for the budget, and for TLS from the first byte where a context is given."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, connect_s: float, budget: Budget) -> None:
        self._context, self._connect_s, self._budget = context, connect_s, budget
        super().__init__(host, port)

    def _create_socket(self, timeout: float | None = None) -> socket.socket:
        plain = socket.create_connection((self.host, self.port), timeout or self._connect_s)
        if self._context is None:
            return plain
        return self._context.wrap_socket(plain, server_hostname=self.host)

    def read(self, size: int) -> bytes:
        self._budget.spend_literal(size)
        return super().read(size)

    def readline(self) -> bytes:
        line = super().readline()
        self._budget.spend_line(len(line))
        return line


class BoundedClient(IMAPClient):  # type: ignore[misc]  # the library has no types
    """An IMAPClient that reads no more than its budget."""

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, connect_s: float, answer_s: float, budget: Budget
    ) -> None:
        """`tls`: a context for TLS from the first byte. Blocks; raises OSError or IMAPClientError."""
        self._budget = budget
        super().__init__(host, port, ssl=tls is not None, ssl_context=tls, timeout=SocketTimeout(connect_s, answer_s))
        self._imap.debug = 0  # it would put each line it reads into words for a log that nobody may read

    def _create_IMAP4(self) -> imaplib.IMAP4:  # noqa: N802  # the library's name
        return _Wire(self.host, self.port, self.ssl_context if self.ssl else None, self._timeout.connect, self._budget)


def ask(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the client returns; blocks.

    Raises:
        OSError, IMAPClientError: as the library does, for what went wrong on the wire.
        EndpointUnavailable: the server's answer is none.
    """
    try:
        return call(*args, **kwargs)
    except (OSError, IMAPClientError):
        raise
    except GARBLED as error:
        words = f"the mailbox's server answers oddly: {type(error).__name__}"
        raise EndpointUnavailable("answer_garbled", words) from None  # not chained: the answer may hold mail
