"""Webhook signatures, judged by the vendors' own libraries."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from channels.signatures import sign_twilio, twilio_signed

TOKEN = "12345"
URL = "https://throughline.example/hooks/sms/acme/status?t=0.abc&x=%2B1"
FORM = {"MessageSid": "SM1", "Body": "Größe + 100 % 🙂", "From": "+15550100", "Empty": ""}


@given(st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=30), max_size=8))
def test_our_signature_is_the_one_twilios_library_computes(form: dict[str, str]) -> None:
    """Any form, any characters."""
    try:
        "".join([*form, *form.values()]).encode()
    except UnicodeEncodeError:
        return
    assert sign_twilio(TOKEN, URL, form.items()) == RequestValidator(TOKEN).compute_signature(URL, form)


def test_a_request_twilio_signed_is_taken() -> None:
    signature = RequestValidator(TOKEN).compute_signature(URL, FORM)
    assert twilio_signed(TOKEN, signature, URL, form=FORM.items())


@pytest.mark.parametrize(
    ("token", "url", "form"),
    [
        ("12346", URL, FORM),
        (TOKEN, URL + "0", FORM),
        (TOKEN, URL.replace("https", "http"), FORM),
        (TOKEN, URL.replace("throughline", "elsewhere"), FORM),
        (TOKEN, URL, {**FORM, "Body": "other"}),
        (TOKEN, URL, {**FORM, "More": "1"}),
        (TOKEN, URL, {}),
    ],
)
def test_a_changed_token_url_or_field_is_refused(token: str, url: str, form: dict[str, str]) -> None:
    signature = RequestValidator(token).compute_signature(url, form)
    assert not twilio_signed(TOKEN, signature, URL, form=FORM.items())


@pytest.mark.parametrize("signature", ["", "ä", "0" * 28, "=" * 5000])
def test_a_nonsense_signature_is_refused_without_an_error(signature: str) -> None:
    assert not twilio_signed(TOKEN, signature, URL, form=FORM.items())


@pytest.mark.parametrize(
    ("signed", "served"),
    [
        ("https://a.example:443/h?t=1", "https://a.example/h?t=1"),
        ("https://a.example/h?t=1", "https://a.example:443/h?t=1"),
        ("http://a.example:80/h", "http://a.example/h"),
        ("http://[::1]/h", "http://[::1]:80/h"),
    ],
)
def test_the_default_port_may_be_named_or_not(signed: str, served: str) -> None:
    signature = RequestValidator(TOKEN).compute_signature(signed, FORM)
    assert twilio_signed(TOKEN, signature, served, form=FORM.items())


def test_another_port_is_another_url() -> None:
    signature = RequestValidator(TOKEN).compute_signature("https://a.example:8443/h", FORM)
    assert not twilio_signed(TOKEN, signature, "https://a.example/h", form=FORM.items())


def test_connection_overrides_may_have_been_signed() -> None:
    signature = RequestValidator(TOKEN).compute_signature(URL + "#rc=5&rp=all", FORM)
    assert twilio_signed(TOKEN, signature, URL, form=FORM.items(), fragments=("", "#rc=5&rp=all"))
    assert not twilio_signed(TOKEN, signature, URL, form=FORM.items())


def test_a_json_body_is_held_to_the_hash_in_its_url() -> None:
    body = '{"CallSid": "CA1", "ü": 1}'.encode()
    url = "https://a.example/h?bodySHA256=" + hashlib.sha256(body).hexdigest()
    validator = RequestValidator(TOKEN)
    signature = validator.compute_signature(url, {})
    assert validator.validate(url, body.decode(), signature)
    assert twilio_signed(TOKEN, signature, url, json_body=body)
    assert not twilio_signed(TOKEN, signature, url, json_body=body + b" ")
    assert not twilio_signed(TOKEN, validator.compute_signature(URL, {}), URL, json_body=body)
