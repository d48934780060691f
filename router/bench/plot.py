"""A plot of times to detect, as SVG: a panel for each kind and share of failures, time on a logarithmic axis."""

import math
from collections.abc import Sequence
from html import escape

from router.bench.detectors import Cell, names_of
from router.bench.streams import Kind

PANEL, GAP, TOP, BOTTOM, LEFT = 240, 40, 50, 150, 60
HEIGHT = 260
LEAST_S, MOST_S = 0.3, 600.0
NEVER_S = 1_000.0
"""Where `never` is drawn, above a broken line."""
TICKS_S = (0.5, 1, 5, 10, 30, 60, 120, 300, 600)
COLOURS = ("#1b6ca8", "#7fb3d5", "#c0392b", "#d68910", "#7d3c98", "#707b7c")


ROW = HEIGHT + 70
"""From one row of panels to the next."""
TITLES = {Kind.FAILS: "of sends fail at once", Kind.HANGS: "of sends hang"}


def draw(cells: Sequence[Cell]) -> str:
    """The SVG document. A row of panels a kind, a panel an equal share of failures, in it one line a detector."""
    shares = sorted({cell.share for cell in cells}, reverse=True)
    kinds = sorted({cell.kind for cell in cells})
    width = LEFT + len(shares) * (PANEL + GAP)
    bottom = TOP + (len(kinds) - 1) * ROW + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + BOTTOM}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Median time to detect an outage, by rate, kind and share of failures</title>",
        f'<rect width="{width}" height="{bottom + BOTTOM}" fill="white"/>',
    ]
    for row, kind in enumerate(kinds):
        for number, share in enumerate(shares):
            panel = [cell for cell in cells if (cell.kind, cell.share) == (kind, share)]
            title = f"{share:.0%} {TITLES[kind]}"
            parts += _panel(LEFT + number * (PANEL + GAP), row * ROW, title, sorted(panel, key=lambda cell: cell.rate))
    parts += _legend(bottom, names_of(cells))
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, down: int, title: str, cells: Sequence[Cell]) -> list[str]:
    right = left + PANEL
    parts = [
        f'<g transform="translate(0 {down})">',
        f'<text x="{left + PANEL / 2}" y="24" text-anchor="middle" font-size="14">{title}</text>',
    ]
    for seconds in TICKS_S:
        y = _y(seconds)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e5e7e9"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#566573">{seconds:g} s</text>')
    y = _y(NEVER_S)
    parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#aab7b8" stroke-dasharray="4 4"/>')
    parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" fill="#566573">never</text>')
    places = [left + PANEL * (index + 0.5) / len(cells) for index in range(len(cells))]
    for x, cell in zip(places, cells, strict=True):
        label = f"{cell.rate:g}/s"
        parts.append(f'<text x="{x:.0f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{label}</text>')
    for index, name in enumerate(names_of(cells)):
        parts += _series(index, name, places, cells)
    return [*parts, "</g>"]


def _series(index: int, name: str, places: Sequence[float], cells: Sequence[Cell]) -> list[str]:
    colour, aside = COLOURS[index % len(COLOURS)], (index - 2.5) * 5
    points = [(x + aside, _y(cell.median(name))) for x, cell in zip(places, cells, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1" opacity="0.5"/>']
    for (x, y), cell in zip(points, cells, strict=True):
        high = _y(cell.ninetieth(name))
        parts.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    return parts


def _legend(bottom: int, names: Sequence[str]) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        y = bottom + 44 + 16 * index
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<circle cx="{LEFT + 6}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 18}" y="{y}">{escape(name)}</text>')
    words = "Dot: median. Line: to the 90th percentile. Never: not within ten minutes."
    parts.append(f'<text x="{LEFT + 330}" y="{bottom + 44}" fill="#566573">{words}</text>')
    return parts


def _y(seconds: float) -> float:
    low, high = math.log(LEAST_S), math.log(NEVER_S)
    bounded = NEVER_S if seconds > MOST_S else max(seconds, LEAST_S)
    return TOP + HEIGHT * (high - math.log(bounded)) / (high - low)
