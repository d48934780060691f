"""Requests no honest client sends: raw octets in headers, targets and bodies are refused, and harm nothing."""

import gzip
import json
import re
import socket
from typing import Any

import pytest
import requests

from tests.hostile.mutation import cases
from tests.hostile.raw import ask, head


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head("POST", "/hooks/sms/twilio/inbound", b"X-Twilio-Signature: \xff\xfe", b"Content-Length: 0"), 401),
        (head("POST", "/hooks/phone/twilio/call", b"X-Twilio-Signature: \xed\xa0\x80", b"Content-Length: 0"), 401),
        (head("POST", "/hooks/sms/twilio/%FF%ED%A0%80", b"X-Twilio-Signature: x", b"Content-Length: 0"), 401),
        (head("POST", "/hooks/sms/twilio/\xff", b"X-Twilio-Signature: x", b"Content-Length: 0"), 400),
        (head("POST", "/hooks/sms/twilio/inbound?" + "a=1&" * 300, b"Content-Length: 0"), 400),
        (head("GET", "/v1/me", b"Cookie: __Host-throughline=\xff\xfe"), 401),
        (head("GET", "/v1/me", b"Authorization: Bearer \xff"), 401),
        (head("GET", "/v1/me", b"Authorization: Bearer " + b"x" * 7_000), 401),
        (head("GET", "/v1/conversations/%ED%A0%80aa"), 401),
        (head("GET", "/chat/ws", b"Origin: http://["), 403),
        (head("GET", "/chat/ws", b"Origin: \xff"), 403),
        (head("GET", "/chat/ws?endpoint=%FF"), 404),
        (head("GET", "/chat/ws"), 400),
        (head("GET", "http://["), 400),
        (head("OPTIONS", "*"), 404),
        (head("CONNECT", "10.0.0.1:22"), 404),
        (head("GET", "/console/..%2f..%2fsettings.py"), 404),
        (head("GET", "/chat/..%2f..%2fsettings.py"), 404),
        (head("GET", "/v1/me", b"Transfer-Encoding: chunked", b"Content-Length: 4"), 400),
        (head("GET", "/v1/me", b"Content-Length: 4", b"Content-Length: 5"), 400),
        (head("GET", "/v1/me", b" folded: x"), 400),
        (head("GET", "/v1/me", b"X: " + b"a" * 9_000), 400),
    ],
    ids=range(22),
)
def test_octets_that_are_no_text_are_the_callers_fault(fortress: Any, request_head: bytes, status: int) -> None:
    """4xx for what a stranger sends without any key; the defect log stays empty."""
    found, answer = ask(fortress.port, request_head)
    assert found == status, answer[-300:]


@pytest.mark.parametrize("packing", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "\xff"])
@pytest.mark.parametrize("path", ["/hooks/sms/twilio/inbound", "/console/session"])
def test_nothing_is_unpacked(fortress: Any, path: str, packing: str) -> None:
    """A bomb or rubbish that says it is compressed: 415, unread; time after time."""
    bomb = gzip.compress(b"\0" * 3_000_000)
    for body in (bomb, b"rubbish", b""):
        for _ in range(5):
            lines = [b"Content-Type: application/json", b"X-Twilio-Signature: x", b"Content-Length: %d" % len(body)]
            lines.append(b"Content-Encoding: " + packing.encode("latin-1"))
            status, answer = ask(fortress.port, head("POST", path, *lines) + body)
            assert status == 415, answer


def test_a_change_with_a_cookie_and_a_token_that_is_no_text_is_refused(fortress: Any) -> None:
    """403, as for any other token that is not the session's."""
    secret = fortress.keys["agent"]
    begun = requests.post(f"{fortress.url}/console/session", json={"key": secret}, timeout=10)
    cookie = begun.headers["Set-Cookie"].partition(";")[0].encode()
    found, _ = ask(
        fortress.port,
        head("POST", "/v1/agents", b"Cookie: " + cookie, b"X-CSRF-Token: \xff\xfe", b"Content-Length: 0"),
    )
    assert found == 403


@pytest.mark.parametrize("line_end", ["\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\x00", "\x1b"])
def test_what_may_stand_in_a_header_is_one_line(fortress: Any, line_end: str) -> None:
    """422 names the field; nothing is stored, neither from an agent's box nor from a script."""
    conversation = fortress.hear("Where is my card?")
    bad = f"a{line_end}Bcc: everybody@example.org"
    place = f"{fortress.url}/v1/conversations/{conversation}"
    keyed = fortress.bearer("admin") | {"Idempotency-Key": "one"}
    tries: list[tuple[str, str, dict[str, object], str]] = [
        ("PATCH", place, {"subject": bad}, "subject"),
        ("PATCH", place, {"team": bad}, "team"),
        ("PATCH", place, {"assignee": bad}, "assignee"),
        ("PATCH", place, {"fields": {bad: "x"}}, "fields"),
        ("POST", f"{place}/messages", {"text": "x", "subject": bad}, "subject"),
        ("POST", f"{fortress.url}/v1/agents", {"name": bad}, "name"),
        ("POST", f"{fortress.url}/v1/customers", {"name": bad}, "name"),
        ("POST", f"{fortress.url}/v1/conversations", {"customer_id": "c0-A", "text": "x", "team": bad}, "team"),
        ("POST", f"{place}/messages", {"files": [{"name": bad, "media_type": "a/b", "content": ""}]}, "files"),
    ]
    for method, url, body, named in tries:
        answer = requests.request(method, url, json=body, headers=keyed, timeout=10)
        assert answer.status_code == 422, (method, url, body, answer.text)
        assert any(fault["field"].startswith(named) for fault in answer.json()["errors"]), answer.text
    view = fortress.run(fortress.runtime.switchboard.conversation(conversation)).conversation
    assert (view.team, view.assignee, dict(view.fields)) == ("", "", {})
    assert fortress.said(conversation) == ["Where is my card?"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"text":' * 50_000,
        b'{"text": "\\ud800"}',
        b'{"text": 1e999999}',
        b'{"text": "\xff"}',
        b"\xef\xbb\xbf{}",
        json.dumps({"text": "x", "\x00": 1}).encode(),
        b'{"text": "x", "text": ["y"]}',
        b'{"expires_in_s": NaN, "text": "x"}',
        b'{"expires_in_s": 1e308, "text": "x"}',
        b"",
        b"null",
    ],
)
def test_no_json_makes_us_fall_over(fortress: Any, body: bytes) -> None:
    """Depth, lone surrogates, absurd numbers: 400 or 422, and nothing is said."""
    conversation = fortress.hear("Where is my card?")
    headers = fortress.bearer("agent") | {"Idempotency-Key": "k", "Content-Type": "application/json"}
    url = f"{fortress.url}/v1/conversations/{conversation}/messages"
    answer = requests.post(url, data=body, headers=headers, timeout=10)
    assert answer.status_code in {400, 422}, answer.text
    assert fortress.said(conversation) == ["Where is my card?"]


def test_no_octets_on_the_port_make_us_fall_over(fortress: Any) -> None:
    """Mutants of whole requests, pipelined, cut, with lengths that lie: answered below 500, or hung up on."""
    bearer = fortress.bearer("agent")["Authorization"].encode()
    body = b'{"text":"x"}'
    samples = [
        head("GET", "/v1/conversations?limit=5&open_only=true", b"Authorization: " + bearer),
        head("GET", "/v1/events", b"Last-Event-ID: 0:1-1", b"Accept: text/event-stream", b"Authorization: x"),
        head("POST", "/hooks/sms/twilio/inbound?t=1", b"X-Twilio-Signature: x", b"Content-Length: 3") + b"a=b",
        head("POST", "/v1/conversations/v0-A/messages", b"Authorization: " + bearer, b"Idempotency-Key: k",
             b"Content-Type: application/json", b"Content-Length: %d" % len(body)) + body,
        head("POST", "/console/session", b"Content-Type: application/json", b"Transfer-Encoding: chunked")
        + b"4\r\n{}  \r\n0\r\nTrailer: x\r\n\r\n",
        head("GET", "/chat/ws", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Version: 13"),
        head("OPTIONS", "/docs", b"Cookie: __Host-throughline=x; a=b", b"If-None-Match: \"x\"", b"Range: bytes=0-1"),
    ]  # fmt: skip
    tokens = [
        b"\r\nHost: x",
        b"HTTP/0.9",
        b"HTTP/1.0",
        b" HTTP/9.9\r\n",
        b"Content-Length: -1\r\n",
        b"%00",
        b"../",
        b"\t",
    ]
    tokens += [
        b"Expect: 100-continue\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"ffffffff\r\n",
    ]
    answered = 0
    for case in cases("http", samples, tokens, size_max=20_000, least=80):
        statuses = _statuses(fortress.port, case.octets)
        answered += bool(statuses)
        assert all(status < 500 for status in statuses), (case.name, statuses)
    assert answered > 20
    assert requests.get(f"{fortress.url}/v1/me", headers=fortress.bearer("agent"), timeout=10).status_code == 200


def _statuses(port: int, octets: bytes) -> list[int]:
    """The status of each answer to these octets within a moment: half a request has none, an open stream no end."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        try:
            wire.sendall(octets)
            wire.settimeout(0.05)
            while chunk := wire.recv(65_536):
                answer += chunk
        except (TimeoutError, ConnectionError):
            pass  # waits for more of it, or hung up in the midst of it
    return [int(found) for found in re.findall(rb"(?:^|\n)HTTP/1\.[01] (\d{3})", answer)]
