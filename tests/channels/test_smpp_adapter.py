"""The SMPP adapter against the stand-in message centre: every fault on the wire, nothing lost, nothing doubled."""

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from channels.contract import Adapter, Listening
from channels.errors import (
    EndpointMisconfigured,
    EndpointUnavailable,
    LocalFault,
    MessageRejected,
    OutcomeUnknown,
    RecipientUnreachable,
    SendFailed,
    Throttled,
)
from channels.messages import (
    Accepted,
    Address,
    Channel,
    Content,
    Event,
    InboundMessage,
    Kind,
    Matter,
    OutboundMessage,
    ReceiptEvent,
    ReceiptState,
)
from channels.sandbox.smsc import SmscVendor
from channels.sandbox.vendor import Fault, Journal
from channels.sms.outcome import read_refusal
from channels.sms.smpp import SmppAdapter, SmppSettings
from channels.tools import Tools
from channels.wire.smpp_numbers import CommandStatus
from health.report import Direction, EndpointId, Report, Status
from router.store.adapter_store import RedisAdapterStore
from router.store.connecting import connect
from router.store.files import Files
from router.store.redis import Pipelined
from tests.clocks import WallClock, until

ENDPOINT = EndpointId("sms/sandbox")
MATTER = Matter(organisation="Acme", reference="4F2K9", locale="en")


@dataclass
class Desk:
    """One adapter, its message centre, and what it told us."""

    smsc: SmscVendor
    journal: Journal
    tools: Tools
    events: list[Event] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    adapters: list[SmppAdapter] = field(default_factory=list)
    listening: list[asyncio.Task[None]] = field(default_factory=list)
    refuse: int = 0
    """How many accepts fail from now on."""

    async def accept(self, event: Event) -> Accepted:
        if self.refuse:
            self.refuse -= 1
            raise LocalFault("the store is away")
        self.events.append(event)
        return Accepted()

    def adapter(self, **settings: object) -> SmppAdapter:
        table = {**self.smsc.endpoint_table(), "enquire_link_s": 0.3, **settings}
        adapter = SmppAdapter(SmppSettings.model_validate(table), self.tools)
        self.adapters.append(adapter)
        return adapter

    async def listen(self, **settings: object) -> SmppAdapter:
        """An adapter that is bound."""
        adapter = self.adapter(**settings)
        self.listening.append(asyncio.create_task(adapter.listen(self.accept)))
        await until(lambda: any(report.status is Status.UP for report in self.reports))
        return adapter

    @property
    def words(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, InboundMessage)]

    @property
    def receipts(self) -> list[ReceiptEvent]:
        return [event for event in self.events if isinstance(event, ReceiptEvent)]

    @property
    def texts(self) -> list[str]:
        return [entry.text for entry in self.journal.entries if entry.to_customer]

    async def end(self) -> None:
        for task in self.listening:
            task.cancel()
        await asyncio.gather(*self.listening, return_exceptions=True)
        for adapter in self.adapters:
            await adapter.close()


@pytest.fixture
async def desk(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A message centre that runs, and what an adapter needs."""
    monkeypatch.setattr("channels.sandbox.smsc.RETRY_S", 0.1)
    journal = Journal()
    smsc = SmscVendor(journal, receipt_after_s=0.02)
    await smsc.start()
    client = connect(redis_url)
    reports: list[Report] = []
    async with aiohttp.ClientSession() as http:
        tools = Tools(
            endpoint=ENDPOINT,
            http=http,
            clock=WallClock(),
            store=RedisAdapterStore(Pipelined(client), ENDPOINT),
            files=Files(tmp_path),
            report=reports.append,
            organisation="Acme",
            public_url="http://127.0.0.1",
        )
        desk = Desk(smsc, journal, tools, reports=reports)
        try:
            yield desk
        finally:
            await desk.end()
            await smsc.stop()
            await client.aclose()


def say(text: str, to: str = "+15550100", token: str = "t1", expires_at: float | None = None) -> OutboundMessage:
    """One attempt."""
    return OutboundMessage(
        message_id="m1",
        conversation_id="c1",
        token=token,
        kind=Kind.MESSAGE,
        to=Address(Channel.SMS, to),
        content=Content(text),
        matter=MATTER,
        expires_at=expires_at,
    )


async def test_it_keeps_the_contract(desk: Desk) -> None:
    """Adapter and Listening; capabilities as set; no secret in its repr."""
    adapter: Adapter = desk.adapter(price="0.05", rate_per_s=30)
    assert isinstance(adapter, Listening)
    capabilities = adapter.capabilities
    assert (capabilities.channel, capabilities.provider, capabilities.io_s) == (Channel.SMS, "smpp", 5.0)
    assert (capabilities.price, capabilities.rate_per_s, capabilities.listens_in) == (Decimal("0.05"), 30, "dispatch")
    assert (capabilities.text_max, capabilities.receipts, capabilities.replyable) == (1530, True, True)
    assert not desk.adapter(sender="ACME").capabilities.replyable
    assert "sandbox" not in repr(SmppSettings.model_validate(desk.smsc.endpoint_table()).password)


@pytest.mark.parametrize(
    ("text", "segments", "coding"),
    [("Grüße, €5 {ok}", "1", "0"), ("Привет 😀", "1", "8"), ("lang " * 100, "4", "0"), ("длинный " * 40, "5", "8")],
)
async def test_a_text_arrives_whole(desk: Desk, text: str, segments: str, coding: str) -> None:
    """In its alphabet and its segments, one vendor id each, and `delivered` once, when all of them are."""
    adapter = await desk.listen()
    receipt = await adapter.send(say(text))
    assert receipt.state is ReceiptState.SENT
    entry = desk.journal.entries[-1]
    assert (entry.text, entry.customer) == (text, "+15550100")
    assert (entry.details["segments"], entry.details["data_coding"]) == (segments, coding)
    assert entry.details["vendor_ids"].split() == list(receipt.vendor_ids)
    await until(lambda: bool(desk.receipts))
    await asyncio.sleep(0.05)
    (event,) = desk.receipts
    assert (event.state, event.token) == (ReceiptState.DELIVERED, "t1")
    assert event.vendor_id in receipt.vendor_ids


async def test_receipts_that_overtake_the_answer_are_understood(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer takes its time, the receipt comes at once: still one `delivered`, with the token."""
    monkeypatch.setattr("channels.sandbox.smsc.SLOW_S", 0.4)
    adapter = await desk.listen()
    await desk.smsc.set_fault(Fault.SLOW)
    receipt = await adapter.send(say("slow but sure"))
    await until(lambda: bool(desk.receipts))
    assert [(event.state, event.vendor_id, event.token) for event in desk.receipts] == [
        (ReceiptState.DELIVERED, receipt.vendor_ids[0], "t1")
    ]


async def test_a_receipt_that_overtakes_and_names_no_reference_waits_for_the_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most message centres echo no user_message_reference: the id alone must do, in three segments too."""
    monkeypatch.setattr("channels.sandbox.smsc.SLOW_S", 0.4)
    segment = SmppAdapter._segment
    monkeypatch.setattr(SmppAdapter, "_segment", lambda *given: replace(segment(*given), tlvs=()))
    adapter = await desk.listen()
    await desk.smsc.set_fault(Fault.SLOW)
    receipt = await adapter.send(say("lang " * 90))
    assert len(receipt.vendor_ids) == 3
    await until(lambda: bool(desk.receipts))
    await asyncio.sleep(0.1)
    assert [(event.state, event.token) for event in desk.receipts] == [(ReceiptState.DELIVERED, "t1")]


async def test_a_full_window_writes_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are unanswered; the third never leaves us and is certain."""
    monkeypatch.setattr("channels.sms.session.WINDOW_WAIT_S", 0.1)
    adapter = await desk.listen(window=2, enquire_link_s=60)
    await desk.smsc.set_fault(Fault.HANG, share=0.999_999)
    two = [asyncio.create_task(adapter.send(say("hello"))) for _ in range(2)]
    session = await adapter._link.session(1.0)
    await until(lambda: len(session._pending) == 2)
    with pytest.raises(EndpointUnavailable, match="window_full"):
        await adapter.send(say("hello"))
    for task in two:
        task.cancel()
    await asyncio.gather(*two, return_exceptions=True)


async def test_an_unanswered_submit_is_unknown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within `io_s` (five seconds; less here), while enquire_link is still answered."""
    monkeypatch.setattr("channels.sms.smpp.IO_S", 0.5)
    adapter = await desk.listen(enquire_link_s=60)
    await desk.smsc.set_fault(Fault.HANG, share=0.999_999)
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="no_answer"):
        await adapter.send(say("hello"))
    assert 0.4 < time.monotonic() - began < 0.9
    await adapter.probe()


async def test_an_unanswered_submit_is_told_of_before_whoever_sends_gives_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody remembers its number, and a receipt on the next connection names no attempt."""
    monkeypatch.setattr("channels.sms.smpp.IO_S", 1.0)
    adapter = await desk.listen(enquire_link_s=60)
    await desk.smsc.set_fault(Fault.HANG, share=0.999_999)
    with pytest.raises(OutcomeUnknown, match="no_answer"):
        async with asyncio.timeout(adapter.capabilities.io_s):
            await adapter.send(say("hello"))


async def test_an_answer_after_its_time_still_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome was unknown; the late submit_sm_resp says `sent`, with the token of the attempt."""
    monkeypatch.setattr("channels.sms.smpp.IO_S", 0.2)
    monkeypatch.setattr("channels.sandbox.smsc.SLOW_S", 0.5)
    desk.smsc._receipt_after_s = 60
    adapter = await desk.listen(enquire_link_s=60)
    await desk.smsc.set_fault(Fault.SLOW)
    with pytest.raises(OutcomeUnknown):
        await adapter.send(say("late", token="t7"))
    await until(lambda: bool(desk.receipts))
    vendor_id = desk.journal.entries[-1].vendor_id
    assert [(event.state, event.token, event.vendor_id) for event in desk.receipts] == [
        (ReceiptState.SENT, "t7", vendor_id)
    ]


async def test_what_was_dropped_is_proven_by_its_receipt(desk: Desk) -> None:
    """The connection dies after the message was taken; the receipt on the next one names our attempt."""
    adapter = await desk.listen()
    await desk.smsc.set_fault(Fault.DROP_AFTER_ACCEPT)
    with pytest.raises(OutcomeUnknown):
        await adapter.send(say("taken?", token="t9"))
    await desk.smsc.set_fault(Fault.NONE)
    await until(lambda: bool(desk.receipts))
    assert (desk.receipts[0].token, desk.receipts[0].state) == ("t9", ReceiptState.DELIVERED)


async def test_a_restarted_process_still_names_the_attempt(desk: Desk) -> None:
    """The number of an unknown submission is kept in the store, not only in memory."""
    first = await desk.listen()
    await desk.smsc.set_fault(Fault.DROP_AFTER_ACCEPT)
    desk.smsc._receipt_after_s = 0.5  # long enough for the restart
    with pytest.raises(OutcomeUnknown):
        await first.send(say("taken?", token="t9"))
    await desk.end()
    desk.reports.clear()
    await desk.smsc.set_fault(Fault.NONE)
    await desk.listen()
    await until(lambda: bool(desk.receipts))
    assert desk.receipts[0].token == "t9"


async def test_a_text_of_which_a_part_was_taken_is_unknown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first segment passes, the second is throttled: nobody may send it again unflagged."""
    adapter = await desk.listen()
    real = desk.smsc._take_submit
    taken = []

    def second_is_throttled(client, sequence, message):
        taken.append(message)
        desk.smsc.switch.fault = Fault.NONE if len(taken) == 1 else Fault.THROTTLE
        real(client, sequence, message)

    monkeypatch.setattr(desk.smsc, "_take_submit", second_is_throttled)
    with pytest.raises(OutcomeUnknown, match="partly_taken"):
        await adapter.send(say("a" * 300))
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (CommandStatus.ESME_RINVDSTADR, RecipientUnreachable),
        (CommandStatus.ESME_RTHROTTLED, Throttled),
        (CommandStatus.ESME_RMSGQFUL, Throttled),
        (CommandStatus.ESME_RSYSERR, EndpointUnavailable),
        (CommandStatus.ESME_RSUBMITFAIL, EndpointUnavailable),
        (CommandStatus.ESME_RINVSRCADR, MessageRejected),
        (0x0401, MessageRejected),
    ],
)
def test_each_refusal_has_its_error(status: int, error: type[SendFailed]) -> None:
    """Whose fault it was."""
    assert type(read_refusal(status)) is error


async def test_nothing_is_sent_before_the_bind(desk: Desk) -> None:
    """It waits a moment, then says that nothing was written."""
    began = time.monotonic()
    with pytest.raises(EndpointUnavailable, match="not_bound"):
        await desk.adapter().send(say("hello"))
    assert 0.9 < time.monotonic() - began < 1.5


async def test_a_send_right_after_the_start_waits_for_the_bind(desk: Desk) -> None:
    """The first message does not fail because the connection is being made."""
    adapter = desk.adapter()
    desk.listening.append(asyncio.create_task(adapter.listen(desk.accept)))
    assert (await adapter.send(say("first"))).vendor_ids


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"system_id": "nobody"}])
async def test_a_refused_credential_calls_for_a_person(desk: Desk, wrong: dict[str, str]) -> None:
    """At once, in every way of asking, without the password in any of the words."""
    adapter = desk.adapter(**wrong)
    with pytest.raises(EndpointMisconfigured) as apart:
        await adapter.probe()
    desk.listening.append(asyncio.create_task(adapter.listen(desk.accept)))
    await until(lambda: bool(desk.reports))
    assert desk.reports[0].status is Status.DOWN
    for attempt in (adapter.probe(), adapter.send(say("hello"))):
        with pytest.raises(EndpointMisconfigured) as refused:
            await attempt
        assert "wrong" not in str(refused.value) + str(apart.value) + desk.reports[0].words


async def test_a_refusing_centre_is_reported_and_found_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down with its reason, up when it is back; a probe cuts the backoff short."""
    monkeypatch.setattr("channels.sms.link.BACKOFF_S", 100_000)
    monkeypatch.setattr("channels.sms.link.BACKOFF_MAX_S", 100_000)
    adapter = await desk.listen()
    desk.reports.clear()
    await desk.smsc.set_fault(Fault.REFUSE)
    await until(lambda: any(report.status is Status.DOWN for report in desk.reports))
    with pytest.raises(EndpointUnavailable):
        await adapter.send(say("hello"))
    with pytest.raises(EndpointUnavailable):
        await adapter.probe()
    await desk.smsc.set_fault(Fault.NONE)
    await adapter.probe()
    assert desk.reports[-1].status is Status.UP
    assert (await adapter.send(say("again"))).vendor_ids


async def test_a_hanging_centre_is_noticed_by_enquire_link(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is being sent; the silence alone ends the connection."""
    monkeypatch.setattr("channels.sms.session.ENQUIRE_ANSWER_S", 0.3)
    adapter = await desk.listen()
    desk.reports.clear()
    await desk.smsc.set_fault(Fault.HANG)
    with pytest.raises(EndpointUnavailable):
        await adapter.probe()
    await until(lambda: bool(desk.reports))
    assert (desk.reports[0].status, desk.reports[0].reason) == (Status.DOWN, "enquire_link_unanswered")


async def test_a_centre_that_unbinds_is_bound_again(desk: Desk) -> None:
    """Maintenance on their side: answered, reported, reconnected."""
    adapter = await desk.listen()
    desk.reports.clear()
    for client in tuple(desk.smsc._clients):
        client.write(*(0x06, 99))
    await until(lambda: bool(desk.reports))
    assert desk.reports[0].reason == "peer_unbound"
    await until(lambda: desk.reports[-1].status is Status.UP)
    assert (await adapter.send(say("again"))).vendor_ids


async def test_a_flapping_centre_is_bound_by_turns(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses first, works then, and so on; the adapter follows."""
    monkeypatch.setattr("channels.sandbox.smsc.FLAP_PERIOD_S", 0.8)
    monkeypatch.setattr("channels.sandbox.vendor.FLAP_PERIOD_S", 0.8)
    monkeypatch.setattr("channels.sms.link.BACKOFF_MAX_S", 0.05)
    await desk.listen()
    desk.reports.clear()
    await desk.smsc.set_fault(Fault.FLAP)

    def turns() -> int:
        statuses = [report.status for report in desk.reports if report.direction is Direction.OUT]
        return sum(before is not after for before, after in pairwise(statuses))

    await until(lambda: turns() >= 3)
    await desk.smsc.set_fault(Fault.NONE)
    await until(lambda: desk.reports[-1].status is Status.UP)


async def test_a_store_that_is_away_ends_no_connection(desk: Desk) -> None:
    """Our own fault: the link stays watched, and nothing is reported of the endpoint."""
    await desk.listen(enquire_link_s=0.1)
    await desk.smsc.write("+15550123", "hello")
    await until(lambda: bool(desk.words))
    inbound = desk.adapters[0]._inbound
    assert inbound is not None
    desk.reports.clear()
    store = inbound._tools.store
    inbound._tools = replace(
        inbound._tools, store=RedisAdapterStore(Pipelined(connect("redis://127.0.0.1:1")), ENDPOINT)
    )
    await desk.smsc.write("+15550123", "are you there?")
    await asyncio.sleep(0.4)
    inbound._tools = replace(inbound._tools, store=store)
    await until(lambda: desk.words == ["hello", "are you there?"])
    assert desk.reports == []


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path) + ".key"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *key, *subject, "-out", str(path)], check=True, capture_output=True
    )
    with path.open("a") as file:
        file.write(Path(str(path) + ".key").read_text())
    return path


async def test_tls_is_spoken_with_whom_we_trust_only(desk: Desk, certificate: Path) -> None:
    """An unknown certificate is a person's to mend; a known one carries the bind."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(desk.smsc._serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(EndpointMisconfigured, match="certificate"):
            await desk.adapter(port=port, tls=True).probe()
        with pytest.raises(EndpointMisconfigured, match="ca_file"):
            await desk.adapter(port=port, tls=True, ca_file="/nowhere.pem").probe()
        await desk.adapter(port=port, tls=True, ca_file=str(certificate)).probe()


async def test_silently_lost_messages_have_no_receipt(desk: Desk) -> None:
    """The vendor says it took it; that is all it ever says."""
    adapter = await desk.listen()
    await desk.smsc.set_fault(Fault.LOSE_SILENTLY)
    assert (await adapter.send(say("into the void"))).vendor_ids
    await asyncio.sleep(0.2)
    assert not desk.receipts
    assert not desk.journal.entries[-1].delivered


async def test_more_than_a_window_flows_through(desk: Desk) -> None:
    """Two at a time, sixty in all, each once."""
    adapter = await desk.listen(window=2)
    await asyncio.gather(*(adapter.send(say(f"n{number}", token=f"t{number}")) for number in range(60)))
    assert sorted(desk.texts) == sorted(f"n{number}" for number in range(60))
    await until(lambda: len(desk.receipts) == 60)
    assert {event.token for event in desk.receipts} == {f"t{number}" for number in range(60)}


async def test_an_expiry_goes_with_the_message(desk: Desk) -> None:
    """The message centre must not show it late either."""
    adapter = await desk.listen()
    await adapter.send(say("soon", expires_at=time.time() + 3_661.5))
    assert desk.journal.entries[-1].details["validity_period"] in ("000000010101000R", "000000010100000R")


async def test_an_answer_that_was_lost_makes_no_second_message(desk: Desk) -> None:
    """The connection breaks after accept, before our answer: the redelivery has the same vendor id."""
    await desk.listen()
    accept = desk.accept

    async def accept_then_break(event: Event) -> Accepted:
        answer = await accept(event)
        if len(desk.events) == 1:
            for client in tuple(desk.smsc._clients):
                client.writer.transport.abort()
            await asyncio.sleep(0.05)
        return answer

    desk.adapters[0]._inbound._accept = accept_then_break
    await desk.smsc.write("+15550123", "yes")
    await until(lambda: len(desk.events) == 2)
    assert len({event.vendor_id for event in desk.events}) == 1


async def test_a_person_may_say_the_same_twice(desk: Desk) -> None:
    """Two equal texts are two messages, at once or minutes apart, on the same connection or another."""
    await desk.listen(enquire_link_s=0.1)
    await desk.smsc.write("+15550123", "yes")
    await desk.smsc.write("+15550123", "yes")
    await until(lambda: len(desk.events) == 2)
    inbound = desk.adapters[0]._inbound
    assert inbound is not None
    await until(lambda: not inbound._once)  # an enquire_link proves that our answers were read
    for client in tuple(desk.smsc._clients):
        client.writer.transport.abort()
    await desk.smsc.write("+15550123", "yes")
    await until(lambda: len(desk.events) == 3)
    assert len({event.vendor_id for event in desk.events}) == 3


async def test_customers_texts_keep_their_order(desk: Desk) -> None:
    """Per customer, as written."""
    await desk.listen()
    for number in range(20):
        await desk.smsc.write("+15550123", f"{number}")
    await until(lambda: len(desk.words) == 20)
    assert desk.words == [f"{number}" for number in range(20)]


async def test_texts_in_flight_together_keep_their_order(desk: Desk) -> None:
    """The message centre sends on without waiting; the first takes long to keep; the second waits its turn."""
    await desk.listen()
    accept = desk.accept

    async def slow_at_first(event: Event) -> Accepted:
        if isinstance(event, InboundMessage) and event.text == "one":
            await asyncio.sleep(0.2)
        return await accept(event)

    inbound = desk.adapters[0]._inbound
    assert inbound is not None
    inbound._accept = slow_at_first
    post = desk.smsc._post
    for whose in ("one", "two"):
        desk.smsc._post = lambda _, messages, whose=whose: post(whose, messages)
        await desk.smsc.write("+15550123", whose)
        await asyncio.sleep(0.02)
    await until(lambda: len(desk.words) == 2)
    assert desk.words == ["one", "two"]


async def test_parts_survive_a_restart(desk: Desk) -> None:
    """Half a text is acknowledged, the process dies, the other half comes to the next one."""
    await desk.listen()
    parts: list[object] = []
    post = desk.smsc._post
    desk.smsc._post = lambda whose, messages: parts.extend(messages)
    text = "a long story, " * 30
    await desk.smsc.write("+15550123", text)
    assert len(parts) == 3
    post("first", [parts[2], parts[0]])
    await until(lambda: "first" not in desk.smsc._outboxes)
    await desk.end()
    assert not desk.words
    desk.reports.clear()
    await desk.listen()
    post("rest", [parts[1]])
    await until(lambda: bool(desk.words))
    post("again", [parts[1]])
    await until(lambda: "again" not in desk.smsc._outboxes)
    assert desk.words == [text]
    inbound = desk.adapters[-1]._inbound
    assert inbound is not None
    assert not inbound._partials, "the part that came twice must not begin another text"


async def test_a_text_whose_parts_never_come_is_filed_as_it_is(desk: Desk) -> None:
    """Words half read beat words lost; a restart in between changes nothing."""
    await desk.listen(partial_after_s=1)
    parts: list[object] = []
    post = desk.smsc._post
    desk.smsc._post = lambda whose, messages: parts.extend(messages)
    await desk.smsc.write("+15550123", "a" * 153 + "b" * 153 + "c")
    post("some", [parts[0], parts[2]])
    await until(lambda: "some" not in desk.smsc._outboxes)
    await desk.end()
    desk.reports.clear()
    await desk.listen(partial_after_s=1)
    await until(lambda: bool(desk.words))
    assert desk.words == ["a" * 153 + "[...]" + "c"]


async def test_a_reference_that_comes_round_again_begins_another_text(desk: Desk) -> None:
    """Phones count to 256 only."""
    await desk.listen()
    for text in ("first story, " * 20, "other story, " * 20):
        desk.smsc._references = iter([7])
        await desk.smsc.write("+15550123", text)
        await until(lambda wanted=text: wanted in desk.words)
    assert len(desk.words) == 2


@pytest.mark.parametrize(
    ("form", "answered", "in_receipt"),
    [("decimal", "00004f2a", "20266"), ("hex", "20266", "4F2A"), ("same", "4F2a", "4F2a")],
)
async def test_ids_in_another_notation_are_matched(desk: Desk, form: str, answered: str, in_receipt: str) -> None:
    """Answers in hexadecimal and receipts in decimal, or the other way round."""
    adapter = desk.adapter(receipt_ids=form)
    assert adapter._read_response_id(answered) == adapter._read_receipt_id(in_receipt)


@pytest.mark.parametrize(
    ("table", "field_name"),
    [
        ({"password": "123456789"}, "password"),
        ({"system_id": "x" * 16}, "system_id"),
        ({"sender": "a name far too long"}, "sender"),
        ({"window": 0}, "window"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_wrong_settings_are_refused_by_field(desk: Desk, table: dict[str, object], field_name: str) -> None:
    """At start, not at the first message."""
    with pytest.raises(ValueError, match=field_name):
        SmppSettings.model_validate({**desk.smsc.endpoint_table(), **table})
