"""GSM 03.38: the alphabet, the lengths, the cuts."""

import pytest
from aiosmpplib.codec import find_codec_info
from hypothesis import given
from hypothesis import strategies as st

from channels.wire.gsm0338 import (
    BASIC,
    EXTENSION,
    Concatenation,
    Encoding,
    GsmEncodeError,
    UdhError,
    decode_gsm,
    decode_text,
    encode_gsm,
    encoding_of,
    fits_gsm,
    join_bodies,
    segment_text,
    split_header,
)

GSM_CHARACTERS = "".join(BASIC).replace("\x1b", "") + "".join(EXTENSION.values())
gsm_texts = st.text(st.sampled_from(GSM_CHARACTERS), min_size=1, max_size=900)
any_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400)


@given(gsm_texts)
def test_the_alphabet_agrees_with_an_independent_codec(text: str) -> None:
    """aiosmpplib's codec writes the same octets, and reads ours as the same text."""
    theirs = find_codec_info("gsm0338")
    assert encode_gsm(text) == theirs.encode(text)[0]
    assert theirs.decode(encode_gsm(text))[0] == text == decode_gsm(encode_gsm(text))


def test_the_alphabet_has_128_places() -> None:
    """One of them leads into the extension table."""
    assert len(BASIC) == 128
    assert BASIC.index("\x1b") == 0x1B
    assert encode_gsm("€{") == b"\x1b\x65\x1b\x28"


@pytest.mark.parametrize(
    ("text", "encoding", "count"),
    [
        ("a" * 160, Encoding.GSM7, 1),
        ("a" * 161, Encoding.GSM7, 2),
        ("a" * 306, Encoding.GSM7, 2),
        ("a" * 307, Encoding.GSM7, 3),
        ("€" * 80, Encoding.GSM7, 1),
        ("€" * 81, Encoding.GSM7, 2),
        ("€" * 153, Encoding.GSM7, 3),  # 76 pairs fit 153 septets: one place stays empty rather than break a pair
        ("ж" * 70, Encoding.UCS2, 1),
        ("ж" * 71, Encoding.UCS2, 2),
        ("ж" * 134, Encoding.UCS2, 2),
        ("ж" * 135, Encoding.UCS2, 3),
        ("😀" * 35, Encoding.UCS2, 1),
        ("😀" * 36, Encoding.UCS2, 2),
        ("😀" * 67, Encoding.UCS2, 3),  # 33 pairs fit 67 units
        ("", Encoding.GSM7, 1),
    ],
)
def test_a_text_takes_as_many_segments_as_the_standard_says(text: str, encoding: Encoding, count: int) -> None:
    """160/153 septets, 70/67 units; a pair is never broken."""
    plan = segment_text(text, 7)
    assert (plan.encoding, len(plan.parts)) == (encoding, count)


@given(st.one_of(gsm_texts, any_texts), st.integers(0, 0xFFFF), st.booleans())
def test_segments_join_to_the_text_they_were_cut_from(text: str, reference: int, wide: bool) -> None:
    """Each part fits the air, says where it belongs, decodes by itself, and all give the text back."""
    plan = segment_text(text, reference, wide_reference=wide)
    bodies = []
    for number, part in enumerate(plan.parts, start=1):
        found, body = split_header(part) if plan.has_header else (None, part)
        if plan.has_header:
            assert found == Concatenation(reference if wide else reference & 0xFF, len(plan.parts), number)
            header = part[0] + 1
            air = header * 8 + (7 - header * 8 % 7) % 7 + len(body) * 7
            assert (air <= 140 * 8) if plan.encoding is Encoding.GSM7 else (len(part) <= 140)
        assert "\ufffd" not in decode_text(plan.data_coding, body) or "\ufffd" in text
        bodies.append((plan.data_coding, body))
    assert join_bodies(bodies) == text
    assert plan.encoding is (Encoding.GSM7 if fits_gsm(text) else Encoding.UCS2)


def test_pairs_broken_by_another_sender_are_joined() -> None:
    """A phone that cuts an escape or a surrogate pair in two is understood all the same."""
    assert join_bodies([(0, b"\x1b"), (0, b"\x65")]) == "€"
    raw = "😀".encode("utf-16-be")
    assert join_bodies([(8, raw[:2]), (8, raw[2:])]) == "😀"
    assert join_bodies([(0, b"abc"), (8, "ж".encode("utf-16-be"))]) == "abcж"


def test_more_than_255_segments_are_refused() -> None:
    """A part's number is one octet."""
    assert len(segment_text("a" * 153 * 255, 1).parts) == 255
    with pytest.raises(GsmEncodeError, match="256"):
        segment_text("a" * (153 * 255 + 1), 1)


@pytest.mark.parametrize(
    ("data_coding", "body", "text"),
    [
        (0, b"\x00\x11", "@_"),
        (0xF1, b"hi", "hi"),
        (3, "é".encode("latin-1"), "é"),
        (1, b"hi", "hi"),
        (8, "Ω".encode("utf-16-be"), "Ω"),
        (0x18, "Ω".encode("utf-16-be"), "Ω"),
        (6, "ж".encode("iso8859-5"), "ж"),
        (0, b"\xff", "\ufffd"),
        (0, b"\x1b\x1b", " "),
        (0, b"\x1b\x41", "A"),
        (8, b"\x00", "\ufffd"),
        (0x77, b"\x01", "\x01"),
    ],
)
def test_what_comes_in_any_coding_is_read(data_coding: int, body: bytes, text: str) -> None:
    """Message classes, national sets and nonsense: never an exception, never nothing."""
    assert decode_text(data_coding, body) == text


@given(st.integers(0, 255), st.binary(max_size=160))
def test_no_body_in_no_coding_raises(data_coding: int, body: bytes) -> None:
    """What cannot be read shows as U+FFFD."""
    assert isinstance(decode_text(data_coding, body), str)
    assert encoding_of(data_coding) in Encoding


@pytest.mark.parametrize("user_data", [b"", b"\x05", b"\x05\x00\x03\x01\x02", b"\x02\x00\x03", b"\x01\x00"])
def test_a_header_that_runs_past_its_end_is_refused(user_data: bytes) -> None:
    """Lengths are checked before anything is read."""
    with pytest.raises(UdhError):
        split_header(user_data)


def test_unknown_elements_and_absurd_parts_are_skipped() -> None:
    """Part 3 of 2 is no part; a port number before the concatenation does not hide it."""
    assert split_header(b"\x05\x00\x03\x09\x02\x03hi") == (None, b"hi")
    assert split_header(b"\x05\x00\x03\x09\x02\x00hi") == (None, b"hi")
    ported = b"\x0b\x05\x04\x00\x00\x00\x00\x00\x03\x09\x02\x01hi"
    assert split_header(ported) == (Concatenation(9, 2, 1), b"hi")


@given(st.binary(max_size=160))
def test_no_header_makes_the_reader_fall_over(user_data: bytes) -> None:
    """It is read or refused."""
    try:
        _, body = split_header(user_data)
    except UdhError:
        return
    assert user_data.endswith(body)
