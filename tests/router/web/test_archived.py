"""Archived conversations over HTTP: read as before, found again, and nothing more."""

from typing import Any

from channels.messages import Address, Channel
from health.report import EndpointId
from router.archive.moving import archive_conversation
from router.store.asked import LeaseTerms, Settlement

CONSOLE = EndpointId("chat/console")
ADA = Address(Channel.SMS, "+12025550177")


async def archived(face: Any, text: str, vendor_id: str) -> str:
    """Ada writes, the console hears it, it is closed and moves; its id."""
    identity: str = await face.hear(text, vendor_id=vendor_id)
    store = face.runtime.store
    terms = LeaseTerms(8.0, {"normal": 60.0}, False, 3)
    for one in await store.lease(CONSOLE, "w1", 10, terms):
        await store.settle(0, [Settlement(identity, one.side, one.message_id, one.number, one.fence, "sent")])
    assert await store.close(identity) == "ok"
    assert await archive_conversation(store, face.runtime.core.archive, identity) == "ok"
    return identity


async def read(face: Any, path: str, role: str = "agent", status: int = 200) -> dict[str, Any]:
    async with face.client.get(path, headers=getattr(face, role)) as response:
        body: dict[str, Any] = await response.json()
        assert response.status == status, body
        return body


async def test_it_is_read_like_any_other(face: Any) -> None:
    """By its id and by its reference, with its customer and its transcript; each answer says that it is archived."""
    identity = await archived(face, "Where is my parcel?", "SM1")
    one = await read(face, f"/v1/conversations/{identity}")
    assert one["archived"] and not one["open"]
    assert (one["customer_name"], one["last_text"]) == ("Ada Fischer", "Where is my parcel?")
    assert one["customer_side"]["endpoint"] == "sms/twilio"
    assert (await read(face, f"/v1/conversations/{one['reference']}"))["id"] == identity
    await face.runtime.store.redis.call("DEL", f"tl:{{r:{one['reference']}}}")
    assert (await read(face, f"/v1/conversations/{one['reference']}"))["id"] == identity, "also after a year"
    said = await read(face, f"/v1/conversations/{identity}/messages")
    assert said["archived"] and [message["text"] for message in said["items"]] == ["Where is my parcel?"]
    assert (await read(face, f"/v1/conversations/{identity}/messages?after=1"))["items"] == []
    assert (await read(face, f"/v1/conversations/{identity}/messages?before=0&limit=1"))["items"] == said["items"]
    message = await read(face, f"/v1/messages/{said['items'][0]['id']}")
    assert message == said["items"][0]
    decisions = await read(face, f"/v1/conversations/{identity}/decisions")
    assert decisions["items"], "why it was where it was outlives it"


async def test_what_is_not_archived_says_so(face: Any) -> None:
    """The field is always there."""
    identity = await face.hear("Hello?")
    assert (await read(face, f"/v1/conversations/{identity}"))["archived"] is False
    assert (await read(face, f"/v1/conversations/{identity}/messages"))["archived"] is False
    await read(face, "/v1/conversations/v0-00000000000000000000/messages", status=404)


async def test_they_are_found_by_customer_reference_and_words(face: Any) -> None:
    """Closed last first, a page at a time; what is not archived is not among them."""
    first = await archived(face, "Wo ist mein Paket?", "SM1")
    second = await archived(face, "My card is blocked", "SM2")
    await face.hear("Wo ist mein zweites Paket?", vendor_id="SM3")
    one = await read(face, f"/v1/conversations/{first}")

    async def found(query: str) -> list[str]:
        return [item["id"] for item in (await read(face, f"/v1/conversations?archived=true&{query}"))["items"]]

    assert await found("") == [second, first]
    assert await found("text=PAKET") == [first]
    assert await found(f"customer_id={one['customer_id']}&text=card%20blocked") == [second]
    assert await found(f"reference={one['reference'].lower()}") == [first]
    assert await found("customer_id=c0-nobody") == []
    page = await read(face, "/v1/conversations?archived=true&limit=1")
    rest = await read(face, f"/v1/conversations?archived=true&limit=1&cursor={page['next_cursor']}")
    assert [item["id"] for item in page["items"] + rest["items"]] == [second, first]
    assert rest["next_cursor"] is None
    assert {first, second}.isdisjoint(
        item["id"] for item in (await read(face, "/v1/conversations?open_only=false"))["items"]
    )


async def test_bad_searches_are_refused(face: Any) -> None:
    """A cursor that we did not give; words without the archive; words for a key that may not see any."""
    await read(face, "/v1/conversations?archived=true&cursor=7", status=422)
    await read(face, "/v1/conversations?text=parcel", status=422)
    await archived(face, "Where is my parcel?", "SM1")
    await read(face, "/v1/conversations?archived=true&text=parcel", role="ops", status=403)
    (one,) = (await read(face, "/v1/conversations?archived=true", role="ops"))["items"]
    assert (one["customer_name"], one["last_text"], one["customer_side"]["address"]) == ("", "", None)


async def test_nothing_can_be_done_with_it(face: Any) -> None:
    """Neither said nor changed: it is closed for good."""
    identity = await archived(face, "Where is my parcel?", "SM1")
    headers = {**face.agent, "Idempotency-Key": "k1"}
    async with face.client.post(
        f"/v1/conversations/{identity}/messages", json={"text": "Still there?"}, headers=headers
    ) as response:
        assert (response.status, (await response.json())["reason"]) == (409, "conversation_archived")
    async with face.client.patch(f"/v1/conversations/{identity}", json={"team": "x"}, headers=face.agent) as response:
        assert (response.status, (await response.json())["reason"]) == (409, "conversation_archived")
    async with face.client.post(f"/v1/conversations/{identity}/close", headers=face.agent) as response:
        assert response.status == 409


async def test_a_broken_archive_is_said_and_the_rest_goes_on(face: Any) -> None:
    """503 for what stands there, and only for that; nothing of where it is."""
    path = face.runtime.core.archive.database.path
    path.write_bytes(b"this is no database" * 100)
    identity = await face.hear("Hello?")
    await read(face, f"/v1/conversations/{identity}")
    body = await read(face, "/v1/conversations/v0-00000000000000000000", status=503)
    assert body["reason"] == "archive_unavailable"
    assert str(path) not in str(body)
