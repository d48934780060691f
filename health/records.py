"""What the board keeps, as values and as JSON text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import structlog

from health.report import Direction, EndpointId, Evidence, Report, Status, Transition, Verdict, Witness

TOKEN_MAX = 200
REASON_MAX = 80
WORDS_MAX = 400

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StatusRecord:
    """Our conclusion about one endpoint and direction, as everybody reads it."""

    endpoint: EndpointId
    direction: Direction
    status: Status
    since: float
    reason: str
    words: str
    share: float = 1.0
    """Of the traffic it may take: 0 while down, rising while recovering."""
    failback_suppressed_until: float | None = None
    probe_ok_at: float | None = None
    probe_failed_at: float | None = None
    receipts_degraded: bool = False
    """Messages arrive but receipts do not: a missing receipt means nothing, never resend for it."""
    written_at: float = 0.0
    """Refreshed every 5 s while a supervisor lives: older than a minute, nobody has said lately."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's last sign of life. `at` is the worker's own clock; judge by whether it changes."""

    worker: str
    role: str
    at: float
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Freeze:
    """Most providers seem to fail at once, so it is us: nothing is moved until this ends."""

    since: float
    words: str


def fresh(record: StatusRecord, now: float, within_s: float = 60.0) -> StatusRecord:
    """The record as it may be believed: `unknown` where no supervisor has confirmed it for a minute.

    What is down stays down here: the gate's own expiry lets single messages try.
    """
    if record.status is Status.DOWN or now - record.written_at <= within_s:
        return record
    return replace(record, status=Status.UNKNOWN, reason="no_supervisor", share=1.0)


def read_or_none(read: Callable[[str], T], text: str) -> T | None:
    """What `read` makes of it; None: nobody can read it, as a version to come writes it. The others must not wait."""
    try:
        return read(text)
    except (KeyError, TypeError, ValueError) as error:
        log.warning("record.unreadable", reader=read.__name__, error=repr(error)[:WORDS_MAX])
        return None


def evidence_to_json(evidence: Sequence[Evidence]) -> str:
    """Compact: a list for each piece, in the order of the fields."""
    return json.dumps(
        [
            [
                one.endpoint,
                one.direction,
                one.verdict,
                one.witness,
                one.at,
                one.token[:TOKEN_MAX],
                one.reason[:REASON_MAX],
                one.latency_s,
                one.worker[:TOKEN_MAX],
            ]
            for one in evidence
        ],
        separators=(",", ":"),
    )


def evidence_from_json(text: str | bytes) -> list[Evidence]:
    """Read back what `evidence_to_json` wrote."""
    return [
        Evidence(EndpointId(endpoint), Direction(direction), Verdict(verdict), Witness(witness), *rest)
        for endpoint, direction, verdict, witness, *rest in json.loads(text)
    ]


def report_to_json(report: Report) -> str:
    """As it is stored, words bounded."""
    return _dump(asdict(report) | {"words": report.words[:WORDS_MAX], "reason": report.reason[:REASON_MAX]})


def report_from_json(text: str | bytes) -> Report:
    """Read back what `report_to_json` wrote."""
    return Report(**_typed(json.loads(text), "status"))


def status_to_json(record: StatusRecord) -> str:
    """As it is stored."""
    return _dump(asdict(record))


def status_from_json(text: str | bytes) -> StatusRecord:
    """Read back what `status_to_json` wrote."""
    return StatusRecord(**_typed(json.loads(text), "status"))


def transition_to_json(transition: Transition) -> str:
    """As it is stored."""
    return _dump(asdict(transition))


def transition_from_json(text: str | bytes) -> Transition:
    """Read back what `transition_to_json` wrote."""
    return Transition(**_typed(json.loads(text), "before", "after"))


def beat_to_json(beat: Beat) -> str:
    """As it is stored."""
    return _dump({"worker": beat.worker, "role": beat.role, "at": beat.at, "facts": dict(beat.facts)})


def beat_from_json(text: str | bytes) -> Beat:
    """Read back what `beat_to_json` wrote."""
    return Beat(**json.loads(text))


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"))


def _typed(values: dict[str, Any], *statuses: str) -> dict[str, Any]:
    values["endpoint"] = EndpointId(values["endpoint"])
    values["direction"] = Direction(values["direction"])
    for name in statuses:
        values[name] = Status(values[name])
    return values
