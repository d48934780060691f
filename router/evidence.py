"""What an outcome says of its endpoint: from errors to settlements and evidence."""

from dataclasses import dataclass

from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    LocalFault,
    LocalOutcomeUnknown,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    SendFailed,
    Throttled,
)
from health.report import Verdict

LOCAL_PAUSE_S = 1.0
"""After a fault of our own, before the message is tried again."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of one send, for the message and for the endpoint."""

    outcome: str
    """For `settle`."""
    verdict: Verdict | None
    """For the board; None: says nothing of the endpoint."""
    reason: str
    retry_after_s: float = 0.0


def judge(error: BaseException) -> Judgement:
    """The judgement on a failed send. An error that is not in the tree is a fault of ours: the outcome is unknown."""
    match error:
        case MessageRejected():
            return Judgement("rejected", None, error.reason)
        case RecipientUnreachable():
            return Judgement("unreachable", None, error.reason)
        case Throttled():
            return Judgement("throttled", Verdict.PRESSURE, error.reason, error.retry_after_s)
        case EndpointUnavailable():
            return Judgement("unavailable", Verdict.FAILURE, error.reason)
        case EndpointMisconfigured():
            return Judgement("misconfigured", Verdict.MISCONFIGURED, error.reason)
        case OutcomeUnknown():
            return Judgement("unknown", Verdict.FAILURE, error.reason)
        case TimeoutError():
            return Judgement("unknown", Verdict.FAILURE, "io_timeout")
        case LocalOutcomeUnknown():
            return Judgement("unknown", None, "local_fault")
        case LocalFault():
            return Judgement("throttled", None, "local_fault", LOCAL_PAUSE_S)
        case _:
            return Judgement("unknown", None, "adapter_fault")


def judge_probe(error: BaseException) -> tuple[Verdict | None, str]:
    """What a failed probe says of its endpoint."""
    if isinstance(error, SendFailed):
        judgement = judge(error)
        return judgement.verdict, judgement.reason
    if isinstance(error, TimeoutError):
        return Verdict.FAILURE, "probe_timeout"
    return None, "local_fault"
