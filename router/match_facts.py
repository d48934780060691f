"""What the store knows of a message's token, thread, references and sender, for matching it."""

from channels.messages import Address, InboundMessage
from router.core import Core
from router.domain.matching import MatchFacts, Spoken, claimed_references, searched_text
from router.mail_threads import conversation_of_mail
from router.senders import Sender
from router.store.store import read_token

THREAD_MAX = 20
"""Message-IDs a mail refers to that are looked up."""


async def gather_facts(core: Core, event: InboundMessage, sender: Sender) -> MatchFacts:
    """Everything that `match_inbound` decides by. Raises StoreUnavailable."""
    known = {one: record for one, record in sender.conversations.items() if not one.startswith("h")}
    mine = {*sender.open_conversations, *(sender.spoken if sender.agent else ())}
    claims: dict[str, str] = {}
    own_closed: dict[str, str] = {}
    people = {one.id for one in sender.customers}
    for reference in () if event.automatic else claimed_references(searched_text(event)):
        if owner := await core.people.by_reference(reference):
            conversation = await core.store.conversation(owner)
            if conversation is None:
                continue  # archived: nobody could prove anything about it, so nothing waits for that
            is_own = conversation.customer_id in people
            (own_closed if is_own else claims)[reference] = owner
    return MatchFacts(
        now=core.clock.now(),
        token_conversation=await _token_conversation(core, event),
        thread=await _thread(core, event),
        references={one.reference: one.id for one in known.values() if one.open and one.id in mine} | own_closed,
        claims=claims,
        spoken=[
            Spoken(one, known[one].customer_id, at, open=known[one].open)
            for one, at in sender.spoken.items()
            if one in known
        ],
        open_conversations=sender.open_conversations,
        customers=tuple(one.id for one in sender.customers),
        from_agent=sender.agent is not None,
    )


async def _token_conversation(core: Core, event: InboundMessage) -> str:
    """The conversation of a reply token: signed, or an attempt's own (a call's callback)."""
    if not event.reply_token:
        return ""
    if signed := core.read_reply_token(event.reply_token):
        return signed
    try:
        message = await core.store.message(read_token(event.reply_token)[0])
    except ValueError:
        return ""
    return message.conversation_id if message is not None and not message.conversation_id.startswith("h") else ""


async def _thread(core: Core, event: InboundMessage) -> dict[str, str]:
    """Which conversations the mails belong to that this one refers to: ours by vendor id, others' by Message-ID."""
    thread = {}
    for identity in event.in_reply_to[:THREAD_MAX]:
        token = await core.control.token_of(event.endpoint, identity)
        message = await core.store.message(read_token(token)[0]) if token else None
        if message is not None:
            found = message.conversation_id
        else:
            found = await conversation_of_mail(core, event.endpoint, identity)
        if found and not found.startswith("h"):
            thread[identity] = found
    return thread


async def only_open(core: Core, sender: Address) -> str:
    """The one open conversation of everybody at an address, or '': there is none, or more, or it is an agent's."""
    found = []
    ids = await core.people.at(sender)
    for customer_id in ids if all(one.startswith("c") for one in ids) else ():
        found += await core.store.open_of_customer(customer_id)
    return found[0] if len(found) == 1 else ""
