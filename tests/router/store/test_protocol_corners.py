"""Corners of the protocol: what one side's events must not do to another message, leg or order."""

from channels.messages import Kind
from health.report import EndpointId
from router.domain.conversation import SideName
from router.store.asked import Fail, Park, Rebind
from router.store.codec import Notice

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")
NUMBER = "sms:+15550100"


async def due_at(desk):
    return (await desk.store.side(desk.conversation, SideName.CUSTOMER)).due_at


async def needs_a_person(desk, text="one"):
    """A message that nobody dares to send again."""
    message = await desk.say(text)
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
