"""Which entries of adapters' own stores speak of one person, so that they can be erased."""

import json
from collections.abc import Iterable

from channels.chat.session import outbox_key, talk_key
from channels.messages import Address, Channel

PARTIALS = "partials"
"""The list of texts that came in parts, beside whose entries the parts themselves stand (`channels/sms/inbound.py`)."""


def entries_of(address: Address) -> list[str]:
    """Keys that stand for an address: a web chat session's outbox and what it last spoke in."""
    if address.channel is not Channel.CHAT:
        return []
    return [outbox_key(address.value), talk_key(address.value)]


def entries_of_attempts(tokens: Iterable[str]) -> list[str]:
    """Keys that stand for attempts: what a call is to say (`channels/phone/twilio.py`)."""
    return [f"say:{token}" for token in tokens]


def entries_of_partial(entry: str, address: Address) -> list[str]:
    """Keys of a text that comes in parts from this address; none: it is somebody else's."""
    partial = json.loads(entry)
    if address.channel is not Channel.SMS or partial["source"] != address.value:
        return []
    return [partial["key"], f"done/{partial['key']}"]
