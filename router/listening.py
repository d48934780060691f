"""Runs an adapter's listener: alone in the deployment where two would fight, again after a fault."""

import asyncio
import secrets

import structlog

from channels.contract import Accept, Listening
from health.report import EndpointId
from router.core import Core
from router.store.redis import StoreUnavailable

LEASE_S = 10.0
RENEW_S = 3.0
PAUSE_FIRST_S, PAUSE_MAX_S = 0.5, 30.0
"""Before one that broke listens again; one that has listened for longer than the most begins anew."""

log = structlog.get_logger()


async def listen_alone(
    core: Core, endpoint: EndpointId, adapter: Listening, accept: Accept, *, alone: bool = True
) -> None:
    """Keep `adapter` listening until cancelled. `alone`: only one process in the deployment does, by a lease."""
    owner = secrets.token_hex(8)
    pause = PAUSE_FIRST_S
    while True:
        began = core.clock.monotonic()
        try:
            if not alone or await _take(core, endpoint, owner):
                await _listen_while_leased(core, endpoint, adapter, accept, owner if alone else "")
            else:
                await core.clock.sleep(RENEW_S)
        except StoreUnavailable:
            await core.clock.sleep(1.0)
        except Exception:  # the loop's rim: a listener that breaks is started again
            log.exception("listener.broke", endpoint=endpoint)
            if core.clock.monotonic() - began > PAUSE_MAX_S:
                pause = PAUSE_FIRST_S
            await core.clock.sleep(pause)
            pause = min(PAUSE_MAX_S, pause * 2)


async def _listen_while_leased(
    core: Core, endpoint: EndpointId, adapter: Listening, accept: Accept, owner: str
) -> None:
    listener = asyncio.create_task(adapter.listen(accept), name=f"listen {endpoint}")
    try:
        while not listener.done():
            await asyncio.wait({listener}, timeout=RENEW_S)
            if owner and not await _renew(core, endpoint, owner):
                log.warning("listener.lease_lost", endpoint=endpoint)
                return
        listener.result()
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


def _key(endpoint: EndpointId) -> str:
    return f"tl:listen:{{{endpoint}}}"


async def _take(core: Core, endpoint: EndpointId, owner: str) -> bool:
    return bool(await core.store.redis.call("SET", _key(endpoint), owner, "NX", "PX", int(LEASE_S * 1000)))


async def _renew(core: Core, endpoint: EndpointId, owner: str) -> bool:
    if await core.store.redis.call("GET", _key(endpoint)) != owner:
        return False
    await core.store.redis.call("PEXPIRE", _key(endpoint), int(LEASE_S * 1000))
    return True
