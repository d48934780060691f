"""Wakes web chats the moment something lies in their outbox."""

import asyncio
from collections.abc import Sequence

import structlog
from redis.exceptions import RedisError

from channels.chat.session import outbox_key
from channels.tools import Clock
from router.store.adapter_store import RedisAdapterStore

log = structlog.get_logger()


class ChatBell:
    """One subscription a process for all its sessions. A bell only saves waiting: who waits also looks by itself."""

    def __init__(self, stores: Sequence[RedisAdapterStore], clock: Clock) -> None:
        self._stores = stores
        self._clock = clock
        self._waiting: dict[str, set[asyncio.Event]] = {}

    async def wait(self, session: str, timeout_s: float) -> None:
        """Return when there may be more in the outbox of `session`, or after `timeout_s`, whichever comes first."""
        event = asyncio.Event()
        key = outbox_key(session)
        self._waiting.setdefault(key, set()).add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return
        finally:
            waiting = self._waiting.get(key, set())
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(key, None)

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            for store in self._stores:
                group.create_task(self._listen(store))

    async def _listen(self, store: RedisAdapterStore) -> None:
        while True:
            try:
                async for key in store.listen():
                    for event in self._waiting.get(key, ()):
                        event.set()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("chat_bell.lost", error=type(error).__name__)
                await self._clock.sleep(1.0)
