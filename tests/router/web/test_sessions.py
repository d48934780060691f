"""Keys at rest and the console's session: hashed, revocable, useless to other sites."""

import asyncio
from typing import Any

import pytest
import redis.asyncio

from router import api_keys
from router.api_keys import ApiKeys, Role


async def _log_in(face: Any, role: str = "agent") -> dict[str, Any]:
    answer = await face.client.post("/console/session", json={"key": face.plain[role]})
    assert answer.status == 200, await answer.text()
    session: dict[str, Any] = await answer.json()
    return session


@pytest.fixture
def public_url() -> str:
    """The test's client comes without TLS, so the cookie must do without it."""
    return "http://127.0.0.1"


async def test_no_secret_is_kept(keys: ApiKeys, redis_url: str) -> None:
    """Neither a key nor a session's token can be read back from Redis; the key is an argon2id hash."""
    key_id, plain = await keys.create(Role.OPS, "Night watch", agent_id="a0-1")
    key = await keys.check(plain)
    assert key is not None
    assert (key.id, key.role, key.name, key.agent_id, key.author) == (key_id, Role.OPS, "Night watch", "a0-1", "a0-1")
    token, session = await keys.begin_session(key)
    assert session.key == key
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    names = [name async for name in client.scan_iter("*")]
    kept = str(names) + "".join([str(await client.hgetall(name)) for name in names if ":key:" in name])
    await client.aclose()
    assert plain.split("_", 2)[2] not in kept
    assert token not in kept
    assert "$argon2id$" in kept


async def test_a_revoked_key_ends_at_once(keys: ApiKeys) -> None:
    """Also where this process has verified it before, and with every session begun with it."""
    key_id, plain = await keys.create(Role.AGENT, "Ann")
    key = await keys.check(plain)
    assert key is not None
    token, _ = await keys.begin_session(key)
    assert await keys.check(plain) == key
    assert [one.id for one in await keys.list()] == [key_id]
    assert await keys.revoke(key_id)
    assert not await keys.revoke(key_id)
    assert await keys.check(plain) is None
    assert await keys.session(token) is None
    assert await keys.list() == []


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is waited for, and then not waited for, a moment only."""
    monkeypatch.setattr(api_keys, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(api_keys, "SILENT_S", 0.3)


async def _silence(redis_url: str, silent_ms: int) -> None:
    """Redis takes what is asked and answers nothing for a while."""
    client = redis.asyncio.Redis.from_url(redis_url)
    await client.client_pause(silent_ms)
    await client.aclose()


@pytest.mark.usefixtures("short_silence")
async def test_a_session_outlives_redis_silence(keys: ApiKeys, redis_url: str) -> None:
    """Agents in the console write on, as whoever has a key does; a cookie that nobody knows here does not come in."""
    _, plain = await keys.create(Role.AGENT, "Ann")
    key = await keys.check(plain)
    assert key is not None
    token, begun = await keys.begin_session(key)
    await _silence(redis_url, 1_500)
    async with asyncio.timeout(1):
        assert await keys.session(token) == begun
        assert await keys.check(plain) == key
    assert await keys.session("nobody's") is None
    await keys.end_session(token)
    assert await keys.session(token) is None


@pytest.mark.usefixtures("short_silence")
async def test_redis_is_believed_again_however_often_it_is_asked(keys: ApiKeys, redis_url: str) -> None:
    """A key that is revoked after a silence ends within moments, also while its holder asks without a pause."""
    key_id, plain = await keys.create(Role.AGENT, "Ann")
    key = await keys.check(plain)
    assert key is not None
    token, _ = await keys.begin_session(key)
    await _silence(redis_url, 250)
    assert await keys.check(plain) == key
    assert await keys.revoke(key_id)
    async with asyncio.timeout(5):
        while await keys.check(plain) is not None or await keys.session(token) is not None:
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("short_silence")
async def test_a_session_that_was_ended_is_not_believed_while_redis_is_silent(keys: ApiKeys, redis_url: str) -> None:
    """Whoever logged out has left the desk to somebody else."""
    _, plain = await keys.create(Role.AGENT, "Ann")
    key = await keys.check(plain)
    assert key is not None
    token, begun = await keys.begin_session(key)
    assert await keys.session(token) == begun
    await keys.end_session(token)
    await _silence(redis_url, 600)
    assert await keys.session(token) is None


async def test_a_session_that_is_used_lasts_on(keys: ApiKeys, redis_url: str) -> None:
    """Nobody is sent to the login page in the middle of a shift."""
    _, plain = await keys.create(Role.AGENT, "Ann")
    key = await keys.check(plain)
    assert key is not None
    token, begun = await keys.begin_session(key)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.expire(keys._session(token), 60)
        assert await keys.session(token) == begun
        assert await client.ttl(keys._session(token)) > api_keys.SESSION_TTL_S - 60


async def test_no_more_keys_and_sessions_are_remembered_than_may_be(
    keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest; whoever logs in and out all day fills no memory."""
    monkeypatch.setattr(api_keys, "VERIFIED_MAX", 2)
    for name in ("Ann", "Bob", "Cem"):
        key = await keys.check((await keys.create(Role.AGENT, name))[1])
        assert key is not None
        await keys.begin_session(key)
    assert (len(keys._remembered), len(keys._sessions)) == (2, 2)


@pytest.mark.parametrize("bearer", ["", "tl_", "tl_0000000000_", "tl_0000000000_" + "A" * 43, "x" * 10_000, "tl_\n_"])
async def test_what_is_no_key_is_nobodys(keys: ApiKeys, bearer: str) -> None:
    """Malformed and unknown keys are None, never an error."""
    assert await keys.check(bearer) is None


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81])
async def test_a_key_needs_a_name(keys: ApiKeys, name: str) -> None:
    """Whoever reads the list of keys must be able to tell them apart."""
    with pytest.raises(ValueError, match="name"):
        await keys.create(Role.AGENT, name)


async def test_the_cookie_reads_and_its_token_writes(face: Any) -> None:
    """The cookie alone changes nothing: another site's form would carry it too."""
    conversation_id = await face.hear("Hello")
    session = await _log_in(face)
    cookie = next(iter(face.client.session.cookie_jar))
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert (await face.client.get("/v1/conversations")).status == 200
    path = f"/v1/conversations/{conversation_id}/messages"
    key = {"Idempotency-Key": "k1"}
    for token in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": "ß"}):
        answer = await face.client.post(path, json={"text": "x"}, headers=key | token)
        assert answer.status == 403
        assert (await answer.json(content_type=None))["reason"] == "console_token"
    right = key | {"X-CSRF-Token": session["csrf"]}
    assert (await face.client.post(path, json={"text": "x"}, headers=right)).status == 201
    again = await (await face.client.get("/console/session")).json()
    assert again == session


async def test_logging_out_ends_the_session(face: Any) -> None:
    """The cookie is forgotten here and there."""
    session = await _log_in(face)
    value = next(iter(face.client.session.cookie_jar)).value
    answer = await face.client.delete("/console/session", headers={"X-CSRF-Token": session["csrf"]})
    assert answer.status == 204
    assert (await face.client.get("/v1/me", headers={"Cookie": f"throughline={value}"})).status == 401


async def test_a_login_that_is_none(face: Any) -> None:
    """A wrong key is 401, a form from elsewhere 415, an unknown field 422; none sets a cookie."""
    for answer, status in (
        (await face.client.post("/console/session", json={"key": "tl_wrong"}), 401),
        (await face.client.post("/console/session", data={"key": face.plain["agent"]}), 415),
        (await face.client.post("/console/session", json={"key": "x", "next": "//evil"}), 422),
        (await face.client.post("/console/session", json={"key": "x" * 5_000}), 413),
    ):
        assert answer.status == status
        assert "Set-Cookie" not in answer.headers
