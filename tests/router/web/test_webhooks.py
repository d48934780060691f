"""Vendors' webhooks: signed over the public URL, durable before the answer, refused clearly."""

from typing import Any
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator

SID = "SM" + "1" * 32
ACCOUNT = "AC" + "0" * 32
TOKEN = "an-auth-token-nobody-may-see"
FORM = {
    "MessageSid": SID,
    "AccountSid": ACCOUNT,
    "From": "+12025550177",
    "To": "+12025550100",
    "Body": "Yes",
    "NumMedia": "0",
}


def _signed(url: str, form: dict[str, str]) -> dict[str, str]:
    signature = RequestValidator(TOKEN).compute_signature(url, form)
    return {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}


async def test_a_signed_message_is_in_its_conversation_before_the_answer(face: Any, public_url: str) -> None:
    """The signature covers the public URL with its raw query; a second delivery changes nothing."""
    target = "/hooks/sms/twilio/inbound?a=%2B1&b="
    for _ in range(2):
        answer = await face.client.post(target, data=urlencode(FORM), headers=_signed(public_url + target, FORM))
        assert answer.status == 200, await answer.text()
    listed = await (await face.client.get("/v1/conversations", headers=face.agent)).json()
    assert [one["last_text"] for one in listed["items"]] == ["Yes"]
    path = f"/v1/conversations/{listed['items'][0]['id']}/messages"
    said = await (await face.client.get(path, headers=face.agent)).json()
    assert [one["text"] for one in said["items"]] == ["Yes"]


async def test_an_endpoint_without_a_tail_takes_webhooks_too(face: Any, public_url: str) -> None:
    """`/hooks/sms/twilio` itself is an address vendors may call."""
    answer = await face.client.post(
        "/hooks/sms/twilio", data=urlencode(FORM), headers=_signed(f"{public_url}/hooks/sms/twilio", FORM)
    )
    assert answer.status == 200


@pytest.mark.parametrize(
    ("target", "headers", "body", "status"),
    [
        ("/hooks/sms/twilio/inbound", {}, urlencode(FORM).encode(), 401),
        ("/hooks/sms/twilio/inbound", {"X-Twilio-Signature": "bm90IHNpZ25lZA=="}, urlencode(FORM).encode(), 401),
        ("/hooks/sms/twilio/inbound", {"X-Twilio-Signature": "x"}, b"x" * 1_000_001, 413),
        ("/hooks/sms/nobody", {}, b"", 404),
        ("/hooks/carrier-pigeon/coo/x", {}, b"", 404),
        ("/hooks/chat/console/x", {}, b"", 404),
    ],
)
async def test_what_is_not_a_vendors_webhook_is_refused(
    face: Any, target: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    """A problem answer without the detail an attacker could use, and nothing accepted."""
    answer = await face.client.post(target, data=body, headers=headers)
    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    assert "signature" not in (await answer.text()).lower()
    listed = await (await face.client.get("/v1/conversations", headers=face.agent)).json()
    assert listed["items"] == []


async def test_a_signature_over_what_the_client_called_us_is_none(face: Any, public_url: str) -> None:
    """The URL comes from settings: a Host header cannot make a signature for another place good."""
    other = "https://evil.example.org/hooks/sms/twilio/inbound"
    headers = _signed(other, FORM) | {"Host": "evil.example.org", "X-Forwarded-Host": "evil.example.org"}
    answer = await face.client.post("/hooks/sms/twilio/inbound", data=urlencode(FORM), headers=headers)
    assert answer.status == 401


async def test_a_vendor_is_asked_to_come_back_when_redis_is_away(
    face: Any, public_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After, because nothing was made durable."""
    from router.switchboard import StoreUnavailable

    async def away(self: Any, event: Any) -> None:
        raise StoreUnavailable("store_unavailable", "Redis cannot take it now.")

    monkeypatch.setattr(type(face.runtime.switchboard), "accept", away)
    target = "/hooks/sms/twilio/inbound"
    answer = await face.client.post(target, data=urlencode(FORM), headers=_signed(public_url + target, FORM))
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
