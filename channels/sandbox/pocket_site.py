"""The customer's pocket on the web: its page, its live stream, and the API that the demo and tests drive it by."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Literal, Protocol, TypeVar, runtime_checkable

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from channels.sandbox.vendor import Entry, Fault, Journal, Vendor

BODY_MAX = 512 * 1024
ENTRIES_PER_ANSWER_MAX = 1_000
STREAMS_MAX = 50
LOOK_EVERY_S = 0.4
"""How often a stream looks whether a switch or a call changed; entries come at once."""
GATHER_S = 0.03
"""Entries that come together are told together."""
COMMENT_EVERY_S = 15.0
SEEN_MAX = 1_000
HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LiveCall(Protocol):
    """A call as the person at the other end lives it."""

    sid: str
    customer: str
    inbound: bool
    started_at: float
    status: str
    said: list[str]
    waiting_for: Literal["", "keys", "words"]


@runtime_checkable
class PhoneVendor(Protocol):
    """A vendor that calls people, and the phone in their hand. LookupError: the call is over."""

    @property
    def calls(self) -> Sequence[LiveCall]:
        """The live ones, oldest first."""

    async def answer(self, call_sid: str) -> None:
        """Pick up."""

    async def decline(self, call_sid: str) -> None:
        """Press the red button while it rings."""

    async def to_voicemail(self, call_sid: str) -> None:
        """Let the answering machine take it."""

    async def press(self, call_sid: str, digits: str) -> None:
        """Press keys; ValueError for what is no key."""

    async def say(self, call_sid: str, text: str) -> None:
        """Speak."""

    async def hang_up(self, call_sid: str) -> None:
        """End it."""

    async def call_in(self, customer: str) -> str:
        """The customer calls us; the call's id."""


class Body(BaseModel):
    """A JSON body; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SwitchFault(Body):
    """`POST /api/vendors/{endpoint}/fault`."""

    fault: Fault
    share: Annotated[float, Field(gt=0, le=1)] = 1.0


class Write(Body):
    """`POST /api/write`: the customer writes to us over a vendor."""

    endpoint: str
    customer: Annotated[str, Field(min_length=3, max_length=254, pattern=r"^(\+[1-9][0-9]{6,14}|[^@\s]+@[^@\s]+)$")]
    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    subject: Annotated[str, Field(max_length=300, pattern=r"^[^\r\n]*$")] = ""
    in_reply_to: int | None = None
    """Number of the entry this answers."""


class CallIn(Body):
    """`POST /api/calls`: the customer calls us."""

    endpoint: str
    customer: Annotated[str, Field(pattern=r"^\+[1-9][0-9]{6,14}$")]


class Act(Body):
    """`POST /api/calls/{sid}`: what the person does with the phone in hand."""

    does: Literal["answer", "decline", "voicemail", "press", "say", "hang_up"]
    digits: Annotated[str, Field(max_length=32)] = ""
    text: Annotated[str, Field(max_length=2_000)] = ""


class Person(Body):
    """A customer the pocket can be of."""

    name: str
    email: str = ""
    phone: str = ""


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.reason = reason
        self.words = words


B = TypeVar("B", bound=Body)


class PocketSite:
    """Serves one sandbox's vendors and journal. Loopback only, and only to its own page or to what is no browser."""

    def __init__(
        self, vendors: Mapping[str, Vendor], journal: Journal, *, people: Sequence[Person], links: Mapping[str, str]
    ) -> None:
        self._vendors = vendors
        self._journal = journal
        self._people = list(people)
        self._links = dict(links)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._rung = asyncio.Event()
        self._streams = 0
        self._stopping = asyncio.Event()
        journal.watch(self._take_note)

    def build_app(self) -> web.Application:
        """The application; it starts nothing."""
        app = web.Application(client_max_size=BODY_MAX, middlewares=[_guard])
        router = app.router
        router.add_get("/", self._page)
        router.add_get("/pocket/{name}", self._page)
        router.add_get("/api/state", self._show_state)
        router.add_get("/api/journal", self._show_journal)
        router.add_get("/api/live", self._stream)
        router.add_post("/api/vendors/{channel}/{name}/fault", self._switch)
        router.add_post("/api/write", self._write)
        router.add_get("/api/calls", self._show_calls)
        router.add_post("/api/calls", self._call_in)
        router.add_post("/api/calls/{sid}", self._act)
        app.on_shutdown.append(self._stop)
        return app

    def _take_note(self, entry: Entry) -> None:
        self._seen[entry.customer] = None
        self._seen.move_to_end(entry.customer)
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()
        self._rung.set()

    async def _page(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        kind = KINDS.get(name.rpartition(".")[2])
        folder = files("channels.sandbox") / "pocket"
        if kind is None or "/" in name or not (folder / name).is_file():
            raise Problem(404, "not_found", "There is no such file.")
        return web.Response(body=(folder / name).read_bytes(), content_type=kind, charset="utf-8")

    def _state(self) -> dict[str, object]:
        vendors = [
            {
                "endpoint": vendor.endpoint,
                "fault": vendor.switch.fault.value,
                "share": vendor.switch.share,
                "calls": isinstance(vendor, PhoneVendor),
                "number": getattr(vendor, "number", "") or getattr(vendor, "mailbox", ""),
            }
            for vendor in self._vendors.values()
        ]
        return {
            "vendors": vendors,
            "faults": [fault.value for fault in Fault],
            "people": [person.model_dump() for person in self._people],
            "seen": list(reversed(self._seen)),
            "links": self._links,
            "calls": self._calls(),
        }

    def _calls(self) -> list[dict[str, object]]:
        return [
            {
                "sid": call.sid,
                "endpoint": vendor.endpoint,
                "customer": call.customer,
                "inbound": call.inbound,
                "status": call.status,
                "said": call.said[-100:],
                "waiting_for": call.waiting_for,
                "started_at": call.started_at,
            }
            for vendor in self._vendors.values()
            if isinstance(vendor, PhoneVendor)
            for call in vendor.calls
        ]

    async def _show_state(self, _: web.Request) -> web.Response:
        return web.json_response(self._state())

    async def _show_calls(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": self._calls()})

    async def _show_journal(self, request: web.Request) -> web.Response:
        """Up to 1,000 entries after `?after=N`, oldest first, and the number of the last one there is."""
        after = _number(request.query.get("after", "0"))
        last = self._journal.entries[-1].number if self._journal.entries else 0
        return web.json_response({"entries": self._after(after), "last": last})

    def _after(self, after: int) -> list[dict[str, object]]:
        found: list[Entry] = []
        for entry in reversed(self._journal.entries):
            if entry.number <= after:
                break
            found.append(entry)
        found.reverse()
        return [asdict(entry) for entry in found[:ENTRIES_PER_ANSWER_MAX]]

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `entries` as they come (id: the last one's number), `state` whenever it changed."""
        if self._streams >= STREAMS_MAX:
            raise Problem(503, "too_many_streams", "Too many pockets are open; close some.")
        after = _number(request.headers.get("Last-Event-ID") or request.query.get("after", "0"))
        if after < 0:
            last = self._journal.entries[-1].number if self._journal.entries else 0
            after = max(0, last + after)
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        self._streams += 1
        try:
            await response.prepare(request)
            await self._feed(response, after)
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._streams -= 1
        return response

    async def _feed(self, response: web.StreamResponse, after: int) -> None:
        loop = asyncio.get_running_loop()
        told, spoke = "", loop.time()
        while not self._stopping.is_set():
            rung = self._rung
            state = json.dumps(self._state(), ensure_ascii=False)
            parts = [f"event: state\ndata: {state}\n\n"] if state != told else []
            told = state
            if entries := self._after(after):
                after = int(str(entries[-1]["number"]))
                data = json.dumps(entries, ensure_ascii=False)
                parts.append(f"id: {after}\nevent: entries\ndata: {data}\n\n")
            if not parts and loop.time() - spoke > COMMENT_EVERY_S:
                parts.append(": still here\n\n")
            if parts:
                spoke = loop.time()
                await response.write("".join(parts).encode())
            if len(entries) < ENTRIES_PER_ANSWER_MAX:
                await _wait(rung, LOOK_EVERY_S)
                await asyncio.sleep(GATHER_S)

    async def _switch(self, request: web.Request) -> web.Response:
        vendor = self._vendor(f"{request.match_info['channel']}/{request.match_info['name']}")
        asked = await _read(request, SwitchFault)
        await vendor.set_fault(asked.fault, asked.share)
        return web.json_response({"endpoint": vendor.endpoint, "fault": asked.fault.value, "share": asked.share})

    async def _write(self, request: web.Request) -> web.Response:
        asked = await _read(request, Write)
        vendor = self._vendor(asked.endpoint)
        if (vendor.endpoint.startswith("email/")) != ("@" in asked.customer):
            raise Problem(422, "invalid", f"{asked.customer} cannot write over {vendor.endpoint}")
        answered = None
        if asked.in_reply_to is not None:
            found = (entry for entry in reversed(self._journal.entries) if entry.number == asked.in_reply_to)
            answered = next(found, None)
            if answered is None:
                raise Problem(404, "not_found", f"There is no entry {asked.in_reply_to}.")
        vendor_id = await vendor.write(asked.customer, asked.text, subject=asked.subject, in_reply_to=answered)
        return web.json_response({"vendor_id": vendor_id})

    async def _call_in(self, request: web.Request) -> web.Response:
        asked = await _read(request, CallIn)
        vendor = self._vendor(asked.endpoint)
        if not isinstance(vendor, PhoneVendor):
            raise Problem(422, "invalid", f"{asked.endpoint} takes no calls")
        return web.json_response({"sid": await vendor.call_in(asked.customer)})

    async def _act(self, request: web.Request) -> web.Response:
        asked = await _read(request, Act)
        sid = request.match_info["sid"]
        phones = (vendor for vendor in self._vendors.values() if isinstance(vendor, PhoneVendor))
        phone = next((phone for phone in phones if any(call.sid == sid for call in phone.calls)), None)
        if phone is None:
            raise Problem(404, "call_over", "This call is over.")
        try:
            await _do(phone, sid, asked)
        except LookupError as error:
            raise Problem(404, "call_over", "This call is over.") from error
        except (ValueError, OverflowError) as error:
            raise Problem(422, "invalid", str(error)) from error
        return web.json_response({"calls": self._calls()})

    def _vendor(self, endpoint: str) -> Vendor:
        try:
            return self._vendors[endpoint]
        except KeyError as error:
            raise Problem(404, "not_found", f"There is no vendor {endpoint[:60]}.") from error


@web.middleware
async def _guard(request: web.Request, handler: Serve) -> web.StreamResponse:
    try:
        _refuse_strangers(request)
        response = await handler(request)
    except Problem as problem:
        answer = {"reason": problem.reason, "words": problem.words}
        response = web.json_response(answer, status=problem.status)
    if not response.prepared:
        response.headers.update(
            {
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Cache-Control": "no-store",
                "Content-Security-Policy": POLICY,
            }
        )
    return response


async def _do(phone: PhoneVendor, sid: str, asked: Act) -> None:
    match asked.does:
        case "answer":
            await phone.answer(sid)
        case "decline":
            await phone.decline(sid)
        case "voicemail":
            await phone.to_voicemail(sid)
        case "press":
            await phone.press(sid, asked.digits)
        case "say":
            await phone.say(sid, asked.text)
        case "hang_up":
            await phone.hang_up(sid)


def _refuse_strangers(request: web.Request) -> None:
    """A page elsewhere must not act here: neither by a name it points at us, nor by a form, nor by a script."""
    host = request.url.host or ""
    if host not in HOSTS:
        raise Problem(421, "wrong_host", "The pocket answers on 127.0.0.1 and localhost only.")
    if request.method in {"GET", "HEAD"}:
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.host}":
        raise Problem(403, "wrong_origin", "Only the pocket's own page may do this.")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        raise Problem(403, "wrong_origin", "Only the pocket's own page may do this.")
    if request.content_type != "application/json":
        raise Problem(415, "media_type", "The body must be application/json.")


async def _read(request: web.Request, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(422, "invalid", f"{where}: {first['msg']}") from error


def _number(text: str) -> int:
    try:
        return max(-ENTRIES_PER_ANSWER_MAX, int(text[:20]))
    except ValueError as error:
        raise Problem(422, "invalid", "`after` is a number") from error


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
