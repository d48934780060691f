"""A stand-in Twilio account: its REST server with faults on the wire, and the webhooks it signs and sends."""

import asyncio
import hashlib
import hmac
import random
import secrets
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import NoReturn
from urllib.parse import parse_qs, urldefrag, urlencode, urlsplit

import aiohttp
from aiohttp import web

from channels.sandbox.vendor import FLAP_PERIOD_S, SLOW_S, Fault, Journal, Switch
from channels.signatures import sign_twilio

API = "/2010-04-01/Accounts"
REQUEST_MAX = 64 * 1024
HANG_S = 600.0
REFUSE_PERIOD_S = 1.0
"""A share of refusals is a share of this time with the port closed."""
WEBHOOK_S = 15.0
"""How long Twilio waits for an answer (twilio.com/docs/usage/webhooks/webhooks-connection-overrides)."""
PATIENCE_S = 600.0
BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 4.0, 5.0)
TASKS_MAX = 20_000
POSTS_MAX = 64
"""Webhooks under way at once."""

LOST = web.RequestKey("lost", bool)
"""Whether this message is taken and delivered to nobody."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """The account does not take this request: an HTTP status and a Twilio error code."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def problem(status: int, code: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as the REST API words it."""
    body = {"code": code, "message": message, "more_info": f"https://www.twilio.com/docs/errors/{code}"}
    return web.json_response({**body, "status": status}, status=status, headers=headers)


class TwilioServer(ABC):
    """One account on one port of 127.0.0.1: what SMS and voice have in common."""

    def __init__(
        self,
        endpoint: str,
        journal: Journal,
        public_url: str,
        *,
        number: str,
        port: int = 0,
        auth_token: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.endpoint = endpoint
        self.canary = ""
        self.journal = journal
        self.public_url = public_url
        """The router's; settable, for it may start later."""
        self.number = number
        self.port = port
        """0: any free one, known after `start`, kept afterwards."""
        self.switch = Switch()
        self.account_sid = "AC" + hashlib.sha256(endpoint.encode()).hexdigest()[:32]
        self._auth_token = auth_token or secrets.token_hex(16)
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._switched = asyncio.Event()
        self._turning: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._posts = asyncio.Semaphore(POSTS_MAX)
        self._http: aiohttp.ClientSession | None = None

    # The vendor's own life

    async def start(self) -> None:
        """Listen on 127.0.0.1."""
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WEBHOOK_S, connect=10.0))
        await self._open()

    async def stop(self) -> None:
        """Stop listening, end connections, calls and deliveries."""
        self._switched.set()
        turning = [self._turning] if self._turning else []
        waiting = [*self._tasks, *turning]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self._turning = None
        await self._shut()
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def set_fault(self, fault: Fault, share: float = 1.0) -> None:
        """Switch a fault on, or off with `Fault.NONE`; REFUSE really closes the port."""
        if self._turning is not None:
            self._turning.cancel()
            await asyncio.gather(self._turning, return_exceptions=True)
            self._turning = None
        self.switch = Switch(fault, share, self._clock())
        self._switched.set()  # what hung is let go
        self._switched = asyncio.Event()
        if fault in (Fault.REFUSE, Fault.FLAP):
            await self._shut()
        else:
            await self._open()
        if fault is Fault.FLAP:
            self._turning = asyncio.create_task(self._turn(FLAP_PERIOD_S / 2, FLAP_PERIOD_S / 2))
        elif fault is Fault.REFUSE and share < 1.0:
            self._turning = asyncio.create_task(self._turn(REFUSE_PERIOD_S * share, REFUSE_PERIOD_S * (1 - share)))

    def credentials(self) -> dict[str, object]:
        """What both kinds of `[[endpoints]]` table have."""
        return {
            "id": self.endpoint,
            "account_sid": self.account_sid,
            "auth_token": self._auth_token,
            "from_number": self.number,
            "api_base": f"http://127.0.0.1:{self.port}",
        }

    def hook(self, step: str = "") -> str:
        """The router's webhook for this endpoint."""
        return f"{self.public_url}/hooks/{self.endpoint}" + (f"/{step}" if step else "")

    @abstractmethod
    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add what this kind of account serves."""

    async def _open(self) -> None:
        if self._runner is not None:
            return
        app = web.Application(client_max_size=REQUEST_MAX, middlewares=[self._misbehave])
        app.router.add_get(f"{API}/{self.account_sid}.json", self._account)
        self.add_routes(app.router)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _shut(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _turn(self, closed_s: float, open_s: float) -> None:
        while True:
            await self._shut()
            await asyncio.sleep(closed_s)
            await self._open()
            await asyncio.sleep(open_s)

    # What the account answers

    async def _account(self, request: web.Request) -> web.Response:
        return web.json_response({"sid": self.account_sid, "status": "active", "type": "Full"})

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request passes here: the whole of it is read, then the fault in force has its way."""
        await request.read()
        fault = self._fault_now()
        taking = request.method == "POST"
        if fault is Fault.HANG:
            await self._wait_switched()
            self._break_off(request)
        if fault is Fault.ERROR:
            return problem(503, 20503, "Service unavailable")
        if fault is Fault.THROTTLE:
            return problem(429, 20429, "Too many requests", {"Retry-After": "1"})
        if not self._authorised(request):
            return problem(401, 20003, "Authenticate")
        request[LOST] = taking and fault is Fault.LOSE_SILENTLY
        try:
            response = await handler(request)
        except Refused as refused:
            return problem(refused.status, refused.code, str(refused))
        if fault is Fault.SLOW:
            await asyncio.sleep(SLOW_S)
        if taking and fault is Fault.DROP_AFTER_ACCEPT:
            self._break_off(request)
        return response

    def _fault_now(self) -> Fault:
        if self.switch.fault in (Fault.REFUSE, Fault.FLAP):
            return Fault.NONE  # those are the port's: whoever came this far found it open
        return self.switch.fault if random.random() < self.switch.share else Fault.NONE

    async def _wait_switched(self) -> None:
        try:
            await asyncio.wait_for(self._switched.wait(), HANG_S)
        except TimeoutError:
            return  # ten minutes hung are enough: the connection is broken off

    def _break_off(self, request: web.Request) -> NoReturn:
        if request.transport is not None:
            request.transport.abort()
        raise web.HTTPServiceUnavailable  # written to nobody: the connection is gone

    def _authorised(self, request: web.Request) -> bool:
        wanted = "Basic " + b64encode(f"{self.account_sid}:{self._auth_token}".encode()).decode()
        return hmac.compare_digest(wanted.encode(), request.headers.get("Authorization", "").encode())

    async def form_of(self, request: web.Request) -> dict[str, str]:
        """The posted fields. Raises Refused when too much is already under way."""
        if len(self._tasks) >= TASKS_MAX:
            raise Refused(429, 20429, "Too many requests")
        posted = await request.post()
        return {name: value for name, value in posted.items() if isinstance(value, str)}

    # Webhooks

    def begin(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run in the background until `stop`. Raises OverflowError when too much already runs."""
        if len(self._tasks) >= TASKS_MAX:
            work.close()
            raise OverflowError(f"{TASKS_MAX} deliveries are under way already")
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def post(self, url: str, form: Mapping[str, str], *, patience_s: float = 0.0) -> bytes | None:
        """Send a signed webhook; the answer's body, None if it was not to be had.

        Retried as the URL's connection overrides say (`#rc=5&rp=all`; by default once, if the connection failed),
        15 s in all; with `patience_s`, until a 2xx or that many seconds have passed.
        """
        target, fragment = urldefrag(url)
        overrides = parse_qs(fragment)
        retries = int(overrides.get("rc", ["1"])[0])
        every_failure = overrides.get("rp", ["ct"])[0] == "all"
        deadline = time.monotonic() + max(patience_s, WEBHOOK_S)
        once = secrets.token_hex(16)
        tries = 0
        while True:
            tries += 1
            body, connected = await self._post_once(target, form, once)
            if body is not None:
                return body
            pause = BACKOFF_S[min(tries, len(BACKOFF_S)) - 1]
            again = patience_s > 0 or (tries <= retries and (every_failure or not connected))
            if not again or time.monotonic() + pause > deadline:
                return None
            await asyncio.sleep(pause)

    async def _post_once(self, url: str, form: Mapping[str, str], once: str) -> tuple[bytes | None, bool]:
        """The body of a 2xx answer, and whether we got as far as a connection."""
        if self._http is None:
            return None, False
        headers = {
            "X-Twilio-Signature": sign_twilio(self._auth_token, url, form.items()),
            "I-Twilio-Idempotency-Token": once,
            "User-Agent": "TwilioProxy/1.1",
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        }
        try:
            async with self._posts, self._http.post(url, data=urlencode(form).encode(), headers=headers) as response:
                body = await response.read()
                return (body if 200 <= response.status < 300 else None), True
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return None, False
        except (aiohttp.ClientError, TimeoutError):
            return None, True


def query_value(url: str, name: str) -> str:
    """One value of a URL's query, empty if it is not there."""
    return parse_qs(urlsplit(url).query).get(name, [""])[0]


def new_sid(prefix: str) -> str:
    """A fresh id as Twilio makes them."""
    return prefix + secrets.token_hex(16)
