"""SMPP from a message centre gone mad: refused with the declared error, bounded, and the next honest word is heard."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiosmpplib import protocol as theirs
from aiosmpplib.state import PhoneNumber
from hypothesis import example, given
from hypothesis import strategies as st

from channels.messages import Address, Channel
from channels.sms.session import DELIVERIES_MAX, NotWritten, SmppSession, Taken, Unanswered
from channels.sms.smpp import SmppAdapter
from channels.sms.smpp_settings import SmppSettings
from channels.tools import Tools
from channels.wire.gsm0338 import UdhError, decode_text, join_bodies, segment_text, split_header
from channels.wire.smpp import (
    PDU_MAX,
    TLVS_MAX,
    UDHI,
    BindResponse,
    MessageResponse,
    Pdu,
    ShortMessage,
    SmppDecodeError,
    SmppEncodeError,
    decode_pdu,
    encode_pdu,
    take_pdu,
)
from channels.wire.smpp_numbers import Command, MessageState, Tag
from channels.wire.smpp_receipt import read_receipt
from health.report import EndpointId
from router.store.codec import read_place
from router.store.keys import place
from tests.hostile.mutation import cases

_PARTS = segment_text("a text that is long enough for two segments " * 6, 77).parts
_WORDS = ShortMessage("15550100", "15550199", b"Hello there", registered_delivery=1)
_PART = ShortMessage("15550100", "15550199", _PARTS[0], esm_class=UDHI)
_RECEIPT = ShortMessage(
    "15550100",
    "15550199",
    b"id:17 sub:001 dlvrd:001 submit date:2601010101 done date:2601010102 stat:DELIVRD err:000 text:Hi",
    esm_class=4,
    tlvs=((Tag.RECEIPTED_MESSAGE_ID, b"17\0"), (Tag.MESSAGE_STATE, b"\x02")),
)
_LONG = ShortMessage("15550100", "15550199", tlvs=((Tag.MESSAGE_PAYLOAD, b"words " * 200),))
SAMPLES = [
    encode_pdu(pdu)
    for pdu in (
        Pdu(Command.DELIVER_SM, 1, body=_WORDS),
        Pdu(Command.DELIVER_SM, 2, body=_PART),
        Pdu(Command.DELIVER_SM, 3, body=_RECEIPT),
        Pdu(Command.DELIVER_SM, 4, body=_LONG),
        Pdu(Command.SUBMIT_SM_RESP, 1, body=MessageResponse("17")),
        Pdu(Command.BIND_TRANSCEIVER_RESP, 1, body=BindResponse("centre", ((Tag.SC_INTERFACE_VERSION, b"\x34"),))),
        Pdu(Command.ENQUIRE_LINK, 5),
        Pdu(Command.GENERIC_NACK, 6, 3),
        Pdu(Command.UNBIND, 7),
    )
]
TOKENS = [struct.pack("!I", number) for number in (0, 1, 15, 16, 17, 0x7FFFFFFF, PDU_MAX, PDU_MAX + 1)]
TOKENS += [struct.pack("!HH", tag, 0xFFFF) for tag in (Tag.MESSAGE_PAYLOAD, Tag.RECEIPTED_MESSAGE_ID)]


def _read_all(stream: bytes) -> list[Pdu]:
    """What a session makes of a stream; raises nothing but SmppDecodeError, and keeps at most one PDU."""
    buffer, found = bytearray(stream), []
    try:
        while (raw := take_pdu(buffer)) is not None:
            assert len(raw) <= PDU_MAX
            try:
                found.append(decode_pdu(raw))
            except SmppDecodeError as wrong:
                if wrong.fatal:
                    break
        else:
            # What is not a whole PDU yet waits for its rest, which its own length bounds.
            assert len(buffer) < 4 or len(buffer) < int.from_bytes(buffer[:4], "big") <= PDU_MAX
    except SmppDecodeError as wrong:
        assert wrong.fatal
    return found


def test_no_stream_makes_the_reader_fall_over() -> None:
    """Whatever it does read can be said again, and means the same; its words can be shown."""
    read = 0
    for case in cases("smpp stream", SAMPLES, TOKENS):
        for pdu in _read_all(case.octets):
            read += 1
            try:
                assert decode_pdu(encode_pdu(pdu)) == pdu, case.name
            except SmppEncodeError:
                # 255 octets, which SMPP 5 allows and we do not write.
                assert isinstance(pdu.body, ShortMessage), case.name
                assert len(pdu.body.short_message) == 255, case.name
            if isinstance(pdu.body, ShortMessage):
                assert len(pdu.body.tlvs) <= TLVS_MAX, case.name
                _show(pdu.body)
    assert read > 100, "the mutants are too wild: nothing of them is read"


def _show(message: ShortMessage) -> None:
    receipt = read_receipt(message)
    assert receipt is None or (receipt.message_id and receipt.state in MessageState)
    body = message.user_data
    if message.has_header:
        try:
            concatenation, body = split_header(message.user_data)
        except UdhError:
            return
        assert concatenation is None or 1 <= concatenation.part <= concatenation.total <= 255
    text = join_bodies([(message.data_coding, body), (message.data_coding ^ 8, body)])
    assert len(text) <= 2 * len(body)
    assert decode_text(message.data_coding, b"") == ""


@given(st.integers(1, 0x7FFFFFFF), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_an_independent_library_reads_the_same_words(sequence: int, words: str) -> None:
    """What we write in UCS-2, aiosmpplib reads; what it writes, we read."""
    octets = words.encode("utf-16-be")
    ours = ShortMessage("15550100", "15550199", octets, data_coding=8)
    raw = encode_pdu(Pdu(Command.SUBMIT_SM, sequence, body=ours))
    header = theirs.SmppMessage.parse_header(raw)
    read = theirs.SubmitSm.from_pdu(raw, header, default_encoding="gsm0338")
    assert (read.sequence_num, read.short_message) == (sequence, words)
    written = theirs.DeliverSm(
        sequence_num=sequence,
        short_message=words,
        source=PhoneNumber("15550100"),
        destination=PhoneNumber("15550199"),
        encoding="ucs2",
    )
    back = decode_pdu(written.pdu())
    assert isinstance(back.body, ShortMessage)
    assert (back.sequence, back.body.user_data) == (sequence, octets)


@dataclass
class Centre:
    """A message centre that says whatever a test wants, to one real session."""

    session: SmppSession
    writer: asyncio.StreamWriter
    heard: bytearray
    taken: list[ShortMessage] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    busiest: int = 0
    now: int = 0

    async def take(self, message: ShortMessage, session: str, arrived: float, behind_s: float) -> Taken:
        self.now += 1
        self.busiest = max(self.busiest, self.now)
        try:
            await self.hold.wait()
            self.taken.append(message)
            return Taken()
        finally:
            self.now -= 1

    def answered(self, mark: str) -> None:
        """Nothing is marked."""

    async def confirm(self, marks: tuple[str, ...]) -> None:
        """Nothing is marked."""


Begin = Callable[[], Awaitable[Centre]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Connects a real session to a centre of the test's own, over a real socket."""
    centres: list[Centre] = []
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda reader, writer: arrived.put_nowait((reader, writer)), "127.0.0.1", 0)
    pumps: set[asyncio.Task[None]] = set()

    async def connect() -> Centre:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        theirs_reader, theirs_writer = await arrived.get()
        centre = Centre.__new__(Centre)

        async def late(note: object, answer: Pdu) -> None:
            """Nobody waits."""

        session = SmppSession(reader, writer, receiver=centre, window=10, enquire_link_s=30, answered_late=late)
        Centre.__init__(centre, session, theirs_writer, bytearray())

        async def pump() -> None:
            try:
                while chunk := await theirs_reader.read(65_536):
                    centre.heard += chunk
            except ConnectionError:
                return

        task = asyncio.create_task(pump())
        pumps.add(task)
        task.add_done_callback(pumps.discard)
        centres.append(centre)
        del centres[:-1]
        return centre

    yield connect
    for centre in centres:
        centre.hold.set()
        await centre.session.close("over")
        centre.writer.close()
    for task in list(pumps):
        task.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)
    server.close()


async def test_a_session_outlives_or_ends_but_never_breaks(begin: Begin) -> None:
    """After every hostile stream it has ended with a reason, or it still answers an honest question."""
    loop = asyncio.get_running_loop()
    faults: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    ended = answered = 0
    for number, case in enumerate(cases("smpp session", SAMPLES, TOKENS, size_max=20_000)):
        centre = await begin()
        centre.hold.set()
        centre.writer.write(case.octets)
        honest = encode_pdu(Pdu(Command.ENQUIRE_LINK, 0x70000000 + number))
        centre.writer.write(honest)
        centre.writer.write_eof()
        async with asyncio.timeout(5):
            reason = await asyncio.shield(centre.session.ended)
        assert reason in {"bad_length", "peer_closed", "peer_unbound", "connection_lost"}, case.name
        ended += reason == "bad_length"
        await centre.session.close("over")
        centre.writer.close()
        answered += struct.pack("!II", Command.ENQUIRE_LINK_RESP, 0) in centre.heard
        with pytest.raises((NotWritten, Unanswered)):
            await centre.session.enquire(0.1)
    assert ended > 10
    assert answered > 10
    assert not faults, faults[0]


async def test_deliveries_at_once_are_bounded_and_the_rest_asked_to_come_again(begin: Begin) -> None:
    """A flood of words that we cannot store yet takes at most 500 places; every other one is told to come again."""
    centre = await begin()
    flood = b"".join(encode_pdu(Pdu(Command.DELIVER_SM, number, body=_WORDS)) for number in range(1, 1_501))
    centre.writer.write(flood)
    refused = 1_500 - DELIVERIES_MAX
    async with asyncio.timeout(10):
        while len(_read_all(bytes(centre.heard))) < refused:
            await asyncio.sleep(0.02)
    assert centre.busiest == DELIVERIES_MAX
    answers = _read_all(bytes(centre.heard))
    assert {(answer.command, answer.status) for answer in answers} == {(Command.DELIVER_SM_RESP, 0x64)}
    centre.hold.set()
    async with asyncio.timeout(10):
        while len(centre.taken) < DELIVERIES_MAX:
            await asyncio.sleep(0.02)


@given(st.integers(0, 255), st.text(st.characters(max_codepoint=255, min_codepoint=1), min_size=1, max_size=20))
@example(5, "+12025550177@sms/a")
@example(5, "+1202555017")
@example(0, "a@chat/web")
@example(1, "\r\nBcc: x")
def test_a_senders_chosen_name_passes_for_nobody_elses_address(ton: int, name: str) -> None:
    """Whoever sends an SMS may choose the name it comes from: it names no endpoint of ours, and no phone number."""
    settings = SmppSettings(
        id="sms/acme", provider="smpp", host="h", port=1, system_id="s", password="p", sender="15550199"
    )
    tools = Tools(EndpointId("sms/acme"), None, None, None, None, print, "Acme", "https://x")
    address = Address(Channel.SMS, SmppAdapter(settings, tools)._read_address(ton, name))
    assert read_place(place(address)) == (address, None)
    assert address.value.isprintable() or not address.value.isascii()
    if ton == 5:
        assert not address.value.startswith("+")


@given(st.sampled_from(["sms/acme", "email/a-1", "chat/web", "phone/0"]), st.sampled_from(list(Channel)))
def test_an_address_of_one_endpoint_is_read_back_whole(endpoint: str, channel: Channel) -> None:
    """On every channel, mail too, whose addresses hold an at sign of their own."""
    address = Address(channel, "ada@example.org")
    assert read_place(place(address, EndpointId(endpoint))) == (address, endpoint)
    assert read_place(place(address)) == (address, None)
