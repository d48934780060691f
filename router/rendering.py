"""Turn a leased message into what its adapter says: context gathered, notice worded, text fitted to the medium."""

import asyncio

from channels.messages import Channel, Content, Kind, Line, Matter, OutboundMessage
from health.report import EndpointId
from router.core import Core
from router.domain.conversation import Message, MessageState, SideName
from router.domain.fitting import Manner
from router.store.codec import Leased

HISTORY_MAX = 20
"""Earlier messages a matter carries."""
LEGS_OF_A_MOVE = frozenset(
    {"failover", "forced", "unreachable", "rejected", "undelivered", "no_consent", "misconfigured"}
)
OUTAGES = frozenset({"failover", "forced", "inbound_down", "misconfigured"})
"""What says something of the endpoint that was left. Everything else is about one message or one address."""
HEARD = frozenset({MessageState.SENT, MessageState.DELIVERED, MessageState.READ, MessageState.UNCONFIRMED})
"""What a person is to be reminded of; what still waits to be said comes by itself."""


def channel_of(endpoint: EndpointId) -> Channel | None:
    """The channel that an endpoint's id names; None for no endpoint."""
    return Channel(endpoint.partition("/")[0]) if endpoint else None


async def gather_matter(core: Core, conversation_id: str, *, side: SideName = SideName.CUSTOMER) -> Matter | None:
    """Everything an adapter may say about a conversation; None if there is no such conversation."""
    conversation = await core.store.conversation(conversation_id)
    if conversation is None:
        return None
    ids, thread, legs = await asyncio.gather(
        core.store.transcript_ids(conversation_id, -HISTORY_MAX, -1),
        core.store.mail_thread(conversation_id),
        core.store.legs(conversation_id, side),
    )
    messages = await core.store.messages(ids)
    locale = conversation.locale or core.settings.default_locale
    question = next((one for one in messages if one.id == conversation.open_question), None)
    said = [one for one in messages if one.side is SideName.CUSTOMER and one.kind is Kind.MESSAGE]
    what_happened = ""
    if len(legs) >= 1 and legs[-1]["r"] in LEGS_OF_A_MOVE:
        here = channel_of(EndpointId(legs[-1]["ep"]))
        broken = channel_of(EndpointId(legs[-2]["ep"]) if len(legs) > 1 else conversation.home)
        broken = broken if legs[-1]["r"] in OUTAGES else None
        if here is not None:
            what_happened = core.wording.what_happened(locale, here=here, broken=broken)
    return Matter(
        organisation=core.organisation,
        reference=conversation.reference,
        locale=locale,
        subject=conversation.subject,
        what_happened=what_happened,
        open_question=question.content.text if question else "",
        last_reply=said[-1].content.text if said else "",
        history=tuple(
            _line(core, one)
            for one in messages
            if one.kind is Kind.MESSAGE and (one.side is not side or one.state in HEARD)
        ),
        mail_thread=thread,
        connect_to=await _agent_number(core, conversation.assignee),
    )


async def _agent_number(core: Core, assignee: str) -> str:
    """The assigned agent's phone; a caller may be connected where the endpoint's settings allow the number."""
    agent = await core.people.agent(assignee) if assignee else None
    numbers = [one.address.value for one in agent.bindings if one.address.channel is Channel.PHONE] if agent else []
    return numbers[0] if numbers else ""


async def render(core: Core, leased: Leased) -> OutboundMessage:
    """What is to be said for a leased message, here and now."""
    capabilities = core.capabilities[leased.endpoint]
    matter = await _matter_for(core, leased, capabilities.channel)
    content = leased.content
    if leased.notice is not None:
        content = Content(text=_notice_text(core, leased, matter.locale))
    manner = Manner(
        kind=leased.kind,
        author_name=leased.author_name if leased.side is SideName.CUSTOMER else "",
        shared_pair=leased.shared > 1 or leased.side is SideName.AGENT,
        late=leased.late,
        possible_duplicate=leased.possible_duplicate,
    )
    return OutboundMessage(
        message_id=leased.message_id,
        conversation_id=leased.conversation_id,
        token=leased.token,
        kind=leased.kind,
        to=leased.address,
        content=core.wording.render_for(capabilities, content, matter, manner),
        matter=matter,
        reply_token=core.reply_token(leased.conversation_id) if _is_whole(leased, capabilities.channel) else "",
        possible_duplicate=leased.possible_duplicate,
        late=leased.late,
        created_at=leased.created_at,
        expires_at=leased.expires_at or None,
        to_agent=leased.side is SideName.AGENT,
    )


def _is_whole(leased: Leased, channel: Channel) -> bool:
    """Mail quotes what was said, the phone reads it aloud, and both carry a reply token."""
    return channel in {Channel.EMAIL, Channel.PHONE} and not leased.hidden


async def _matter_for(core: Core, leased: Leased, channel: Channel) -> Matter:
    """Chat and SMS need little, and get it without another round trip."""
    locale = leased.locale or core.settings.default_locale
    if _is_whole(leased, channel):
        matter = await gather_matter(core, leased.conversation_id, side=leased.side)
        if matter is not None:
            return matter
    line = Line(
        author=leased.author_name or core.organisation,
        text=leased.content.text,
        at=leased.created_at,
        from_customer=leased.side is SideName.AGENT,
        message_id=leased.message_id,
    )
    return Matter(
        organisation=core.organisation,
        reference="" if leased.hidden else leased.reference,
        locale=locale,
        subject=leased.subject,
        last_reply=leased.content.text,
        history=(line,),
    )


def _notice_text(core: Core, leased: Leased, locale: str) -> str:
    if leased.notice is None:
        return ""
    here = core.capabilities[leased.endpoint].channel
    references = leased.references or (leased.reference,)
    to_agent = leased.side is SideName.AGENT
    # The texts for several matters and for agents name what was left; the others blame nothing that works.
    named = leased.notice.reason in OUTAGES or len(references) > 1 or to_agent
    return core.wording.notice(
        locale,
        here=here,
        broken=channel_of(leased.notice.left) if named else None,
        references=references,
        inbound_only=leased.notice.reason == "inbound_down",
        to_agent=to_agent,
    )


def _line(core: Core, message: Message) -> Line:
    return Line(
        author=message.author_name or core.organisation,
        text=message.content.text,
        at=message.created_at,
        from_customer=message.side is SideName.AGENT,
        message_id=message.id,
    )
