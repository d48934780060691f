"""Phone calls over Twilio against the stand-in account, whose phone is picked up and answered."""

from collections.abc import Mapping

from channels.errors import LocalFault, MessageRejected, OutcomeUnknown, RecipientUnreachable
from channels.messages import ReceiptState
from channels.sandbox.twilio import Call, TwilioVoiceVendor
from channels.sandbox.vendor import Fault
from tests.channels.suite.rows import Check, Inbound, Must, Receipted, Send, Table, Taken, TextMax
from tests.channels.suite.stage import WORDS, Stage, silent_port, store_at, until
from tests.channels.suite.twilio import CUSTOMER, FAULTS, SECRET, SHORT, bad_hooks

STEP = {"CallSid": "CA" + "1" * 32, "Direction": "inbound", "From": CUSTOMER, "SpeechResult": "Hi"}


def _vendor(stage: Stage) -> TwilioVoiceVendor:
    return TwilioVoiceVendor(stage.tools.endpoint, stage.journal, stage.public_url, auth_token=SECRET)


async def _taken(stage: Stage) -> list[Taken]:
    """A call that was placed; what it says is heard later, once somebody picks up."""
    calls = [entry for entry in stage.journal.entries if entry.details.get("event") == "call"]
    return [Taken(entry.customer, entry.text, entry.vendor_id) for entry in calls]


async def _pick_up(stage: Stage) -> Mapping[str, object]:
    stage.vendor.auto = "answer"
    return {}


async def _let_it_be_taken_by_a_machine(stage: Stage) -> Mapping[str, object]:
    stage.vendor.auto = "voicemail"
    return {}


async def _call(stage: Stage, text: str, **matter: str) -> Call:
    """A call that was answered and is over."""
    await _pick_up(stage)
    await stage.open()
    await stage.send(stage.message({"text": text, "matter": matter}))
    (call,) = stage.vendor.calls
    await until(lambda: any(event.final for event in stage.receipts), "the call's final status")
    ended: Call = call
    return ended


def _hears(said: str, heard: str) -> Check:
    async def run(stage: Stage) -> None:
        call = await _call(stage, said, what_happened=said)
        assert [heard in sentence for sentence in call.said].count(True) == 2, call.said
        assert not call.dialled
        assert (call.status, set(stage.answers)) == ("completed", {200})

    return Check(run, label="heard")


async def _hang_the_store(stage: Stage) -> Mapping[str, object]:
    stage.monkeypatch.setattr("channels.phone.twilio.STORE_S", 0.2)
    store_at(stage, await silent_port(stage))
    return {}


HOSTILE = '</Say><Dial>+19005550100</Dial> &amp; "quoted"'
TABLE = Table(
    provider="twilio-voice",
    endpoint="phone/suite",
    customer=CUSTOMER,
    vendor=_vendor,
    settings=lambda stage: stage.vendor.endpoint_table(),
    taken=_taken,
    says_later=True,
    pace={
        "channels.sandbox.twilio_server.BACKOFF_S": (0.02,),
        "channels.sandbox.twilio.AUTO_ANSWER_S": 0.01,
        "channels.sandbox.twilio.REDIAL_S": 0.02,
        "channels.sandbox.twilio_call.SILENCE_S": 0.05,
    },
    cases={
        **FAULTS,
        **bad_hooks(STEP, "CallSid", path="answer", query="?n=1"),
        Must.HANG: (
            Send(label="vendor", fault=Fault.HANG, bounds=SHORT, raises=OutcomeUnknown, reason="read_timeout"),
            Send(label="store", arrange=_hang_the_store, raises=LocalFault),
        ),
        Must.TAKEN: (Send(), _hears(WORDS, WORDS)),
        Must.EMPTY_TEXT: Send(message={"text": " \n"}, raises=MessageRejected),
        Must.TEXT_OVER_MAX: TextMax(),
        Must.LINE_ENDS_AND_NUL: (
            _hears("a\r\nb\x00c\x0bd", "a \nb c d"),
            Send(label="token", message={"token": "s0\r\n\x00&To=+1900"}),
            Send(label="reply token", message={"reply_token": "s0\r\n\x00&To=+1900"}),
            Send(label="reference", message={"matter": {"reference": "4F\r\n\x00"}}),
            Send(label="address", message={"to": CUSTOMER + "\r\n"}, raises=RecipientUnreachable),
        ),
        Must.MARKUP: _hears(HOSTILE, HOSTILE),
        Must.RECEIPT: (
            Receipted(label="key", arrange=_pick_up),
            Receipted(label="voicemail", arrange=_let_it_be_taken_by_a_machine, state=ReceiptState.UNCONFIRMED),
        ),
        Must.INBOUND: Inbound(text="Thanks & <see> you, grüße"),
        Must.INBOUND_CONTROLS: Inbound(text="a\x00b\x07c", arrives="abc"),
        Must.DELIVERED_TWICE: Inbound(fail_after=1),
        Must.NOT_DURABLE: Inbound(fail_before=2),
    },
)
