"""Canaries: asked for by the supervisor, sent by the dispatcher that holds the session, read back by reception.

A canary is a probe, not a message: it has no conversation, waits in no queue, and passes a closed gate, since only one
that comes back can open the gate again.
"""

import asyncio
import json
from dataclasses import dataclass

import structlog

from channels.contract import Adapter
from channels.errors import EndpointUnavailable, LocalFault
from channels.messages import Content, InboundMessage, Kind, Matter, OutboundMessage
from health.report import EndpointId
from router.core import Core
from router.domain.canary import Canary, new_canary_token, read_canary, write_canary
from router.domain.ids import new_id
from router.evidence import judge
from router.store import keys
from router.store.redis import StoreUnavailable

POLL_S = 0.25
TAKEN_WITHIN_S = 10.0
"""From asking to the moment a dispatcher begins to send it; later it is not sent any more."""
MARGIN_S = 5.0
ASKED_MAX = 4
"""Waiting at one endpoint: more come only when nobody dispatches."""
SENT = "sent"
BEAT_FRESH_S = 10.0
READERS = frozenset({"web", "dispatch"})
"""The roles that what comes back may come in by: while one is away, a lost canary says nothing of the provider."""

NO_ATTEMPT = 0
"""The attempt's number in a canary's token; those of messages are counted from 1."""

log = structlog.get_logger()


def longest_s(canary: Canary, adapter: Adapter) -> float:
    """How long `Canaries.send` may take at most, in seconds."""
    return TAKEN_WITHIN_S + adapter.capabilities.io_s + MARGIN_S + canary.bound_s


@dataclass(frozen=True, slots=True)
class Canaries:
    """The supervisor's half."""

    core: Core

    async def send(self, endpoint: EndpointId) -> None:
        """Return once a canary came back.

        Raises:
            EndpointUnavailable: the provider took it, and it did not come back in time.
            LocalFault: it was not sent, or we may have been unable to read it: that says nothing.
            StoreUnavailable: Redis is away; that says nothing either.
        """
        canary = self.core.canaries[endpoint]
        token = new_canary_token()
        try:
            await self._ask(endpoint, token)
            await self._await_sent(endpoint, token)
            if await self._came_back(token, canary.bound_s):
                return
            await self._check_readers()
        finally:
            await asyncio.shield(self._forget(token))
        log.warning("canary.lost", endpoint=endpoint, bound_s=canary.bound_s)
        raise EndpointUnavailable("canary_lost", "the provider took a message to ourselves, and it did not arrive")

    async def _ask(self, endpoint: EndpointId, token: str) -> None:
        redis = self.core.store.redis
        life_s = int(TAKEN_WITHIN_S + self._io_s(endpoint) + MARGIN_S + self.core.canaries[endpoint].bound_s) + 1
        await redis.call("SET", keys.canary(token), "asked", "EX", life_s)
        post = keys.canaries_asked(endpoint)
        await redis.call("LPUSH", post, json.dumps({"token": token, "at": self.core.clock.now()}))
        await redis.call("LTRIM", post, 0, ASKED_MAX - 1)

    async def _await_sent(self, endpoint: EndpointId, token: str) -> None:
        outcome = await self._poll(keys.canary_outcome(token), TAKEN_WITHIN_S + self._io_s(endpoint) + MARGIN_S)
        if outcome is None:
            raise LocalFault(f"no dispatcher sent the canary of {endpoint}")
        if outcome != SENT:
            raise LocalFault(f"the canary of {endpoint} was not taken: {outcome}")

    async def _came_back(self, token: str, within_s: float) -> bool:
        return await self._poll(keys.canary_back(token), within_s) is not None

    async def _poll(self, key: str, within_s: float) -> str | None:
        clock = self.core.clock
        deadline = clock.monotonic() + within_s
        while True:
            found = await self.core.store.redis.call("GET", key)
            if found is not None:
                return str(found)
            if clock.monotonic() >= deadline:
                return None
            await clock.sleep(POLL_S)

    async def _check_readers(self) -> None:
        now = self.core.clock.now()
        alive = {beat.role for beat in await self.core.board.beats() if now - beat.at <= BEAT_FRESH_S}
        if away := READERS - alive:
            raise LocalFault(f"nobody could have read the canary: {', '.join(sorted(away))} does not run")

    async def _forget(self, token: str) -> None:
        try:
            for key in (keys.canary(token), keys.canary_outcome(token), keys.canary_back(token)):
                await self.core.store.redis.call("DEL", key)
        except StoreUnavailable:
            log.info("canary.left_behind")  # its keys expire

    def _io_s(self, endpoint: EndpointId) -> float:
        return self.core.capabilities[endpoint].io_s


@dataclass(frozen=True, slots=True)
class CanaryPost:
    """The dispatcher's half, for one endpoint."""

    core: Core
    endpoint: EndpointId
    adapter: Adapter

    async def run(self) -> None:
        """Send what is asked for, one at a time, until cancelled."""
        while True:
            try:
                argument = json.dumps({"ep": self.endpoint})
                asked = await self.core.store.redis.run("canary", keys.shard(0), None, argument)
                if asked is not None:
                    await self._send(json.loads(asked))
                    continue
            except StoreUnavailable as error:
                log.info("canary.not_read", endpoint=self.endpoint, error=str(error))
            except Exception:  # the loop's rim: one broken canary must not end them all
                log.exception("canary.broke", endpoint=self.endpoint)
            await self.core.clock.sleep(POLL_S)

    async def _send(self, asked: dict[str, str | float]) -> None:
        token, at = str(asked["token"]), float(asked["at"])
        if self.core.clock.now() - at > TAKEN_WITHIN_S:
            return
        canary = self.core.canaries[self.endpoint]
        outcome = SENT
        try:
            async with asyncio.timeout(self.adapter.capabilities.io_s):
                await self.adapter.send(self._message(canary, token))
        except Exception as error:  # whatever an adapter raises is judged; outcomes and probes speak for the endpoint
            judgement = judge(error)
            outcome = judgement.reason or judgement.outcome
            if outcome == "adapter_fault":
                log.exception("adapter.broke", endpoint=self.endpoint)
            log.warning("canary.not_taken", endpoint=self.endpoint, reason=outcome)
        life_s = int(canary.bound_s + MARGIN_S) + 1
        await self.core.store.redis.call("SET", keys.canary_outcome(token), outcome, "EX", life_s)

    def _message(self, canary: Canary, token: str) -> OutboundMessage:
        now = self.core.clock.now()
        identity = new_id("m", 0, int(now * 1000))
        words = write_canary(token)
        return OutboundMessage(
            message_id=identity,
            conversation_id=identity,
            # Of the usual form, and of no attempt: its receipts are matched to nothing, and not worth a word.
            token=f"t{identity[1:]}.{NO_ATTEMPT}",
            kind=Kind.PROMPT,
            to=canary.address,
            content=Content(words, subject=words),
            matter=Matter(self.core.organisation, "", self.core.settings.default_locale, subject=words),
            created_at=now,
            expires_at=now + canary.bound_s,
        )


async def took_canary(core: Core, event: InboundMessage) -> bool:
    """Whether this is a canary, noted if it is one that is awaited. Nothing else may be done with it.

    Raises:
        StoreUnavailable: not noted; deliver it again.
    """
    token = read_canary("\n".join((event.text, event.subject or "", event.references_text)))
    if token and await core.store.redis.call("GET", keys.canary(token)) is not None:
        life_s = int(max(one.bound_s for one in core.canaries.values())) + 1 if core.canaries else 1
        await core.store.redis.call("SET", keys.canary_back(token), "1", "EX", life_s)
        return True
    # Late, or an echo of something else: our own address is nobody's customer.
    canary = core.canaries.get(event.endpoint)
    return canary is not None and canary.address == event.sender
