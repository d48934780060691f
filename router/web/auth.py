"""Who calls: a bearer key, or the console's cookie with its token, and what their role allows."""

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from router.api_keys import ApiKey, Role
from router.web.problems import REASONS, Problem

if TYPE_CHECKING:
    from router.runtime import Runtime

RUNTIME: "web.AppKey[Runtime]" = web.AppKey("runtime")
CALLER: web.RequestKey[str] = web.RequestKey("caller", str)
CSRF_HEADER = "X-CSRF-Token"
HEADER_MAX = 200
"""Characters of a credential; longer ones are no credential of ours."""

EVERYBODY = frozenset(Role)
AGENTS = frozenset({Role.AGENT, Role.ADMIN})
OPS = frozenset({Role.OPS, Role.ADMIN})
ADMINS = frozenset({Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Caller:
    """A key that was checked; `csrf` is set where it came by the console's cookie."""

    key: ApiKey
    csrf: str = ""


def is_secure(public_url: str) -> bool:
    """Whether browsers reach us over TLS."""
    return public_url.startswith("https://")


def cookie_name(public_url: str) -> str:
    """The console's cookie; over TLS bound to this host by its prefix (RFC 6265bis, section 4.1.3.2)."""
    return "__Host-throughline" if is_secure(public_url) else "throughline"


async def identify(request: web.Request) -> Caller:
    """Who calls. Raises Problem 401 without a good key, 403 for a change by cookie alone; KeysUnavailable."""
    runtime = request.app[RUNTIME]
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and len(bearer) <= HEADER_MAX:
        key = await runtime.keys.check(bearer.strip())
        if key is not None:
            request[CALLER] = key.id
            return Caller(key)
    elif token := request.cookies.get(cookie_name(runtime.settings.public_url), "")[:HEADER_MAX]:
        session = await runtime.keys.session(token)
        if session is not None:
            request[CALLER] = session.key.id
            _check_csrf(request, session.csrf)
            return Caller(session.key, session.csrf)
    raise Problem(401, "unauthenticated", REASONS["unauthenticated"], headers={"WWW-Authenticate": "Bearer"})


def require(caller: Caller, roles: frozenset[Role]) -> None:
    """Raise Problem 403 unless the caller's role is one of `roles`."""
    if caller.key.role not in roles:
        wanted = " or ".join(sorted(role.value for role in roles))
        raise Problem(403, "role", f"Your key has the role {caller.key.role.value}; this needs {wanted}.")


def _check_csrf(request: web.Request, expected: str) -> None:
    if request.method in {"GET", "HEAD"}:
        return
    given = request.headers.get(CSRF_HEADER, "")
    # surrogatepass: a header may hold octets that are no text.
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode()):
        raise Problem(403, "console_token", REASONS["console_token"])
