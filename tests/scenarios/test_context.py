"""Everything that is known of a conversation goes along when it moves."""

from base64 import b64encode
from dataclasses import fields, replace

import pytest

from channels.messages import Kind
from router.domain.conversation import SideName
from router.domain.ids import shard_of
from router.store.connecting import open_whole
from router.store.keys import shard
from tests.context import Context, context_hash, differences

DROPPED = {
    "subject": ("HDEL", "v", "sj"),
    "locale": ("HDEL", "v", "lo"),
    "transcript": ("LPOP", "g"),
    "open_question": ("HDEL", "v", "qu"),
    "fields": ("HSET", "v", "fi", "{}"),
    "files": ("HDEL", "v", "fl"),
    "assignee": ("HDEL", "v", "as"),
    "team": ("HDEL", "v", "te"),
    "priority": ("HDEL", "v", "pr"),
    "message_class": ("HSET", "v", "cl", "bulk"),
    "opened_at": ("HDEL", "v", "oa"),
    "waiting_since": ("HDEL", "v", "wa"),
    "last_inbound_at": ("HDEL", "v", "li"),
}
"""How each part would be lost in the store; what names the conversation itself cannot be."""


async def _rich(world):
    """A conversation with something in every field."""
    yam = await world.known_customer("yam")
    await yam.writes_mail("My lamp is broken, see photo", subject="Lamp")
    talk = await yam.conversation()
    await talk.hears("My lamp is broken")
    agent = await world.runtime.switchboard.create_agent(name="Ada", team="care", bindings=())
    change = {"assignee": agent.id, "team": "care", "priority": 2, "fields": {"order": "77", "product": "lamp"}}
    await world.patch(f"/v1/conversations/{talk.id}", change | {"locale": "de", "subject": "Lamp 77"})
    manual = {"name": "manual.txt", "media_type": "text/plain", "content": b64encode(b"Turn it off first.").decode()}
    path = f"/v1/conversations/{talk.id}/messages"
    await world.post(path, {"text": "See the manual.", "files": [manual]}, key="manual")
    if "dispatch" in world.roles:
        await yam.mailbox.expects("See the manual.")
    await yam.writes_mail("I did, still broken")
    await talk.hears("I did, still broken")
    return yam, talk


def _apart_from_notices(context: Context) -> Context:
    """What was known before; the notice of the move itself comes on top."""
    said = tuple(one for one in context.transcript if one.kind != Kind.NOTICE.value)
    return replace(context, transcript=said)


async def test_the_context_is_the_same_after_every_kind_of_move(world):
    """A failover, a choice of the agent's and a forced one: the same hash, in our records and in the store's own."""
    yam, talk = await _rich(world)
    before = _apart_from_notices(await talk.context())
    empty = [one.name for one in fields(Context) if not getattr(before, one.name)]
    assert not empty, f"the story says nothing about {empty}"

    await world.vendor("email").refuses()
    kit = await world.known_customer("kit")
    await kit.writes_mail("Hi")  # somebody's answer finds out that mail is dead
    other = await kit.conversation()
    await other.answer("Hi Kit.")
    await yam.phone.expects("Example Shop", await talk.reference(), within_s=30)
    await kit.phone.expects("Example Shop")
    await kit.phone.expects("Hi Kit.")
    await world.put(f"/v1/conversations/{talk.id}/customer-side", {"endpoint": "sms/backup", "why": "a test"})
    await talk.is_at("sms/backup")
    after = _apart_from_notices(await talk.context())
    assert differences(before, after) == []
    assert context_hash(before) == context_hash(after)
    legs = await world.core.store.legs(talk.id, SideName.CUSTOMER)
    assert [leg["ep"] for leg in legs][-1] == "sms/backup" and all(leg["cb"] == leg["ca"] for leg in legs)
    await world.ends_well()


async def test_losing_any_part_of_the_context_is_seen(build_world):
    """Each field dropped from the store changes the hash, so that no move can lose it silently."""
    async with build_world(start=("web",)) as world:
        _, talk = await _rich(world)
        keys = {kind: f"{shard(shard_of(talk.id))}{kind}:{talk.id}" for kind in ("v", "g")}
        whole = await talk.context()
        with open_whole(world.settings.redis_url) as raw:
            for name, (command, key, *rest) in DROPPED.items():
                kept = raw.dump(keys[key])
                raw.execute_command(command, keys[key], *rest)
                try:
                    assert any(one.startswith(name) for one in differences(whole, await talk.context())), name
                finally:
                    raw.restore(keys[key], 0, kept, replace=True)
        assert context_hash(await talk.context()) == context_hash(whole)
        unproven = {one.name for one in fields(Context)} - DROPPED.keys()
        assert unproven == {"conversation_id", "customer_id", "reference", "consent"}


@pytest.mark.parametrize("consents", [False])
async def test_consent_is_part_of_it(build_world, consents):
    """A binding whose consent changes changes the context."""
    async with build_world(start=("web",)) as world:
        yam, talk = await _rich(world)
        whole = await talk.context()
        customer = await world.core.customer_of(yam.id)
        await world.core.people.set_binding(yam.id, replace(customer.bindings[0], consent=consents))
        assert differences(whole, await talk.context()) == ["consent"]
