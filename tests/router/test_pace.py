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
