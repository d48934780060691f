"""The speed bench: one run, one table, every row a ratio of that run."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

from router.bench.auditing import audit_rows
from router.bench.rows import (
    Sizes,
    Tell,
    growth_rows,
    ingest_row,
    latency_row,
    process_rows,
    routed_rows,
    storm_rows,
)
from router.bench.stage import Row, Stage, set_stage

PARTS = ("routed", "ingest", "storm", "latency", "growth", "processes", "audit")


async def measure(sizes: Sizes, tell: Tell, parts: Collection[str] = PARTS) -> list[Row]:
    """Every row of `parts`. `latency` needs to know what was reached, so it measures `routed` too."""
    async with set_stage() as stage:
        return await _measure(stage, sizes, tell, parts)


async def _measure(stage: Stage, sizes: Sizes, tell: Tell, parts: Collection[str]) -> list[Row]:
    rows: list[Row] = []
    capacity = 0.0
    if {"routed", "latency"} & set(parts):
        found, capacity = await routed_rows(stage, sizes, tell)
        rows += found
    if "ingest" in parts:
        rows += await ingest_row(stage, sizes, tell)
    if "storm" in parts:
        rows += await storm_rows(stage, sizes, tell)
    if "latency" in parts:
        rows += await latency_row(stage, sizes, capacity, tell)
    if "growth" in parts:
        rows += await growth_rows(stage, sizes, tell)
    if "processes" in parts:
        rows += await process_rows(stage, sizes, tell)
    if "audit" in parts:
        rows += await audit_rows(stage, sizes.repetitions, tell, sizes.audited)
    return rows


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """The table as people read it."""
    table = Table(box=None, pad_edge=False)
    for name in ("what", "ours", "beside it", "ratio", "reach", ""):
        table.add_column(name, overflow="fold")
    for row in rows:
        mark = {True: "reached", False: "missed", None: ""}[row.reached]
        table.add_row(row.what, row.ours, row.beside, row.ratio, row.reach, mark)
    console.print(table)


def write_markdown(rows: Sequence[Row]) -> str:
    """The same for a page of the docs."""
    lines = ["| what | ours | beside it | ratio | reach | |", "|---|---|---|---|---|---|"]
    for row in rows:
        mark = {True: "reached", False: "missed", None: ""}[row.reached]
        lines.append(f"| {row.what} | {row.ours} | {row.beside} | {row.ratio} | {row.reach} | {mark} |")
    return "\n".join(lines)
