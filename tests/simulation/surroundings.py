"""What stands between a simulated process and the real world: its log, its board, its disk, its clock, its chance."""

import contextlib
import errno
import os
import secrets
import traceback
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

from health.records import StatusRecord
from health.report import Direction, EndpointId
from router import dispatcher, mover, planner, reconciler, sender, supervisor
from router.spool import Spool
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.world import World

POLL_S, CALM_POLL_S = 8.0, 20.0
"""Between two looks where no bell rings: longer than in life, so that an hour takes seconds."""
FAILBACK_S, PACE_S = 10.0, 20.0
"""Likewise: between two looks at who may go home, and between two times that the pace is written down."""
WALK_S = 20.0
"""Between two steps of the reconciler: each sees all that a seed has."""
SPOOL_LOOK_S = 4.0
EXPECTED = frozenset({"spool.not_written", "spool.put_aside", "spool.not_put_aside", "spool.not_noted"})
"""A full disk, and a message to a conversation that was closed: clients are asked what became of them."""


class Listened:
    """Takes what the loops log: a loop's rim that caught something is a fault found."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.broken = world.loop.broken

    def bind(self, **_: object) -> "Listened":
        """The same for everybody."""
        return self

    def info(self, *_: object, **__: object) -> None:
        """Nothing to see."""

    warning = info

    def error(self, event: str, **facts: object) -> None:
        """Said to be impossible."""
        if event == "repair.made":
            self.world.repaired(str(facts["words"]), f"{facts['conversation']}:{facts['side']}")
        elif (event, facts.get("step")) != ("settlement.given_up", "settle"):
            self.broken.append(f"{event} {facts}")

    def exception(self, event: str, **facts: object) -> None:
        """Caught at a rim."""
        if event not in EXPECTED:
            self.broken.append(f"{event} {facts}\n{traceback.format_exc()}")


class SimBoard:
    """Health's conclusions, as one process hears of them."""

    def __init__(self, world: "World", lag_s: float) -> None:
        self.world = world
        self.lag_s = lag_s

    async def statuses(self) -> dict[tuple[EndpointId, Direction], StatusRecord]:
        """Both directions alike."""
        world = self.world
        now = world.now - self.lag_s
        found = {}
        for endpoint in world.climate.endpoints:
            record = world.climate.status(endpoint, now, world.roles.supervised_at)
            found[endpoint, Direction.OUT] = record
        return found

    async def beats(self) -> list[object]:
        """Nobody beats here."""
        return []

    async def open_incidents(self) -> list[object]:
        """None is kept."""
        return []


def let_go(spool: Spool) -> None:
    """What the system does for a process that dies: its files are closed, and their locks gone."""
    files, spool._files[:] = list(spool._files), []
    for file in files:
        os.close(file.descriptor)


def _write_all(world: "World", descriptor: int, content: bytes) -> None:
    """A disk that is full now and then, and a process that dies in the middle of a line."""
    climate = world.climate
    if not world.calm and world.rng.random() < climate.disk_full:
        os.write(descriptor, content[: world.rng.randrange(len(content))])
        process = PROCESS.get()
        if process is not None and world.rng.random() < climate.torn:
            process.kill()
        raise OSError(errno.ENOSPC, "No space left on device")
    os.write(descriptor, content)


@contextlib.contextmanager
def surrounded(world: "World") -> Iterator[None]:
    """Nothing that the real world's clock or chance decides may reach the run."""
    listened = Listened(world)
    with contextlib.ExitStack() as stack:
        for module in (dispatcher, mover, planner, reconciler, sender, supervisor):
            stack.enter_context(mock.patch.object(module, "log", listened))
        for module in ("edge", "receipts", "spool", "spool_files"):
            stack.enter_context(mock.patch(f"router.{module}.log", listened))
        for module in (planner, sender):
            stack.enter_context(mock.patch.object(module, "POLL_S", POLL_S * world.pace))
        stack.enter_context(mock.patch("router.spool.LOOK_S", SPOOL_LOOK_S * world.pace))
        clock = SimpleNamespace(time=lambda: world.unix, time_ns=lambda: int(world.unix * 1e9))
        for module in ("spool", "spool_files"):
            stack.enter_context(mock.patch(f"router.{module}.time", clock))
        stack.enter_context(mock.patch("router.spool_files.write_all", partial(_write_all, world)))
        stack.enter_context(mock.patch.object(supervisor, "FAILBACK_EVERY_S", FAILBACK_S * world.pace))
        stack.enter_context(mock.patch.object(supervisor, "PACE_EVERY_S", PACE_S * world.pace))
        stack.enter_context(mock.patch.object(reconciler, "STEP_S", WALK_S * world.pace))
        stack.enter_context(mock.patch.object(secrets, "randbits", world.rng.getrandbits))
        stack.enter_context(
            mock.patch.object(secrets, "token_hex", lambda size: f"{world.rng.getrandbits(8 * size):x}")
        )
        yield
