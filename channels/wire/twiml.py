"""TwiML: verbs as values, rendered to XML and read back; no text ever meets markup by hand."""

import re
from dataclasses import dataclass
from typing import Literal, NoReturn, assert_never
from xml.etree.ElementTree import Element, SubElement, TreeBuilder, tostring
from xml.parsers import expat

DOCUMENT_MAX = 64 * 1024
"""Bytes of one TwiML document (Twilio error 11750)."""
SAY_MAX = 4096
"""Characters of one `Say` (twilio.com/docs/voice/twiml/say)."""
VERBS_MAX = 100
CONTENT_TYPE = "text/xml; charset=utf-8"

# What XML 1.0 section 2.2 does not allow, not even as a reference; and CR, which a reader would turn into LF.
_NOT_XML = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Input = Literal["dtmf", "speech", "dtmf speech", "speech dtmf"]


class TwimlError(ValueError):
    """Not a TwiML document we know how to read or may send."""


@dataclass(frozen=True, slots=True)
class Say:
    """Read aloud; `language` is a BCP 47 tag Twilio speaks: `en-US`."""

    text: str
    language: str = "en-US"


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence, in whole seconds."""

    length_s: int = 1


@dataclass(frozen=True, slots=True)
class Gather:
    """Wait for keys or words while the prompt is read; with input, `action` is fetched, else the next verb runs."""

    action: str
    prompt: tuple[Say | Pause, ...] = ()
    input: Input = "dtmf"
    num_digits: int | None = None
    timeout_s: int = 5
    finish_on_key: str | None = None
    """None: Twilio's default `#`; empty: every key counts as input."""
    language: str = "en-US"
    speech_timeout: str | None = None
    """`auto`, or seconds of silence that end what is said; None: Twilio's default."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect the call to a number; `action` is fetched when that has ended."""

    number: str
    action: str
    caller_id: str = ""
    timeout_s: int = 20
    time_limit_s: int = 3600


@dataclass(frozen=True, slots=True)
class Record:
    """Record what is said after a beep; `action` is fetched with its URL."""

    action: str
    max_length_s: int = 120
    timeout_s: int = 5


@dataclass(frozen=True, slots=True)
class Redirect:
    """Fetch the next document from here."""

    url: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """End the call."""


Verb = Say | Pause | Gather | Dial | Record | Redirect | Hangup


def render(*verbs: Verb) -> bytes:
    """One `Response` document in UTF-8. Characters XML cannot hold become spaces.

    Raises TwimlError for a `Say` over 4,096 characters, over 100 verbs, or a document over 64 KB.
    """
    if len(verbs) > VERBS_MAX:
        raise TwimlError(f"{len(verbs)} verbs, at most {VERBS_MAX}")
    root = Element("Response")
    for verb in verbs:
        _append(root, verb)
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    if len(document) > DOCUMENT_MAX:
        raise TwimlError(f"{len(document)} bytes, at most {DOCUMENT_MAX}")
    return document


def parse(document: bytes) -> tuple[Verb, ...]:
    """The verbs of a document, as Twilio would read it. Raises TwimlError.

    A document type is refused: nothing here needs one, and entities in it can explode.
    """
    if len(document) > DOCUMENT_MAX:
        raise TwimlError(f"{len(document)} bytes, at most {DOCUMENT_MAX}")
    root = _tree(document)
    if root.tag != "Response":
        raise TwimlError(f"the root is {root.tag}, not Response")
    return tuple(_verb(element) for element in root)


def _clean(text: str) -> str:
    return _NOT_XML.sub(" ", text)


def _append(parent: Element, verb: Verb) -> None:
    match verb:
        case Say():
            if len(verb.text) > SAY_MAX:
                raise TwimlError(f"{len(verb.text)} characters to say, at most {SAY_MAX}")
            SubElement(parent, "Say", {"language": _clean(verb.language)}).text = _clean(verb.text)
        case Pause():
            SubElement(parent, "Pause", {"length": str(verb.length_s)})
        case Gather():
            _append_gather(parent, verb)
        case Dial():
            attributes = {
                "action": _clean(verb.action),
                "method": "POST",
                "timeout": str(verb.timeout_s),
                "timeLimit": str(verb.time_limit_s),
                "answerOnBridge": "true",
            }
            if verb.caller_id:
                attributes["callerId"] = _clean(verb.caller_id)
            SubElement(SubElement(parent, "Dial", attributes), "Number").text = _clean(verb.number)
        case Record():
            limits = {"maxLength": str(verb.max_length_s), "timeout": str(verb.timeout_s)}
            SubElement(parent, "Record", {"action": _clean(verb.action), "method": "POST", **limits})
        case Redirect():
            SubElement(parent, "Redirect", {"method": "POST"}).text = _clean(verb.url)
        case Hangup():
            SubElement(parent, "Hangup")
        case _:
            assert_never(verb)


def _append_gather(parent: Element, gather: Gather) -> None:
    attributes = {
        "input": gather.input,
        "action": _clean(gather.action),
        "method": "POST",
        "timeout": str(gather.timeout_s),
        "language": _clean(gather.language),
    }
    if gather.num_digits is not None:
        attributes["numDigits"] = str(gather.num_digits)
    if gather.finish_on_key is not None:
        attributes["finishOnKey"] = gather.finish_on_key
    if gather.speech_timeout is not None:
        attributes["speechTimeout"] = gather.speech_timeout
    element = SubElement(parent, "Gather", attributes)
    for verb in gather.prompt:
        _append(element, verb)


def _tree(document: bytes) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate(encoding="utf-8")
    parser.buffer_text = True

    def refuse(*_: object) -> NoReturn:
        raise TwimlError("a document type is not allowed")

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        builder.end(tag)

    def text(characters: str) -> None:
        builder.data(characters)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise TwimlError(f"not well-formed: {error}") from error
    return builder.close()


def _number(element: Element, name: str, default: int) -> int:
    value = element.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) <= 6):
        raise TwimlError(f"{element.tag} {name} is not a number")
    return int(value)


def _input(element: Element) -> Input:
    match element.get("input", "dtmf"):
        case ("dtmf" | "speech" | "dtmf speech" | "speech dtmf") as value:
            return value
        case _:
            raise TwimlError("Gather input is neither dtmf nor speech")


def _verb(element: Element) -> Verb:
    action = element.get("action", "")
    verb: Verb
    match element.tag:
        case "Say":
            verb = Say(element.text or "", element.get("language", "en-US"))
        case "Pause":
            verb = Pause(_number(element, "length", 1))
        case "Gather":
            verb = _read_gather(element, action)
        case "Dial":
            number = element.findtext("Number") or (element.text or "").strip()
            limits = _number(element, "timeout", 30), _number(element, "timeLimit", 14_400)
            verb = Dial(number, action, element.get("callerId", ""), *limits)
        case "Record":
            verb = Record(action, _number(element, "maxLength", 3600), _number(element, "timeout", 5))
        case "Redirect":
            verb = Redirect((element.text or "").strip())
        case "Hangup":
            verb = Hangup()
        case _:
            raise TwimlError(f"unknown verb {element.tag}")
    return verb


def _read_gather(element: Element, action: str) -> Gather:
    prompt: list[Say | Pause] = []
    for child in element:
        verb = _verb(child)
        if not isinstance(verb, Say | Pause):
            raise TwimlError(f"{child.tag} inside Gather")
        prompt.append(verb)
    return Gather(
        action=action,
        prompt=tuple(prompt),
        input=_input(element),
        num_digits=_number(element, "numDigits", 0) or None,
        timeout_s=_number(element, "timeout", 5),
        finish_on_key=element.get("finishOnKey"),
        language=element.get("language", "en-US"),
        speech_timeout=element.get("speechTimeout"),
    )
