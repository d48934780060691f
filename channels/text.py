"""Rules of text that hold on every channel: cleaning, SMS lengths, STOP and its kin."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from channels.wire.gsm0338 import Encoding, count_units, segment_text

OptKeyword = Literal["stop", "start", "help"]

_LINE_ENDS = re.compile(r"\r\n?|\u2028|\u2029|\x85")
_TO_CLEAN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""Whatever `clean_text` changes: most texts have none of it."""
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_NO_LINE = re.compile(r"[\x00\r\n\x0b\x0c\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """What a text costs as SMS."""

    encoding: Encoding
    count: int
    """Segments, from 1."""
    characters: int
    """Places taken: septets (GSM, extension characters take two) or UTF-16 units (UCS-2)."""


def clean_text(text: str) -> str:
    """`text` without control characters: line ends become `\\n`, a tab a space, the rest goes."""
    if not _TO_CLEAN.search(text):
        return text
    return _UNPRINTABLE.sub("", _LINE_ENDS.sub("\n", text).replace("\t", " "))


def one_line(text: str) -> str:
    """`text` as it is, fit for a header field. Raises ValueError if it has a line end or a NUL."""
    if _NO_LINE.search(text):
        raise ValueError("line ends and NUL may not stand in a header field: write it on one line")
    return text


def sms_segments(text: str) -> SegmentPlan:
    """How `text`, cleaned, goes out as SMS. At most 255 segments; longer raises GsmEncodeError."""
    cleaned = clean_text(text)
    plan = segment_text(cleaned, 0)
    return SegmentPlan(plan.encoding, len(plan.parts), count_units(cleaned, plan.encoding))


# Compared without accents, case, spaces and outer punctuation, and only as the whole message. English as CTIA's
# messaging principles and the FCC's rule on revocation (47 CFR 64.1200(a)(10)) list it. Left out on purpose: YES, OUI,
# SÍ, JA (answers to questions; consent must not come back by accident), NO, FIN, ENDE and FERTIG (ordinary words).
_STOP_ENGLISH = ("stop", "stopall", "unsubscribe", "cancel", "end", "quit", "optout", "revoke")
_STOP_FRENCH = ("arret", "arreter", "desabonner", "desabonnement", "desinscription")
_STOP_SPANISH = ("alto", "parar", "baja", "cancelar")
_STOP_GERMAN = ("stopp", "abmelden", "abbestellen")
_STOP = frozenset((*_STOP_ENGLISH, *_STOP_FRENCH, *_STOP_SPANISH, *_STOP_GERMAN))
_START = frozenset(
    ("start", "unstop", "optin", "subscribe", "reprendre", "reabonner", "alta", "iniciar", "anmelden", "starten")
)
_HELP = frozenset(("help", "info", "aide", "ayuda", "hilfe"))
_OUTER = re.compile(r"^[\W_]+|[\W_]+$")
_INNER = re.compile(r"[\s\-_]+")
_KEYWORD_MAX = 40


def opt_keyword(text: str) -> OptKeyword | None:
    """Whether the whole message is a STOP, START or HELP word, in English, French, Spanish or German.

    Case, accents, surrounding punctuation and spaces do not matter; `please stop` and `stop the train` are no keywords.
    """
    if len(text) > _KEYWORD_MAX:
        return None
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    word = _INNER.sub("", _OUTER.sub("", plain))
    if word in _STOP:
        return "stop"
    if word in _START:
        return "start"
    return "help" if word in _HELP else None
