"""A stand-in mail provider: takes submissions, shows the customer's mailbox, brings their answers and bounces."""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Literal

import structlog

from channels.sandbox.mail_delivery import deliver, read_submitted, write_bounce, write_mail
from channels.sandbox.mail_server import COMMAND_MAX, MailSession, Submitted
from channels.sandbox.vendor import Entry, Fault, Journal, Switch

FLAP_STEP_S = 0.1
LINE_MAX = 1_000_000

log = structlog.get_logger(__name__)


class MailVendor:
    """One mail provider on 127.0.0.1.

    Recipients that begin so are treated so: `nobody@` is refused at RCPT, `bounce...@` is taken and bounces (5.1.1),
    `full...@` is taken and bounces for now (4.2.2), `delayed...@` is taken, arrives, and is announced as delayed.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        endpoint: str = "email/sandbox",
        from_address: str = "support@throughline.test",
        port: int = 0,
        inbound_port: int = 0,
        protocol: Literal["lmtp", "smtp"] = "lmtp",
        password: str = "",
        now: Callable[[], float] = time.time,
        canary: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.canary = canary
        self.switch = Switch()
        self.port = port
        """Of the submission server; 0 until started: any."""
        self.inbound_port = inbound_port
        """Where the router's listener is expected; 0 until started: any."""
        self._journal = journal
        self._from_address = from_address
        self._protocol = protocol
        self._now = now
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turning = asyncio.Lock()
        self._password = password or secrets.token_urlsafe(12)

    async def start(self) -> None:
        """Listen on 127.0.0.1."""
        self.inbound_port = self.inbound_port or _free_port()
        await self._open()
        self._begin(self._flap())

    async def stop(self) -> None:
        """Stop listening, end connections and deliveries."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shut()

    async def set_fault(self, fault: Fault, share: float = 1.0) -> None:
        """Switch a fault on, or off with `Fault.NONE`; REFUSE of everything really closes the port."""
        self.switch = Switch(fault, share, self._now())
        await self._turn()

    async def write(self, customer: str, text: str, *, subject: str = "", in_reply_to: Entry | None = None) -> str:
        """The customer mails us; an answer quotes and goes to the Reply-To address. Returns the Message-ID.

        Delivered in the background and tried again every second until it is taken, at most 10 minutes.
        """
        to = in_reply_to.details.get("reply_to", self._from_address) if in_reply_to else self._from_address
        message_id = f"<{secrets.token_hex(8)}@{customer.rpartition('@')[2]}>"
        raw = write_mail(customer, to, text, subject=subject, message_id=message_id, answers=in_reply_to)
        self._journal.add(
            at=self._now(),
            endpoint=self.endpoint,
            to_customer=False,
            customer=customer,
            text=text,
            vendor_id=message_id,
            subject=subject,
            details={"to": to} | ({"in_reply_to": in_reply_to.vendor_id} if in_reply_to else {}),
        )
        self._begin(self._deliver(raw, customer, to))
        return message_id

    def endpoint_table(self) -> dict[str, object]:
        """The `[[endpoints]]` table under which the router reaches this provider; ports are known once started."""
        return {
            "id": self.endpoint,
            "provider": "smtp",
            "host": "127.0.0.1",
            "port": self.port,
            "tls": "none",
            "username": self._from_address,
            "password": self._password,
            "from_address": self._from_address,
            "lmtp": {"host": "127.0.0.1", "port": self.inbound_port, "protocol": self._protocol},
        }

    async def _take(self, mail: Submitted, lost: bool) -> None:
        text, subject, details = read_submitted(mail.content)
        if mail.recipient.lower() == self.canary:
            if not lost:
                self._send_back(text, subject)
            return
        local = mail.recipient.lower().partition("@")[0]
        bounces = local.startswith(("bounce", "full"))
        self._journal.add(
            at=self._now(),
            endpoint=self.endpoint,
            to_customer=True,
            customer=mail.recipient.lower(),
            text=text,
            vendor_id=details.get("message_id", ""),
            subject=subject,
            delivered=not lost and not bounces,
            details=details | {"envid": mail.envid, "return_path": mail.sender},
        )
        if lost or not mail.sender:
            return
        outcomes = {"bounce": ("failed", "5.1.1"), "full": ("failed", "4.2.2"), "delayed": ("delayed", "4.4.1")}
        for beginning, (action, status) in outcomes.items():
            if local.startswith(beginning):
                raw = write_bounce(
                    mail.content, mail.recipient, mail.envid, action=action, status=status, to=mail.sender
                )
                self._begin(self._deliver(raw, "", mail.sender))

    def _send_back(self, text: str, subject: str) -> None:
        identity = f"<{secrets.token_hex(8)}@{self.canary.rpartition('@')[2]}>"
        raw = write_mail(self.canary, self._from_address, text, subject=subject, message_id=identity, answers=None)
        self._begin(self._deliver(raw, self.canary, self._from_address))

    async def _deliver(self, raw: bytes, sender: str, recipient: str) -> None:
        try:
            await deliver(raw, sender, recipient, port=self.inbound_port, protocol=self._protocol)
        except (TimeoutError, PermissionError) as error:
            log.warning("sandbox_mail.given_up", endpoint=self.endpoint, reason=str(error))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        session = MailSession(
            reader,
            writer,
            fault=lambda: (self.switch.now_is(self._now()), self.switch.share),
            take=self._take,
            password=self._password,
        )
        try:
            await session.run()
        finally:
            self._writers.discard(writer)

    async def _flap(self) -> None:
        while True:
            await asyncio.sleep(FLAP_STEP_S)
            if self.switch.fault is Fault.FLAP:
                await self._turn()

    async def _turn(self) -> None:
        """Open or close the port, as the switch says."""
        async with self._turning:
            refuses = self.switch.now_is(self._now()) is Fault.REFUSE and self.switch.share >= 1
            if refuses:
                await self._shut()
            elif self._server is None:
                await self._open()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=max(LINE_MAX, COMMAND_MAX), reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if server is not None:
            await server.wait_closed()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
