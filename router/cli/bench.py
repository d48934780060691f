"""`throughline bench`: how fast, and how surely, measured here and now."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import click

from router.cli.rim import Fault, out

PARTS = ("routed", "ingest", "storm", "latency", "growth", "processes", "audit")
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


@click.command()
@click.option("--detectors", is_flag=True, help="Measure the detectors instead: times to detect, false alarms.")
@click.option("--quick", is_flag=True, help="Small sizes: shows that it runs; the figures say little.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part; repeatable.")
@click.option(
    "--page",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Also put the tables between the marks of this page of the docs; with --detectors, the plot beside it.",
)
def bench(*, detectors: bool, quick: bool, parts: tuple[str, ...], page: Path | None) -> None:
    """Measure speed on a Redis, a provider and processes of its own; loopback only, nothing of yours is touched.

    Every figure stands beside what it is compared with, from the same run, as median [least..most].
    """
    with out.status("starting") as status:
        tell = status.update if sys.stdout.isatty() else _tell_on_stderr
        tables = _detect(tell, quick=quick, page=page) if detectors else _measure(tell, quick=quick, parts=parts)
    if page is not None:
        _put_on(page, tables)


def _measure(tell: Callable[[str], None], *, quick: bool, parts: tuple[str, ...]) -> str:
    # Loaded here and below: no other command needs them.
    from router.bench.child import ChildFailed, new_loop
    from router.bench.rows import FULL, QUICK
    from router.bench.speed import measure, print_table, write_markdown
    from router.bench.stage import NotVerified

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            rows = runner.run(measure(QUICK if quick else FULL, tell, parts or PARTS))
    except (ChildFailed, NotVerified, TimeoutError) as error:
        raise Fault(f"The bench was stopped: {error}. There is no table, because its figures would mislead.") from error
    print_table(out, rows)
    return write_markdown(rows)


def _detect(tell: Callable[[str], None], *, quick: bool, page: Path | None) -> str:
    from router.bench.detection import FULL, QUICK, detect, write_tables
    from router.bench.plot import draw

    found = detect(QUICK if quick else FULL, tell)
    if page is not None:
        page.with_suffix(".svg").write_text(draw(found.cells), encoding="utf-8")
    tables = write_tables(found)
    out.print(tables, markup=False)
    return tables


def _put_on(page: Path, tables: str) -> None:
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Fault(f"{page} has no place for figures: it needs the lines {BEGIN} and {END}.")
    page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


def _tell_on_stderr(words: str) -> None:
    click.echo(words, err=True)
