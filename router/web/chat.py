"""Web chat's routes: the customer's page, the widget to embed, and the WebSocket both speak over."""

import contextlib
import gzip
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import web

from channels.chat.session import Door, HasDoor
from channels.contract import Adapter
from channels.tools import AdapterStore, Clock
from health.report import EndpointId
from router.settings import Settings
from router.switchboard import Switchboard
from router.web.chat_frames import FRAME_MAX
from router.web.chat_hub import ChatHub
from router.web.chat_socket import ChatSocket

HEARTBEAT_S = 20.0
"""Seconds between WebSocket pings; a browser silent for one and a half of them is gone."""
CHAT_HUBS: web.AppKey[Mapping[EndpointId, ChatHub]] = web.AppKey("chat_hubs", Mapping[EndpointId, ChatHub])

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {
    "chat.html": "text/html; charset=utf-8",
    "chat.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "widget.js": "text/javascript; charset=utf-8",
    "link.js": "text/javascript; charset=utf-8",
    "style.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
}


class ChatRuntime(Protocol):
    """What web chat needs of the runtime."""

    @property
    def settings(self) -> Settings:
        """For the organisation's name, the public URL and the secret sessions are signed with."""

    @property
    def switchboard(self) -> Switchboard:
        """Takes what browsers say, shows what was said."""

    @property
    def adapters(self) -> Mapping[EndpointId, Adapter]:
        """Those with a door are web chats."""

    @property
    def clock(self) -> Clock:
        """Time."""

    def adapter_store(self, endpoint: EndpointId) -> AdapterStore:
        """Where the outboxes are."""


def add_routes(app: web.Application, runtime: ChatRuntime) -> None:
    """Serve `/chat`, its files, `/chat/widget.js` and `/chat/ws` for every web chat among the endpoints."""
    hubs = {door.endpoint: _hub(door, runtime) for door in _doors(runtime)}
    app[CHAT_HUBS] = hubs
    allowed_base = _origin_of(runtime.settings.public_url)
    for name, kind in FILES.items():
        serve = _Static.load(name, kind).serve
        app.router.add_get("/chat" if name == "chat.html" else f"/chat/{name}", serve)

    async def connect(request: web.Request) -> web.StreamResponse:
        named = request.query.get("endpoint", "")
        hub = hubs.get(EndpointId(named)) if named else next(iter(hubs.values()), None)
        if hub is None:
            raise web.HTTPNotFound
        if not _may_come(request, hub.door, allowed_base):
            raise web.HTTPForbidden
        if hub.full:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "5"})
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=FRAME_MAX, compress=False)
        try:
            await socket.prepare(request)
        except UnicodeEncodeError as error:  # its refusal quotes the Upgrade header, which may hold any octets
            raise web.HTTPBadRequest from error
        await ChatSocket(hub, socket, request).run()
        return socket

    async def live(_: web.Application) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for hub in hubs.values():
                await stack.enter_async_context(hub.run())
            yield

    async def leave(_: web.Application) -> None:
        for hub in hubs.values():
            await hub.close()

    app.router.add_get("/chat/ws", connect)
    app.cleanup_ctx.append(live)
    # Before the server waits for open requests: an open socket is one.
    app.on_shutdown.append(leave)


def _doors(runtime: ChatRuntime) -> Iterator[Door]:
    for adapter in runtime.adapters.values():
        if isinstance(adapter, HasDoor):
            yield adapter.door


def _hub(door: Door, runtime: ChatRuntime) -> ChatHub:
    return ChatHub(
        door,
        organisation=runtime.settings.organisation,
        secret=door.secret or runtime.settings.secret.get_secret_value(),
        switchboard=runtime.switchboard,
        store=runtime.adapter_store(door.endpoint),
        clock=runtime.clock,
    )


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def _may_come(request: web.Request, door: Door, base: str) -> bool:
    """Our own pages always, others by exact match. What sends no Origin is no browser, and holds no one's token."""
    origin = request.headers.get("Origin")
    if origin is None or origin in door.allowed_origins or (base and origin == base):
        return True
    return origin in {f"http://{request.host}", f"https://{request.host}"}


@dataclass(frozen=True, slots=True)
class _Static:
    body: bytes
    packed: bytes
    kind: str
    tag: str

    @classmethod
    def load(cls, name: str, kind: str) -> "_Static":
        body = (files("router.web") / "pages" / "chat" / name).read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        return cls(body, gzip.compress(body, 9, mtime=0), kind, tag)

    async def serve(self, request: web.Request) -> web.Response:
        headers = {
            "Content-Type": self.kind,
            "Cache-Control": "no-cache",
            "ETag": self.tag,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if self.kind.startswith("text/html"):
            headers["Content-Security-Policy"] = POLICY
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
        else:
            # Modules embedded in other sites are fetched with CORS; these files hold nothing of anybody's.
            headers["Access-Control-Allow-Origin"] = "*"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if request.headers.get("If-None-Match") == self.tag:
            return web.Response(status=304, headers=headers)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return web.Response(body=self.packed, headers=headers)
        return web.Response(body=self.body, headers=headers)
