"""How a conversation begins: by what a customer wrote, or by what we write to one first."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from channels.messages import Channel, Content, InboundMessage, Kind
from channels.text import one_line
from router.core import CONSOLE_ENDPOINT, CONSOLE_PLACE, Core, Invalid
from router.domain.conversation import NOWHERE, Binding, Customer, MessageClass, SideName
from router.domain.ids import new_id, shard_of
from router.domain.journal import Decision, DecisionKind, judged, write_decision
from router.domain.routing import Route, RouteRequest, choose_route
from router.edge import load_content
from router.inbound import subject_of
from router.planner import place_for
from router.senders import Sender
from router.store.asked import NewConversation, NewLeg, NewMessage

PRIORITY = 5
SUBJECT_MAX = 200


@dataclass(frozen=True, slots=True)
class Opening:
    """A conversation that we begin, as its author asked for it."""

    customer_id: str
    conversation_id: str
    message_id: str
    content: Content
    author: str
    author_name: str
    natural_key: str
    message_class: MessageClass
    priority: int
    team: str
    channel: Channel | None
    """Where it is to begin, if that works."""
    at: float
    """When it was asked for, Unix seconds: its message's time to live counts from here."""

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def load(cls, fields: dict[str, Any]) -> "Opening":
        """What `dump` wrote."""
        channel = Channel(fields["channel"]) if fields["channel"] else None
        row = {"content": load_content(fields["content"]), "channel": channel}
        return cls(**fields | row | {"message_class": MessageClass(fields["message_class"])})

    def in_shard(self, shard: int) -> "Opening":
        """The same with its ids in that shard; always the same ones."""
        conversation, message = (one.partition("-")[2] for one in (self.conversation_id, self.message_id))
        return replace(self, conversation_id=f"v{shard}-{conversation}", message_id=f"m{shard}-{message}")


async def customer_for(core: Core, event: InboundMessage, sender: Sender, customer_id: str | None) -> Customer:
    """The customer a conversation opens for; two deliveries from one unknown address make one customer."""
    found = next((one for one in sender.customers if one.id == customer_id), None)
    if found is not None:
        return await core.customer_of(found.alias_of) if found.alias_of else found
    bound = event.endpoint if event.sender.channel is Channel.CHAT else None
    now = core.clock.now()
    proposed = new_id("c", sender.place.shard, int(now * 1000))
    winner = await core.people.claim_address(event.sender, bound, proposed)
    if winner != proposed and (known := await core.people.customer(winner)) is not None:
        return known
    customer = Customer(
        id=winner,
        name=event.sender_name[:200],
        locale=event.locale or core.settings.default_locale,
        bindings=(Binding(event.sender, bound, verified=not event.unverified, locale=event.locale),),
        created_at=now,
    )
    await core.people.create(customer)
    return customer


async def opened_by(
    core: Core, event: InboundMessage, sender: Sender, customer: Customer, conversation_id: str
) -> NewConversation:
    """The conversation that what a customer wrote begins, where they wrote."""
    return NewConversation(
        customer_id=customer.id,
        reference=await core.people.claim_reference(conversation_id),
        subject=subject_of(event),
        locale=event.locale or customer.locale or core.settings.default_locale,
        message_class=MessageClass.NORMAL,
        priority=PRIORITY,
        team="",
        customer=NewLeg(customer.id, event.endpoint, sender.place.place),
        agent=NewLeg("", CONSOLE_ENDPOINT, CONSOLE_PLACE),
    )


async def opened_with(core: Core, opening: Opening, customer: Customer, first: NewLeg) -> NewConversation:
    """The conversation that an opening begins, at its first leg."""
    return NewConversation(
        customer_id=customer.id,
        reference=await core.people.claim_reference(opening.conversation_id),
        subject=one_line(opening.content.subject or "")[:SUBJECT_MAX],
        locale=customer.locale or core.settings.default_locale,
        message_class=opening.message_class,
        priority=opening.priority,
        team=opening.team,
        customer=first,
        agent=NewLeg("", CONSOLE_ENDPOINT, CONSOLE_PLACE),
    )


def first_message(core: Core, opening: Opening) -> NewMessage:
    """What an opening says."""
    return NewMessage(
        id=opening.message_id,
        side=SideName.CUSTOMER,
        kind=Kind.MESSAGE,
        author=opening.author,
        author_name=opening.author_name,
        content=opening.content,
        message_class=opening.message_class,
        expires_at=core.expiry(opening.message_class, opening.at),
        endpoint=NOWHERE,
    )


async def first_leg(core: Core, opening: Opening, customer: Customer) -> tuple[Route, NewLeg]:
    """Where a conversation of ours begins: on the wished channel if it works, else where the route leads.

    Raises:
        Invalid: the customer agreed to no address.
    """
    if not any(one.consent for one in customer.bindings):
        raise Invalid("no_binding", "The customer agreed to no address. Add a binding with consent first.")
    views = await core.views()
    wished = tuple(one for one in customer.bindings if one.address.channel is opening.channel)
    for bindings in (wished, customer.bindings) if wished else (customer.bindings,):
        request = RouteRequest(
            conversation_id=opening.conversation_id,
            bindings=bindings,
            now=core.clock.now(),
            message_class=opening.message_class,
            policy=core.policy,
            new=True,
            text_length=len(opening.content.text),
            own_channel=opening.channel,
        )
        route = choose_route(request, views)
        if route.best is not None:
            await core.unverified.begin(bindings[route.best.binding], core.clock.now())
            return route, NewLeg(customer.id, route.best.endpoint, place_for(route.best, bindings))
    return route, NewLeg(customer.id, NOWHERE, "")


async def note_first_leg(core: Core, conversation_id: str, route: Route, first: NewLeg) -> None:
    """Write down why it begins where it does."""
    words = f"begins at {first.endpoint}" if first.endpoint else "nothing can carry it now; it is parked"
    decision = Decision(
        DecisionKind.ROUTED, conversation_id, SideName.CUSTOMER, core.clock.now(), words, (), judged(route)
    )
    facts = {"d": write_decision(decision)}
    await core.store.note(shard_of(conversation_id), "decision.made", facts, conversation_id=conversation_id)
