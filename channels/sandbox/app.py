"""The sandbox, put together: stand-in vendors for mail, text messages and calls, and the customer's pocket."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

import structlog
from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from channels.sandbox.mail import MailVendor
from channels.sandbox.pocket_site import Person, PocketSite
from channels.sandbox.smsc import SmscVendor
from channels.sandbox.twilio import TwilioSmsVendor, TwilioVoiceVendor
from channels.sandbox.vendor import Journal, Vendor

MAIL = "email/sandbox"
SMS = "sms/sandbox"
SMS_BACKUP = "sms/backup"
PHONE = "phone/sandbox"
SUPPORT_MAILBOX = "support@throughline.test"
SMS_NUMBER = "+12025550181"
SMS_BACKUP_NUMBER = "+12025550182"
PHONE_NUMBER = "+12025550183"
CANARIES = {MAIL: "canary@sandbox.test", SMS: "+12025550191", SMS_BACKUP: "+12025550192"}
"""Addresses that send back what reaches them, as the mailbox and the telephones of our own would."""
CANARY_EVERY_S = 10.0
CANARY_BOUND_S = 10.0
DEMO_CUSTOMERS = (
    Person(name="Dana Vogt", email="dana@customer.test", phone="+12025550100"),
    Person(name="Eli Marsh", email="eli@customer.test", phone="+12025550101"),
)
"""Whose pockets there are: the first one's is open until another is chosen. Two, because a customer's new mail joins
their open conversation: only somebody else begins a new one. Numbers 202-555-01xx are kept for fiction."""
JOURNAL_FILE = "vendors.jsonl"

log = structlog.get_logger()


def _check_loopback(host: str) -> str:
    if host != "localhost" and not _is_loopback(host):
        raise ValueError("the sandbox has no login: it listens on loopback only")
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Port = Annotated[int, Field(ge=0, le=65_535)]


class SandboxSettings(BaseModel):
    """Where the sandbox listens, and where it reaches the router. Port 0: any free one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, AfterValidator(_check_loopback)] = "127.0.0.1"
    """Of the pocket; vendors always listen on 127.0.0.1."""
    pocket_port: Port = 8090
    mail_port: Port = 8091
    """Mail submission."""
    sms_port: Port = 8092
    """SMPP."""
    sms_backup_port: Port = 8093
    """REST of the second SMS account."""
    phone_port: Port = 8094
    """REST of the voice account."""
    lmtp_port: Port = 8095
    """Where the router's own mail listener is; the mail vendor delivers there."""
    router_url: str = "http://127.0.0.1:8080"
    """Where vendors call webhooks, without a trailing slash."""
    journal_folder: Path | None = None
    """Everything that crosses the wires is appended to `vendors.jsonl` there; None: kept in memory only."""
    secret: SecretStr = SecretStr("")
    """The accounts' credentials are derived from it, so that the router knows them before the sandbox runs.
    Empty: random ones."""
    phone_auto: Literal["manual", "answer", "voicemail"] = "manual"
    """Who takes calls: the person at the pocket, somebody who presses a key, or a machine."""


class _SandboxTable(Protocol):
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class RouterSettings(Protocol):
    """What the sandbox reads of the router's settings."""

    @property
    def public_url(self) -> str:
        """Where the web role is reached."""

    @property
    def data_dir(self) -> Path:
        """The journal goes beneath it."""

    @property
    def secret(self) -> SecretStr:
        """Credentials are derived from it."""

    @property
    def sandbox(self) -> _SandboxTable:
        """`[sandbox]`: the pocket's address; vendors take the ports after it."""


def sandbox_settings(settings: RouterSettings) -> SandboxSettings:
    """The sandbox of a router: the pocket on `[sandbox] port`, vendors and the mail listener on the five after it."""
    port = settings.sandbox.port
    return SandboxSettings(
        host=settings.sandbox.host,
        pocket_port=port,
        mail_port=port + 1,
        sms_port=port + 2,
        sms_backup_port=port + 3,
        phone_port=port + 4,
        lmtp_port=port + 5,
        router_url=settings.public_url.rstrip("/") or SandboxSettings().router_url,
        journal_folder=settings.data_dir / "sandbox",
        secret=settings.secret,
    )


def endpoint_tables(settings: SandboxSettings) -> list[dict[str, object]]:
    """The `[[endpoints]]` tables under which the router reaches these vendors.

    Known without starting anything where all ports and the secret are set; else ask `Sandbox.endpoint_tables` after
    `start`.
    """
    return _tables(build_vendors(settings, Journal()))


def _tables(vendors: Iterable[Vendor]) -> list[dict[str, object]]:
    times = {"canary_every_s": CANARY_EVERY_S, "canary_bound_s": CANARY_BOUND_S}
    return [
        vendor.endpoint_table() | ({"canary": vendor.canary, **times} if vendor.canary else {}) for vendor in vendors
    ]


def build_vendors(settings: SandboxSettings, journal: Journal) -> Sequence[Vendor]:
    """The four vendors, not started: mail, two SMS accounts on different protocols, and voice."""
    secret = settings.secret.get_secret_value()
    return (
        MailVendor(
            journal,
            endpoint=MAIL,
            from_address=SUPPORT_MAILBOX,
            port=settings.mail_port,
            inbound_port=settings.lmtp_port,
            password=_credential(secret, MAIL),
            canary=CANARIES[MAIL],
        ),
        SmscVendor(
            journal,
            endpoint=SMS,
            port=settings.sms_port,
            number=SMS_NUMBER,
            # SMPP allows eight octets and a NUL (SMPP 3.4, section 5.2.2).
            password=_credential(secret, SMS)[:8] or "sandbox",
            canary=CANARIES[SMS],
        ),
        TwilioSmsVendor(
            SMS_BACKUP,
            journal,
            settings.router_url,
            number=SMS_BACKUP_NUMBER,
            port=settings.sms_backup_port,
            auth_token=_credential(secret, SMS_BACKUP),
            canary=CANARIES[SMS_BACKUP],
        ),
        TwilioVoiceVendor(
            PHONE,
            journal,
            settings.router_url,
            number=PHONE_NUMBER,
            port=settings.phone_port,
            auth_token=_credential(secret, PHONE),
            auto=settings.phone_auto,
        ),
    )


def _credential(secret: str, endpoint: str) -> str:
    if not secret:
        return ""
    return hmac.new(secret.encode(), f"sandbox:{endpoint}".encode(), hashlib.sha256).hexdigest()[:32]


class Sandbox:
    """All of it in one process; `start` and `stop` once each."""

    def __init__(
        self, settings: SandboxSettings, *, vendors: Sequence[Vendor] | None = None, journal: Journal | None = None
    ) -> None:
        self.settings = settings
        if settings.journal_folder is not None:
            settings.journal_folder.mkdir(parents=True, exist_ok=True)
        file = settings.journal_folder / JOURNAL_FILE if settings.journal_folder else None
        self.journal = Journal(file) if journal is None else journal
        """What `vendors` write in, where they are given."""
        built = build_vendors(settings, self.journal) if vendors is None else vendors
        self.vendors: Mapping[str, Vendor] = {vendor.endpoint: vendor for vendor in built}
        """By endpoint id."""
        self.pocket_url = ""
        """Known after `start`."""
        self._runner: web.AppRunner | None = None
        self._started: list[Vendor] = []

    async def start(self) -> None:
        """Listen everywhere, the pocket last; nothing is left running when a port is taken (OSError)."""
        try:
            for vendor in self.vendors.values():
                await vendor.start()
                self._started.append(vendor)
            await self._open_pocket()
        except BaseException:  # a cancellation too: leave no port taken
            await self.stop()
            raise
        log.info("sandbox.started", pocket=self.pocket_url, vendors=sorted(self.vendors))

    async def _open_pocket(self) -> None:
        router = self.settings.router_url
        site = PocketSite(
            self.vendors,
            self.journal,
            people=DEMO_CUSTOMERS,
            links={"chat": f"{router}/chat", "console": f"{router}/console/"},
        )
        self._runner = web.AppRunner(site.build_app(), shutdown_timeout=0.5, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.settings.host, self.settings.pocket_port, reuse_address=True).start()
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self.pocket_url = f"http://{host}:{self._runner.addresses[0][1]}/"

    async def stop(self) -> None:
        """End it all; idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        for vendor in reversed(self._started):
            await vendor.stop()
        self._started.clear()
        self.journal.close()

    def endpoint_tables(self) -> list[dict[str, object]]:
        """The `[[endpoints]]` tables of the running vendors."""
        return _tables(self.vendors.values())


async def serve(settings: SandboxSettings) -> None:
    """Run the sandbox until cancelled. Raises OSError when a port is taken."""
    sandbox = Sandbox(settings)
    await sandbox.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await sandbox.stop()


async def run_sandbox(settings: RouterSettings) -> None:
    """Run the sandbox of a router until cancelled; what `throughline sandbox` does."""
    await serve(sandbox_settings(settings))
