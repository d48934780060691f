"""Fitting: the same words as SMS, spoken, in chat and by mail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.contract import Capabilities
from channels.messages import Channel, Content, File, Kind
from channels.wire.gsm0338 import fits_gsm
from router.domain.fitting import PLAIN, Manner, fold_to_gsm, speak

PHOTO = File("a" * 64, "photo.jpg", "image/jpeg", 500)
FILM = File("b" * 64, "film.mp4", "video/mp4", 5000)


def endpoint(channel, **given):
    """What an endpoint of that channel can do."""
    return Capabilities(**{"channel": Channel(channel), "provider": "test", "text_max": 1600, "io_s": 5.0, **given})


@pytest.fixture
def said(wording, matter):
    """Render a text for a channel."""

    def render(channel, text, *, manner=PLAIN, files=(), about=None, **given):
        content = Content(text, files=files)
        return wording.render_for(endpoint(channel, **given), content, matter(**(about or {})), manner)

    return render


def test_a_short_sms_stays_as_it_is(said):
    assert said("sms", "Your parcel is on its way.").text == "Your parcel is on its way."


def test_an_sms_of_several_segments_gets_its_reference_in_front(said):
    assert said("sms", "word " * 40).text == "[4F2K9] " + ("word " * 40).strip()
    assert said("sms", "ж" * 71).text.startswith("[4F2K9] ")
    assert not said("sms", "ж" * 70).text.startswith("[4F2K9]")


def test_every_sms_gets_its_reference_where_conversations_share_the_addresses(said):
    assert said("sms", "Yes.", manner=Manner(shared_pair=True)).text == "[4F2K9] Yes."
    assert said("sms", "[4F2K9] Yes.", manner=Manner(shared_pair=True)).text == "[4F2K9] Yes."


def test_an_agents_name_stands_under_an_sms_while_there_is_room(said):
    assert said("sms", "Yes.", manner=Manner(author_name="Ana")).text == "Yes. - Ana"
    tight = said("sms", "x" * 160, manner=Manner(author_name="Ana"), text_max=160)
    assert tight.text == "x" * 160


def test_an_sms_that_is_too_long_is_said_whole_and_left_to_its_endpoint_to_refuse(said):
    assert said("sms", "x" * 500, text_max=300).text == "[4F2K9] " + "x" * 500


def test_our_own_sms_lose_the_accents_that_would_double_their_price(said):
    notice = said("sms", "así que seguimos aquí \u2018hoy\u2019", manner=Manner(kind=Kind.NOTICE))
    assert notice.text == "asi que seguimos aqui 'hoy'"
    assert said("sms", "así").text == "así"


def test_files_that_a_medium_does_not_carry_become_a_line(said):
    sms = said("sms", "Here it is.", files=(PHOTO, FILM))
    assert sms.text == "Here it is.\n(2 files are waiting for you: photo.jpg, film.mp4. Ask us to send them by email.)"
    assert sms.files == ()
    chat = said("chat", "", files=(FILM, PHOTO), files_max_bytes=1000, about={"locale": "de"})
    assert chat.text == "(1 Datei wartet auf Sie: film.mp4. Auf Wunsch senden wir sie per E-Mail.)"
    assert chat.files == (PHOTO,)


def test_the_line_about_files_names_few_and_shortly_and_nothing_when_it_is_read_out(said):
    long = File("c" * 64, "quotation-" * 10 + ".pdf", "application/pdf", 500)
    text = said("chat", "Here.", files=(long, PHOTO, FILM)).text
    assert text.splitlines()[1] == (
        "(3 files are waiting for you: quotation-quotation-quotati..., photo.jpg (+1). Ask us to send them by email.)"
    )
    assert said("phone", "Here.", files=(PHOTO,)).text.splitlines()[1:] == [
        "(1 file is waiting for you. Ask us to send it by email.)"
    ]


def test_mail_keeps_its_words_its_formatting_and_its_files(wording, matter):
    content = Content("Hello\n", html="<p>Hello</p>", subject="Hi", files=(PHOTO,))
    fitted = wording.render_for(endpoint("email", files_max_bytes=1000), content, matter())
    assert fitted == content
    kept = wording.render_for(endpoint("email"), content, matter())
    assert kept.files == ()
    line = "(1 file is too large for email: photo.jpg. Ask us for another way.)"
    assert kept.text.endswith(line)
    assert f"<p>{line}" in kept.html


def test_a_mail_without_subject_gets_the_conversations_or_ours(said):
    assert said("email", "Hello").subject == "Parcel"
    assert said("email", "Hello", about={"subject": "", "locale": "fr"}).subject == "Votre demande à Contoso Insurance"


def test_chat_is_plain_text(wording, matter):
    fitted = wording.render_for(endpoint("chat"), Content("Hi", html="<b>Hi</b>", subject="S"), matter())
    assert (fitted.text, fitted.html, fitted.subject) == ("Hi", None, None)


def test_what_is_spoken_has_no_links_and_spells_its_reference(said):
    spoken = said("phone", "See https://example.com/a?b=c or *call* us about [4F2K9].").text
    assert spoken == "See a link, which we can send you in writing or call us about 4, F, 2, K, 9."


def test_a_late_or_repeated_message_says_so_where_the_medium_has_no_other_way(said):
    assert said("sms", "Yes.", manner=Manner(possible_duplicate=True)).text == "(Perhaps a repeat) Yes."
    assert said("phone", "Oui.", manner=Manner(late=True), about={"locale": "fr"}).text == "(Envoyé en retard) Oui."
    assert said("email", "Yes.", manner=Manner(possible_duplicate=True)).text == "Yes."


def test_speaking_finds_the_reference_in_any_case_and_only_as_a_word():
    assert speak("#4f2k9 and 4F2K99", "4F2K9", "link") == "4, F, 2, K, 9 and 4F2K99"


@given(st.text(max_size=100))
def test_folding_gives_gsm_text_or_leaves_it_alone(text):
    folded = fold_to_gsm(text)
    assert folded == text or fits_gsm(folded)
