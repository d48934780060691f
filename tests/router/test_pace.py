"""What the supervisor learns from dispatchers' beats."""

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
