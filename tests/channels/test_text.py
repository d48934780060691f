"""Text rules of every channel."""

import unicodedata

import pytest

from channels.text import clean_text, one_line, opt_keyword, sms_segments
from channels.wire.gsm0338 import Encoding


@pytest.mark.parametrize(
    "text",
    [
        *(
            "STOP",
            "stop",
            " Stop. ",
            "«STOP»",
            "stopall",
            "STOP ALL",
            "Unsubscribe!",
            "cancel",
            "END",
            "quit",
            "opt-out",
        ),
        *("ARRET", "Arrêt", "ARRE\u0302T", "désabonner", "ALTO", "parar", "¡BAJA!", "cancelar", "STOPP", "Abmelden"),
        "\uff33\uff34\uff2f\uff30",
    ],
)
def test_stop_words_are_recognised(text: str) -> None:
    """Whatever the case, the accents and the punctuation around them."""
    assert opt_keyword(text) == "stop"


@pytest.mark.parametrize("text", ["START", "unstop", "Alta", "anmelden", "opt in"])
def test_start_words_are_recognised(text: str) -> None:
    """Only words that nobody says by the way."""
    assert opt_keyword(text) == "start"


@pytest.mark.parametrize("text", ["help", "INFO", "ayuda", "Aide", "Hilfe!"])
def test_help_words_are_recognised(text: str) -> None:
    """As the networks ask for."""
    assert opt_keyword(text) == "help"


@pytest.mark.parametrize(
    "text",
    [
        *("", "...", "please stop", "stop the train", "YES", "oui", "Sí", "ja", "no", "fin", "Ende", "endless"),
        *("stop" * 20, "I cannot start it", "can you help me?", "stop\n--\nAnna"),
    ],
)
def test_ordinary_words_are_no_keywords(text: str) -> None:
    """Consent neither ends nor returns by accident."""
    assert opt_keyword(text) is None


def test_control_characters_go_and_line_ends_stay() -> None:
    """CR LF, CR, NEL and the Unicode separators all end a line; a tab is a space."""
    assert clean_text("a\r\nb\rc\x00\x07\td\u2028e\x85f\x1b[31m\x7f\ufeff\ud800") == "a\nb\nc d\ne\nf[31m"
    assert clean_text("👩\u200d👧 naïve") == "👩\u200d👧 naïve"


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x00b", "a\u2028b", "a\x85b", "Bcc: x\r\n"])
def test_a_header_field_takes_no_line_end(text: str) -> None:
    """It is refused, not repaired: somebody meant harm or made a mistake."""
    with pytest.raises(ValueError, match="one line"):
        one_line(text)


def test_one_line_returns_what_is_one_line() -> None:
    """Unchanged."""
    assert one_line("Ünïcode: fine") == "Ünïcode: fine"


def test_segments_are_planned_for_the_cleaned_text() -> None:
    """What goes out is what is counted."""
    assert sms_segments("a" * 160 + "\x07").count == 1
    plan = sms_segments("Grüße €5")
    assert (plan.encoding, plan.count, plan.characters) == (Encoding.GSM7, 1, 9)
    assert sms_segments("“quoted”").encoding is Encoding.UCS2


def test_no_character_that_must_go_is_overlooked():
    """Each alone, as nothing else in the text might tell of it."""
    line_ends = {"\r", "\n", "\x85", "\u2028", "\u2029"}
    for number in range(0x10000):
        character = chr(number)
        if character in line_ends:
            expected = "\n"
        elif character == "\t":
            expected = " "
        elif unicodedata.category(character) in {"Cc", "Cs"} or character in "\ufeff\ufffe\uffff":
            expected = ""
        else:
            expected = character
        assert clean_text(character) == expected, hex(number)
