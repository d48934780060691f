"""What both kinds of Twilio account have in common: answers on the wire, webhooks signed by Twilio's own library."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import ClientTimeout, web
from twilio.request_validator import RequestValidator

from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    Throttled,
)
from channels.messages import Webhook
from channels.sandbox.vendor import Fault
from tests.channels.suite.rows import Arrange, Bounds, Hook, Must, Probe, Row, Send
from tests.channels.suite.stage import Stage, babbling_port, closed_port, serving

CUSTOMER = "+15550100777"
SECRET = "an-auth-token-nobody-may-see"
WRONG = "another-auth-token-nobody-may-see"
SHORT = Bounds({"channels.twilio._TIMEOUT": ClientTimeout(total=0.4, connect=0.2)})
"""4.8 seconds in all, 2 to connect."""


def answering(status: int, code: int = 0, *, retry_after: str = "", text: str | None = None) -> Arrange:
    """The API answers every request so; its words quote the number and the credential, as no error of ours may."""

    async def arrange(stage: Stage) -> Mapping[str, object]:
        words = json.dumps({"code": code, "message": f"{CUSTOMER} {SECRET}"}) if text is None else text
        headers = {"Retry-After": retry_after} if retry_after else {}

        async def answer(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=status, text=words, headers=headers)

        return {"api_base": await stage.at_end.enter_async_context(serving(answer))}

    return arrange


async def nobody(stage: Stage) -> Mapping[str, object]:
    """Nobody listens at the API's port."""
    return {"api_base": f"http://127.0.0.1:{await closed_port(stage)}"}


async def babble(stage: Stage) -> Mapping[str, object]:
    """What listens at the API's port is no HTTP server."""
    return {"api_base": f"http://127.0.0.1:{await babbling_port(stage)}"}


def signed(
    fields: Mapping[str, str], *, path: str = "", query: str = "", secret: str = SECRET, **changes: Any
) -> Callable[[Stage], Webhook]:
    """A webhook as Twilio would sign it, then changed."""

    def make(stage: Stage) -> Webhook:
        form = {"AccountSid": stage.vendor.account_sid, **fields}
        url = f"{stage.public_url}/hooks/{stage.tools.endpoint}" + (f"/{path}" if path else "") + query
        webhook = Webhook(
            method="POST",
            url=url,
            path=path,
            query=dict(parse_qsl(urlsplit(url).query)),
            headers={
                "x-twilio-signature": RequestValidator(secret).compute_signature(url, form),
                "content-type": "application/x-www-form-urlencoded; charset=UTF-8",
            },
            body=urlencode(form).encode(),
            received_at=time.time(),
        )
        return replace(webhook, **changes)

    return make


def bad_hooks(fields: Mapping[str, str], sid: str, path: str = "", query: str = "") -> Mapping[Must, tuple[Row, ...]]:
    """Webhooks like the good one of `fields`, made bad; `sid` names the field of the message's or call's id."""
    at = {"path": path, "query": query}
    unsigned = {"content-type": "application/x-www-form-urlencoded"}
    many = b"&".join(b"a%d=1" % number for number in range(300))
    return {
        Must.WEBHOOK_FORGED: (
            Hook(signed(fields, secret=WRONG, **at), 401, label="another secret"),
            Hook(signed(fields, headers=unsigned, **at), 401, label="unsigned"),
            Hook(signed(fields, body=b"Body=forged", **at), 401, label="another body"),
            Hook(signed(fields, url="https://evil.example/", **at), 401, label="another address"),
            Hook(signed({**fields, "AccountSid": "AC" + "9" * 32}, **at), 401, label="another account"),
        ),
        Must.WEBHOOK_MALFORMED: (
            Hook(signed({**fields, sid: "SM1"}, **at), 400, label="no id"),
            Hook(signed(fields, method="GET", **at), 400, label="GET"),
            Hook(signed(fields, body=b"%ff%fe=1", **at), 400, label="no UTF-8"),
            Hook(signed(fields, body="ü=1".encode(), **at), 400, label="no ASCII"),
            Hook(signed(fields, body=many, **at), 400, label="300 fields"),
            Hook(signed(fields, path="no-such-path"), 404, label="path"),
            Hook(
                signed({**fields, "MessageStatus": "exploded", "CallStatus": "exploded"}, path="status"),
                400,
                label="status",
            ),
        ),
        Must.WEBHOOK_OVERSIZED: (Hook(signed({**fields, "Body": "x" * 70_000}, **at), 413),),
    }


FAULTS: Mapping[Must, Row | tuple[Row, ...]] = {
    Must.REFUSED_CONNECTION: (
        Send(label="closed", fault=Fault.REFUSE, raises=EndpointUnavailable, reason="connect_failed"),
        Send(label="nobody", arrange=nobody, raises=EndpointUnavailable, reason="connect_failed"),
    ),
    Must.HANG: Send(fault=Fault.HANG, bounds=SHORT, raises=OutcomeUnknown, reason="read_timeout"),
    Must.VENDOR_ERROR: (
        Send(label="503", fault=Fault.ERROR, raises=EndpointUnavailable),
        *(Send(label=str(status), arrange=answering(status), raises=OutcomeUnknown) for status in (500, 502, 504)),
    ),
    Must.DROP_AFTER_ACCEPT: Send(
        fault=Fault.DROP_AFTER_ACCEPT, raises=OutcomeUnknown, reason="connection_lost", taken=1
    ),
    Must.NONSENSE: (
        Send(label="no HTTP", arrange=babble, raises=OutcomeUnknown),
        Send(label="a web page", arrange=answering(200, text="<html>Log in</html>"), raises=OutcomeUnknown),
        Send(label="no object", arrange=answering(201, text="[1]"), raises=OutcomeUnknown),
    ),
    Must.THROTTLED: (
        Send(label="429", fault=Fault.THROTTLE, raises=Throttled),
        Send(label="no Retry-After", arrange=answering(429, 20429), raises=Throttled),
        Send(label="a code", arrange=answering(400, 14107, retry_after="soon"), raises=Throttled),
    ),
    Must.BAD_CREDENTIAL: (
        Send(label="token", settings={"auth_token": WRONG}, raises=EndpointMisconfigured, reason="twilio_20003"),
        Send(label="sender", arrange=answering(400, 21606), raises=EndpointMisconfigured),
        Send(label="redirect", arrange=answering(302), raises=EndpointMisconfigured),
    ),
    Must.BAD_RECIPIENT: (
        *(
            Send(label=str(code), arrange=answering(400, code), raises=RecipientUnreachable)
            for code in (21211, 21214, 21610, 21612, 21614)
        ),
        Send(label="short", message={"to": "12345"}, raises=RecipientUnreachable),
        Send(label="empty", message={"to": ""}, raises=RecipientUnreachable),
        Send(label="line ends", message={"to": "+15550100\r\nX: y"}, raises=RecipientUnreachable),
    ),
    Must.CONTENT_REFUSED: (
        Send(label="21617", arrange=answering(400, 21617), raises=MessageRejected),
        Send(label="unknown code", arrange=answering(400, 99999), raises=MessageRejected),
        Send(label="413", arrange=answering(413), raises=MessageRejected),
    ),
    Must.PROBE_WELL: Probe(),
    Must.PROBE_UNWELL: (
        Probe(label="refused", fault=Fault.REFUSE, raises=EndpointUnavailable),
        Probe(label="hang", fault=Fault.HANG, bounds=SHORT, raises=EndpointUnavailable),
        Probe(label="error", fault=Fault.ERROR, raises=EndpointUnavailable),
        Probe(label="throttled", fault=Fault.THROTTLE, raises=Throttled),
        Probe(label="nonsense", arrange=babble, raises=EndpointUnavailable),
        Probe(label="credential", settings={"auth_token": WRONG}, raises=EndpointMisconfigured),
        Probe(
            label="suspended",
            arrange=answering(200, text='{"status": "suspended"}'),
            raises=EndpointMisconfigured,
        ),
    ),
}
