"""Wording: four languages from checked templates; a bad text is refused at start."""

import pytest

from channels.messages import Channel
from channels.text import sms_segments
from router.domain.catalogues import PACKAGED, WordingError, overlay_catalogues, packaged_catalogues, parse_catalogue
from router.domain.fitting import fold_to_gsm
from router.domain.wording import FALLBACK, KEYS, Wording

ORGANISATION = "Contoso Insurance"


def with_text(key, text, locale="es"):
    """The packaged texts with one replaced."""
    return Wording(overlay_catalogues(packaged_catalogues(), {locale: {key: text}}), ORGANISATION)


def test_every_packaged_language_has_every_text_and_passes_the_check():
    catalogues = packaged_catalogues()
    assert set(catalogues) == set(PACKAGED)
    assert all(set(texts) == set(KEYS) for texts in catalogues.values())
    Wording(catalogues, "X" * 40).check()


@pytest.mark.parametrize(
    ("locale", "told"),
    [
        (
            "en",
            "Contoso Insurance: our email service has a problem, so we continue here by SMS. Nothing is lost. "
            "You can simply reply here. Reference: 4F2K9",
        ),
        (
            "es",
            "Contoso Insurance: nuestro servicio de correo electrónico tiene un problema, así que seguimos aquí por "
            "SMS. No se ha perdido nada. Puede responder aquí mismo. Referencia: 4F2K9",
        ),
        (
            "fr",
            "Contoso Insurance : notre service de e-mail a un problème, nous continuons donc ici par SMS. Rien n'est "
            "perdu. Vous pouvez simplement répondre ici. Référence : 4F2K9",
        ),
        (
            "de",
            "Contoso Insurance: E-Mail ist bei uns gerade gestört, deshalb geht es hier per SMS weiter. Es ist nichts "
            "verloren. Sie können einfach hier antworten. Referenz: 4F2K9",
        ),
    ],
)
def test_a_notice_says_who_we_are_what_happened_the_reference_and_reply_here(wording, locale, told):
    assert wording.notice(locale, here=Channel.SMS, broken=Channel.EMAIL, references=["4F2K9"]) == told


@pytest.mark.parametrize("locale", PACKAGED)
@pytest.mark.parametrize("here", Channel)
@pytest.mark.parametrize("broken", [None, *Channel])
@pytest.mark.parametrize("references", [["4F2K9"], ["4F2K9", "9QX7M", "00ZZ1"]])
@pytest.mark.parametrize("inbound_only", [False, True])
def test_every_notice_names_us_and_every_reference_and_fits_two_segments(
    wording, locale, here, broken, references, inbound_only
):
    told = wording.notice(locale, here=here, broken=broken, references=references, inbound_only=inbound_only)
    assert told.startswith(ORGANISATION)
    assert all(reference in told for reference in references)
    assert wording.channel(here, locale) in told
    assert sms_segments(fold_to_gsm(told)).count <= 2


def test_an_agent_is_told_which_conversation_reaches_them_here(wording):
    told = wording.notice("en", here=Channel.SMS, broken=Channel.EMAIL, references=["4F2K9"], to_agent=True)
    assert told.startswith("Conversation 4F2K9: email has a problem")


def test_nothing_is_said_to_be_broken_when_the_channel_stays(wording):
    told = wording.notice("en", here=Channel.EMAIL, broken=Channel.EMAIL, references=["4F2K9"])
    assert "problem" not in told
    assert wording.what_happened("en", here=Channel.EMAIL, broken=None) == "We continue by email."


@pytest.mark.parametrize("key", ["prompt.reference", "prompt.code"])
@pytest.mark.parametrize("locale", PACKAGED)
def test_prompts_can_be_said_in_every_language_without_any_name(wording, key, locale):
    assert wording.prompt(key, locale).startswith(ORGANISATION)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("de-AT", "de"), ("de_AT.UTF-8", "de"), ("DE", "de"), ("es-419", "es"), ("it", "en"), ("", "en"), ("x-y-z", "en")],
)
def test_a_missing_locale_falls_back(wording, wanted, found):
    assert wording.locale_for(wanted) == found


def test_a_regional_variant_may_change_one_text_and_leans_on_its_language():
    wording = with_text("confirm.stop", "{{ organisation }}: Es kommt nichts mehr.", locale="de-AT")
    wording.check()
    assert wording.say("confirm.stop", "de_at") == "Contoso Insurance: Es kommt nichts mehr."
    assert wording.say("channel.phone", "de_at") == "Telefon"


@pytest.mark.parametrize(
    ("key", "text", "wrong"),
    [
        ("notice.moved", "Hi {{ name }}", "unknown value 'name'"),
        ("notice.moved", "{% if urgent %}x{% endif %}y", "unknown value 'urgent'"),
        ("notice.moved", "Hi {{ organisation", "is no template"),
        ("notice.moved", "{% for x in %}", "is no template"),
        ("notice.moved", "{{ organisation.__class__.__mro__ }}", "cannot be filled in"),
        ("notice.moved", "{{ reference / 0 }}", "cannot be filled in"),
        ("notice.moved", "x" * 400, "becomes 400 characters long"),
        ("notice.moved", "ж" * 200, "takes 3 SMS segments"),
        ("notice.moved", "x" * 2001, "more than 2000 characters"),
        ("notice.moved", "   ", "says nothing"),
        ("notice.mooved", "x", "is no text of ours"),
    ],
)
def test_a_bad_text_is_refused_with_its_file_key_and_remedy(key, text, wrong):
    with pytest.raises(WordingError) as refused:
        with_text(key, text).check()
    said = str(refused.value)
    assert said.startswith(f"es.toml, {key}: ")
    assert wrong in said
    assert len(said.split(". ")) >= 2


def test_a_language_with_a_text_missing_is_refused():
    catalogues = packaged_catalogues()
    del catalogues["fr"]["confirm.stop"]
    with pytest.raises(WordingError, match=r"fr\.toml, confirm\.stop: is missing"):
        Wording(catalogues, ORGANISATION).check()


def test_without_english_there_is_nothing_to_fall_back_to():
    catalogues = packaged_catalogues()
    del catalogues[FALLBACK]
    with pytest.raises(WordingError, match=r"en\.toml: is missing"):
        Wording(catalogues, ORGANISATION).check()


@pytest.mark.parametrize("organisation", ["", "  ", "X" * 41])
def test_an_organisation_without_a_usable_name_is_refused(organisation):
    with pytest.raises(WordingError, match="organisation"):
        Wording(packaged_catalogues(), organisation).check()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[notice\n", "is not TOML"),
        ("moved = 'x'", "stands in no table"),
        ("[notice]\nmoved = 3", "is not a text"),
        ("#" * 200_001, "more than 200000"),
    ],
)
def test_a_bad_file_is_refused_by_name(text, wrong):
    with pytest.raises(WordingError, match=wrong) as refused:
        parse_catalogue(text, "own/de.toml")
    assert refused.value.file == "own/de.toml"


def test_a_value_cannot_write_a_second_paragraph_in_our_name(wording):
    said = wording.say("sms.signature", "en", name="Ana\nContoso: pay here\x00")
    assert said == " - Ana Contoso: pay here"
    assert len(wording.say("sms.signature", "en", name="x" * 5000)) < 250


def test_a_forgotten_value_is_an_error_not_a_gap(wording):
    with pytest.raises(WordingError, match=r"en\.toml, sms\.prefix: cannot be filled in"):
        wording.say("sms.prefix", "en")
