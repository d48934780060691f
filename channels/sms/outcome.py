"""What a message centre's refusal means: whose fault it is. A negative answer is certain: nothing was taken."""

from channels.errors import EndpointUnavailable, MessageRejected, RecipientUnreachable, SendFailed, Throttled
from channels.wire.smpp_numbers import CommandStatus, name_status

RETRY_THROTTLED_S = 1.0
RETRY_FULL_S = 5.0

_RECIPIENT = (CommandStatus.ESME_RINVDSTADR, CommandStatus.ESME_RINVDSTTON, CommandStatus.ESME_RINVDSTNPI)
# RSUBMITFAIL says that the centre failed at submitting, and centres with a failing core say it for every message;
# wrong numbers and contents have codes of their own. Waiting loses nothing; rejecting would fail every message of an
# outage that we should have seen.
_ENDPOINT = (
    CommandStatus.ESME_RSYSERR,
    CommandStatus.ESME_RSUBMITFAIL,
    CommandStatus.ESME_RINVBNDSTS,
    CommandStatus.ESME_RUNKNOWNERR,
)


def read_refusal(status: int) -> SendFailed:
    """The error that a negative submit_sm_resp or a generic_nack stands for.

    What is left, the specification's many complaints about fields and the codes of a vendor's own (from 0x400: no
    credit for this route, content filtered), is about this message: it takes the next route at once, and no single
    number or word can take an endpoint down.
    """
    name = name_status(status)
    if status in _RECIPIENT:
        return RecipientUnreachable(name, "the message centre does not take this number")
    if status == CommandStatus.ESME_RTHROTTLED:
        return Throttled(name, "the message centre asks us to send more slowly", RETRY_THROTTLED_S)
    if status == CommandStatus.ESME_RMSGQFUL:
        return Throttled(name, "the message centre's queue is full", RETRY_FULL_S)
    if status in _ENDPOINT:
        return EndpointUnavailable(name, f"the message centre cannot take messages now: {name}")
    return MessageRejected(name, f"the message centre refused this message: {name}")
