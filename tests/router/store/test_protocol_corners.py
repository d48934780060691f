"""Corners of the protocol: what one side's events must not do to another message, leg or order."""

import json

from channels.messages import Kind
from health.report import EndpointId
from router.domain.conversation import SideName
from router.store import keys
from router.store.asked import Fail, LeaseTerms, Park, Rebind
from router.store.codec import Notice

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")
PHONE = EndpointId("phone/acme")
NUMBER = "sms:+15550100"


async def due_at(desk):
    return (await desk.store.side(desk.conversation, SideName.CUSTOMER)).due_at


async def needs_a_person(desk, text="one", **more):
    """A message that nobody dares to send again."""
    message = await desk.say(text, **more)
    for _ in range(3):
        (leased,) = await desk.lease()
        assert leased.message_id == message
        await desk.settle(leased, "unknown")
        desk.advance(60)
    assert await desk.lease() == []
    assert await desk.state(message) == "needs_human"
    return message


async def test_a_throttled_message_that_would_miss_its_deadline_is_planned_at_once(desk):
    await desk.open()
    message = await desk.say("one", expires_in=60)
    (leased,) = await desk.lease()
    await desk.settle(leased, "throttled", retry_after_s=120)
    (facts,) = await desk.store.plan(0, 10)
    assert (facts.head, facts.why) == (message, "throttled")
    assert [(one[0], one[2]) for one in facts.not_here] == [(MAIL, "throttled")], "or the same endpoint is chosen again"


async def test_a_side_whose_notice_waits_is_looked_at_when_the_notice_may_go_and_not_all_the_time(desk):
    await desk.open()
    await desk.say("one")
    await desk.move()
    (notice,) = await desk.lease(SMS)
    assert notice.kind is Kind.NOTICE
    await desk.settle(notice, "throttled", retry_after_s=30)
    assert await due_at(desk) == desk.now + 30
    assert await desk.lease(SMS) == [] and await due_at(desk) > desk.now


async def test_where_nobody_was_there_for_a_notice_is_known_to_what_waits_and_to_the_next_notice(desk):
    """Or two dead addresses would be tried in turn for ever."""
    await desk.open()
    await desk.say("one")
    await desk.move()
    (first,) = await desk.lease(SMS)
    await desk.settle(first, "unreachable", reason="no_such_user")
    (facts,) = await desk.store.plan(0, 10)
    assert facts.why == "unreachable"
    assert facts.not_here == ((SMS, "sms:+15550100", "unreachable", "no_such_user"),)
    await desk.move(place="sms:+15550177")
    (second,) = await desk.lease(SMS)
    assert second.kind is Kind.NOTICE
    await desk.settle(second, "unreachable", reason="no_such_user")
    desk.advance(6)
    (facts,) = await desk.store.plan(0, 10)
    assert [one[1] for one in facts.not_here] == ["sms:+15550100", "sms:+15550177"]


async def test_a_notice_whose_words_are_refused_says_nothing_of_where_it_was(desk):
    """The message behind it may well be taken there."""
    await desk.open()
    await desk.say("one")
    await desk.move()
    (notice,) = await desk.lease(SMS)
    await desk.settle(notice, "rejected", reason="content")
    (facts,) = await desk.store.plan(0, 10)
    assert (facts.why, facts.not_here) == ("rejected", ())


async def test_an_unknown_message_that_expired_is_looked_at_when_its_hold_ends_and_not_all_the_time(desk):
    await desk.open()
    message = await desk.say("one", expires_in=10)
    (leased,) = await desk.lease()
    await desk.settle(leased, "unknown")
    ends = desk.now + 60
    desk.advance(11)
    assert await desk.lease() == []
    assert await due_at(desk) == ends
    desk.advance(50)
    assert await desk.lease() == [] and await desk.state(message) == "failed"


async def test_a_bounce_of_an_earlier_message_does_not_end_one_that_waits_for_a_person(desk):
    await desk.open()
    await desk.say("zero")
    (zero,) = await desk.lease()
    await desk.settle(zero, "sent")
    waits = await needs_a_person(desk)
    await desk.store.receipt(zero.token, "undelivered", reason="smtp_550")
    (facts,) = await desk.store.plan(0, 10)
    assert facts.head == zero.message_id
    await desk.move(SMS, NUMBER, notice=False)
    (again,) = await desk.lease(SMS)
    assert again.message_id == zero.message_id
    await desk.settle(again, "sent")
    assert await desk.lease(SMS) == []
    assert await desk.state(waits) == "needs_human"
    desk.advance(601)
    assert await desk.lease(SMS) == []
    assert await desk.state(waits) == "failed"


async def test_parking_and_waking_do_not_end_a_message_that_waits_for_a_person(desk):
    await desk.open()
    waits = await needs_a_person(desk)
    park = Park(desk.conversation, SideName.CUSTOMER, 1, 30, "no_route")
    assert await desk.store.rebind(0, [park]) == ["ok"]
    desk.advance(31)
    await desk.store.plan(0, 10)
    assert await desk.state(waits) == "needs_human", "ten minutes were promised"
    desk.advance(6)
    await desk.store.wake_parked(0)
    await desk.store.plan(0, 10)
    assert await desk.state(waits) == "needs_human"


async def test_a_message_that_waits_for_a_person_does_so_past_its_expiry_and_ends_failed(desk):
    """Ended as expired it would look as if nobody had got it, and the person would not have had their ten minutes."""
    await desk.open()
    waits = await needs_a_person(desk, expires_in=300)
    asked = desk.now
    desk.advance(300)
    assert await desk.lease() == []
    assert await desk.state(waits) == "needs_human", "ten minutes were promised"
    assert await due_at(desk) == asked + 600, "or it would be looked at all the time"
    park = Park(desk.conversation, SideName.CUSTOMER, 1, 30, "no_route")
    assert await desk.store.rebind(0, [park]) == ["ok"]
    desk.advance(31)
    await desk.store.plan(0, 10)
    assert await desk.state(waits) == "needs_human"
    desk.advance(270)
    await desk.store.plan(0, 10)
    ended = await desk.store.message(waits)
    assert (ended.state, ended.reason, len(ended.attempts)) == ("failed", "nobody_looked", 3)


async def test_a_late_receipt_for_a_notice_does_not_cut_the_hold_of_the_message_behind_it(desk):
    await desk.open()
    message = await desk.say("one")
    await desk.move()
    (notice,) = await desk.lease(SMS)
    await desk.settle(notice, "unknown")
    (leased,) = await desk.lease(SMS)
    await desk.settle(leased, "throttled", retry_after_s=30)
    await desk.store.receipt(notice.token, "delivered")
    assert await due_at(desk) == desk.now + 30
    assert leased.message_id == message


async def test_a_message_fails_only_if_it_is_the_one_that_was_decided_about(desk):
    await desk.open()
    first, second = await desk.say("one"), await desk.say("two")
    (leased,) = await desk.lease()
    await desk.settle(leased, "rejected", reason="too_long")
    (facts,) = await desk.store.plan(0, 10)
    assert await desk.store.cancel(first, "cancelled") == "ok"
    fail = Fail(desk.conversation, SideName.CUSTOMER, facts.epoch, "rejected", facts.head)
    await desk.store.rebind(0, [fail])
    assert await desk.state(second) == "queued", "nobody ever tried it"
    (leased,) = await desk.lease()
    assert leased.message_id == second


async def test_what_an_endpoint_lost_goes_out_again_in_the_order_it_was_said(desk):
    await desk.open()
    said = []
    for text in ("one", "two", "three"):
        said.append(await desk.say(text))
        (leased,) = await desk.lease()
        await desk.settle(leased, "sent", receipt_within_s=3600)
        desk.advance(1)
    assert await desk.store.recall(0, MAIL, desk.now - 60) == 3
    again = []
    for _ in said:
        (leased,) = await desk.lease()
        assert leased.possible_duplicate
        again.append(leased.message_id)
        await desk.settle(leased, "sent")
    assert again == said


async def test_what_is_not_said_again_after_a_loss_still_awaits_its_receipt(desk):
    await desk.open()
    proven = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "sent", receipt_within_s=30)
    desk.advance(10)
    await desk.move()
    (notice,) = await desk.lease(SMS)
    await desk.settle(notice, "sent", receipt_within_s=30)
    assert await desk.store.recall(0, SMS, desk.now - 60) == 0, "nobody is told twice"
    assert await desk.store.recall(0, MAIL, desk.now - 5) == 0, "it was proven to work after that"
    desk.advance(60)
    for endpoint, one in ((MAIL, leased), (SMS, notice)):
        overdue = await desk.store.receipts_overdue(0, endpoint, int(desk.now * 1000), 10)
        assert overdue == [one.token], "nobody would ever look for its receipt again"
    assert await desk.state(proven) == "sent"


async def test_a_notice_that_was_overtaken_holds_nothing_up_when_its_outcome_is_unknown(desk):
    await desk.open()
    message = await desk.say("one")
    await desk.move()
    (notice,) = await desk.lease(SMS)
    await desk.move(MAIL, "email:ann@example.org", left=SMS)
    await desk.settle(notice, "unknown")
    (home,) = await desk.lease(MAIL)
    assert home.kind is Kind.NOTICE, "they may have heard that it went elsewhere"
    await desk.settle(home, "sent")
    assert [one.message_id for one in await desk.lease(MAIL)] == [message], "it waits for no evidence about a notice"


async def test_the_endpoint_that_was_left_does_not_slow_down_the_one_that_was_chosen(desk):
    await desk.open()
    for outcome, more in (
        ("throttled", {"retry_after_s": 600}),
        ("unavailable", {"retry_after_s": 600}),
    ):
        message = await desk.say("one")
        (leased,) = await desk.lease()
        await desk.move(notice=False)
        await desk.settle(leased, outcome, **more)
        (again,) = await desk.lease(SMS)
        assert again.message_id == message
        await desk.settle(again, "sent")
        await desk.move(MAIL, "email:ann@example.org", notice=False)


async def test_a_call_at_the_leg_that_was_left_does_not_occupy_the_new_one(desk):
    await desk.open()
    await desk.say("one")
    (leased,) = await desk.lease()
    second = await desk.say("two")
    await desk.move(notice=False)
    await desk.settle(leased, "sent", occupied_s=600)
    (again,) = await desk.lease(SMS)
    assert again.message_id == second


async def test_what_was_parked_goes_where_the_customer_has_just_written_from(desk):
    await desk.open()
    message = await desk.say("one")
    park = Park(desk.conversation, SideName.CUSTOMER, 1, 600, "no_route")
    assert await desk.store.rebind(0, [park]) == ["ok"]
    await desk.hear("I am here now", pin=(SMS, NUMBER))
    (leased,) = await desk.lease(SMS)
    assert leased.message_id == message


async def test_one_combined_notice_is_heard_once_although_its_conversation_closes_meanwhile(desk):
    first = await desk.open(place="email:ann@example.org")
    await desk.say("one")
    second = await desk.open(place="email:bea@example.org")
    await desk.say("two")
    for conversation in (first, second):
        told = Notice(desk.fresh("m"), "failover", MAIL, desk.now)
        await desk.store.rebind(
            0, [Rebind(conversation, SideName.CUSTOMER, 1, SMS, NUMBER, "failover", told, automatic=True)]
        )
    leased = await desk.lease(SMS, count=1)
    (notice,) = leased
    assert len(notice.references) == 2
    await desk.store.close(notice.conversation_id)
    await desk.settle(notice, "sent")
    desk.advance(2)
    assert [one.kind for one in await desk.lease(SMS)].count(Kind.NOTICE) == 0


async def test_taking_back_a_later_message_does_not_cut_the_hold_of_the_one_before_it(desk):
    """What may have been taken waits for its receipt, whatever becomes of what stands behind it."""
    await desk.open()
    first = await desk.say("one")
    second = await desk.say("two")
    (leased,) = await desk.lease()
    await desk.settle(leased, "unknown")
    ends = desk.now + 60
    assert await desk.store.cancel(second, "agent") == "ok"
    assert await due_at(desk) == ends
    assert await desk.lease() == [] and await desk.state(first) == "unknown"


async def test_a_notice_that_is_taken_back_is_not_said(desk):
    await desk.open()
    message = await desk.say("one")
    await desk.move()
    (notice,) = await desk.lease(SMS)
    await desk.settle(notice, "throttled", retry_after_s=30)
    assert await desk.store.cancel(notice.message_id, "agent") == "ok"
    (leased,) = await desk.lease(SMS)
    assert leased.message_id == message
    assert await desk.state(notice.message_id) == "cancelled"
    side = await desk.store.side(desk.conversation, SideName.CUSTOMER)
    assert not side.notice_due


async def test_only_the_end_of_the_call_itself_makes_its_leg_free(desk):
    """A receipt of an earlier text, or the end of an earlier call told twice, comes while somebody speaks."""
    await desk.open(SMS, NUMBER)
    await desk.say("one")
    (text,) = await desk.lease(SMS)
    await desk.settle(text, "sent")
    await desk.move(PHONE, "phone:+15550100", notice=False)
    await desk.say("two")
    (call,) = await desk.lease(PHONE)
    await desk.settle(call, "sent", occupied_s=600)
    last = await desk.say("three")
    await desk.store.receipt(text.token, "delivered")
    assert await desk.lease(PHONE) == [], "the call is live"
    await desk.store.receipt(call.token, "delivered")
    (again,) = await desk.lease(PHONE)
    assert again.message_id == last
    await desk.settle(again, "sent", occupied_s=600)
    await desk.say("four")
    await desk.store.receipt(call.token, "delivered")
    assert await desk.lease(PHONE) == [], "the end of the first call was told again"


async def test_a_receipt_for_a_conversation_that_is_being_forgotten_is_missing(desk):
    """It goes in steps of 500 messages: its sides first, what was said last."""
    await desk.open()
    tokens = []
    for number in range(501):
        await desk.say(str(number))
        (leased,) = await desk.lease()
        await desk.settle(leased, "sent")
        tokens.append(leased.token)
    await desk.store.close(desk.conversation)
    for leased in await desk.lease(EndpointId("chat/console")):
        await desk.settle(leased, "sent")
    found = await desk.store.redis.call("HMGET", f"tl:{{s0}}:v:{desk.conversation}", "sq", "ca")
    argument = json.dumps({"c": desk.conversation, "q": found[0], "ca": found[1], "keep": 1000})
    assert await desk.store.redis.run("forget", keys.shard(0), desk.clock[0], argument) == "more"
    assert (await desk.store.receipt(tokens[-1], "delivered"))[0] == "missing"
    message = (await desk.store.transcript_ids(desk.conversation, -1, -1))[0]
    assert await desk.store.cancel(message, "agent") in {"begun", "missing"}


async def test_everything_parked_is_woken_also_where_many_are_due_at_the_same_moment(desk):
    """A storm parks by the batch: whole pages of them share one time."""
    count = 130
    for _ in range(count):
        await desk.open()
        await desk.say("one")
        park = Park(desk.conversation, SideName.CUSTOMER, 1, 300, "no_route")
        assert await desk.store.rebind(0, [park]) == ["ok"]
    assert await desk.store.plan(0, 100) == []
    assert await desk.store.wake_parked(0) == count
    assert len(await desk.store.plan(0, 100)) + len(await desk.store.plan(0, 100)) == count


async def test_the_budget_for_retries_grows_with_time_also_while_first_tries_go_on(desk):
    """Two a second are promised, whatever else is said meanwhile."""
    terms = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3, retry_floor_per_s=2.0)
    await desk.store.redis.call("HSET", "tl:{s0}:retry", "n", 0, "at", desk.clock[0])
    await desk.open()
    again = await desk.say("one")
    (leased,) = await desk.lease(terms=terms)
    await desk.settle(leased, "unavailable", retry_after_s=3)
    for _ in range(5):
        desk.advance(0.6)
        await desk.open(SMS, NUMBER)
        await desk.say("hello")
        (one,) = await desk.lease(SMS, terms=terms)
        await desk.settle(one, "sent")
    (leased,) = await desk.lease(terms=terms)
    assert leased.message_id == again


async def test_a_minute_of_being_told_to_wait_uses_up_no_message(desk):
    """Our own name server away for a minute asks for a second each time; forty tries would be gone in forty seconds."""
    await desk.open()
    message = await desk.say("one")
    began = desk.now
    while desk.now - began < 600:
        for leased in await desk.lease():
            await desk.settle(leased, "throttled", retry_after_s=1)
        desk.advance(1)
    assert await desk.state(message) == "queued"
    found = await desk.store.message(message)
    assert len(found.attempts) < 30
    desk.advance(31)
    (leased,) = await desk.lease()
    await desk.settle(leased, "sent")
    assert await desk.state(message) == "sent"
