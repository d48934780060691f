"""Looks for secrets, in any spelling, in everything that adapters said, showed or wrote."""

import logging
import traceback
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

from tests.channels.suite.stage import WORDS, Stage

DEPTH_MAX = 12


def secrets_of(settings: BaseModel) -> Iterator[str]:
    """Every secret in the settings, tables within tables included."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from secrets_of(value)


def spellings(secret: str) -> Iterator[str]:
    """The secret as it is, in a URL, and in base64 wherever it begins within the encoded text."""
    yield secret
    yield quote(secret, safe="")
    octets = secret.encode()
    for before in range(3):
        encoded = b64encode(b"\0" * before + octets).decode()
        # The letters that hold bits of this secret and of nothing else.
        yield encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6]


def words_of(error: BaseException) -> Iterator[str]:
    """All that a log of this error could show: it, its causes, their arguments and their fields."""
    yield "".join(traceback.format_exception(error))
    waiting: deque[BaseException] = deque([error])
    seen: set[int] = set()
    while waiting:
        one = waiting.popleft()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield f"{one!s} {one!r} {one.args!r} {vars(one)!r}"
        context = None if one.__suppress_context__ else one.__context__
        waiting += [other for other in (one.__cause__, context) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def reprs_of(root: object) -> Iterator[str]:
    """The repr of an object and of every object of ours that it holds, however deep."""
    waiting: deque[tuple[object, int]] = deque([(root, 0)])
    seen: set[int] = set()
    while waiting:
        one, depth = waiting.popleft()
        if id(one) in seen or depth > DEPTH_MAX:
            continue
        seen.add(id(one))
        if type(one).__module__.startswith("channels.") and not type(one).__module__.startswith("channels.sandbox"):
            yield repr(one)
            waiting += [(value, depth + 1) for value in _fields_of(one)]
        elif isinstance(one, Mapping):
            waiting += [(value, depth + 1) for value in one.values()]
        elif isinstance(one, list | tuple | set | frozenset | deque):
            waiting += [(value, depth + 1) for value in one]


def _fields_of(one: object) -> Iterator[object]:
    yield from getattr(one, "__dict__", {}).values()
    for kind in type(one).__mro__:
        for name in getattr(kind, "__slots__", ()):
            yield getattr(one, name, None)


@dataclass(frozen=True, slots=True)
class Written:
    """What reached the logs during a case."""

    entries: Sequence[Mapping[str, object]]
    """structlog's."""
    records: Sequence[logging.LogRecord]
    """The standard library's, as the libraries we use write them."""

    def lines(self, *, from_info: bool = False) -> Iterator[str]:
        """Each line as text."""
        for entry in self.entries:
            if not from_info or entry.get("log_level") != "debug":
                yield repr(entry)
        for record in self.records:
            if not from_info or record.levelno >= logging.INFO:
                yield f"{record.getMessage()} {record.exc_info!r} {record.exc_text or ''}"


def judge(stage: Stage, written: Written) -> None:
    """No secret anywhere; no body and no address in a log line that is kept."""
    secrets = {secret for settings in stage.settings for secret in secrets_of(settings)}
    shown = {
        "a repr of the settings": (repr(settings) for settings in stage.settings),
        "the settings as JSON": (settings.model_dump_json() for settings in stage.settings),
        "a repr of the adapter": (text for adapter in stage.adapters for text in reprs_of(adapter)),
        "an error": (text for error in stage.raised for text in words_of(error)),
        "a report": (repr(report) for report in stage.reports),
        "a log line": written.lines(),
    }
    for where, texts in shown.items():
        search(where, texts, secrets)
    for line in written.lines(from_info=True):
        assert WORDS not in line, "a message's words stand in a log line at info or above"
        assert stage.table.customer not in line, "an address stands in a log line at info or above"


def search(where: str, texts: Iterable[str], secrets: Iterable[str]) -> None:
    """Fail if any text holds any secret in any spelling."""
    spelled = {spelling for secret in secrets for spelling in spellings(secret)}
    for text in texts:
        found = [spelling for spelling in spelled if spelling in text]
        assert not found, f"{where} shows a secret: {text[:300]}"
