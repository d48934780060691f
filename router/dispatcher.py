"""The data plane of one process: senders for its endpoints, a planner, listeners, the beat, the bell."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from channels.contract import Adapter, Listening
from channels.messages import Channel
from health.report import EndpointId
from router.canary import CanaryPost
from router.core import Core
from router.evidence_desk import EvidenceDesk
from router.listening import listen_alone
from router.planner import Planner
from router.rollback import POSITION_FILE, RollbackWatch
from router.sender import Sender
from router.store import keys
from router.store.redis import StoreUnavailable
from router.switchboard import Switchboard
from router.trouble import Trouble
from router.workers import keep_beating, worker_name

if TYPE_CHECKING:
    from router.runtime import Runtime

SWEEP_S = 1.0
SWEEP_MAX = 200

log = structlog.get_logger()


@dataclass(slots=True)
class Dispatcher:
    """Everything `throughline dispatch` runs."""

    core: Core
    switchboard: Switchboard
    adapters: Mapping[EndpointId, Adapter]
    desk: EvidenceDesk
    worker: str

    async def run(self, channels: Sequence[Channel] = ()) -> None:
        """Dispatch for the endpoints of `channels` (all, if none is named) until cancelled."""
        mine = {
            endpoint: adapter
            for endpoint, adapter in self.adapters.items()
            if not channels or adapter.capabilities.channel in channels
        }
        in_flight = self.core.settings.dispatch.in_flight
        senders = {
            endpoint: Sender(self.core, endpoint, adapter, self.desk, self.worker, in_flight)
            for endpoint, adapter in mine.items()
        }
        planner = Planner(self.core, asyncio.Event())
        log.info("dispatcher.started", worker=self.worker, endpoints=sorted(mine))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.desk.run())
            group.create_task(keep_beating(self.core, self.worker, "dispatch", lambda: _tallies(senders)))
            group.create_task(self._hear_bells(senders, planner))
            group.create_task(planner.run())
            group.create_task(self._sweep(mine))
            group.create_task(self.switchboard.empty_spool())
            memory = self.core.settings.data_dir / POSITION_FILE  # before the senders: they must lease nothing unseen
            group.create_task(RollbackWatch(self.core.store, self.core.clock, self.core.spool, memory).run())
            for endpoint, adapter in mine.items():
                if endpoint in self.core.canaries:
                    group.create_task(CanaryPost(self.core, endpoint, adapter).run())
                if isinstance(adapter, Listening) and adapter.capabilities.listens_in == "dispatch":
                    group.create_task(listen_alone(self.core, endpoint, adapter, self.switchboard.accept, alone=False))
            # Told to stop, these end first: what they have begun needs the connections that the others hold.
            async with asyncio.TaskGroup() as speaking:
                for sender in senders.values():
                    speaking.create_task(sender.run())

    async def _hear_bells(self, senders: Mapping[EndpointId, Sender], planner: Planner) -> None:
        """Bells only save waiting: every loop also looks by itself."""
        hearing = Trouble("bell", log)
        while True:
            pubsub = None
            try:
                pubsub = await self.core.store.redis.subscribe(
                    *(keys.bell(number) for number in range(self.core.store.shards))
                )
                hearing.worked()
                while True:
                    message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=2.0)
                    if message is None:
                        continue
                    rung = str(message["data"])
                    if rung == keys.PLAN:
                        planner.bell.set()
                    elif (sender := senders.get(EndpointId(rung))) is not None:
                        sender.bell.set()
            except (RedisError, OSError, TimeoutError) as error:
                hearing.failed(error)
                await self.core.clock.sleep(1.0)
            finally:
                if pubsub is not None:
                    await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    async def _sweep(self, adapters: Mapping[EndpointId, Adapter]) -> None:
        """Messages whose receipt should have come: on to the next binding where the endpoint promises receipts."""
        while True:
            for endpoint, adapter in adapters.items():
                try:
                    await self._sweep_endpoint(endpoint, adapter.capabilities.receipt_due_s is not None)
                except StoreUnavailable:
                    break
                except Exception:  # the loop's rim: one record that nobody can read must not end the dispatcher
                    log.exception("sweep.broke", endpoint=endpoint)
            await self.core.clock.sleep(SWEEP_S)

    async def _sweep_endpoint(self, endpoint: EndpointId, promised: bool) -> None:
        now_ms = await self.core.store.clock_ms()
        for shard in range(self.core.store.shards):
            for token in await self.core.store.receipts_overdue(shard, endpoint, now_ms, SWEEP_MAX):
                if promised:
                    await self.core.store.receipt(token, "undelivered", reason="no_receipt", permanent=False)
                else:
                    await self.core.store.forget_receipt(shard, endpoint, token)


def _tallies(senders: Mapping[EndpointId, Sender]) -> dict[str, object]:
    return {str(endpoint): [one.tally.begun, one.tally.sent, one.tally.throttled] for endpoint, one in senders.items()}


async def run_dispatcher(runtime: "Runtime", channels: Collection[Channel] = ()) -> None:
    """Dispatch until cancelled; what `throughline dispatch` does."""
    dispatcher = Dispatcher(runtime.core, runtime.switchboard, runtime.adapters, runtime.desk, worker_name("dispatch"))
    await dispatcher.run(tuple(channels))
