"""`throughline up` as people run it: one command, one process tree, nothing left behind."""

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.up import STOP_WITHIN_S, Up, alive, one_up, until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """Not started; ended in any case."""
    with one_up(tmp_path) as run:
        yield run


def test_up_starts_says_where_to_look_and_stops_without_a_trace(up: Up) -> None:
    """The pages answer; Ctrl-C ends every child and every socket."""
    up.start()
    key = (up.folder / "var/admin.key").read_text().strip()
    assert f"/console/#{key}" in up.said
    for path in ("/healthz", "/readyz", "/console/", "/chat", "/docs"):
        with urllib.request.urlopen(up.url + path, timeout=10) as answer:
            assert answer.status == 200, path
    with urllib.request.urlopen(up.pocket_url, timeout=10) as pocket:
        assert pocket.status == 200
    request = urllib.request.Request(f"{up.url}/v1/endpoints", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "sandbox" in json.dumps(json.load(answer))

    children = up.stop(signal.SIGINT)
    assert up.process is not None
    assert up.process.returncode == 0, up.everything()
    assert len(children) >= 8
    assert [pid for pid in children if alive(pid)] == []
    assert list((up.folder / "var").rglob("*.sock")) == []
    assert "Stopped." in up.said


def test_a_killed_up_takes_its_children_along_and_the_next_one_takes_over(up: Up) -> None:
    """SIGKILL leaves only the Redis behind; the next start ends it, opens the same folder and finds everything."""
    up.start()
    children = up.stop(signal.SIGKILL)
    redis_pids = [pid for pid in children if "redis-server" in Path(f"/proc/{pid}/cmdline").read_text()]
    roles = [pid for pid in children if pid not in redis_pids]
    until(lambda: not any(alive(pid) for pid in roles), STOP_WITHIN_S, up.everything)
    key = (up.folder / "var/admin.key").read_text().strip()
    up.start()
    assert not any(alive(pid) for pid in redis_pids)
    assert f"/console/#{key}" in up.said
