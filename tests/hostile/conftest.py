"""A whole router's HTTP face in a thread of its own, on a real socket and a real Redis, for strangers to attack."""

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from aiohttp import web
from pydantic import TypeAdapter

from channels.messages import Address, Channel, InboundMessage
from channels.registry import AnyEndpointSettings
from health.report import EndpointId
from router.api_keys import Role
from router.runtime import Runtime, open_runtime
from router.settings import Settings
from router.web.app import build_app
from router.web.serve import make_runner

ACCOUNT = "AC" + "0" * 32
TOKEN = "an-auth-token-nobody-may-see"
PUBLIC_URL = "https://talk.example.org"
OUR_NUMBER = "+12025550100"
CALLER = "+12025550177"

_ENDPOINTS: tuple[dict[str, object], ...] = (
    {"id": "sms/twilio", "provider": "twilio-sms", "from_number": OUR_NUMBER},
    {"id": "phone/twilio", "provider": "twilio-voice", "from_number": OUR_NUMBER},
)
_MAIL: dict[str, object] = {"id": "email/acme", "provider": "smtp", "host": "127.0.0.1", "port": 9, "tls": "none"}
_MAIL |= {"from_address": "support@example.org"}
_WEBCHAT: dict[str, object] = {"id": "chat/web", "provider": "webchat", "allowed_origins": ["https://shop.example"]}

T = TypeVar("T")


@dataclass
class Fortress:
    """What an attacker sees of us, and what a test may ask from within."""

    url: str
    port: int
    runtime: Runtime
    keys: dict[str, str]
    """Bearer headers' values by role."""
    complaints: list[str]
    """What the router logged as a defect of its own."""
    _loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T], within_s: float = 20.0) -> T:
        """Do something inside the router's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within_s)

    def bearer(self, role: str) -> dict[str, str]:
        """The header of a key with this role."""
        return {"Authorization": f"Bearer {self.keys[role]}"}

    def hear(self, text: str, sender: str = CALLER, vendor_id: str = "SM" + "1" * 32, name: str = "Ada") -> str:
        """A customer writes by SMS; the conversation's id."""
        message = InboundMessage(
            endpoint=EndpointId("sms/twilio"),
            vendor_id=vendor_id,
            sender=Address(Channel.SMS, sender),
            text=text,
            sent_at=self.runtime.clock.now(),
            recipient=OUR_NUMBER,
            sender_name=name,
        )
        return self.run(self.runtime.switchboard.accept(message)).conversation_id

    def said(self, conversation_id: str) -> list[str]:
        """The transcript's words."""
        return [one.content.text for one in self.run(self.runtime.switchboard.transcript(conversation_id))]


def _settings(redis_url: str, folder: Path) -> Settings:
    reader: TypeAdapter[AnyEndpointSettings] = TypeAdapter(AnyEndpointSettings)
    vendor = {"account_sid": ACCOUNT, "auth_token": TOKEN}
    tables = [table | vendor for table in _ENDPOINTS] + [_MAIL, _WEBCHAT]
    return Settings(
        organisation="Northwind Bank",
        public_url=PUBLIC_URL,
        redis_url=redis_url,
        data_dir=folder,
        secret="a secret for tests, of 32 characters or more",
        endpoints=tuple(reader.validate_python(table) for table in tables),
    )


async def _open(stack: AsyncExitStack, settings: Settings) -> tuple[Runtime, int, dict[str, str]]:
    runtime = await stack.enter_async_context(open_runtime(settings, "web"))
    runner = make_runner(build_app(runtime))
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    keys = {role.value: (await runtime.keys.create(role, f"{role.value} one"))[1] for role in Role}
    return runtime, int(runner.addresses[0][1]), keys


class _Complaints(logging.Handler):
    """Keeps what the web server and the event loop complain about."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage())


@pytest.fixture
def fortress(redis_url: str, tmp_path: Path) -> Iterator[Fortress]:
    """The face with two Twilio endpoints, a web chat and the console. A defect it logs fails the test."""
    complaints: list[str] = []

    def keep(_logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if method in {"error", "exception", "critical"}:
            complaints.append(f"{event}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.processors.format_exc_info, keep])
    handler = _Complaints(complaints)
    watched = [logging.getLogger(name) for name in ("asyncio", "aiohttp.server", "router.web.server")]
    for logger in watched:
        logger.addHandler(handler)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(str(context)))
    thread = threading.Thread(target=loop.run_forever, name="the router")
    thread.start()
    stack = AsyncExitStack()
    try:
        opened = asyncio.run_coroutine_threadsafe(_open(stack, _settings(redis_url, tmp_path)), loop).result(20)
        runtime, port, keys = opened
        yield Fortress(f"http://127.0.0.1:{port}", port, runtime, keys, complaints, loop)
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
        for logger in watched:
            logger.removeHandler(handler)
        structlog.configure(**before)
    assert not complaints, complaints[:3]
