"""Who may do what: every operation of the OpenAPI document, with no key, a bad one, a revoked one, a lesser one."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from router.api_keys import Role
from tests.hostile.raw import ask, head

ROLES = [role.value for role in Role]
PATHS = {
    "channel": "sms",
    "name": "twilio",
    "sha256": "0" * 64,
    "conversation_id": "v0-01JDAAAAAAAAAAAAAAAAAA",
    "customer_id": "c0-01JDAAAAAAAAAAAAAAAAAA",
    "message_id": "m0-01JDAAAAAAAAAAAAAAAAAA",
    "failover_id": "f0-01JDAAAAAAAAAAAAAAAAAA",
    "incident_id": "i-1",
    "held_id": "h0-01JDAAAAAAAAAAAAAAAAAA",
}


@pytest.fixture
def operations(fortress: Any) -> Iterator[list[tuple[str, str, list[str]]]]:
    """Method, a path that fits, and the roles the document promises to let in."""
    document = requests.get(f"{fortress.url}/openapi.json", timeout=10).json()
    found = [
        (method.upper(), fortress.url + path.format(**PATHS), operation["x-roles"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(found) > 30
    yield found


def _ask(method: str, url: str, headers: dict[str, str]) -> int:
    body = {"json": {}} if method in {"POST", "PUT", "PATCH"} else {}
    with requests.request(
        method, url, headers=headers | {"Idempotency-Key": "k"}, timeout=10, stream=True, **body
    ) as answer:
        return answer.status_code


def test_nobody_comes_in_without_a_key(fortress: Any, operations: list[tuple[str, str, list[str]]]) -> None:
    """401 for each operation: no key, a made-up one, one in the wrong place, one revoked just now."""
    good = fortress.keys["admin"]
    gone = fortress.run(fortress.runtime.keys.create(Role.ADMIN, "gone"))
    assert _ask("GET", f"{fortress.url}/v1/me", {"Authorization": f"Bearer {gone[1]}"}) == 200
    assert fortress.run(fortress.runtime.keys.revoke(gone[0]))
    made_up = f"tl_{good.split('_')[1]}_{'A' * 43}"
    for method, url, _ in operations:
        for headers in (
            {},
            {"Authorization": f"Bearer {gone[1]}"},
            {"Authorization": f"Bearer {made_up}"},
            {"Authorization": f"Basic {good}"},
            {"Cookie": f"__Host-throughline={good}"},
        ):
            assert _ask(method, url, headers) == 401, (method, url, headers)
        assert _ask(method, f"{url}?key={good}&access_token={good}", {"X-API-Key": good}) == 401
    for bearer in (
        good[:-1],
        good + "A",
        good.upper(),
        "",
        "null",
        "undefined",
        "tl__",
        "x" * 5_000,
        f"{good}\t{good}",
    ):
        assert _ask("GET", f"{fortress.url}/v1/me", {"Authorization": f"Bearer {bearer}"}) == 401, bearer


@pytest.mark.parametrize("role", ROLES)
def test_a_role_does_what_the_document_says_and_no_more(
    fortress: Any, operations: list[tuple[str, str, list[str]]], role: str
) -> None:
    """403 for each operation that is not this role's; what is its own never ends in 401, 403 or 5xx."""
    for method, url, roles in operations:
        status = _ask(method, url, fortress.bearer(role))
        if role in roles:
            assert status not in {401, 403} and status < 500, (method, url, status)
        else:
            assert status == 403, (method, url, status)


@pytest.mark.parametrize(
    "target",
    [
        "//v1/failovers",
        "/v1//failovers",
        "/v1/failovers/",
        "/v1/./failovers",
        "/v1/me/../failovers",
        "/v1/me/%2e%2e/failovers",
        "/v1/me%2f..%2ffailovers",
        "/V1/failovers",
        "/v1/failovers;a=b",
        "/v1/failovers%00",
        "/v1/failovers%20",
        "/v1/failovers?x-role=ops",
        "/console/../v1/failovers",
        "/hooks/sms/twilio/../../../v1/failovers",
    ],
)
def test_no_spelling_of_a_path_gets_past_the_role(fortress: Any, target: str) -> None:
    """An agent's key starts no failover, however the path, the method or the client's address is dressed up."""
    body = json.dumps({"scope": ["sms/twilio"], "why": "because", "expires_in_s": 60}).encode()
    lines = [
        b"Authorization: " + fortress.bearer("agent")["Authorization"].encode(),
        b"Content-Type: application/json",
        b"Content-Length: " + str(len(body)).encode(),
        b"X-HTTP-Method-Override: GET",
        b"X-Original-URL: /v1/me",
        b"X-Rewrite-URL: /v1/me",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Role: admin",
    ]
    status, _ = ask(fortress.port, head("POST", target, *lines) + body)
    assert status in {400, 401, 403, 404, 405}
    assert fortress.run(fortress.runtime.switchboard.failovers(active_only=False)) == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/v1/conversations/{talk}", {"epoch": 9}),
        ("PATCH", "/v1/conversations/{talk}", {"open": False}),
        ("PATCH", "/v1/conversations/{talk}", {"customer_id": "c0-01JDAAAAAAAAAAAAAAAAAA"}),
        ("POST", "/v1/conversations/{talk}/messages", {"text": "x", "author": "admin"}),
        ("POST", "/v1/conversations/{talk}/messages", {"text": "x", "state": "sent"}),
        ("POST", "/v1/conversations/{talk}/messages", {"text": "x", "possible_duplicate": True}),
        ("POST", "/v1/customers", {"name": "x", "id": "c0-01JDAAAAAAAAAAAAAAAAAA"}),
        ("POST", "/v1/failovers", {"scope": ["sms/twilio"], "why": "x", "who": "somebody else"}),
    ],
)
def test_no_caller_sets_what_is_ours_to_say(fortress: Any, method: str, path: str, body: dict[str, object]) -> None:
    """422 for a field nobody offers: state, order, author, ids are the router's."""
    url = fortress.url + path.format(talk=fortress.hear("Where is my card?"))
    headers = fortress.bearer("admin") | {"Idempotency-Key": "k"}
    assert requests.request(method, url, json=body, headers=headers, timeout=10).status_code == 422


def test_ops_staff_see_no_words_names_or_addresses(fortress: Any) -> None:
    """Not in a list, not in one conversation, not in its decisions, not in the stream of events."""
    secret = "my card number is 4111"
    talk = fortress.hear(secret, name="Ada Fischer")
    fortress.hear("a zebra came", vendor_id="SM" + "2" * 32)
    ops = fortress.bearer("ops")
    seen = ""
    for path in ("/v1/conversations", f"/v1/conversations/{talk}", f"/v1/conversations/{talk}/decisions"):
        answer = requests.get(fortress.url + path, headers=ops, timeout=10)
        assert answer.status_code == 200
        seen += answer.text
    with requests.get(f"{fortress.url}/v1/events?after=0:0-0", headers=ops, timeout=10, stream=True) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines(decode_unicode=True):
            seen += line or ""
            if talk in (line or ""):
                break
    seen += requests.get(f"{fortress.url}/metrics", timeout=10).text
    assert talk in seen
    for word in (secret, "card number", "Ada", "Fischer", "2025550177", "zebra"):
        assert word not in seen, word


@pytest.mark.parametrize(
    "after",
    [
        "0",
        "0:0-0",
        "9:9-9",
        "x",
        "-",
        "0:",
        ":",
        "0:1-1;0:1-1",
        "0:99999999999999999999-0",
        "0:1-18446744073709551616",
        "63:0-0",
        "1" * 1_999,
    ],
)
def test_no_place_to_resume_from_makes_the_stream_fail(fortress: Any, after: str) -> None:
    """One of ours, or none: it begins somewhere, or is refused; what happens from then on is told."""
    url, headers = f"{fortress.url}/v1/events", fortress.bearer("agent") | {"Last-Event-ID": after}
    with requests.get(url, headers=headers, timeout=10, stream=True) as stream:
        assert stream.status_code in {200, 400}
        if stream.status_code == 200:
            assert next(stream.iter_lines()).startswith(b"retry")


async def test_an_open_stream_ends_when_its_key_is_revoked(fortress: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream is no way to go on listening: its key is checked again while it is open."""
    from router.web import events

    monkeypatch.setattr(events, "CHECK_EVERY_S", 0.0)
    key_id, bearer = fortress.run(fortress.runtime.keys.create(Role.OPS, "leaver"))

    def listen() -> bool:
        headers = {"Authorization": f"Bearer {bearer}"}
        with requests.get(f"{fortress.url}/v1/events", headers=headers, timeout=20, stream=True) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith(b"retry")
            fortress.run(fortress.runtime.keys.revoke(key_id))
            fortress.hear("somebody writes")
            return all(b"data:" not in line for line in lines)

    async with asyncio.timeout(25):
        assert await asyncio.to_thread(listen)
