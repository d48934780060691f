"""An outage is told once, and its end once; no outage, nothing."""

import structlog
from structlog.testing import capture_logs

from router.trouble import Trouble


def test_an_outage_makes_two_lines() -> None:
    """However long it is; the next one is told again."""
    with capture_logs() as lines:
        trouble = Trouble("lease", structlog.get_logger().bind(endpoint="sms/acme"))
        trouble.worked()
        for outage in (3, 1):
            for number in range(outage):
                trouble.failed(ConnectionError("refused") if number == 0 else TimeoutError())
            trouble.worked()
            trouble.worked()
    told = [(line["event"], line["log_level"], line.get("error") or line.get("failures")) for line in lines]
    assert told == [
        ("lease.failed", "warning", "refused"),
        ("lease.works_again", "info", 3),
        ("lease.failed", "warning", "refused"),
        ("lease.works_again", "info", 1),
    ]
    assert {line["endpoint"] for line in lines} == {"sms/acme"}
