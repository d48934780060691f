"""The journal's records: every automatic decision with the evidence it was made on, small enough to keep."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from channels.text import clean_text
from health.report import EndpointId
from router.domain.conversation import SideName
from router.domain.failover import FailoverPlan
from router.domain.reasons import Reason
from router.domain.routing import Route

RECORD_VERSION = 1
BYTES_MAX = 8192
EVIDENCE_MAX = 20
ITEM_MAX = 300
"""Characters of one piece of evidence."""
WORDS_MAX = 1000
WORDS_LEAST = 200
"""What the words are cut to before any choice is left out."""
CHOICES_MAX = 500
ID_MAX = 80


class DecisionKind(StrEnum):
    """What was decided."""

    ROUTED = "routed"  # where a message or a new conversation goes
    MOVED = "moved"  # failover, forced or not
    PARKED = "parked"
    STAYED = "stayed"
    RETURNED = "returned"  # failback
    MATCHED = "matched"  # an inbound message joined a conversation or opened one
    HELD = "held"  # an inbound message waits for proof


@dataclass(frozen=True, slots=True)
class JudgedChoice:
    """One endpoint and binding as a route judged it. Names no address, so that the journal outlives an erasure."""

    endpoint: EndpointId
    binding: int
    """Its place among the person's bindings; -1: there was none."""
    taken: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, when, on what evidence. Holds ids only: no names, no addresses, no bodies."""

    kind: DecisionKind
    conversation_id: str
    side: SideName | None
    at: float
    """Unix seconds."""
    words: str
    """For people: what was decided and why."""
    evidence: tuple[str, ...] = ()
    """What it rests on: `sms/acme out down five_in_a_row`, an incident's or a message's id."""
    choices: tuple[JudgedChoice, ...] = ()
    """Best first, then the rejected ones."""
    choices_left_out: int = 0
    """How many a record too small for them all left out, from the end."""


class UnreadableDecision(ValueError):
    """A stored record is not one of ours, or of a version we do not know."""


def judged(route: Route) -> tuple[JudgedChoice, ...]:
    """The route's choices without their addresses."""
    return tuple(JudgedChoice(one.endpoint, one.binding, one.taken, one.reason) for one in route.choices)


def describe(choices: Sequence[JudgedChoice]) -> list[str]:
    """One line a choice, for people: `taken sms/acme: The person last wrote here.`"""
    return [f"{'taken' if one.taken else 'rejected'} {one.endpoint}: {one.reason.words}" for one in choices]


def decisions_of(plan: FailoverPlan, at: float, evidence: tuple[str, ...]) -> Iterator[Decision]:
    """One decision for each side of a plan, with the same evidence."""
    for move in plan.moves:
        kind = DecisionKind.RETURNED if move.leg.reason == "failback" else DecisionKind.MOVED
        reason = move.route.best.reason.words if move.route.best is not None else ""
        words = f"Moved to {move.leg.endpoint} ({move.leg.reason}), {move.messages} to send. {reason}".strip()
        yield Decision(kind, move.conversation_id, move.side, at, words, evidence, judged(move.route))
    for parked in plan.parked:
        words = f"Parked for {parked.until - at:.0f} s. {parked.cause.words}"
        yield Decision(
            DecisionKind.PARKED, parked.conversation_id, parked.side, at, words, evidence, judged(parked.route)
        )
    for stayed in plan.stayed:
        choices = judged(stayed.route) if stayed.route is not None else ()
        words = f"Stays. {stayed.cause.words}"
        yield Decision(DecisionKind.STAYED, stayed.conversation_id, stayed.side, at, words, evidence, choices)


def write_decision(decision: Decision) -> str:
    """The compact JSON for the store, at most 8 KB of UTF-8. Too long: evidence goes first, then words, last choices,
    the rejected ones before the taken ones; what is left out is counted."""
    kept = replace(
        decision,
        conversation_id=decision.conversation_id[:ID_MAX],
        words=clean_text(decision.words)[:WORDS_MAX],
        evidence=tuple(clean_text(item)[:ITEM_MAX] for item in decision.evidence[:EVIDENCE_MAX]),
        choices=decision.choices[:CHOICES_MAX],
        choices_left_out=decision.choices_left_out + max(0, len(decision.choices) - CHOICES_MAX),
    )
    text = _dump(kept)
    while len(text.encode()) > BYTES_MAX:
        if kept.evidence:
            kept = replace(kept, evidence=kept.evidence[:-1])
        elif len(kept.words) > WORDS_LEAST:
            kept = replace(kept, words=kept.words[:WORDS_LEAST])
        else:
            kept = replace(kept, choices=kept.choices[:-1], choices_left_out=kept.choices_left_out + 1)
        text = _dump(kept)
    return text


def read_decision(text: str | bytes) -> Decision:
    """The decision that `write_decision` wrote. Raises UnreadableDecision."""
    try:
        record = json.loads(text)
        if record["v"] != RECORD_VERSION:
            raise UnreadableDecision(f"a journal record of version {record['v']!r}: this program is too old for it")
        return _from_record(record)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, UnreadableDecision):
            raise
        raise UnreadableDecision("not a journal record") from error


def _dump(decision: Decision) -> str:
    record = {
        "v": RECORD_VERSION,
        "k": decision.kind.value,
        "c": decision.conversation_id,
        "s": decision.side.value if decision.side is not None else "",
        "t": round(decision.at, 3),
        "w": decision.words,
        "e": decision.evidence,
        "r": [[one.endpoint, one.binding, int(one.taken), one.reason.value] for one in decision.choices],
        "x": decision.choices_left_out,
    }
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _from_record(record: Mapping[str, object]) -> Decision:
    evidence, choices = record["e"], record["r"]
    at, left_out = record["t"], record["x"]
    if not isinstance(evidence, list) or not isinstance(choices, list):
        raise UnreadableDecision("evidence and choices must be lists")
    if not isinstance(at, (int, float)) or not isinstance(left_out, int):
        raise UnreadableDecision("times and counts must be numbers")
    return Decision(
        kind=DecisionKind(str(record["k"])),
        conversation_id=str(record["c"]),
        side=SideName(str(record["s"])) if record["s"] else None,
        at=float(at),
        words=str(record["w"]),
        evidence=tuple(str(item) for item in evidence),
        choices=tuple(
            JudgedChoice(EndpointId(str(endpoint)), int(binding), bool(taken), Reason(reason))
            for endpoint, binding, taken, reason in choices
        ),
        choices_left_out=left_out,
    )
