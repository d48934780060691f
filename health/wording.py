"""What a status means, in words for people."""

from datetime import UTC, datetime

from health.report import Direction, EndpointId, Status

TEXT_MAX = 400
_DOING = {Direction.OUT: "Sending over", Direction.IN: "Receiving from"}


def clock_time(at: float) -> str:
    """Hours, minutes and seconds in UTC: `14:02:11 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def describe(
    endpoint: EndpointId, direction: Direction, status: Status, *, reason: str, counted: str, began_at: float
) -> str:
    """One sentence: what is so, and what was counted since when. At most 400 characters."""
    subject = f"{_DOING[direction]} {endpoint}"
    since = clock_time(began_at)
    if reason == "misconfigured":
        text = f"{subject} is down: it refuses our credentials or settings ({counted}); a person must correct them."
    elif status is Status.DOWN:
        text = f"{subject} is down: {counted or reason}, since {since}."
    elif status is Status.SUSPECT:
        text = f"{subject} is in doubt: {counted or reason}, since {since}."
    elif status is Status.RECOVERING:
        text = f"{subject} answers again: it takes a rising share until it has proven itself."
    elif status is Status.UNKNOWN:
        text = f"Nothing has been heard of {endpoint} ({direction.value}) lately."
    else:
        text = f"{subject} works{f' ({counted})' if counted else ''}."
    return text[:TEXT_MAX]
