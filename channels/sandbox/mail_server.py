"""A submission server of our own, so that each fault can be shown on the wire."""

import asyncio
import base64
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from channels.sandbox.vendor import SLOW_S, Fault
from channels.wire.mail_status import decode_xtext

COMMAND_MAX = 2_000
SIZE_MAX = 35_000_000
IDLE_S = 300.0
HANG_S = 3_600.0
RECIPIENTS_MAX = 100


@dataclass(frozen=True, slots=True)
class Submitted:
    """A mail as it was handed in."""

    sender: str
    recipient: str
    envid: str
    content: bytes


class _Hangs(Exception):
    """Never answers again."""


class _Breaks(Exception):
    """Breaks the connection off."""


class MailSession:
    """One connection of a client; what is wrong with it is asked anew at each step."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        fault: Callable[[], tuple[Fault, float]],
        take: Callable[[Submitted, bool], Awaitable[None]],
        password: str,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._fault = fault
        self._take = take
        self._password = password
        self._logged_in = False
        self._sender: str | None = None
        self._envid = ""
        self._recipients: list[str] = []
        self._hit = Fault.NONE
        """What this mail is hit by: drawn once a mail, at MAIL."""

    async def run(self) -> None:
        """Serve until the client goes, or a fault ends it."""
        try:
            await self._converse()
        except (_Breaks, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            self._writer.transport.abort()
        finally:
            self._writer.close()

    async def _converse(self) -> None:
        try:
            await self._say("220 mail.sandbox.test ESMTP stand-in")
            while await self._obey(await self._read_line()):
                pass
        except _Hangs:
            # Takes what comes, says nothing, until the client gives up.
            async with asyncio.timeout(HANG_S):
                while await self._reader.read(65_536):
                    pass

    async def _say(self, line: str) -> None:
        """Answer, unless everything is switched wrong."""
        fault, share = self._fault()
        if share >= 1:
            self._suffer(fault)
            if fault is Fault.ERROR:
                self._writer.write(b"421 4.3.0 stand-in is switched to fail\r\n")
                await self._writer.drain()
                raise _Breaks
        self._writer.write(line.encode() + b"\r\n")
        await self._writer.drain()

    def _suffer(self, fault: Fault) -> None:
        if fault is Fault.HANG:
            raise _Hangs
        if fault is Fault.REFUSE:
            raise _Breaks

    async def _read_line(self) -> str:
        async with asyncio.timeout(IDLE_S):
            line = await self._reader.readuntil(b"\r\n")
        return line[:COMMAND_MAX].decode("utf-8", "replace").strip()

    async def _obey(self, line: str) -> bool:
        verb, _, rest = line.partition(" ")
        match verb.upper():
            case "EHLO":
                size = f"250-SIZE {SIZE_MAX}"
                await self._say(
                    "\r\n".join(["250-mail.sandbox.test", size, "250-DSN", "250-SMTPUTF8", "250 AUTH PLAIN"])
                )
            case "HELO" | "NOOP":
                await self._say("250 ok")
            case "RSET":
                self._forget()
                await self._say("250 ok")
            case "AUTH":
                await self._log_in(rest)
            case "MAIL":
                await self._begin(rest)
            case "RCPT":
                await self._add_recipient(rest)
            case "DATA":
                await self._receive()
            case "QUIT":
                await self._say("221 bye")
                return False
            case _:
                await self._say("500 5.5.1 unknown command")
        return True

    def _forget(self) -> None:
        self._sender, self._envid, self._recipients, self._hit = None, "", [], Fault.NONE

    async def _log_in(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        try:
            secret = base64.b64decode(initial, validate=True).decode().split("\0")[-1]
        except ValueError:
            secret = ""
        if mechanism.upper() != "PLAIN" or secret != self._password:
            await self._say("535 5.7.8 wrong password")
            return
        self._logged_in = True
        await self._say("235 2.7.0 welcome")

    async def _begin(self, rest: str) -> None:
        found = re.match(r"FROM:\s*<([^<>]*)>(.*)", rest, re.IGNORECASE)
        if not self._logged_in:
            await self._say("530 5.7.0 log in first")
        elif found is None or self._sender is not None:
            await self._say("503 5.5.1 not now")
        else:
            self._forget()
            fault, share = self._fault()
            if random.random() < share:
                self._hit = fault
            self._suffer(self._hit)
            if self._hit is Fault.ERROR:
                await self._say("451 4.3.0 stand-in is switched to fail")
            elif self._hit is Fault.THROTTLE:
                await self._say("450 4.7.1 too many messages, try again later")
            else:
                self._sender = found.group(1)
                envid = re.search(r"\bENVID=(\S+)", found.group(2), re.IGNORECASE)
                self._envid = decode_xtext(envid.group(1)) if envid else ""
                await self._say("250 2.1.0 ok")

    async def _add_recipient(self, rest: str) -> None:
        found = re.match(r"TO:\s*<([^<>]+@[^<>]+)>", rest, re.IGNORECASE)
        if self._sender is None or found is None or len(self._recipients) >= RECIPIENTS_MAX:
            await self._say("503 5.5.1 not now")
        elif found.group(1).lower().startswith("nobody@"):
            await self._say("550 5.1.1 no such user")
        else:
            self._recipients.append(found.group(1))
            await self._say("250 2.1.5 ok")

    async def _receive(self) -> None:
        if not self._recipients:
            await self._say("503 5.5.1 no recipient")
            return
        await self._say("354 go on")
        content = await self._read_content()
        # A switch thrown while the mail was on its way hits it too.
        fault, share = self._fault()
        hit = fault if share >= 1 else self._hit
        self._suffer(hit)
        if hit is Fault.SLOW:
            await asyncio.sleep(SLOW_S)
        for recipient in self._recipients:
            mail = Submitted(self._sender or "", recipient, self._envid, content)
            await self._take(mail, hit is Fault.LOSE_SILENTLY)
        if hit is Fault.DROP_AFTER_ACCEPT:
            raise _Breaks
        self._forget()
        await self._say("250 2.0.0 taken")

    async def _read_content(self) -> bytes:
        lines: list[bytes] = []
        size = 0
        while True:
            async with asyncio.timeout(IDLE_S):
                line = await self._reader.readuntil(b"\r\n")
            if line == b".\r\n":
                return b"".join(lines)
            size += len(line)
            if size > SIZE_MAX:
                raise _Breaks
            lines.append(line[1:] if line.startswith(b".") else line)
