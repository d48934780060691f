"""Redis over TLS, behind a login: one server, Sentinel, a Cluster; and what is said where that is set wrongly."""

import asyncio
import gc
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from pydantic import ValidationError

from router.cli.app import throughline
from router.cli.rim import ping
from router.jobs import in_celerys_words
from router.private_redis import find_binary
from router.settings import Settings, default_broker_url
from router.store.connecting import SOCKET_TIMEOUT_S, connect, read_address, without_password
from router.store.redis import Pipelined, StoreUnavailable
from router.store.store import Store
from tests.conftest import chosen_binary
from tests.promised import People
from tests.topologies import Security, make_security, run_cluster, run_single, run_watched, speaks_tls

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
RUNS: dict[str, Any] = {"single": run_single, "sentinel": run_watched, "cluster": run_cluster}


@pytest.fixture(scope="module")
def security() -> Iterator[Security]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate to test TLS with")
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        yield make_security(Path(folder))


@pytest.fixture(scope="module", params=list(RUNS))
def url(request: pytest.FixtureRequest, security: Security) -> Iterator[str]:
    """A store that only its user may use, over TLS."""
    binary = chosen_binary() or find_binary()
    if not speaks_tls(binary):
        pytest.skip("this server was built without TLS")
    with (
        tempfile.TemporaryDirectory(prefix="tl-") as folder,
        RUNS[request.param](Path(folder), binary, security=security) as made,
    ):
        yield made.url


def doctor(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What it says of a store that it cannot use."""
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", url)
    monkeypatch.setenv("THROUGHLINE_BROKER_URL", "redis://127.0.0.1:1/1")
    result = CliRunner().invoke(throughline, ["doctor"])
    assert result.exit_code == 1 and (result.exception is None or isinstance(result.exception, SystemExit))
    return result.output


async def test_messages_go_through(url: str) -> None:
    """Accepted, leased, settled, and the bell heard."""
    redis = Pipelined(connect(url))
    try:
        people = People(Store(redis))
        bell = await redis.subscribe("tl:{s0}:bell")
        for _ in range(3):
            await people.write()
        assert await people.say() == 3
        rung = None
        for _ in range(20):
            rung = rung or await bell.get_message(ignore_subscribe_messages=True, timeout=0.5)
        assert rung is not None
        await bell.aclose()
    finally:
        await redis.close()


WRONG = {
    "password": ("w%3Ard", "wrong-one", "Correct user and password in redis_url"),
    "authority": ("?ssl_ca_certs", "?unread", "?ssl_ca_certs=/path/authority.pem"),
    "no TLS": ("rediss", "redis", "write rediss instead of redis"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_what_is_wrong_is_said_with_its_remedy_and_no_secret(
    url: str, wrong: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By doctor, in a sentence; and a process that runs says it to whoever asks it for something."""
    part, other, remedy = WRONG[wrong]
    changed = url.replace(part, other)
    changed = changed.partition("?")[0] if wrong != "password" else changed
    said = await asyncio.to_thread(doctor, changed, monkeypatch)
    assert remedy in " ".join(said.split()), said
    assert "Traceback" not in said and len(said) < 6000
    for secret in ("w:rd", "w%3Ard", "p@ss", "p%40ss", "wrong-one"):
        assert secret not in said
    redis = Pipelined(connect(changed))
    with pytest.raises(StoreUnavailable) as refused:
        await redis.call("GET", "tl:x")
    assert len(str(refused.value)) < 400 and "w:rd" not in str(refused.value)
    await redis.close()
    await asyncio.sleep(0.2)
    gc.collect()  # what redis-py leaves of a handshake that failed is found here, not in the next test


def test_the_clockwork_believes_no_strangers_certificate(security: Security, tmp_path: Path) -> None:
    """Told nothing but `rediss`, Celery's own transport takes any certificate, and gives it the password."""
    if not speaks_tls(find_binary()):
        pytest.skip("this server was built without TLS")
    with run_single(tmp_path, security=security) as made:
        for url, trusted in ((made.url, True), (made.url.partition("?")[0], False)):
            app = Celery("tests", set_as_current=False)
            app.conf.broker_url, more, app.conf.broker_use_ssl = in_celerys_words(default_broker_url(url))
            assert not more
            with closing(app.connection_for_write()) as connection:
                if trusted:
                    connection.ensure_connection(max_retries=1, timeout=5)
                else:
                    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
                        connection.ensure_connection(max_retries=1, timeout=1)


def test_the_clockwork_follows_sentinels_over_tls_as_its_user(security: Security, tmp_path: Path) -> None:
    """A login of the store's, and TLS to the sentinels, too."""
    if not speaks_tls(find_binary()):
        pytest.skip("this server was built without TLS")
    with run_watched(tmp_path, security=security, sentinels=1) as made:
        app = Celery("tests", set_as_current=False)
        app.conf.broker_url, more, app.conf.broker_use_ssl = in_celerys_words(default_broker_url(made.url))
        app.conf.broker_transport_options = more
        with closing(app.connection_for_write()) as connection:
            connection.ensure_connection(max_retries=2, timeout=5)
            with connection.SimpleQueue("throughline.clockwork") as queue:
                queue.put({"n": 1})
                assert queue.get(timeout=5).payload == {"n": 1}
            with made.primary.client as client:
                names = {row["user"] for row in client.client_list() if row["cmd"] != "client|list"}
        assert "throughline" in names


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("rediss+cluster://h:1?ssl_ca_certs=/no/such/file", "names an ssl_ca_certs that cannot be read"),
        ("rediss://h:1?ssl_ca_certs=/no/such/file", "names an ssl_ca_certs that cannot be read"),
        ("rediss+cluster://h:1?ssl_cert_reqs=none", "must look like"),
        ("redis+cluster://h:1?ssl_check_hostname=false", "must look like"),
    ],
)
def test_tls_that_cannot_be_is_refused_at_the_start(url: str, fault: str) -> None:
    """With the parameter's name."""
    with pytest.raises(ValidationError, match=fault):
        Settings(redis_url=url, broker_url="redis://h:1/1")


def test_a_url_says_whom_to_trust_and_whether_names_count() -> None:
    """As redis-py calls it."""
    address = read_address("rediss+cluster://h:1?ssl_ca_certs=/a.pem&ssl_check_hostname=false")
    assert address is not None and address.facts == {
        "username": None, "password": None, "ssl": True, "ssl_ca_certs": "/a.pem", "ssl_check_hostname": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "shown", "broker"),
    [
        ("unix:///r.sock?db=0&password=hush", "unix:///r.sock?db=0", "redis+socket://:hush@/r.sock?virtual_host=1"),
        ("unix://me:hush@/r.sock", "unix:///r.sock", "redis+socket://me:hush@/r.sock?virtual_host=1"),
        ("redis://h/0?password=hush", "redis://h/0", "redis://h/1?password=hush"),
    ],
)
def test_a_password_may_stand_in_the_query_too(url: str, shown: str, broker: str) -> None:
    """It is shown to nobody, and the broker gets it."""
    assert without_password(url) == shown
    assert default_broker_url(url) == broker


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1,127.0.0.1:2/x", "redis+cluster://127.0.0.1:1"])
async def test_who_is_away_is_not_tried_for_long(url: str) -> None:
    """Each sentinel once: whoever waits for an answer gets it in seconds."""
    began = time.monotonic()
    assert "refused" in await asyncio.to_thread(ping, url)
    redis = Pipelined(connect(url))
    with pytest.raises(StoreUnavailable):
        await redis.call("GET", "tl:x")
    await redis.close()
    assert time.monotonic() - began < 2 * SOCKET_TIMEOUT_S
