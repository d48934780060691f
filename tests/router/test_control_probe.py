"""The control probe on real sockets, and what it decides when three providers fail within a minute."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from channels.contract import Capabilities
from channels.errors import EndpointUnavailable, LocalFault
from channels.messages import Address, Channel
from health.monitor import CONTROL_BOUND_S
from health.report import Direction, EndpointId, Evidence, Status, Verdict, Witness
from router.cli import doctor
from router.control_probe import CONNECT_WITHIN_S, ControlHost, control_of, hear_any, read_control_host
from router.domain.conversation import Binding
from router.mover import Mover
from router.pace import Pace
from router.runtime import open_runtime
from router.settings import Settings
from router.store.store import Store
from router.supervisor import Supervisor
from tests.clocks import StillClock

STEP_S = 0.25
MAIL, SPARE, SMS, PHONE = map(EndpointId, ("email/acme", "email/spare", "sms/other", "phone/third"))


@pytest.fixture
async def host() -> AsyncIterator[ControlHost]:
    """A host that takes connections."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield ControlHost("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.fixture
def closed() -> ControlHost:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ControlHost("127.0.0.1", probe.getsockname()[1])


async def test_one_host_that_answers_is_enough(host: ControlHost, closed: ControlHost) -> None:
    """The other may be down by itself, or have no name."""
    await hear_any([closed, host, ControlHost("nowhere.invalid", 443)])


async def test_it_fails_only_when_all_fail(closed: ControlHost) -> None:
    """Refused and unknown alike; the words name them."""
    with pytest.raises(LocalFault, match=rf"127\.0\.0\.1:{closed.port}, nowhere\.invalid:443"):
        await hear_any([closed, ControlHost("nowhere.invalid", 443)])


async def test_a_host_that_says_nothing_is_not_waited_for_long(host: ControlHost) -> None:
    """A backlog that is full swallows what comes; the bound is below the monitor's, and one that answers is quick."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        silent = ControlHost("127.0.0.1", deaf.getsockname()[1])
        fill = [socket.socket() for _ in range(4)]
        try:
            for one in fill:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", silent.port))
            began = time.monotonic()
            with pytest.raises(LocalFault):
                await hear_any([silent, silent])
            assert time.monotonic() - began >= CONNECT_WITHIN_S
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await hear_any([silent, host])
        finally:
            for one in fill:
                one.close()
    assert CONNECT_WITHIN_S < CONTROL_BOUND_S


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("[2001:db8::1]:53", "2001:db8::1", 53),
        ("www.example.org:80", "www.example.org", 80),
    ],
)
def test_hosts_are_read_as_they_are_written(text: str, host: str, port: int) -> None:
    """Numbers of both kinds, and names."""
    assert read_control_host(text) == ControlHost(host, port)
    assert str(read_control_host(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "example.org",
            "example.org:",
            ":443",
            "https://example.org:443",
            "u@h:1",
            "h:0",
            "h:70000",
            "h:1/x",
            "a b:1",
        ),
        *("", "2001:db8::1:53", "x" * 64 + ":1"),
    ],
)
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    """The words show how it is written."""
    with pytest.raises(ValueError, match=r"write it like 192\.0\.2\.1:443"):
        read_control_host(text)


def test_without_hosts_there_is_no_control_probe() -> None:
    """None and an answer that is never asked for are not the same to the monitor."""
    assert control_of(()) is None


async def test_doctor_says_what_is_lost_without_them_and_tries_those_there_are(
    host: ControlHost, closed: ControlHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fault without them; a silent one is, and so is one on this machine, which always answers."""
    (none,) = await doctor.check_control_hosts(Settings())
    assert (none.fault, "may move everybody" in none.words) == (False, True)
    assert "Set control_hosts" in none.remedy
    (local,) = await doctor.check_control_hosts(Settings(control_hosts=(str(host), f"localhost:{host.port}")))
    assert (local.fault, "is this machine" in local.words) == (True, True)
    monkeypatch.setattr(ControlHost, "is_local", False)
    (silent,) = await doctor.check_control_hosts(Settings(control_hosts=(str(host), f"localhost:{closed.port}")))
    assert (silent.fault, silent.words) == (True, f"localhost:{closed.port} takes no connection")
    (well,) = await doctor.check_control_hosts(Settings(control_hosts=(str(host), f"localhost:{host.port}")))
    assert (well.fault, well.words) == (False, "all 2 answer")


@dataclass
class Provider:
    """An endpoint that can be probed."""

    capabilities: Capabilities
    dead: bool = False

    async def probe(self) -> None:
        if self.dead:
            raise EndpointUnavailable("connect_refused", "nobody there")

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Stage:
    """Four providers under a supervisor with the settings' control hosts; one message a second over each."""

    runtime: Any
    clock: StillClock
    providers: dict[EndpointId, Provider]
    frozen_at: list[float] = field(default_factory=list)
    words: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        core = self.runtime.core
        self.supervisor = Supervisor(core, self.providers, self.runtime.desk, "supervise-1")
        self.monitor = self.supervisor.make_monitor()
        self.pace = Pace(core.capabilities)
        self.mover = Mover(core, self.pace)

    async def pass_time(self, seconds: float) -> None:
        """In quarters of a second; what a step sets going (probes, the control probe) ends before the next."""
        for step in range(round(seconds / STEP_S)):
            self.clock.at += STEP_S
            if step % 4 == 0:
                await self.runtime.board.record([self._said(one) for one in self.providers])
            mine = asyncio.all_tasks()
            await self.monitor.step(self.clock.at)
            await asyncio.gather(*(asyncio.all_tasks() - mine), return_exceptions=True)
            await self.supervisor.step(self.monitor, self.mover, self.pace)
            if self.monitor.frozen is not None:
                self.frozen_at.append(self.clock.at)
                self.words.add(self.monitor.frozen.words)

    def _said(self, endpoint: EndpointId) -> Evidence:
        verdict = Verdict.FAILURE if self.providers[endpoint].dead else Verdict.OK
        reason = "connect_refused" if self.providers[endpoint].dead else ""
        return Evidence(endpoint, Direction.OUT, verdict, Witness.OUTCOME, self.clock.at, "", reason)

    async def talk(self) -> str:
        """A conversation by mail with something to say."""
        binding = Binding(Address(Channel.EMAIL, "dana@customer.test"), verified=True)
        made = await self.runtime.switchboard.create_customer(name="Dana", locale="en", bindings=[binding])
        said = {"author": "a0-1", "author_name": "Ada", "idempotency_key": "k1"}
        sent = await self.runtime.switchboard.open_conversation(made.id, subject="Order", text="Hello.", **said)
        return str(sent.conversation_id)

    async def where(self, conversation: str) -> str:
        return str((await self.runtime.switchboard.conversation(conversation)).customer_side.leg.endpoint)

    async def kinds(self) -> list[str]:
        return [entry["k"] for _, entry in await self.runtime.store.journal_last(0, 1000)]


@pytest.fixture
async def stage_with(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Builds a stage with these control hosts."""
    opened: list[Any] = []

    async def build(*hosts: ControlHost) -> Stage:
        clock = StillClock()
        kinds = ((MAIL, Channel.EMAIL, "acme"), (SPARE, Channel.EMAIL, "spare"))
        kinds += ((SMS, Channel.SMS, "other"), (PHONE, Channel.PHONE, "third"))
        providers = {one: Provider(Capabilities(way, who, 100_000, 5.0, rate_per_s=50.0)) for one, way, who in kinds}
        monkeypatch.setattr("router.runtime._adapters", lambda *_: providers)
        # One machine has many names: here they stand for hosts of different owners.
        names = tuple(f"{name}:{one.port}" for name, one in zip(("127.0.0.1", "localhost"), hosts, strict=False))
        settings = Settings(redis_url=redis_url, data_dir=tmp_path, secret="s" * 40, control_hosts=names)
        opening = open_runtime(settings, "supervise", clock=clock)
        runtime = await opening.__aenter__()
        opened.append(opening)
        runtime.core.store = Store(runtime.core.store.redis, now_ms=lambda: round(clock.at * 1000))
        stage = Stage(runtime, clock, providers)
        opened.append(stage)
        await stage.pass_time(5)
        return stage

    yield build
    for one in reversed(opened):
        await (one.monitor.close() if isinstance(one, Stage) else one.__aexit__(None, None, None))


async def fail_three(stage: Stage) -> str:
    """Three of four providers die in one moment, mail among them; the conversation that waits there."""
    conversation = await stage.talk()
    assert await stage.where(conversation) == MAIL
    for endpoint in (MAIL, SMS, PHONE):
        stage.providers[endpoint].dead = True
    return conversation


async def test_while_a_control_host_answers_three_outages_are_believed(stage_with: Any, host: ControlHost) -> None:
    """Our way out works, so it is them: what waits is moved within seconds, not after the minute."""
    stage = await stage_with(host, host)
    conversation = await fail_three(stage)
    await stage.pass_time(10)
    assert await stage.where(conversation) == SPARE
    down = {key[0] for key, one in (await stage.runtime.core.statuses()).items() if one.status is Status.DOWN}
    assert down == {MAIL, SMS, PHONE}
    assert stage.frozen_at == []
    assert "moves.frozen" not in await stage.kinds()


async def test_while_no_control_host_answers_it_is_us(stage_with: Any, closed: ControlHost) -> None:
    """Nothing is moved for longer than the minute, the words say why, and it ends with the fault."""
    stage = await stage_with(closed, closed)
    conversation = await fail_three(stage)
    await stage.pass_time(90)
    assert await stage.where(conversation) == MAIL
    assert stage.monitor.frozen is not None
    assert stage.words == {"3 of 4 provider families fail at once, and so does the control probe"}
    told = await stage.runtime.switchboard.frozen()
    assert told is not None
    assert told.words in stage.words
    assert (await stage.kinds()).count("moves.frozen") == 1
    for provider in stage.providers.values():
        provider.dead = False
    await stage.pass_time(60)
    assert await stage.runtime.switchboard.frozen() is None
    assert (await stage.kinds()).count("moves.resumed") == 1
    assert await stage.where(conversation) == MAIL


async def test_without_control_hosts_three_outages_at_once_freeze_for_a_minute(stage_with: Any) -> None:
    """What the setting is for: without it nobody can say whose fault it is, and everybody waits; once, not twice."""
    stage = await stage_with()
    conversation = await fail_three(stage)
    await stage.pass_time(50)
    assert await stage.where(conversation) == MAIL
    assert stage.words == {"3 of 4 provider families fail at once"}
    await stage.pass_time(40)
    assert await stage.where(conversation) == SPARE
    assert 30 < stage.frozen_at[-1] - stage.frozen_at[0] < 65
