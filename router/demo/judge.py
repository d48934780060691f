"""Judges demo and drill by what vendors and browsers wrote down: lost, doubled, reordered, moved, and how fast."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from channels.messages import Channel
from channels.sandbox.vendor import Entry
from router.domain.fitting import fold_to_gsm
from router.domain.wording import Wording

LOCALE = "en"
MARK = "@@@@@"
"""Stands for a reference while a notice is cut in two."""
_REFERENCE = "[0-9A-Z]{5}"
_QUESTION = re.compile(r"^Question (\d+)-(\d+):", re.MULTILINE)
_ANSWER = re.compile(r"(?<!> )\bAnswer (\d+)-(\d+):")

Marker = tuple[int, int]
"""A customer's number and the turn: no two messages have the same."""


def question(marker: Marker) -> str:
    """What customer `marker[0]` asks in turn `marker[1]`."""
    return f"Question {marker[0]}-{marker[1]}: when does my parcel come?"


def answer(marker: Marker) -> str:
    """What an agent says to that question, and to no other."""
    return f"Answer {marker[0]}-{marker[1]}: it comes tomorrow before noon."


def read_question(text: str) -> Marker | None:
    """Whose question it is; None: it is none."""
    found = _QUESTION.search(text)
    return (int(found[1]), int(found[2])) if found else None


def _read_answer(text: str) -> Marker | None:
    """The answer said here; what a mail quotes below it was said before."""
    said = "\n".join(line for line in text.splitlines() if not line.startswith(">"))
    found = _ANSWER.search(said)
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Outage:
    """A fault that was switched on at a vendor."""

    endpoint: str
    words: str
    """For people: `hangs`."""
    at: float
    """When it was switched on, unix seconds."""
    noticed_at: float = 0.0
    """Since when the router says `down`; 0: it never did."""

    @property
    def channel(self) -> Channel:
        """Its endpoint's."""
        return Channel(self.endpoint.partition("/")[0])


@dataclass(frozen=True, slots=True)
class Arrived:
    """One answer as a vendor or a browser took it."""

    at: float
    endpoint: str
    customer: int
    """Whose address it came to."""
    marker: Marker
    flagged: bool
    """It says of itself that it may be a repeat."""
    vendor_id: str


@dataclass(frozen=True, slots=True)
class Told:
    """A message to a customer that is no answer."""

    at: float
    endpoint: str
    customer: int
    text: str


@dataclass(slots=True)
class Ledger:
    """What crossed the vendors' wires and the browsers' sockets, and nothing that we know from our own store."""

    addresses: Mapping[str, int]
    """Of every customer."""
    repeated: str
    """What a text that may be a repeat begins with."""
    asked: dict[Marker, tuple[float, str]] = field(default_factory=dict)
    """When and over which endpoint."""
    arrived: list[Arrived] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    _heard: set[tuple[str, Marker]] = field(default_factory=set)

    def enter(self, entry: Entry) -> None:
        """Take note of what a vendor wrote down."""
        customer = self.addresses.get(entry.customer, 0)
        if not entry.to_customer:
            if marker := read_question(entry.text):
                self.ask(marker, entry.at, entry.endpoint)
            return
        # A call first rings; and who calls us hears our last message again because they asked for it.
        if not entry.delivered or entry.details.get("event") == "call" or _was_called_by(entry):
            return
        flagged = self.repeated in entry.text or "possible_duplicate" in entry.details
        self._take(entry.at, entry.endpoint, customer, entry.text, flagged, entry.vendor_id)

    def ask(self, marker: Marker, at: float, endpoint: str) -> None:
        """A customer wrote."""
        self.asked.setdefault(marker, (at, endpoint))

    def show(self, at: float, endpoint: str, customer: int, text: str, message_id: str) -> None:
        """A browser showed its customer a message for the first time."""
        self._take(at, endpoint, customer, text, self.repeated in text, message_id)

    def _take(self, at: float, endpoint: str, customer: int, text: str, flagged: bool, vendor_id: str) -> None:
        marker = _read_answer(text)
        if marker is None:
            # A call says more than its message: who calls, what to press. That is no notice.
            if not endpoint.startswith(Channel.PHONE):
                self.told.append(Told(at, endpoint, customer, text))
            return
        if (vendor_id, marker) in self._heard:
            return  # said twice in one call
        self._heard.add((vendor_id, marker))
        self.arrived.append(Arrived(at, endpoint, customer, marker, flagged, vendor_id))

    def answered(self) -> set[Marker]:
        """The questions whose answer reached a customer."""
        return {one.marker for one in self.arrived}

    def has_moved(self, one: Arrived) -> bool:
        """It came elsewhere than where it was asked for."""
        return one.marker in self.asked and self.asked[one.marker][1] != one.endpoint


@dataclass(frozen=True, slots=True)
class OutageVerdict:
    """How one outage went."""

    outage: Outage
    moved: int
    """Answers that came over another endpoint than the one that broke."""
    first_s: float
    """From the fault to the first of them, seconds; 0: there was none."""
    last_s: float
    noticed_s: float
    """From the fault to `down`; 0: it was never noticed."""
    notices: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the records say."""

    asked: int
    answered: int
    moved: int
    lost: tuple[str, ...]
    doubled_flagged: int
    doubled: tuple[str, ...]
    """Unflagged."""
    reordered: tuple[str, ...]
    notices_repeated: tuple[str, ...]
    strange: tuple[str, ...]
    """Answers at somebody else's address, and messages that nobody should have got."""
    outages: tuple[OutageVerdict, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """One line each for what must not be; empty: all went well."""
        return (*self.wrongs, *(f"{one.outage.endpoint}: never noticed" for one in self.outages if not one.noticed_s))

    @property
    def wrongs(self) -> tuple[str, ...]:
        """What must not happen to a message, one line each."""
        lists = {
            "lost": self.lost,
            "doubled without a flag": self.doubled,
            "out of order": self.reordered,
            "a second notice for one outage": self.notices_repeated,
            "unexpected": self.strange,
        }
        return tuple(
            f"{words}: {', '.join(rows[:5])}{' ...' * (len(rows) > 5)}" for words, rows in lists.items() if rows
        )


def judge(ledger: Ledger, outages: Sequence[Outage], wording: Wording, locale: str = LOCALE) -> Verdict:
    """Judge what is in the ledger; `wording` only tells a notice from other texts, as a customer would who reads
    `locale`.
    """
    arrived = sorted(ledger.arrived, key=lambda one: one.at)
    by_marker: dict[Marker, list[Arrived]] = defaultdict(list)
    for one in arrived:
        by_marker[one.marker].append(one)
    again = [one for rows in by_marker.values() for one in rows[1:]]
    notices, strange = _sort_notices(ledger.told, outages, wording, locale)
    about = Counter(_about(one, ledger, outages) for one in notices)
    told = Counter((one.fits, one.customer) for one in notices)
    misled = [
        _name(one.marker) + f" came to customer {one.customer}" for one in arrived if one.customer != one.marker[0]
    ]
    return Verdict(
        asked=len(ledger.asked),
        answered=len(by_marker),
        moved=sum(1 for one in arrived if ledger.has_moved(one)),
        lost=tuple(_name(marker) for marker in sorted(ledger.asked) if marker not in by_marker),
        doubled_flagged=sum(1 for one in again if one.flagged),
        doubled=tuple(_name(one.marker) for one in again if not one.flagged),
        reordered=tuple(_reordered(rows[0] for rows in by_marker.values())),
        notices_repeated=tuple(f"customer {one}" for (fits, one), count in sorted(told.items()) if count > len(fits)),
        strange=(*misled, *strange),
        outages=tuple(_judge_outage(ledger, outage, arrived, about[index]) for index, outage in enumerate(outages)),
    )


def _judge_outage(ledger: Ledger, outage: Outage, arrived: Iterable[Arrived], notices: int) -> OutageVerdict:
    moved = [
        one.at - outage.at
        for one in arrived
        if ledger.has_moved(one) and one.at >= outage.at and ledger.asked[one.marker][1] == outage.endpoint
    ]
    noticed_s = outage.noticed_at - outage.at if outage.noticed_at else 0.0
    return OutageVerdict(outage, len(moved), min(moved, default=0.0), max(moved, default=0.0), noticed_s, notices)


def _reordered(first_arrivals: Iterable[Arrived]) -> list[str]:
    """Answers that came after a later one of the same customer."""
    latest: dict[int, int] = {}
    found = []
    for one in sorted(first_arrivals, key=lambda one: one.at):
        customer, turn = one.marker
        if turn < latest.get(customer, 0):
            found.append(_name(one.marker))
        latest[customer] = max(turn, latest.get(customer, 0))
    return found


@dataclass(frozen=True, slots=True)
class _Noticed:
    """A notice, by what it says."""

    customer: int
    fits: tuple[int, ...]
    """The outages it may be about: of two on one channel a notice says the same."""


def _sort_notices(
    told: Iterable[Told], outages: Sequence[Outage], wording: Wording, locale: str
) -> tuple[list[_Noticed], list[str]]:
    """The notices, and in words what is no notice of any outage."""
    texts = [_notices_of(outage, wording, locale) for outage in outages]
    notices: list[_Noticed] = []
    strange: list[str] = []
    for one in told:
        said = _plain(one.text)
        fits = tuple(index for index, patterns in enumerate(texts) if any(each.search(said) for each in patterns))
        if fits:
            notices.append(_Noticed(one.customer, fits))
        else:
            strange.append(f"{one.endpoint} told customer {one.customer}: {one.text[:80]!r}")
    return notices, strange


def _about(notice: _Noticed, ledger: Ledger, outages: Sequence[Outage]) -> int:
    """Which outage it is about: of those that fit, the latest at an endpoint that this customer wrote over."""
    wrote = {endpoint for (customer, _), (_, endpoint) in ledger.asked.items() if customer == notice.customer}
    return next((index for index in reversed(notice.fits) if outages[index].endpoint in wrote), notice.fits[-1])


def _notices_of(outage: Outage, wording: Wording, locale: str) -> list[re.Pattern[str]]:
    """What a notice of this outage says, on each channel it may be told on, whatever its reference."""
    texts = {
        wording.notice(locale, here=here, broken=outage.channel, references=(MARK,), inbound_only=inbound)
        for here in Channel
        for inbound in (False, True)
    }
    return [re.compile(_REFERENCE.join(re.escape(part) for part in _plain(text).split(MARK))) for text in sorted(texts)]


def _plain(text: str) -> str:
    """As every medium carries it: on one line, without the accents that an SMS may leave out."""
    return fold_to_gsm(" ".join(text.split()))


def _was_called_by(entry: Entry) -> bool:
    """Said in a call that the customer began: only our own calls carry an attempt's token."""
    return entry.details.get("event") == "say" and not entry.details.get("token")


def _name(marker: Marker) -> str:
    return f"{marker[0]}-{marker[1]}"
