"""Match what comes in to a conversation: joined, opened, or held until the sender proves where it belongs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from channels.messages import InboundMessage
from router.domain.ids import ALPHABET, REFERENCE_LENGTH, read_reference

DAY_S = 86_400.0
CLAIMS_MAX = 5
"""Claimed references that one message may have looked up."""
SEARCHED_MAX = 20_000
"""Characters of a message that are searched for references."""

# Five letters or digits that stand alone, not inside a word, a number or an order code with dashes.
_FIVE = rf"([0-9A-Za-z]{{{REFERENCE_LENGTH}}})(?![\w-])"
_BARE = re.compile(rf"(?<![\w-]){_FIVE}")
# As it is read out on the phone, and so sometimes typed: `4 F 2 K 9`, `4, f, 2, k, 9`.
_SPACED = re.compile(rf"(?<![\w-])((?:[0-9A-Za-z][ .,-]{{1,2}}){{{REFERENCE_LENGTH - 1}}}[0-9A-Za-z])(?![\w-])")
# The words of our notices and prompts in their four languages; `#`; a bracket, as in `[4F2K9]`.
# Repetitions are bounded, so that a message of nothing but spaces costs no more than any other.
_WORD = r"r[eé]f(?:[eé]ren(?:ce|cia|z))?|vorgang|kennung"
_MARKER = rf"(?<!\w)(?:{_WORD})\b[\s.:#=-]{{0,5}}[\[(]?\s{{0,2}}|#\s{{0,2}}|\[\s{{0,2}}#?"
_MARKED = re.compile(f"(?:{_MARKER}){_FIVE}", re.IGNORECASE)
# Also behind the answer prefixes that mail programs put before a subject.
_START = re.compile(
    rf"(?:(?:re|aw|sv|fwd?|wg|tr|rv)\s{{0,2}}:\s{{0,2}}){{0,5}}[\[(#>*\"' ]{{0,5}}(?:{_MARKER})?{_FIVE}", re.IGNORECASE
)


class How(StrEnum):
    """How a message found its conversation."""

    REPLY_TOKEN = "reply_token"  # noqa: S105 - a name: the signed token in the address, session or callback URL
    MAIL_THREAD = "mail_thread"  # it answers a mail of ours
    REFERENCE = "reference"  # typed, and of a customer who has this address
    ADDRESS_PAIR = "address_pair"  # the one that last spoke over these two addresses
    ONLY_OPEN = "only_open"  # the only open one of the customers at this address


class Why(StrEnum):
    """Why a message is held."""

    AMBIGUOUS = "ambiguous"  # several open conversations could be meant
    CLAIM = "claim"  # a reference of somebody who is not known at this address
    NOTHING_OPEN = "nothing_open"  # one of us wrote, and has no open conversation to answer
    QUEUE_FULL = "queue_full"  # its conversation takes no more: a thousand messages wait there


@dataclass(frozen=True, slots=True)
class Spoken:
    """A conversation was heard, or announced by a combined notice, between one address of ours and the sender's."""

    conversation_id: str
    customer_id: str
    at: float
    """Unix seconds, the last time."""
    open: bool = True
    announced: bool = False
    """A combined notice named it: the person may answer it although it did not speak."""


@dataclass(frozen=True, slots=True)
class MatchFacts:
    """What the store knows about a message's token, thread, references and sender."""

    now: float
    token_conversation: str = ""
    """The conversation of the verified reply token, or empty."""
    thread: Mapping[str, str] = field(default_factory=dict)
    """Message-ID to conversation id, of those the mail refers to."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Reference to conversation id, of the open conversations of the customers at the sender's address."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Of `claimed_references`, those that exist and are of none of `customers`, with their conversation ids."""
    spoken: Sequence[Spoken] = ()
    """Over this exact pair of addresses, open or closed."""
    open_conversations: Sequence[str] = ()
    """Ids of the open ones of the customers at the sender's address."""
    customers: Sequence[str] = ()
    """Ids of the customers at the sender's address, in the order they came."""
    from_agent: bool = False
    """The sender is one of us: `open_conversations` and `references` are the agent's, and nothing is opened."""


@dataclass(frozen=True, slots=True)
class Joins:
    """It belongs to this conversation."""

    conversation_id: str
    how: How


@dataclass(frozen=True, slots=True)
class Opens:
    """It begins a conversation: for this customer, or, None, for a new one."""

    customer_id: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """It waits for proof. The prompt shows no name and no content."""

    why: Why
    prompt_key: str
    """What to ask, in `wording`; empty: nothing, because nobody would read it."""
    candidates: tuple[str, ...]
    """Conversation ids, for agents; never shown to the sender."""


Match = Joins | Opens | Held


def match_inbound(event: InboundMessage, facts: MatchFacts) -> Match:
    """Say where the message belongs; the same message and facts always give the same answer.

    In this order: the signed token; the mail thread; a typed reference; the conversation that last spoke over this
    pair of addresses, if it alone did so within a day; the only open one; a new one. A new matter from a shared
    address is taken for the customer who last spoke there, else for the first.
    """
    if facts.token_conversation:
        return Joins(facts.token_conversation, How.REPLY_TOKEN)
    for message_id in event.in_reply_to:
        if message_id in facts.thread:
            return Joins(facts.thread[message_id], How.MAIL_THREAD)
    return _by_reference(event, facts) or _by_pair(event, facts) or _by_customer(event, facts)


def searched_text(event: InboundMessage) -> str:
    """Where a typed reference may stand, bounded."""
    return (event.references_text or event.text)[:SEARCHED_MAX]


def claimed_references(text: str) -> tuple[str, ...]:
    """What stands after an explicit marker (`#`, `ref`, a bracket) or alone, as it would be stored; at most 5.

    A word of five letters is no claim, nor is a number in the middle of a sentence.
    """
    text = text[:SEARCHED_MAX]
    found = [_stored(match.group(1)) for match in _MARKED.finditer(text)]
    alone = _BARE.fullmatch(text.strip().rstrip(".!"))
    if alone is not None and any(character.isdigit() for character in alone.group(1)):
        found.append(_stored(alone.group(1)))
    return tuple(dict.fromkeys(one for one in found if one))[:CLAIMS_MAX]


def typed_references(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """The known references that stand in the text, in their order; only the first if the text begins with it."""
    text = text[:SEARCHED_MAX]
    beginning = _START.match(text.lstrip())
    if beginning is not None and (first := _stored(beginning.group(1))) in known:
        return (first,)
    places = {match.start(): match.group(1) for pattern in (_BARE, _SPACED) for match in pattern.finditer(text)}
    found = (_stored(typed) for _, typed in sorted(places.items()))
    return tuple(dict.fromkeys(one for one in found if one in known))


def _stored(typed: str) -> str:
    """The reference that was meant, or empty if it cannot be one."""
    reference = read_reference(re.sub(r"[ .,-]", "", typed))
    return reference if all(character in ALPHABET for character in reference) else ""


def _by_reference(event: InboundMessage, facts: MatchFacts) -> Match | None:
    text = searched_text(event)
    typed = typed_references(text, facts.references)
    meant = tuple(dict.fromkeys(facts.references[reference] for reference in typed))
    if len(meant) == 1:
        return Joins(meant[0], How.REFERENCE)
    if meant:
        return _held(event, Why.AMBIGUOUS, meant)
    claimed = [facts.claims[reference] for reference in claimed_references(text) if reference in facts.claims]
    return _held(event, Why.CLAIM, tuple(dict.fromkeys(claimed))) if claimed else None


def _by_pair(event: InboundMessage, facts: MatchFacts) -> Match | None:
    open_ones = sorted((one for one in facts.spoken if one.open), key=_latest_first)
    if not open_ones:
        return None
    # Mail that we could not read during an outage was written with the conversations of that time in mind.
    since = min(facts.now, event.sent_at) - DAY_S
    last = open_ones[0]
    # Two that one combined notice named are equally late, however long ago.
    others = [
        one for one in open_ones[1:] if one.at >= min(since, last.at) and one.conversation_id != last.conversation_id
    ]
    if others:
        candidates = dict.fromkeys(one.conversation_id for one in open_ones if one.at >= min(since, last.at))
        return _held(event, Why.AMBIGUOUS, tuple(candidates))
    return Joins(last.conversation_id, How.ADDRESS_PAIR)


def _by_customer(event: InboundMessage, facts: MatchFacts) -> Match:
    open_ones = tuple(dict.fromkeys(facts.open_conversations))
    if len(open_ones) == 1:
        return Joins(open_ones[0], How.ONLY_OPEN)
    if open_ones:
        return _held(event, Why.AMBIGUOUS, open_ones)
    if facts.from_agent:
        return _held(event, Why.NOTHING_OPEN, ())
    if not facts.customers:
        return Opens(None)
    spoke = [one.customer_id for one in sorted(facts.spoken, key=_latest_first) if one.customer_id in facts.customers]
    return Opens(spoke[0] if spoke else facts.customers[0])


def _latest_first(spoken: Spoken) -> tuple[float, str]:
    return -spoken.at, spoken.conversation_id


def _held(event: InboundMessage, why: Why, candidates: tuple[str, ...]) -> Held:
    prompt = "prompt.code" if why is Why.CLAIM else "prompt.reference"
    # An auto-reply is filed and never answered (RFC 3834, section 2): two machines would talk for ever.
    return Held(why, "" if event.automatic else prompt, candidates)
