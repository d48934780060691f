"""How processes are named on the board, and how they say that they live."""

import os
import secrets
import socket
from collections.abc import Callable, Mapping

import structlog
from redis.exceptions import RedisError

from health.board import BoardFull
from router.core import Core
from router.metric_files import reserve_metric_files
from router.store import codec
from router.telemetry import LOOP_LAG_SECONDS
from router.trouble import Trouble

BEAT_S = 1.0

log = structlog.get_logger()


def worker_name(role: str) -> str:
    """Names a process: role, host, pid and a random part, so that a restarted one is somebody else."""
    return f"{role}-{socket.gethostname()[:20]}-{os.getpid()}-{secrets.token_hex(2)}"


def tell_records() -> dict[str, object]:
    """What a beat says of it. Nobody who knows the first version alone expects a word about versions."""
    return {"records": codec.RECORDS_VERSION} if codec.RECORDS_VERSION > 1 else {}


def known_records(facts: Mapping[str, object]) -> int:
    """Up to which version a worker reads records; who says nothing of it knows the first."""
    known = facts.get("records", 1)
    return known if isinstance(known, int) else 1


def _no_facts() -> Mapping[str, object]:
    return {}


async def keep_beating(
    core: Core, worker: str, role: str, facts: Callable[[], Mapping[str, object]] = _no_facts
) -> None:
    """Beat every second until cancelled, with what this worker has to tell; at a clean end, take the name away."""
    beating = Trouble("beat", log)
    try:
        while True:
            reserve_metric_files()
            try:
                await core.board.beat(worker, role, core.clock.now(), {**facts(), **tell_records()})
            except (RedisError, OSError, TimeoutError, BoardFull) as error:
                beating.failed(error)
            else:
                beating.worked()
            planned = core.clock.monotonic() + BEAT_S
            await core.clock.sleep(BEAT_S)
            LOOP_LAG_SECONDS.labels(role).set(max(0.0, core.clock.monotonic() - planned))
    finally:
        try:
            await core.board.forget_worker(worker)
        except (RedisError, OSError, TimeoutError) as error:
            log.info("beat.left_behind", error=type(error).__name__)
