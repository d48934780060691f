"""What `/v1` takes and gives about what waits for proof of where it belongs."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field

from router.held_desk import HELD_PAGE_MAX, HeldView
from router.web.models_people import Address, Line, Model, Name, instant

TEXT_SHOWN_MAX = 2_000
"""Characters of what was said last: enough to tell where it belongs."""


class Held(Model):
    """What was written from one address and matches no conversation. The role `ops` sees neither words nor address."""

    id: str
    endpoint: str
    address: Address | None
    since: datetime | None
    """When the first of it came."""
    why: str
    """`ambiguous`: several conversations could be meant; `claim`: a reference of somebody who is not known at this
    address; `nothing_open`: one of us wrote, and has no open conversation to answer; `queue_full`: its conversation
    takes no more."""
    candidates: tuple[str, ...]
    """References of open conversations that could be meant."""
    messages: int
    last_text: str
    """The start of what was said last."""

    @classmethod
    def of(cls, view: HeldView, *, private: bool) -> Self:
        return cls(
            id=view.id,
            endpoint=view.endpoint,
            address=None if private else Address.of(view.address),
            since=instant(view.since),
            why=view.why,
            candidates=view.candidates,
            messages=view.count,
            last_text="" if private else view.last_text[:TEXT_SHOWN_MAX],
        )


class HeldPage(Model):
    """A page of what waits for proof, who waits longest first."""

    items: tuple[Held, ...]
    next_cursor: str | None
    total: int
    """Of all pages."""


class HeldQuery(Model):
    """Which part of it."""

    cursor: Annotated[str, Line, Field(max_length=10)] | None = None
    limit: Annotated[int, Field(ge=1, le=HELD_PAGE_MAX)] = 50


class HeldFiling(Model):
    """Where it belongs."""

    conversation_id: Name
    """Of an open conversation, or its reference."""


class HeldFiled(Model):
    """It stands in its conversation."""

    conversation_id: str
    messages: int
