"""The control probe: hosts that no provider runs, by which our own outage is told from everybody else's."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from channels.errors import LocalFault
from channels.registry import AnyEndpointSettings

CONNECT_WITHIN_S = 1.5
"""For all of them together; less than the monitor waits, so that the answer is ours and not its bound."""
HOSTS_MIN = 2
"""One alone may be down by itself, and would freeze moves for it."""
HOSTS_MAX = 8


@dataclass(frozen=True, slots=True)
class ControlHost:
    """A host and TCP port that have nothing to do with any provider."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """It is this machine: it answers even when our way out is broken."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False


def read_control_host(text: str) -> ControlHost:
    """`host:port`, an IPv6 address in brackets. Raises ValueError with words for people."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # what no resolver could look up
    except ValueError:
        host, port = None, None
    if not host or not port or parts.netloc != text or "@" in text or any(letter.isspace() for letter in text):
        raise ValueError(f"has {text[:60]!r}, which is no host and port; write it like 192.0.2.1:443")
    return ControlHost(host, port)


def read_control_hosts(texts: Sequence[str]) -> tuple[ControlHost, ...]:
    """All of them. Raises ValueError: one is unreadable, one alone is named, or a host twice."""
    hosts = tuple(read_control_host(text) for text in texts)
    if hosts and len({one.host for one in hosts}) < max(HOSTS_MIN, len(hosts)):
        raise ValueError("names one host only, or one twice: name two or more of different owners, or none")
    return hosts


def refuse_providers(hosts: Sequence[ControlHost], endpoints: Iterable[AnyEndpointSettings]) -> None:
    """Raises ValueError where a control host is what an endpoint speaks to: its outage would look like ours."""
    for endpoint in endpoints:
        tables = (endpoint, getattr(endpoint, "imap", None))
        theirs = {str(getattr(table, "host", "")).lower() for table in tables}
        theirs.add(str(urlsplit(getattr(endpoint, "api_base", "")).hostname))
        for host in hosts:
            if host.host in theirs and not host.is_local:
                raise ValueError(f"control_hosts names {host}, which {endpoint.id} is; name one of another owner")


async def connect_to(host: ControlHost) -> None:
    """Return if a TCP connection was made within `CONNECT_WITHIN_S`; it is closed at once. Raises OSError."""
    async with asyncio.timeout(CONNECT_WITHIN_S):
        _, writer = await asyncio.open_connection(host.host, host.port)
    writer.close()  # not waited for: it answered, and how it takes leave says nothing


async def hear_any(hosts: Sequence[ControlHost]) -> None:
    """Return as soon as one of them takes a connection; our way out works, then.

    Raises:
        LocalFault: none did: it is us.
    """
    tasks = [asyncio.create_task(connect_to(host)) for host in hosts]
    try:
        for task in asyncio.as_completed(tasks):
            with suppress(OSError):  # TimeoutError is one; the others may still answer
                await task
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise LocalFault(f"none of the control hosts answers: {', '.join(map(str, hosts))}")


def control_of(hosts: Sequence[ControlHost]) -> Callable[[], Awaitable[None]] | None:
    """The control probe as the monitor takes it; None: no hosts are set."""
    return (lambda: hear_any(hosts)) if hosts else None
