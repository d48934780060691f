"""Turn faults in the settings into sentences: which file, which field, what is wrong, what to write instead."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "THROUGHLINE_"
QUIET_WORDS = ("secret", "password", "token", "key", "url")
"""A field with one of these in its name is never quoted back: it may hold a credential."""
VALUE_LENGTH_MAX = NAME_LENGTH_MAX = 60

Details = Mapping[str, Any]
"""One of `ValidationError.errors()`: `type`, `loc`, `msg`, `input`, and `ctx` where the type has bounds."""

WHAT_IS_WRONG = {
    "missing": "is missing",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list in brackets",
    "list_type": "must be a list in brackets",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "model_attributes_type": "must be a table",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "enum": "must be one of {expected}",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "provider must be one of {expected_tags}",
    "union_tag_not_found": "provider is missing: it says how this endpoint is spoken to",
    "value_error": "{error}",
}
IN_WORDS: Mapping[str, str] = {
    r"^[A-Za-z0-9_][A-Za-z0-9._:-]{0,252}$": "must be a host's name or address, without blanks and without https://",
    r"^[A-Za-z0-9_:][A-Za-z0-9._:-]{0,252}$": "must be a host's name or address, without blanks",
    r"^(email|chat|sms|phone)/[a-z0-9][a-z0-9-]{0,39}$": "must be a channel and a name, as in email/support: "
    "email, chat, sms or phone, then lower-case letters, digits and dashes, at most 40",
    r"^AC[0-9a-fA-F]{32}$": "must be AC and 32 hexadecimal digits, as Twilio's console shows it",
    r"^MG[0-9a-fA-F]{32}$": "must be MG and 32 hexadecimal digits, as Twilio's console shows it",
    r"^(\+[1-9][0-9]{6,14}|[0-9]{3,8}|[A-Za-z0-9 ]{1,11})$": "must be a number with its country, as in +12025550123, "
    "a short code of 3 to 8 digits, or a name of at most 11 letters, digits and blanks",
    r"^(\+?[0-9]{3,20}|[A-Za-z0-9 ._&-]{1,11})$": "must be a number of 3 to 20 digits, or a name of at most 11 "
    "letters, digits, blanks, dots, dashes, & and _",
    r"^\+[1-9][0-9]{6,14}$": "must be a number with its country, as in +12025550123",
    r"^[!-~]{1,15}$": "must be 1 to 15 ASCII characters without blanks",
    r"^[!-~]+$": "must be ASCII characters without blanks",
    r"^[ -~]{0,12}$": "must be at most 12 ASCII characters",
    r"^[A-Z]{2}$": "must be a country's two capital letters, as in US",
    r"^[A-Z]{3}$": "must be a currency's three capital letters, as in USD",
    r"^[a-z]{2}(-[A-Z]{2})?$": "must be a language, as in en or en-GB",
    r"^[a-z]{2}([-_][A-Za-z]{2,8})?$": "must be a language, as in en or en-GB",
    r"^([a-z]{2,3}(-[A-Za-z0-9]{2,8})*)?$": "must be a language, as in en or en-GB, or empty",
    r"^[^\x00-\x1f\x7f\x85\u2028\u2029]*$": "must be on one line, without line breaks or other control characters",
    r"^[^\x00]*$": "must not hold a NUL character",
    r"^[^\x00-\x1f\x7f/\\]*$": "must be a file's name alone, without / or \\ and without control characters",
    r"^[a-z0-9.+-]{1,60}/[a-zA-Z0-9.+-]{1,80}$": "must be a media type, as in image/png",
}
"""What each pattern of a field asks for, for people; the API's answers say it in the same words."""
FILLED_IN = frozenset({"string_pattern_mismatch", "string_too_short", "value_error"})
"""Faults that an empty text has only because nobody has filled it in yet."""


def describe_faults(
    error: ValidationError, where: str, model: type[BaseModel], environment: Mapping[str, str]
) -> list[str]:
    """One line for each fault, for people.

    `where` names the file. A fault that came from an environment variable names the variable instead.
    """
    return [_describe(fault, where, model, environment) for fault in _without_echoes(error.errors(include_url=False))]


def find_unknown_variables(environment: Mapping[str, str], fields: Sequence[str], known: set[str]) -> list[str]:
    """One line for each `THROUGHLINE_*` variable that no setting reads: most likely a slip of the pen."""
    faults: list[str] = []
    for name in sorted(environment):
        first = name.removeprefix(ENVIRONMENT_PREFIX).split("__")[0].lower()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known and first not in fields:
            nearest = difflib.get_close_matches(first, fields, 1)
            hint = f" Did you mean {ENVIRONMENT_PREFIX}{nearest[0].upper()}?" if nearest else " Unset it."
            faults.append(f"environment variable {name}: there is no such setting.{hint}")
    return faults


def _without_echoes(faults: Sequence[Details]) -> list[Details]:
    """A list reports its entries and itself, a choice each of its alternatives: keep the first fault of a field."""
    seen: set[tuple[object, ...]] = set()
    kept: list[Details] = []
    for fault in faults:
        place = fault["loc"][:2] if fault["loc"][:1] != ("endpoints",) else fault["loc"]
        if place not in seen:
            seen.add(place)
            kept.append(fault)
    return kept


def _describe(fault: Details, where: str, model: type[BaseModel], environment: Mapping[str, str]) -> str:
    location = [_shorten(str(part)) for part in fault["loc"]]
    if location[:1] == ["endpoints"] and len(location) > 1:
        return _describe_endpoint(fault, where, location)
    variable = _variable_of(location, environment)
    source = f"environment variable {variable}" if variable else where
    place = f"[{location[0]}] {location[1]}" if len(location) > 1 else "".join(location)
    field, siblings = _field_at(model, location)
    if fault["type"] == "extra_forbidden":
        return f"{source}: {place}: there is no such setting.{_nearest(location[-1], siblings)}"
    if not location:
        return f"{source}: {_what_is_wrong(fault)}."
    meaning = f" Meaning: {field.description}{_default(field)}." if field is not None and field.description else ""
    return f"{source}: {place} {_what_is_wrong(fault)}{_quoted(location[-1], fault)}.{meaning}"


def _shorten(name: str) -> str:
    """No setting has a name that long."""
    return name if len(name) <= NAME_LENGTH_MAX else name[: NAME_LENGTH_MAX - 1] + "…"


def _describe_endpoint(fault: Details, where: str, location: list[str]) -> str:
    """Endpoints are named by their number, from 1; what they hold is never quoted, for most of it is credentials."""
    number = int(location[1]) + 1 if location[1].isdecimal() else 0
    # A discriminated union puts the provider between the number and the field.
    provider = f" ({location[2]})" if len(location) > 2 else ""
    place = f"[[endpoints]] number {number}{provider}:"
    if len(location) > 3:
        place += " " + ".".join(location[3:])
    if fault["type"] == "extra_forbidden":
        return f"{where}: {place} is no setting of this provider. Remove it, or correct its name."
    remedy = "" if _is_empty(fault) else " Correct it in the table."
    if fault["type"] == "missing":
        remedy = " Add it to the table."
    return f"{where}: {place} {_what_is_wrong(fault)}.{remedy}"


def say_form(pattern: str) -> str:
    """What a text must be to match a pattern, in words."""
    return IN_WORDS.get(pattern, "has characters that may not stand there, or is too long")


def _is_empty(fault: Details) -> bool:
    return fault["type"] in FILLED_IN and isinstance(fault["input"], str) and not fault["input"].strip()


def _what_is_wrong(fault: Details) -> str:
    if _is_empty(fault):
        return "is empty; fill it in"
    if fault["type"] == "string_pattern_mismatch":
        return say_form(fault["ctx"]["pattern"])
    template = WHAT_IS_WRONG.get(fault["type"])
    context: dict[str, Any] = fault.get("ctx", {})
    return template.format(**context) if template else f"is not valid: {fault['msg']}"


def _quoted(name: str, fault: Details) -> str:
    if fault["type"] in {"missing", "value_error"} or _is_empty(fault) or any(word in name for word in QUIET_WORDS):
        return ""
    value = repr(fault["input"])
    return f", not {value}" if len(value) <= VALUE_LENGTH_MAX else ""


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default in (None, "", ()) or isinstance(field.default, SecretStr):
        return ""
    return f" (default {_plain(field.default)})"


def _plain(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def _nearest(name: str, siblings: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, siblings, 1)
    return f" Did you mean {nearest[0]}?" if nearest else f" Remove it; there are: {', '.join(siblings)}."


def _field_at(model: type[BaseModel], location: Sequence[str]) -> tuple[FieldInfo | None, Sequence[str]]:
    """The field a fault is about, if there is one, and the names that would be right in its place."""
    fields = model.model_fields
    if not location:
        return None, tuple(fields)
    field = fields.get(location[0])
    if len(location) == 1 or field is None:
        return field, tuple(fields)
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        inner = field.annotation.model_fields
        return inner.get(location[1]), tuple(inner)
    return field, ()


def _variable_of(location: Sequence[str], environment: Mapping[str, str]) -> str:
    """The variable a value came from, or empty. A list's or an alternative's own parts belong to the field above."""
    for depth in range(len(location), 0, -1):
        name = ENVIRONMENT_PREFIX + "__".join(part.upper() for part in location[:depth])
        if name in environment:
            return name
    return ""
