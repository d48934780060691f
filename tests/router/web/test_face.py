"""What every answer has: headers, docs, health, metrics, logs that keep secrets, files that are what they say."""

import ast
import hashlib
import io
import json
import re
from typing import Any

import pytest

from router.settings_faults import IN_WORDS
from router.telemetry import configure_logging, redact
from router.web import chat_hub
from router.web.static import FOLDER


async def test_every_answer_is_guarded(face: Any) -> None:
    """A strict policy on pages, API, problems and files alike; a request id that is ours or the caller's."""
    for path in ("/console/", "/docs", "/v1/me", "/nothing", "/healthz", "/console/vendor.js"):
        answer = await face.client.get(path, headers={"X-Request-ID": "trace-0123"})
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Strict-Transport-Security"]
        assert answer.headers["X-Request-ID"] == "trace-0123"
    answer = await face.client.get("/healthz", headers={"X-Request-ID": "<script>"})
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-ID"])


async def test_a_chat_that_is_turned_away_says_why(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever embeds the widget reads which setting to change; whoever finds no room, when to come again."""
    strange = await face.client.get("/chat/ws", headers={"Origin": "https://shop.example"})
    body = await strange.json(content_type=None)
    assert (strange.status, body["reason"]) == (403, "origin")
    assert "allowed_origins" in body["detail"]
    monkeypatch.setattr(chat_hub, "SOCKETS_MAX", 0)
    full = await face.client.get("/chat/ws")
    body = await full.json(content_type=None)
    assert (full.status, body["reason"], full.headers["Retry-After"]) == (503, "too_many_chats", "5")


async def test_health_readiness_and_metrics(face: Any) -> None:
    """All three answer machines without a key; metrics hold endpoints and outcomes, no id and no address."""
    conversation_id = await face.hear("Hello")
    await face.client.get(f"/v1/conversations/{conversation_id}", headers=face.agent)
    assert (await face.client.get("/healthz")).status == 200
    ready = await face.client.get("/readyz")
    assert ready.status == 200
    assert await ready.json() == {"redis": True, "adapters": True}
    text = await (await face.client.get("/metrics")).text()
    assert (
        'throughline_http_requests_total{method="GET",route="/v1/conversations/{conversation_id}",status="200"}' in text
    )
    assert 'throughline_endpoint_gate_open{endpoint="sms/twilio"} 1.0' in text
    assert conversation_id not in text
    assert "+1202" not in text


async def test_the_document_describes_every_path(face: Any) -> None:
    """OpenAPI 3.1, every reference resolves, every operation has its own id and says which roles may call it."""
    document = await (await face.client.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    served = {
        (resource.canonical, route.method.lower())
        for resource in face.client.app.router.resources()
        for route in resource
        if resource.canonical.startswith("/v1/") and route.method != "HEAD"
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == served
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert all(one["x-roles"] for one in operations)
    sending = document["paths"]["/v1/conversations/{conversation_id}/messages"]["post"]
    assert "Idempotency-Key" in [one["name"] for one in sending["parameters"]]


async def test_the_docs_can_be_read(face: Any) -> None:
    """Every path and problem is on the page; no script, nothing inline, nothing from elsewhere."""
    page = await (await face.client.get("/docs")).text()
    document = await (await face.client.get("/openapi.json")).json()
    for path in document["paths"]:
        assert path in page
    for reason in document["x-problems"]:
        assert f'id="problem-{reason}"' in page
    assert "<script" not in page
    assert " style=" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    anchors = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors


async def test_every_reason_that_is_raised_has_its_words_on_the_page(face: Any) -> None:
    """A problem's `type` leads to a sentence, whoever raised it: found by reading the router's own code."""
    place = {"Problem": 1, "Invalid": 0, "Conflict": 0, "NotFound": 0, "ArchiveUnavailable": 0, "SwitchboardError": 0}
    raised: set[str] = set()
    for file in (FOLDER.parents[1]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in place:
                reason = node.args[place[node.func.id]]
                if isinstance(reason, ast.Constant):
                    raised.add(str(reason.value))
                else:
                    assert file.name == "problems.py", (
                        f"{file.name}:{node.lineno} gives a reason that is not written out"
                    )
    page = await (await face.client.get("/docs")).text()
    said = dict(re.findall(r'<tr id="problem-([a-z_]+)"><td>.*?</td><td>(.*?)</td>', page))
    assert {"key_reused", "bad_number", "no_binding", "unknown_id"} <= raised
    assert not raised - {reason for reason, words in said.items() if words.strip()}


async def test_a_wrong_form_is_said_in_words(face: Any) -> None:
    """A subject on two lines and a number that is none: no regular expression, no library's words."""
    conversation_id = await face.hear("Hello")
    headers = face.agent | {"Idempotency-Key": "two-lines"}
    body = {"text": "Hello", "subject": "one\r\ntwo"}
    answer = await face.client.post(f"/v1/conversations/{conversation_id}/messages", json=body, headers=headers)
    assert answer.status == 422
    words = "must be on one line, without line breaks or other control characters"
    assert (await answer.json())["errors"] == [{"field": "subject", "detail": words}]
    person = {"name": "Robin", "bindings": [{"address": {"channel": "sms", "value": "not a number"}}]}
    answer = await face.client.post("/v1/customers", json=person, headers=face.agent | {"Idempotency-Key": "no-number"})
    problem = await answer.json()
    assert problem["reason"] == "bad_number"
    assert problem["detail"] == "'not a number' is no phone number. Write it with its country, as in +12025550123."


async def test_every_pattern_of_a_body_has_its_words(face: Any) -> None:
    """Whatever a caller may get wrong is said in words."""
    document = await (await face.client.get("/openapi.json")).text()
    patterns = {json.loads(pattern) for pattern in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', document)}
    assert len(patterns) >= 5
    assert not patterns - set(IN_WORDS)


def test_the_console_does_not_say_what_only_we_call_so() -> None:
    """Soak is how the code names the wait before a way home; whoever forces a failover is told what it means."""
    said = "".join(file.read_text() for file in FOLDER.glob("*.js") if file.name != "vendor.js")
    assert "soak" not in said.lower()
    assert "before it has worked for a while without a fault" in said


def test_the_vendored_file_is_the_one_that_is_described() -> None:
    """Its checksum stands in VENDOR.md."""
    checksum = hashlib.sha256((FOLDER / "vendor.js").read_bytes()).hexdigest()
    assert checksum in (FOLDER / "VENDOR.md").read_text()


def test_the_console_needs_nothing_but_itself() -> None:
    """Every import is there and is exported, nothing is inline, nothing comes from elsewhere."""
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|<style|\son\w+=", page)
    exported = {
        path.name: set(re.findall(r"export (?:async )?(?:function|const|class) (\w+)", path.read_text()))
        for path in FOLDER.glob("*.js")
    }
    exported["vendor.js"] = {
        one.strip().split(" as ")[-1]
        for one in re.findall(r"export\{([^}]+)\}", (FOLDER / "vendor.js").read_text())[-1].split(",")
    }
    for path in FOLDER.glob("*.js"):
        text = path.read_text()
        if path.name == "vendor.js":
            continue
        assert not re.search(r"https?://", text)
        assert not re.search(r"dangerouslySetInnerHTML|innerHTML|eval\(|style=", text)
        for names, module in re.findall(r"import \{([^}]+)\} from \"\./([^\"]+)\"", text):
            wanted = {one.strip() for one in names.split(",") if one.strip()}
            assert wanted <= exported[module], (path.name, module)


async def test_console_files_are_asked_for_once(face: Any) -> None:
    """An unchanged file is 304; a file that is none, and what lies beside the folder, is 404."""
    answer = await face.client.get("/console/main.js")
    assert answer.content_type == "text/javascript"
    again = await face.client.get("/console/main.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304
    for path in ("/console/VENDOR.md", "/console/..%2fapp.py", "/console/none.js"):
        assert (await face.client.get(path)).status == 404
    root = await face.client.get("/", allow_redirects=False)
    assert (root.status, root.headers["Location"]) == (302, "/console/")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auth_token", "hunter2"),
        ("password", "hunter2"),
        ("text", "my PIN is hunter2"),
        ("error", "550 no such user hunter2@example.org"),
        ("error", "cannot call +12025550177hunter2".replace("hunter2", "")),
        ("url", "redis://user:hunter2@10.0.0.1/0"),
        ("error", "Authorization: Bearer hunter2hunter2"),
        ("error", "tl_0123456789_hunter2"),
        ("facts", {"nested": ["hunter2@example.org"]}),
    ],
)
def test_no_secret_and_no_address_reaches_the_log(name: str, value: object) -> None:
    """Secrets go by their name, addresses and keys by their look, at any depth."""
    cleaned = str(redact(None, "info", {"event": "x", name: value}))
    assert "hunter2" not in cleaned
    assert "2025550177" not in cleaned


def test_logs_are_one_json_object_a_line() -> None:
    """Also what libraries log; an endpoint's id and an outcome stay readable."""
    import logging

    import structlog

    stream = io.StringIO()
    configure_logging("info", stream)
    try:
        structlog.get_logger().info("attempt.failed", endpoint="sms/acme", outcome="unknown", took_ms=12.5)
        structlog.get_logger().debug("too.quiet")
        logging.getLogger("some.library").warning("mailbox ann@example.org refused")
    finally:
        structlog.reset_defaults()
        logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 2
    assert lines[0]["endpoint"] == "sms/acme"
    assert lines[0]["took_ms"] == 12.5
    assert "ann@" not in lines[1]["event"]
