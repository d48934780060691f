"""The settings of a mailbox that customers' mail arrives in."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from channels.email.oauth import OAuth2Settings

HOST = r"^[A-Za-z0-9_][A-Za-z0-9._:-]{0,252}$"
"""A host name or an IP address."""


class ImapSettings(BaseModel):
    """The mailbox that customers' mail arrives in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, Field(pattern=HOST)]
    port: Annotated[int, Field(ge=1, le=65535)] = 993
    tls: Literal["tls", "starttls", "none"] = "tls"
    """`none` only for loopback."""
    ca_file: Path | None = None
    username: Annotated[str, Field(min_length=1)]
    password: SecretStr | None = None
    oauth2: OAuth2Settings | None = None
    folder: str = "INBOX"
    idle_s: Annotated[float, Field(gt=0, le=1740)] = 60.0
    """How long one IDLE lasts: a connection that died silently is noticed after it. RFC 2177 allows 29 min."""
    poll_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    """How often to look where the server knows no IDLE."""
    first_read_days: Annotated[int, Field(ge=0, le=30)] = 1
    """The first time, or after 30 days away, mail of this many days is read; what is older is not."""
    message_max_bytes: Annotated[int, Field(ge=10_000, le=150_000_000)] = 35_000_000
    """Of a larger mail the text is kept and the files are not."""

    @model_validator(mode="after")
    def _check(self) -> "ImapSettings":
        if (self.password is None) == (self.oauth2 is None):
            raise ValueError("give either password or oauth2")
        if self.tls == "none" and self.host not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError("tls = 'none' is only for loopback: use 'tls' or 'starttls'")
        return self
