"""What the supervisor learns from dispatchers' beats."""

import pytest

from channels.contract import Capabilities
from channels.messages import Channel
from health.records import Beat
from health.report import EndpointId
from router.pace import Pace

MAIL = EndpointId("email/support")


def test_what_a_beat_says_besides_its_sends_is_left_alone() -> None:
    """A newer version may tell more; the moves of this one must not end with it."""
    pace = Pace({MAIL: Capabilities(Channel.EMAIL, "acme", 100_000, 5.0)})
    for at, begun in ((1.0, 0), (2.0, 10)):
        facts = {str(MAIL): [begun, begun, 0], "records": 2, "sms/elsewhere": [1, 1, 0]}
        pace.hear([Beat("dispatch-1", "dispatch", at, facts)], at)
    assert pace.dump()[MAIL]["own"] > 0


@pytest.mark.parametrize("moves_per_s", [0, 4])
def test_a_throttled_rate_comes_back_in_thirty_seconds(moves_per_s: int) -> None:
    """Whether anybody is moved meanwhile, and however long nobody was before."""
    pace = Pace({MAIL: Capabilities(Channel.EMAIL, "acme", 100_000, 5.0, rate_per_s=10.0)})
    rates = {}
    for second in range(3600, 3640):
        throttled = int(second > 3600)
        pace.hear([Beat("dispatch-1", "dispatch", float(second), {str(MAIL): [0, 0, throttled]})], float(second))
        rates[second - 3601] = pace.dump()[MAIL]["rate"]
        for part in range(moves_per_s):
            pace.budgets(second + part / moves_per_s)
    assert [rates[after] for after in (-1, 0, 1, 10, 29)] == pytest.approx([10.0, 7.0, 7.1, 8.0, 9.9])
    assert rates[30] == pytest.approx(10.0)


@pytest.mark.parametrize("each", [1, 2])
def test_what_is_moved_there_leaves_its_room_to_others_that_are_moved(each: int) -> None:
    """In a long storm 80 % of what a target takes is used, its own traffic and notices included, not half of it."""
    pace = Pace({MAIL: Capabilities(Channel.EMAIL, "acme", 100_000, 5.0, rate_per_s=10.0)})
    begun, lately = 0.0, []
    for step in range(4 * 120):
        now = 3600.0 + step / 4
        if step % 4 == 0:
            pace.hear([Beat("dispatch-1", "dispatch", now, {str(MAIL): [int(begun), 0, 0]})], now)
        moved = max(0, int(pace.budgets(now)[MAIL]))
        pace.spend({MAIL: float(moved)})
        sent = 2.0 / 4 + each * moved  # two a second of its own; a notice goes before what is moved
        begun += sent
        lately = [*lately, sent][-4 * 60 :]
    assert sum(lately) / 60 == pytest.approx(8.0, rel=0.12)
