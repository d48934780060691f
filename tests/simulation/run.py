"""Runs seeds: `python -m tests.simulation.run --seed 7`, `--seeds 10000`, `--mutants`."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from router.private_redis import PrivateRedis
from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.oracle import judge
from tests.simulation.world import World


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
        killed=world.kills,
        repaired=world.repairs,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--mutants", action="store_true", help="break the protocol, one guarantee at a time")
    parser.add_argument("--log", action="store_true", help="every step of the one seed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        server = PrivateRedis(Path(folder), durable=False)
        server.start()
        try:
            with redis.Redis.from_url(server.url, decode_responses=True, protocol=2) as client:
                if asked.seed is not None:
                    return _one(asked.seed, client, log=asked.log)
                if asked.mutants:
                    return _mutants(asked.seeds, client)
                return _many(range(asked.first, asked.first + asked.seeds), client)
        finally:
            server.stop()


def first_found(name: str, seeds: range, client: redis.Redis) -> Verdict | None:
    """The first seed that notices what a mutant breaks; None: it survived them all."""
    for seed in seeds:
        verdict = run_seed(seed, client, lambda sources: mutated(name, sources))
        if verdict.wrong:
            return verdict
    return None


def _mutants(seeds: int, client: redis.Redis) -> int:
    survived = False
    for name in MUTANTS:
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


def _many(seeds: range, client: redis.Redis) -> int:
    began = time.monotonic()
    verdicts = []
    for seed in seeds:
        verdict = run_seed(seed, client)
        verdicts.append(verdict)
        if verdict.wrong:
            print(f"seed {seed}: {len(verdict.wrong)} wrong; repeat with: make simulate SEED={seed}")
            for wrong in verdict.wrong[:5]:
                print("   ", wrong[:1500])
        if len(verdicts) % 100 == 0:
            print(f"{len(verdicts)} seeds so far, {time.monotonic() - began:.0f} s")
        sys.stdout.flush()
    took = time.monotonic() - began
    print(
        f"{len(verdicts)} seeds in {took:.1f} s ({took / len(verdicts) * 1000:.0f} ms each), "
        f"{sum(v.virtual_s for v in verdicts) / 3600:.1f} hours of virtual time, "
        f"{sum(v.messages for v in verdicts)} messages, {sum(v.begun for v in verdicts)} attempts, "
        f"{sum(v.twice for v in verdicts)} taken twice, {sum(v.killed for v in verdicts)} processes killed, "
        f"{sum(v.repaired for v in verdicts)} repairs, "
        f"{sum(v.calls for v in verdicts)} calls, {sum(bool(v.wrong) for v in verdicts)} seeds wrong"
    )
    return any(v.wrong for v in verdicts)


if __name__ == "__main__":
    sys.exit(main())
