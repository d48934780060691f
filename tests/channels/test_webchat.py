"""Web chat as an endpoint: what a send leaves in the outbox, what it refuses, when the probe says no."""

import json
import time
from dataclasses import replace

import pytest
from pydantic import SecretStr, ValidationError

from channels.chat.session import HasDoor, OutboxEntry, new_session, outbox_key, read_session, sign_session
from channels.chat.webchat import TEXT_MAX, WebchatAdapter, WebchatSettings
from channels.messages import Address, Channel, Content, Kind, Line, Matter, OutboundMessage
from channels.tools import Tools
from health.report import EndpointId

CHAT = EndpointId("chat/web")
SECRET = "a-secret-of-more-than-thirty-two-characters"
NOW = 1_800_000_000.0


class Store:
    """An adapter store in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}

    async def get(self, key):
        return self.values.get(key)

    async def put(self, key, value, ttl_s):
        self.values[key] = value

    async def append(self, key, value, ttl_s):
        self.lists.setdefault(key, []).append(value)
        return len(self.lists[key])


class Clock:
    """The real one."""

    def now(self):
        return time.time()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def adapter(store) -> WebchatAdapter:
    tools = Tools(CHAT, None, Clock(), store, None, lambda report: None, "Example Shop", "http://127.0.0.1:1")
    settings = WebchatSettings(id=CHAT, secret=SecretStr(SECRET), allowed_origins=("https://shop.example",))
    return WebchatAdapter(settings, tools)


def message(session: str, **more) -> OutboundMessage:
    line = Line(author="Ana", text="We are on it.", at=1.0, from_customer=False, message_id="m0-1")
    matter = Matter(organisation="Example Shop", reference="4F2K9", locale="en", history=(line,))
    fields = {
        "message_id": "m0-1",
        "conversation_id": "v0-1",
        "token": "a0-1",
        "kind": Kind.MESSAGE,
        "to": Address(Channel.CHAT, session),
        "content": Content("We are on it."),
        "matter": matter,
        "created_at": 12.5,
    }
    return OutboundMessage(**{**fields, **more})


async def test_a_send_appends_to_the_sessions_outbox(adapter, store):
    session = new_session()
    receipt = await adapter.send(message(session))
    assert receipt.vendor_ids == (f"{session}:1",)
    entry = OutboxEntry.decode(store.lists[outbox_key(session)][0])
    assert (entry.id, entry.token, entry.text, entry.author, entry.reference, entry.at) == (
        "m0-1", "a0-1", "We are on it.", "Ana", "4F2K9", 12.5,
    )  # fmt: skip


async def test_a_notice_has_no_author_and_a_stranger_speaks_for_the_organisation(adapter, store):
    session = new_session()
    await adapter.send(message(session, kind=Kind.NOTICE))
    await adapter.send(message(session, message_id="m0-2"))
    authors = [json.loads(entry)["author"] for entry in store.lists[outbox_key(session)]]
    assert authors == ["", "Example Shop"]


async def test_the_longest_text_fits_into_a_frame(adapter, store):
    session = new_session()
    await adapter.send(message(session, content=Content("\N{GRINNING FACE}" * TEXT_MAX)))
    assert len(store.lists[outbox_key(session)][0].encode()) < 64 * 1024


def test_a_session_is_read_back_from_its_token_alone():
    session = new_session()
    token = sign_session(SECRET, CHAT, session, NOW)
    assert read_session(SECRET, CHAT, token, NOW) == session
    for forged in (
        session,
        token[:-1],
        token.replace(session, new_session()),
        token.upper(),
        "",
        token + "\n",
        "٣" * 32 + token[32:],
    ):
        assert read_session(SECRET, CHAT, forged, NOW) is None
    assert read_session("another secret", CHAT, token, NOW) is None
    assert read_session(SECRET, EndpointId("chat/other"), token, NOW) is None


@pytest.mark.parametrize(
    ("later_s", "opens"), [(0, True), (-60, True), (30 * 86_400, True), (30 * 86_400 + 60, False), (-7_200, False)]
)
def test_a_token_opens_its_session_for_thirty_days(later_s, opens):
    """Each visit gives a new one; a stolen one ends, and none can be signed for the future by a clock gone wrong."""
    session = new_session()
    token = sign_session(SECRET, CHAT, session, NOW)
    assert (read_session(SECRET, CHAT, token, NOW + later_s) == session) is opens
    kept, given, mac = token.split(".")
    for forged in (
        f"{kept}.{mac}",
        f"{kept}.{int(given, 16) + 9:08x}.{mac}",
        f"{kept}.0{given}.{mac}",
        f"{kept}..{mac}",
    ):
        assert read_session(SECRET, CHAT, forged, NOW) is None


def test_the_door_tells_the_web_role_what_it_needs_and_no_repr_tells_the_secret(adapter):
    assert isinstance(adapter, HasDoor)
    assert adapter.door.secret == SECRET
    assert adapter.door.title == "Example Shop"
    assert SECRET not in repr(adapter.door) + repr(adapter.settings) + str(vars(adapter.settings))


@pytest.mark.parametrize("origin", ["https://shop.example/", "shop.example", "*", "https://SHOP.example", "null"])
def test_an_origin_that_no_browser_sends_is_refused(origin):
    with pytest.raises(ValidationError, match="is not an origin"):
        WebchatSettings(id=CHAT, allowed_origins=(origin,))


def test_a_short_secret_is_refused():
    with pytest.raises(ValidationError):
        WebchatSettings(id=CHAT, secret=SecretStr("short"))


async def test_what_is_no_entry_is_said_to_be_none():
    for text in ("{}", '{"id":"m"}', "[]", "nonsense"):
        with pytest.raises(ValueError):
            OutboxEntry.decode(text)


def test_capabilities_say_what_the_planner_must_know(adapter):
    able = adapter.capabilities
    assert (able.channel, able.idempotent, able.receipts, able.receipt_due_s) == (Channel.CHAT, True, True, 30.0)
    assert replace(able).text_max == TEXT_MAX
