"""Runs seeds: `python -m tests.simulation.run --seed 7`, `--seeds 10000`, `--mutants`."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path

import redis

from router.private_redis import PrivateRedis
from tests.simulation.mutants import MUTANTS, PATCHES, broken
from tests.simulation.oracle import judge
from tests.simulation.world import World

CHUNK = 5
"""Seeds that a process takes at a time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one seed came to."""

    seed: int
    wrong: tuple[str, ...]
    trace: str
    """Equal for equal runs."""
    virtual_s: float
    calls: int
    messages: int
    begun: int
    twice: int
    killed: int
    repaired: int
    spooled: int


def run_seed(
    seed: int,
    client: redis.Redis,
    mutate: Callable[[dict[str, str]], dict[str, str]] = dict,
    log: list[str] | None = None,
) -> Verdict:
    """Run one seed and judge it."""
    world = World(seed, client, mutate, log)
    world.run()
    tokens: dict[str, int] = {}
    for vendor in world.vendors.values():
        for one in vendor.journal:
            tokens[one.message_id] = tokens.get(one.message_id, 0) + 1
    return Verdict(
        seed=seed,
        wrong=tuple(judge(world)),
        trace=world.server.trace.hexdigest(),
        virtual_s=world.now,
        calls=world.server.calls,
        messages=sum(len(talk.said) for talk in world.talks),
        begun=len(world.server.begun),
        twice=sum(count > 1 for count in tokens.values()),
        killed=world.roles.kills,
        repaired=world.repairs,
        spooled=sum(said.spooled for talk in world.talks for said in talk.said),
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--mutants", action="store_true", help="break the protocol, one guarantee at a time")
    parser.add_argument("--log", action="store_true", help="every step of the one seed")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    if asked.seed is None and not asked.mutants:
        return _many(asked)
    with _own_redis() as client:
        return _mutants(asked.seeds, client) if asked.mutants else _one(asked.seed, client, log=asked.log)


def first_found(name: str, seeds: range, client: redis.Redis) -> Verdict | None:
    """The first seed that notices what a mutant breaks; None: it survived them all."""
    with broken(name) as mutate:
        return next((found for seed in seeds if (found := run_seed(seed, client, mutate)).wrong), None)


def _mutants(seeds: int, client: redis.Redis) -> int:
    survived = False
    for name in (*MUTANTS, *PATCHES):
        found = first_found(name, range(seeds), client)
        survived = survived or found is None
        print(
            f"{name}: " + (f"noticed by seed {found.seed}: {found.wrong[0][:150]}" if found else "SURVIVED"), flush=True
        )
    return survived


def _one(seed: int, client: redis.Redis, *, log: bool) -> int:
    lines: list[str] = []
    verdict = run_seed(seed, client, log=lines if log else None)
    for line in lines:
        print(line)
    print(verdict)
    for wrong in verdict.wrong:
        print("WRONG", wrong)
    return bool(verdict.wrong)


def _many(asked: argparse.Namespace) -> int:
    """Every process has a Redis and seeds of its own; what they came to is said in one line."""
    began = time.monotonic()
    seeds = range(asked.first, asked.first + asked.seeds)
    verdicts: list[Verdict] = []
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn"), initializer=_begin) as pool:
        for verdict in pool.map(_run_one, seeds, chunksize=CHUNK):
            verdicts.append(verdict)
            if verdict.wrong:
                print(
                    f"seed {verdict.seed}: {len(verdict.wrong)} wrong; repeat with: make simulate SEED={verdict.seed}"
                )
                for wrong in verdict.wrong[:5]:
                    print("   ", wrong[:1500])
            if len(verdicts) % 100 == 0:
                print(f"{len(verdicts)} seeds so far, {time.monotonic() - began:.0f} s")
            sys.stdout.flush()
    took = time.monotonic() - began
    print(
        f"{len(verdicts)} seeds in {took:.1f} s in {asked.processes} processes, "
        f"{sum(v.virtual_s for v in verdicts) / 3600:.1f} hours of virtual time, "
        f"{sum(v.messages for v in verdicts)} messages, {sum(v.begun for v in verdicts)} attempts, "
        f"{sum(v.twice for v in verdicts)} taken twice, {sum(v.killed for v in verdicts)} processes killed, "
        f"{sum(v.spooled for v in verdicts)} promised by a spool, "
        f"{sum(v.repaired for v in verdicts)} repairs, "
        f"{sum(v.calls for v in verdicts)} calls, {sum(bool(v.wrong) for v in verdicts)} seeds wrong"
    )
    return any(v.wrong for v in verdicts)


@contextlib.contextmanager
def _own_redis() -> Iterator[redis.Redis]:
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        server = PrivateRedis(Path(folder), durable=False)
        server.start()
        try:
            with redis.Redis.from_url(server.url, decode_responses=True, protocol=2) as client:
                yield client
        finally:
            server.stop()


_held = contextlib.ExitStack()
_clients: list[redis.Redis] = []
"""This process's one."""


def _begin() -> None:
    """A process of the pool begins; what it holds goes with it."""
    _clients.append(_held.enter_context(_own_redis()))
    Finalize(None, _held.close, exitpriority=10)


def _run_one(seed: int) -> Verdict:
    return run_seed(seed, _clients[0])


if __name__ == "__main__":
    sys.exit(main())
