"""SMPP PDUs: what we write, others read; what others break, we refuse."""

import struct
from typing import Any

import pytest
from aiosmpplib import protocol as theirs
from aiosmpplib.state import PhoneNumber
from hypothesis import given
from hypothesis import strategies as st

from channels.wire.smpp import (
    PDU_MAX,
    RECEIPT,
    TLVS_MAX,
    UDHI,
    Bind,
    BindResponse,
    Body,
    MessageResponse,
    Pdu,
    ShortMessage,
    SmppDecodeError,
    SmppEncodeError,
    decode_pdu,
    encode_pdu,
    take_pdu,
)
from channels.wire.smpp_numbers import Command, CommandStatus, MessageState, Tag, name_status
from channels.wire.smpp_receipt import DeliveryReceipt, read_receipt, write_receipt

octet = st.integers(0, 255)


def plain(size: int) -> st.SearchStrategy[str]:
    """Latin-1 without NUL."""
    return st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=size)


tlvs = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=80)), max_size=6).map(tuple)
binds = st.builds(Bind, plain(15), plain(8), plain(12), octet, octet, octet, plain(40))
messages = st.builds(
    ShortMessage,
    source_addr=plain(20),
    destination_addr=plain(20),
    short_message=st.binary(max_size=254),
    esm_class=octet,
    data_coding=octet,
    source_addr_ton=octet,
    source_addr_npi=octet,
    dest_addr_ton=octet,
    dest_addr_npi=octet,
    registered_delivery=octet,
    service_type=plain(5),
    protocol_id=octet,
    priority_flag=octet,
    schedule_delivery_time=plain(16),
    validity_period=plain(16),
    replace_if_present_flag=octet,
    sm_default_msg_id=octet,
    tlvs=tlvs,
)
pdus = st.one_of(
    st.tuples(st.sampled_from([Command.BIND_TRANSCEIVER, Command.BIND_RECEIVER, Command.BIND_TRANSMITTER]), binds),
    st.tuples(st.sampled_from([Command.SUBMIT_SM, Command.DELIVER_SM]), messages),
    st.tuples(
        st.sampled_from([Command.SUBMIT_SM_RESP, Command.DELIVER_SM_RESP]), st.builds(MessageResponse, plain(64), tlvs)
    ),
    st.tuples(st.just(Command.BIND_TRANSCEIVER_RESP), st.builds(BindResponse, plain(15), tlvs)),
    st.tuples(st.sampled_from([Command.ENQUIRE_LINK, Command.UNBIND_RESP, Command.GENERIC_NACK]), st.none()),
)
numbers = st.integers(0, 0xFFFFFFFF)


@given(pdus, numbers, numbers)
def test_what_is_written_reads_back_the_same(pdu: tuple[Command, Body | None], sequence: int, status: int) -> None:
    """Every field of every PDU."""
    whole = Pdu(pdu[0], sequence, status, pdu[1])
    assert decode_pdu(encode_pdu(whole)) == whole


@given(st.lists(pdus, max_size=5), st.data())
def test_a_stream_cut_anywhere_gives_the_same_pdus(
    several: list[tuple[Command, Body | None]], data: st.DataObject
) -> None:
    """TCP keeps no borders."""
    raws = [encode_pdu(Pdu(command, 1, body=body)) for command, body in several]
    stream, buffer, found = b"".join(raws), bytearray(), []
    while stream:
        step = data.draw(st.integers(1, len(stream)))
        buffer += stream[:step]
        stream = stream[step:]
        while (raw := take_pdu(buffer)) is not None:
            found.append(raw)
    assert found == raws
    assert not buffer


@given(st.binary(max_size=300))
def test_noise_is_refused_with_the_right_error(noise: bytes) -> None:
    """No other exception than SmppDecodeError, whatever the bytes."""
    for command in (0x05, 0x04, 0x09, 0x80000004, 0x80000009, 0x15):
        try:
            decode_pdu(struct.pack("!IIII", 16 + len(noise), command, 0, 9) + noise)
        except SmppDecodeError as refused:
            assert refused.sequence == 9


@pytest.mark.parametrize(
    ("raw", "status", "fatal"),
    [
        (b"\x00\x00\x00\x0f", CommandStatus.ESME_RINVCMDLEN, True),
        (struct.pack("!I", PDU_MAX + 1), CommandStatus.ESME_RINVCMDLEN, True),
        (b"\xff\xff\xff\xff", CommandStatus.ESME_RINVCMDLEN, True),
    ],
)
def test_a_length_that_cannot_be_ends_the_stream(raw: bytes, status: int, fatal: bool) -> None:
    """Before any of it is kept in memory."""
    with pytest.raises(SmppDecodeError) as refused:
        take_pdu(bytearray(raw))
    assert (refused.value.status, refused.value.fatal) == (status, fatal)


def test_an_unknown_command_is_named() -> None:
    """It deserves a generic_nack with ESME_RINVCMDID, and the stream goes on."""
    with pytest.raises(SmppDecodeError, match="0x00000103") as refused:
        decode_pdu(struct.pack("!IIII", 16, 0x103, 0, 4))
    assert (refused.value.status, refused.value.sequence, refused.value.fatal) == (
        CommandStatus.ESME_RINVCMDID,
        4,
        False,
    )


def _message(**fields: Any) -> ShortMessage:
    return ShortMessage(source_addr="15550199", destination_addr="15550100", **fields)


@pytest.mark.parametrize(
    ("at", "replacement", "words"),
    [
        (16 + 1 + 2, b"x" * 40, "source_addr"),  # no NUL within its 21 octets
        (-3, b"\xff", "optional parameter 0x0204"),  # a length past the end
    ],
)
def test_lengths_inside_a_message_are_checked(at: int, replacement: bytes, words: str) -> None:
    """The error says which field."""
    raw = bytearray(
        encode_pdu(Pdu(Command.DELIVER_SM, 7, body=_message(tlvs=((Tag.USER_MESSAGE_REFERENCE, b"\0\1"),))))
    )
    raw[at : at + len(replacement)] = replacement
    raw[:4] = len(raw).to_bytes(4, "big")
    with pytest.raises(SmppDecodeError, match=words) as refused:
        decode_pdu(bytes(raw))
    assert not refused.value.fatal


def test_optional_parameters_are_bounded() -> None:
    """A flood of empty ones is refused."""
    flood = tuple((0x1400 + number, b"") for number in range(TLVS_MAX + 1))
    with pytest.raises(SmppDecodeError, match="more than"):
        decode_pdu(encode_pdu(Pdu(Command.SUBMIT_SM_RESP, 1, body=MessageResponse("x", flood))))


@pytest.mark.parametrize(
    "body",
    [
        Bind("a" * 16, "pw"),
        Bind("a", "123456789"),
        Bind("a\0b", "pw"),
        Bind("ж", "pw"),
        _message(short_message=b"x" * 255),
        _message(esm_class=256),
        _message(service_type="123456"),
        _message(tlvs=((Tag.MESSAGE_PAYLOAD, b"x" * 65_536),)),
        MessageResponse("x" * 65),
    ],
)
def test_a_value_that_does_not_fit_is_refused(body: Body) -> None:
    """Before it is written, never cut."""
    with pytest.raises(SmppEncodeError):
        encode_pdu(Pdu(Command.SUBMIT_SM, 1, body=body))


def test_a_refusal_may_come_without_a_body() -> None:
    """Sections 4.1.2 and 4.4.2."""
    raw = struct.pack("!IIII", 16, Command.SUBMIT_SM_RESP, CommandStatus.ESME_RTHROTTLED, 3)
    assert decode_pdu(raw) == Pdu(Command.SUBMIT_SM_RESP, 3, CommandStatus.ESME_RTHROTTLED, None)
    assert name_status(CommandStatus.ESME_RTHROTTLED) == "ESME_RTHROTTLED"
    assert name_status(0x400) == "0x00000400"


def test_the_password_stays_out_of_the_repr() -> None:
    """So that no log can show it."""
    assert "geheim" not in repr(Pdu(Command.BIND_TRANSCEIVER, 1, body=Bind("me", "geheim")))
    assert "secret words" not in repr(_message(short_message=b"secret words"))


def test_an_independent_library_reads_our_submit_sm() -> None:
    """aiosmpplib sees the addresses, the text and our reference."""
    body = _message(
        source_addr_ton=1,
        dest_addr_ton=1,
        dest_addr_npi=1,
        short_message=b"Gr\x7e\x1b\x65",
        registered_delivery=1,
        tlvs=((Tag.USER_MESSAGE_REFERENCE, b"\x12\x34"),),
    )
    raw = encode_pdu(Pdu(Command.SUBMIT_SM, 77, body=body))
    header = theirs.SmppMessage.parse_header(raw)
    message = theirs.SubmitSm.from_pdu(raw, header, default_encoding="gsm0338")
    assert isinstance(message, theirs.SubmitSm)
    assert (message.sequence_num, message.short_message) == (77, "Grü€")
    assert (message.source.number, message.destination.number) == ("15550199", "15550100")
    assert [(option.tag, option.value) for option in message.optional_params] == [(0x0204, 0x1234)]


def test_we_read_an_independent_library() -> None:
    """Its bind, its deliver_sm in UCS-2, its answers."""
    deliver = theirs.DeliverSm(
        sequence_num=5,
        short_message="Привет",
        source=PhoneNumber("15550100"),
        destination=PhoneNumber("15550199"),
        encoding="ucs2",
    )
    pdu = decode_pdu(deliver.pdu())
    assert isinstance(pdu.body, ShortMessage)
    assert (pdu.sequence, pdu.command, pdu.body.data_coding) == (5, Command.DELIVER_SM, 8)
    assert pdu.body.user_data.decode("utf-16-be") == "Привет"
    bind = theirs.BindTransceiver(sequence_num=1, system_id="me", password="pw", interface_version=0x34)
    assert decode_pdu(bind.pdu()).body == Bind("me", "pw", addr_ton=pdu_ton(bind), addr_npi=pdu_npi(bind))


def pdu_ton(bind: theirs.BindTransceiver) -> int:
    """Its default type of number."""
    return int(bind.addr_ton)


def pdu_npi(bind: theirs.BindTransceiver) -> int:
    """Its default numbering plan."""
    return int(bind.addr_npi)


def test_message_payload_stands_for_an_empty_short_message() -> None:
    """Section 5.3.2.32."""
    assert _message(tlvs=((Tag.MESSAGE_PAYLOAD, b"long"),)).user_data == b"long"
    assert _message(esm_class=UDHI).has_header


def _receipt(text: bytes, **fields: Any) -> DeliveryReceipt | None:
    return read_receipt(_message(esm_class=RECEIPT, short_message=text, **fields))


@pytest.mark.parametrize(
    ("text", "receipt"),
    [
        (
            b"id:4f2a sub:001 dlvrd:001 submit date:2611211200 done date:2611211201 stat:DELIVRD err:000 text:id:9",
            DeliveryReceipt("4f2a", MessageState.DELIVERED, "000"),
        ),
        (b"ID: 12 STAT: undeliv ERR: 00B", DeliveryReceipt("12", MessageState.UNDELIVERABLE, "00B")),
        (b"id:a-b-c stat:EXPIRED err:1 Text:stat:DELIVRD", DeliveryReceipt("a-b-c", MessageState.EXPIRED, "1")),
        (b"id:7 stat:NOVELTY", DeliveryReceipt("7", MessageState.UNKNOWN)),
        (b"id:7", DeliveryReceipt("7", MessageState.UNKNOWN)),
        (b"stat:DELIVRD", None),
        (b"", None),
    ],
)
def test_receipts_are_read_as_vendors_write_them(text: bytes, receipt: DeliveryReceipt | None) -> None:
    """Case, spaces, missing fields; never the echo of the message itself."""
    assert _receipt(text) == receipt


def test_optional_parameters_win_over_the_text() -> None:
    """They are the specified form; they also make a receipt of what forgot esm_class."""
    params = ((Tag.RECEIPTED_MESSAGE_ID, b"abc\0"), (Tag.MESSAGE_STATE, b"\x05"))
    expected = DeliveryReceipt("abc", MessageState.UNDELIVERABLE, "009")
    assert _receipt(b"id:1 stat:DELIVRD err:009", tlvs=params) == expected
    assert read_receipt(_message(short_message=b"err:009", tlvs=params)) == expected
    assert read_receipt(_message(short_message=b"id:1 stat:DELIVRD err:000")) is None


@given(st.from_regex(r"[0-9a-zA-Z-]{1,64}", fullmatch=True), st.sampled_from(MessageState), plain(30))
def test_a_written_receipt_reads_back(message_id: str, state: MessageState, text: str) -> None:
    """Whatever the message said."""
    receipt = DeliveryReceipt(message_id, state, "000")
    assert _receipt(write_receipt(receipt, submitted="2611211200", done="2611211201", text=text)) == receipt
