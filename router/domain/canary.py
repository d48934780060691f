"""What a canary is: a message to ourselves that only a provider which really delivers brings back."""

import re
import secrets
from dataclasses import dataclass

from channels.messages import Address

TOKEN_FORM = re.compile(r"\bcanary ([0-9a-f]{20})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Canary:
    """Where an endpoint's canary goes, and how long it may take."""

    address: Address
    every_s: float = 0.0
    """Between two while nothing is suspected; 0: only when something is."""
    bound_s: float = 60.0
    """Not back this long after the provider took it: it is lost."""


def new_canary_token() -> str:
    """Random, so that nobody can say for a provider that it came back."""
    return secrets.token_hex(10)


def write_canary(token: str) -> str:
    """What a canary says; it fits one SMS segment."""
    return f"canary {token}"


def read_canary(text: str) -> str:
    """The token of the first canary in a text, or ''. Whatever echoes it may have changed its case."""
    # Asked of every message that comes in: most have no such word.
    found = TOKEN_FORM.search(text) if "canary" in text.lower() else None
    return found[1].lower() if found else ""
