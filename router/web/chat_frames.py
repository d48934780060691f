"""What a browser may say over the chat's WebSocket, checked at the border."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SAY_MAX = 10_000
"""Characters of one message; four bytes each and its envelope stay within a frame."""
FRAME_MAX = 64 * 1024
"""Bytes of one frame, both ways."""


class Frame(BaseModel):
    """One frame; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Hello(Frame):
    """The first frame: who comes back, and what it has seen."""

    type: Literal["hello"]
    token: Annotated[str, Field(max_length=200)] = ""
    """Empty, or not ours: a new session begins."""
    cursor: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Everything up to this number was noted; what comes after is sent again."""
    locale: Annotated[str, Field(pattern=r"^([a-z]{2}(-[A-Za-z]{2,4})?)?$")] = ""


class Say(Frame):
    """A customer's words; sent again under the same id until `taken` or `refused`."""

    type: Literal["say"]
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
    text: Annotated[str, Field(max_length=SAY_MAX)]
    name: Annotated[str, Field(max_length=100)] = ""


class Seen(Frame):
    """A message was shown; said again until `noted`."""

    type: Literal["seen"]
    number: Annotated[int, Field(ge=1, le=2**53)]


class Details(Frame):
    """Where else the customer may be reached; nothing is kept without the box ticked."""

    type: Literal["details"]
    name: Annotated[str, Field(max_length=254)] = ""
    email: Annotated[str, Field(max_length=254)] = ""
    phone: Annotated[str, Field(max_length=254)] = ""
    consent: bool


class Ping(Frame):
    """Is anybody there?"""

    type: Literal["ping"]


AnyFrame = Annotated[Hello | Say | Seen | Details | Ping, Field(discriminator="type")]
FRAMES: TypeAdapter[Hello | Say | Seen | Details | Ping] = TypeAdapter(AnyFrame)
