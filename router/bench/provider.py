"""A fast stand-in provider, a process of its own: takes Twilio's POSTs over real sockets and keeps a journal."""

import asyncio
import json
import re
import time
from typing import cast
from urllib.parse import parse_qs

from router.bench.child import new_loop, say, until_parent_ends

JOURNAL_MAX = 2_000_000
"""Messages kept; more is a fault of the bench."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END = b"\r\n\r\n"

Entry = tuple[int, bytes]
"""When it came, in monotonic nanoseconds (one clock for all processes of a machine), and the form."""


class Provider:
    """What was taken, in order."""

    def __init__(self) -> None:
        self.journal: list[Entry] = []
        self.begun = 0

    def answer(self, head: bytes, body: bytes) -> bytes:
        """Take a message, or tell the count or the journal."""
        if head.startswith(b"POST "):
            if len(self.journal) >= JOURNAL_MAX:
                return _response(b"503 Service Unavailable", b"{}")
            self.journal.append((time.monotonic_ns(), body))
            self.begun += 1
            return _response(b"201 Created", b'{"sid": "SM%032x", "status": "queued"}' % self.begun)
        if head.startswith(b"GET /count "):
            return _response(b"200 OK", b"%d" % len(self.journal))
        if head.startswith(b"GET /journal "):
            taken, self.journal = self.journal, []
            return _response(b"200 OK", json.dumps([[at, _text(form)] for at, form in taken]).encode())
        return _response(b"200 OK", b'{"status": "active"}')


class Connection(asyncio.Protocol):
    """One client's connection, kept alive; requests may come in pieces or several at once."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's own class is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(_END)) >= 0:
            head = buffer[:end]
            found = _LENGTH.search(head)
            whole = end + len(_END) + (int(found[1]) if found else 0)
            if len(buffer) < whole:
                break
            if self._transport is not None:
                self._transport.write(self._provider.answer(head, buffer[end + len(_END) : whole]))
            buffer = buffer[whole:]
        self._buffer = buffer


def _response(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def _text(form: bytes) -> str:
    return parse_qs(form.decode("ascii")).get("Body", [""])[0]


async def serve() -> None:
    """Listen on a free port of 127.0.0.1, say which, and end with the parent."""
    provider = Provider()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(provider), "127.0.0.1", 0)
    say({"port": server.sockets[0].getsockname()[1]})
    await until_parent_ends()
    server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())
