"""Context: equal before and after a rebind, or the difference has a name."""

from dataclasses import fields, replace

import pytest

from channels.messages import Address, Channel, Content, File, Kind
from health.report import EndpointId
from router.domain.conversation import Binding, Conversation, Message, MessageClass, MessageState, SideName
from tests.context import Context, context_hash, context_of, differences

PHOTO = File("a" * 64, "photo.jpg", "image/jpeg", 500)


def message(number, **given):
    """The n-th message."""
    return Message(
        **{
            "id": f"m0-{number}",
            "conversation_id": "v0-A",
            "side": SideName.AGENT,
            "kind": Kind.MESSAGE,
            "author": "c0-1",
            "author_name": "Ana",
            "content": Content(f"text {number}", files=(PHOTO,)),
            "message_class": MessageClass.NORMAL,
            "state": MessageState.SENT,
            "sequence": number,
            "created_at": 1_700_000_000.123 + number,
            "expires_at": 0.0,
            **given,
        }
    )


CONVERSATION = Conversation(
    id="v0-A",
    customer_id="c0-1",
    reference="4F2K9",
    subject="Parcel",
    open=True,
    opened_at=1_700_000_000.5,
    closed_at=0.0,
    locale="de",
    message_class=MessageClass.NORMAL,
    priority=5,
    assignee="a0-1",
    team="claims",
    fields={"order": "77", "product": "lamp"},
    files=(PHOTO,),
    open_question="m0-2",
    waiting_since=1_700_000_002.123,
    last_inbound_at=1_700_000_002.123,
    moved_at=0.0,
    home=EndpointId("email/one"),
)
BINDINGS = (
    Binding(Address(Channel.SMS, "+15550100"), consent=True),
    Binding(Address(Channel.CHAT, "session-1"), endpoint=EndpointId("chat/one"), consent=False),
)
CONTEXT = context_of(CONVERSATION, [message(1), message(2)], BINDINGS)

OTHER = {
    "transcript": CONTEXT.transcript[:1],
    "fields": {"order": "77"},
    "files": (),
    "priority": 4,
    "opened_at": 1_700_000_000.6,
    "waiting_since": 0.0,
    "last_inbound_at": 0.0,
    "consent": {**CONTEXT.consent, "sms:+15550100": False},
}


@pytest.mark.parametrize("name", [field.name for field in fields(Context)])
def test_each_single_field_that_is_lost_changes_the_hash_and_is_named(name):
    changed = replace(CONTEXT, **{name: OTHER.get(name, "")})
    assert context_hash(changed) != context_hash(CONTEXT)
    (difference,) = differences(CONTEXT, changed)
    assert difference.startswith(name)


@pytest.mark.parametrize("name", ["text", "html", "subject", "files", "author", "side", "kind", "message_class"])
def test_each_part_of_a_message_counts(name):
    said = replace(CONTEXT.transcript[1], **{name: ("x",) if name == "files" else "x"})
    changed = replace(CONTEXT, transcript=(CONTEXT.transcript[0], said))
    assert context_hash(changed) != context_hash(CONTEXT)
    assert differences(CONTEXT, changed) == ["transcript: changed m0-2"]


def test_the_hash_does_not_depend_on_the_order_of_records_or_mappings():
    turned = replace(CONVERSATION, fields={"product": "lamp", "order": "77"})
    same = context_of(turned, [message(2), message(1)], BINDINGS[::-1])
    assert context_hash(same) == context_hash(CONTEXT)
    assert differences(CONTEXT, same) == []


def test_the_hash_does_not_depend_on_how_the_store_rounds_a_time():
    rounded = replace(CONVERSATION, waiting_since=1_700_000_002.1230001, opened_at=1_700_000_000.5)
    assert context_hash(context_of(rounded, [message(1), message(2)], BINDINGS)) == context_hash(CONTEXT)
    later = replace(CONVERSATION, waiting_since=1_700_000_002.125)
    assert context_hash(context_of(later, [message(1), message(2)], BINDINGS)) != context_hash(CONTEXT)
    whole = context_of(replace(CONVERSATION, opened_at=1_700_000_000), [], ())
    assert context_hash(whole) == context_hash(context_of(replace(CONVERSATION, opened_at=1_700_000_000.0), [], ()))


def test_how_far_a_message_got_and_where_the_conversation_lives_are_no_context():
    moved = replace(CONVERSATION, moved_at=1_700_000_100.0)
    told = [message(1), message(2, state=MessageState.UNKNOWN, possible_duplicate=True)]
    assert context_hash(context_of(moved, told, BINDINGS)) == context_hash(CONTEXT)


def test_another_order_and_added_messages_are_named():
    assert differences(CONTEXT, replace(CONTEXT, transcript=CONTEXT.transcript[::-1])) == ["transcript: another order"]
    longer = context_of(CONVERSATION, [message(1), message(2), message(3)], BINDINGS)
    assert differences(CONTEXT, longer) == ["transcript: added m0-3"]
