"""One Twilio account: its settings, its REST API with every answer classified, its signed webhooks."""

import ipaddress
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Annotated
from urllib.parse import parse_qsl, quote_plus, urlsplit

import aiohttp
from pydantic import Field, SecretStr, field_validator
from yarl import URL

from channels.contract import EndpointSettings
from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    LocalFault,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    SendFailed,
    Throttled,
    WebhookRefused,
)
from channels.messages import Webhook
from channels.signatures import TWILIO_HEADER, twilio_signed
from channels.tools import Tools

API_VERSION = "2010-04-01"
IO_S = 5.0
REQUEST_S = 4.8
"""A little less than `IO_S`, so that the answer to a timeout still comes within it."""
CONNECT_S = 2.0
"""Shorter than `REQUEST_S`: whatever times out later did so after the request was on its way."""
BODY_MAX = 64 * 1024
FIELDS_MAX = 200
RETRY_AFTER_MAX_S = 3600.0
RETRY_OVERRIDES = "#rc=5&rp=all"
"""Connection overrides on every URL we give: by default Twilio tries once more, and only if it could not connect."""

# The client would round a limit of five seconds or more up to the next full second of its clock.
_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_S, connect=CONNECT_S, ceil_threshold=60)
FORM_HEADER = {"Content-Type": "application/x-www-form-urlencoded"}
_QUERY_SAFE = "/?:@!$'()*,"

# Error codes of the REST API, by what they mean for us (twilio.com/docs/api/errors). Twilio keeps refining them;
# a code in none of these sets is taken as a rejection of this one message.
UNREACHABLE_CODES = frozenset(
    {
        *(21202, 21211, 21214, 21216, 21217, 21219),  # premium, invalid, not reachable, blocked, malformed, unverified
        *(21265, 21266, 21268, 21421, 21608),  # short code, to itself, information service, invalid, unverified
        *(21610, 21612, 21614, 21635),  # opted out, no route for this pair, not a mobile number, landline
        *(30003, 30005, 30006),  # handset off, unknown handset, landline or carrier out of reach
    }
)
MISCONFIGURED_CODES = frozenset(
    {
        *(10001, 20003, 20005, 20006, 20008),  # account not active, wrong credentials, suspended, denied, test
        *(21205, 21609),  # our callback URL is not acceptable
        *(21210, 21212, 21213, 21603, 21606, 21607, 21659, 21660, 21661),  # the sender is not ours or not capable
        *(21701, 21703, 21704, 21705),  # the messaging service is gone, inactive or empty
        *(30002, 30034),  # account suspended, number not registered
    }
)
THROTTLED_CODES = frozenset({10004, 14107, 20429, 21611, 30001, 30022, 63018})


class TwilioSettings(EndpointSettings):
    """What every endpoint at Twilio needs: the account and its credential."""

    account_sid: Annotated[str, Field(pattern=r"^AC[0-9a-fA-F]{32}$")]
    """The account's SID, `AC` and 32 hexadecimal digits, from the first page of Twilio's console."""
    auth_token: Annotated[SecretStr, Field(min_length=1, max_length=200)]
    """The account's auth token: it signs in to the API and proves that webhooks are Twilio's."""
    api_base: str = "https://api.twilio.com"
    """Scheme and host of the REST API; plain http only to this machine."""

    @field_validator("api_base")
    @classmethod
    def _safe_base(cls, value: str) -> str:
        parts = urlsplit(value)
        if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
            raise ValueError("must be a scheme and a host, as https://api.twilio.com")
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
            raise ValueError("must be https: the credential travels in it; http is for 127.0.0.1 only")
        return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered, decoded; `code` is Twilio's error code, 0 if it named none."""

    status: int
    fields: Mapping[str, object]
    code: int = 0
    retry_after_s: float = 1.0


class TwilioAccount:
    """The account at the other end of one endpoint. Holds no connection of its own: the runtime owns the client."""

    def __init__(self, settings: TwilioSettings, tools: Tools) -> None:
        self._sid = settings.account_sid
        self._token = settings.auth_token
        self._base = settings.api_base
        self._tools = tools

    def hook_url(self, step: str, query: Mapping[str, str]) -> str:
        """Our public URL for `step` of this endpoint, with the query's empty values left out, to be retried.

        Signs that may stand in a query as they are (RFC 3986, 3.4) do: a client or proxy on the way that tidies URLs
        would unquote them, and Twilio's signature would no longer fit.
        """
        kept = "&".join(f"{name}={quote_plus(value, safe=_QUERY_SAFE)}" for name, value in query.items() if value)
        url = f"{self._tools.public_url}/hooks/{self._tools.endpoint}/{step}"
        return f"{url}?{kept}{RETRY_OVERRIDES}" if kept else url + RETRY_OVERRIDES

    def authorization(self) -> dict[str, str]:
        """The header that proves who we are; made for each request so that no object carries it about."""
        pair = f"{self._sid}:{self._token.get_secret_value()}"
        return {"Authorization": "Basic " + b64encode(pair.encode()).decode()}

    async def create(self, resource: str, form: Mapping[str, str]) -> str:
        """Create a `Messages` or `Calls` resource; its sid. At most 5 s. Raises from SendFailed, or LocalFault."""
        path = f"/{API_VERSION}/Accounts/{self._sid}/{resource}.json"
        try:
            answer = await self._request("POST", path, form)
        except aiohttp.ClientConnectorDNSError as error:
            raise LocalFault("the name of Twilio's API could not be resolved") from error
        except aiohttp.ClientConnectorError as error:
            raise EndpointUnavailable("connect_failed", "Twilio could not be connected to") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise EndpointUnavailable("connect_timeout", "Twilio did not take the connection in time") from error
        except TimeoutError as error:
            raise OutcomeUnknown("read_timeout", "Twilio took the request and did not answer in time") from error
        except aiohttp.ClientResponseError:  # not chained: it holds the request's headers, the credential among them
            raise OutcomeUnknown("malformed_answer", "what answered in Twilio's place speaks no HTTP") from None
        except aiohttp.ClientError as error:
            raise OutcomeUnknown("connection_lost", "the connection to Twilio broke before it answered") from error
        sid = answer.fields.get("sid")
        if 200 <= answer.status < 300 and isinstance(sid, str) and sid:
            return sid
        raise refusal(answer)

    async def probe(self) -> None:
        """Return if the account answers and is active. At most 5 s. Raises from SendFailed, or LocalFault."""
        try:
            answer = await self._request("GET", f"/{API_VERSION}/Accounts/{self._sid}.json", None)
        except aiohttp.ClientConnectorDNSError as error:
            raise LocalFault("the name of Twilio's API could not be resolved") from error
        except TimeoutError as error:
            raise EndpointUnavailable("probe_timeout", "Twilio did not answer the probe in time") from error
        except aiohttp.ClientResponseError:  # not chained, as above
            raise EndpointUnavailable("malformed_answer", "what answered in Twilio's place speaks no HTTP") from None
        except aiohttp.ClientError as error:
            raise EndpointUnavailable("probe_failed", "the connection to Twilio failed") from error
        if answer.status == 200:
            if answer.fields.get("status", "active") != "active":
                raise EndpointMisconfigured("account_not_active", "Twilio says the account is suspended or closed")
            return
        failure = refusal(answer)
        if isinstance(failure, Throttled | EndpointMisconfigured):
            raise failure
        raise EndpointUnavailable(failure.reason, failure.words)  # a probe carries no message: nothing is unknown

    async def _request(self, method: str, path: str, form: Mapping[str, str] | None) -> Answer:
        async with self._tools.http.request(
            method,
            self._base + path,
            data=None if form is None else encode_form(form),
            headers={**self.authorization(), "Accept": "application/json"} | (FORM_HEADER if form is not None else {}),
            timeout=_TIMEOUT,
            allow_redirects=False,
        ) as response:
            body = await read_bounded(response, BODY_MAX)
            fields = _json_object(body)
            code = fields.get("code")
            return Answer(
                status=response.status,
                fields=fields,
                code=code if isinstance(code, int) else 0,
                retry_after_s=self._retry_after(response.headers.get("Retry-After", "")),
            )

    def _retry_after(self, value: str) -> float:
        """Seconds from a `Retry-After` header (RFC 9110, 10.2.3), 1 to 3,600; 1 if it says nothing we can read."""
        if not value:
            return 1.0
        try:
            at_date = parsedate_to_datetime(value).timestamp() - self._tools.clock.now()
        except ValueError:
            at_date = 1.0
        seconds = float(value[:9]) if value.isascii() and value.isdigit() else at_date
        return min(max(seconds, 1.0), RETRY_AFTER_MAX_S)

    def verified_form(self, webhook: Webhook) -> dict[str, str]:
        """The fields of a webhook that this account's Twilio signed.

        Raises WebhookRefused: 413 over 64 KB, 401 not signed by this account, 400 not a form we can read.
        """
        if len(webhook.body) > BODY_MAX:
            raise WebhookRefused(413, "too_large")
        signature = webhook.headers.get(TWILIO_HEADER, "")
        if not signature:
            raise WebhookRefused(401, "not_signed")
        if webhook.method != "POST":
            raise WebhookRefused(400, "not_a_post")
        media_type = webhook.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == "application/json":
            pairs = self._verified_json(webhook, signature)
        else:
            pairs = _form_pairs(webhook.body)
            self._check(webhook, signature, pairs, None)
        form = dict(pairs)
        if form.get("AccountSid", "") != self._sid:
            raise WebhookRefused(401, "another_account")
        return form

    def _verified_json(self, webhook: Webhook, signature: str) -> list[tuple[str, str]]:
        self._check(webhook, signature, [], webhook.body)
        fields = _json_object(webhook.body)
        if not fields or len(fields) > FIELDS_MAX:
            raise WebhookRefused(400, "malformed_json")
        return [(name, value) for name, value in fields.items() if isinstance(value, str)]

    def _check(self, webhook: Webhook, signature: str, pairs: list[tuple[str, str]], json_body: bytes | None) -> None:
        token = self._token.get_secret_value()
        fragments = ("", RETRY_OVERRIDES)
        if not twilio_signed(token, signature, webhook.url, form=pairs, json_body=json_body, fragments=fragments):
            raise WebhookRefused(401, "bad_signature")


def refusal(answer: Answer) -> SendFailed:
    """The error an answer other than "created" stands for. Never repeats Twilio's words: they quote the number."""
    status, code = answer.status, answer.code
    reason = f"twilio_{code}" if code else f"http_{status}"
    failure: SendFailed
    if status in (408, 501, 503):
        failure = EndpointUnavailable(reason, f"Twilio answered {status}: it did not take it")
    elif status < 300 or status >= 500:
        failure = OutcomeUnknown(reason, f"Twilio answered {status}: it may have taken it")
    elif status == 429 or code in THROTTLED_CODES:
        failure = Throttled(reason, "Twilio asks us to slow down", answer.retry_after_s)
    elif code in UNREACHABLE_CODES:
        failure = RecipientUnreachable(reason, f"Twilio cannot reach this number (error {code})")
    elif status < 400:
        failure = EndpointMisconfigured(reason, "Twilio's API redirects elsewhere: check api_base")
    elif status in (401, 403, 404) or code in MISCONFIGURED_CODES:
        words = f"Twilio refuses this account or sender (HTTP {status}, error {code}): check credential and number"
        failure = EndpointMisconfigured(reason, words)
    else:
        failure = MessageRejected(reason, f"Twilio does not take this message (HTTP {status}, error {code})")
    return failure


def encode_form(form: Mapping[str, str]) -> bytes:
    """A form as it goes over the wire, encoded in C: the client's own form object costs as much as sending does."""
    return URL.build(query=form).raw_query_string.encode()


async def read_bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body, or its first `bytes_max` bytes and one more if it is longer."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(16 * 1024):
        body += chunk
        if len(body) > bytes_max:
            response.close()
            return bytes(body[: bytes_max + 1])
    return bytes(body)


def _json_object(body: bytes) -> dict[str, object]:
    """The JSON object in `body`, or an empty one."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _form_pairs(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError as error:
        raise WebhookRefused(400, "malformed_form") from error
