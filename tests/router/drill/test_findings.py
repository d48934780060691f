"""Whom a drill invents, and what it finds in journals made by hand."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from channels.messages import Channel
from channels.sandbox.vendor import Fault, Journal
from router.demo.judge import Ledger, Outage, answer, judge, question
from router.demo.people import addresses
from router.domain.catalogues import packaged_catalogues
from router.domain.wording import Wording
from router.drill.crowd import Crowd, check_drilled, gather
from router.drill.findings import DURING, Findings, Witness, find
from router.drill.plot import Order, Patience
from router.drill.rehearsal import (
    RehearsalFault,
)
from router.drill.report import report_lines
from router.settings import Settings


def test_some_customers_have_no_other_way_and_each_way_is_counted(real: Settings) -> None:
    """Of 16 at one endpoint two have that channel alone; another endpoint of the channel is a way all the same."""
    by_mail = gather(real, ["email/support"], 16)
    assert len(by_mail.alone) == 2
    assert {by_mail.elsewhere[one.number] for one in by_mail.people if len(one.others) == 1} == {
        ("sms/acme", "sms/twilio")
    }
    assert gather(real, ["sms/acme"], 16).alone == ()
    both = gather(real, ["sms/acme", "sms/twilio"], 32)
    assert len(both.alone) == 4
    assert sorted(both.home.values()) == ["sms/acme"] * 16 + ["sms/twilio"] * 16


def test_other_ways_follow_the_order_of_channels(real: Settings) -> None:
    """As in [failover] channel_order, without chat, which no invented customer sits at."""
    order = (Channel.SMS, Channel.CHAT, Channel.EMAIL, Channel.PHONE)
    ours = real.model_copy(update={"failover": real.failover.model_copy(update={"channel_order": order})})
    first = gather(ours, ["phone/twilio"], 8).people[0]
    assert first.others == (Channel.SMS, Channel.EMAIL)
    assert [one["order"] for one in first.bindings] == [0, 1, 1]


def test_nobody_invented_has_an_address_of_the_settings(real: Settings) -> None:
    """Not even where the settings use a number kept for fiction."""
    ours = real.model_copy(update={"endpoints": tuple(_with_number(one) for one in real.endpoints)})
    crowd = gather(ours, ["email/support"], 8)
    assert "+12035550100" not in addresses(crowd.people) and len(crowd.people) == 8


def _with_number(endpoint: Any) -> Any:
    return endpoint.model_copy(update={"sender": "+12035550100"}) if endpoint.id == "sms/acme" else endpoint


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [("sms/none", "There is no endpoint"), ("chat/shop", "no vendor"), ("sms/oneway", "Nobody can answer")],
)
def test_what_cannot_be_drilled_is_refused_with_what_can(real: Settings, endpoint: str, words: str) -> None:
    """Each with its reason."""
    with pytest.raises(RehearsalFault, match=rf"{words}.*email/support, sms/acme, sms/twilio, phone/twilio"):
        check_drilled(real, [endpoint])


def test_a_drill_is_as_patient_as_the_settings_and_bounded(real: Settings) -> None:
    """Longer holds, longer bound; `quick` is no longer than the settings' own."""
    order = Order({"sms/acme": Fault.HANG}, 40, 20.0, quick=False)
    slow = real.model_copy(update={"health": real.health.model_copy(update={"hold_s": 90.0})})
    bounds = [
        Patience.of(one, each).total_s
        for one, each in ((real, replace(order, quick=True)), (real, order), (slow, order))
    ]
    assert bounds == sorted(bounds) and bounds[0] < bounds[2] < 3_600


@dataclass
class Hand:
    """A drill's journals, written by hand: customers 1 to 8 at sms/acme, one of them alone."""

    crowd: Crowd
    fault: Fault = Fault.HANG
    at: float = 1_000.0
    witness: Witness = field(default_factory=Witness)
    states: dict[tuple[int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wording = Wording(packaged_catalogues(), "Example Parcels")
        self.ledger = Ledger(addresses(self.crowd.people), self.wording.say("mark.repeated", "fr").strip())
        self.journal = Journal()
        self.journal.watch(self.ledger.enter)
        for one in self.crowd.people:
            self.say(False, one.number, "sms/acme", question((one.number, DURING)), self.at - 1)

    def say(self, to_customer: bool, number: int, endpoint: str, text: str, at: float) -> None:
        person = next(one for one in self.crowd.people if one.number == number)
        where = person.mailbox if endpoint.startswith("email") else person.phone
        self.journal.add(at=at, endpoint=endpoint, to_customer=to_customer, customer=where, text=text, vendor_id=text)

    def answer(self, number: int, endpoint: str, at: float) -> None:
        self.say(True, number, endpoint, answer((number, DURING)), at)

    def change(self, after: str, at: float, direction: str = "out", reason: str = "five_in_a_row") -> None:
        facts = {"direction": direction, "before": "up", "after": after, "reason": reason, "words": ""}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        self.witness.hear({"kind": "endpoint.changed", "at": stamp, "endpoint": "sms/acme", "facts": facts})

    def find(self) -> Findings:
        down = self.witness.first(Outage("sms/acme", "hangs", self.at), "down")
        outage = Outage("sms/acme", "hangs", self.at, down.at if down else 0.0)
        verdict = judge(self.ledger, [outage], self.wording, "fr")
        given = {"sms/acme": self.fault}
        return find(verdict, self.ledger, self.crowd, self.witness, given, mended_at=self.at + 20, states=self.states)


@pytest.fixture
def hand(real: Settings) -> Hand:
    alone = real.model_copy(update={"endpoints": tuple(one for one in real.endpoints if one.id != "sms/twilio")})
    return Hand(gather(alone, ["sms/acme"], 8))


def test_an_outage_that_went_well_is_told_by_time_and_place(hand: Hand) -> None:
    """Six moved, each with one notice in their language; one was answered before, and who had no other way waited."""
    hand.change("suspect", 1_001.0)
    hand.change("down", 1_003.0)
    hand.change("recovering", 1_031.0)
    notice = hand.wording.notice("fr", here=Channel.EMAIL, broken=Channel.SMS, references=("4F2K9",))
    hand.answer(1, "sms/acme", 1_000.5)
    for number in range(2, 8):
        hand.say(True, number, "email/support", f"{notice}\nBonjour", 1_004.0)
        hand.answer(number, "email/support", 1_005.0 + number)
    hand.witness.hear({"kind": "message.changed", "message_id": "m1", "facts": {"st": "parked", "r": "no_route"}})
    hand.answer(8, "sms/acme", 1_032.0)
    found = hand.find()
    assert found.faults == ()
    (course,) = found.courses
    assert (course.suspect_s, course.down_s, course.recovering_s, course.up_s) == (1.0, 3.0, 31.0, 0.0)
    assert (course.verdict.first_s, course.verdict.notices) == (7.0, 6)
    assert (dict(course.moved_to), course.waited) == ({"email/support": 6}, 1)
    told = "\n".join(report_lines(found, hand.crowd))
    assert "6 answers moved: 6 to email/support. Down was settled by five in a row." in told
    assert "6 customers told by a notice; 1 answer waited until it was mended" in told
    assert "1 answer parked for a while: No endpoint can be used for this person now." in told
    assert "1 of 8 customers had no other way: 8 (sms only)." in told


def test_an_answer_that_the_router_still_holds_waits_and_any_other_is_lost(hand: Hand) -> None:
    """What is held is said, and is no fault; what nobody holds fails the drill."""
    hand.change("down", 1_003.0)
    hand.answer(1, "email/support", 1_005.0)
    hand.states = dict.fromkeys([(number, DURING) for number in range(2, 7)], "parked") | {(7, DURING): "failed"}
    found = hand.find()
    assert dict(found.waiting) == {"parked": 5}
    assert found.verdict.lost == ("7-2", "8-2")
    assert found.faults == ("lost: 7-2, 8-2",)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.HANG, "sms/acme: the outage was never noticed"),
        (Fault.LOSE_SILENTLY, "see `canary`"),
        (Fault.SLOW, ""),
    ],
)
def test_an_outage_that_nobody_noticed_fails_the_drill_unless_it_was_only_slow(
    hand: Hand, fault: Fault, words: str
) -> None:
    """A slow vendor still takes everything."""
    hand.fault = fault
    for number in range(1, 9):
        hand.answer(number, "sms/acme", 1_005.0)
    faults = hand.find().faults
    assert bool(faults) == bool(words) and all(words in one for one in faults)


@pytest.mark.parametrize("status", ["down", "suspect"])
def test_an_outage_in_which_nothing_moved_fails_the_drill(hand: Hand, status: str) -> None:
    """And says whether anybody could have moved; also where it was only suspected, and all waited."""
    hand.change(status, 1_003.0)
    for number in range(1, 9):
        hand.answer(number, "sms/acme", 1_025.0)
    assert hand.find().faults == ("nothing could move: every answer waited",)
    hand.crowd = replace(hand.crowd, elsewhere=dict.fromkeys(hand.crowd.elsewhere, ()))
    assert hand.find().faults == ("nothing could move: no customer had another way",)


def test_what_happened_before_the_fault_or_to_the_other_direction_is_no_notice_of_it(hand: Hand) -> None:
    """Only its own endpoint, for sending, from the fault on."""
    hand.change("down", 990.0)
    hand.change("down", 1_004.0, direction="in")
    assert hand.find().courses[0].down_s == 0.0


def test_of_two_outages_on_one_channel_a_notice_belongs_to_the_one_at_home(hand: Hand) -> None:
    """Both say the same; two of them are no repeat, three are."""
    outages = [Outage("sms/acme", "hangs", 1_000.0, 1_003.0), Outage("sms/twilio", "hangs", 1_000.0, 1_003.0)]
    notice = hand.wording.notice("fr", here=Channel.EMAIL, broken=Channel.SMS, references=("4F2K9",))
    for count, repeated in ((1, ()), (2, ()), (3, ("customer 1",))):
        hand.say(True, 1, "email/support", notice, 1_004.0 + count)
        verdict = judge(hand.ledger, outages, hand.wording, "fr")
        assert verdict.notices_repeated == repeated
        assert [one.notices for one in verdict.outages] == [count, 0]
