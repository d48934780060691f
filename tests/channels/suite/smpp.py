"""SMPP 3.4 against the stand-in message centre."""

from collections.abc import Mapping
from typing import Any

from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    Throttled,
)
from channels.sandbox.smsc import SmscVendor
from channels.sandbox.vendor import Fault
from channels.wire.smpp_numbers import Command, CommandStatus
from tests.channels.suite.rows import (
    Arrange,
    Bounds,
    Hook,
    Inbound,
    Must,
    Probe,
    Receipted,
    Send,
    Table,
    Taken,
    TextMax,
    bare_webhook,
    exempt,
)
from tests.channels.suite.stage import Stage, babbling_port

SECRET = "pA55w0rd"
"""Eight characters: the protocol's most."""
WRONG = "wr0ngPw1"
SENT_IN_A_MOMENT = Bounds({"channels.sms.smpp.IO_S": 0.3, "channels.sms.link.UNBIND_S": 0.05})
NO_WAIT_FOR_A_BIND = Bounds({"channels.sms.smpp.BOUND_WAIT_S": 0.05})
PROBED_IN_A_MOMENT = Bounds({"channels.sms.smpp.PROBE_S": 0.2, "channels.sms.link.UNBIND_S": 0.05})


def _vendor(stage: Stage) -> SmscVendor:
    return SmscVendor(stage.journal, endpoint="sms/suite", password=SECRET, receipt_after_s=0.02)


async def _taken(stage: Stage) -> list[Taken]:
    entries = [entry for entry in stage.journal.entries if entry.to_customer]
    return [Taken(entry.customer, entry.text, entry.vendor_id) for entry in entries]


async def _babble(stage: Stage) -> Mapping[str, object]:
    return {"port": await babbling_port(stage)}


def _refusing(status: int) -> Arrange:
    async def arrange(stage: Stage) -> Mapping[str, object]:
        def refuse(client: Any, sequence: int, message: object) -> None:
            client.write(Command.SUBMIT_SM_RESP, sequence, status)

        stage.monkeypatch.setattr(stage.vendor, "_take_submit", refuse)
        return {}

    return arrange


TABLE = Table(
    provider="smpp",
    endpoint="sms/suite",
    customer="+15550100777",
    vendor=_vendor,
    settings=lambda stage: {**stage.vendor.endpoint_table(), "enquire_link_s": 60},
    taken=_taken,
    pace={"channels.sandbox.smsc.RETRY_S": 0.03},
    cases={
        Must.TAKEN: (
            Send(label="GSM", message={"text": "Grüße, €5 {ok}"}),
            Send(label="UCS-2", message={"text": "Привет 😀"}),
            Send(label="segments", message={"text": "lang " * 99 + "lang"}),
            Send(label="UCS-2 segments", message={"text": "длинный " * 39 + "!"}),
        ),
        Must.REFUSED_CONNECTION: Send(
            fault=Fault.REFUSE, once_down=True, bounds=NO_WAIT_FOR_A_BIND, raises=EndpointUnavailable
        ),
        Must.HANG: Send(fault=Fault.HANG, bounds=SENT_IN_A_MOMENT, raises=OutcomeUnknown, reason="no_answer"),
        Must.VENDOR_ERROR: Send(fault=Fault.ERROR, raises=EndpointUnavailable, reason="ESME_RSYSERR"),
        Must.DROP_AFTER_ACCEPT: Send(fault=Fault.DROP_AFTER_ACCEPT, raises=OutcomeUnknown, taken=1),
        Must.NONSENSE: Send(arrange=_babble, bounds=NO_WAIT_FOR_A_BIND, raises=EndpointUnavailable),
        Must.THROTTLED: (
            Send(label="one segment", fault=Fault.THROTTLE, raises=Throttled),
            Send(label="segments", fault=Fault.THROTTLE, message={"text": "a" * 500}, raises=Throttled),
            Send(label="queue full", arrange=_refusing(CommandStatus.ESME_RMSGQFUL), raises=Throttled),
        ),
        Must.BAD_CREDENTIAL: (
            Send(label="password", settings={"password": WRONG}, raises=EndpointMisconfigured),
            Send(label="system_id", settings={"system_id": "nobody"}, raises=EndpointMisconfigured),
        ),
        Must.BAD_RECIPIENT: (
            Send(label="vendor", arrange=_refusing(CommandStatus.ESME_RINVDSTADR), raises=RecipientUnreachable),
            Send(label="letters", message={"to": "+1555abc"}, raises=RecipientUnreachable),
            Send(label="empty", message={"to": ""}, raises=RecipientUnreachable),
            Send(label="long", message={"to": "+" + "1" * 20}, raises=RecipientUnreachable),
        ),
        Must.CONTENT_REFUSED: (
            Send(label="filter", arrange=_refusing(0x0401), raises=MessageRejected),
            Send(label="segments", settings={"segments_max": 2}, message={"text": "a" * 400}, raises=MessageRejected),
        ),
        Must.EMPTY_TEXT: (
            Send(label="empty", message={"text": ""}, raises=MessageRejected),
            Send(label="controls", message={"text": "\x00\x07"}, raises=MessageRejected),
        ),
        Must.TEXT_OVER_MAX: TextMax(),
        Must.LINE_ENDS_AND_NUL: (
            Send(label="text", message={"text": "a\r\nb\x00c\x0c"}, arrives="a\nbc"),
            Send(label="address", message={"to": "+15550100\r\n\x00"}, raises=RecipientUnreachable),
            Send(label="token", message={"token": "s0\r\n\x00"}),
        ),
        Must.MARKUP: Send(message={"text": "<Dial>&amp;</Dial> \" '"}),
        Must.PROBE_WELL: (Probe(label="bound"), Probe(label="apart", listens=False)),
        Must.PROBE_UNWELL: (
            Probe(label="refused", fault=Fault.REFUSE, raises=EndpointUnavailable),
            Probe(label="refused apart", fault=Fault.REFUSE, listens=False, raises=EndpointUnavailable),
            Probe(label="hang", fault=Fault.HANG, bounds=PROBED_IN_A_MOMENT, raises=EndpointUnavailable),
            Probe(
                label="hang apart",
                fault=Fault.HANG,
                bounds=Bounds({"channels.sms.link.CONNECT_S": 0.2}),
                listens=False,
                raises=EndpointUnavailable,
            ),
            Probe(label="credential", settings={"password": WRONG}, raises=EndpointMisconfigured),
            Probe(label="credential apart", settings={"password": WRONG}, listens=False, raises=EndpointMisconfigured),
            Probe(label="nonsense", arrange=_babble, listens=False, raises=EndpointUnavailable),
        ),
        Must.RECEIPT: (
            Receipted(label="one segment"),
            Receipted(label="segments", message={"text": "a long story, " * 30}),
        ),
        Must.INBOUND: (
            Inbound(label="GSM", text="Grüße, €5 {ok}", same_id=False),
            Inbound(label="UCS-2", text="Привет 😀", same_id=False),
            Inbound(label="segments", text="a long story, " * 30, same_id=False),
            Inbound(label="UCS-2 segments", text="длинный " * 40, same_id=False),
        ),
        Must.INBOUND_CONTROLS: Inbound(text="a\x00b\x07c\x1b[31m", arrives="abc[31m", same_id=False),
        Must.DELIVERED_TWICE: (
            Inbound(label="one segment", fail_after=1, same_id=False),
            Inbound(label="segments", text="a long story, " * 30, fail_after=1, same_id=False),
        ),
        Must.NOT_DURABLE: (
            Inbound(label="one segment", fail_before=2, same_id=False),
            Inbound(label="segments", text="a long story, " * 30, fail_before=2, same_id=False),
        ),
        Must.WEBHOOK_FORGED: Hook(bare_webhook, 404),
        Must.WEBHOOK_MALFORMED: exempt("every webhook is refused unread"),
        Must.WEBHOOK_OVERSIZED: exempt("every webhook is refused unread"),
    },
)
