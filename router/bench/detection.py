"""The detector bench as a page: times to detect, false alarms, silent loss, in tables."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from router.bench.detectors import PROBES, Cell, false_alarms, measure_cell, names_of, show_seconds, silent_losses
from router.bench.streams import NOISES, Kind, Noise
from router.bench.watched import CANARY_BOUND_S

RATES = (0.2, 1.0, 5.0, 20.0)
SHARES = (1.0, 0.5, 0.2)
LOSS_RATES = (0.1, 0.5, 2.0, 10.0)
LOSSES = (1.0, 0.5, 0.2)
ALARM_RATE = 5.0
WORDS = {Kind.FAILS: "fail", Kind.HANGS: "hang"}


@dataclass(frozen=True, slots=True)
class Depth:
    """How much is played."""

    seeds: int
    loss_seeds: int
    sends: int
    """Healthy ones that false alarms are counted over, of each noise."""
    workers: int = 1


FULL = Depth(60, 10, 1_000_000, os.cpu_count() or 1)
QUICK = Depth(2, 2, 2_000)


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found."""

    depth: Depth
    cells: tuple[Cell, ...]
    alarms: Mapping[Noise, Mapping[str, int]]
    losses: Mapping[tuple[float, float], tuple[tuple[float, ...], tuple[float, ...]]]
    """By rate and share lost: until suspect, until down."""


Task = TypeVar("Task")
Found = TypeVar("Found")


def detect(depth: Depth, tell: Callable[[str], None]) -> Detection:
    """Play everything; the same seeds give the same figures everywhere, on however many processors."""
    outages = [(kind, rate, share) for kind in Kind for rate in RATES for share in SHARES]
    lost = [(rate, share) for rate in LOSS_RATES for share in LOSSES]
    cells = []
    for (kind, rate, share), cell in _play(partial(_measure, seeds=depth.seeds), outages, depth):
        tell(f"{rate:g}/s, {share:.0%} {WORDS[kind]}")
        cells.append(cell)
    losses = {}
    for (rate, share), times in _play(partial(_lose, seeds=depth.loss_seeds), lost, depth):
        tell(f"{rate:g}/s, {share:.0%} silently lost")
        losses[rate, share] = times
    alarms = {}
    for noise, counts in _play(partial(false_alarms, sends=depth.sends, rate=ALARM_RATE), NOISES, depth):
        tell(f"{depth.sends:,} healthy sends: {noise.name}")
        alarms[noise] = counts
    return Detection(depth, tuple(cells), alarms, losses)


def _play(work: Callable[[Task], Found], tasks: Sequence[Task], depth: Depth) -> Iterator[tuple[Task, Found]]:
    if depth.workers == 1:
        yield from zip(tasks, map(work, tasks), strict=True)
        return
    with ProcessPoolExecutor(depth.workers, get_context("spawn")) as pool:
        yield from zip(tasks, pool.map(work, tasks), strict=True)


def _measure(task: tuple[Kind, float, float], *, seeds: int) -> Cell:
    return measure_cell(*task, seeds)


def _lose(task: tuple[float, float], *, seeds: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return silent_losses(*task, seeds)


def write_tables(found: Detection) -> str:
    """As Markdown; it reads well in a terminal, too."""
    names = names_of(found.cells)
    times = [
        [f"{cell.rate:g}/s, {cell.share:.0%} {WORDS[cell.kind]}", *(_times(cell, name) for name in names)]
        for cell in found.cells
    ]
    alarms = [
        [noise.name, *(f"{count:,}" for name, count in counts.items() if name != PROBES), _pace(found, counts)]
        for noise, counts in found.alarms.items()
    ]
    counted = [name for name in next(iter(found.alarms.values())) if name != PROBES]
    rates = sorted({rate for rate, _ in found.losses})
    loss = [
        [f"{rate:g}/s", *(_losses(found.losses[rate, lost][which]) for which in (0, 1) for lost in LOSSES)]
        for rate in rates
    ]
    shares = [f"{lost:.0%} lost" for lost in LOSSES]
    return "\n\n".join(
        [
            f"Seconds from the outage until cut off, median / 90th percentile of {found.depth.seeds} seeds:",
            _table(["stream", *names], times),
            f"Times cut off in {found.depth.sends:,} sends of an endpoint that only has its noise, at "
            f"{ALARM_RATE:g}/s; beside it how often ours was merely suspect, and how often it probed:",
            _table(["noise", *counted, "our probes a minute"], alarms),
            "Silent loss: seconds until missing receipts make the endpoint suspect and a canary is sent, and until its "
            f"loss takes it down ({CANARY_BOUND_S:g} s after it was sent), median (most) of {found.depth.loss_seeds} "
            "seeds, receipts usually within 4 s:",
            _table(["rate", *(f"suspect, {share}" for share in shares), *(f"down, {share}" for share in shares)], loss),
        ]
    )


def _pace(found: Detection, counts: Mapping[str, int]) -> str:
    return f"{counts[PROBES] / (found.depth.sends / ALARM_RATE) * 60:.1f}"


def _times(cell: Cell, name: str) -> str:
    return f"{show_seconds(cell.median(name))} / {show_seconds(cell.ninetieth(name))}"


def _losses(times: Sequence[float]) -> str:
    return f"{show_seconds(times[(len(times) - 1) // 2])} ({show_seconds(times[-1])})"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
