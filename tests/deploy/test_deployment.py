"""Image, compose, units and locks: they name what exists."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from channels.messages import Channel
from router.cli.app import throughline

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def blocks(lock: Path) -> dict[str, str]:
    """Each locked package with its hashes."""
    return {
        re.split("[=;[]", block)[0]: block for block in re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text()) if block
    }


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_hold_no_host_names(lock: Path) -> None:
    """Whoever installs uses the index that they trust."""
    assert "://" not in lock.read_text()
    assert "--hash=sha256:" in lock.read_text()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-postgres.lock", "requirements-build.lock"])
def test_the_locks_agree(name: str) -> None:
    """What runs, and what builds it, is what was tested."""
    tested = blocks(ROOT / "requirements-dev.lock")
    for package, block in blocks(ROOT / name).items():
        assert tested[package] == block


def test_compose_runs_every_role_with_commands_that_exist() -> None:
    """And a dispatcher for each channel."""
    text = (ROOT / "deploy/compose.yaml").read_text()
    commands = [re.findall(r'"([^"]+)"', line) for line in re.findall(r"command: (\[.*\])", text)]
    ours = [command for command in commands if command[0] != "redis-server"]
    assert {command[0] for command in ours} == {"web", "dispatch", "supervise", "clockwork"}
    assert {command[2] for command in ours if command[0] == "dispatch"} == {channel.value for channel in Channel}


def test_composes_redis_keeps_what_it_acknowledged() -> None:
    """Every write on disk before it is answered, nothing ever evicted."""
    text = (ROOT / "deploy/compose.yaml").read_text()
    assert '"--appendfsync", "always"' in text
    assert text.count('"--maxmemory-policy", "noeviction"') == 2


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy/systemd").glob("*.service")), ids=lambda unit: unit.name)
def test_units_start_commands_that_exist(unit: Path) -> None:
    """And do not start again what wrong settings ended."""
    text = unit.read_text()
    (command,) = re.findall(r"(?m)^ExecStart=/opt/throughline/bin/throughline (\S+)", text)
    assert command == "%i" or command in throughline.commands
    assert "RestartPreventExitStatus=2" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd itself is asked")
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    """Every section, key and value is one that it knows; only our own program is not where it will be."""
    for unit in (ROOT / "deploy/systemd").iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/throughline/bin/throughline", "/bin/true"))
    names = ["throughline.service", "throughline@web.service", "throughline-dispatch@sms.service", "throughline.target"]
    asked = ["systemd-analyze", "verify", "--man=no", *(f"./{name}" for name in names)]
    found = subprocess.run(asked, cwd=tmp_path, capture_output=True, check=False, timeout=30)
    assert (found.returncode, found.stderr.decode()) == (0, "")


def test_the_image_runs_as_somebody_else_and_says_whether_it_is_well() -> None:
    """Not as root; with a health check; from locked packages only."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert "\nUSER throughline\n" in text
    assert "\nHEALTHCHECK " in text
    assert "--require-hashes" in text
