"""GSM 03.38 and UCS-2: how words become SMS segments, and segments words again."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

# 3GPP TS 23.038, section 6.2.1: the default alphabet by septet value. 0x1B leads into the extension table.
BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
ESCAPE = 0x1B
# 3GPP TS 23.038, section 6.2.1.1: the extension table; each of these takes two septets.
EXTENSION = {
    0x0A: "\f",
    0x14: "^",
    0x28: "{",
    0x29: "}",
    0x2F: "\\",
    0x3C: "[",
    0x3D: "~",
    0x3E: "]",
    0x40: "|",
    0x65: "€",
}

_CODES = {character: bytes((code,)) for code, character in enumerate(BASIC) if code != ESCAPE}
_CODES |= {character: bytes((ESCAPE, code)) for code, character in EXTENSION.items()}

SEGMENT_OCTETS = 140
"""User data of one short message, 3GPP TS 23.040, section 9.2.3.16."""
SEGMENTS_LIMIT = 255
"""A part's number is one octet, 3GPP TS 23.040, section 9.2.3.24.1."""
_CONCAT_8, _CONCAT_16 = 0x00, 0x08


class Encoding(StrEnum):
    """How a text travels in a short message."""

    GSM7 = "gsm7"  # 160 septets in one segment, 153 in each of several
    UCS2 = "ucs2"  # 70 UTF-16 units in one segment, 67 in each of several
    LATIN1 = "latin1"  # inbound only
    OCTETS = "octets"  # inbound only: bytes that are not said to be text
    OTHER = "other"  # inbound only: a national character set


class GsmEncodeError(ValueError):
    """A character that the GSM alphabet does not have, or a text longer than 255 segments."""


class UdhError(ValueError):
    """A user data header whose lengths do not fit."""


@dataclass(frozen=True, slots=True)
class Concatenation:
    """Which part of which message a segment is."""

    reference: int
    total: int
    part: int
    """From 1 to `total`."""


@dataclass(frozen=True, slots=True)
class Segmented:
    """A text cut into segments, each with its user data header where there are several."""

    encoding: Encoding
    parts: tuple[bytes, ...]

    @property
    def data_coding(self) -> int:
        """SMPP 3.4, section 5.2.19: 0 is the message centre's default alphabet, 8 is UCS-2."""
        return 8 if self.encoding is Encoding.UCS2 else 0

    @property
    def has_header(self) -> bool:
        """Each part begins with a user data header."""
        return len(self.parts) > 1


def fits_gsm(text: str) -> bool:
    """Whether the GSM alphabet has every character of `text`."""
    return all(character in _CODES for character in text)


def encode_gsm(text: str) -> bytes:
    """One octet a septet, unpacked, as SMPP carries it. Raises GsmEncodeError."""
    try:
        return b"".join([_CODES[character] for character in text])
    except KeyError as missing:
        raise GsmEncodeError(f"the GSM alphabet has no {missing.args[0]!r}") from missing


def decode_gsm(septets: bytes) -> str:
    """The text of unpacked septets; never raises.

    An extension code that is not in the table shows as the basic character (TS 23.038, section 6.2.1.1), an octet
    above 127 as U+FFFD.
    """
    characters: list[str] = []
    escaped = False
    for code in septets:
        if code == ESCAPE:
            # A second escape is reserved; shown as a space, as the note to the table asks for.
            characters.append(" ") if escaped else None
            escaped = not escaped
        elif code > 0x7F:
            characters.append("\ufffd")
            escaped = False
        else:
            characters.append(EXTENSION.get(code, BASIC[code]) if escaped else BASIC[code])
            escaped = False
    return "".join(characters)


def choose_encoding(text: str) -> Encoding:
    """The GSM alphabet where it suffices, else UCS-2."""
    return Encoding.GSM7 if fits_gsm(text) else Encoding.UCS2


def count_units(text: str, encoding: Encoding) -> int:
    """How many septets (GSM) or UTF-16 units (UCS-2) `text` takes."""
    if encoding is Encoding.GSM7:
        return len(encode_gsm(text))
    return len(text.encode("utf-16-be", "surrogatepass")) // 2


def segment_text(text: str, reference: int, *, wide_reference: bool = False) -> Segmented:
    """Cut `text` into segments; no escape pair and no surrogate pair is broken.

    `reference` ties the parts together: 8 bits, or 16 with `wide_reference`. Raises GsmEncodeError if there would be
    more than 255 parts.
    """
    encoding = choose_encoding(text)
    units = _units(text, encoding)
    if sum(len(unit) for unit in units) <= (160 if encoding is Encoding.GSM7 else SEGMENT_OCTETS):
        return Segmented(encoding, (b"".join(units),))
    bodies = _pack(units, segment_room(encoding, wide_reference=wide_reference))
    if len(bodies) > SEGMENTS_LIMIT:
        raise GsmEncodeError(f"{len(bodies)} segments: at most {SEGMENTS_LIMIT} fit one message")
    headers = (_header(reference, len(bodies), number, wide=wide_reference) for number in range(1, len(bodies) + 1))
    return Segmented(encoding, tuple(header + body for header, body in zip(headers, bodies, strict=True)))


def segment_room(encoding: Encoding, *, wide_reference: bool = False) -> int:
    """Octets of text in one of several segments, as SMPP carries them: one octet a septet, two a UCS-2 unit."""
    octets = SEGMENT_OCTETS - (7 if wide_reference else 6)
    # Septets are packed on the air, eight in seven octets, from the next septet boundary after the header.
    return octets * 8 // 7 if encoding is Encoding.GSM7 else octets - octets % 2


def _units(text: str, encoding: Encoding) -> list[bytes]:
    if encoding is Encoding.GSM7:
        return [_CODES[character] for character in text]
    return [character.encode("utf-16-be", "surrogatepass") for character in text]


def _pack(units: Sequence[bytes], room: int) -> list[bytes]:
    bodies: list[bytes] = []
    body = bytearray()
    for unit in units:
        if len(body) + len(unit) > room:
            bodies.append(bytes(body))
            body.clear()
        body += unit
    bodies.append(bytes(body))
    return bodies


def _header(reference: int, total: int, part: int, *, wide: bool) -> bytes:
    if wide:
        return bytes((6, _CONCAT_16, 4, reference >> 8 & 0xFF, reference & 0xFF, total, part))
    return bytes((5, _CONCAT_8, 3, reference & 0xFF, total, part))


def split_header(user_data: bytes) -> tuple[Concatenation | None, bytes]:
    """The concatenation of a segment that begins with a user data header, if it has one, and its body.

    Unknown elements are skipped; a concatenation whose numbers make no sense is ignored, as TS 23.040, section
    9.2.3.24.1 asks for. Raises UdhError when a length runs past the end.
    """
    if not user_data:
        raise UdhError("a user data header was announced, there is none")
    end = 1 + user_data[0]
    if end > len(user_data):
        raise UdhError(f"the user data header says {user_data[0]} octets, {len(user_data) - 1} are there")
    found: Concatenation | None = None
    at = 1
    while at < end:
        if at + 2 > end or at + 2 + user_data[at + 1] > end:
            raise UdhError("an element runs past the end of the user data header")
        found = _concatenation(user_data[at], user_data[at + 2 : at + 2 + user_data[at + 1]]) or found
        at += 2 + user_data[at + 1]
    return found, user_data[end:]


def _concatenation(element: int, value: bytes) -> Concatenation | None:
    if element == _CONCAT_8 and len(value) == 3:
        found = Concatenation(value[0], value[1], value[2])
    elif element == _CONCAT_16 and len(value) == 4:
        found = Concatenation(value[0] << 8 | value[1], value[2], value[3])
    else:
        return None
    return found if 1 <= found.part <= found.total else None


# SMPP 3.4, section 5.2.19; the codings that Python knows under another name.
_CHARACTER_SETS = {1: "ascii", 3: "latin-1", 5: "shift_jis", 6: "iso8859-5", 7: "iso8859-8", 10: "iso2022-jp"}
_CHARACTER_SETS |= {13: "euc_jp", 14: "euc_kr"}


def encoding_of(data_coding: int) -> Encoding:
    """What `data_coding` says: SMPP 3.4, section 5.2.19, and TS 23.038, section 4, for the coding groups."""
    group = data_coding & 0xF0
    if group == 0x00:
        named = {0: Encoding.GSM7, 2: Encoding.OCTETS, 3: Encoding.LATIN1, 4: Encoding.OCTETS, 8: Encoding.UCS2}
        return named.get(data_coding, Encoding.OTHER if data_coding in _CHARACTER_SETS else Encoding.OCTETS)
    if group == 0xF0:  # data coding and message class: 0xF1 is plain GSM for the phone's memory
        return Encoding.OCTETS if data_coding & 0x04 else Encoding.GSM7
    if group == 0xE0:  # message waiting, UCS-2
        return Encoding.UCS2
    if group in (0xC0, 0xD0):  # message waiting, GSM
        return Encoding.GSM7
    if group < 0x40 and not data_coding & 0x20:  # general coding, not compressed
        return (Encoding.GSM7, Encoding.OCTETS, Encoding.UCS2, Encoding.OCTETS)[data_coding >> 2 & 0x03]
    return Encoding.OCTETS


def decode_text(data_coding: int, body: bytes) -> str:
    """The text of a segment's body; never raises: what cannot be read shows as U+FFFD."""
    encoding = encoding_of(data_coding)
    if encoding is Encoding.GSM7:
        return decode_gsm(body)
    if encoding is Encoding.UCS2:
        return body.decode("utf-16-be", "replace")
    if encoding is Encoding.OTHER:
        return body.decode(_CHARACTER_SETS[data_coding], "replace")
    return body.decode("latin-1")


def join_bodies(bodies: Sequence[tuple[int, bytes]]) -> str:
    """The text of all parts in order, each `(data_coding, body)`.

    Neighbours in one coding are joined before they are decoded: some phones break escape and surrogate pairs.
    """
    runs = groupby(bodies, key=lambda part: part[0])
    return "".join(decode_text(coding, b"".join(body for _, body in run)) for coding, run in runs)
