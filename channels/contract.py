"""The adapter contract: what every endpoint promises the router, and what it gets to do it with."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from channels.messages import (
    Accepted,
    Channel,
    Event,
    Matter,
    OutboundMessage,
    Receipt,
    Received,
    Reply,
    Webhook,
)

Accept = Callable[[Event], Awaitable[Accepted]]
"""Returns once the event is durable, raises otherwise; only then acknowledge the vendor."""
CANARY_FORMS: Mapping[str, re.Pattern[str]] = {
    "email": re.compile(r"[^@\s<>]+@[^@\s<>]+"),
    "sms": re.compile(r"\+[1-9][0-9]{6,14}"),
}
"""What a canary's address looks like, on the channels that have canaries."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an endpoint can do, as data: the planner and the console read the same."""

    channel: Channel
    provider: str
    text_max: int
    """Longest text in characters that one message may have, segments included."""
    io_s: float
    """Upper bound of one send, in seconds; the adapter itself keeps within it."""
    files_max_bytes: int = 0
    """Largest total of attached files; 0: no files."""
    threads: bool = False
    receipts: bool = False
    """Delivery receipts come after `sent`."""
    receipt_due_s: float | None = None
    """Not delivered after this long: the message goes to the next binding. None: it may stay `sent`."""
    idempotent: bool = False
    """A resend with the same message id is shown once: an unknown outcome needs no hold and no flag."""
    replyable: bool = True
    """A person can answer over this endpoint; else it carries only notices that name where to answer."""
    rate_per_s: float = 10.0
    """What it takes in steady state, messages a second."""
    price: Decimal = Decimal(0)
    """Of one message (an SMS segment, a call minute), in the settings' currency."""
    echoes_token: bool = False
    """Every receipt carries our token back: the provider's own ids need not be kept to find the attempt."""
    hold_s: float = 60.0
    """How long an unknown outcome waits for a receipt before it is sent again, flagged."""
    listens_in: str = ""
    """The role whose process runs `listen`: `web` (mail), `dispatch` (a transceiver), or none."""
    probe_s: float = 10.0
    """How often an idle endpoint is probed, in seconds."""


class Adapter(Protocol):
    """One endpoint. Holds connections, no conversation state."""

    @property
    def capabilities(self) -> Capabilities:
        """What this endpoint can do."""

    async def send(self, message: OutboundMessage) -> Receipt:
        """Say it once: no retry, no counting, no logging of outages. Raises from `channels.errors.SendFailed`."""

    async def receive(self, webhook: Webhook) -> Received:
        """Verify over the raw bytes, then translate. Raises `WebhookRefused`."""

    def answer(self, received: Received, matter: Matter | None) -> Reply:
        """The vendor's reply, built once everything in `received` is durable."""

    async def probe(self) -> None:
        """Return only if a message would be taken now. Raises from `SendFailed`."""

    async def close(self) -> None:
        """Let go of connections; idempotent."""


@runtime_checkable
class Listening(Protocol):
    """An endpoint that is spoken to over a connection of its own: IMAP IDLE, LMTP, SMPP."""

    async def listen(self, accept: Accept) -> None:
        """Run until cancelled, reconnecting with backoff; acknowledge the vendor only after `accept` returned."""


class EndpointSettings(BaseModel):
    """What every `[[endpoints]]` table has; each provider adds its own."""

    # A refusal must not quote the credentials that stand beside the fault.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=r"^(email|chat|sms|phone)/[a-z0-9][a-z0-9-]{0,39}$")]
    """`channel/name`; stands in logs, metrics, webhook URLs."""
    rate_per_s: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Messages a second the account may send; None: the provider's default."""
    hold_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Seconds an unknown outcome waits for a receipt; None: the provider's default."""
    price: Annotated[Decimal, Field(ge=0)] | None = None
    """Of one message; None: free."""
    canary: Annotated[str, Field(max_length=254)] = ""
    """An address of our own that sends what reaches it back to us; empty: none. Mail and SMS only."""
    canary_every_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """Seconds between two canaries while nothing is suspected; 0: only when receipts are missing."""
    canary_bound_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Seconds within which a canary comes back; later it is lost."""

    @model_validator(mode="after")
    def _canary_fits(self) -> Self:
        channel = self.id.partition("/")[0]
        form = CANARY_FORMS.get(channel)
        if self.canary and form is None:
            raise ValueError(f"canary: a {channel} endpoint cannot have one; remove it")
        if self.canary and form is not None and not form.fullmatch(self.canary):
            wanted = "a mailbox" if channel == "email" else "a number like +12025550190"
            raise ValueError(f"canary must be {wanted}")
        if self.canary_every_s and not self.canary:
            raise ValueError("canary_every_s needs canary: name the address that sends canaries back")
        return self
