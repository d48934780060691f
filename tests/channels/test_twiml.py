"""TwiML out and in, judged by an XML parser and by Twilio's own builder."""

from xml.etree.ElementTree import canonicalize, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.twiml.voice_response import VoiceResponse

from channels.wire.twiml import (
    Dial,
    Gather,
    Hangup,
    Pause,
    Record,
    Redirect,
    Say,
    TwimlError,
    parse,
    render,
)

DOCUMENT = (
    Say("Hier ist <Acme> & Söhne", "de-DE"),
    Pause(2),
    Gather(
        "https://a.example/matter?t=1&r=2",
        (Say("Drücken Sie"), Pause(1)),
        input="speech dtmf",
        num_digits=1,
        timeout_s=7,
        finish_on_key="",
        language="de-DE",
        speech_timeout="auto",
    ),
    Dial("+15550100", "https://a.example/connected", "+15550199", 20, 600),
    Record("https://a.example/recorded", 60, 4),
    Redirect("https://a.example/next?a=1&b=2"),
    Hangup(),
)


def test_what_is_rendered_is_read_back() -> None:
    assert parse(render(*DOCUMENT)) == DOCUMENT


def test_a_document_equals_the_one_twilios_builder_makes() -> None:
    theirs = VoiceResponse()
    theirs.say("Hier ist <Acme> & Söhne", language="de-DE")
    gather = theirs.gather(
        input="dtmf", action="https://a.example/m?t=1&r=2", method="POST", timeout=10, language="en-US",
        num_digits=1, finish_on_key="",
    )  # fmt: skip
    gather.say("Press any key.", language="en-US")
    dial = theirs.dial(action="https://a.example/c", method="POST", timeout=20, time_limit=3600, answer_on_bridge=True)
    dial.number("+15550100")
    theirs.hangup()
    ours = render(
        Say("Hier ist <Acme> & Söhne", "de-DE"),
        Gather("https://a.example/m?t=1&r=2", (Say("Press any key."),), num_digits=1, timeout_s=10, finish_on_key=""),
        Dial("+15550100", "https://a.example/c"),
        Hangup(),
    )
    assert canonicalize(ours.decode()) == canonicalize(str(theirs))


@given(st.text(max_size=200))
def test_any_text_can_be_said_and_breaks_no_document(text: str) -> None:
    """Control characters and lone surrogates become spaces; markup stays text."""
    (said,) = fromstring(render(Say(text)))
    assert said.tag == "Say"
    assert not list(said)
    assert len(said.text or "") == len(text)


@pytest.mark.parametrize(
    "text", ["</Say><Dial>+1900</Dial><Say>", "<![CDATA[x]]>", '" language="x', "&amp;<!--", "]]>"]
)
def test_xml_in_a_name_is_spoken_not_run(text: str) -> None:
    assert parse(render(Say(text, language=text))) == (Say(text, text),)


def test_an_empty_document_is_an_empty_response() -> None:
    assert parse(render()) == ()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"hello",
        b"<Response>",
        b"<Other/>",
        b"<Response><Play>x</Play></Response>",
        b"<Response><Gather timeout='soon'/></Response>",
        b"<Response><Gather input='video'/></Response>",
        b"<Response><Gather><Hangup/></Gather></Response>",
        b"<!DOCTYPE Response [<!ENTITY a 'aaaa'>]><Response><Say>&a;</Say></Response>",
        b"<Response>" + b"<Say>x</Say>" * 9000 + b"</Response>",
    ],
)
def test_what_is_not_twiml_is_refused(document: bytes) -> None:
    with pytest.raises(TwimlError):
        parse(document)


def test_limits_are_held_when_rendering() -> None:
    with pytest.raises(TwimlError):
        render(Say("x" * 4097))
    with pytest.raises(TwimlError):
        render(*[Pause()] * 101)
    with pytest.raises(TwimlError):
        render(*[Say("ü" * 4000)] * 20)
