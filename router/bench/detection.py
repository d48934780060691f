"""The detector bench as a page: times to detect, false alarms, silent loss, in tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from router.bench.detectors import Cell, false_alarms, measure_cell, names_of, show_seconds, silent_losses

RATES = (0.2, 1.0, 10.0)
SHARES = (1.0, 0.5, 0.2)
LOSS_RATES = (0.1, 0.5, 2.0, 10.0)
LOSSES = (1.0, 0.5, 0.2)


@dataclass(frozen=True, slots=True)
class Depth:
    """How much is played."""

    seeds: int
    loss_seeds: int
    sends: Mapping[float, int]
    """Healthy sends that false alarms are counted over, by rate."""


FULL = Depth(60, 10, {1.0: 200_000, 10.0: 1_000_000})
QUICK = Depth(5, 2, {10.0: 20_000})


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found."""

    depth: Depth
    cells: tuple[Cell, ...]
    alarms: Mapping[float, Mapping[str, float]]
    losses: Mapping[tuple[float, float], tuple[float, ...]]
    """By rate and share lost."""


def detect(depth: Depth, tell: Callable[[str], None]) -> Detection:
    """Play everything; the same seeds give the same figures everywhere."""
    cells = []
    for rate in RATES:
        for share in SHARES:
            tell(f"{rate:g}/s, {share:.0%} failing")
            cells.append(measure_cell(rate, share, depth.seeds))
    losses = {}
    for rate in LOSS_RATES:
        for lost in LOSSES:
            tell(f"{rate:g}/s, {lost:.0%} silently lost")
            losses[rate, lost] = silent_losses(rate, lost, depth.loss_seeds)
    alarms = {}
    for rate, sends in depth.sends.items():
        tell(f"{sends:,} healthy sends at {rate:g}/s")
        alarms[rate] = false_alarms(sends, rate)
    return Detection(depth, tuple(cells), alarms, losses)


def write_tables(found: Detection) -> str:
    """As Markdown; it reads well in a terminal, too."""
    times = [
        [f"{cell.rate:g}/s, {cell.share:.0%} fail", *(_times(cell, name) for name in names_of(found.cells))]
        for cell in found.cells
    ]
    loss = [
        [f"{rate:g}/s", *(_losses(found.losses[rate, lost]) for lost in LOSSES)]
        for rate in sorted({rate for rate, _ in found.losses})
    ]
    names = list(next(iter(found.alarms.values())))
    alarms = [
        [f"{rate:g}/s ({found.depth.sends[rate]:,} sends)", *(f"{rates[name]:,.0f}" for name in names)]
        for rate, rates in found.alarms.items()
    ]
    return "\n\n".join(
        [
            f"Seconds from the outage until cut off, median / 90th percentile of {found.depth.seeds} seeds:",
            _table(["stream", *names_of(found.cells)], times),
            "False alarms by a million sends, 2 % of which fail:",
            _table(["rate", *names], alarms),
            "Silent loss: seconds until missing receipts make the endpoint suspect and a canary is sent, "
            f"median (most) of {found.depth.loss_seeds} seeds, receipts usually within 4 s:",
            _table(["rate", *(f"{lost:.0%} lost" for lost in LOSSES)], loss),
        ]
    )


def _times(cell: Cell, name: str) -> str:
    return f"{show_seconds(cell.median(name))} / {show_seconds(cell.ninetieth(name))}"


def _losses(times: Sequence[float]) -> str:
    return f"{show_seconds(times[(len(times) - 1) // 2])} ({show_seconds(times[-1])})"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
