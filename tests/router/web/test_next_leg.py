"""Where the next message would go, by `/v1`: with its reasons, before anybody has written it."""

from typing import Any

import pytest

from channels.messages import Address, Channel
from health.records import Freeze, StatusRecord
from health.report import Direction, EndpointId, Status
from router.domain.conversation import Binding

SMS, MAIL = EndpointId("sms/twilio"), EndpointId("email/support")


@pytest.fixture
def more_endpoints() -> list[dict[str, Any]]:
    """A mail endpoint; nothing here speaks to it."""
    table = {"id": MAIL, "provider": "smtp", "host": "mail.test", "from_address": "support@northwind.test"}
    return [{**table, "lmtp": {"port": 8024}}]


async def goes(runtime: Any, status: Status, endpoint: EndpointId = SMS) -> None:
    """Health has concluded this of an endpoint."""
    now = runtime.clock.now()
    said = StatusRecord(endpoint, Direction.OUT, status, now, "five_in_a_row", "It refuses everything.", written_at=now)
    await runtime.board.commit(statuses=[said], transitions=[], snapshots={}, fence=None)


async def look(face: Any, conversation: str, role: str = "agent") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {face.plain[role]}"}
    answer = await face.client.get(f"/v1/conversations/{conversation}", headers=headers)
    assert answer.status == 200, await answer.text()
    shown: dict[str, Any] = await answer.json()
    return shown


async def with_mailbox(face: Any) -> str:
    """Ada writes by SMS; we know her mailbox too."""
    conversation: str = await face.hear("Where is my card?")
    customer = (await look(face, conversation))["customer_id"]
    mailbox = Binding(Address(Channel.EMAIL, "ada@customer.test"), verified=True, order=1)
    await face.runtime.switchboard.set_binding(customer, mailbox)
    return conversation


async def test_while_it_works_the_next_message_goes_where_the_conversation_is(face: Any) -> None:
    """With the reason, and those of every other endpoint."""
    shown = (await look(face, await with_mailbox(face)))["next"]
    assert (shown["endpoint"], shown["address"]["value"]) == (SMS, "+12025550177")
    assert (shown["reason"], shown["words"]) == ("current_leg", "The conversation is already here, and it works.")
    assert shown["waits_until"] is None
    judged = {one["endpoint"]: (one["taken"], one["reason"]) for one in shown["route"]}
    assert judged[MAIL] == (True, "other_channel")
    assert judged["chat/web"] == (False, "no_binding")


async def test_when_its_endpoint_is_down_it_shows_where_the_message_would_be_moved(face: Any, runtime: Any) -> None:
    """The leg is still what it was; ops staff see the endpoint, and no address."""
    conversation = await with_mailbox(face)
    await goes(runtime, Status.DOWN)
    shown = await look(face, conversation)
    assert shown["customer_side"]["endpoint"] == SMS
    assert (shown["next"]["endpoint"], shown["next"]["address"]["value"]) == (MAIL, "ada@customer.test")
    refused = next(one for one in shown["next"]["route"] if one["endpoint"] == SMS)
    words = "The endpoint is down: it takes no messages."
    assert refused == {"endpoint": SMS, "taken": False, "reason": "status_down", "words": words}
    for_ops = (await look(face, conversation, "ops"))["next"]
    assert (for_ops["endpoint"], for_ops["address"]) == (MAIL, None)
    changed = await face.client.patch(f"/v1/conversations/{conversation}", json={"subject": "Card"}, headers=face.agent)
    assert (await changed.json())["next"]["endpoint"] == MAIL, "every answer with one conversation has it"


async def test_when_nothing_works_it_waits_and_says_why(face: Any, runtime: Any) -> None:
    """No other address: nowhere, until it is looked at again."""
    conversation = await face.hear("Where is my card?")
    await goes(runtime, Status.DOWN)
    shown = (await look(face, conversation))["next"]
    assert (shown["endpoint"], shown["address"], shown["reason"]) == ("", None, "no_route")
    assert shown["waits_until"]
    assert not any(one["taken"] for one in shown["route"])


async def test_a_forced_failover_leads_it_away_too(face: Any) -> None:
    """Health has nothing to say against the endpoint."""
    conversation = await with_mailbox(face)
    body = {"scope": [SMS], "target": MAIL, "why": "The vendor announced work", "expires_in_s": 600}
    assert (await face.client.post("/v1/failovers", json=body, headers=face.ops)).status == 200
    shown = (await look(face, conversation))["next"]
    assert (shown["endpoint"], shown["reason"]) == (MAIL, "forced_target")


async def test_while_moves_are_frozen_it_waits_where_it_is(face: Any, runtime: Any) -> None:
    """Mail would do, but it seems to be us."""
    conversation = await with_mailbox(face)
    await goes(runtime, Status.DOWN)
    await runtime.board.write_freeze(Freeze(runtime.clock.now(), "3 of 4 provider families fail at once"))
    shown = (await look(face, conversation))["next"]
    assert (shown["endpoint"], shown["reason"], shown["waits_until"]) == ("", "frozen", None)
    await goes(runtime, Status.UP)
    assert (await look(face, conversation))["next"]["endpoint"] == SMS


async def test_what_is_over_has_no_next_message_and_lists_do_not_say(face: Any) -> None:
    """Null in both."""
    conversation = await face.hear("Where is my card?")
    listed = await (await face.client.get("/v1/conversations", headers=face.agent)).json()
    assert listed["items"][0]["next"] is None
    closed = await face.client.post(f"/v1/conversations/{conversation}/close", headers=face.agent)
    assert (await closed.json())["next"] is None
    assert (await look(face, conversation))["next"] is None


async def test_openapi_tells_of_it(face: Any) -> None:
    """Its schema, and what null means."""
    document = await (await face.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"$ref": "#/components/schemas/NextLeg"} in schemas["Conversation"]["properties"]["next"]["anyOf"]
    assert set(schemas["NextLeg"]["required"]) == {"endpoint", "address", "reason", "words", "waits_until", "route"}
    assert {"$ref": "#/components/schemas/Frozen"} in schemas["Endpoints"]["properties"]["moves_frozen"]["anyOf"]
