"""The demo: its judge on records made by hand, and a small one played for real in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from channels.messages import Channel
from channels.sandbox.app import CANARIES, MAIL, PHONE_NUMBER, SMS, SMS_BACKUP, SMS_BACKUP_NUMBER, SMS_NUMBER
from channels.sandbox.vendor import Journal
from router.demo.judge import Ledger, Outage, answer, judge, question, read_question
from router.demo.people import CHAT, Person, addresses, cast
from router.domain.catalogues import packaged_catalogues
from router.domain.wording import Wording
from tests.processes import naming

WORDING = Wording(packaged_catalogues(), "Example Parcels")
REPEATED = WORDING.say("mark.repeated", "en").strip()
PEOPLE = cast(8)
ANN, BOB = PEOPLE[0], PEOPLE[4]
"""Both write by mail."""

ROOT = Path(__file__).parents[2]


class Wire:
    """Vendors' journal entries in few words."""

    def __init__(self):
        self.ledger = Ledger(addresses(PEOPLE), REPEATED)
        self.journal = Journal()
        self.journal.watch(self.ledger.enter)
        self.at = 1000.0
        self.count = 0

    def ask(self, person: Person, turn: int, endpoint: str = MAIL) -> None:
        self._add(False, person, endpoint, question((person.number, turn)))

    def answer(self, person: Person, turn: int, endpoint: str = MAIL, *, to: Person | None = None, **more) -> None:
        self._add(True, to or person, endpoint, more.pop("mark", "") + answer((person.number, turn)), **more)

    def tell(self, person: Person, text: str, endpoint: str = SMS) -> None:
        self._add(True, person, endpoint, text)

    def judge(self, *outages: Outage):
        return judge(self.ledger, outages, WORDING)

    def _add(self, to_customer, person, endpoint, text, **more):
        self.at += 1
        self.count += 1
        where = person.mailbox if endpoint == MAIL else person.phone
        more.setdefault("vendor_id", f"id{self.count}")
        self.journal.add(at=self.at, endpoint=endpoint, to_customer=to_customer, customer=where, text=text, **more)


@pytest.fixture
def wire():
    return Wire()


def test_everybody_has_addresses_of_their_own_and_the_four_channels_share_them_evenly():
    people = cast(400)
    assert len(addresses(people)) == 800
    assert [sum(one.channel is channel for one in people) for channel in Channel] == [100] * 4


def test_no_customer_has_a_number_of_the_stand_ins():
    """What is sent to a canary comes back to us and reaches nobody."""
    assert not {SMS_NUMBER, SMS_BACKUP_NUMBER, PHONE_NUMBER, *CANARIES.values()} & addresses(cast(5_000)).keys()


def test_a_question_is_told_from_what_a_mail_quotes():
    text = f"Thanks.\n\nOn Monday, Support wrote:\n> {answer((1, 1))}"
    assert read_question(question((1, 2)) + text) == (1, 2)
    assert read_question(f"> {question((1, 2))}") is None


def test_all_is_well_when_each_question_has_its_answer(wire):
    for turn in (1, 2):
        wire.ask(ANN, turn)
        wire.answer(ANN, turn)
    verdict = wire.judge()
    assert (verdict.asked, verdict.answered, verdict.moved, verdict.faults) == (2, 2, 0, ())


def test_an_answer_that_never_came_or_was_lost_by_the_vendor_is_lost(wire):
    wire.ask(ANN, 1)
    wire.ask(BOB, 1)
    wire.answer(BOB, 1, delivered=False)
    assert wire.judge().lost == ("1-1", "5-1")


@pytest.mark.parametrize(
    ("second", "flagged", "unflagged"),
    [
        ({}, 0, 1),
        ({"mark": f"{REPEATED} "}, 1, 0),
        ({"details": {"possible_duplicate": "yes"}}, 1, 0),
        ({"vendor_id": "id2"}, 0, 0),
    ],
)
def test_a_repeat_counts_unless_it_is_the_same_call_and_is_bad_unless_it_says_so(wire, second, flagged, unflagged):
    wire.ask(ANN, 1)
    wire.answer(ANN, 1)
    wire.answer(ANN, 1, SMS, **second)
    verdict = wire.judge()
    assert (verdict.doubled_flagged, len(verdict.doubled)) == (flagged, unflagged)


def test_what_customers_hear_when_they_call_us_is_no_repeat(wire):
    phone = PEOPLE[3]
    wire.ask(phone, 1, "phone/sandbox")
    wire.answer(phone, 1, "phone/sandbox", details={"event": "say", "token": "t"})
    wire.answer(phone, 1, "phone/sandbox", details={"event": "say", "token": ""})
    assert wire.judge().faults == ()


def test_a_later_answer_before_an_earlier_one_is_out_of_order(wire):
    for turn in (1, 2):
        wire.ask(ANN, turn)
    for turn in (2, 1):
        wire.answer(ANN, turn)
    assert wire.judge().reordered == ("1-1",)


def test_an_answer_at_somebody_elses_address_and_a_message_nobody_expects_are_faults(wire):
    wire.ask(ANN, 1)
    wire.answer(ANN, 1, to=BOB)
    wire.tell(ANN, "Win a phone!")
    assert len(wire.judge().strange) == 2


def test_each_outage_may_tell_a_customer_once_and_is_timed_from_its_fault(wire):
    first, second = Outage(MAIL, "hangs", 1001.5, 1003.5), Outage(SMS, "refuses", 1004.5, 1005.5)
    by_sms = WORDING.notice("en", here=Channel.SMS, broken=Channel.EMAIL, references=("4F2K9",))
    again = WORDING.notice("en", here=Channel.SMS, broken=Channel.SMS, references=("4F2K9",))
    wire.ask(ANN, 1)
    wire.tell(ANN, by_sms)
    wire.answer(ANN, 1, SMS)
    wire.ask(ANN, 2, SMS)
    wire.tell(ANN, again, SMS_BACKUP)
    wire.answer(ANN, 2, SMS_BACKUP)
    verdict = wire.judge(first, second)
    assert verdict.faults == ()
    assert [(one.moved, one.noticed_s, one.last_s, one.notices) for one in verdict.outages] == [
        (1, 2.0, 1.5, 1),
        (1, 1.0, 1.5, 1),
    ]
    wire.tell(ANN, by_sms, SMS_BACKUP)
    assert wire.judge(first, second).notices_repeated == ("customer 1",)


def test_an_outage_that_was_never_noticed_fails_the_demo(wire):
    assert wire.judge(Outage(MAIL, "hangs", 1000.0)).faults == (f"{MAIL}: never noticed",)


def test_a_browser_shows_a_message_once(wire):
    chatting = PEOPLE[1]
    wire.ledger.ask((2, 1), 1.0, CHAT)
    wire.ledger.show(2.0, CHAT, chatting.number, answer((2, 1)), "m0-1")
    assert wire.judge().faults == ()
    wire.ledger.show(3.0, CHAT, chatting.number, answer((2, 1)), "m0-2")
    assert wire.judge().doubled == ("2-1",)


def play(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A demo with its folder in `folder`, settings in the environment that it must not obey, and no terminal."""
    environment = {**os.environ, "TMPDIR": str(folder), "THROUGHLINE_SHARDS": "none", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "router", "demo", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def alive(folder: Path) -> list[int]:
    """The processes whose environment or command line names a folder of the demo."""
    return naming(f"{folder}/throughline-demo-")


@pytest.mark.timeout(170)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_small_demo_tells_its_story_succeeds_and_leaves_nothing(tmp_path):
    """16 customers, in a pipe: plain lines, both outages noticed, answers moved, status 0, no process, no folder."""
    with play(tmp_path, "--customers", "16") as demo:
        told, _ = demo.communicate(timeout=160)
    assert demo.returncode == 0, told
    assert "\x1b" not in told and "[health]" in told and "hold_s" in told
    assert f"{MAIL} is down, noticed after" in told and f"{SMS} is down, noticed after" in told
    assert "Nothing was lost, doubled without a flag, or out of order." in told
    assert "moved to another endpoint" in told
    assert not list(tmp_path.iterdir()) and not alive(tmp_path)


@pytest.mark.timeout(100)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_ends_the_demo_and_everything_it_started(tmp_path):
    """Pressed in the middle of the first turn: status 130, and nothing is left."""
    with play(tmp_path, "--customers", "4") as demo:
        assert demo.stdout is not None
        told = ""
        for line in demo.stdout:
            told += line
            if "4 customers write" in line:
                break
        assert len(alive(tmp_path)) >= 5, told
        demo.send_signal(signal.SIGINT)
        told += demo.stdout.read()
        assert demo.wait(30) == 130, told
    assert "Interrupted" in told and "Traceback" not in told
    deadline = time.monotonic() + 5
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(tmp_path) and not list(tmp_path.iterdir())
