"""Who may come in over HTTP: bearer keys with a role, hashed at rest, and the console's sessions."""

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, cast

import argon2
import redis.asyncio

KEYS_MAX = 1_000
"""Keys one deployment may have."""
VERIFIED_MAX = 1_000
"""Verified keys, and sessions, remembered in this process, so that argon2 runs once a key and not once a request."""
REMEMBERED_S = 900.0
"""While Redis is away, a key that was good this short a while ago still is: what it may do then is little."""
ANSWER_WITHIN_S = 1.5
"""How long Redis is waited for where a key is remembered."""
SILENT_S = 2.0
"""After it did not answer in time, it is not waited for."""
NAME_MAX = 80
SESSION_TTL_S = 12 * 3600
"""A console session ends this long after its last use."""
VERIFYING_MAX = 2
"""Argon2 runs at once: each takes 19 MiB and some 20 ms of a core."""
WAITING_MAX = 100
"""Callers that wait for it; the next one is turned away, so that guessing cannot fill the memory."""

N = TypeVar("N", str, bytes)
T = TypeVar("T")
_KEY = re.compile(r"tl_([0-9a-f]{10})_([A-Za-z0-9_-]{43})")


class Role(StrEnum):
    """What a key may do."""

    AGENT = "agent"  # customers and conversations; sees endpoints
    OPS = "ops"  # endpoints, incidents, failovers; sees conversations without what is said in them
    ADMIN = "admin"  # everything


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who calls. The secret is not part of it: nobody has it but the caller."""

    id: str
    role: Role
    name: str
    agent_id: str
    """The agent who speaks through this key; empty: the key speaks in its own name."""
    created_at: float

    @property
    def author(self) -> str:
        """Whose words a message sent with this key are."""
        return self.agent_id or f"key:{self.id}"


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """A browser that is logged in with a key."""

    key: ApiKey
    csrf: str
    """Sent back in `X-CSRF-Token` by every request of this session that changes something."""


class KeysUnavailable(Exception):
    """Redis does not answer, or too many ask: nobody can be let in, or refused, now."""


class ApiKeys:
    """Keys and sessions in Redis, in one slot under `{prefix}:{keys}:`. Revoking a key ends its sessions at once."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix
        self._verified: OrderedDict[bytes, str] = OrderedDict()
        self._remembered: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()
        self._sessions: OrderedDict[str, tuple[float, ConsoleSession]] = OrderedDict()
        self._silent_until = 0.0
        self._waiting = 0
        self._verifying = asyncio.Semaphore(VERIFYING_MAX)
        # OWASP's smallest recommended parameters: the secret is 256 random bits, not a password that people chose.
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

    async def create(self, role: Role, name: str, agent_id: str = "") -> tuple[str, str]:
        """A new key: its id, and the plain text `tl_<id>_<secret>`, which nobody can ask for again.

        Raises:
            ValueError: the name is empty or longer than 80 characters, or there are 1,000 keys.
        """
        if not name.strip() or len(name) > NAME_MAX or not name.isprintable():
            raise ValueError(f"a key needs a printable name of 1 to {NAME_MAX} characters")
        if await _number(self._redis.scard(self._index)) >= KEYS_MAX:
            raise ValueError(f"there are {KEYS_MAX} keys already: revoke some")
        key_id, secret = secrets.token_hex(5), secrets.token_urlsafe(32)
        record: dict[Any, Any] = {
            "role": role.value,
            "name": name.strip(),
            "agent_id": agent_id,
            "created_at": repr(time.time()),
            "hash": await asyncio.to_thread(self._hasher.hash, secret),
        }
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(self._record(key_id), mapping=record)
            pipeline.sadd(self._index, key_id)
            await pipeline.execute()
        return key_id, f"tl_{key_id}_{secret}"

    async def check(self, bearer: str) -> ApiKey | None:
        """Whose key this is; None: malformed, unknown or revoked.

        While Redis is away, whoever was let in here within a quarter of an hour still is. Raises KeysUnavailable.
        """
        matched = _KEY.fullmatch(bearer)
        if matched is None:
            return None
        key_id, secret = matched.groups()
        fingerprint = hashlib.sha256(bearer.encode()).digest()
        since, known = self._remembered.get(fingerprint, (0.0, None))
        reading = asyncio.ensure_future(self._read(self._record(key_id)))
        if known is not None and time.monotonic() - since < REMEMBERED_S and not await self._answers(reading):
            return known
        record = await reading
        if not record or not await self._proves(secret, record["hash"]):
            self._remembered.pop(fingerprint, None)
            return None
        key = _key(key_id, record)
        _remember(self._remembered, fingerprint, key)
        return key

    async def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        members = await cast("Awaitable[set[bytes]]", self._redis.smembers(self._index))
        keys = [await self._named(_text(member)) for member in members]
        return sorted((key for key in keys if key is not None), key=lambda key: key.created_at)

    async def revoke(self, key_id: str) -> bool:
        """End a key and its sessions; False: there was none."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(self._record(key_id))
            pipeline.srem(self._index, key_id)
            removed, _ = await pipeline.execute()
        return bool(removed)

    async def begin_session(self, key: ApiKey) -> tuple[str, ConsoleSession]:
        """Log a browser in: the cookie's value, of which only a hash is kept, and the session."""
        token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
        place = self._session(token)
        with _redis_answering():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hset(place, mapping={"key": key.id, "csrf": csrf})
                pipeline.expire(place, SESSION_TTL_S)
                await pipeline.execute()
        session = ConsoleSession(key, csrf)
        _remember(self._sessions, place, session)
        return token, session

    async def session(self, token: str) -> ConsoleSession | None:
        """The session of a cookie, good for another 12 h; None: ended, unknown, or its key was revoked.

        While Redis is away, one that was good here within a quarter of an hour still is: agents write on, and what
        they write is kept. Raises KeysUnavailable.
        """
        place = self._session(token)
        since, known = self._sessions.get(place, (0.0, None))
        reading = asyncio.ensure_future(self._read_session(place))
        if known is not None and time.monotonic() - since < REMEMBERED_S and not await self._answers(reading):
            return known
        session = await reading
        if session is None:
            self._sessions.pop(place, None)
            return None
        _remember(self._sessions, place, session)
        return session

    async def end_session(self, token: str) -> None:
        """Log out; idempotent."""
        place = self._session(token)
        with _redis_answering():
            await self._redis.delete(place)
        self._sessions.pop(place, None)

    async def ping(self) -> None:
        """Return if Redis answers. Raises KeysUnavailable."""
        with _redis_answering():
            await self._redis.ping()

    async def _answers(self, reading: "asyncio.Future[Any]") -> bool:
        """Whether Redis answers what is asked in `reading`, in time; for whoever can do without."""
        # Once is enough: whoever comes while Redis is silent must not wait for it again.
        silent = time.monotonic() < self._silent_until
        await asyncio.wait({reading}, timeout=0 if silent else ANSWER_WITHIN_S)
        if reading.done() and reading.exception() is None:
            return True
        if not silent:  # who did not wait has not found out that it is silent still
            self._silent_until = time.monotonic() + SILENT_S
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return False

    async def _read_session(self, place: str) -> ConsoleSession | None:
        record = await self._read(place)
        key = await self._named(record["key"]) if record else None
        if key is None:
            return None
        with _redis_answering():
            await self._redis.expire(place, SESSION_TTL_S)
        return ConsoleSession(key, record["csrf"])

    async def _proves(self, secret: str, hashed: str) -> bool:
        fingerprint = hashlib.sha256(secret.encode()).digest()
        if self._verified.get(fingerprint) == hashed:
            self._verified.move_to_end(fingerprint)
            return True
        if self._waiting >= WAITING_MAX:
            raise KeysUnavailable("too many keys are being verified")
        self._waiting += 1
        try:
            async with self._verifying:
                await asyncio.to_thread(self._hasher.verify, hashed, secret)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        finally:
            self._waiting -= 1
        self._verified[fingerprint] = hashed
        while len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return True

    async def _named(self, key_id: str) -> ApiKey | None:
        record = await self._read(self._record(key_id))
        return _key(key_id, record) if record else None

    async def _read(self, place: str) -> dict[str, str]:
        with _redis_answering():
            found = await self._redis.hgetall(place)
        return {_text(name): _text(value) for name, value in found.items()}

    @property
    def _index(self) -> str:
        return f"{self._prefix}:{{keys}}:all"

    def _record(self, key_id: str) -> str:
        return f"{self._prefix}:{{keys}}:key:{key_id}"

    def _session(self, token: str) -> str:
        # surrogatepass: a cookie may hold octets that are no text.
        octets = token.encode("utf-8", "surrogatepass")
        return f"{self._prefix}:{{keys}}:session:{hashlib.sha256(octets).hexdigest()}"


def _remember(kept: OrderedDict[N, tuple[float, T]], name: N, value: T) -> None:
    kept[name] = (time.monotonic(), value)
    kept.move_to_end(name)
    while len(kept) > VERIFIED_MAX:
        kept.popitem(last=False)


@contextmanager
def _redis_answering() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise KeysUnavailable("Redis does not answer") from error


def _key(key_id: str, record: Mapping[str, str]) -> ApiKey:
    return ApiKey(key_id, Role(record["role"]), record["name"], record["agent_id"], float(record["created_at"]))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


async def _number(answer: Awaitable[int] | int) -> int:
    return answer if isinstance(answer, int) else await answer
