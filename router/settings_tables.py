"""The tables of the settings file that hold for everything: limits, times and shares, with unit and default."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from channels.messages import Channel
from router.domain.conversation import TEXT_MAX

Seconds = Annotated[float, Field(gt=0, le=30 * 86_400)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Table(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class WebSettings(Table):
    """`[web]`: the listener for API, webhooks, chat and console."""

    host: str = Field("127.0.0.1", min_length=1, description="the address to listen on; 0.0.0.0 for all")
    port: Port = Field(8080, description="the TCP port to listen on")


class FailoverSettings(Table):
    """`[failover]`: where conversations go, and how fast."""

    channel_order: tuple[Channel, ...] = Field(
        (Channel.CHAT, Channel.SMS, Channel.EMAIL, Channel.PHONE),
        min_length=1,
        description="the channels in the order they are tried where the customer has no preference",
    )
    one_move_per_s: Seconds = Field(60.0, description="seconds in which one conversation moves at most once by itself")
    returns_per_hour_max: int = Field(3, ge=0, le=60, description="moves home of one conversation in an hour, at most")
    idle_s: Seconds = Field(
        600.0, description="seconds after the customer's last words before a conversation goes home"
    )
    storm_pace_per_s: float = Field(
        2_000.0, ge=1, le=100_000, description="conversations moved a second over all targets, at most"
    )
    park_s: Seconds = Field(30.0, description="seconds until a message without any way is looked at again")
    bulk_park_s: Seconds = Field(300.0, description="seconds that bulk waits while others need the room")
    park_max_s: Seconds = Field(3_600.0, description="seconds that a parked message is promised at the latest")

    @field_validator("channel_order")
    @classmethod
    def _names_each_once(cls, order: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if len(set(order)) != len(order):
            raise ValueError("names a channel twice")
        return order


class MessageSettings(Table):
    """`[messages]`: limits and lifetimes of what is said."""

    text_max: int = Field(TEXT_MAX, ge=160, le=TEXT_MAX, description="characters in one message, at most")
    expires_urgent_s: Seconds = Field(3_600.0, description="seconds an urgent message may wait to be sent")
    expires_normal_s: Seconds = Field(86_400.0, description="seconds a normal message may wait to be sent")
    expires_bulk_s: Seconds = Field(259_200.0, description="seconds a bulk message may wait to be sent")
    expires_secret_s: Seconds = Field(300.0, description="seconds a one-time code may wait to be sent")
    attempts_max: int = Field(5, ge=1, le=20, description="attempts to send one message, at most")
    hold_while_down_s: Seconds = Field(5.0, description="seconds an unknown outcome waits while its endpoint is down")
    needs_human_s: Seconds = Field(600.0, description="seconds a message waits for a person's decision")
    unverified_countries: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = Field(
        (), max_length=250, description="countries whose unverified numbers may be written to; none: those of our own"
    )
    unverified_per_hour: int = Field(
        1_000, ge=1, le=10_000_000, description="unverified numbers that we begin to write to in an hour, at most"
    )


class StrangersSettings(Table):
    """`[strangers]`: what those who have proven nothing can make us say: prompts, codes, confirmations."""

    per_address_hour_max: int = Field(5, ge=1, le=1_000, description="messages an hour to one address, at most")
    per_country_hour_max: int = Field(
        30, ge=0, le=100_000, description="messages an hour to numbers of one foreign country, at most"
    )
    per_hour_max: int = Field(600, ge=0, le=1_000_000, description="messages an hour to all of them, at most")


class DispatchSettings(Table):
    """`[dispatch]`: the loops that send."""

    in_flight: int = Field(32, ge=1, le=1_000, description="messages one process sends at the same time, at most")
    gate_s: float = Field(1.0, ge=0.1, le=10, description="seconds from lease to commit point, at most")


class AttachmentSettings(Table):
    """`[attachments]`: bounds on files, both ways."""

    file_max_bytes: int = Field(10_000_000, ge=0, le=100_000_000, description="bytes in one file, at most")
    kept_days: float = Field(7.0, ge=1, le=3_650, description="days a file stays on disk that nothing refers to")
    total_max_bytes: int = Field(25_000_000, ge=0, le=100_000_000, description="bytes in one message's files, at most")
    files_max: int = Field(10, ge=0, le=100, description="files in one message, at most")


class ArchiveSettings(Table):
    """`[archive]`: where conversations go that are over."""

    after_days: float = Field(
        30.0, ge=0, le=3_650, description="days a closed conversation stays in Redis before it moves to the archive"
    )


class SandboxTable(Table):
    """`[sandbox]`: the stand-in vendors and the customer's pocket."""

    enabled: Literal["auto"] | bool = Field("auto", description="whether they run; auto: where no endpoint is set")
    host: str = Field("127.0.0.1", description="the loopback address of the customer's pocket")
    port: Annotated[int, Field(ge=1, le=65_530)] = Field(
        8090, description="the TCP port of the customer's pocket; the vendors take the five after it"
    )

    @field_validator("host")
    @classmethod
    def _is_loopback(cls, host: str) -> str:
        if host not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError("must be 127.0.0.1: the sandbox has no login, whoever reaches it can write as anybody")
        return host
