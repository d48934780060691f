"""Fit what is said to a medium: SMS with its reference, phone as it is spoken, files that cannot go told of."""

import html
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Protocol

from channels.contract import Capabilities
from channels.messages import Channel, Content, File, Kind, Matter
from channels.text import clean_text, sms_segments
from channels.wire.gsm0338 import fits_gsm

SEGMENT_CHARACTERS = 160
"""No text of more characters fits one segment."""
NAMED_MAX = 2
"""Files that a line names."""
NAME_MAX = 30
"""Characters of a file's name there."""
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>]+", re.IGNORECASE)
_SPACES = re.compile(r"[ \t]{2,}")
# Typographic characters that have no decomposition but an obvious plain form.
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"'}
    | {"\u2013": "-", "\u2014": "-", "\u2026": "...", "\u00a0": " ", "\u202f": " ", "\u0153": "oe", "\u0152": "OE"}
)


class Sayings(Protocol):
    """What fitting needs of a `Wording`."""

    def say(self, text_key: str, locale: str, **values: str | int | tuple[str, ...]) -> str:
        """The text, filled in."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a message is to be said, beside its words."""

    kind: Kind = Kind.MESSAGE
    author_name: str = ""
    """An agent's, put under an SMS where there is room; empty: not named."""
    shared_pair: bool = False
    """Several open conversations use these two addresses: every SMS carries its reference."""
    late: bool = False
    possible_duplicate: bool = False


PLAIN = Manner()


def render_for(
    sayings: Sayings, capabilities: Capabilities, content: Content, matter: Matter, manner: Manner = PLAIN
) -> Content:
    """The content as this medium carries it.

    An SMS gets its reference in front when it is longer than one segment or when several conversations share the
    address pair; what is spoken has no links and its reference letter by letter; chat is plain text; mail stays as it
    is, because its adapter threads and quotes. Files that do not fit become a line that names them and says which way
    they can come.
    """
    carried, kept = _split_files(content.files, capabilities.files_max_bytes)
    rest = _told_of(sayings, kept, capabilities.channel, matter.locale) if kept else ""
    if capabilities.channel is Channel.EMAIL:
        return _as_mail(sayings, content, matter, carried=carried, rest=rest)
    text = clean_text(content.text).strip()
    if capabilities.channel is Channel.SMS:
        text = _as_sms(sayings, _below(text, rest), matter, manner, capabilities.text_max)
    elif capabilities.channel is Channel.PHONE:
        marked = _mark(sayings, matter, manner) + _below(text, rest)
        text = speak(marked, matter.reference, sayings.say("phone.link", matter.locale))
    else:
        text = _below(text, rest)
    return Content(text=text, files=carried)


def speak(text: str, reference: str, link_words: str) -> str:
    """The text as it can be read out: links in words, the reference letter by letter (`4, F, 2, K, 9`), no brackets."""
    said = _URL.sub(link_words, text)
    if reference:
        spelled = ", ".join(reference)
        said = re.sub(rf"[\[(#]{{0,2}}\b{re.escape(reference)}\b[\])]{{0,2}}", spelled, said, flags=re.IGNORECASE)
    return _SPACES.sub(" ", re.sub(r"[*_`<>\[\]{}|]", " ", said)).strip()


def fold_to_gsm(text: str) -> str:
    """The text without the accents that would turn a GSM text into UCS-2, of less than half the length.

    Only for our own words. Unchanged where even that leaves a character the GSM alphabet lacks.
    """
    if fits_gsm(text):
        return text
    folded = "".join(one if fits_gsm(one) else _without_accent(one) for one in text.translate(_PLAIN))
    return folded if fits_gsm(folded) else text


def _without_accent(character: str) -> str:
    decomposed = unicodedata.normalize("NFKD", character)
    return "".join(one for one in decomposed if not unicodedata.combining(one))


def _split_files(files: tuple[File, ...], bytes_max: int) -> tuple[tuple[File, ...], tuple[File, ...]]:
    """The files that fit together, in their order, and the others."""
    carried: list[File] = []
    kept: list[File] = []
    room = bytes_max
    for file in files:
        if file.size <= room and bytes_max > 0:
            carried.append(file)
            room -= file.size
        else:
            kept.append(file)
    return tuple(carried), tuple(kept)


def _told_of(sayings: Sayings, kept: tuple[File, ...], channel: Channel, locale: str) -> str:
    """The line in place of files: mail brings them, unless they are too large for that; read out, a name is noise."""
    key = "files.too_large" if channel is Channel.EMAIL else "files.kept"
    short = [one.name if len(one.name) <= NAME_MAX else one.name[: NAME_MAX - 3] + "..." for one in kept[:NAMED_MAX]]
    names = ", ".join(short) + (f" (+{len(kept) - NAMED_MAX})" if len(kept) > NAMED_MAX else "")
    return sayings.say(key, locale, count=len(kept), names="" if channel is Channel.PHONE else names)


def _as_mail(sayings: Sayings, content: Content, matter: Matter, *, carried: tuple[File, ...], rest: str) -> Content:
    subject = (
        content.subject or matter.subject or sayings.say("mail.subject", matter.locale, reference=matter.reference)
    )
    formatted = content.html
    if formatted is not None and rest:
        formatted += f"\n<p>{html.escape(rest)}</p>"
    return replace(content, text=_below(content.text, rest), html=formatted, subject=subject, files=carried)


def _as_sms(sayings: Sayings, text: str, matter: Matter, manner: Manner, text_max: int) -> str:
    if manner.kind is not Kind.MESSAGE:
        return fold_to_gsm(text)
    body = _mark(sayings, matter, manner) + text
    signed = body
    if manner.author_name:
        signed += sayings.say("sms.signature", matter.locale, name=manner.author_name)
    prefix = sayings.say("sms.prefix", matter.locale, reference=matter.reference) if matter.reference else ""
    for candidate in (signed, body):
        wanted = manner.shared_pair or len(candidate) > SEGMENT_CHARACTERS or sms_segments(candidate).count > 1
        said = prefix + candidate if wanted and not candidate.startswith(prefix.strip()) else candidate
        if len(said) <= text_max:
            return said
    # Longer than the endpoint takes: said whole, and its adapter rejects it; a reply to a cut text would mislead.
    return prefix + body


def _mark(sayings: Sayings, matter: Matter, manner: Manner) -> str:
    """Mail has a header for it and chat shows it in its own way."""
    if manner.possible_duplicate:
        return sayings.say("mark.repeated", matter.locale)
    return sayings.say("mark.late", matter.locale) if manner.late else ""


def _below(text: str, line: str) -> str:
    return f"{text}\n{line}" if text and line else text or line
