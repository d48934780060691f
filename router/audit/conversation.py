"""What must hold of one conversation: pure checks over the pages it was read in."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from channels.messages import Kind
from channels.text import opt_keyword
from router.audit.records import Finding, MessageRecord, Page, SideRecord
from router.domain.conversation import ENDED, MessageClass, MessageState, SideName
from router.store import keys
from router.store.reading import QUEUE_MAX
from router.store.store import NATURAL_KEY_KEPT_MS

TAKEN = frozenset({"unknown", "sent", "delivered", "read", "undelivered", "unconfirmed"})
"""Outcomes after which the provider may have taken it."""
UNKNOWN_MAX = 20
"""Attempts of one message with unknown outcomes: the most that `[messages] attempts_max` may say."""
ATTEMPTS_MAX = 40
"""Attempts of one message, of any outcome; see lease.lua."""
STOP_HOLDS_MS = 10 * 60 * 1000
LEASES_LATE = 2
LATE_LEAST_MS = 10_000
"""A deadline that passed this many leases ago, and 10 s, should long have been noticed."""

REPORT = "A bug: keep the data folder and report it"
WAKE = "Nobody will look at it by itself: have an agent write to the conversation, which makes the side due; report it"
WAIT_OR_FAIL = "Ask the provider whether it was taken before anybody writes it again; report it"


@dataclass(slots=True)
class Examination:
    """One conversation, page by page, then as a whole."""

    conversation_id: str
    refused_since_ms: dict[SideName, int] = field(default_factory=dict)
    """Since when at the latest a side's place refuses messages: filled in from an earlier look."""
    next: int = 0
    """The position to read from."""
    files: set[tuple[str, str]] = field(default_factory=set)
    """(SHA-256, message id) of every file the conversation names."""
    findings: list[Finding] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)
    _rolling: str = ""
    _fences: dict[SideName, dict[int, str]] = field(default_factory=lambda: {name: {} for name in SideName})
    _begun: dict[SideName, int] = field(default_factory=dict)
    _sequence: int = 0
    _opts: list[tuple[int, str, bool]] = field(default_factory=list)
    _at_refused: list[tuple[int, str, SideName, str]] = field(default_factory=list)
    _page: Page | None = None

    def see(self, page: Page) -> bool:
        """Check a page; True once the whole conversation has been seen."""
        self._page = page
        for message in page.messages:
            self._see_message(page, message)
        self.next = page.end
        if page.messages and self.next < page.length:
            return False
        self._see_whole(page)
        return True

    @property
    def refused(self) -> dict[SideName, int]:
        """Sides whose place refuses messages, by the time that was seen."""
        page = self._page
        return {side.name: page.at_ms for side in page.sides if side.refused} if page else {}

    def _say(self, invariant: int, words: str, message_id: str = "", repair: str = REPORT) -> None:
        self.findings.append(Finding(invariant, words, self.conversation_id, message_id, repair))

    def _see_message(self, page: Page, message: MessageRecord) -> None:
        if message.id in self._ids:
            self._say(1, "a message stands in the transcript twice", message.id)
        self._ids.add(message.id)
        row = message.fields
        if not row:
            self._say(
                1, "the transcript names a message that is gone", message.id, "Restore it from a backup; report it"
            )
            return
        if row.get("k") != Kind.NOTICE:
            text = f"{self._rolling}{message.id}{row.get('b', '')}"
            self._rolling = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._see_sequence(message)
        side = page.side(row.get("s", ""))
        if row.get("c") != self.conversation_id or side is None:
            self._say(1, "a message belongs to another conversation than its transcript", message.id)
            return
        for words, invariant in _misplaced(message, side):
            self._say(invariant, words, message.id, WAKE)
        if row.get("nk") and message.natural_key_says != message.id:
            young = page.at_ms - int(row.get("ca") or 0) < NATURAL_KEY_KEPT_MS
            if message.natural_key_says or young:
                self._say(9, "its natural key does not lead to it: the vendor's next delivery doubles it", message.id)
        for words, invariant in _wrong_attempts(message, side):
            self._say(invariant, words, message.id, WAIT_OR_FAIL if invariant == 5 else REPORT)
        self._see_order(message, side)
        self._see_consent(message, side)
        self.files |= {(sha256, message.id) for sha256 in _files_of(row)}

    def _see_sequence(self, message: MessageRecord) -> None:
        sequence = int(message.fields.get("q") or 0)
        if sequence <= self._sequence:
            self._say(4, "the transcript is not in its order", message.id)
        self._sequence = max(self._sequence, sequence)

    def _see_order(self, message: MessageRecord, side: SideRecord) -> None:
        attempts = [one for one in message.attempts if one]
        for attempt in attempts:
            fence, token = int(attempt["f"]), str(attempt["t"])
            other = self._fences[side.name].setdefault(fence, token)
            if other != token:
                self._say(6, "two attempts of one side have the same fence", message.id)
        if attempts and message.fields.get("k") == Kind.MESSAGE:
            first = int(attempts[0]["f"])
            if first < self._begun.get(side.name, 0):
                self._say(4, "it was begun before a message that comes before it", message.id)
            self._begun[side.name] = max(first, self._begun.get(side.name, 0))

    def _see_consent(self, message: MessageRecord, side: SideRecord) -> None:
        """Gather who asked us to stop, and what was begun at a place that refuses now."""
        row = message.fields
        word = opt_keyword(_text_of(row)) if side.name is SideName.AGENT else None
        if word in {"stop", "start"}:
            self._opts.append((int(row.get("ca") or 0), row.get("ep", ""), word == "stop"))
        if side.refused and row.get("k") != Kind.CONFIRMATION:
            place = side.fields.get("ad")
            self._at_refused += [
                (int(one["b"]), str(one["ep"]), side.name, message.id)
                for one in message.attempts
                if one and one["ad"] == place
            ]

    def _see_refusals(self) -> None:
        """What was begun after the place had been seen to refuse, or soon after its owner wrote STOP to this endpoint.

        Consent may have been given back and withdrawn again elsewhere, so an old STOP proves nothing.
        """
        for begun_ms, endpoint, side, message_id in self._at_refused:
            seen = self.refused_since_ms.get(side)
            before = [stop for at, where, stop in self._opts if where == endpoint and 0 < begun_ms - at < STOP_HOLDS_MS]
            stopped = side is SideName.CUSTOMER and bool(before) and before[-1]
            if stopped or (seen is not None and begun_ms > seen):
                self._say(
                    11, "an attempt was begun at a place whose owner had refused", message_id, "Apologise; report it"
                )

    def _see_whole(self, page: Page) -> None:
        row = page.fields
        if page.length != int(row.get("sq") or 0):
            self._say(1, f"{row.get('sq')} messages were accepted, the transcript has {page.length}")
        if self._rolling != row.get("th", ""):
            self._say(10, "the transcript is not what was accepted: its rolling hash differs")
        if row.get("op") == "1":
            if row.get("hd") != "1" and not page.listed_open:
                self._say(0, "an open conversation is not listed as open: nobody sees it", "", WAKE)
            if row.get("hd") != "1" and not page.listed_of_customer:
                self._say(0, "an open conversation is not among its customer's: replies do not find it")
        elif page.listed_open or not page.listed_closed:
            self._say(0, "a closed conversation is not listed as closed: it is never archived")
        question = row.get("qu", "")
        if question and question not in self._ids:
            self._say(10, "the open question is not in the transcript", question)
        self.files |= {(str(file[0]), "") for file in json.loads(row.get("fl") or "[]")}
        for side in page.sides:
            self._see_side(page, side)
        self._see_refusals()

    def _see_side(self, page: Page, side: SideRecord) -> None:
        if not side.fields.get("e"):
            self._say(2, f"{side.words} is gone", "", "Restore it from a backup; report it")
            return
        for words, invariant, message_id in _wrong_queue(side, self._ids):
            self._say(invariant, words, message_id)
        for words, invariant in _wrong_due(side):
            self._say(invariant, words, "", WAKE)
        for words, invariant in _wrong_legs(side):
            self._say(invariant, words)
        highest = max(self._fences[side.name], default=0)
        if highest > side.number("f"):
            self._say(6, f"{side.words} has a fence below one of its attempts'", "", REPORT)
        if page.fields.get("op") == "1" and side.fields.get("ep") and not side.indexed:
            self._say(0, f"{side.words} is not listed at its endpoint: a failover would forget it", "", WAKE)
        if side.fields.get("t") and side.fields.get("m") not in self._ids:
            self._say(2, f"{side.words} has an attempt open at a message of no transcript", side.fields.get("m", ""))
        lease_ms = _lease_ms(page, side)
        if side.number("l") and page.at_ms > side.number("l") + max(LATE_LEAST_MS, LEASES_LATE * lease_ms):
            self._say(
                3,
                f"{side.words} has a lease that ran out long ago and nobody noticed",
                side.fields.get("m", ""),
                "Start the dispatcher of its endpoint: it takes the side up again",
            )


def _misplaced(message: MessageRecord, side: SideRecord) -> Iterator[tuple[str, int]]:
    """A message is in one place: its side's queue, an attempt, parked with a time, or ended."""
    state, queued = message.fields.get("st", ""), side.queue.count(message.id)
    attempted = side.fields.get("t", "") != "" and side.fields.get("m") == message.id
    if state not in set(MessageState):
        yield f"its state is {state[:20]!r}, which is none", 2
    if (state == MessageState.SENDING) != attempted:
        yield ("it is being sent, but no attempt is open" if not attempted else f"it is {state} while it is sent"), 2
    if message.fields.get("k") == Kind.NOTICE:
        # A notice stands beside the queue, and is never said twice: unknown is its end.
        if queued:
            yield "a notice stands in a queue", 2
        if state == MessageState.QUEUED and side.notice.get("id") != message.id:
            yield "a notice waits that its side knows nothing of", 2
        return
    ended = state in ENDED
    if ended and queued:
        yield f"it is {state} and still queued: it will be said again", 2
    if not ended and queued == 0:
        yield f"it is {state} and in no queue: nobody will say it", 2
    if queued > 1:
        yield "it is queued twice", 2
    if state == MessageState.PARKED and not (int(float(message.fields.get("pu") or 0)) and message.fields.get("r")):
        yield "it is parked without a time or a reason", 15


def _wrong_attempts(message: MessageRecord, side: SideRecord) -> Iterator[tuple[str, int]]:
    row, attempts = message.fields, message.attempts
    if any(not one for one in attempts):
        yield "an attempt's record is gone", 2
    known = [one for one in attempts if one]
    if any(one["o"] == "" and one["t"] != side.fields.get("t") for one in known):
        yield "an attempt is open that its side knows nothing of", 6
    fences = [int(one["f"]) for one in known]
    if any(after <= before for before, after in pairwise(fences)):
        yield "its attempts' fences do not grow", 6
    if any(int(one["e"]) > side.number("e") for one in known):
        yield "an attempt has a later epoch than its side", 6
    expires = int(float(row.get("xp") or 0))
    if expires and any(int(one["b"]) >= expires for one in known):
        yield "an attempt was begun after it had expired", 12
    if row.get("cl") == MessageClass.SECRET and len({str(one["ep"]).partition("/")[0] for one in known}) > 1:
        yield "a secret was tried on more than one channel", 11
    if sum(one["o"] == "unknown" for one in known) > UNKNOWN_MAX or len(attempts) > ATTEMPTS_MAX:
        yield "it was tried more often than ever allowed", 13
    if row.get("fl") != "1" and _second_taking(message):
        yield "it was begun again unflagged though it may have been taken before", 5


def _second_taking(message: MessageRecord) -> bool:
    """Whether an attempt was begun although an earlier one may have been taken, and not idempotently."""
    attempts = [one for one in message.attempts if one]
    for number, later in enumerate(attempts):
        for earlier in attempts[:number]:
            idempotent = earlier.get("i") == 1 and later.get("i") == 1 and earlier["ep"] == later["ep"]
            if earlier["o"] in TAKEN and not idempotent:
                return True
    return False


def _wrong_queue(side: SideRecord, ids: set[str]) -> Iterator[tuple[str, int, str]]:
    for message_id in side.queue:
        if message_id not in ids:
            yield f"{side.words} has a message queued that is not in the transcript", 2, message_id
    if len(side.queue) > QUEUE_MAX + 100:  # what comes back after it was sent goes in front, however many wait
        yield f"{side.words} has more than {QUEUE_MAX} messages queued", 13, ""


def _wrong_due(side: SideRecord) -> Iterator[tuple[str, int]]:
    """Whoever has something to do stands in the due set it says, and in no other."""
    work = bool(side.queue or side.notice or side.number("l"))
    where = side.fields.get("dp", "")
    if work and not where:
        yield f"{side.words} has something to do and is in no due set", 3
    if work and where and side.due is None:
        yield f"{side.words} says that it is due at {where}, and is not", 3
    if work and where and where not in {keys.PLAN, side.fields.get("ep")}:
        yield f"{side.words} is due at {where}, where its leg is not", 3
    if side.due is not None and not work:
        yield f"{side.words} is due at {where} with nothing to do", 3
    if bool(side.number("l")) != bool(side.fields.get("t")):
        yield f"{side.words} has a lease without an attempt, or an attempt without a lease", 6


def _wrong_legs(side: SideRecord) -> Iterator[tuple[str, int]]:
    if side.number("e") > 1 and not side.legs:
        yield f"{side.words} was rebound without a record of it", 10
    epochs = [int(leg["e"]) for leg in side.legs]
    if any(after <= before for before, after in pairwise(epochs)):
        yield f"{side.words} has epochs that do not grow", 6
    if any(leg["cb"] != leg["ca"] for leg in side.legs):
        yield f"{side.words} was rebound and its context changed", 10
    if side.legs:
        last = side.legs[-1]
        if (int(last["e"]), last["ep"], last["ad"]) != (side.number("e"), side.fields.get("ep"), side.fields.get("ad")):
            yield f"{side.words} is not where its last rebind put it", 10


def _lease_ms(page: Page, side: SideRecord) -> int:
    """How long the open lease is; a minute where its attempt is not on this page."""
    for message in page.messages:
        if message.id == side.fields.get("m"):
            for one in message.attempts:
                if one and one["t"] == side.fields.get("t"):
                    return int(one["d"]) - int(one["b"])
    return 60_000


def _files_of(row: Mapping[str, str]) -> set[str]:
    found = {str(file[0]) for file in json.loads(row.get("b") or "{}").get("files") or ()}
    return found | ({row["og"]} if row.get("og") else set())


def _text_of(row: Mapping[str, str]) -> str:
    return str(json.loads(row.get("b") or "{}").get("text", ""))
