"""What a drill found: from the vendors' journals what reached whom, from the router's own what it noticed and why."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from channels.sandbox.vendor import Fault
from router.demo.judge import Ledger, Marker, Outage, OutageVerdict, Verdict
from router.demo.people import Json
from router.drill.crowd import Crowd

BEFORE, DURING, AFTER = 1, 2, 3
"""The turns: answered as always; asked before the outage, answered in it; asked when it is over."""
HELD = frozenset({"queued", "sending", "unknown", "parked", "needs_human"})
"""States of a message that is not over: it waits, and is not lost."""
NOTED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Change:
    """An endpoint's status changed."""

    at: float
    endpoint: str
    direction: str
    after: str
    reason: str


@dataclass(slots=True)
class Witness:
    """Reads the router's journal as it is written."""

    changes: list[Change] = field(default_factory=list)
    parked: dict[str, str] = field(default_factory=dict)
    """Why each message that was ever parked was parked first, by its id."""

    def hear(self, event: Json) -> None:
        """Take note of one entry; at most 100,000 of a kind."""
        facts = event["facts"]
        if event["kind"] == "endpoint.changed" and len(self.changes) < NOTED_MAX:
            at = datetime.fromisoformat(event["at"]).timestamp()
            row = (event["endpoint"], str(facts["direction"]), str(facts["after"]), str(facts["reason"]))
            self.changes.append(Change(at, *row))
        elif event["kind"] == "message.changed" and facts.get("st") == "parked" and len(self.parked) < NOTED_MAX:
            self.parked.setdefault(event["message_id"], str(facts.get("r", "")))

    def first(self, outage: Outage, *statuses: str, since: float = 0.0) -> Change | None:
        """When the endpoint of `outage` first took one of these statuses for sending after `since`, or the fault."""
        begun = max(outage.at, since)
        return next(
            (
                one
                for one in self.changes
                if (one.endpoint, one.direction) == (outage.endpoint, "out")
                and one.after in statuses
                and one.at >= begun
            ),
            None,
        )


@dataclass(frozen=True, slots=True)
class Course:
    """How the outage of one endpoint went; times in seconds from its fault, 0: it never came to that."""

    verdict: OutageVerdict
    fault: Fault
    suspect_s: float
    down_s: float
    why: str
    """What settled that it was down."""
    mended_s: float
    recovering_s: float
    up_s: float
    moved_to: Mapping[str, int]
    """Answers by the endpoint that carried them instead."""
    waited: int
    """Answers that came by the endpoint itself, once it was mended."""
    returned: int
    """Customers who wrote there again and were answered there."""

    @property
    def endpoint(self) -> str:
        """Its id."""
        return self.verdict.outage.endpoint

    @property
    def noticed(self) -> bool:
        """Somebody would have been told."""
        return bool(self.suspect_s or self.down_s)


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it."""

    verdict: Verdict
    """Its `lost` holds only what is lost; what the router still holds is in `waiting`."""
    courses: tuple[Course, ...]
    parked: Mapping[str, int]
    """Messages that were ever parked, by why."""
    waiting: Mapping[str, int]
    """Answers that the router still holds, by state."""
    customers: int
    alone: tuple[int, ...]
    """Those who had no other way."""

    @property
    def faults(self) -> tuple[str, ...]:
        """One sentence for each thing that makes the drill a failure; empty: it succeeded."""
        missed = [one for one in self.courses if not one.noticed and one.fault is not Fault.SLOW]
        found = [f"{one.endpoint}: the outage was never noticed{_hint(one.fault)}" for one in missed]
        found = [*self.verdict.wrongs, *found]
        broken = [one for one in self.courses if one.fault is not Fault.SLOW]
        if any(one.down_s or one.waited for one in broken) and not any(one.moved_to for one in self.courses):
            nobody = len(self.alone) == self.customers
            found.append(f"nothing could move: {'no customer had another way' if nobody else 'every answer waited'}")
        return tuple(found)


def _hint(fault: Fault) -> str:
    if fault is Fault.LOSE_SILENTLY:
        return "; what a vendor loses silently shows by receipts that do not come, or by a canary: see `canary`"
    return ""


def find(
    verdict: Verdict,
    ledger: Ledger,
    crowd: Crowd,
    witness: Witness,
    faults: Mapping[str, Fault],
    *,
    mended_at: float,
    states: Mapping[Marker, str],
) -> Findings:
    """Put together what the journals say. `states`: in which state the router holds the answers that did not come;
    one it does not hold is lost.
    """
    held = {marker: state for marker, state in states.items() if state in HELD}
    missing = sorted(ledger.asked.keys() - ledger.answered() - held.keys())
    return Findings(
        verdict=replace(verdict, lost=tuple(f"{customer}-{turn}" for customer, turn in missing)),
        courses=tuple(_follow(one, ledger, witness, faults[one.outage.endpoint], mended_at) for one in verdict.outages),
        parked=Counter(witness.parked.values()),
        waiting=Counter(held.values()),
        customers=len(crowd.people),
        alone=crowd.alone,
    )


def _follow(verdict: OutageVerdict, ledger: Ledger, witness: Witness, fault: Fault, mended_at: float) -> Course:
    outage = verdict.outage
    down = witness.first(outage, "down")
    suspect = witness.first(outage, "suspect", "down")
    again = witness.first(outage, "recovering", "up", since=down.at) if down else None
    up = witness.first(outage, "up", since=down.at) if down else None
    first = {one.marker: one for one in sorted(ledger.arrived, key=lambda one: one.at, reverse=True)}.values()
    ours = [one for one in first if ledger.asked.get(one.marker, (0.0, ""))[1] == outage.endpoint]
    here = [one for one in ours if one.endpoint == outage.endpoint]
    return Course(
        verdict=verdict,
        fault=fault,
        suspect_s=_since(suspect, outage),
        down_s=_since(down, outage),
        why=down.reason if down else "",
        mended_s=max(0.0, mended_at - outage.at),
        recovering_s=_since(again, outage),
        up_s=_since(up, outage),
        moved_to=Counter(one.endpoint for one in ours if one.endpoint != outage.endpoint),
        waited=sum(1 for one in here if one.marker[1] == DURING and one.at >= mended_at),
        returned=sum(1 for one in here if one.marker[1] == AFTER),
    )


def _since(change: Change | None, outage: Outage) -> float:
    return change.at - outage.at if change else 0.0
