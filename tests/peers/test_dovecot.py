"""A real Dovecot: IDLE over TLS, back-fill, a mailbox renumbered."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from channels.email.imap import ImapListener
from channels.email.imap_settings import ImapSettings
from channels.messages import Accepted, Event, InboundMessage
from channels.sandbox.mail_delivery import deliver, write_mail
from channels.tools import Tools
from channels.wire.mail_parse import Reading
from health.report import EndpointId, Report, Status
from tests.adapter_store import MemoryStore
from tests.clocks import WallClock, until

pytestmark = pytest.mark.peer

CONFIG = """
protocols = imap lmtp
listen = 127.0.0.1
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
auth_mechanisms = plain login
disable_plaintext_auth = no
first_valid_uid = 1
default_internal_user = dovecot
default_login_user = dovenull
mail_location = maildir:~/mail
ssl = yes
ssl_cert = <{home}/certificate.pem
ssl_key = <{home}/key.pem
passdb {{
  driver = static
  args = password=pw
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={home}/users/%u
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""


@dataclass
class Dovecot:
    home: Path
    imaps: int
    lmtp: int

    def start(self) -> None:
        # Its daemons keep the output open: a pipe would never end.
        command = ["dovecot", "-c", str(self.home / "dovecot.conf")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
        deadline = time.monotonic() + 15
        while not (is_open(self.imaps) and is_open(self.lmtp)):
            assert time.monotonic() < deadline, (self.home / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        stop = ["doveadm", "-c", str(self.home / "dovecot.conf"), "stop"]
        subprocess.run(stop, check=False, capture_output=True, timeout=30)
        deadline = time.monotonic() + 15
        while (self.home / "run/master.pid").exists() or is_open(self.imaps):
            assert time.monotonic() < deadline, (self.home / "log").read_text()
            time.sleep(0.05)

    async def deliver(self, user: str, number: int) -> None:
        text = f"Mail {number}"
        to = f"{user}@box.test"
        raw = write_mail("bob@away.test", to, text, subject=text, message_id=f"<{number}@away.test>", answers=None)
        await deliver(raw, "bob@away.test", to, port=self.lmtp, protocol="lmtp")


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    for program in ("dovecot", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install dovecot-imapd dovecot-lmtpd openssl")
    if os.geteuid() != 0:
        pytest.skip("this Dovecot starts as root only")
    home = Path(tempfile.mkdtemp(prefix="tl-dovecot-"))
    home.chmod(0o755)
    (home / "users").mkdir()
    shutil.chown(home / "users", "mail", "mail")
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(home / "key.pem")]
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    command = ["openssl", *options.split(), *names, "-out", str(home / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    server = Dovecot(home, free_port(), free_port())
    (home / "dovecot.conf").write_text(CONFIG.format(home=home, imaps=server.imaps, lmtp=server.lmtp))
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class World:
    dovecot: Dovecot
    user: str
    http: aiohttp.ClientSession
    clock: WallClock = field(default_factory=lambda: WallClock(pause_max_s=0.2))
    store: MemoryStore = field(default_factory=MemoryStore)
    events: list[Event] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def accept(self, event: Event) -> Accepted:
        self.events.append(event)
        return Accepted("c", "m")

    def start(self, **changes: object) -> None:
        table = {
            "host": "127.0.0.1",
            "port": self.dovecot.imaps,
            "ca_file": self.dovecot.home / "certificate.pem",
            "username": f"{self.user}@box.test",
            "password": "pw",
            "idle_s": 30,
        }
        settings = ImapSettings.model_validate(table | changes)
        tools = Tools(
            endpoint=EndpointId("email/acme"),
            http=self.http,
            clock=self.clock,
            store=self.store,
            files=None,
            report=self.reports.append,
            organisation="Acme",
            public_url="https://throughline.test",
        )
        listener = ImapListener(settings, Reading(EndpointId("email/acme"), f"{self.user}@box.test"), tools)
        self.reports.clear()
        self.task = asyncio.create_task(listener.listen(self.accept))

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def until_up(self) -> None:
        await until(lambda: any(report.status is Status.UP for report in self.reports))

    def texts(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, InboundMessage)]


@pytest.fixture
async def world(dovecot: Dovecot, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with aiohttp.ClientSession() as http:
        world = World(dovecot, request.node.name.removeprefix("test_"), http)
        yield world
        await world.stop()


async def test_idle_pushes_over_tls(world: World) -> None:
    """Mail delivered while we idle arrives at once, in order, over a verified certificate."""
    world.start()
    await world.until_up()
    for number in range(1, 6):
        await world.dovecot.deliver(world.user, number)
    await until(lambda: len(world.events) == 5)
    assert world.texts() == [f"Mail {number}" for number in range(1, 6)]


async def test_backfill(world: World) -> None:
    """What arrived while we were away for ten minutes is read afterwards, marked late, once."""
    world.start()
    await world.until_up()
    await world.dovecot.deliver(world.user, 1)
    await until(lambda: len(world.events) == 1)
    await world.stop()
    await world.dovecot.deliver(world.user, 2)
    world.clock.shift_s = 600.0
    world.start()
    await until(lambda: len(world.events) == 2)
    assert [event.late for event in world.events if isinstance(event, InboundMessage)] == [False, True]


async def test_renumbered(world: World) -> None:
    """Dovecot restarted with its UID list gone numbers the mailbox anew: nothing comes twice, what is new comes."""
    world.start()
    await world.until_up()
    await world.dovecot.deliver(world.user, 1)
    await until(lambda: len(world.events) == 1)
    before = next(value for key, value in world.store.kept.items() if key.startswith("imap-cursor"))
    world.dovecot.stop()
    await until(lambda: world.reports[-1].status is Status.DOWN)
    mailbox = world.dovecot.home / "users" / f"{world.user}@box.test" / "mail"
    for path in mailbox.glob("dovecot*"):
        path.unlink()
    await asyncio.sleep(1.1)  # a UIDVALIDITY is the second in which it was made
    world.dovecot.start()
    await world.dovecot.deliver(world.user, 2)
    await until(lambda: len(world.events) >= 2)
    assert world.texts() == ["Mail 1", "Mail 2"]
    await until(
        lambda: next(value for key, value in world.store.kept.items() if key.startswith("imap-cursor")) != before
    )


async def test_wrong_password(world: World) -> None:
    """The login is refused and said to be."""
    world.start(password="wrong")
    await until(lambda: bool(world.reports))
    assert world.reports[0].reason == "login_refused"


async def test_untrusted_certificate(world: World) -> None:
    """Without its certificate among the trusted ones nobody logs in, and the report says why."""
    world.start(ca_file=None)
    await until(lambda: bool(world.reports))
    assert world.reports[0].reason == "certificate_invalid"
