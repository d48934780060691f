"""What providers say later of what they took: each receipt to its attempt, once."""

import structlog

from channels.messages import Accepted, Channel, ReceiptEvent, ReceiptState
from health.report import Direction, Evidence, Verdict, Witness
from router.canary import NO_ATTEMPT
from router.core import Core
from router.evidence_desk import EvidenceDesk
from router.store.control import EarlyReceipt
from router.store.store import read_token
from router.telemetry import RECEIPTS_REFUSED

MAILBOXES = f"{Channel.EMAIL}/"

log = structlog.get_logger()


async def take_receipt(core: Core, desk: EvidenceDesk, event: ReceiptEvent) -> Accepted:
    """Let an attempt know what its provider says of it now; one that names none of ours changes nothing.

    Nor does one that names another endpoint's attempt: whoever holds one vendor's credentials must not end what
    another one took. Bounces alone may come in elsewhere, at any mailbox of ours, with the attempt's own token.

    Raises:
        StoreUnavailable: nothing was promised; deliver it again.
    """
    token = event.token
    if not token and event.vendor_id:
        early = EarlyReceipt(event.state.value, event.reason[:200], permanent=event.permanent, final=event.final)
        token = await core.control.token_of(event.endpoint, event.vendor_id, early)
    try:
        _, attempt = read_token(token)
    except ValueError:
        log.info("receipt.unmatched", endpoint=event.endpoint, state=event.state)
        return Accepted()
    if attempt == NO_ATTEMPT:  # every few seconds, and whether a canary came back says more
        log.debug("receipt.of_canary", endpoint=event.endpoint, state=event.state)
        return Accepted()
    verdict, conversation_id, state = await core.store.receipt(
        token,
        event.state,
        reason=event.reason,
        permanent=event.permanent,
        final=event.final,
        by=event.endpoint,
        kin=MAILBOXES if event.token and event.endpoint.startswith(MAILBOXES) else "",
    )
    if verdict == "foreign":
        RECEIPTS_REFUSED.labels(event.endpoint).inc()
        log.warning("receipt.refused", endpoint=event.endpoint, message=read_token(token)[0], state=event.state)
        return Accepted()
    if verdict == "ok" and event.state in {ReceiptState.DELIVERED, ReceiptState.READ}:
        desk.say(Evidence(event.endpoint, Direction.OUT, Verdict.OK, Witness.RECEIPT, core.clock.now(), token=token))
    log.info("receipt.taken", endpoint=event.endpoint, state=event.state, verdict=verdict, message_state=state)
    return Accepted(conversation_id, read_token(token)[0], duplicate=verdict == "old")
