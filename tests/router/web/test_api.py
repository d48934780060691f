"""`/v1`: what it takes, what it refuses and how, and who may ask."""

import base64
import json
import uuid
from datetime import datetime
from typing import Any

import pytest
import redis

from channels.messages import Content, Kind
from health.records import Freeze
from health.report import EndpointId
from router.api_keys import Role
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import NewMessage


def _key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


async def _problem(response: Any, status: int, reason: str | None = None) -> dict[str, Any]:
    assert response.status == status, await response.text()
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = await response.json(content_type=None)
    assert body["status"] == status
    assert body["instance"] == f"urn:request:{response.headers['X-Request-ID']}"
    if reason is not None:
        assert body["reason"] == reason
    return body


async def test_an_agent_reads_who_waits_and_answers(face: Any) -> None:
    """A customer's words are in the list and the transcript; an answer stands behind them and nobody waits."""
    conversation_id = await face.hear("Where is my card?")
    listed = await (await face.client.get("/v1/conversations", headers=face.agent)).json()
    assert [one["id"] for one in listed["items"]] == [conversation_id]
    assert listed["items"][0]["last_text"] == "Where is my card?"
    assert listed["items"][0]["waiting_since"]
    assert listed["items"][0]["customer_side"]["endpoint"] == "sms/twilio"

    path = f"/v1/conversations/{conversation_id}"
    sent = await face.client.post(f"{path}/messages", json={"text": "On its way."}, headers=face.agent | _key())
    assert sent.status == 201, await sent.text()
    answer = await sent.json()
    assert answer["duplicate"] is False
    said = await (await face.client.get(f"{path}/messages", headers=face.agent)).json()
    assert [(one["to"], one["text"]) for one in said["items"]] == [
        ("agent", "Where is my card?"),
        ("customer", "On its way."),
    ]
    one = await (await face.client.get(f"/v1/messages/{answer['message_id']}", headers=face.agent)).json()
    assert one["sequence"] == answer["sequence"]
    later = await face.client.get(f"{path}/messages?after={said['items'][0]['sequence']}", headers=face.agent)
    assert [one["id"] for one in (await later.json())["items"]] == [answer["message_id"]]
    for query, expected in (("before=0&limit=1", [2]), ("before=2", [1]), ("before=1", []), ("before=0", [1, 2])):
        part = await face.client.get(f"{path}/messages?{query}", headers=face.agent)
        assert [one["sequence"] for one in (await part.json())["items"]] == expected, query
    for wrong in ("after=1&before=2", f"after={10**30}", f"before={10**30}", "before=-1"):
        await _problem(await face.client.get(f"{path}/messages?{wrong}", headers=face.agent), 422, "invalid")
    view = await (await face.client.get(path, headers=face.agent)).json()
    assert view["waiting_since"] is None


async def test_customers_read_an_agents_name_and_never_a_keys(face: Any) -> None:
    """A key's name is for our own lists: what it says is signed only with the name of the agent it belongs to."""
    path = f"/v1/conversations/{await face.hear('Hello')}/messages"
    ada = await face.runtime.switchboard.create_agent(name="Ada", team="", bindings=())
    _, plain = await face.runtime.keys.create(Role.AGENT, "laptop of the first floor", ada.id)
    _, of_nobody = await face.runtime.keys.create(Role.AGENT, "left over", "a0-0000000000")
    for words, bearer in (
        ("from a key", face.agent),
        ("from Ada", {"Authorization": f"Bearer {plain}"}),
        ("from nobody", {"Authorization": f"Bearer {of_nobody}"}),
    ):
        sent = await face.client.post(path, json={"text": words}, headers=bearer | _key())
        assert sent.status == 201, await sent.text()
    said = (await (await face.client.get(path, headers=face.agent)).json())["items"]
    assert [(one["text"], one["author_name"]) for one in said[1:]] == [
        ("from a key", ""),
        ("from Ada", "Ada"),
        ("from nobody", ""),
    ]


async def test_the_same_idempotency_key_says_it_once(face: Any) -> None:
    """The second answer is the first one, marked; another body under the same key is refused with 409."""
    path = f"/v1/conversations/{await face.hear('Hello')}/messages"
    headers = face.agent | _key()
    first = await (await face.client.post(path, json={"text": "Once."}, headers=headers)).json()
    second = await (await face.client.post(path, json={"text": "Once."}, headers=headers)).json()
    assert second == first | {"duplicate": True, "state": second["state"]}
    await _problem(await face.client.post(path, json={"text": "Other."}, headers=headers), 409)
    said = await (await face.client.get(path, headers=face.agent)).json()
    assert [one["text"] for one in said["items"]] == ["Hello", "Once."]


async def test_two_callers_may_choose_the_same_idempotency_key(face: Any) -> None:
    """The key is each caller's own: the second caller's message is a message."""
    path = f"/v1/conversations/{await face.hear('Hello')}/messages"
    key = _key()
    assert (await face.client.post(path, json={"text": "From the agent."}, headers=face.agent | key)).status == 201
    assert (await face.client.post(path, json={"text": "From the admin."}, headers=face.admin | key)).status == 201


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"text": ""}, 422, ""),
        ({"text": "   \n"}, 422, ""),
        ({"text": "x" * 1_000_000}, 422, "text"),
        ({"text": "x", "subject": "a\r\nBcc: everybody@example.org"}, 422, "subject"),
        ({"text": "x", "unknown": 1}, 422, "unknown"),
        ({"text": "nul \x00"}, 422, "text"),
        ({"text": "x", "expires_in_s": -1}, 422, "expires_in_s"),
        ({"text": "x", "to": "everybody"}, 422, "to"),
        ({"text": ["x"]}, 422, "text"),
        ({"text": "x", "files": [{"name": "a\nb", "media_type": "text/plain", "content": ""}]}, 422, "files.0.name"),
        ({"text": "x", "files": [{"name": "a", "media_type": "text", "content": "%%"}]}, 422, "files.0.media_type"),
    ],
)
async def test_a_bad_message_is_refused_by_field(face: Any, body: dict[str, Any], status: int, field: str) -> None:
    """422 names the field, never repeats what stood in it, and nothing was said."""
    path = f"/v1/conversations/{await face.hear('Hello')}/messages"
    problem = await _problem(await face.client.post(path, json=body, headers=face.agent | _key()), status, "invalid")
    if field:
        assert field in [fault["field"] for fault in problem["errors"]]
    assert "everybody" not in str(problem)
    said = await (await face.client.get(path, headers=face.agent)).json()
    assert len(said["items"]) == 1


async def test_bodies_that_are_no_json(face: Any) -> None:
    """Malformed: 400; another media type or compressed: 415; not an object: 422; none: 400."""
    path = f"/v1/conversations/{await face.hear('Hello')}/messages"
    headers = face.agent | _key() | {"Content-Type": "application/json"}
    await _problem(await face.client.post(path, data=b'{"text": ', headers=headers), 400, "bad_json")
    await _problem(await face.client.post(path, data=b'{"text": "\xff"}', headers=headers), 400, "bad_json")
    await _problem(await face.client.post(path, data=b"[" * 100_000, headers=headers), 400, "bad_json")
    await _problem(await face.client.post(path, data=b"", headers=headers), 400, "bad_json")
    await _problem(await face.client.post(path, data=b"[]", headers=headers), 422, "invalid")
    form = headers | {"Content-Type": "text/plain"}
    await _problem(await face.client.post(path, data=b"{}", headers=form), 415, "media_type")
    packed = headers | {"Content-Encoding": "gzip"}
    await _problem(await face.client.post(path, data=b"\x1f\x8b", headers=packed), 415, "media_type")


async def test_a_body_that_is_too_large_is_not_read(face: Any) -> None:
    """413 as soon as the limit is passed, whether the length is declared or not."""
    headers = face.agent | {"Content-Type": "application/json"}
    await _problem(await face.client.post("/v1/customers", data=b" " * 1_000_001, headers=headers), 413, "too_large")

    async def drip() -> Any:
        for _ in range(40):
            yield b" " * 100_000

    await _problem(await face.client.post("/v1/customers", data=drip(), headers=headers), 413, "too_large")


async def test_what_is_not_there_and_what_is_closed(face: Any) -> None:
    """Unknown things are 404, a closed conversation takes no words (409), unknown paths and methods are problems."""
    missing = "/v1/conversations/v0-00000000000000000000000"
    await _problem(await face.client.get(missing, headers=face.agent), 404)
    await _problem(await face.client.post(f"{missing}/messages", json={"text": "x"}, headers=face.agent | _key()), 404)
    await _problem(await face.client.get("/v1/messages/m0-1", headers=face.agent), 404)
    await _problem(await face.client.get("/v1/customers/c0-1", headers=face.agent), 404)
    await _problem(await face.client.get("/v1/endpoints/sms/nowhere", headers=face.agent), 404)
    await _problem(await face.client.get("/v1/nothing", headers=face.agent), 404, "not_found")
    answer = await face.client.delete("/v1/conversations", headers=face.agent)
    await _problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(",")) == {"GET", "POST"}

    path = f"/v1/conversations/{await face.hear('Hello')}"
    closed = await (await face.client.post(f"{path}/close", headers=face.agent)).json()
    assert closed["open"] is False
    await _problem(await face.client.post(f"{path}/messages", json={"text": "x"}, headers=face.agent | _key()), 409)


async def test_nobody_comes_in_without_a_key_that_holds(face: Any) -> None:
    """401 without a key, with a wrong one, with a revoked one; the answer says which scheme."""
    wrong = ["", "Bearer", "Bearer x", "Bearer tl_0000000000_" + "a" * 43, "Basic YTpi", "Bearer " + "x" * 5_000]
    for value in wrong:
        answer = await face.client.get("/v1/conversations", headers={"Authorization": value} if value else {})
        await _problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert (await face.client.get("/v1/me", headers=face.agent)).status == 200
    key_id = face.plain["agent"].split("_")[1]
    assert await face.runtime.keys.revoke(key_id)
    await _problem(await face.client.get("/v1/me", headers=face.agent), 401)


async def test_a_key_needs_its_header_for_idempotency(face: Any) -> None:
    """Without the header, or with one that is none, nothing is said."""
    path = f"/v1/conversations/{await face.hear('Hello')}/messages"
    await _problem(await face.client.post(path, json={"text": "x"}, headers=face.agent), 400, "idempotency_key_missing")
    long = face.agent | {"Idempotency-Key": "k" * 101}
    await _problem(await face.client.post(path, json={"text": "x"}, headers=long), 400, "bad_request")


async def test_roles_are_kept_apart(face: Any) -> None:
    """Ops see conversations without words and names, and say nothing; agents force no failover."""
    path = f"/v1/conversations/{await face.hear('My PIN is 4711')}"
    for answer in (
        await face.client.get(f"{path}/messages", headers=face.ops),
        await face.client.post(f"{path}/messages", json={"text": "x"}, headers=face.ops | _key()),
        await face.client.post(f"{path}/close", headers=face.ops),
        await face.client.get("/v1/customers?channel=sms&address=%2B12025550177", headers=face.ops),
        await face.client.get("/v1/failovers", headers=face.agent),
        await face.client.post("/v1/failovers", json={"scope": ["sms/twilio"], "dry_run": True}, headers=face.agent),
        await face.client.post("/v1/agents", json={"name": "Grace"}, headers=face.agent),
        await face.client.get("/v1/files/" + "0" * 64, headers=face.ops),
    ):
        await _problem(answer, 403, "role")
    shown = await (await face.client.get(path, headers=face.ops)).text()
    assert "4711" not in shown
    assert "Ada" not in shown
    assert "+1202" not in shown


async def test_customers_and_their_bindings(face: Any) -> None:
    """A customer is made, found by address, gets a binding and loses one; several may share an address."""
    address = {"channel": "sms", "value": "+12025550123"}
    body = {"name": "<b>Ann</b> O'Neil", "locale": "de", "bindings": [{"address": address, "verified": True}]}
    made = await face.client.post("/v1/customers", json=body, headers=face.agent)
    assert made.status == 201, await made.text()
    customer = await made.json()
    assert customer["name"] == "<b>Ann</b> O'Neil"
    found = await face.client.get("/v1/customers?channel=sms&address=%2B12025550123", headers=face.agent)
    assert [one["id"] for one in (await found.json())["items"]] == [customer["id"]]
    mail = {"address": {"channel": "email", "value": "ann@example.org"}, "consent": False, "order": 2}
    changed = await face.client.put(f"/v1/customers/{customer['id']}/bindings", json=mail, headers=face.agent)
    assert [one["consent"] for one in (await changed.json())["bindings"]] == [True, False]
    gone = await face.client.delete(
        f"/v1/customers/{customer['id']}/bindings?channel=email&address=ann%40example.org", headers=face.agent
    )
    assert len((await gone.json())["bindings"]) == 1
    bad = {"name": "a\r\nb"}
    await _problem(await face.client.post("/v1/customers", json=bad, headers=face.agent), 422, "invalid")


async def test_the_journal_says_who_changed_where_a_customer_may_be_written_to(face: Any) -> None:
    """Consent that an agent ended or renewed can be asked about later; the journal names no address."""
    body: dict[str, Any] = {"address": {"channel": "sms", "value": "+12025550123"}}
    made = await face.client.post("/v1/customers", json={"name": "Ann", "bindings": [body]}, headers=face.agent)
    path = f"/v1/customers/{(await made.json())['id']}/bindings"
    assert (await face.client.put(path, json=body | {"consent": False}, headers=face.agent)).status == 200
    query = {"channel": "sms", "address": "+12025550123"}
    assert (await face.client.delete(path, params=query, headers=face.agent)).status == 200
    rows = [row for _, row in await face.runtime.store.journal_last(0, 10) if row["k"] == "customer.changed"]
    removed, put = (json.loads(row["f"]) for row in rows)
    author = f"key:{face.plain['agent'].split('_')[1]}"
    assert (put["what"], put["consent"], put["who"]) == ("binding_set", False, author)
    assert (removed["what"], removed["channel"], removed["who"]) == ("binding_removed", "sms", author)
    assert "5550123" not in str(rows)


async def test_where_nobody_is_there_is_said_and_tried_again_once_the_binding_is_replaced(face: Any) -> None:
    """An agent reads until when, and may say that somebody is there; that nobody is there only a provider says."""
    body = {"address": {"channel": "sms", "value": "+12025550123"}, "verified": True}
    made = await face.client.post("/v1/customers", json={"name": "Ann", "bindings": [body]}, headers=face.agent)
    customer_id = (await made.json())["id"]
    path = f"/v1/customers/{customer_id}"
    until = face.runtime.clock.now() + 3600
    await face.runtime.core.people.mark_unreachable(customer_id, "sms:+12025550123", until)
    (binding,) = (await (await face.client.get(path, headers=face.agent)).json())["bindings"]
    assert abs(datetime.fromisoformat(binding["unreachable_until"]).timestamp() - until) < 0.01
    ours = await face.client.put(f"{path}/bindings", json=binding, headers=face.agent)
    await _problem(ours, 422, "invalid")
    replaced = await face.client.put(f"{path}/bindings", json=body, headers=face.agent)
    assert [one["unreachable_until"] for one in (await replaced.json())["bindings"]] == [None]


async def test_an_agent_writes_first_and_assigns(face: Any) -> None:
    """A conversation opened by us is there, takes an assignee, and goes by its reference too."""
    address = {"channel": "sms", "value": "+12025550123"}
    body = {"name": "Ann", "bindings": [{"address": address, "verified": True}]}
    customer = await (await face.client.post("/v1/customers", json=body, headers=face.agent)).json()
    body = {"customer_id": customer["id"], "subject": "Your card", "text": "It is ready."}
    sent = await face.client.post("/v1/conversations", json=body, headers=face.agent | _key())
    assert sent.status == 201, await sent.text()
    path = f"/v1/conversations/{(await sent.json())['conversation_id']}"
    made = await face.client.post("/v1/agents", json={"name": "Sam", "team": "care"}, headers=face.admin)
    sam = (await made.json())["id"]
    changed = await face.client.patch(path, json={"assignee": sam, "priority": 1}, headers=face.agent)
    view = await changed.json()
    assert (view["assignee"], view["priority"], view["subject"]) == (sam, 1, "Your card")
    again = await face.client.get(f"/v1/conversations/{view['reference']}", headers=face.agent)
    assert (await again.json())["id"] == view["id"]
    missing = body | {"customer_id": "c0-nobody"}
    await _problem(await face.client.post("/v1/conversations", json=missing, headers=face.agent | _key()), 404)


async def test_a_conversation_is_assigned_to_an_agent_or_to_nobody(face: Any) -> None:
    """Else nobody would look after it, and it would stand in no agent's list; what is refused changes nothing."""
    path = f"/v1/conversations/{await face.hear('Hello')}"
    made = await face.client.post("/v1/agents", json={"name": "Sam"}, headers=face.admin)
    sam = (await made.json())["id"]
    assert (await face.client.patch(path, json={"assignee": sam}, headers=face.agent)).status == 200
    customer = (await (await face.client.get(path, headers=face.agent)).json())["customer_id"]
    for nobody in ("a0-01JDAAAAAAAAAAAAAAAAAA", "Sam", customer):
        refused = await face.client.patch(path, json={"assignee": nobody, "priority": 1}, headers=face.agent)
        problem = await _problem(refused, 422, "unknown_agent")
        assert nobody in problem["detail"] and "/v1/agents" in problem["detail"]
    view = await (await face.client.get(path, headers=face.agent)).json()
    assert (view["assignee"], view["priority"]) == (sam, 5)
    freed = await face.client.patch(path, json={"assignee": ""}, headers=face.agent)
    assert (await freed.json())["assignee"] == ""


async def test_pages_follow_their_cursor(face: Any) -> None:
    """Three conversations in pages of two: each once, and no further page after the last."""
    ids = {await face.hear("Hello", f"+1202555020{n}", f"SM{n:032}") for n in range(3)}
    first = await (await face.client.get("/v1/conversations?limit=2", headers=face.agent)).json()
    assert len(first["items"]) == 2
    rest = await face.client.get(f"/v1/conversations?limit=2&cursor={first['next_cursor']}", headers=face.agent)
    second = await rest.json()
    assert {one["id"] for one in first["items"] + second["items"]} == ids
    assert second["next_cursor"] is None
    await _problem(await face.client.get("/v1/conversations?limit=201", headers=face.agent), 422)
    await _problem(await face.client.get("/v1/conversations?unknown=1", headers=face.agent), 422)


@pytest.mark.parametrize(
    "body", [{"subject": "x" * 201}, {"team": "x" * 101}, {"assignee": "x" * 101}, {"fields": {"order": "x" * 501}}]
)
async def test_what_would_be_cut_off_is_refused(face: Any, body: dict[str, Any]) -> None:
    """A change is kept whole or not at all, and the answer names the field."""
    path = f"/v1/conversations/{await face.hear('Hello')}"
    answer = await face.client.patch(path, json=body, headers=face.agent)
    problem = await _problem(answer, 422, "invalid")
    assert problem["errors"][0]["field"].startswith(next(iter(body)))


async def test_closed_conversations_of_a_customer_are_listed_when_asked_for(face: Any) -> None:
    """Open ones alone, or the closed ones behind them; another customer's never."""
    first = await face.hear("The first matter")
    customer = (await face.runtime.switchboard.conversation(first)).customer.id
    await face.runtime.switchboard.close_conversation(first, "a")
    other = await face.hear("Somebody else", sender="+12025550178", vendor_id="SM" + "2" * 32)
    await face.runtime.switchboard.close_conversation(other, "a")
    body = {"customer_id": customer, "text": "Another matter"}
    opened = await face.client.post("/v1/conversations", json=body, headers=face.agent | _key())
    second = (await opened.json())["conversation_id"]
    for query, expected in (("", [second]), ("&open_only=false", [second, first])):
        answer = await face.client.get(f"/v1/conversations?customer_id={customer}{query}", headers=face.agent)
        assert [one["id"] for one in (await answer.json())["items"]] == expected


async def test_a_list_shows_what_people_said_and_no_notices(face: Any) -> None:
    """After an outage each conversation ends with the same notice, which tells none of them from another."""
    conversation_id = await face.hear("Where is my card?")
    store = face.runtime.store
    notice = NewMessage(
        id=new_id("m", 0, 1),
        side=SideName.CUSTOMER,
        kind=Kind.NOTICE,
        author="router",
        author_name="",
        content=Content("Our mail has a problem, so we continue here."),
        message_class=MessageClass.URGENT,
        expires_at=face.runtime.clock.now() + 60,
        endpoint=EndpointId(""),
    )
    await store.accept(conversation_id, notice)
    listed = await (await face.client.get("/v1/conversations", headers=face.agent)).json()
    assert [one["last_text"] for one in listed["items"]] == ["Where is my card?"]


async def test_files_go_up_and_come_down_as_downloads(face: Any) -> None:
    """A page with a script inside comes back byte for byte, as a download no browser runs."""
    content = b"<script>alert(1)</script>"
    path = f"/v1/conversations/{await face.hear('Hello')}/messages"
    upload = {"name": "a b.html", "media_type": "text/html", "content": base64.b64encode(content).decode()}
    sent = await face.client.post(path, json={"files": [upload]}, headers=face.agent | _key())
    assert sent.status == 201, await sent.text()
    said = await (await face.client.get(path, headers=face.agent)).json()
    file = said["items"][-1]["files"][0]
    assert (file["name"], file["size"]) == ("a b.html", len(content))
    answer = await face.client.get(f"/v1/files/{file['sha256']}?name=a%20b.html", headers=face.agent)
    assert await answer.read() == content
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a%20b.html"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    await _problem(await face.client.get("/v1/files/" + "0" * 64, headers=face.agent), 404)
    await _problem(await face.client.get("/v1/files/..%2Fsecret", headers=face.agent), 404)
    crlf = f"/v1/files/{file['sha256']}?name=a%0d%0aX-Evil:1"
    await _problem(await face.client.get(crlf, headers=face.agent), 422)


async def test_a_failover_is_previewed_started_listed_and_stopped(face: Any) -> None:
    """`dry_run` starts nothing; without a reason, with its own target in scope or too short nothing starts either."""
    body: dict[str, Any] = {"scope": ["sms/twilio"], "target": "chat/web", "dry_run": True}
    preview = await face.client.post("/v1/failovers", json=body, headers=face.ops)
    assert preview.status == 200, await preview.text()
    assert (await preview.json())["failover"] is None
    assert (await preview.json())["preview"]["messages"] >= 0
    assert (await (await face.client.get("/v1/failovers", headers=face.ops)).json())["items"] == []
    real = body | {"dry_run": False}
    await _problem(await face.client.post("/v1/failovers", json=real, headers=face.ops), 422)
    real["why"] = "The vendor announced work"
    for wrong in ({"target": "sms/twilio"}, {"expires_in_s": 59}, {"expires_in_s": 604_801}, {"scope": []}):
        await _problem(await face.client.post("/v1/failovers", json=real | wrong, headers=face.ops), 422)
    await _problem(await face.client.post("/v1/failovers", json=real | {"scope": ["sms/none"]}, headers=face.ops), 422)
    started = await (await face.client.post("/v1/failovers", json=real, headers=face.ops)).json()
    failover_id = started["failover"]["id"]
    assert started["failover"]["why"] == "The vendor announced work"
    listed = await (await face.client.get("/v1/failovers", headers=face.ops)).json()
    assert [one["id"] for one in listed["items"]] == [failover_id]
    stopped = await face.client.delete(f"/v1/failovers/{failover_id}", headers=face.ops)
    assert (await stopped.json())["ended_at"]
    assert (await (await face.client.get("/v1/failovers", headers=face.ops)).json())["items"] == []


async def test_endpoints_say_what_they_can(face: Any) -> None:
    """Status both ways, and the capabilities the reply box needs."""
    listed = await (await face.client.get("/v1/endpoints", headers=face.agent)).json()
    assert {one["id"] for one in listed["items"]} >= {"sms/twilio", "chat/console"}
    one = await (await face.client.get("/v1/endpoints/sms/twilio", headers=face.ops)).json()
    assert one["capabilities"]["text_max"] == 1600
    assert one["status_out"] in {"up", "unknown"}
    incidents = await (await face.client.get("/v1/incidents?open_only=true", headers=face.ops)).json()
    assert incidents["items"] == []
    await _problem(await face.client.post("/v1/incidents/i0-1/acknowledge", headers=face.ops), 404)


async def test_everybody_is_told_when_we_doubt_ourselves(face: Any, runtime: Any) -> None:
    """Nothing is moved, since when and why; null while moves are made."""
    assert (await (await face.client.get("/v1/endpoints", headers=face.agent)).json())["moves_frozen"] is None
    await runtime.board.write_freeze(Freeze(1_790_000_000.0, "3 of 4 provider families fail at once"))
    listed = await (await face.client.get("/v1/endpoints", headers=face.agent)).json()
    since, words = "2026-09-21T14:13:20Z", "3 of 4 provider families fail at once"
    assert listed["moves_frozen"] == {"since": since, "words": words}


async def test_redis_being_away_is_a_503_with_a_time(face: Any, runtime: Any) -> None:
    """Nothing is accepted, the caller is told when to come back, and readiness says so; liveness does not care."""

    class Away:
        def __getattr__(self, name: str) -> Any:
            raise redis.ConnectionError("refused")

    face.runtime.keys._redis = Away()
    answer = await face.client.get("/v1/me", headers=face.agent)
    await _problem(answer, 503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    ready = await face.client.get("/readyz")
    assert ready.status == 503
    assert (await ready.json())["redis"] is False
    assert (await face.client.get("/healthz")).status == 200


@pytest.mark.parametrize("error", [redis.ConnectionError("refused"), redis.TimeoutError("no answer")])
@pytest.mark.parametrize("path", ["/v1/endpoints", "/v1/incidents"])
async def test_ops_hear_that_redis_is_away_and_of_no_defect(
    face: Any, runtime: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, path: str
) -> None:
    """What is read from the board is a 503 then, too: a 500 would send them looking for a bug."""

    async def away(*command: Any) -> Any:
        raise error

    monkeypatch.setattr(runtime.board, "_call", away)
    answer = await face.client.get(path, headers=face.ops)
    await _problem(answer, 503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


async def test_a_defect_tells_nothing_but_its_id(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 with the request id we were given, and not a word of what broke."""

    async def broken(self: Any) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(type(face.runtime.switchboard), "agents", broken)
    answer = await face.client.get("/v1/agents", headers=face.agent | {"X-Request-ID": "abcdefgh-1"})
    problem = await _problem(answer, 500, "internal")
    assert "abcdefgh-1" in problem["detail"]
    assert "hunter2" not in await answer.text()


@pytest.mark.parametrize(
    "identity",
    [
        "x",
        "v0-",
        "v99-01M7ZW6NKKZP7R1CPMM1NJ",
        "%00",
        "%F0%9F%92%A9",
        "..",
        "a" * 2_000,
        "v0-%0d%0aX",
        "%7Bs0%7D:x",
        "c0-x",
    ],
)
async def test_an_id_that_is_none_is_not_found(face: Any, identity: str) -> None:
    """Whatever stands where an id belongs, the answer is a problem of the caller's and never a 500."""
    for path in (
        f"/v1/conversations/{identity}",
        f"/v1/conversations/{identity}/messages",
        f"/v1/conversations/{identity}/decisions",
        f"/v1/messages/{identity}",
        f"/v1/customers/{identity}",
        f"/v1/conversations?customer_id={identity}",
        f"/v1/conversations?cursor={identity}",
        f"/v1/customers?channel=sms&address={identity}",
    ):
        answer = await face.client.get(path, headers=face.admin)
        assert answer.status in {200, 400, 404, 422}, (path, await answer.text())
    gone = await face.client.delete(f"/v1/failovers/{identity}", headers=face.admin)
    assert gone.status in {404, 405, 422}
