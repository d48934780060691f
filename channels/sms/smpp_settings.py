"""The settings of an account at a message centre."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from channels.contract import EndpointSettings


class SmppSettings(EndpointSettings):
    """An account at a message centre."""

    provider: Literal["smpp"] = "smpp"
    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65_535)] = 2775
    tls: bool = False
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    system_id: Annotated[str, Field(pattern=r"^[!-~]{1,15}$")]
    password: SecretStr
    """At most 8 characters, SMPP 3.4, section 4.1.1."""
    system_type: Annotated[str, Field(pattern=r"^[ -~]{0,12}$")] = ""
    sender: Annotated[str, Field(pattern=r"^(\+?[0-9]{3,20}|[A-Za-z0-9 ._&-]{1,11})$")]
    """What the customer's phone shows: E.164, a short code, or up to 11 letters, which nobody can answer."""
    sender_ton: Annotated[int, Field(ge=0, le=6)] | None = None
    """Type of number of the sender; None: by its looks."""
    sender_npi: Annotated[int, Field(ge=0, le=18)] | None = None
    region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    """Country of numbers that come without a country code; None: they all come with one."""
    window: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Unanswered submit_sm at a time."""
    enquire_link_s: Annotated[float, Field(ge=0.1, le=300)] = 10.0
    segments_max: Annotated[int, Field(ge=1, le=50)] = 10
    wide_reference: bool = False
    """Tie segments together by 16 bits instead of 8: fewer mix-ups, one character less in each."""
    receipt_ids: Literal["same", "decimal", "hex"] = "same"
    """How receipts write the id that submit_sm_resp gave: the same, or converted to decimal or hexadecimal."""
    validity: bool = True
    """Tell the message centre when a message expires; some refuse any validity_period."""
    partial_after_s: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    """A long text whose parts do not all come is filed with what there is after this long."""

    @field_validator("password")
    @classmethod
    def _fits(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) > 8 or not value.get_secret_value().isascii():
            raise ValueError("an SMPP 3.4 password has at most 8 plain characters")
        return value

    @property
    def is_numeric(self) -> bool:
        """The sender can be answered."""
        return self.sender.lstrip("+").isdigit()
