"""What writing to numbers that nobody has verified may cost us: countries, numbers an hour, and who is told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channels.messages import Address, Channel, InboundMessage
from health.report import EndpointId
from router.core import Invalid
from router.domain.conversation import Binding, MessageState
from router.domain.journal import read_decision
from router.domain.reasons import Reason
from router.mover import Mover
from router.pace import Pace
from router.planner import Planner
from router.runtime import Runtime, open_runtime
from router.settings import Settings, load_settings
from router.store.asked import LeaseTerms, Settlement
from router.switchboard import Sent
from router.unverified import HOUR_S, countries_of

SMS, CHAT = EndpointId("sms/sandbox"), EndpointId("chat/web")


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """Two unverified numbers an hour."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    monkeypatch.setenv("THROUGHLINE_MESSAGES__UNVERIFIED_PER_HOUR", "2")
    async with open_runtime(load_settings(), "web") as opened:
        yield opened


async def write_to(runtime: Runtime, number: str, *, verified: bool = False, key: str = "") -> Sent:
    """Begin a conversation with somebody."""
    bindings = [Binding(Address(Channel.SMS, number), verified=verified)]
    someone = await runtime.switchboard.create_customer(name="Someone", locale="en", bindings=bindings)
    return await runtime.switchboard.open_conversation(
        someone.id, subject="", text="Hi", author="a", author_name="A", idempotency_key=key or number
    )


async def why_not(runtime: Runtime, sent: Sent) -> set[Reason]:
    """Why SMS was not taken, as the journal tells."""
    entries = await runtime.switchboard.decisions(sent.conversation_id)
    made = [read_decision(str(one.facts["d"])) for one in entries if one.kind == "decision.made"]
    return {choice.reason for one in made for choice in one.choices if choice.endpoint == SMS and not choice.taken}


async def told(runtime: Runtime) -> list[str]:
    return [row["f"] for _, row in await runtime.core.store.journal_last(0, 500) if row["k"] == "limit.reached"]


async def test_a_number_abroad_is_no_route_until_somebody_verified_it(runtime: Runtime) -> None:
    """Fraud needs numbers that earn by being written to; the reason is there to be read."""
    abroad = await write_to(runtime, "+18762345678")
    assert abroad.endpoint == ""
    assert await why_not(runtime, abroad) == {Reason.COUNTRY_NOT_ALLOWED}
    assert (await write_to(runtime, "+18762345679", verified=True)).endpoint == SMS


async def test_an_hour_begins_with_so_many_unverified_numbers_and_says_so_once(runtime: Runtime) -> None:
    """The third waits, is not lost, and goes with the next hour; who is verified goes on."""
    now = runtime.clock.now()
    first = [await write_to(runtime, f"+1202555010{number}") for number in range(2)]
    assert [one.endpoint for one in first] == [SMS, SMS]
    third, fourth = [await write_to(runtime, f"+1202555011{number}") for number in range(2)]
    assert (third.endpoint, fourth.endpoint) == ("", "")
    assert await why_not(runtime, third) == {Reason.UNVERIFIED_LIMIT}
    assert (await write_to(runtime, "+12025550120", verified=True)).endpoint == SMS
    assert await told(runtime) == ['{"what":"unverified_numbers","limit":2}']
    message = await runtime.switchboard.message(third.message_id)
    assert message.state in {MessageState.QUEUED, MessageState.PARKED}
    assert not runtime.core.unverified.limits(now + HOUR_S).spent, "the next hour begins anew"


async def test_a_number_counts_once_and_processes_count_together(runtime: Runtime) -> None:
    await write_to(runtime, "+12025550100")
    await write_to(runtime, "+12025550100", key="again")
    now = runtime.clock.now()
    assert not runtime.core.unverified.limits(now).spent
    async with open_runtime(runtime.settings, "dispatch") as other:
        await other.core.unverified.begin(Binding(Address(Channel.SMS, "+12025550101")), now)
        assert other.core.unverified.limits(now).spent
    assert (await write_to(runtime, "+12025550102")).endpoint == SMS, "known with the next number of its own"
    assert (await write_to(runtime, "+12025550103")).endpoint == ""
    assert len(await told(runtime)) == 1


async def visitor(runtime: Runtime, number: int) -> str:
    """Somebody left a number in the chat's form, and has an answer coming; their conversation."""
    session = Address(Channel.CHAT, f"session{number}")
    event = InboundMessage(CHAT, str(number), session, "Hello", runtime.clock.now())
    talk = (await runtime.switchboard.accept(event)).conversation_id
    customer = (await runtime.switchboard.conversation(talk)).customer
    left = Binding(Address(Channel.SMS, f"+1202555010{number}"), order=1)
    await runtime.switchboard.set_binding(customer.id, left)
    await runtime.switchboard.send(talk, text="Hi", author="a", author_name="A", idempotency_key=talk)
    return talk


async def legs(runtime: Runtime, talks: list[str]) -> list[str]:
    return [(await runtime.switchboard.conversation(talk)).customer_side.leg.endpoint for talk in talks]


async def test_who_leaves_numbers_and_goes_is_followed_to_no_more_of_them(runtime: Runtime) -> None:
    """Nobody acknowledges in chat: each answer goes on by SMS."""
    planner = Planner(runtime.core, asyncio.Event())
    terms = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=True, attempts_max=3)
    talks = []
    for number in range(3):
        talk = await visitor(runtime, number)
        (one,) = await runtime.core.store.lease(CHAT, "w", 1, terms)
        gone = Settlement(talk, one.side, one.message_id, one.number, one.fence, "unreachable")
        await runtime.core.store.settle(0, [gone])
        await planner.step(0)
        talks.append(talk)
    assert (await legs(runtime, talks)).count(SMS) == 2


async def test_a_failover_counts_the_unverified_numbers_it_moves_to(runtime: Runtime) -> None:
    """The step that reaches the limit is carried out; the next ones move nobody else there."""
    mover = Mover(runtime.core, Pace(runtime.core.capabilities))
    talks = [await visitor(runtime, number) for number in range(2)]
    await runtime.switchboard.start_failover(scope=[CHAT], target=None, who="ops", why="test", expires_in_s=60)
    await mover.lead_away(CHAT, await runtime.core.views(), evidence="test", inbound_only=False)
    talks.append(await visitor(runtime, 2))
    await mover.lead_away(CHAT, await runtime.core.views(), evidence="test", inbound_only=False)
    assert await legs(runtime, talks) == [SMS, SMS, CHAT]


async def test_what_staff_move_by_hand_counts_and_is_refused_in_words(runtime: Runtime) -> None:
    talks = [await visitor(runtime, number) for number in range(3)]
    moves = [runtime.switchboard.move_customer_side(talk, endpoint=SMS, who="ops", why="test") for talk in talks]
    for move in moves[:2]:
        await move
    with pytest.raises(Invalid, match="used up"):
        await moves[2]


def test_without_a_list_the_countries_are_our_own() -> None:
    twilio = {
        "provider": "twilio-sms", "id": "sms/uk", "account_sid": "AC" + "0" * 32, "auth_token": "x" * 32,
        "from_number": "+442071838750",
    }  # fmt: skip
    settings = Settings(default_country="DE", endpoints=[twilio])
    assert countries_of(settings) == {"DE", "GB"}
    assert countries_of(settings.model_copy(update={"messages": Settings(
        messages={"unverified_countries": ("FR",)}).messages})) == {"FR"}  # fmt: skip


async def test_consent_withdrawn_while_a_number_is_marked_as_dead_stays_withdrawn(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is written into a record that was read before: it must not bring back what stood there."""
    number = Address(Channel.SMS, "+12025550100")
    ann = await runtime.switchboard.create_customer(name="Ann", locale="en", bindings=[Binding(number, verified=True)])
    people = runtime.core.people
    call, read = people.redis.call, asyncio.Event()

    async def withdraw_after_the_first_look(*command: object) -> object:
        answer = await call(*command)
        if command[0] == "HGET" and not read.is_set():
            read.set()
            await people.set_binding(ann.id, Binding(number, verified=True, consent=False))
        return answer

    monkeypatch.setattr(people.redis, "call", withdraw_after_the_first_look)
    await people.mark_unreachable(ann.id, str(number), 2_000_000_000.0)
    (binding,) = (await runtime.switchboard.customer(ann.id)).bindings
    assert (binding.consent, binding.unreachable_until) == (False, 2_000_000_000.0)
