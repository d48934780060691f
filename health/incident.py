"""An outage and its story: opened, acknowledged, resolved by itself; pure."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from health.report import Direction, EndpointId, Status, Transition
from health.wording import TEXT_MAX, clock_time

TIMELINE_MAX = 500
TIMELINE_HEAD = 50
"""How it began is always kept; what is dropped beyond the limit is the middle."""
TOGETHER_S = 60.0
"""Endpoints that go down within this time of an incident's beginning belong to it."""


class IncidentState(StrEnum):
    """How far it is dealt with."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"  # a person has said that they look after it
    RESOLVED = "resolved"  # every endpoint of it is up again


@dataclass(frozen=True, slots=True)
class IncidentEvent:
    """One line of the timeline."""

    at: float
    kind: str
    """`went_down`, `recovering`, `came_up`, `suspect`, `acknowledged`, `resolved`, `note`, or the router's own."""
    words: str
    who: str = ""
    """A person, or empty: the router."""


@dataclass(frozen=True, slots=True)
class Affected:
    """One endpoint and direction of an incident."""

    endpoint: EndpointId
    direction: Direction
    status: Status
    family: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """One outage of one or more endpoints. At most 500 events; `dropped` counts those let go from the middle."""

    id: str
    opened_at: float
    state: IncidentState
    affected: tuple[Affected, ...]
    timeline: tuple[IncidentEvent, ...]
    dropped: int = 0
    acknowledged_by: str = ""
    acknowledged_at: float | None = None
    resolved_at: float | None = None

    @property
    def title(self) -> str:
        """One line for people."""
        names = sorted({affected.endpoint for affected in self.affected})
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        if self.state is IncidentState.RESOLVED and self.resolved_at is not None:
            minutes = (self.resolved_at - self.opened_at) / 60
            return f"{shown}: outage since {clock_time(self.opened_at)}, over after {minutes:.0f} min"
        return f"{shown}: outage since {clock_time(self.opened_at)}"


def open_incident(incident_id: str, transition: Transition, family: str = "") -> Incident:
    """A new incident, begun by an endpoint that went down."""
    empty = Incident(incident_id, transition.at, IncidentState.OPEN, (), ())
    return take_in(empty, transition, family)


def find_incident(open_incidents: Iterable[Incident], transition: Transition, family: str = "") -> Incident | None:
    """The open incident that a transition belongs to; None: to none.

    Its own, if the endpoint is in one. Else, if it went down: one that began within 60 s, or, while open, one of the
    same provider family. Among several, the one that began last.
    """
    newest_first = sorted(open_incidents, key=lambda incident: incident.opened_at, reverse=True)
    for incident in newest_first:
        if any(_same(affected, transition) for affected in incident.affected):
            return incident
    if transition.after is not Status.DOWN:
        return None
    for incident in newest_first:
        together = abs(transition.at - incident.opened_at) <= TOGETHER_S
        related = bool(family) and any(affected.family == family for affected in incident.affected)
        if together or related:
            return incident
    return None


_KINDS = {
    Status.DOWN: "went_down",
    Status.RECOVERING: "recovering",
    Status.UP: "came_up",
    Status.SUSPECT: "suspect",
    Status.UNKNOWN: "unknown",
}


def take_in(incident: Incident, transition: Transition, family: str = "") -> Incident:
    """The incident with a transition told; resolved if that was the last endpoint to come up."""
    affected = Affected(transition.endpoint, transition.direction, transition.after, family, transition.reason)
    others = tuple(entry for entry in incident.affected if not _same(entry, transition))
    incident = replace(incident, affected=(*others, affected))
    incident = append(incident, IncidentEvent(transition.at, _KINDS[transition.after], transition.words))
    return _resolve_if_over(incident, transition.at)


def withdraw(incident: Incident, endpoint: EndpointId, at: float) -> Incident:
    """The incident without an endpoint that is no longer configured: nothing will ever say that it is up."""
    kept = tuple(entry for entry in incident.affected if entry.endpoint != endpoint)
    if len(kept) == len(incident.affected):
        return incident
    told = append(incident, IncidentEvent(at, "withdrawn", f"{endpoint} is no longer configured."))
    return _resolve_if_over(replace(told, affected=kept or incident.affected), at, gone=not kept)


def append(incident: Incident, event: IncidentEvent) -> Incident:
    """The incident with one more event, its words cut at 400 characters."""
    timeline = (*incident.timeline, replace(event, words=event.words[:TEXT_MAX]))
    excess = len(timeline) - TIMELINE_MAX
    if excess <= 0:
        return replace(incident, timeline=timeline)
    kept = timeline[:TIMELINE_HEAD] + timeline[TIMELINE_HEAD + excess :]
    return replace(incident, timeline=kept, dropped=incident.dropped + excess)


def acknowledge(incident: Incident, who: str, at: float) -> Incident:
    """The incident, looked after by a person; the first one stands, a resolved one stays resolved."""
    if incident.state is not IncidentState.OPEN:
        return incident
    told = append(incident, IncidentEvent(at, "acknowledged", f"{who} looks after it.", who))
    return replace(told, state=IncidentState.ACKNOWLEDGED, acknowledged_by=who, acknowledged_at=at)


def resolve(incident: Incident, at: float, words: str, who: str = "") -> Incident:
    """The incident, over; idempotent."""
    if incident.state is IncidentState.RESOLVED:
        return incident
    told = append(incident, IncidentEvent(at, "resolved", words, who))
    return replace(told, state=IncidentState.RESOLVED, resolved_at=at)


def _resolve_if_over(incident: Incident, at: float, *, gone: bool = False) -> Incident:
    if gone or all(entry.status is Status.UP for entry in incident.affected):
        minutes = max(0.0, at - incident.opened_at) / 60
        return resolve(incident, at, f"Over after {minutes:.0f} min: everything it took down is up again or gone.")
    return incident


def _same(affected: Affected, transition: Transition) -> bool:
    return affected.endpoint == transition.endpoint and affected.direction is transition.direction


def to_json(incident: Incident) -> str:
    """As it is stored; `from_json` reads it back equal."""
    return json.dumps(asdict(incident), separators=(",", ":"))


def from_json(text: str | bytes) -> Incident:
    """Read back what `to_json` wrote."""
    saved: dict[str, Any] = json.loads(text)
    saved["state"] = IncidentState(saved["state"])
    saved["affected"] = tuple(
        Affected(
            EndpointId(entry["endpoint"]),
            Direction(entry["direction"]),
            Status(entry["status"]),
            entry["family"],
            entry["reason"],
        )
        for entry in saved["affected"]
    )
    saved["timeline"] = tuple(IncidentEvent(**entry) for entry in saved["timeline"])
    return Incident(**saved)
