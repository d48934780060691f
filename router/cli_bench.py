"""`throughline bench`: how fast, and how surely, measured here and now."""

import asyncio
import sys
from pathlib import Path

import click

from router.cli_rim import Fault, out

PARTS = ("routed", "ingest", "storm", "latency", "growth", "processes")


@click.command()
@click.option("--detectors", is_flag=True, help="Measure the detectors instead: times to detect, false alarms.")
@click.option("--quick", is_flag=True, help="Small sizes: shows that it runs; the figures say little.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part; repeatable.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Also write the table to this file.")
def bench(*, detectors: bool, quick: bool, parts: tuple[str, ...], markdown: Path | None) -> None:
    """Measure speed on a Redis, a provider and processes of its own; loopback only, nothing of yours is touched.

    Every figure stands beside what it is compared with, from the same run, as median [least..most].
    """
    if detectors:
        _bench_detectors(quick=quick, markdown=markdown)
        return
    # Loaded here: no other command needs it.
    from router.bench.child import ChildFailed, new_loop  # noqa: PLC0415
    from router.bench.rows import FULL, QUICK  # noqa: PLC0415
    from router.bench.speed import measure, print_table, write_markdown  # noqa: PLC0415
    from router.bench.stage import NotVerified  # noqa: PLC0415

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner, out.status("starting") as status:
            tell = status.update if sys.stdout.isatty() else lambda words: click.echo(words, err=True)
            rows = runner.run(measure(QUICK if quick else FULL, tell, parts or PARTS))
    except (ChildFailed, NotVerified, TimeoutError) as error:
        raise Fault(f"The bench was stopped: {error}. There is no table, because its figures would mislead.") from error
    print_table(out, rows)
    if markdown is not None:
        markdown.write_text(write_markdown(rows) + "\n", encoding="utf-8")


def _bench_detectors(*, quick: bool, markdown: Path | None) -> None:
    raise Fault(f"not yet: {quick} {markdown}")
