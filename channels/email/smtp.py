"""Email over SMTP submission, with IMAP or a built-in LMTP listener for what comes in.

MAIL FROM:<support@example.org> RET=HDRS ENVID=<attempt token>
RCPT TO:<customer@example.net> NOTIFY=FAILURE
DATA
Message-ID: <message id@reply domain>      the same for each attempt
Reply-To: support+<reply token>@reply domain
In-Reply-To, References                    the thread so far
.                                          before this dot certainly not taken, after it unknown until answered
"""

import asyncio
import ipaddress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from channels.contract import Accept, Capabilities, EndpointSettings
from channels.email.imap import ImapListener
from channels.email.imap_settings import HOST, ImapSettings
from channels.email.lmtp import LmtpListener, LmtpSettings
from channels.email.oauth import OAuth2Settings, TokenSource
from channels.email.submission import AFTER_DOT_S, TO_DOT_S, Server, Submission, TlsMode
from channels.errors import MessageRejected, RecipientUnreachable, WebhookRefused
from channels.messages import Channel, Matter, OutboundMessage, Receipt, Received, Reply, Webhook
from channels.tools import Tools
from channels.wire.mail import Letterhead, Mail, build_mail
from channels.wire.mail_address import check_header_text, normalise_domain, normalise_mailbox
from channels.wire.mail_parse import Reading

TEXT_MAX = 500_000
IO_MARGIN_S = 1.0

Mailbox = Annotated[str, AfterValidator(normalise_mailbox)]
Domain = Annotated[str, AfterValidator(normalise_domain)]


class SmtpSettings(EndpointSettings):
    """One `[[endpoints]]` table of an email account."""

    provider: Literal["smtp"]
    host: Annotated[str, Field(pattern=HOST)]
    """The submission server."""
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: TlsMode = "starttls"
    """`starttls` (port 587), `tls` from the first byte (port 465), or `none`, which only loopback may use."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's; None: the system's."""
    username: str = ""
    """Empty: no login."""
    password: SecretStr | None = None
    oauth2: OAuth2Settings | None = None
    """XOAUTH2 instead of a password; Gmail and Outlook accept nothing else."""
    from_address: Mailbox
    from_name: Annotated[str, Field(max_length=200)] = ""
    """Shown beside the address; empty: the organisation's name."""
    reply_domain: Domain | None = None
    """Domain of Reply-To and of our Message-IDs; None: that of `from_address`."""
    authserv_id: str = ""
    """Our own mail server's name in Authentication-Results; empty: no mail is marked unverified by DMARC."""
    connections_max: Annotated[int, Field(ge=1, le=50)] = 10
    idle_s: Annotated[float, Field(gt=0, le=300)] = 30.0
    """An unused connection is closed after this many seconds."""
    files_max_bytes: Annotated[int, Field(ge=0, le=100_000_000)] = 20_000_000
    """Largest total of attached files, both ways, in bytes before encoding."""
    imap: ImapSettings | None = None
    lmtp: LmtpSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_header_text(self.from_name, "from_name")
        if self.tls == "none" and not _is_loopback(self.host):
            raise ValueError("tls = 'none' is only for loopback: use 'starttls' or 'tls'")
        if self.password is not None and self.oauth2 is not None:
            raise ValueError("give either password or oauth2, not both")
        if (self.password is not None or self.oauth2 is not None) and not self.username:
            raise ValueError("a password or oauth2 needs a username")
        if self.username and self.password is None and self.oauth2 is None:
            raise ValueError("a username needs a password or oauth2")
        return self

    @property
    def domain(self) -> str:
        """Domain of the reply address and of our Message-IDs."""
        return self.reply_domain or self.from_address.rpartition("@")[2]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SmtpAdapter:
    """One mail account."""

    def __init__(self, settings: SmtpSettings, tools: Tools) -> None:
        self._tools = tools
        self._letterhead = Letterhead(
            mailbox=settings.from_address,
            name=settings.from_name or tools.organisation,
            reply_domain=settings.domain,
            organisation=tools.organisation,
        )
        self._submission = Submission(_server(settings, tools), tools.clock)
        reading = Reading(
            endpoint=tools.endpoint,
            mailbox=settings.from_address,
            authserv_id=settings.authserv_id,
            files_max_bytes=settings.files_max_bytes,
        )
        self._listeners: list[ImapListener | LmtpListener] = []
        if settings.imap is not None:
            self._listeners.append(ImapListener(settings.imap, reading, tools))
        if settings.lmtp is not None:
            domains = frozenset({settings.domain, settings.from_address.rpartition("@")[2]})
            self._listeners.append(LmtpListener(settings.lmtp, reading, domains, tools))
        self._capabilities = Capabilities(
            channel=Channel.EMAIL,
            provider="smtp",
            text_max=TEXT_MAX,
            io_s=TO_DOT_S + AFTER_DOT_S + IO_MARGIN_S,
            files_max_bytes=settings.files_max_bytes,
            threads=True,
            replyable=bool(self._listeners),
            rate_per_s=settings.rate_per_s if settings.rate_per_s is not None else 10.0,
            price=settings.price if settings.price is not None else Decimal(0),
            hold_s=settings.hold_s if settings.hold_s is not None else 60.0,
            listens_in="web" if self._listeners else "",
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this endpoint can do."""
        return self._capabilities

    async def send(self, message: OutboundMessage) -> Receipt:
        """Submit the mail once. The receipt's vendor id is the Message-ID, in angle brackets."""
        mail = await self._build(message)
        await self._submission.submit(mail)
        return Receipt(vendor_ids=(mail.message_id,))

    async def _build(self, message: OutboundMessage) -> Mail:
        files = message.content.files
        if sum(file.size for file in files) > self._capabilities.files_max_bytes:
            raise MessageRejected("files_too_large", "the files are larger than this mail account may send")
        if not (message.content.text.strip() or message.content.html or files):
            raise MessageRejected("empty", "there is nothing to say: no text and no file")
        if len(message.content.text) > TEXT_MAX:
            raise MessageRejected("text_too_long", f"the text is longer than {TEXT_MAX:,} characters")
        try:
            normalise_mailbox(message.to.value)
        except ValueError as error:
            raise RecipientUnreachable("address_invalid", str(error)) from error
        try:
            contents = {file.sha256: await self._tools.files.read(file.sha256) for file in files}
        except FileNotFoundError as error:
            raise MessageRejected("file_missing", "a file of this message is no longer stored") from error
        try:
            return build_mail(message, self._letterhead, contents)
        except ValueError as error:
            raise MessageRejected("header_unsafe", str(error)) from error

    async def receive(self, webhook: Webhook) -> Received:
        """Mail knows no webhooks: always raises WebhookRefused."""
        raise WebhookRefused(404, "mail_has_no_webhooks")

    def answer(self, received: Received, matter: Matter | None) -> Reply:
        """Never asked for, since `receive` accepts nothing."""
        return Reply(status=404)

    async def probe(self) -> None:
        """Return only if a mail would be taken now: connect, TLS, log in, name the sender, reset; within 5 s."""
        await self._submission.probe()

    async def listen(self, accept: Accept) -> None:
        """Run the IMAP and the LMTP listener until cancelled; without either, wait until then."""
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners:
                group.create_task(listener.listen(accept))
            if not self._listeners:
                await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Let go of idle connections; idempotent."""
        await self._submission.close()


def _server(settings: SmtpSettings, tools: Tools) -> Server:
    oauth2 = settings.oauth2
    return Server(
        host=settings.host,
        port=settings.port,
        tls=settings.tls,
        ca_file=settings.ca_file,
        sender=settings.from_address,
        greet_as=settings.domain,
        username=settings.username,
        password=settings.password.get_secret_value() if settings.password is not None else None,
        tokens=TokenSource(oauth2, tools.http, tools.clock) if oauth2 is not None else None,
        connections_max=settings.connections_max,
        idle_s=settings.idle_s,
    )
