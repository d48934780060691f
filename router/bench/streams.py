"""What the detectors' bench plays: seeded streams of sends, before and in an outage, and what healthy noise is like."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

BASE_SHARE = 0.02
"""Of the sends of a healthy endpoint, those that fail."""
ANSWER_S = 0.1
"""How long an ordinary answer takes."""


class Kind(StrEnum):
    """How the sends of an outage fail."""

    FAILS = "fails"  # at once: refused connections where all of them fail, else errors
    HANGS = "hangs"  # never answered


@dataclass(frozen=True, slots=True)
class Send:
    """One send of a stream."""

    at: float
    number: int
    answered_s: float
    """When its answer comes, in seconds after `at`; infinite: never."""
    failed: bool
    """Meaningless without an answer."""
    refused: bool = False
    """It failed because nobody listens."""


def outage(kind: Kind, rate: float, share: float, seed: int, *, before_s: float, after_s: float) -> Iterator[Send]:
    """Poisson sends: `before_s` at the base share of failures, then at `share`; times from the outage's beginning."""
    dice = random.Random(seed)
    at, number = -before_s, 0
    while (at := at + dice.expovariate(rate)) < after_s:
        number += 1
        failed = dice.random() < (share if at >= 0 else BASE_SHARE)
        hangs = failed and at >= 0 and kind is Kind.HANGS
        answered_s = float("inf") if hangs else 0.0 if failed else ANSWER_S
        yield Send(at, number, answered_s, failed, refused=at >= 0 and share == 1 and kind is Kind.FAILS)


@dataclass(frozen=True, slots=True)
class Noise:
    """What a healthy endpoint is like, sound or not so sound."""

    name: str
    share: float = BASE_SHARE
    share_most: float = BASE_SHARE
    """The share of failures wanders between the two within `WANDER_S`."""
    burst_every: int = 0
    """Sends between two bursts, on average: one broken connection fails 5 to 20 sends within a fifth of a second."""
    late_share: float = 0.0
    """Of the answers, those that take `LATE_S`."""


WANDER_S = 3600.0
LATE_S = 3.0
BURST_S = 0.2
BURSTS = (5, 20)
NOISES = (
    Noise("2 % fail"),
    Noise("5 % fail", 0.05, 0.05),
    Noise("2 to 5 % fail, wandering hourly", 0.02, 0.05),
    Noise("2 % fail, and every 2,000 sends a burst", burst_every=2000),
    Noise("2 % fail, a tenth is answered after 3 s", late_share=0.1),
)


def healthy(noise: Noise, rate: float, sends: int, seed: int) -> Iterator[Send]:
    """Poisson sends of an endpoint on which nothing is wrong but its noise; times from the beginning."""
    dice = random.Random(seed)
    at, number = 0.0, 0
    while number < sends:
        at += dice.expovariate(rate)
        if noise.burst_every and dice.random() < 1 / noise.burst_every:
            ends = sorted(at + dice.uniform(0, BURST_S) for _ in range(dice.randint(*BURSTS)))
            for end in ends:
                number += 1
                yield Send(end, number, 0.0, failed=True)
            at = ends[-1]
            continue
        number += 1
        # A triangle wave: as long at every share between the two.
        place = abs(2 * (at / WANDER_S % 1) - 1)
        failed = dice.random() < noise.share + place * (noise.share_most - noise.share)
        late = not failed and noise.late_share > 0 and dice.random() < noise.late_share
        yield Send(at, number, 0.0 if failed else LATE_S if late else ANSWER_S, failed)
