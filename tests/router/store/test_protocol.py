"""The protocol: what must hold of accept, lease, settle and rebind, whatever happens in between."""

from channels.messages import Kind
from health.report import EndpointId
from router.domain.conversation import SideName
from router.store.asked import Park
from router.store.control import Control, EarlyReceipt

MAIL = EndpointId("email/support")
SMS = EndpointId("sms/acme")
CONSOLE = EndpointId("chat/console")


async def test_a_message_goes_out_once_and_in_order(desk):
    await desk.open()
    first, second = await desk.say("one"), await desk.say("two")
    leased = await desk.lease()
    assert [one.message_id for one in leased] == [first], "the second waits for the first"
    assert await desk.lease() == []
    assert await desk.settle(leased[0], "sent", vendor_ids=("<1@x>",)) == "ok"
    leased = await desk.lease()
    assert [one.message_id for one in leased] == [second]
    await desk.settle(leased[0], "sent")
    assert await desk.lease() == []
    assert await desk.state(first) == "sent"
    assert await desk.store.mail_thread(desk.conversation) == ("<1@x>",)


async def test_what_the_customer_says_is_queued_on_the_agents_side(desk):
    await desk.open()
    leased = await desk.lease(CONSOLE)
    assert leased[0].content.text == "Where is my order?"
    assert leased[0].side is SideName.AGENT


async def test_the_same_natural_key_adds_one_message_and_other_words_under_it_are_told_apart(desk):
    await desk.open()
    first = await desk.hear("hello", key="sms/acme:1")
    again = await desk.hear("hello", key="sms/acme:1")
    other = await desk.hear("bye", key="sms/acme:1")
    assert (first.verdict, again.verdict, other.verdict) == ("new", "duplicate", "other")
    assert again.message_id == first.message_id and again.sequence == first.sequence


async def test_an_attempt_whose_deadline_ran_out_is_unknown_and_flagged_before_it_goes_out_again(desk):
    await desk.open()
    message = await desk.say("one")
    (lost,) = await desk.lease()
    desk.advance(8.1)
    assert await desk.lease() == [], "it waits for evidence first"
    assert await desk.state(message) == "unknown"
    assert (await desk.store.message(message)).possible_duplicate
    desk.advance(60)
    (again,) = await desk.lease()
    assert again.message_id == message and again.possible_duplicate and again.fence > lost.fence


async def test_a_late_settle_with_the_current_fence_turns_unknown_into_sent(desk):
    await desk.open()
    message = await desk.say("one")
    (slow,) = await desk.lease()
    desk.advance(9)
    await desk.lease()
    assert await desk.settle(slow, "sent") == "late"
    assert await desk.state(message) == "sent"
    assert await desk.lease() == []


async def test_a_stale_fence_changes_nothing_but_its_attempts_evidence(desk):
    await desk.open()
    message = await desk.say("one")
    (old,) = await desk.lease(worker="w1")
    desk.advance(9)
    await desk.lease(worker="w2")
    desk.advance(61)
    (new,) = await desk.lease(worker="w2")
    before = await desk.store.side(desk.conversation, SideName.CUSTOMER)
    assert await desk.settle(old, "sent") == "late"
    assert await desk.store.side(desk.conversation, SideName.CUSTOMER) == before
    assert await desk.state(message) == "sending"
    assert await desk.settle(new, "sent") == "ok"


async def test_a_rebind_waits_for_the_open_attempt_and_the_same_message_goes_out_elsewhere(desk):
    await desk.open()
    message = await desk.say("one")
    (open_attempt,) = await desk.lease()
    assert await desk.move(hold_s=5) == "ok"
    assert await desk.lease(SMS) == [], "the attempt is still open"
    assert await desk.settle(open_attempt, "unavailable", reason="refused") == "ok"
    (notice,) = await desk.lease(SMS)
    assert notice.kind is Kind.NOTICE and notice.notice.left == MAIL
    await desk.settle(notice, "sent")
    (again,) = await desk.lease(SMS)
    assert again.message_id == message and not again.possible_duplicate
    await desk.settle(again, "sent")
    assert await desk.lease(SMS) == [] and await desk.lease() == []


async def test_the_pause_of_an_endpoint_in_doubt_does_not_follow_a_side_that_has_moved(desk):
    await desk.open()
    message = await desk.say("one")
    (open_attempt,) = await desk.lease()
    await desk.move(notice=False)
    await desk.settle(open_attempt, "unavailable", reason="no_answer", retry_after_s=5)
    (again,) = await desk.lease(SMS)
    assert again.message_id == message


async def test_the_pause_of_an_endpoint_in_doubt_holds_where_the_side_stays(desk):
    await desk.open()
    await desk.say("one")
    (attempt,) = await desk.lease()
    await desk.settle(attempt, "unavailable", reason="no_answer", retry_after_s=5)
    assert await desk.lease() == []
    desk.advance(5)
    assert len(await desk.lease()) == 1


async def test_the_notice_goes_past_an_unknown_message_and_the_hold_is_cut_when_the_endpoint_is_down(desk):
    await desk.open()
    message = await desk.say("one")
    (attempt,) = await desk.lease()
    await desk.settle(attempt, "unknown", reason="read_timeout")
    await desk.move(hold_s=5)
    (notice,) = await desk.lease(SMS)
    assert notice.kind is Kind.NOTICE
    await desk.settle(notice, "sent")
    assert await desk.lease(SMS) == []
    desk.advance(5.1)
    (again,) = await desk.lease(SMS)
    assert again.message_id == message and again.possible_duplicate


async def test_the_older_epoch_loses(desk):
    await desk.open()
    assert await desk.move(epoch=1) == "ok"
    assert await desk.move(epoch=1) == "epoch"


async def test_a_second_rebind_replaces_the_notice_so_a_flap_tells_once(desk):
    backup = EndpointId("sms/backup")
    await desk.open()
    await desk.say("one")
    await desk.move()
    await desk.move(backup, "sms:+15550100", left=SMS)
    assert await desk.lease(SMS) == []
    (notice,) = await desk.lease(backup)
    assert notice.kind is Kind.NOTICE
    assert notice.notice.left == MAIL, "it speaks of the place where they last heard us"
    await desk.settle(notice, "sent")
    (message,) = await desk.lease(backup)
    assert message.kind is Kind.MESSAGE


async def test_who_is_back_before_anybody_told_them_is_told_nothing(desk):
    await desk.open()
    await desk.say("one")
    await desk.move()
    await desk.move(MAIL, "email:ann@example.org", left=SMS)
    assert await desk.lease(SMS) == []
    (message,) = await desk.lease()
    assert message.kind is Kind.MESSAGE


async def test_a_notice_that_nobody_heard_stays_due_where_the_side_stays(desk):
    await desk.open()
    await desk.say("one")
    await desk.move()
    (notice,) = await desk.lease(SMS)
    await desk.settle(notice, "unavailable")
    await desk.move(SMS, "sms:+15550100", left=SMS, notice=False)
    (again,) = await desk.lease(SMS)
    assert (again.kind, again.message_id) == (Kind.NOTICE, notice.message_id)


async def test_nothing_begins_while_the_gate_is_closed_and_expired_attempts_are_still_marked(desk):
    await desk.open()
    message = await desk.say("one")
    await desk.lease()
    await desk.store.redis.call("HSET", "tl:{s0}:gate", MAIL, f"closed|{desk.clock[0] + 60_000}")
    desk.advance(9)
    assert await desk.lease() == []
    assert await desk.state(message) == "unknown"
    desk.advance(62)
    leased = await desk.lease()
    assert len(leased) == 1, "a gate nobody renews lets one message at a time try"
    await desk.hear("x", conversation=desk.fresh("v"), create=True)
    assert await desk.lease(worker="w2") == []


async def test_an_expired_message_is_never_begun(desk):
    await desk.open()
    message = await desk.say("code", expires_in=10)
    follow = await desk.say("still there?")
    desk.advance(10)
    (leased,) = await desk.lease()
    assert leased.message_id == follow
    assert await desk.state(message) == "expired"


async def test_a_customer_who_writes_elsewhere_is_there_now(desk):
    await desk.open()
    await desk.say("one")
    await desk.hear("I am on my phone now", pin=(SMS, "sms:+15550100"))
    assert await desk.lease() == []
    (leased,) = await desk.lease(SMS)
    assert leased.content.text == "one"
    assert leased.kind is Kind.MESSAGE, "they know where they are: no notice"


async def test_a_rejected_message_asks_for_a_plan_and_says_where_it_was_refused(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "rejected", reason="too_large")
    assert await desk.lease() == []
    (facts,) = await desk.store.plan(0, 10)
    assert facts.why == "rejected" and facts.head == message
    assert facts.not_here == ((MAIL, "email:ann@example.org", "rejected", "too_large"),)
    assert await desk.store.plan(0, 10) == [], "claimed"
    await desk.store.rebind(0, [Park(desk.conversation, SideName.CUSTOMER, facts.epoch, 30, "no_route")])
    assert await desk.state(message) == "parked"
    desk.advance(31)
    (facts,) = await desk.store.plan(0, 10)
    await desk.move()
    (notice,) = await desk.lease(SMS)
    await desk.settle(notice, "sent")
    (again,) = await desk.lease(SMS)
    assert again.message_id == message


async def test_what_is_given_back_unsent_counts_as_no_attempt(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "returned")
    assert (await desk.store.message(message)).attempts == ()
    (again,) = await desk.lease()
    assert again.number == 1 and again.fence == leased.fence + 1


async def test_receipts_only_move_up(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "sent")
    assert (await desk.store.receipt(leased.token, "read"))[0] == "ok"
    assert (await desk.store.receipt(leased.token, "delivered"))[0] == "old"
    assert await desk.state(message) == "read"


async def test_a_receipt_before_the_response_is_heard_by_settle_itself(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.store.receipt(leased.token, "delivered")
    assert await desk.settle(leased, "sent", receipt_within_s=30) == "ok"
    assert await desk.state(message) == "delivered"
    assert await desk.store.receipts_overdue(0, MAIL, int(desk.now + 60) * 1000, 10) == [], (
        "nobody waits for it any more"
    )


async def test_a_bounce_before_the_response_sends_the_message_on_when_the_response_comes(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.store.receipt(leased.token, "undelivered", reason="mailbox_gone", permanent=True)
    await desk.settle(leased, "sent")
    (facts,) = await desk.store.plan(0, 10)
    assert (facts.head, facts.why) == (message, "unreachable")


async def test_a_receipt_for_an_attempt_nobody_settled_counts_when_its_time_is_up(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.store.receipt(leased.token, "delivered")
    desk.advance(8.1)
    assert await desk.lease() == []
    assert await desk.state(message) == "delivered"
    desk.advance(100)
    assert await desk.lease() == [], "it was heard: there is nothing to send again"


async def test_a_final_receipt_before_the_response_leaves_the_leg_free(desk):
    await desk.open()
    await desk.say("one")
    await desk.say("two")
    (call,) = await desk.lease()
    await desk.store.receipt(call.token, "unconfirmed", final=True)
    await desk.settle(call, "sent", occupied_s=600)
    (following,) = await desk.lease()
    assert following.content.text == "two"


async def test_a_call_that_ended_before_its_response_occupies_nothing_whatever_was_said_first(desk):
    """A key was pressed, then it ended, and both came before we knew that it was placed."""
    await desk.open()
    await desk.say("one")
    (call,) = await desk.lease()
    await desk.store.receipt(call.token, "delivered", final=False)
    await desk.store.receipt(call.token, "delivered", final=True)
    await desk.settle(call, "sent", occupied_s=600)
    await desk.say("two")
    assert len(await desk.lease()) == 1


async def test_what_is_parked_for_no_time_waits_a_second(desk):
    await desk.open()
    await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "rejected")
    (facts,) = await desk.store.plan(0, 10)
    await desk.store.rebind(0, [Park(desk.conversation, SideName.CUSTOMER, facts.epoch, 0, "no_route")])
    assert await desk.store.plan(0, 10) == []
    desk.advance(1)
    assert len(await desk.store.plan(0, 10)) == 1


async def test_a_late_receipt_turns_unknown_into_delivered(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "unknown", reason="read_timeout")
    await desk.store.receipt(leased.token, "delivered")
    assert await desk.state(message) == "delivered"
    desk.advance(100)
    assert await desk.lease() == []


async def test_a_bounce_after_sent_goes_out_on_the_next_binding_marked_late_and_flagged(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "sent")
    await desk.store.receipt(leased.token, "undelivered", reason="mailbox_gone", permanent=True)
    (facts,) = await desk.store.plan(0, 10)
    assert facts.why == "unreachable" and facts.head == message
    after = await desk.store.message(message)
    assert after.late and after.possible_duplicate


async def test_after_too_many_unknown_sends_a_person_is_asked_and_then_it_fails_visibly(desk):
    await desk.open()
    message = await desk.say("one")
    for _ in range(3):
        (leased,) = await desk.lease()
        await desk.settle(leased, "unknown")
        desk.advance(61)
    assert await desk.lease() == []
    asked = await desk.store.message(message)
    assert (asked.state, asked.reason) == ("needs_human", "unknown_too_often")
    follow = await desk.say("writing on")
    assert await desk.state(message) == "failed"
    (leased,) = await desk.lease()
    assert leased.message_id == follow


async def test_a_lost_answer_can_be_asked_for_again(desk):
    await desk.open()
    await desk.say("one")
    first = await desk.lease(request="r1")
    assert await desk.lease(request="r1") == first
    assert await desk.lease(request="r2") == []


async def test_the_context_hash_is_equal_before_and_after_a_rebind(desk):
    await desk.open()
    await desk.say("one")
    await desk.move()
    (leg,) = await desk.store.legs(desk.conversation, SideName.CUSTOMER)
    assert leg["cb"] == leg["ca"] and len(leg["cb"]) == 40


async def test_people_who_share_a_phone_get_one_notice_for_all_their_conversations(desk):
    first = await desk.open()
    await desk.say("one")
    second = desk.fresh("v")
    await desk.hear("mine too", conversation=second, create=True)
    await desk.say("two", conversation=second)
    await desk.move(conversation=first)
    await desk.move(conversation=second)
    notices = [one for one in await desk.lease(SMS) if one.kind is Kind.NOTICE]
    assert len(notices) == 1 and len(notices[0].references) == 2
    await desk.settle(notices[0], "sent")
    desk.advance(2)
    leased = await desk.lease(SMS)
    assert sorted(one.content.text for one in leased) == ["one", "two"]
    assert all(one.shared == 2 for one in leased)


async def test_a_live_call_occupies_its_leg_until_its_final_status(desk):
    await desk.open()
    await desk.say("one")
    await desk.say("two")
    (call,) = await desk.lease()
    await desk.settle(call, "sent", occupied_s=600)
    assert await desk.lease() == []
    await desk.store.receipt(call.token, "unconfirmed", final=True)
    (following,) = await desk.lease()
    assert following.content.text == "two"


async def test_an_endpoint_that_lost_silently_gives_back_what_it_took(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "sent", receipt_within_s=30)
    assert await desk.store.recall(0, MAIL, desk.now - 60) == 1
    assert await desk.state(message) == "unknown"
    (again,) = await desk.lease()
    assert again.message_id == message and again.possible_duplicate


async def test_withdrawn_consent_stops_the_very_next_attempt(desk):
    await desk.open()
    await desk.say("one")
    await desk.store.redis.call("SADD", "tl:{s0}:no:c0-ann", "email:ann@example.org")
    assert await desk.lease() == []
    (facts,) = await desk.store.plan(0, 10)
    assert facts.why == "no_consent"


async def test_an_attempt_that_ends_unknown_after_a_rebind_holds_only_as_long_as_the_rebind_said(desk):
    await desk.open()
    message = await desk.say("one")
    (attempt,) = await desk.lease()
    await desk.move(hold_s=5, notice=False)
    await desk.settle(attempt, "unknown", reason="read_timeout")
    assert await desk.lease(SMS) == []
    desk.advance(5.1)
    (again,) = await desk.lease(SMS)
    assert again.message_id == message and again.possible_duplicate


async def test_attempts_are_bounded_even_when_none_was_ever_taken(desk):
    await desk.open()
    message = await desk.say("one")
    for _ in range(40):
        (leased,) = await desk.lease()
        await desk.settle(leased, "unavailable", reason="refused")
        desk.advance(31)
    assert await desk.lease() == []
    asked = await desk.store.message(message)
    assert (asked.state, asked.reason) == ("needs_human", "attempts_exhausted"), "nobody doubts that it was never taken"


async def test_a_receipt_for_an_earlier_attempt_settles_the_message_when_the_later_one_was_not_taken(desk):
    await desk.open()
    message = await desk.say("one")
    (first,) = await desk.lease()
    await desk.settle(first, "unknown", reason="read_timeout")
    desk.advance(61)
    (second,) = await desk.lease()
    await desk.store.receipt(first.token, "delivered")
    await desk.settle(second, "unavailable", reason="refused")
    assert await desk.state(message) == "delivered"
    desk.advance(61)
    assert await desk.lease() == []


async def test_a_reopened_conversation_knows_its_vendor_ids_for_as_long_as_it_is_open(desk):
    await desk.open()
    first = await desk.hear("hello", key="email/support:1")
    await desk.store.close(desk.conversation)
    await desk.hear("me again", key="email/support:2", reopen=True)
    assert await desk.store.redis.call("PTTL", "tl:{s0}:nk:email/support:1") == -1
    assert (await desk.hear("hello", key="email/support:1")).message_id == first.message_id


async def test_what_was_given_up_for_want_of_a_receipt_is_heard_when_the_receipt_comes_late(desk):
    await desk.open()
    message, follow = await desk.say("one"), await desk.say("two")
    (leased,) = await desk.lease()
    await desk.settle(leased, "sent", receipt_within_s=30)
    await desk.store.receipt(leased.token, "undelivered", reason="no_receipt")
    (facts,) = await desk.store.plan(0, 10)
    await desk.store.rebind(0, [Park(desk.conversation, SideName.CUSTOMER, facts.epoch, 600, "undelivered")])
    await desk.store.receipt(leased.token, "delivered")
    assert await desk.state(message) == "delivered"
    (leased,) = await desk.lease()
    assert leased.message_id == follow, "it holds up nobody any more"


async def test_what_failed_in_doubt_is_delivered_once_its_receipt_comes(desk):
    await desk.open()
    message = await desk.say("one", expires_in=20)
    (leased,) = await desk.lease()
    await desk.settle(leased, "unknown")
    desk.advance(61)
    assert await desk.lease() == []
    assert await desk.state(message) == "failed"
    await desk.store.receipt(leased.token, "delivered")
    assert await desk.state(message) == "delivered"


async def test_a_receipt_for_the_first_attempt_ends_the_doubt_about_the_second(desk):
    await desk.open()
    message = await desk.say("one")
    (first,) = await desk.lease()
    await desk.settle(first, "unknown")
    desk.advance(61)
    (second,) = await desk.lease()
    await desk.store.receipt(first.token, "delivered")
    await desk.settle(second, "unknown")
    assert await desk.state(message) == "delivered"
    desk.advance(120)
    assert await desk.lease() == []


async def test_a_parked_side_is_planned_at_once_when_it_is_woken_and_no_other_side_is_touched(desk):
    await desk.open()
    await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "rejected", reason="too_large")
    (facts,) = await desk.store.plan(0, 10)
    await desk.store.rebind(0, [Park(desk.conversation, SideName.CUSTOMER, facts.epoch, 30, "no_route")])
    assert await desk.store.plan(0, 10) == []
    assert await desk.store.wake_sides(0, [f"{desk.conversation}:c", f"{desk.conversation}:a"]) == 1
    assert [one.conversation_id for one in await desk.store.plan(0, 10)] == [desk.conversation]


async def test_a_doubtful_message_that_was_parked_may_go_again_where_a_credential_was_bad(desk):
    await desk.open()
    message = await desk.say("one")
    (leased,) = await desk.lease()
    await desk.settle(leased, "misconfigured")
    await desk.move(notice=False)
    (leased,) = await desk.lease(SMS)
    await desk.settle(leased, "unknown")
    await desk.store.redis.call("SADD", "tl:{s0}:no:c0-ann", "sms:+15550100")
    desk.advance(61)
    assert await desk.lease(SMS) == []
    (facts,) = await desk.store.plan(0, 10)
    assert (facts.head, facts.head_state, facts.head_waited) == (message, "unknown", False)
    await desk.store.rebind(0, [Park(desk.conversation, SideName.CUSTOMER, facts.epoch, 5, "no_consent")])
    desk.advance(6)
    (facts,) = await desk.store.plan(0, 10)
    assert facts.head_waited, "the bad credential may have been mended meanwhile"
    await desk.move(MAIL, "email:ann@example.org", notice=False)
    (leased,) = await desk.lease()
    await desk.settle(leased, "misconfigured")
    (facts,) = await desk.store.plan(0, 10)
    assert not facts.head_waited, "it was not: once more it waits first"


async def test_a_receipt_that_waits_for_its_attempt_keeps_everything_it_said(desk):
    control = Control(desk.store.redis)
    early = EarlyReceipt("undelivered", "handset off", permanent=False, final=True)
    assert await control.token_of(SMS, "vendor-1", early) == ""
    for _ in range(2):
        assert await control.claim_vendor_id(SMS, ["vendor-1"], "t0-X.1") == [early], "until it is dropped"
    await control.drop_early(SMS, ["vendor-1"])
    assert await control.claim_vendor_id(SMS, ["vendor-1"], "t0-X.1") == []
    assert await control.token_of(SMS, "vendor-1") == "t0-X.1"
