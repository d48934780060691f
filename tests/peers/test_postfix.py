"""A real Postfix: submission to it, deliveries from it, its bounces, its queue while we cannot store."""

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
from types import SimpleNamespace

import aiohttp
import pytest
from aiosmtpd.smtp import SMTP

from channels.email.smtp import SmtpAdapter, SmtpSettings
from channels.errors import EndpointUnavailable, RecipientUnreachable
from channels.messages import (
    Accepted,
    Address,
    Channel,
    Content,
    Event,
    InboundMessage,
    Kind,
    Matter,
    OutboundMessage,
    ReceiptEvent,
)
from channels.sandbox.mail_delivery import write_mail
from channels.tools import Tools
from health.report import EndpointId
from tests.clocks import WallClock, until

pytestmark = pytest.mark.peer

MAIN = """
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/state
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file_prefixes = {home}
maillog_file = {home}/log
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.router.test
mydestination =
local_recipient_maps =
mynetworks = 127.0.0.0/8
relay_domains = router.test
transport_maps = inline:{{ {{router.test = lmtp:inet:127.0.0.1:{lmtp}}}, {{dead.test = smtp:[127.0.0.1]:{refuser}}} }}
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{nobody@away.test = 550 5.1.1 unknown}} }},
    permit_mynetworks, reject
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
lmtp_connection_cache_on_demand = no
"""
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
showq unix n - n - - showq
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass
class Postfix:
    home: Path
    port: int
    lmtp: int
    refuser: int
    """Where another server refuses whoever is written to."""

    def control(self, command: str) -> None:
        done = subprocess.run(
            ["postfix", "-c", str(self.home / "etc"), command], check=False, capture_output=True, timeout=30
        )
        assert done.returncode == 0, done.stderr + (self.home / "log").read_bytes()[-2000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    if shutil.which("postfix") is None:
        pytest.skip("Postfix is not installed: apt-get install --no-install-recommends postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix starts as root only")
    # Not under pytest's own folder, which other users, as Postfix's daemons are, may not enter.
    home = Path(tempfile.mkdtemp(prefix="tl-postfix-"))
    home.chmod(0o755)
    for name in ("etc", "queue", "state"):
        (home / name).mkdir()
    shutil.chown(home / "state", "postfix")
    server = Postfix(home, free_port(), free_port(), free_port())
    (home / "etc/main.cf").write_text(MAIN.format(home=home, lmtp=server.lmtp, refuser=server.refuser))
    (home / "etc/master.cf").write_text(MASTER.format(port=server.port))
    try:
        server.control("start")
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", server.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (home / "log").read_text()
                time.sleep(0.05)
        yield server
    finally:
        subprocess.run(["postfix", "-c", str(home / "etc"), "abort"], check=False, capture_output=True, timeout=30)
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class World:
    adapter: SmtpAdapter
    events: list[Event] = field(default_factory=list)
    failing: bool = False
    refused: int = 0

    async def accept(self, event: Event) -> Accepted:
        if self.failing:
            self.refused += 1
            raise RuntimeError("cannot store")
        self.events.append(event)
        return Accepted("c", "m")


@pytest.fixture
async def world(postfix: Postfix) -> AsyncIterator[World]:
    settings = SmtpSettings(
        id="email/acme",
        provider="smtp",
        host="127.0.0.1",
        port=postfix.port,
        tls="none",
        from_address="support@router.test",
        lmtp={"port": postfix.lmtp},
    )
    async with aiohttp.ClientSession() as http:
        tools = Tools(
            endpoint=EndpointId("email/acme"),
            http=http,
            clock=WallClock(),
            store=None,
            files=None,
            report=lambda report: None,
            organisation="Acme",
            public_url="https://throughline.test",
        )
        world = World(SmtpAdapter(settings, tools))
        listening = asyncio.create_task(world.adapter.listen(world.accept))
        yield world
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await world.adapter.close()


def message(to: str, token: str = "s0.attempt+1") -> OutboundMessage:
    return OutboundMessage(
        message_id="m1",
        conversation_id="c1",
        token=token,
        kind=Kind.MESSAGE,
        to=Address(Channel.EMAIL, to),
        content=Content("Grüße\n.\n..dots"),
        matter=Matter("Acme", "4F2K9", "en", subject="Parcel", mail_thread=("<a@x>",)),
        reply_token="sealed-1",
        created_at=time.time(),
    )


async def test_out_through_postfix_and_in_through_its_lmtp(world: World) -> None:
    """What we submit comes back whole by LMTP: text, thread, token; and is known as our own, hence automatic."""
    await world.adapter.probe()
    await world.adapter.send(message("support+sealed-1@router.test"))
    await until(lambda: bool(world.events))
    [event] = world.events
    assert isinstance(event, InboundMessage)
    assert event.text == "Grüße\n.\n..dots"
    assert event.vendor_id == "<m1@router.test>"
    assert event.reply_token == "sealed-1"
    assert event.in_reply_to == ("<a@x>",)
    assert event.automatic


async def test_postfix_keeps_what_we_could_not_store(world: World, postfix: Postfix) -> None:
    """While `accept` fails Postfix is told 451 and keeps the mail; it comes once when we can store again."""
    world.failing = True
    raw = write_mail("bob@away.test", "support@router.test", "Help", subject="x", message_id="<b@x>", answers=None)
    subprocess.run(
        [shutil.which("python3") or "python3", "-c", SUBMIT, str(postfix.port)], input=raw, check=True, timeout=20
    )
    await until(lambda: world.refused >= 1)
    world.failing = False
    postfix.control("flush")
    await until(lambda: bool(world.events))
    [event] = world.events
    assert isinstance(event, InboundMessage)
    assert (event.text, event.vendor_id, event.automatic) == ("Help", "<b@x>", False)


SUBMIT = """
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1])) as server:
    server.sendmail("bob@away.test", ["support@router.test"], sys.stdin.buffer.read())
"""


async def test_a_bounce_of_postfix_ends_the_attempt(world: World, postfix: Postfix) -> None:
    """Taken, refused by the next server: its delivery status notification carries our ENVID back, `+` and all."""

    async def refuse(*arguments: object) -> str:
        return "550 5.1.1 no such user here"

    loop = asyncio.get_running_loop()
    refuser = await loop.create_server(
        lambda: SMTP(SimpleNamespace(handle_RCPT=refuse), loop=loop), "127.0.0.1", postfix.refuser
    )
    await world.adapter.send(message("customer@dead.test"))
    await until(lambda: bool(world.events))
    refuser.close()
    [event] = world.events
    assert isinstance(event, ReceiptEvent)
    assert (event.token, event.reason, event.permanent) == ("s0.attempt+1", "dsn_5.1.1", True)


async def test_a_refused_recipient(world: World) -> None:
    """550 5.1.1 at RCPT is the recipient's, and the connection goes on."""
    with pytest.raises(RecipientUnreachable, match=r"smtp_550_5\.1\.1"):
        await world.adapter.send(message("nobody@away.test"))
    await world.adapter.probe()


async def test_a_stopped_postfix_is_down(world: World, postfix: Postfix) -> None:
    """Stopped, then started again: refused, then fine, also over what was a pooled connection."""
    await world.adapter.send(message("support@router.test"))
    postfix.control("abort")
    with pytest.raises(EndpointUnavailable, match="connect_"):
        await world.adapter.send(message("support@router.test"))
    postfix.control("start")
    await until(lambda: _is_open(postfix.port))
    await world.adapter.send(message("support@router.test"))


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
