"""What the archive answers: closed conversations, whole or at a glance."""

from collections.abc import Mapping
from dataclasses import dataclass

from router.domain.conversation import Conversation, Message, Side, SideName

FOUND_MAX = 200
"""Conversations or messages of one answer."""


@dataclass(frozen=True, slots=True)
class ArchivedLeg:
    """Where a side was."""

    side: SideName
    epoch: int
    endpoint: str
    address: str
    began_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class ArchivedHead:
    """A closed conversation at a glance."""

    conversation: Conversation
    customer_side: Side
    agent_side: Side
    last_text: str


@dataclass(frozen=True, slots=True)
class ArchivedConversation:
    """A closed conversation with all that was said and tried."""

    conversation: Conversation
    messages: tuple[Message, ...]
    """In the conversation's order, with their attempts."""
    originals: Mapping[str, str]
    """SHA-256 of the raw mail on disk, by message id, where there is one."""
    legs: tuple[ArchivedLeg, ...]
    natural_keys: Mapping[str, str]
    """What messages came in under, by message id, where they did."""


@dataclass(frozen=True, slots=True)
class Sought:
    """Which conversations; what is empty does not matter."""

    customer_id: str = ""
    reference: str = ""
    assignee: str = ""
    text: str = ""
    """Words that one message must all have, in any order, case and accents."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure removed."""

    conversations: tuple[str, ...]
    files: frozenset[str]
    """SHA-256 of the files they referred to; others may refer to them still."""
