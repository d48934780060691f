"""A message to ourselves: sent past every queue, read back, and seen by nobody."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from channels.contract import Adapter, Capabilities
from channels.errors import EndpointUnavailable, LocalFault, OutcomeUnknown
from channels.messages import (
    Accepted,
    Address,
    Channel,
    InboundMessage,
    OutboundMessage,
    Receipt,
    ReceiptEvent,
    ReceiptState,
)
from channels.sms.smpp_settings import SmppSettings
from health.report import EndpointId
from router.audit.auditor import audit
from router.canary import Canaries, CanaryPost
from router.cli.doctor import check_canaries
from router.domain.canary import Canary, new_canary_token, read_canary, write_canary
from router.receipts import take_receipt
from router.runtime import Runtime, open_runtime
from router.settings import Settings, load_settings

SMS, BACKUP = EndpointId("sms/sandbox"), EndpointId("sms/backup")
ECHO = Address(Channel.SMS, "+12025550191")
NUMBER = Address(Channel.SMS, "+12025550177")


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """The sandbox's endpoints; a canary is lost after a second, and web and dispatcher seem to run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    async with open_runtime(load_settings(), "web") as opened:
        opened.core.canaries = {SMS: Canary(ECHO, bound_s=1.0)}
        for role in ("web", "dispatch"):
            await opened.board.beat(role, role, opened.clock.now(), {})
        yield opened


async def hear(
    runtime: Runtime, text: str, sender: Address = ECHO, endpoint: EndpointId = SMS, **more: Any
) -> Accepted:
    """Something comes in."""
    event = InboundMessage(endpoint, f"{sender}|{text}", sender, text, runtime.clock.now(), **more)
    return await runtime.switchboard.accept(event)


class Provider:
    """An adapter whose far side does with what it takes as told."""

    def __init__(self, runtime: Runtime, does: str = "echoes") -> None:
        self.capabilities: Capabilities = replace(runtime.core.capabilities[SMS], io_s=1.0)
        self.runtime, self.does = runtime, does
        self.taken: list[OutboundMessage] = []

    async def send(self, message: OutboundMessage) -> Receipt:
        """Take it, or not."""
        if self.does == "breaks off":
            raise OutcomeUnknown("read_timeout", "no answer")
        self.taken.append(message)
        if self.does == "echoes":
            await hear(self.runtime, message.content.text.upper(), message.to)
        elif self.does == "brings it elsewhere":
            await hear(self.runtime, f"Fwd: {message.content.text}", NUMBER, BACKUP)
        return Receipt(("1",))


@asynccontextmanager
async def dispatching(runtime: Runtime, provider: Provider) -> AsyncIterator[None]:
    """A dispatcher sends the canaries."""
    post = asyncio.create_task(CanaryPost(runtime.core, SMS, cast(Adapter, provider)).run())
    try:
        yield
    finally:
        post.cancel()
        await asyncio.gather(post, return_exceptions=True)


@contextmanager
def short_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Do not wait long for a dispatcher."""
    with monkeypatch.context() as patched:
        patched.setattr("router.canary.TAKEN_WITHIN_S", 0.2)
        patched.setattr("router.canary.MARGIN_S", 0.2)
        yield


async def leaves_no_trace(runtime: Runtime) -> None:
    """No customer, no conversation, hidden or not, nothing to send, nothing for the auditor, and no key left behind."""
    store = runtime.core.store
    assert await runtime.core.people.at(ECHO) == []
    keys = [str(key) async for key in store.redis.client.scan_iter("tl:*")]
    left = [key for key in keys if key.startswith(("tl:{s0}:v:", "tl:{s0}:d:", "tl:{s0}:m:", "tl:canary:"))]
    assert not left
    core = runtime.core
    assert not await audit(core.store, core.control, core.board, core.files, now=core.clock.now())


@pytest.mark.parametrize("does", ["echoes", "brings it elsewhere"])
async def test_one_that_comes_back_is_read_and_leaves_no_trace(runtime: Runtime, does: str) -> None:
    """From the address that echoes it, in whatever case, or over another endpoint of ours."""
    provider = Provider(runtime, does)
    async with dispatching(runtime, provider):
        await Canaries(runtime.core).send(SMS)
    (message,) = provider.taken
    assert message.to == ECHO
    assert message.expires_at
    await leaves_no_trace(runtime)


async def test_one_that_was_taken_and_does_not_come_back_is_lost(runtime: Runtime) -> None:
    """That speaks against the provider."""
    async with dispatching(runtime, Provider(runtime, "loses")):
        with pytest.raises(EndpointUnavailable) as lost:
            await Canaries(runtime.core).send(SMS)
    assert lost.value.reason == "canary_lost"
    await leaves_no_trace(runtime)


async def test_one_that_nobody_could_have_read_says_nothing(runtime: Runtime) -> None:
    """While the web role is away webhooks do not reach us."""
    await runtime.board.forget_worker("web")
    async with dispatching(runtime, Provider(runtime, "loses")):
        with pytest.raises(LocalFault, match="web does not run"):
            await Canaries(runtime.core).send(SMS)


async def test_one_that_was_not_surely_taken_says_nothing(runtime: Runtime) -> None:
    """Sends and probes speak for an endpoint that refuses or breaks off."""
    async with dispatching(runtime, Provider(runtime, "breaks off")):
        with pytest.raises(LocalFault, match="read_timeout"):
            await Canaries(runtime.core).send(SMS)
    await leaves_no_trace(runtime)


async def test_one_that_nobody_sends_says_nothing_and_is_not_sent_late(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No dispatcher runs; the one that starts later finds an old wish and drops it."""
    runtime.core.capabilities = dict(runtime.core.capabilities)
    provider = Provider(runtime)
    runtime.core.capabilities[SMS] = provider.capabilities
    with short_patience(monkeypatch):
        with pytest.raises(LocalFault, match="no dispatcher"):
            await Canaries(runtime.core).send(SMS)
        async with dispatching(runtime, provider):
            async with asyncio.timeout(5):
                while await runtime.core.store.redis.call("KEYS", "tl:{s0}:ca:*"):
                    await asyncio.sleep(0.02)
    assert provider.taken == []


@pytest.mark.parametrize("text", ["canary 0123456789abcdef0123", "Message blocked", "STOP", "Ref ABCDE"])
async def test_whatever_else_our_own_address_says_is_filed_nowhere(runtime: Runtime, text: str) -> None:
    """A late echo, a word of the provider's: nobody is asked who they are, nobody becomes a customer."""
    assert await hear(runtime, text) == Accepted()
    await leaves_no_trace(runtime)


async def test_a_customer_who_writes_of_canaries_is_heard(runtime: Runtime) -> None:
    """Only a token that we await makes a canary."""
    accepted = await hear(runtime, write_canary(new_canary_token()), NUMBER)
    assert accepted.conversation_id


def test_doctor_names_endpoints_that_could_lose_unnoticed() -> None:
    """And says where the others' canaries go, and when."""
    table = {"provider": "smpp", "host": "127.0.0.1", "system_id": "us", "password": "p" * 8, "sender": "+12025550100"}
    canary = {"canary": ECHO.value, "canary_every_s": 600.0}
    endpoints = [{"id": "sms/acme", **table}, {"id": "sms/post", **table, **canary}]
    bare, watched = check_canaries(Settings.model_validate({"endpoints": endpoints}))
    assert (bare.subject, bare.fault) == ("sms/acme", False)
    assert "Set canary" in bare.remedy
    assert (watched.subject, watched.words) == ("sms/post", "a canary goes to +12025550191 every 600 s")


def test_a_token_is_found_in_what_a_mail_program_made_of_it() -> None:
    """In a subject, in capitals, with words around it."""
    token = new_canary_token()
    assert read_canary(f"Re: {write_canary(token).upper()}\nsent from my telephone") == token
    assert read_canary("my canary died") == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"canary": "echo@example.org"}, "must be a number"),
        ({"canary": "2025550190"}, "must be a number"),
        ({"canary_every_s": 10.0}, "needs canary"),
    ],
)
def test_a_canary_that_could_never_come_back_is_refused_at_start(wrong: dict[str, Any], words: str) -> None:
    """With the remedy."""
    table = {"id": "sms/acme", "provider": "smpp", "host": "127.0.0.1", "system_id": "us", "password": "p" * 8}
    with pytest.raises(ValueError, match=words):
        SmppSettings.model_validate(table | {"sender": "+12025550100"} | wrong)


async def test_what_is_said_later_of_a_canary_is_not_worth_a_line(runtime: Runtime) -> None:
    """One goes out every few seconds: its receipts stay out of the log that people read."""
    provider = Provider(runtime)
    async with dispatching(runtime, provider):
        await Canaries(runtime.core).send(SMS)
    event = ReceiptEvent(SMS, ReceiptState.DELIVERED, runtime.clock.now(), provider.taken[0].token)
    with capture_logs() as said:
        await take_receipt(runtime.core, runtime.desk, event)
    assert [(one["event"], one["log_level"]) for one in said] == [("receipt.of_canary", "debug")]
