"""Holds that grow and fade, and the damping of failback."""

import pytest

from health.damping import FlapDamping, Hold
from health.thresholds import DetectorSettings


def test_the_hold_grows_with_each_outage_up_to_its_cap():
    """30 s, 60 s, 90 s, at most 300 s."""
    hold = Hold(DetectorSettings())
    lengths = []
    for number in range(12):
        hold.extend(number, 1.0)
        lengths.append(hold.until - number)
    assert lengths[:3] == [30, 60, 90]
    assert lengths[-1] == 300


def test_old_outages_are_forgotten():
    """One every ten minutes."""
    hold = Hold(DetectorSettings())
    hold.extend(0, 1.0)
    hold.extend(10, 1.0)
    hold.extend(10 + 1300, 1.0)
    assert hold.until - 1310 == 30


def test_the_jitter_scales_the_hold():
    """So that endpoints that died together do not come back together."""
    hold = Hold(DetectorSettings())
    hold.extend(0, 1.1)
    assert hold.until == pytest.approx(33)


def test_three_flaps_a_minute_apart_suppress_failback_two_do_not():
    """About nine minutes until reuse, as RFC 2439's shape gives with a half-life of five minutes."""
    damping, settings = FlapDamping(DetectorSettings()), DetectorSettings()
    for number in range(2):
        damping.add(60 * number, settings.penalty_down)
        assert damping.suppressed_until(60 * number) is None
    damping.add(120, settings.penalty_down)
    until = damping.suppressed_until(120)
    assert until - 120 == pytest.approx(543, abs=10)
    assert damping.suppressed_until(until + 1) is None


def test_suppression_ends_after_half_an_hour_whatever_happens():
    """An endpoint that flaps all day is still tried."""
    damping, settings = FlapDamping(DetectorSettings()), DetectorSettings()
    for at in range(0, 1700, 10):
        damping.add(at, settings.penalty_down)
    assert damping.suppressed_until(1700) == pytest.approx(20 + 1800)
