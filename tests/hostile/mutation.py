"""Seeded mutation of what honest peers send: each case can be repeated from its seed, name and number."""

import os
import random
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SECONDS = float(os.environ.get("FUZZ_S", "2"))
"""How long one target is fuzzed: two seconds in the suite, as long as you like by `make fuzz`."""
SEED = os.environ.get("FUZZ_SEED", "0")
CASES_MIN = 200
"""Cases that are tried however slow the machine is; the suite's coverage does not shrink under load."""
CASE_S = 3.0
"""CPU seconds one case may take: far more than any takes, far less than a hang."""
GROWTH_MAX_KB = 96 * 1024
"""How much the process may grow over a whole target."""

_EDGES = (b"\x00", b"\xff", b"\x80", b"\x7f", b"\r\n", b"\n", b"\r", b".", b"\r\n.\r\n", b"%", b"&", b"=", b'"', b"<")
_EDGES += (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc0\xaf")


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile input."""

    name: str
    octets: bytes
    chance: random.Random


def cases(
    target: str,
    samples: Sequence[bytes],
    tokens: Sequence[bytes] = (),
    *,
    size_max: int = 100_000,
    least: int = CASES_MIN,
) -> Iterator[Case]:
    """Mutants of `samples` until the time is over; the loop's body must raise nothing, hang nowhere and keep little."""
    started, grown_from = time.monotonic(), _resident_kb()
    number = 0
    while number < least or time.monotonic() - started < SECONDS:
        chance = random.Random(f"{SEED}/{target}/{number}")
        octets = mutate(chance, samples, (*_EDGES, *tokens))[:size_max]
        name = f"FUZZ_SEED={SEED} {target} case {number}: {octets[:200]!r}"
        begun = time.process_time()
        yield Case(name, octets, chance)
        took = time.process_time() - begun
        assert took < CASE_S, f"{name} took {took:.1f} s"
        number += 1
    grown = _resident_kb() - grown_from
    assert grown < GROWTH_MAX_KB, f"{target}: {number} cases left {grown:,} KB behind"


def mutate(chance: random.Random, samples: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """One sample with one to eight changes: bits, cuts, copies, absurd numbers, pieces of the others."""
    octets = bytearray(chance.choice(samples))
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(octets))
        until = min(len(octets), at + chance.choice((1, 2, 4, 16, 200)))
        match chance.randrange(8):
            case 0 if octets:
                octets[at % len(octets)] ^= 1 << chance.randrange(8)
            case 1:
                del octets[at:until]
            case 2:
                octets[at:at] = octets[at:until] * chance.choice((1, 2, 50))
            case 3:
                octets[at:at] = chance.choice(tokens)
            case 4:
                octets[at:until] = chance.randbytes(until - at)
            case 5:
                other = chance.choice(samples)
                cut = chance.randint(0, len(other))
                octets[at:] = other[cut:]
            case 6:
                del octets[at:]
            case _:
                octets[at:until] = chance.choice(tokens) * chance.choice((1, 3, 300))
    return bytes(octets)


def _resident_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
