"""Promises that hold for any input, judged by others: the standards' arithmetic, vendors' libraries, an oracle."""

import hashlib
import math
from dataclasses import replace
from typing import Any

from aiosmpplib.codec import find_codec_info
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from channels.contract import Capabilities
from channels.messages import Address, Channel, Content, Kind, Matter
from channels.signatures import sign_twilio, twilio_signed
from channels.text import clean_text, sms_segments
from channels.wire.gsm0338 import Concatenation, Encoding, segment_text, split_header
from health.report import EndpointId, Status
from router.domain.catalogues import PACKAGED, packaged_catalogues
from router.domain.conversation import Binding, Leg, MessageClass
from router.domain.fitting import Manner
from router.domain.reasons import TAKEN
from router.domain.routing import EndpointView, Policy, RouteRequest, Wish, choose_route
from router.domain.wording import KEYS, VALUE_MAX, Wording

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=700)
GSM = find_codec_info("gsm0338")


def _is_gsm(text: str) -> bool:
    try:
        return bool(GSM.encode(text)[0]) or not text
    except UnicodeError:
        return False


@given(texts, st.integers(0, 0xFFFF), st.booleans())
@example("a" * 161, 0, False)
@example("€" * 80 + "a", 0, True)
@example("😀" * 36, 0, False)
@settings(max_examples=150, deadline=None)
def test_segments_fit_the_air_and_their_headers_say_what_they_are(text: str, reference: int, wide: bool) -> None:
    """140 octets each on the air, as 3GPP TS 23.040 counts them; a header read by hand is the one our reader reads."""
    cut = segment_text(text, reference, wide_reference=wide)
    assert (cut.encoding is Encoding.GSM7) == _is_gsm(text), "the independent codec says which alphabet is needed"
    header = 7 if wide else 6
    for number, part in enumerate(cut.parts, 1):
        length = header if len(cut.parts) > 1 else 0
        body = part[length:]
        if cut.encoding is Encoding.GSM7:
            fill = math.ceil(length * 8 / 7)
            assert fill + len(body) <= 160, "septets"
            assert not body.endswith(b"\x1b"), "an escape and its sign stay together"
            assert GSM.decode(body)[0]
        else:
            assert length + len(body) <= 140, "octets"
            body.decode("utf-16-be")  # raises where a surrogate pair is broken
        if length:
            expected = (
                [6, 8, 4, reference >> 8, reference & 255, len(cut.parts), number]
                if wide
                else [5, 0, 3, reference & 255, len(cut.parts), number]
            )
            assert list(part[:length]) == expected
            shown = reference if wide else reference & 255
            assert split_header(part) == (Concatenation(shown, len(cut.parts), number), body)
    if len(cut.parts) > 1:
        octets = b"".join(part[header:] for part in cut.parts)
        read = GSM.decode(octets)[0] if cut.encoding is Encoding.GSM7 else octets.decode("utf-16-be")
        assert read == text, "nothing is lost between the cuts"
        assert len(cut.parts) >= math.ceil(len(octets) / (153 if cut.encoding is Encoding.GSM7 else 134))


@given(texts)
@settings(max_examples=80, deadline=None)
def test_a_plan_costs_what_is_sent(text: str) -> None:
    """The segments a text is said to cost are the segments it goes out as."""
    plan = sms_segments(text)
    assert plan.count == len(segment_text(clean_text(text), 0).parts)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
forms = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), words, max_size=5)
URL = "https://talk.example.org/hooks/sms/t/inbound"


@given(forms, st.sampled_from(["", "?a=1&b=%2B", "?t=0.tok#rc=5&rp=all"]), st.data())
@settings(max_examples=100, deadline=None)
def test_a_signature_holds_for_its_request_and_no_other(form: dict[str, str], query: str, data: Any) -> None:
    """Twilio's library and ours say the same of the request it signed, and of the same one with a single change."""
    theirs = RequestValidator("token")
    url = URL + query
    signature = theirs.compute_signature(url, form)
    assert signature == sign_twilio("token", url, form.items())
    changed, place, given_ = dict(form), url, signature
    match data.draw(st.sampled_from(["value", "more", "less", "url", "signature", "nothing"])):
        case "value" if form:
            name = data.draw(st.sampled_from(sorted(form)))
            changed[name] = data.draw(words)
        case "more":
            changed[data.draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))] = "x"
        case "less" if form:
            changed.pop(data.draw(st.sampled_from(sorted(form))))
        case "url":
            place = url.replace(
                "inbound", data.draw(st.sampled_from(["status", "Inbound", "inbound/", "inbound%20"])), 1
            )
        case "signature":
            given_ = data.draw(st.sampled_from([signature[:-1], signature.swapcase(), "", "=" * 28, signature + "="]))
    ours = twilio_signed("token", given_, place, form=changed.items())
    assert ours == theirs.validate(place, changed, given_)
    said = sorted(set(changed.items())) == sorted(set(form.items()))
    if (place, given_) == (url, signature) and said:
        assert ours
    elif "".join(n + v for n, v in sorted(changed.items())) != "".join(n + v for n, v in sorted(form.items())):
        # Names and values are signed without a sign between them: that much is Twilio's scheme, not ours.
        assert not ours
    assert not twilio_signed("tokem", signature, url, form=form.items())


@given(st.binary(max_size=60), st.binary(min_size=1, max_size=3), st.integers(0, 60))
def test_a_signed_json_body_cannot_be_changed(body: bytes, change: bytes, at: int) -> None:
    """Its hash stands in the URL, and the URL is signed."""
    url = f"{URL}?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = RequestValidator("token").compute_signature(url, {})
    other = body[:at] + change + body[at:]
    assume(other != body)
    assert twilio_signed("token", signature, url, json_body=body)
    assert not twilio_signed("token", signature, url, json_body=other)
    assert not twilio_signed("token", signature, URL, json_body=body)


hostile = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        ["{{ 7 * 7 }}", "{% for x in range(9) %}x{% endfor %}", "a\r\n\r\nPay at evil.example", "\x00\x1b[2J"]
    ),
    st.sampled_from(["{{ organisation.__class__.__mro__ }}", "\u2028\u2029\x85\x0b\x0c", "<script>", "x" * 5_000]),
)
WORDING = Wording(packaged_catalogues(), "Contoso Insurance")
NAMES = ("organisation", "reference", "code", "name", "here", "broken", "example")


@given(
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(sorted(PACKAGED)),
    hostile,
    st.lists(hostile, min_size=1, max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_no_value_says_more_than_its_place(key: str, locale: str, value: str, many: list[str]) -> None:
    """Values are words, never templates; no line ends of their own, no control signs; bounded, however many."""
    frame = WORDING.say(key, locale, **dict.fromkeys(NAMES[1:], "V"), references=("V",), **_more(key, "V"))
    filled = WORDING.say(key, locale, **dict.fromkeys(NAMES[1:], value), references=tuple(many), **_more(key, value))
    assert filled.count("\n") <= frame.count("\n")
    assert not any(sign in filled for sign in "\r\x00\x0b\x0c\x1b\x85\u2028\u2029")
    assert len(filled) <= len(frame) + (VALUE_MAX + 2) * (len(NAMES) + 20)
    if "7 * 7" in value:
        assert "49" not in filled


def _more(key: str, value: str) -> dict[str, str]:
    """Values only some texts use."""
    known = set(NAMES) | {"references"}
    return {name: value for name in sorted(KEYS[key].samples) if name not in known}


@given(hostile, hostile, st.sampled_from(list(Channel)), st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_an_agent_says_stays_whole_on_every_medium(text: str, name: str, channel: Channel, shared: bool) -> None:
    """The words are neither run nor cut; what is added stands around them, on its own."""
    able = Capabilities(channel=channel, provider="test", text_max=100_000, io_s=5.0, files_max_bytes=0)
    matter = Matter("Contoso Insurance", "4F2K9", "en", subject=name)
    manner = Manner(kind=Kind.MESSAGE, author_name=name, shared_pair=shared, late=True, possible_duplicate=True)
    said = WORDING.render_for(able, Content(text), matter, manner).text
    kept = clean_text(text).strip()
    if channel in {Channel.SMS, Channel.CHAT}:
        assert kept in clean_text(said)
    if "7 * 7" in text:
        assert "49" not in said


ENDPOINTS = ("email/a", "email/b", "sms/a", "sms/b", "phone/a", "chat/a")
statuses = st.sampled_from([Status.UP, Status.UP, Status.DOWN, Status.SUSPECT, Status.RECOVERING, Status.UNKNOWN])


@st.composite
def worlds(draw: Any) -> tuple[RouteRequest, list[EndpointView]]:
    """Endpoints in any state and a person with any bindings, as an outage finds them."""
    views = [
        EndpointView(
            EndpointId(name),
            Capabilities(
                channel=Channel(name.partition("/")[0]),
                provider="test",
                text_max=draw(st.sampled_from([5, 1_000])),
                io_s=5.0,
                replyable=draw(st.sampled_from([True, True, False])),
            ),
            status_out=draw(statuses),
            status_in=draw(statuses),
            gate_open=draw(st.sampled_from([True, True, False])),
            share=draw(st.sampled_from([0.0, 0.5, 1.0])),
            room=draw(st.sampled_from([0.0, 5.0])),
        )
        for name in draw(st.lists(st.sampled_from(ENDPOINTS), unique=True, min_size=1, max_size=6))
    ]
    bindings = tuple(
        Binding(
            Address(channel, f"{channel}-{number}"),
            endpoint=EndpointId(bound) if (bound := draw(st.sampled_from(["", "", "", *ENDPOINTS]))) else None,
            verified=draw(st.booleans()),
            consent=draw(st.booleans()),
            order=draw(st.integers(0, 2)),
            unreachable_until=draw(st.sampled_from([0.0, 0.0, 2_000.0])),
        )
        for number, channel in enumerate(draw(st.lists(st.sampled_from(list(Channel)), max_size=4)))
    )
    at = draw(st.sampled_from(ENDPOINTS))
    where = draw(st.sampled_from(bindings)).address if bindings else Address(Channel.SMS, "x")
    request = RouteRequest(
        "v0-A",
        bindings,
        1_000.0,
        message_class=draw(st.sampled_from(list(MessageClass))),
        policy=Policy(verified_only=draw(st.sampled_from([frozenset(), frozenset({MessageClass.NORMAL})]))),
        current=draw(st.sampled_from([None, Leg(EndpointId(at), where, 0.0, "opened")])),
        wish=draw(st.sampled_from([None, Wish(EndpointId(at), where)])),
        new=draw(st.booleans()),
        text_length=draw(st.sampled_from([1, 100])),
        excluded=draw(st.sampled_from([frozenset(), frozenset({(EndpointId(at), where)})])),
    )
    return request, views


def _works(request: RouteRequest, view: EndpointView, binding: Binding) -> bool:
    """By the design's own sentences, written down a second time."""
    secret_stays = request.current or request.wish
    return (
        view.status_out is Status.UP
        and view.status_in is Status.UP
        and view.gate_open
        and view.capabilities.replyable
        and request.text_length <= view.capabilities.text_max
        and binding.consent
        and binding.address.channel is view.capabilities.channel
        and binding.endpoint in {None, view.id}
        and binding.unreachable_until <= request.now
        and (view.id, binding.address) not in request.excluded
        and (binding.verified or request.message_class not in request.policy.verified_only)
        and (
            request.message_class is not MessageClass.SECRET
            or (secret_stays is not None and secret_stays.address.channel is binding.address.channel)
        )
    )


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_nobody_is_led_to_what_is_down_while_something_is_up(world: tuple[RouteRequest, list[EndpointView]]) -> None:
    """Where the oracle sees a way, one is found, and it is none that is down; without consent there is never a way."""
    request, views = world
    by_id = {view.id: view for view in views}
    route = choose_route(request, views)
    works = [(v.id, b) for v in views for b in request.bindings if _works(request, v, b)]
    if works:
        assert route.best is not None
        verified = any(binding.verified for _, binding in works)
        best = by_id[route.best.endpoint]
        assert Status.DOWN not in (best.status_out, best.status_in)
        familiar = {(one.endpoint, one.address) for one in (request.current, request.wish) if one is not None}
        if verified and (route.best.endpoint, route.best.address) not in familiar:
            assert Status.SUSPECT not in (best.status_out, best.status_in)
            assert request.bindings[route.best.binding].verified
    for choice in route.taken:
        assert request.bindings[choice.binding].consent
        assert by_id[choice.endpoint].status_out is not Status.DOWN
        assert by_id[choice.endpoint].gate_open
    silent = replace(request, bindings=tuple(replace(one, consent=False) for one in request.bindings))
    assert choose_route(silent, views).best is None


@given(worlds())
@settings(max_examples=100, deadline=None)
def test_every_endpoint_is_given_its_reason(world: tuple[RouteRequest, list[EndpointView]]) -> None:
    """Each once for each address it could be used with, in words, taken or not."""
    request, views = world
    choices = choose_route(request, views).choices
    assert {choice.endpoint for choice in choices} == {view.id for view in views}
    for choice in choices:
        assert choice.taken is (choice.reason in TAKEN)
        assert choice.reason.words.endswith(".")
