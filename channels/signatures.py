"""Vendors' webhook signatures: sign as they do, verify in constant time."""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

TWILIO_HEADER = "x-twilio-signature"
_DEFAULT_PORTS = {"https": 443, "http": 80}


def sign_twilio(auth_token: str, url: str, form: Iterable[tuple[str, str]] = ()) -> str:
    """The `X-Twilio-Signature` of a request to exactly this URL with these decoded form fields.

    HMAC-SHA1 over the URL and every name and value, sorted, equal pairs once
    (twilio.com/docs/usage/security, "Validating requests"). A request with a JSON body is signed without fields;
    its URL carries the body's hash.
    """
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    # surrogatepass: octets that are no text must make a signature that fits nothing, not an error.
    octets = signed.encode("utf-8", "surrogatepass")
    return b64encode(hmac.new(auth_token.encode(), octets, hashlib.sha1).digest()).decode()


def twilio_signed(
    auth_token: str,
    signature: str,
    url: str,
    *,
    form: Iterable[tuple[str, str]] = (),
    json_body: bytes | None = None,
    fragments: Iterable[str] = ("",),
) -> bool:
    """Whether Twilio signed this request.

    `url` is the public one; Twilio adds or drops the default port as it likes, so both spellings count. `fragments`
    are the connection overrides (`#rc=5&rp=all`) the URL may have carried: they never reach a server, but may have
    been signed. With `json_body`, its SHA-256 must also be the URL's `bodySHA256`.
    """
    if json_body is not None:
        expected = parse_qs(urlsplit(url).query).get("bodySHA256", [""])[-1]
        found = hashlib.sha256(json_body).hexdigest()
        if not hmac.compare_digest(found.encode(), expected.lower().encode()):
            return False
    fields = list(form)
    matched = False
    for spelling in _spellings(url):
        for fragment in fragments:
            wanted = sign_twilio(auth_token, spelling + fragment, fields)
            # No early way out: the time taken must not tell which spelling matched.
            matched |= hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "surrogatepass"))
    return matched


def _spellings(url: str) -> tuple[str, ...]:
    """The URL as it is, and with its default port added or removed."""
    parts = urlsplit(url)
    port = _DEFAULT_PORTS.get(parts.scheme)
    if port is None or parts.hostname is None:
        return (url,)
    if parts.port is None:
        return (url, parts._replace(netloc=f"{parts.netloc}:{port}").geturl())
    if parts.port == port:
        return (url, parts._replace(netloc=parts.netloc.rpartition(":")[0]).geturl())
    return (url,)
