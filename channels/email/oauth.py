"""OAuth 2 access tokens for mail servers, refreshed before they expire (RFC 6749, section 6)."""

import asyncio
from typing import Annotated

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr

from channels.errors import EndpointMisconfigured, EndpointUnavailable
from channels.tools import Clock

REFRESH_S = 4.0
"""Longest wait for the token server; a send's 10 s to the final dot include it."""
MARGIN_S = 60.0
ANSWER_MAX = 64_000


class OAuth2Settings(BaseModel):
    """Where to get access tokens, and with what: a refresh token, as Gmail and Outlook give."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_url: HttpUrl
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretStr
    refresh_token: SecretStr
    scope: str = ""
    """Empty: what the refresh token was given for."""


class _TokenAnswer(BaseModel):
    access_token: Annotated[str, Field(min_length=1, max_length=20_000)]
    expires_in: Annotated[float, Field(gt=0)] = 300.0
    refresh_token: str | None = None


class TokenSource:
    """Hands out an access token that is good for another minute at least."""

    def __init__(self, settings: OAuth2Settings, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._settings = settings
        self._http = http
        self._clock = clock
        self._refresh_token = settings.refresh_token.get_secret_value()
        self._access_token = ""
        self._good_until = 0.0
        self._refreshing = asyncio.Lock()

    async def fetch(self) -> str:
        """Return an access token. Raises EndpointMisconfigured when ours is refused, EndpointUnavailable otherwise."""
        async with self._refreshing:
            if self._clock.monotonic() >= self._good_until:
                await self._refresh()
            return self._access_token

    def forget(self, access_token: str) -> bool:
        """Drop a token that the mail server refused; whether it came from the cache, so that a new one may help."""
        known = self._access_token == access_token and self._good_until > 0.0
        if known:
            self._good_until = 0.0
        return known

    async def _refresh(self) -> None:
        form = {
            "grant_type": "refresh_token",
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret.get_secret_value(),
            "refresh_token": self._refresh_token,
        }
        if self._settings.scope:
            form["scope"] = self._settings.scope
        try:
            async with self._http.post(
                str(self._settings.token_url),
                data=form,
                timeout=aiohttp.ClientTimeout(total=REFRESH_S),
                allow_redirects=False,
            ) as answer:
                status, body = answer.status, await answer.content.read(ANSWER_MAX)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EndpointUnavailable("oauth_unreachable", "the token server does not answer") from error
        if status in {400, 401, 403}:  # invalid_grant, invalid_client: RFC 6749, section 5.2
            raise EndpointMisconfigured("oauth_refused", "the token server refuses the refresh token or the client")
        if status != 200:
            raise EndpointUnavailable(f"oauth_http_{status}", "the token server fails")
        try:
            token = _TokenAnswer.model_validate_json(body)
        except ValueError:  # not chained: the text of a validation error holds the token
            raise EndpointUnavailable("oauth_malformed", "the token server's answer holds no token") from None
        self._access_token = token.access_token
        self._refresh_token = token.refresh_token or self._refresh_token
        self._good_until = self._clock.monotonic() + max(token.expires_in - MARGIN_S, 1.0)
