"""Serve `/v1` for people, conversations and messages."""

from typing import Any

from channels.messages import Address as DomainAddress
from health.report import EndpointId
from router import switchboard
from router.domain.ids import read_reference
from router.web import models, models_people
from router.web.models_people import Nothing
from router.web.problems import Problem
from router.web.routes import Call


async def me(call: Call[Nothing, Nothing]) -> models_people.Me:
    """Who the key is."""
    return models_people.Me(
        key_id=call.key.id,
        name=call.key.name,
        role=call.key.role.value,
        agent_id=call.key.agent_id,
        organisation=call.switchboard.organisation,
    )


async def create_customer(call: Call[models_people.NewCustomer, Nothing]) -> models_people.Customer:
    """Add a customer."""
    bindings = [binding.to_domain() for binding in call.body.bindings]
    made = await call.switchboard.create_customer(name=call.body.name, locale=call.body.locale, bindings=bindings)
    return models_people.Customer.of(made)


async def find_customers(call: Call[Nothing, models_people.CustomerQuery]) -> models_people.Customers:
    """Who has an address."""
    found = await call.switchboard.find_customers(DomainAddress(call.query.channel, call.query.address))
    return models_people.Customers(items=tuple(models_people.Customer.of(customer) for customer in found))


async def customer(call: Call[Nothing, Nothing]) -> models_people.Customer:
    """One customer."""
    return models_people.Customer.of(await call.switchboard.customer(call.path["customer_id"]))


async def set_binding(call: Call[models_people.Binding, Nothing]) -> models_people.Customer:
    """Add or replace a binding."""
    changed = await call.switchboard.set_binding(call.path["customer_id"], call.body.to_domain(), who=call.key.author)
    return models_people.Customer.of(changed)


async def remove_binding(call: Call[Nothing, models_people.CustomerQuery]) -> models_people.Customer:
    """Forget an address of a customer."""
    address = DomainAddress(call.query.channel, call.query.address)
    changed = await call.switchboard.remove_binding(call.path["customer_id"], address, who=call.key.author)
    return models_people.Customer.of(changed)


async def merge_customer(call: Call[models_people.Merge, Nothing]) -> models_people.Customer:
    """Two customers are one person."""
    return models_people.Customer.of(await call.switchboard.merge_customer(call.path["customer_id"], call.body.into))


async def unmerge_customer(call: Call[Nothing, Nothing]) -> models_people.Customer:
    """They are two people after all."""
    return models_people.Customer.of(await call.switchboard.unmerge_customer(call.path["customer_id"]))


async def erase_customer(call: Call[Nothing, models_people.Erasing]) -> models_people.Erased:
    """Erase a customer; done when it answers, and safe to ask again."""
    erased = await call.switchboard.erase_customer(
        call.path["customer_id"], who=call.key.author, why=call.query.why, close=call.query.close
    )
    return models_people.Erased.of(erased)


async def create_agent(call: Call[models_people.NewAgent, Nothing]) -> models_people.Agent:
    """Add an agent."""
    bindings = [binding.to_domain() for binding in call.body.bindings]
    made = await call.switchboard.create_agent(name=call.body.name, team=call.body.team, bindings=bindings)
    return models_people.Agent.of(made)


async def agents(call: Call[Nothing, Nothing]) -> models_people.Agents:
    """All agents."""
    return models_people.Agents(items=tuple(models_people.Agent.of(agent) for agent in await call.switchboard.agents()))


async def conversations(call: Call[Nothing, models.ConversationQuery]) -> models.Conversations:
    """A page of them, who waits longest first."""
    query = call.query
    if query.archived:
        return await _archived_conversations(call)
    page = await call.switchboard.conversations(
        open_only=query.open_only,
        customer_id=query.customer_id,
        assignee=query.assignee,
        cursor=query.cursor,
        limit=query.limit,
    )
    items = tuple(models.Conversation.of(view, private=call.private) for view in page.items)
    return models.Conversations(items=items, next_cursor=page.next_cursor)


async def _archived_conversations(call: Call[Nothing, models.ConversationQuery]) -> models.Conversations:
    query = call.query
    if query.text and call.private:
        raise Problem(403, "role", "Your key sees nothing of what was said, so it cannot search it.")
    sought = switchboard.Sought(
        query.customer_id or "", read_reference(query.reference), query.assignee or "", query.text
    )
    page = await call.switchboard.archived_conversations(sought, cursor=query.cursor, limit=query.limit)
    items = tuple(models.Conversation.of(view, private=call.private) for view in page.items)
    return models.Conversations(items=items, next_cursor=page.next_cursor)


async def open_conversation(call: Call[models.NewConversation, Nothing]) -> models.SentMessage:
    """Write to a customer first."""
    body = call.body
    sent = await call.switchboard.open_conversation(
        body.customer_id,
        subject=body.subject,
        text=body.text,
        author=call.key.author,
        author_name=await call.switchboard.signature(call.key.agent_id),
        idempotency_key=call.idempotency_key,
        message_class=body.message_class,
        priority=body.priority,
        team=body.team,
        channel=body.channel,
    )
    return models.SentMessage.of(sent)


async def conversation(call: Call[Nothing, Nothing]) -> models.Conversation:
    """One conversation, by its id or its reference."""
    view = await call.switchboard.conversation(call.path["conversation_id"], archived_too=True)
    return await _shown(call, view)


async def change_conversation(call: Call[models.ConversationChange, Nothing]) -> models.Conversation:
    """Change what is given."""
    body = call.body
    view = await call.switchboard.update_conversation(
        call.path["conversation_id"],
        assignee=body.assignee,
        team=body.team,
        priority=body.priority,
        subject=body.subject,
        fields=body.fields,
        locale=body.locale,
    )
    return await _shown(call, view)


async def close_conversation(call: Call[Nothing, Nothing]) -> models.Conversation:
    """End the matter; idempotent."""
    view = await call.switchboard.close_conversation(call.path["conversation_id"], call.key.author)
    return await _shown(call, view)


async def place_agent(call: Call[models.AgentPlace, Nothing]) -> models.Conversation:
    """Bind the agent's side elsewhere."""
    view = await call.switchboard.bind_agent_side(
        call.path["conversation_id"],
        endpoint=EndpointId(call.body.endpoint),
        address=call.body.address.to_domain(),
        who=call.key.author,
    )
    return await _shown(call, view)


async def place_customer(call: Call[models.CustomerPlace, Nothing]) -> models.Conversation:
    """Let one conversation go on elsewhere."""
    view = await call.switchboard.move_customer_side(
        call.path["conversation_id"],
        endpoint=EndpointId(call.body.endpoint),
        who=call.key.author,
        why=call.body.why,
    )
    return await _shown(call, view)


async def decisions(call: Call[Nothing, Nothing]) -> models.Journal:
    """Every routing decision, with the reason for each endpoint."""
    return models.Journal.of(await call.switchboard.decisions(call.path["conversation_id"], limit=100))


async def transcript(call: Call[Nothing, models.TranscriptQuery]) -> models.Messages:
    """Both directions, in order, attempts included."""
    query = call.query
    found = await call.switchboard.transcript_part(
        call.path["conversation_id"], after_sequence=query.after, before_sequence=query.before, limit=query.limit
    )
    items = tuple(models.Message.of(message) for message in found.messages)
    return models.Messages(items=items, archived=found.archived)


async def send_message(call: Call[models.NewMessage, Nothing]) -> models.SentMessage:
    """Say something; durable on answer."""
    body = call.body
    uploads = [switchboard.Upload(file.name, file.media_type, file.content) for file in body.files]
    sent = await call.switchboard.send(
        call.path["conversation_id"],
        text=body.text,
        subject=body.subject,
        files=uploads,
        author=call.key.author,
        author_name=await call.switchboard.signature(call.key.agent_id),
        idempotency_key=call.idempotency_key,
        message_class=body.message_class,
        expires_in_s=body.expires_in_s,
        side=models.SIDES[body.to],
    )
    return models.SentMessage.of(sent)


async def message(call: Call[Nothing, Nothing]) -> models.Message:
    """One message with its attempts."""
    return models.Message.of(await call.switchboard.message(call.path["message_id"]))


async def cancel_message(call: Call[Nothing, Nothing]) -> models.Message:
    """Take it back, if it has not gone out."""
    return models.Message.of(await call.switchboard.cancel_message(call.path["message_id"]))


async def _shown(call: Call[Any, Any], view: switchboard.ConversationView) -> models.Conversation:
    return models.Conversation.of(view, private=call.private, next_leg=await call.switchboard.next_leg(view))
