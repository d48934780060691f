"""`throughline drill` as people type it: refused with a reason, or a small one for real, in a process of its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from channels.messages import Address, Channel, InboundMessage
from health.report import EndpointId
from router.cli.app import throughline
from router.domain.conversation import Binding
from router.runtime import open_runtime
from router.settings import Settings, load_settings
from tests.processes import naming

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("sms/none",), 1, "There is no endpoint sms/none"),
        (("chat/web",), 1, "no vendor that could fail"),
        (("email/sandbox", "--for", "1s"), 2, "--for is from 5s to 600s"),
        (("email/sandbox", "--fault", "hang", "--fault", "slow"), 2, "as often as there are endpoints: 1"),
        (("email/sandbox", "--fault", "explode"), 2, "explode"),
    ],
)
def test_a_wrong_order_starts_nothing(arguments: tuple[str, ...], status: int, words: str) -> None:
    """It says what is wrong."""
    result = CliRunner().invoke(throughline, ["drill", *arguments])
    assert result.exit_code == status, result.output
    assert words in result.output and "Starting" not in result.output


SMALL = """
organisation = "Example Parcels"
[[endpoints]]
id = "email/support"
provider = "smtp"
host = "mail.example.invalid"
username = "support"
password = "hush-mail"
from_address = "support@example.invalid"
imap = { host = "imap.example.invalid", username = "support", password = "hush-imap" }
[[endpoints]]
id = "sms/acme"
provider = "smpp"
host = "smpp.example.invalid"
system_id = "real"
password = "hush-sms"
sender = "+33644601234"
"""


def start(folder: Path, redis_url: str, *arguments: str) -> "subprocess.Popen[str]":
    """A drill by the settings in `folder`, which name a real store, in a pipe."""
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment["THROUGHLINE_REDIS_URL"] = redis_url
    command = [sys.executable, "-m", "router", "drill", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def alive(folder: Path) -> list[int]:
    """The processes whose environment or command line names a folder of the drill."""
    return naming(f"{folder}/tmp/throughline-drill-")


def contents(url: str) -> dict[bytes, bytes | None]:
    with redis.Redis.from_url(url) as client:
        return {key: client.dump(key) for key in client.scan_iter()}


async def write_in(settings: Settings) -> None:
    """A customer with a mailbox and a phone waits for an answer in the real store."""
    async with open_runtime(settings, "cli") as runtime:
        mailbox, phone = Address(Channel.EMAIL, "dana@example.invalid"), Address(Channel.SMS, "+33644600001")
        bindings = [Binding(place, verified=True, order=order) for order, place in enumerate((mailbox, phone))]
        await runtime.switchboard.create_customer(name="Dana", locale="en", bindings=bindings)
        await runtime.switchboard.accept(
            InboundMessage(
                endpoint=EndpointId("email/support"),
                vendor_id="1",
                sender=mailbox,
                text="Where?",
                sent_at=0.0,
                subject="",
            )
        )


@pytest.mark.timeout(170)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_small_drill_rehearses_reports_and_touches_nothing(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noticed, moved, came home, status 0; the real store is asked, and is afterwards what it was before."""
    (tmp_path / "throughline.toml").write_text(SMALL)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    asyncio.run(write_in(load_settings()))
    before = contents(redis_url)
    arguments = ("--quick", "--fault", "refuse", "--for", "5s", "--customers", "8")
    with start(tmp_path, redis_url, "email/support", *arguments) as drill:
        told, _ = drill.communicate(timeout=160)
    assert drill.returncode == 0, told
    assert "Ends by itself within" in told and "hold_s = 2" in told
    assert re.search(r"email/support is down, \d+\.\d s after the fault", told), told
    assert "email/support: 7 answers moved: 7 to sms/acme." in told
    assert "email/support: 7 customers told by a notice; 1 answer waited until it was mended; 8 customers" in told
    assert "1 of 8 customers had no other way: 8 (email only)." in told
    assert "The drill succeeded" in told
    assert "In your store now, an outage of email/support:" in told
    assert "1 to sms/acme" in told and "sms/acme takes at most 10 a second" in told
    assert contents(redis_url) == before
    assert not list((tmp_path / "tmp").iterdir()) and not alive(tmp_path)
    assert "\x1b" not in told and "hush" not in told


@pytest.mark.timeout(100)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_the_drill_and_everything_it_started(tmp_path: Path) -> None:
    """While its processes start: status 130, and nothing is left."""
    with start(tmp_path, "redis://127.0.0.1:1/0", "--quick") as drill:
        assert drill.stdout is not None
        deadline = time.monotonic() + 60
        while len(alive(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        drill.send_signal(signal.SIGINT)
        told = drill.stdout.read()
        assert drill.wait(30) == 130, told
    assert "Interrupted" in told and "Traceback" not in told
    deadline = time.monotonic() + 5
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(tmp_path) and not list((tmp_path / "tmp").iterdir())
