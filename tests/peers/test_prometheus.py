"""A real Prometheus: it reads what we tell, and the alerts fire when they should and not before."""

import json
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.up import Up, free_ports, one_up, until

pytestmark = [pytest.mark.peer, pytest.mark.timeout(240)]
DEPLOY = Path(__file__).parents[2] / "deploy/prometheus"
PROMETHEUS, PROMTOOL = shutil.which("prometheus") or "", shutil.which("promtool") or ""
SOON_S = 60.0


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Everything runs, on stand-in vendors."""
    with one_up(tmp_path) as run:
        run.start()
        yield run


def ask(url: str, body: dict[str, object] | None = None) -> bytes:
    """What is answered there."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


class Watcher:
    """Prometheus with our own settings: every second instead of every quarter of a minute, and nothing waits first."""

    def __init__(self, folder: Path, target: str, port: int) -> None:
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "log"
        config, rules = (DEPLOY / "prometheus.yaml").read_text(), (DEPLOY / "alerts.yaml").read_text()
        assert "127.0.0.1:8080" in config and "15s" in config
        folder.mkdir()
        (folder / "prometheus.yaml").write_text(config.replace("127.0.0.1:8080", target).replace("15s", "1s"))
        (folder / "alerts.yaml").write_text(re.sub(r"(?m)^( +for:).*", r"\1 0s", rules))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    PROMETHEUS, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def scrapes(self) -> bool:
        """Whether it has read from us."""
        try:
            found = json.loads(ask(f"{self.url}/api/v1/targets"))
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return False
        return [one["health"] for one in found["data"]["activeTargets"]] == ["up"]

    def evaluated(self) -> int:
        """How many rules it has looked at; 0 while there is one that it has not."""
        groups = json.loads(ask(f"{self.url}/api/v1/rules"))["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
        return len(rules) if all(rule["health"] == "ok" for rule in rules) else 0

    def firing(self) -> set[tuple[str, str]]:
        """Which alerts fire now, and for which endpoint."""
        found = json.loads(ask(f"{self.url}/api/v1/alerts"))["data"]["alerts"]
        return {(one["labels"]["alertname"], one["labels"].get("endpoint", "")) for one in found}


@contextmanager
def watched(folder: Path, target: str) -> Iterator[Watcher]:
    """A Prometheus that watches `target`."""
    one = Watcher(folder, target, free_ports(1))
    try:
        until(one.scrapes, SOON_S, one.log.read_text)
        until(lambda: one.evaluated() > 10, SOON_S, one.log.read_text)
        yield one
    finally:
        one.process.terminate()
        one.process.wait(20)


def test_what_we_tell_is_read_without_a_complaint(up: Up) -> None:
    """Names, types, units and help as Prometheus wants them."""
    told = ask(f"{up.url}/metrics")
    found = subprocess.run([PROMTOOL, "check", "metrics"], input=told, capture_output=True, check=False)
    assert (found.returncode, found.stderr.decode()) == (0, "")


def test_alerts_fire_for_what_is_wrong_and_for_nothing_else(up: Up, tmp_path: Path) -> None:
    """All is well; then mail refuses; then it is back; then nobody is there at all."""
    with watched(tmp_path / "prometheus", up.url.removeprefix("http://")) as prometheus:
        until(lambda: not prometheus.firing(), SOON_S, up.everything)  # it has looked before it had read anything
        ask(f"{up.pocket_url}/api/vendors/email/sandbox/fault", {"fault": "refuse", "share": 1.0})
        until(lambda: ("EndpointDown", "email/sandbox") in prometheus.firing(), SOON_S, up.everything)
        assert {name for name, _ in prometheus.firing()} == {"EndpointDown"}
        ask(f"{up.pocket_url}/api/vendors/email/sandbox/fault", {"fault": "none", "share": 1.0})
        until(lambda: not prometheus.firing(), 120.0, up.everything)
        up.stop(signal.SIGTERM)
        until(lambda: prometheus.firing() == {("WebAbsent", "")}, SOON_S, prometheus.log.read_text)
