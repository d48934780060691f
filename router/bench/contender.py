"""The contender's process: the real dispatcher or web role, or a bare client that does the same POSTs."""

import asyncio
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
from aiohttp import web
from pydantic import SecretStr

from channels.messages import Accepted, Event
from channels.sms.twilio import TwilioSmsSettings
from health.report import EndpointId
from router.audit.auditor import audit
from router.bench.child import Answer, new_loop, serve_questions
from router.bench.load import HERE, THERE, body, phone
from router.dispatcher import Dispatcher
from router.domain.conversation import SideName
from router.domain.failover import plan_failover
from router.domain.ids import new_id
from router.operations import affected_sides, limits_of
from router.runtime import Runtime, open_runtime
from router.settings import Settings
from router.store.asked import Rebind
from router.store.codec import Notice
from router.store.store import BATCH_MAX
from router.switchboard import Switchboard
from router.telemetry import configure_logging
from router.web.app import build_app
from router.workers import worker_name

ACCOUNT = "AC" + "0" * 32
AUTH_TOKEN = "bench-token"  # noqa: S105 - of the stand-in provider
OUR_NUMBER = "+15559999999"
PUBLIC_URL = "http://127.0.0.1:1"
IN_FLIGHT = 32
LOOK_EVERY_S = 0.004
DRAIN_WITHIN_S = 100.0
_HEADERS = {
    "Authorization": "Basic " + b64encode(f"{ACCOUNT}:{AUTH_TOKEN}".encode()).decode(),
    "Accept": "application/json",
}


def bench_settings(folder: Path, redis_url: str, provider_url: str) -> Settings:
    """Defaults, but for two Twilio endpoints at the stand-in provider, as fast as the settings allow."""
    endpoints = tuple(
        TwilioSmsSettings(
            id=endpoint,
            provider="twilio-sms",
            account_sid=ACCOUNT,
            auth_token=SecretStr(AUTH_TOKEN),
            from_number=OUR_NUMBER,
            api_base=provider_url,
            rate_per_s=10_000,
        )
        for endpoint in (HERE, THERE)
    )
    return Settings(
        organisation="Bench",
        public_url=PUBLIC_URL,
        redis_url=redis_url,
        data_dir=folder,
        secret=SecretStr("0" * 32),
        endpoints=endpoints,
    )


class Forgetful(Switchboard):
    """Takes everything and keeps nothing: what is left of an ingest without Redis."""

    async def accept(self, event: Event) -> Accepted:
        """Say that it was taken."""
        return Accepted("v0-0", "m0-0")


class Contender:
    """Answers the parent's questions, one at a time."""

    def __init__(self, runtime: Runtime, provider_url: str) -> None:
        self._runtime = runtime
        self._messages = f"{provider_url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
        self._serving: web.AppRunner | None = None
        self._running: list[asyncio.Task[None]] = []

    async def answer(self, question: Answer) -> Answer:
        """Do what is asked; figures come back with the CPU seconds they cost this process."""
        cpu_s = time.process_time()
        match question["do"]:
            case "bare":
                answer = await self._bare(question["conversations"], question["each"])
            case "routed":
                answer = await self._routed(EndpointId(question["endpoint"]))
            case "storm":
                answer = await self._storm(question["ids"], question["epoch"], EndpointId(question["to"]))
            case "plan":
                answer = await self._plan(question["ids"])
            case "audit":
                answer = await self._audit()
            case "bare-paced":
                answer = await self._bare_paced(question["rate"], question["count"])
            case "dispatch":
                self._running.append(asyncio.create_task(self._dispatcher().run()))
                answer = {}
            case "serve":
                answer = await self._serve(durable=question["durable"])
            case "stop":
                answer = await self._stop()
            case other:
                raise ValueError(f"no such question: {other}")
        return answer | {"cpu_s": time.process_time() - cpu_s}

    async def _bare(self, conversations: int, each: int) -> Answer:
        """The same POSTs by as many resident coroutines as a dispatcher has in flight, and nothing else."""
        places = iter([(number, sequence) for sequence in range(each) for number in range(conversations)])
        begun = time.perf_counter()
        async with _client() as http, asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(self._post_each(http, places))
        return {"took_s": time.perf_counter() - begun}

    async def _post_each(self, http: aiohttp.ClientSession, places: Iterator[tuple[int, int]]) -> None:
        for number, sequence in places:
            await self._post(http, number, sequence)

    async def _post(self, http: aiohttp.ClientSession, number: int, sequence: int) -> None:
        form = {
            "To": phone(number),
            "Body": body(number, sequence),
            "StatusCallback": f"{PUBLIC_URL}/hooks/{HERE}/status?t=t0-{number:022d}.1#rc=5&rp=all",
            "From": OUR_NUMBER,
        }
        async with http.post(self._messages, data=form, headers=_HEADERS, allow_redirects=False) as response:
            fields = await response.json()
            if response.status != 201 or not fields["sid"]:
                raise RuntimeError(f"the provider answered {response.status}")

    async def _bare_paced(self, rate: float, count: int) -> Answer:
        """An open loop: one POST each 1/rate s whatever the others do; when each was to begin, in monotonic ns."""
        due: list[int] = []
        async with _client() as http, asyncio.TaskGroup() as group:
            async for number in paced(rate, count, due):
                group.create_task(self._post(http, number, 0))
        return {"due": due}

    def _dispatcher(self) -> Dispatcher:
        runtime = self._runtime
        adapters = {endpoint: runtime.adapters[endpoint] for endpoint in (HERE, THERE)}
        return Dispatcher(runtime.core, runtime.switchboard, adapters, runtime.desk, worker_name("dispatch"))

    async def _routed(self, endpoint: EndpointId) -> Answer:
        """Dispatch until no side has work at `endpoint`: everything is settled."""
        begun = time.perf_counter()
        dispatching = asyncio.create_task(self._dispatcher().run())
        try:
            async with asyncio.timeout(DRAIN_WITHIN_S):
                while await self._runtime.store.due_count(endpoint):  # noqa: ASYNC110 - another process's work
                    await asyncio.sleep(LOOK_EVERY_S)
            took_s = time.perf_counter() - begun
        finally:
            await _end(dispatching)
        return {"took_s": took_s}

    async def _storm(self, ids: list[str], epoch: int, target: EndpointId) -> Answer:
        """Begin a leg at `target` for every one of these conversations, a notice with each; how many did."""
        now = time.time()
        left = THERE if target == HERE else HERE
        changes = [
            Rebind(
                identity,
                SideName.CUSTOMER,
                epoch,
                target,
                f"sms:{phone(number)}",
                "failover",
                Notice(new_id("m", 0, int(now * 1000)), "failover", left, now),
                hold_s=5.0,
            )
            for number, identity in enumerate(ids)
        ]
        begun = time.perf_counter()
        answers = await self._runtime.store.rebind(0, changes)  # one call after another, as the supervisor does
        return {"took_s": time.perf_counter() - begun, "moved": answers.count("ok")}

    async def _plan(self, ids: list[str]) -> Answer:
        """Read what a plan needs of these sides and choose their routes, a page at a time, as the supervisor does."""
        core, begun, moves = self._runtime.core, time.perf_counter(), 0
        views = await core.views()
        for start in range(0, len(ids), BATCH_MAX):
            facts = await core.store.affected(0, [f"{identity}:c" for identity in ids[start : start + BATCH_MAX]])
            now = core.clock.now()
            plan = plan_failover(await affected_sides(core, facts, now), views, {}, now, limits_of(core))
            moves += len(plan.moves)
        return {"took_s": time.perf_counter() - begun, "moves": moves}

    async def _audit(self) -> Answer:
        """Check everything stored, as `throughline audit` does."""
        core, begun = self._runtime.core, time.perf_counter()
        found = await audit(core.store, core.control, core.board, core.files, now=core.clock.now())
        return {"took_s": time.perf_counter() - begun, "findings": [str(one) for one in found]}

    async def _serve(self, *, durable: bool) -> Answer:
        """The web role's application on a free port; not durable: the same without Redis."""
        runtime = self._runtime
        if not durable:
            runtime = replace(runtime, switchboard=Forgetful(runtime.core, runtime.desk))
        else:
            self._running.append(asyncio.create_task(runtime.desk.run()))
        self._serving = web.AppRunner(build_app(runtime), access_log=None, shutdown_timeout=1.0)
        await self._serving.setup()
        await web.TCPSite(self._serving, "127.0.0.1", 0).start()
        return {"port": self._serving.addresses[0][1]}

    async def _stop(self) -> Answer:
        while self._running:
            await _end(self._running.pop())
        if self._serving is not None:
            await self._serving.cleanup()
            self._serving = None
        return {}


async def paced(rate: float, count: int, due: list[int]) -> AsyncIterator[int]:
    """Numbers 0 to `count` - 1, one each 1/`rate` s; notes in `due` when each was to come, in monotonic nanoseconds.

    One that comes late is still timed from when it was due: what waits behind a stall counts (coordinated omission).
    """
    begun_ns = time.monotonic_ns()
    for number in range(count):
        at_ns = begun_ns + int(number / rate * 1e9)
        if (wait_ns := at_ns - time.monotonic_ns()) > 0:
            await asyncio.sleep(wait_ns / 1e9)
        due.append(at_ns)
        yield number


def _client() -> aiohttp.ClientSession:
    """Configured like the runtime's, so that the comparison is of what the router adds."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200), cookie_jar=aiohttp.DummyCookieJar())


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def serve() -> None:
    """Open the router as a role does, and answer until the parent is gone."""
    folder, redis_url, provider_url = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    async with open_runtime(bench_settings(folder, redis_url, provider_url), "bench") as runtime:
        await serve_questions(Contender(runtime, provider_url).answer)


if __name__ == "__main__":
    configure_logging("info")
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())
