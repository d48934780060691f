"""A plot of times to detect, as SVG: one panel a failure share, one line a detector, time on a logarithmic axis."""

import math
from collections.abc import Sequence
from html import escape

from router.bench.detectors import Cell, names_of

PANEL, GAP, TOP, BOTTOM, LEFT = 240, 40, 50, 150, 60
HEIGHT = 260
LEAST_S, MOST_S = 0.3, 600.0
NEVER_S = 1_000.0
"""Where `never` is drawn, above a broken line."""
TICKS_S = (0.5, 1, 5, 10, 30, 60, 120, 300, 600)
COLOURS = ("#1b6ca8", "#7fb3d5", "#c0392b", "#d68910", "#7d3c98", "#707b7c")


def draw(cells: Sequence[Cell]) -> str:
    """The SVG document. Cells of equal failure share stand in one panel, by rate."""
    shares = sorted({cell.share for cell in cells}, reverse=True)
    width = LEFT + len(shares) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + BOTTOM}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Median time to detect an outage, by rate and failure share</title>",
        f'<rect width="{width}" height="{TOP + HEIGHT + BOTTOM}" fill="white"/>',
    ]
    for number, share in enumerate(shares):
        panel = sorted((cell for cell in cells if cell.share == share), key=lambda cell: cell.rate)
        parts += _panel(LEFT + number * (PANEL + GAP), share, panel)
    parts += _legend(names_of(cells))
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, share: float, cells: Sequence[Cell]) -> list[str]:
    right = left + PANEL
    parts = [
        f'<text x="{left + PANEL / 2}" y="24" text-anchor="middle" font-size="14">{share:.0%} of sends fail</text>'
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
    return parts


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


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        y = TOP + HEIGHT + 44 + 16 * index
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<circle cx="{LEFT + 6}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 18}" y="{y}">{escape(name)}</text>')
    words = "Dot: median. Line: to the 90th percentile. Never: not within ten minutes."
    parts.append(f'<text x="{LEFT + 330}" y="{TOP + HEIGHT + 44}" fill="#566573">{words}</text>')
    return parts


def _y(seconds: float) -> float:
    low, high = math.log(LEAST_S), math.log(NEVER_S)
    bounded = NEVER_S if seconds > MOST_S else max(seconds, LEAST_S)
    return TOP + HEIGHT * (high - math.log(bounded)) / (high - low)
