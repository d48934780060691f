"""The bench: it runs at tiny sizes, checks what it measured, and prints its table; the same for the detectors."""

import asyncio
from dataclasses import replace
from xml.etree import ElementTree

import aiohttp
import pytest
from click.testing import CliRunner
from rich.console import Console

from router.bench import detection
from router.bench.breakers import CountWindow, TimeWindow, published
from router.bench.celery_fallback import send
from router.bench.child import ChildFailed, child, new_loop
from router.bench.detection import detect, write_tables
from router.bench.detectors import OURS, false_alarms, known, measure_cell, silent_losses
from router.bench.load import HERE, body, seed, verify, whose
from router.bench.plot import draw
from router.bench.rows import QUICK
from router.bench.speed import measure, print_table, write_markdown
from router.bench.stage import CONTENDER, PROVIDER, NotVerified, Row, Spread, ratios, set_stage
from router.bench.streams import NOISES, Kind, Send
from router.cli.app import throughline

TINY = replace(
    QUICK,
    repetitions=1,
    conversations=20,
    celery=20,
    ingest=40,
    customers=10,
    storm=200,
    paced_s=0.3,
    growth=(200,),
    processes=(1,),
    audited=100,
)


def run(coroutine):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(coroutine)


@pytest.mark.timeout(120)  # ten processes are started for it, Celery's among them
def test_every_row_is_measured_and_told(capsys):
    """One small run gives every row of the table, verified against the journal, each ratio above nothing."""
    told = []
    rows = run(measure(TINY, told.append))
    assert told
    print_table(Console(width=200), rows)
    shown = capsys.readouterr().out
    for words in (
        "routed messages/s : bare",
        "Celery",
        "webhooks/s",
        "storm",
        "accept meanwhile",
        "added latency",
        "bytes each",
        "1 dispatcher process",
        "`throughline audit` of 100",
    ):
        assert words in shown
        assert any(words in line for line in write_markdown(rows).splitlines())
    planned = next(row for row in rows if row.what.startswith("routes planned"))
    assert float(planned.ours.replace(",", "")) > 0


def test_a_message_that_the_provider_got_twice_or_never_makes_no_figure(tmp_path):
    """The run is refused rather than counted."""

    async def play():
        async with set_stage() as stage, stage.part():
            await seed(stage.store, 5, 2)
            await stage.contender.ask(do="routed", endpoint=HERE)
            found = await stage.check(5, 2)
            assert (found.messages, found.clean) == (10, True)
            await stage.contender.ask(do="bare", conversations=5, each=2)
            await stage.contender.ask(do="bare", conversations=5, each=1)
            with pytest.raises(NotVerified, match="doubled=5"):
                await stage.check(5, 2)
            with pytest.raises(NotVerified, match="lost=10"):
                await stage.check(5, 2)
            with pytest.raises(ChildFailed, match="no such question"):
                await stage.contender.ask(do="nothing")

    run(play())


def test_a_child_that_cannot_start_is_told_of(tmp_path):
    """Its end is an error, not a wait."""

    async def play():
        async with child(tmp_path, CONTENDER) as one:
            with pytest.raises(ChildFailed, match="ended"):
                await one.ask(do="bare")
        async with child(tmp_path, PROVIDER) as provider:
            assert (await provider.heard())["port"]

    run(play())


def test_a_journal_is_read_for_loss_doubles_and_order():
    """By the mark that every text carries; other texts are not counted."""
    assert len(body(3, 4).encode()) == 300
    assert whose(body(3, 4)) == 3
    assert verify([body(0, 0), body(1, 0), body(0, 1), body(1, 1), "hello"], 2, 2).clean
    found = verify([body(0, 1), body(0, 0), body(0, 0)], 2, 2)
    assert (found.lost, found.doubled, found.disordered) == (2, 1, 1)
    assert verify([body(0, 1), body(0, 0)], 1, 2, ordered=False).clean


def test_ratios_are_of_the_same_repetition():
    """A disturbance of one repetition does not spread over the others."""
    assert ratios([10, 1], [20, 2]).show() == "0.50 [0.50..0.50]"
    assert Spread(()).show() == "-"
    assert Row("a", "b", "c", "d", "e").reached is None


def test_the_celery_task_falls_back(tmp_path):
    """The comparison is with code that does have its second provider."""

    async def play():
        async with child(tmp_path, PROVIDER) as provider:
            base = f"http://127.0.0.1:{(await provider.heard())['port']}"
            await asyncio.to_thread(send, "http://127.0.0.1:1", base, "/Messages.json", {"Body": body(0, 0)}, {})
            async with aiohttp.ClientSession() as http, http.get(f"{base}/count") as taken:
                assert await taken.text() == "1"

    run(play())


def test_breakers_trip_as_documented():
    """Each at its documented edge, not one outcome earlier."""
    envoy = published()["Envoy, 5 in a row"].rule
    assert [envoy.observe(at, failed=at != 2) for at in range(8)] == [False] * 7 + [True]
    counted = CountWindow()
    assert [counted.observe(at, failed=at % 2 == 0) for at in range(100)] == [False] * 99 + [True]
    timed = TimeWindow(0.5, 10.0, 20)
    assert [timed.observe(at / 2, failed=True) for at in range(40)].index(True) == 19
    assert not any(TimeWindow(0.5, 10.0, 20).observe(at, failed=True) for at in range(40))


def test_a_hanging_send_is_known_when_its_caller_has_waited_long_enough():
    """Each breaker by its own library's time-out, in the order in which they learn it."""
    sends = [Send(0.0, 1, float("inf"), True), Send(0.5, 2, 0.1, False), Send(2.0, 3, 0.0, True)]
    assert list(known(sends, 1.0)) == [(0.6, False), (1.0, True), (2.0, True)]
    assert list(known(sends, 15.0)) == [(0.6, False), (2.0, True), (15.0, True)]


@pytest.fixture
def shallow(monkeypatch):
    """One seed of each, and one rate of silent loss."""
    depth = replace(detection.QUICK, seeds=1, loss_seeds=1, sends=500)
    monkeypatch.setattr(detection, "QUICK", depth)
    monkeypatch.setattr(detection, "RATES", (0.2, 1.0))
    monkeypatch.setattr(detection, "LOSS_RATES", (2.0,))
    return depth


def test_detectors_are_compared_on_the_same_streams(shallow):
    """Half of one message a second failing: ours is first by far; missing receipts are noticed; the plot is SVG."""
    cell = measure_cell(Kind.FAILS, 1.0, 0.5, 5)
    assert cell.median(OURS) < 12 < cell.median("Envoy, 5 in a row") < cell.median("resilience4j, 50 % of 100")
    assert cell.times == measure_cell(Kind.FAILS, 1.0, 0.5, 5).times
    rare = measure_cell(Kind.FAILS, 0.2, 1.0, 20)
    assert rare.ninetieth(OURS) < 20 <= rare.ninetieth("Envoy, 5 in a row"), "with few sends it is the probes that tell"
    hangs = measure_cell(Kind.HANGS, 5.0, 1.0, 5)
    assert hangs.median(OURS) < 8 < 15 < hangs.median("Envoy, 5 in a row"), "it waits 15 s for each answer"
    suspect, down = silent_losses(2.0, 1.0, 2)
    assert suspect[-1] < 30 < down[-1] < 60
    found = detect(shallow, lambda words: None)
    tables = write_tables(found)
    assert "| 0.2/s, 20% hang |" in tables
    assert "never" in tables
    drawing = ElementTree.fromstring(draw(found.cells))
    assert sum(element.tag.endswith("circle") for element in drawing.iter()) > 50


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_noise_cuts_nothing_off(noise):
    """Not at 5 %, not while the share wanders, not for a broken connection: 20,000 sends of each, at one a second."""
    assert false_alarms(noise, 20_000, 1.0)["ours, down"] == 0


def test_the_figures_go_between_the_marks_of_a_page(tmp_path, shallow):
    """What stands around them stays; a page without a place is refused."""
    page = tmp_path / "detection.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    answer = CliRunner().invoke(throughline, ["bench", "--detectors", "--quick", "--page", str(page)])
    assert answer.exit_code == 0, answer.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "in 500 sends" in text
    assert page.with_suffix(".svg").read_text().startswith("<svg")
