"""Answers to archived conversations: a new one begins, for the same customer, and names the old one."""

import asyncio
from dataclasses import dataclass

import structlog

from channels.messages import InboundMessage
from router.archive.database import ArchiveError
from router.archive.records import ArchivedHead
from router.core import Core
from router.domain.conversation import Customer
from router.domain.matching import How, Joins, claimed_references, searched_text
from router.senders import Sender

FIELD = "continues"
"""The field of a new conversation that holds the reference of the archived one."""
ANSWER_WITHIN_S = 1.0
"""How long the archive is waited for: a message that comes in does not depend on it."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Continued:
    """The archived conversation that a message goes on with."""

    conversation_id: str
    reference: str
    customer: Customer
    trusted: bool
    """A signed token came with it: whoever wrote is reachable where they wrote from."""


async def continued_by_match(core: Core, event: InboundMessage, match: Joins) -> Continued | None:
    """What a token or a mail thread leads to that Redis has no more; None: nothing that can be gone on with.

    The thread alone proves nothing about the sender (everybody who was copied knows it), so it counts from addresses
    of the customer's only.
    """
    head = await _head(core, match.conversation_id)
    if head is None:
        return None
    customer = await _customer(core, head)
    if customer is None:
        return None
    trusted = match.how is How.REPLY_TOKEN
    if not trusted and all(one.address != event.sender for one in customer.bindings):
        return None
    return Continued(match.conversation_id, head.conversation.reference, customer, trusted)


async def continued_by_reference(core: Core, event: InboundMessage, sender: Sender) -> Continued | None:
    """The sender's own archived conversation whose reference they wrote; None: there is none."""
    for reference in () if event.automatic else claimed_references(searched_text(event)):
        owner = await core.people.by_reference(reference)
        if not owner or await core.store.conversation(owner) is not None:
            continue
        head = await _head(core, owner)
        if head is None or head.conversation.customer_id not in {one.id for one in sender.customers}:
            continue
        customer = await _customer(core, head)
        if customer is not None:
            return Continued(owner, reference, customer, trusted=False)
    return None


async def _customer(core: Core, head: ArchivedHead) -> Customer | None:
    """Whose it was; None: they were erased since."""
    customer = await core.people.customer(head.conversation.customer_id)
    if customer is not None and customer.alias_of:
        return await core.people.customer(customer.alias_of)
    return customer


async def _head(core: Core, conversation_id: str) -> ArchivedHead | None:
    if conversation_id.startswith("h"):
        return None
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await core.archive.head(conversation_id)
    except (ArchiveError, TimeoutError) as error:
        # It is taken all the same, as if it came without a token.
        log.warning("archive.failed", conversation=conversation_id, error=str(error) or type(error).__name__)
        return None
