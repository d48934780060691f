"""Matching: what comes in joins a conversation, opens one, or is held; never filed by a guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.matching import (
    CLAIMS_MAX,
    Held,
    How,
    Joins,
    MatchFacts,
    Opens,
    Spoken,
    Why,
    claimed_references,
    match_inbound,
    typed_references,
)

NOW = 1_700_000_000.0
HOUR = 3600.0
REFERENCES = {"4F2K9": "v0-A", "9QX7M": "v0-B"}
BOTH = {"references": REFERENCES, "open_conversations": ("v0-A", "v0-B"), "customers": ("c0-1", "c0-2")}


def spoke(conversation, ago, **given):
    """A conversation heard over the pair some time ago."""
    return Spoken(conversation, given.pop("customer_id", "c0-1"), NOW - ago, **given)


@pytest.mark.parametrize(
    ("text", "event", "facts", "expected"),
    [
        pytest.param(
            "4F2K9 hi",
            {"in_reply_to": ("<m1>",)},
            {"token_conversation": "v0-T", "thread": {"<m1>": "v0-M"}, **BOTH},
            Joins("v0-T", How.REPLY_TOKEN),
            id="the signed token before everything",
        ),
        pytest.param(
            "9QX7M hi",
            {"in_reply_to": ("<new>", "<m1>")},
            {"thread": {"<m1>": "v0-M"}, **BOTH},
            Joins("v0-M", How.MAIL_THREAD),
            id="the thread before a typed reference",
        ),
        pytest.param("4f2k9 thanks", {}, BOTH, Joins("v0-A", How.REFERENCE), id="typed in lower case"),
        pytest.param("About ref. 9QX7M: yes", {}, BOTH, Joins("v0-B", How.REFERENCE), id="in a sentence"),
        pytest.param(
            "yes", {"references_text": "Re: [9QX7M] yes"}, BOTH, Joins("v0-B", How.REFERENCE), id="in the subject"
        ),
        pytest.param("4 F 2 K 9 yes", {}, BOTH, Joins("v0-A", How.REFERENCE), id="as it is read out"),
        pytest.param("4F2K9 and not 9QX7M", {}, BOTH, Joins("v0-A", How.REFERENCE), id="the one the text begins with"),
        pytest.param(
            "Re: Ref. 9QX7M, not 4F2K9", {}, BOTH, Joins("v0-B", How.REFERENCE), id="the one it begins with, marked"
        ),
        pytest.param(
            "both 4F2K9 and 9QX7M",
            {},
            BOTH,
            Held(Why.AMBIGUOUS, "prompt.reference", ("v0-A", "v0-B")),
            id="two references",
        ),
        pytest.param(
            "ref 7ZZZ7 please",
            {},
            {"claims": {"7ZZZ7": "v0-X"}},
            Held(Why.CLAIM, "prompt.code", ("v0-X",)),
            id="a stranger claims a reference",
        ),
        pytest.param(
            "#7ZZZ7",
            {},
            {"claims": {"7ZZZ7": "v0-X"}, "spoken": (spoke("v0-A", HOUR),), **BOTH},
            Held(Why.CLAIM, "prompt.code", ("v0-X",)),
            id="a known sender claims somebody else's",
        ),
        pytest.param(
            "my order #12345",
            {},
            {"spoken": (spoke("v0-A", HOUR),), **BOTH},
            Joins("v0-A", How.ADDRESS_PAIR),
            id="an order number that is no reference",
        ),
        pytest.param(
            "ok",
            {},
            {"spoken": (spoke("v0-A", 30 * HOUR), spoke("v0-B", HOUR)), **BOTH},
            Joins("v0-B", How.ADDRESS_PAIR),
            id="the last that spoke here",
        ),
        pytest.param(
            "ok",
            {},
            {"spoken": (spoke("v0-A", 23 * HOUR), spoke("v0-B", HOUR)), **BOTH},
            Held(Why.AMBIGUOUS, "prompt.reference", ("v0-B", "v0-A")),
            id="another spoke within a day",
        ),
        pytest.param(
            "ok",
            {},
            {"spoken": (spoke("v0-A", 2 * HOUR, announced=True), spoke("v0-B", HOUR)), **BOTH},
            Held(Why.AMBIGUOUS, "prompt.reference", ("v0-B", "v0-A")),
            id="another was announced within a day",
        ),
        pytest.param(
            "ok",
            {},
            {"spoken": (spoke("v0-A", 99 * HOUR, announced=True), spoke("v0-B", 99 * HOUR, announced=True)), **BOTH},
            Held(Why.AMBIGUOUS, "prompt.reference", ("v0-A", "v0-B")),
            id="one notice announced both, days ago",
        ),
        pytest.param(
            "ok",
            {},
            {"spoken": (spoke("v0-A", HOUR), spoke("v0-C", HOUR / 2, open=False)), **BOTH},
            Joins("v0-A", How.ADDRESS_PAIR),
            id="a closed one does not count",
        ),
        pytest.param(
            "ok",
            {"sent_at": NOW - 40 * HOUR, "late": True},
            {"spoken": (spoke("v0-A", 50 * HOUR), spoke("v0-B", 41 * HOUR)), **BOTH},
            Held(Why.AMBIGUOUS, "prompt.reference", ("v0-B", "v0-A")),
            id="a late message is judged by its own day",
        ),
        pytest.param(
            "hi", {}, {"open_conversations": ("v0-A",), "customers": ("c0-1",)}, Joins("v0-A", How.ONLY_OPEN), id="only"
        ),
        pytest.param(
            "hi", {}, BOTH, Held(Why.AMBIGUOUS, "prompt.reference", ("v0-A", "v0-B")), id="two open, none spoke here"
        ),
        pytest.param("hi", {}, {"customers": ("c0-1",)}, Opens("c0-1"), id="none open"),
        pytest.param(
            "hi",
            {},
            {
                "customers": ("c0-1", "c0-2"),
                "spoken": (
                    spoke("v0-B", HOUR, customer_id="c0-2", open=False),
                    spoke("v0-A", 9 * HOUR, customer_id="c0-1", open=False),
                ),
            },
            Opens("c0-2"),
            id="shared address: who last spoke there",
        ),
        pytest.param("hi", {}, {"customers": ("c0-1", "c0-2")}, Opens("c0-1"), id="shared address: the first"),
        pytest.param("hello there", {}, {}, Opens(None), id="a stranger"),
        pytest.param(
            "done",
            {},
            {"from_agent": True},
            Held(Why.NOTHING_OPEN, "prompt.reference", ()),
            id="an agent without open conversations opens nothing",
        ),
        pytest.param(
            "away until Monday",
            {"automatic": True},
            BOTH,
            Held(Why.AMBIGUOUS, "", ("v0-A", "v0-B")),
            id="an auto-reply is never asked",
        ),
    ],
)
def test_a_message_finds_its_conversation(inbound, text, event, facts, expected):
    assert match_inbound(inbound(text, **event), MatchFacts(now=NOW, **facts)) == expected


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("ref 4f2k9", ("4F2K9",)),
        ("Ref: 4F2K9.", ("4F2K9",)),
        ("my reference #4F2K9 please", ("4F2K9",)),
        ("[4F2K9] hi", ("4F2K9",)),
        ("Référence : 4F2K9", ("4F2K9",)),
        ("Referenz 4F2K9", ("4F2K9",)),
        ("referencia: 4F2K9", ("4F2K9",)),
        ("4F2K9", ("4F2K9",)),
        ("4f2ko9 is longer", ()),
        ("REF 4FZKI", ("4FZK1",)),
        ("hello there every one", ()),
        ("hello", ()),
        ("the 12345 parcels", ()),
        ("prefer 12345", ()),
        ("ref 4F2K9-77", ()),
        ("#4F2K9 #4F2K9 #9QX7M", ("4F2K9", "9QX7M")),
        (" ".join(f"#{number}" for number in range(10000, 10009)), tuple(str(n) for n in range(10000, 10005))),
    ],
)
def test_only_marked_or_lone_references_are_claims(text, claimed):
    assert claimed_references(text) == claimed


@pytest.mark.parametrize(
    "typed", ["4F2K9", "4f2k9", "(4F2K9)", "#4F2K9.", "ref4F2K9 4F2K9", "4, F, 2, K, 9", "x 4-F-2-K-9"]
)
def test_a_known_reference_is_found_however_it_is_typed(typed):
    assert typed_references(typed, REFERENCES) == ("4F2K9",)


@pytest.mark.parametrize("typed", ["44F2K9", "4F2K9A", "4F2K9-1", "A-4F2K9", "é4F2K9", "4F2K"])
def test_a_reference_inside_something_longer_is_none(typed):
    assert typed_references(typed, REFERENCES) == ()


def test_letters_that_people_confuse_are_put_right():
    assert typed_references("ref oli23", {"01123": "v0-A"}) == ("01123",)


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "part", [" ", "ref ", "ref", "re: ", "[ ", "# ", "4 ", "4F2K9-", "\n", "a-", "ref\n\n\n", "4, "]
)
def test_no_text_makes_the_search_slow(part):
    text = "ref" + part * 20_000
    for asked in (text, text[3:], part * 19_999 + "!"):
        claimed_references(asked)
        typed_references(asked, REFERENCES)


@given(st.text(max_size=400))
def test_any_text_is_searched_without_trouble_and_within_bounds(text):
    claimed = claimed_references(text)
    assert len(claimed) <= CLAIMS_MAX
    assert all(len(one) == 5 for one in claimed)
    assert set(typed_references(text, REFERENCES)) <= set(REFERENCES)


@given(
    st.lists(
        st.builds(
            Spoken,
            st.sampled_from(["v0-A", "v0-B", "v0-C"]),
            st.just("c0-1"),
            st.floats(NOW - 72 * HOUR, NOW),
            st.booleans(),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_nothing_is_joined_over_a_pair_that_two_open_ones_used_within_a_day(spoken):
    from channels.messages import Address, Channel, InboundMessage
    from health.report import EndpointId

    event = InboundMessage(EndpointId("sms/one"), "SM1", Address(Channel.SMS, "+15550100"), "ok", NOW)
    match = match_inbound(event, MatchFacts(now=NOW, spoken=spoken, open_conversations=("v0-A", "v0-B", "v0-C")))
    fresh = {one.conversation_id for one in spoken if one.open and one.at >= NOW - 24 * HOUR}
    if len(fresh) > 1:
        assert isinstance(match, Held)
        assert fresh <= set(match.candidates)
    elif fresh:
        assert match == Joins(fresh.pop(), How.ADDRESS_PAIR)
