"""Forced failovers as the store keeps them."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from health.report import EndpointId
from router.domain.failover import Cause, ForcedFailover, Preview


def dump_failover(failover: ForcedFailover) -> dict[str, object]:
    """A forced failover as JSON values."""
    preview = failover.preview
    return {
        "scope": sorted(failover.scope),
        "target": failover.target,
        "who": failover.who,
        "why": failover.why,
        "started_at": failover.started_at,
        "expires_at": failover.expires_at,
        "ended_at": failover.ended_at,
        "preview": None
        if preview is None
        else {
            "moved": dict(preview.moved),
            "parked": dict(preview.parked),
            "stayed": dict(preview.stayed),
            "messages": preview.messages,
            "cost": str(preview.cost),
            "parked_until": preview.parked_until,
        },
    }


def read_failover(identity: str, row: Mapping[str, Any]) -> ForcedFailover:
    """The reverse of `dump_failover`."""
    preview = row.get("preview")
    return ForcedFailover(
        id=identity,
        scope=frozenset(EndpointId(one) for one in row["scope"]),
        target=EndpointId(row["target"]) if row["target"] else None,
        who=row["who"],
        why=row["why"],
        started_at=row["started_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
        preview=None
        if preview is None
        else Preview(
            moved={EndpointId(k): v for k, v in preview["moved"].items()},
            parked={Cause(k): v for k, v in preview["parked"].items()},
            stayed={Cause(k): v for k, v in preview["stayed"].items()},
            messages=preview["messages"],
            cost=Decimal(preview["cost"]),
            parked_until=preview["parked_until"],
        ),
    )
