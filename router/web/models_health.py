"""What `/v1` takes and gives about endpoints, incidents and failovers."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from channels import contract
from channels.messages import Channel
from health.incident import Incident as HealthIncident
from health.incident import IncidentState
from health.records import Freeze
from health.report import Direction, EndpointId, Status
from router.domain import failover as domain
from router.switchboard import EndpointState
from router.web.models_people import EndpointName, Model, instant

EXPIRES_MIN_S = 60
EXPIRES_MAX_S = 7 * 86_400
SCOPE_MAX = 50


class Capabilities(Model):
    """What an endpoint can do."""

    text_max: int
    files_max_bytes: int
    """0: no files."""
    threads: bool
    receipts: bool
    idempotent: bool
    replyable: bool
    rate_per_s: float
    price: Decimal
    hold_s: float

    @classmethod
    def of(cls, capabilities: contract.Capabilities) -> Self:
        return cls(
            text_max=capabilities.text_max,
            files_max_bytes=capabilities.files_max_bytes,
            threads=capabilities.threads,
            receipts=capabilities.receipts,
            idempotent=capabilities.idempotent,
            replyable=capabilities.replyable,
            rate_per_s=capabilities.rate_per_s,
            price=capabilities.price,
            hold_s=capabilities.hold_s,
        )


class Endpoint(Model):
    """One configured account at a provider, and how it is."""

    id: str
    channel: Channel
    provider: str
    status_out: Status
    """Submitting to it."""
    status_in: Status
    """Hearing from it."""
    since: datetime | None
    reason: str
    words: str
    gate_open: bool
    """Whether sides may begin here."""
    forced: Literal["", "up", "down"]
    """What a forced failover says; it overrides health."""
    share: Annotated[float, Field(ge=0, le=1)]
    """Of new conversations, while it recovers."""
    due: int
    """Sides with work here now."""
    capabilities: Capabilities

    @classmethod
    def of(cls, state: EndpointState) -> Self:
        return cls.model_validate(
            {
                "id": state.id,
                "channel": state.channel,
                "provider": state.provider,
                "status_out": state.out,
                "status_in": state.in_,
                "since": instant(state.since),
                "reason": state.reason,
                "words": state.words,
                "gate_open": state.gate_open,
                "forced": state.forced,
                "share": state.share,
                "due": state.due,
                "capabilities": Capabilities.of(state.capabilities),
            }
        )


class Frozen(Model):
    """Most providers seem to fail at once, so it seems to be us: nothing is moved. Messages are still accepted."""

    since: datetime | None
    words: str

    @classmethod
    def of(cls, freeze: Freeze) -> Self:
        return cls(since=instant(freeze.since), words=freeze.words)


class Endpoints(Model):
    """All endpoints."""

    items: tuple[Endpoint, ...]
    moves_frozen: Frozen | None
    """Null: moves are made as health says."""


class Preview(Model):
    """What a failover would do now; nothing was done."""

    moved: dict[str, int]
    """Sides by the endpoint they would move to."""
    parked: dict[str, int]
    """Sides that would wait, by cause."""
    stayed: dict[str, int]
    messages: int
    """Messages and notices that would go out at once."""
    cost: Decimal
    parked_until: datetime | None

    @classmethod
    def of(cls, preview: domain.Preview) -> Self:
        return cls(
            moved={str(endpoint): count for endpoint, count in preview.moved.items()},
            parked={cause.value: count for cause, count in preview.parked.items()},
            stayed={cause.value: count for cause, count in preview.stayed.items()},
            messages=preview.messages,
            cost=preview.cost,
            parked_until=instant(preview.parked_until),
        )


class NewFailover(Model):
    """Lead traffic away from endpoints, whatever health says. It ends by itself."""

    scope: Annotated[tuple[EndpointName, ...], Field(min_length=1, max_length=SCOPE_MAX)]
    target: EndpointName | None = None
    """null: wherever each route leads."""
    why: Annotated[str, Field(max_length=200)] = ""
    """Required unless `dry_run`."""
    expires_in_s: Annotated[float, Field(ge=EXPIRES_MIN_S, le=EXPIRES_MAX_S)] = 3_600
    dry_run: bool = False

    @model_validator(mode="after")
    def _is_plausible(self) -> Self:
        if not self.dry_run and (not self.why.strip() or not self.why.isprintable()):
            raise ValueError("say why, on one line: whoever reads the journal will want to know")
        if self.target in self.scope:
            raise ValueError("the target is in the scope it should relieve")
        return self

    @property
    def scope_ids(self) -> tuple[EndpointId, ...]:
        """As the domain names them."""
        return tuple(EndpointId(endpoint) for endpoint in self.scope)

    @property
    def target_id(self) -> EndpointId | None:
        """As the domain names it."""
        return EndpointId(self.target) if self.target else None


class Failover(Model):
    """A forced failover."""

    id: str
    scope: tuple[str, ...]
    target: str | None
    who: str
    why: str
    started_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None
    preview: Preview | None

    @classmethod
    def of(cls, failover: domain.ForcedFailover) -> Self:
        return cls(
            id=failover.id,
            scope=tuple(sorted(failover.scope)),
            target=failover.target,
            who=failover.who,
            why=failover.why,
            started_at=instant(failover.started_at),
            expires_at=instant(failover.expires_at),
            ended_at=instant(failover.ended_at),
            preview=Preview.of(failover.preview) if failover.preview else None,
        )


class FailoverAnswer(Model):
    """What was started, or with `dry_run` only what it would do."""

    failover: Failover | None
    preview: Preview | None


class Failovers(Model):
    """Forced failovers, the newest first."""

    items: tuple[Failover, ...]


class FailoverQuery(Model):
    """Which of them."""

    active_only: bool = True


class IncidentEvent(Model):
    """One line of an incident's timeline."""

    at: datetime | None
    kind: str
    words: str
    who: str
    """A person, or empty: the router."""


class Affected(Model):
    """One endpoint and direction of an incident."""

    endpoint: str
    direction: Direction
    status: Status
    reason: str


class Incident(Model):
    """One outage of one or more endpoints."""

    id: str
    title: str
    state: IncidentState
    opened_at: datetime | None
    acknowledged_by: str
    acknowledged_at: datetime | None
    resolved_at: datetime | None
    affected: tuple[Affected, ...]
    timeline: tuple[IncidentEvent, ...]
    dropped: int
    """Events let go from the middle of a long timeline."""

    @classmethod
    def of(cls, incident: HealthIncident) -> Self:
        """As it is shown."""
        return cls(
            id=incident.id,
            title=incident.title,
            state=incident.state,
            opened_at=instant(incident.opened_at),
            acknowledged_by=incident.acknowledged_by,
            acknowledged_at=instant(incident.acknowledged_at or 0),
            resolved_at=instant(incident.resolved_at or 0),
            affected=tuple(
                Affected(endpoint=one.endpoint, direction=one.direction, status=one.status, reason=one.reason)
                for one in incident.affected
            ),
            timeline=tuple(
                IncidentEvent(at=instant(event.at), kind=event.kind, words=event.words, who=event.who)
                for event in incident.timeline
            ),
            dropped=incident.dropped,
        )


class Incidents(Model):
    """Incidents, the newest first."""

    items: tuple[Incident, ...]


class IncidentQuery(Model):
    """Which incidents."""

    open_only: bool = False
    limit: Annotated[int, Field(ge=1, le=200)] = 50
