"""Logs and metrics: what is counted, with which labels, and what never reaches a log."""

import contextlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from health.report import EndpointId, Status

# Label bounds: `endpoint` is a configured endpoint or `unknown` (at most 200); `route` a template of the routes table
# or `unmatched` (at most 60); `outcome`, `class`, `direction`, `status`, `reason` come from enums and the error tree.
# Never an id, an address or a text: metrics hold nothing that erasure would have to reach.
ENDPOINTS_MAX = 200
LOG_TEXT_MAX = 2_000
"""Characters of one value in a log line."""

_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

HTTP_REQUESTS = Counter("throughline_http_requests", "Requests answered.", ["route", "method", "status"])
HTTP_SECONDS = Histogram("throughline_http_seconds", "From request line to answer.", ["route"], buckets=_LATENCIES_S)
EVENT_STREAMS = Gauge("throughline_event_streams", "Open event streams.", multiprocess_mode="livesum")
WEBHOOKS = Counter("throughline_webhooks", "Vendors' webhooks.", ["endpoint", "outcome"])
ACCEPTED = Counter("throughline_accepted", "Messages made durable.", ["endpoint", "outcome"])
ATTEMPTS = Counter("throughline_attempts", "Attempts ended.", ["endpoint", "outcome", "class"])
ATTEMPT_SECONDS = Histogram(
    "throughline_attempt_seconds", "From begin to outcome of an attempt.", ["endpoint"], buckets=_LATENCIES_S
)
REBINDS = Counter("throughline_rebinds", "Legs moved.", ["endpoint", "reason"])
TRANSITIONS = Counter("throughline_transitions", "Statuses changed.", ["endpoint", "direction", "status"])
REPAIRS = Counter("throughline_repairs", "What the store had to put right: each is a bug to be found.")
RECEIPTS_REFUSED = Counter(
    "throughline_receipts_refused",
    "Receipts of an endpoint for another endpoint's attempt: nothing was changed.",
    ["endpoint"],
)
UNVERIFIED_NUMBERS = Gauge(
    "throughline_unverified_numbers",
    "Numbers nobody has verified that we began to write to this hour.",
    multiprocess_mode="max",
)
SPOOLED = Counter("throughline_spooled", "What Redis could not take and our own disk did.", ["kind"])
LOOP_LAG_SECONDS = Gauge("throughline_loop_lag_seconds", "Event-loop lag.", ["role"], multiprocess_mode="max")
ENDPOINT_STATUS = Gauge(
    "throughline_endpoint_status",
    "1 for the endpoint's status, 0 for the others.",
    ["endpoint", "direction", "status"],
    multiprocess_mode="mostrecent",
)
ENDPOINT_GATE_OPEN = Gauge(
    "throughline_endpoint_gate_open",
    "1: sides may begin here.",
    ["endpoint"],
    multiprocess_mode="mostrecent",
)
ENDPOINT_DUE = Gauge(
    "throughline_endpoint_due", "Sides with work here now.", ["endpoint"], multiprocess_mode="mostrecent"
)

_SECRET_NAMES = re.compile(r"secret|password|passwd|token|authorization|cookie|credential|api_key|csrf", re.IGNORECASE)
_PRIVATE_NAMES = frozenset({"address", "to", "sender", "recipient", "text", "body", "html", "subject", "name", "query"})
_PRIVATE_VALUES = re.compile(
    r"tl_[0-9a-f]{10}_[A-Za-z0-9_-]+"  # our own keys
    r"|(?i:bearer|basic)\s+[A-Za-z0-9+/._=-]{8,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user and password in a URL
    r"|[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"  # a mailbox
    r"|\+[1-9]\d{6,14}\b"  # E.164
)
_MAY_BE_PRIVATE = re.compile(r"tl_|[@+\s]")
"""Every private value has one of these; ids, which most values are, have none."""
REDACTED = "[redacted]"
_ENCODER = json.JSONEncoder()


class LogStream(io.TextIOBase):
    """Where log lines go. What a full disk does not take is dropped: no work may fail because nobody can read of it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """All of it, or none."""
        with contextlib.suppress(OSError):
            self._out.write(text)
        return len(text)

    def flush(self) -> None:
        """As far as the disk lets us."""
        with contextlib.suppress(OSError):
            self._out.flush()


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """One JSON object a line, on standard error; foreign libraries' records too. Secrets and addresses are masked."""
    number = logging.getLevelNamesMapping()[level.upper()]
    out = cast(TextIO, LogStream(stream or sys.stderr))
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_as_json)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    rim = logging.StreamHandler(out)
    rim.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[rim], force=True)


def redact(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Mask what no log may hold: secrets by their name, addresses and keys by their look; bound the rest."""
    return {name: _clean(name, value) for name, value in event.items()}


def show_endpoint(
    endpoint: EndpointId, *, out: Status, in_: Status, gate_open: bool, due: int, known: Iterable[EndpointId]
) -> None:
    """Set an endpoint's gauges; one that is not `known` is left out, so that labels stay bounded."""
    if endpoint not in known:
        return
    for direction, current in (("out", out), ("in", in_)):
        for status in Status:
            ENDPOINT_STATUS.labels(endpoint, direction, status.value).set(float(status is current))
    ENDPOINT_GATE_OPEN.labels(endpoint).set(float(gate_open))
    ENDPOINT_DUE.labels(endpoint).set(due)


def render_metrics() -> bytes:
    """All metrics as text; of all local processes where `PROMETHEUS_MULTIPROC_DIR` names their folder."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        collect: Callable[[CollectorRegistry], object] = multiprocess.MultiProcessCollector
        collect(registry)
        return generate_latest(registry)
    return generate_latest()


def _as_json(event: object, **_: object) -> str:
    """What `redact` left is plain JSON; an encoder made once is half the cost of one made for each line."""
    return _ENCODER.encode(event)


@lru_cache(maxsize=1_000)
def _is_private(name: str) -> bool:
    return bool(_SECRET_NAMES.search(name)) or name in _PRIVATE_NAMES


def _clean(name: str, value: object) -> object:
    if _is_private(name):
        return REDACTED if value not in (None, "") else value
    if type(value) is str and len(value) <= LOG_TEXT_MAX and not _MAY_BE_PRIVATE.search(value):
        return value  # as most are
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(name, item) for item in value]
    words = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)[:LOG_TEXT_MAX]
    return _PRIVATE_VALUES.sub(REDACTED, words) if _MAY_BE_PRIVATE.search(words) else words
