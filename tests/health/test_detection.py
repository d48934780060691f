"""How fast, and how surely: times to `down`, and no false ones."""

import statistics

import pytest

from health.report import Status

SEEDS = 200


@pytest.mark.parametrize(
    ("kind", "probes", "median_s"),
    [
        ("refused", "same", 4.0),
        ("refused", "ok", 4.0),
        ("hang", "same", 8.0),
        ("hang", "ok", 8.0),
        ("half", "same", 12.0),
        ("half", "ok", 12.0),
    ],
)
def test_time_to_down_at_one_message_a_second(stage, kind, probes, median_s):
    """Median over 200 seeds within reach, the ninetieth percentile at most twice that."""
    times = []
    for seed in range(SEEDS):
        took = stage(kind, seed, probes=probes, quiet_s=30).play(120, until=Status.DOWN)
        times.append(took if took is not None else float("inf"))
    assert min(times) > 0, "down before anything was wrong"
    assert statistics.median(times) <= median_s
    assert sorted(times)[int(0.9 * SEEDS)] <= 2 * median_s


@pytest.mark.parametrize("rate", [1.0, 5.0])
def test_an_hour_at_two_percent_failures_takes_nothing_down(stage, rate):
    """Chance failures make suspect at most."""
    for seed in range(3 if rate == 1.0 else 1):
        play = stage("healthy", seed, rate=rate)
        play.play(3600)
        assert not [found for found in play.transitions if found.after is Status.DOWN]
        assert play.watch.detectors


def test_an_idle_endpoint_is_taken_down_by_probes_alone(stage):
    """No traffic: the probe interval plus five failures a second apart."""
    play = stage("refused", 1, rate=0.0001)
    assert play.play(60, until=Status.DOWN) < 10 + 6


def test_an_idle_endpoint_that_hangs_is_taken_down_too(stage):
    """Three probes that nobody answers are enough."""
    play = stage("hang", 1, rate=0.0001)
    assert play.play(60, until=Status.DOWN) < 10 + 14
