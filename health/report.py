"""The vocabulary of health: evidence, reports, statuses, transitions."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

EndpointId = NewType("EndpointId", str)
"""One configured account at a provider, `channel/name`: `sms/acme`. The unit of health and of routing."""


class Direction(StrEnum):
    """Which way messages travel; an endpoint can be up one way and down the other."""

    OUT = "out"  # we send: submission, REST calls, SMPP submit_sm
    IN = "in"  # they send: webhooks, IMAP, deliver_sm


class Status(StrEnum):
    """Our conclusion about one endpoint and direction."""

    UP = "up"  # carries traffic, nothing against it
    SUSPECT = "suspect"  # evidence against it, not yet confirmed; probes burst
    DOWN = "down"  # confirmed; the gate closes and sides move away
    RECOVERING = "recovering"  # answers again; takes a rising share until it has proven itself
    UNKNOWN = "unknown"  # nobody has said lately; never closes a gate


class Witness(StrEnum):
    """Who says so."""

    OUTCOME = "outcome"  # a real send
    PROBE = "probe"  # a probe in the endpoint's own protocol
    CANARY = "canary"  # a message really delivered and read back
    REPORT = "report"  # an adapter or a vendor's status page, with a time to live
    RECEIPT = "receipt"  # receipts that should have come
    BEAT = "beat"  # a worker's beat that should have come
    SILENCE = "silence"  # inbound traffic that should have come


class Verdict(StrEnum):
    """What one piece of evidence says of the endpoint."""

    OK = "ok"
    FAILURE = "failure"  # counts against it
    PROVISIONAL = "provisional"  # no answer yet, longer than usual: counts like a failure until withdrawn
    WITHDRAWN = "withdrawn"  # the provisional failure with the same token was in fact a success
    SLOW = "slow"  # answered, far slower than usual: half a failure
    PRESSURE = "pressure"  # alive, asks us to wait: never counts against it
    MISCONFIGURED = "misconfigured"  # a bad credential: down at once, a person must act


@dataclass(frozen=True, slots=True)
class Evidence:
    """One outcome, said of one endpoint and direction."""

    endpoint: EndpointId
    direction: Direction
    verdict: Verdict
    witness: Witness
    at: float
    """Unix time in seconds."""
    token: str = ""
    """Ties a provisional failure to its withdrawal or its final outcome."""
    reason: str = ""
    """Machine-readable, few distinct values: `connect_refused`, `read_timeout`, `http_503`."""
    latency_s: float | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """An adapter's or a vendor page's own claim about an endpoint; it expires."""

    endpoint: EndpointId
    direction: Direction
    status: Status
    reason: str
    words: str
    at: float
    ttl_s: float
    source: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A status changed."""

    endpoint: EndpointId
    direction: Direction
    before: Status
    after: Status
    at: float
    reason: str
    """Machine-readable: `five_in_a_row`, `cusum_fast`, `misconfigured`, `probes_ok`."""
    words: str
    """For people: what was seen, how often, since when."""
