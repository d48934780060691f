"""What can go wrong with a send. An error answers two questions: whose fault, and might it have been taken?

SendFailed
├── MessageRejected         not here, as it is                 certainly not taken, no evidence
├── RecipientUnreachable    not at this address                certainly not taken, no evidence
├── Throttled               alive, wait                        certainly not taken, pressure
├── EndpointUnavailable     the endpoint's fault               certainly not taken, failure
├── EndpointMisconfigured   a person must act                  certainly not taken, down at once
└── OutcomeUnknown          the endpoint's fault               may have been taken, failure

WebhookRefused              inbound: not signed, stale, malformed, too large; nothing was accepted
LocalFault                  our own: DNS, event loop, Redis     certainly not taken, no evidence
└── LocalOutcomeUnknown     our own, past the commit point      may have been taken, no evidence
"""


class SendFailed(Exception):
    """A send did not end in a receipt. `reason` is machine-readable, the text is for people."""

    def __init__(self, reason: str, words: str) -> None:
        super().__init__(f"{reason}: {words}")
        self.reason = reason
        self.words = words


class MessageRejected(SendFailed):
    """Not here, as it is: content or size. The next route may take it; else the agent is told why."""


class RecipientUnreachable(SendFailed):
    """Not at this address: no such user, opted out, window closed. The customer's next binding is tried."""


class Throttled(SendFailed):
    """Alive, but asks us to wait `retry_after_s` seconds."""

    def __init__(self, reason: str, words: str, retry_after_s: float) -> None:
        super().__init__(reason, words)
        self.retry_after_s = retry_after_s


class EndpointUnavailable(SendFailed):
    """Certainly not taken: refused, unreachable, broken off before the commit point."""


class EndpointMisconfigured(SendFailed):
    """A bad credential or setting: the endpoint is down at once, and a person must act."""


class OutcomeUnknown(SendFailed):
    """May have been taken: the connection was lost, or nobody answered, after the commit point."""


class LocalFault(Exception):
    """Our own fault (DNS, a stalled event loop, Redis): never counts against an endpoint; nothing was sent."""


class LocalOutcomeUnknown(LocalFault):
    """Our own fault, when the message may have been taken already: flagged like any unknown, held against nobody."""


class WebhookRefused(Exception):
    """A webhook we do not accept. `status` is the HTTP answer (401, 400, 413); the body tells no detail."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
