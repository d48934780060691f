"""`/v1/held`: agents see what matches no conversation, and say where it belongs; ops staff see that it waits."""

import asyncio
from typing import Any

import pytest

from channels.messages import Address, Channel
from router.domain.conversation import Binding

NUMBER = "+12025550177"


async def open_two(face: Any) -> list[str]:
    """References of two open conversations with one number: what comes from there next is ambiguous."""
    bindings = [Binding(Address(Channel.SMS, NUMBER), verified=True)]
    ada = await face.runtime.switchboard.create_customer(name="Ada", locale="en", bindings=bindings)
    more = {"text": "Hello", "author": "a", "author_name": "Bo"}
    references = []
    for subject in ("Parcel", "Invoice"):
        sent = await face.runtime.switchboard.open_conversation(
            ada.id, subject=subject, idempotency_key=subject, **more
        )
        references.append((await face.runtime.switchboard.conversation(sent.conversation_id)).conversation.reference)
    return references


async def hold(face: Any, *texts: str, sender: str = NUMBER) -> None:
    """Somebody writes what matches nothing."""
    for text in texts:
        assert await face.hear(text, sender, vendor_id=f"SM{sender}{text}") == ""


async def listed(face: Any, who: dict[str, str], query: str = "") -> dict[str, Any]:
    response = await face.client.get(f"/v1/held{query}", headers=who)
    assert response.status == 200, await response.text()
    body: dict[str, Any] = await response.json()
    return body


async def file(face: Any, held_id: str, conversation: str, who: dict[str, str]) -> tuple[int, dict[str, Any]]:
    response = await face.client.post(f"/v1/held/{held_id}/file", json={"conversation_id": conversation}, headers=who)
    return response.status, await response.json(content_type=None)


async def test_agents_read_what_waits_and_what_it_may_belong_to(face: Any) -> None:
    """Where from, since when, how many, the last words, why, and which conversations could be meant."""
    references = await open_two(face)
    await hold(face, "It is broken.", "Do you hear me?")
    body = await listed(face, face.agent)
    (one,) = body["items"]
    assert (body["total"], one["messages"], one["last_text"], one["why"]) == (1, 2, "Do you hear me?", "ambiguous")
    assert sorted(one["candidates"]) == sorted(references)
    assert (one["endpoint"], one["address"]) == ("sms/twilio", {"channel": "sms", "value": NUMBER})
    assert one["since"]


async def test_ops_staff_see_that_it_waits_and_neither_words_nor_address(face: Any) -> None:
    """Nor may they file it."""
    references = await open_two(face)
    await hold(face, "It is broken.")
    (one,) = (await listed(face, face.ops))["items"]
    assert (one["messages"], one["last_text"], one["address"]) == (1, "", None)
    status, problem = await file(face, one["id"], references[0], face.ops)
    assert (status, problem["reason"]) == (403, "role")


async def test_an_agent_files_it_once_in_order_and_the_journal_says_who(face: Any) -> None:
    """It is the customer's own number, so nothing is doubted; a second filing is told so, and files nothing."""
    first, second = await open_two(face)
    await hold(face, "It is broken.", "Do you hear me?")
    (one,) = (await listed(face, face.agent))["items"]
    status, filed = await file(face, one["id"], first.lower(), face.agent)
    assert (status, filed["messages"]) == (200, 2)
    path = f"/v1/conversations/{filed['conversation_id']}"
    said = (await (await face.client.get(f"{path}/messages", headers=face.agent)).json())["items"]
    heard = [(message["text"], message["unverified"]) for message in said if message["to"] == "agent"]
    assert heard == [("It is broken.", False), ("Do you hear me?", False)]
    assert (await listed(face, face.agent))["items"] == []
    status, problem = await file(face, one["id"], second, face.agent)
    assert (status, problem["reason"]) == (409, "already_filed")
    entries = await face.runtime.store.journal_last(0, 50)
    (who,) = [entry["f"] for _, entry in entries if '"who"' in entry["f"] and '"filed"' in entry["f"]]
    assert '"count":2' in who


async def test_from_an_address_that_is_not_the_customers_it_is_marked_unverified(face: Any) -> None:
    """An agent's guess is no proof of who wrote it."""
    first, _ = await open_two(face)
    await hold(face, f"ref {first}", sender="+12025550188")
    (one,) = (await listed(face, face.agent))["items"]
    assert (one["why"], one["candidates"]) == ("claim", [first])
    _, filed = await file(face, one["id"], first, face.agent)
    path = f"/v1/conversations/{filed['conversation_id']}/messages"
    said = (await (await face.client.get(path, headers=face.agent)).json())["items"]
    assert [message["unverified"] for message in said if message["to"] == "agent"] == [True]


@pytest.mark.parametrize(
    ("held_id", "conversation", "status", "reason"),
    [
        ("h0-0000000000000000000000", "", 404, "unknown_held"),
        ("v0-0000000000000000000000", "", 404, "unknown_held"),
        ("h0-*", "", 404, "unknown_id"),
        ("", "22222", 404, "unknown_conversation"),
        ("", "h0-0000000000000000000000", 404, "unknown_conversation"),
    ],
)
async def test_what_is_unknown_is_said_to_be(
    face: Any, held_id: str, conversation: str, status: int, reason: str
) -> None:
    """And what is held stays held."""
    first, _ = await open_two(face)
    await hold(face, "It is broken.")
    (one,) = (await listed(face, face.agent))["items"]
    answered, problem = await file(face, held_id or one["id"], conversation or first, face.agent)
    assert (answered, problem["reason"]) == (status, reason)
    assert (await listed(face, face.agent))["total"] == 1


async def test_nothing_is_filed_in_a_closed_conversation(face: Any) -> None:
    """It would come back by itself, without anybody having wanted that."""
    first, _ = await open_two(face)
    await hold(face, "It is broken.")
    (one,) = (await listed(face, face.agent))["items"]
    assert (await face.client.post(f"/v1/conversations/{first}/close", headers=face.agent)).status == 200
    status, problem = await file(face, one["id"], first, face.agent)
    assert (status, problem["reason"]) == (409, "conversation_closed")
    assert (await listed(face, face.agent))["total"] == 1


async def test_what_is_filed_by_its_sender_waits_no_more_and_what_comes_later_does(face: Any) -> None:
    """A page at a time, who waits longest first."""
    first, _ = await open_two(face)
    await hold(face, "It is broken.")
    await face.hear(f"ref {first}", NUMBER, vendor_id="SMref")
    assert (await listed(face, face.agent))["total"] == 0
    for number in range(3):
        await hold(face, f"ref {first}", sender=f"+1202555018{number}")
    page = await listed(face, face.agent, "?limit=2")
    rest = await listed(face, face.agent, f"?limit=2&cursor={page['next_cursor']}")
    found = [one["address"]["value"] for one in page["items"] + rest["items"]]
    assert (found, rest["next_cursor"]) == ([f"+1202555018{number}" for number in range(3)], None)
    refused = await face.client.get("/v1/held?cursor=x", headers=face.agent)
    assert refused.status == 422


async def test_what_is_nobodys_leaves_the_list_and_is_filed_all_the_same_once_it_is_proven(face: Any) -> None:
    """The journal says who dismissed it; ops staff may not; what comes next from there is listed again."""
    first, _ = await open_two(face)
    await hold(face, "It is broken.")
    (one,) = (await listed(face, face.agent))["items"]
    path = f"/v1/held/{one['id']}"
    assert (await face.client.delete(path, headers=face.ops)).status == 403
    assert (await face.client.delete(path, headers=face.agent)).status == 200
    assert (await listed(face, face.agent))["total"] == 0
    assert (await face.client.delete(path, headers=face.agent)).status == 409
    entries = await face.runtime.store.journal_last(0, 50)
    assert [entry["c"] for _, entry in entries if '"dismissed"' in entry["f"] and '"who"' in entry["f"]] == [one["id"]]
    await hold(face, "Hello?")
    assert [item["messages"] for item in (await listed(face, face.agent))["items"]] == [1]
    conversation = await face.hear(f"ref {first}", NUMBER, vendor_id="SMref")
    said = await face.runtime.switchboard.transcript(conversation)
    assert [m.content.text for m in said if m.side == "a"] == ["It is broken.", "Hello?", f"ref {first}"]


async def test_two_agents_who_file_it_at_once_in_two_conversations_file_it_once(face: Any) -> None:
    """One of them is told that another was faster; every message stands in one conversation, all in the same."""
    references = await open_two(face)
    texts = [f"It is broken, {number}." for number in range(5)]
    await hold(face, *texts)
    (one,) = (await listed(face, face.agent))["items"]
    answers = await asyncio.gather(*(file(face, one["id"], reference, face.agent) for reference in references))
    assert sorted(status for status, _ in answers) == [200, 409]
    said = []
    for reference in references:
        view = await face.runtime.switchboard.conversation(reference)
        found = await face.runtime.switchboard.transcript(view.conversation.id)
        said.append([message.content.text for message in found if message.side == "a"])
    assert sorted(said) == [[], texts]


async def test_what_a_full_conversation_does_not_take_is_still_listed(
    face: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is told how many, the journal too, and the rest is filed once there is room."""
    first, second = await open_two(face)
    await hold(face, "One.", "Two.")
    (one,) = (await listed(face, face.agent))["items"]
    monkeypatch.setattr("router.store.store.QUEUE_MAX", 1)
    status, problem = await file(face, one["id"], first, face.agent)
    assert (status, problem["reason"]) == (409, "queue_full")
    assert "took 1 of these messages; 1 are still held" in problem["detail"]
    (rest,) = (await listed(face, face.agent))["items"]
    assert (rest["id"], rest["messages"], rest["last_text"]) == (one["id"], 1, "Two.")
    assert (await file(face, one["id"], second, face.agent))[0] == 200
