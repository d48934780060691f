"""SMS over Twilio against the stand-in account."""

from channels.errors import MessageRejected
from channels.sandbox.twilio import TwilioSmsVendor
from tests.channels.suite.rows import Inbound, Must, Receipted, Send, Table, Taken, TextMax
from tests.channels.suite.stage import Stage
from tests.channels.suite.twilio import CUSTOMER, FAULTS, SECRET, bad_hooks

MESSAGE = {"MessageSid": "SM" + "1" * 32, "From": CUSTOMER, "To": "+15550100001", "Body": "Hi"}


def _vendor(stage: Stage) -> TwilioSmsVendor:
    return TwilioSmsVendor(stage.tools.endpoint, stage.journal, stage.public_url, auth_token=SECRET)


async def _taken(stage: Stage) -> list[Taken]:
    entries = [entry for entry in stage.journal.entries if entry.to_customer]
    return [Taken(entry.customer, entry.text, entry.vendor_id) for entry in entries]


TABLE = Table(
    provider="twilio-sms",
    endpoint="sms/suite",
    customer=CUSTOMER,
    vendor=_vendor,
    settings=lambda stage: stage.vendor.endpoint_table(),
    taken=_taken,
    pace={"channels.sandbox.twilio_server.BACKOFF_S": (0.02,)},
    cases={
        **FAULTS,
        **bad_hooks(MESSAGE, "MessageSid"),
        Must.TAKEN: (
            Send(label="plain"),
            Send(label="beyond ASCII", message={"text": "Grüße, it's fixed & done 🙂"}),
        ),
        Must.EMPTY_TEXT: (
            Send(label="blank", message={"text": " \n"}, raises=MessageRejected),
            Send(label="controls", message={"text": "\x00\x07"}, raises=MessageRejected),
        ),
        Must.TEXT_OVER_MAX: TextMax(),
        Must.LINE_ENDS_AND_NUL: (
            Send(label="text", message={"text": "a\r\nb\x00c"}, arrives="a\nbc"),
            Send(label="token", message={"token": "s0\r\n\x00&To=+1900"}),
        ),
        Must.MARKUP: Send(message={"text": "<Dial>&amp;</Dial> \" '"}),
        Must.RECEIPT: (
            Receipted(label="plain"),
            # The token comes back as it went, whatever stands in it.
        ),
        Must.INBOUND: (
            Inbound(label="plain"),
            Inbound(label="beyond ASCII", text="Grüße & <more> 🙂"),
        ),
        Must.INBOUND_CONTROLS: Inbound(text="a\x00b\x07c\r\nd", arrives="abc\nd"),
        Must.DELIVERED_TWICE: Inbound(fail_after=1),
        Must.NOT_DURABLE: Inbound(fail_before=2),
    },
)
