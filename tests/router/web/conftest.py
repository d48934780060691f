"""The whole HTTP face on a real socket, a real Redis and the real switchboard, with keys to come in with."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from aiohttp.test_utils import TestClient, TestServer
from pydantic import TypeAdapter

from channels.messages import Address, Channel, InboundMessage
from channels.registry import AnyEndpointSettings
from health.report import EndpointId
from router.api_keys import ApiKeys, Role
from router.runtime import Runtime, open_runtime
from router.settings import Settings
from router.web.app import build_app

SMS = EndpointId("sms/twilio")
ACCOUNT = "AC" + "0" * 32
TOKEN = "an-auth-token-nobody-may-see"
PUBLIC_URL = "https://talk.example.org/router"


@dataclass
class Face:
    """What a test needs of it."""

    client: "TestClient[Any, Any]"
    runtime: Runtime
    agent: dict[str, str]
    ops: dict[str, str]
    admin: dict[str, str]
    plain: dict[str, str]

    async def hear(self, text: str, sender: str = "+12025550177", vendor_id: str = "SM" + "1" * 32) -> str:
        """A customer writes by SMS; the conversation's id."""
        message = InboundMessage(
            endpoint=SMS,
            vendor_id=vendor_id,
            sender=Address(Channel.SMS, sender),
            text=text,
            sent_at=self.runtime.clock.now(),
            recipient="+12025550100",
            sender_name="Ada Fischer",
        )
        return (await self.runtime.switchboard.accept(message)).conversation_id


@pytest.fixture
async def keys(redis_url: str) -> AsyncIterator[ApiKeys]:
    """An empty store of keys."""
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    yield ApiKeys(client, "tl")
    await client.aclose()


@pytest.fixture
def public_url() -> str:
    """Where vendors believe that we are."""
    return PUBLIC_URL


@pytest.fixture
def more_endpoints() -> list[dict[str, Any]]:
    """Tables beside the one of the SMS endpoint."""
    return []


@pytest.fixture
async def runtime(
    redis_url: str, public_url: str, tmp_path: Path, more_endpoints: list[dict[str, Any]]
) -> AsyncIterator[Runtime]:
    """What the composition root hands the face: one SMS endpoint, the console, our own chat."""
    reader: TypeAdapter[AnyEndpointSettings] = TypeAdapter(AnyEndpointSettings)
    table = {
        "id": SMS,
        "provider": "twilio-sms",
        "account_sid": ACCOUNT,
        "auth_token": TOKEN,
        "from_number": "+12025550100",
    }
    settings = Settings(
        organisation="Northwind Bank",
        public_url=public_url,
        redis_url=redis_url,
        data_dir=tmp_path,
        secret="a secret for tests, of 32 characters or more",
        endpoints=tuple(map(reader.validate_python, [table, *more_endpoints])),
    )
    async with open_runtime(settings, "web") as opened:
        yield opened


_kept: dict[str, tuple[str, bytes]] = {}
"""Each role's key in plain text, and its record as Redis dumped it: hashing one takes 40 ms."""


async def _keys_of_all_roles(runtime: Runtime) -> dict[str, str]:
    client = redis.asyncio.Redis.from_url(runtime.settings.redis_url or "")
    try:
        for role in Role:
            if role.value not in _kept:
                key_id, plain = await runtime.keys.create(role, f"{role.value} one")
                record = await client.dump(f"tl:{{keys}}:key:{key_id}")
                assert isinstance(record, bytes)
                _kept[role.value] = (plain, record)
                continue
            plain, record = _kept[role.value]
            key_id = plain.split("_")[1]
            await client.restore(f"tl:{{keys}}:key:{key_id}", 0, record)
            await client.sadd("tl:{keys}:all", key_id)
    finally:
        await client.aclose()
    return {role: plain for role, (plain, _) in _kept.items()}


@pytest.fixture
async def face(runtime: Runtime) -> AsyncIterator[Face]:
    """The face, listening."""
    plain = await _keys_of_all_roles(runtime)
    bearer = {role: {"Authorization": f"Bearer {key}"} for role, key in plain.items()}
    async with TestClient(TestServer(build_app(runtime))) as client:
        yield Face(client, runtime, bearer["agent"], bearer["ops"], bearer["admin"], plain)
