"""SMPP 3.4 protocol data units. Section numbers are the specification's."""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from channels.wire.smpp_numbers import Command, CommandStatus, Tag

HEADER_OCTETS = 16
PDU_MAX = 72 * 1024
"""Octets of one PDU: a message_payload of 64 KiB and everything around it."""
TLVS_MAX = 64
SHORT_MESSAGE_MAX = 254


UDHI = 0x40
"""esm_class: the message begins with a user data header, section 5.2.12."""
RECEIPT = 0x04
"""esm_class of deliver_sm: an SMSC delivery receipt."""
_INTERMEDIATE = 0x20
_TYPE_MASK = 0x3C


class SmppDecodeError(ValueError):
    """A PDU that breaks the specification. `status` is the answer it deserves.

    `fatal`: the length itself is wrong, so the rest of the stream means nothing.
    """

    def __init__(self, words: str, *, status: int, sequence: int = 0, fatal: bool = False) -> None:
        super().__init__(words)
        self.status = status
        self.sequence = sequence
        self.fatal = fatal


class SmppEncodeError(ValueError):
    """A value that does not fit its field."""


@dataclass(frozen=True, slots=True)
class Bind:
    """bind_transmitter, bind_receiver, bind_transceiver; section 4.1."""

    system_id: str
    password: str = field(repr=False)
    system_type: str = ""
    interface_version: int = 0x34
    addr_ton: int = 0
    addr_npi: int = 0
    address_range: str = ""


@dataclass(frozen=True, slots=True)
class BindResponse:
    """The answer to a bind, section 4.1.2."""

    system_id: str = ""
    tlvs: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class ShortMessage:
    """submit_sm and deliver_sm, which share their layout; sections 4.4.1 and 4.6.1."""

    source_addr: str
    destination_addr: str
    short_message: bytes = field(default=b"", repr=False)
    esm_class: int = 0
    data_coding: int = 0
    source_addr_ton: int = 0
    source_addr_npi: int = 0
    dest_addr_ton: int = 0
    dest_addr_npi: int = 0
    registered_delivery: int = 0
    service_type: str = ""
    protocol_id: int = 0
    priority_flag: int = 0
    schedule_delivery_time: str = ""
    validity_period: str = ""
    replace_if_present_flag: int = 0
    sm_default_msg_id: int = 0
    tlvs: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)

    @property
    def user_data(self) -> bytes:
        """short_message, or message_payload where that stands instead; section 5.3.2.32."""
        return self.short_message or find_tlv(self.tlvs, Tag.MESSAGE_PAYLOAD) or b""

    @property
    def has_header(self) -> bool:
        """The user data begins with a user data header."""
        return bool(self.esm_class & UDHI)

    @property
    def is_receipt(self) -> bool:
        """An SMSC delivery receipt or intermediate notification, not a person's words."""
        return self.esm_class & _TYPE_MASK in (RECEIPT, _INTERMEDIATE)

    @property
    def user_message_reference(self) -> int | None:
        """Our own number of the message, where the message centre echoes it."""
        return _number(find_tlv(self.tlvs, Tag.USER_MESSAGE_REFERENCE))

    @property
    def receipted_message_id(self) -> str:
        """The id that submit_sm_resp gave, or an empty text."""
        value = find_tlv(self.tlvs, Tag.RECEIPTED_MESSAGE_ID)
        return value.rstrip(b"\0").decode("ascii", "replace") if value else ""


@dataclass(frozen=True, slots=True)
class MessageResponse:
    """submit_sm_resp and deliver_sm_resp; sections 4.4.2 and 4.6.2. A failed one may come without a body."""

    message_id: str = ""
    tlvs: tuple[tuple[int, bytes], ...] = ()


Body = Bind | BindResponse | ShortMessage | MessageResponse


@dataclass(frozen=True, slots=True)
class Pdu:
    """One protocol data unit."""

    command: Command
    sequence: int
    status: int = 0
    body: Body | None = None


def find_tlv(tlvs: Iterable[tuple[int, bytes]], tag: int) -> bytes | None:
    """The first value with `tag`, or None."""
    return next((value for found, value in tlvs if found == tag), None)


def _number(value: bytes | None) -> int | None:
    return int.from_bytes(value, "big") if value else None


def take_pdu(buffer: bytearray) -> bytes | None:
    """Remove one whole PDU from the front of `buffer`, or return None if it is not there yet.

    Raises SmppDecodeError, fatal, for a length below 16 or above PDU_MAX.
    """
    if len(buffer) < 4:
        return None
    length = int.from_bytes(buffer[:4], "big")
    if not HEADER_OCTETS <= length <= PDU_MAX:
        sequence = int.from_bytes(buffer[12:16], "big") if len(buffer) >= HEADER_OCTETS else 0
        raise SmppDecodeError(
            f"command_length {length}: between {HEADER_OCTETS} and {PDU_MAX} are taken",
            status=CommandStatus.ESME_RINVCMDLEN,
            sequence=sequence,
            fatal=True,
        )
    if len(buffer) < length:
        return None
    raw = bytes(buffer[:length])
    del buffer[:length]
    return raw


class _Reader:
    """Walks over a body, never past its end."""

    def __init__(self, raw: bytes, sequence: int) -> None:
        self.raw = raw
        self.at = HEADER_OCTETS
        self.sequence = sequence

    @property
    def left(self) -> int:
        return len(self.raw) - self.at

    def fail(self, words: str) -> SmppDecodeError:
        return SmppDecodeError(words, status=CommandStatus.ESME_RINVCMDLEN, sequence=self.sequence)

    def octet(self, name: str) -> int:
        return self.octets(1, name)[0]

    def octets(self, count: int, name: str) -> bytes:
        if count > self.left:
            raise self.fail(f"{name}: {count} octets announced, {self.left} left")
        value = self.raw[self.at : self.at + count]
        self.at += count
        return value

    def text(self, size_max: int, name: str) -> str:
        """A C-octet string of at most `size_max` octets with its NUL; Latin-1, for peers that are not strict."""
        end = self.raw.find(b"\0", self.at, self.at + size_max)
        if end < 0:
            raise self.fail(f"{name}: no NUL within {min(size_max, self.left)} octets")
        value = self.raw[self.at : end]
        self.at = end + 1
        return value.decode("latin-1")

    def tlvs(self) -> tuple[tuple[int, bytes], ...]:
        found: list[tuple[int, bytes]] = []
        while self.left:
            if len(found) == TLVS_MAX:
                raise self.fail(f"more than {TLVS_MAX} optional parameters")
            tag, length = struct.unpack("!HH", self.octets(4, "optional parameter"))
            found.append((tag, self.octets(length, f"optional parameter 0x{tag:04x}")))
        return tuple(found)


def decode_pdu(raw: bytes) -> Pdu:
    """The PDU in `raw`, which is exactly one. Raises SmppDecodeError."""
    if len(raw) < HEADER_OCTETS:
        raise SmppDecodeError(f"{len(raw)} octets are no PDU", status=CommandStatus.ESME_RINVCMDLEN, fatal=True)
    length, number, status, sequence = struct.unpack_from("!IIII", raw)
    if length != len(raw):
        raise SmppDecodeError(
            f"command_length says {length}, there are {len(raw)} octets",
            status=CommandStatus.ESME_RINVCMDLEN,
            sequence=sequence,
            fatal=True,
        )
    try:
        command = Command(number)
    except ValueError as unknown:
        raise SmppDecodeError(
            f"command_id 0x{number:08x} is not known", status=CommandStatus.ESME_RINVCMDID, sequence=sequence
        ) from unknown
    decode = _DECODERS.get(command)
    reader = _Reader(raw, sequence)
    # A refusal may come without its body (sections 4.1.2, 4.4.2), and some centres leave it off altogether.
    body = None if decode is None or (command.is_response and not reader.left) else decode(reader)
    return Pdu(command, sequence, status, body)


def _decode_bind(reader: _Reader) -> Bind:
    return Bind(
        system_id=reader.text(16, "system_id"),
        password=reader.text(9, "password"),
        system_type=reader.text(13, "system_type"),
        interface_version=reader.octet("interface_version"),
        addr_ton=reader.octet("addr_ton"),
        addr_npi=reader.octet("addr_npi"),
        address_range=reader.text(41, "address_range"),
    )


def _decode_bind_response(reader: _Reader) -> BindResponse:
    return BindResponse(reader.text(16, "system_id"), reader.tlvs())


def _decode_message(reader: _Reader) -> ShortMessage:
    service_type = reader.text(6, "service_type")
    source = (reader.octet("source_addr_ton"), reader.octet("source_addr_npi"), reader.text(21, "source_addr"))
    destination = (reader.octet("dest_addr_ton"), reader.octet("dest_addr_npi"), reader.text(21, "destination_addr"))
    esm_class, protocol_id, priority_flag = reader.octets(3, "esm_class")
    schedule, validity = reader.text(17, "schedule_delivery_time"), reader.text(17, "validity_period")
    registered, replace, data_coding, default_id, length = reader.octets(5, "registered_delivery")
    # 255 is one more than section 5.2.21 allows and what SMPP 5 allows: no reason to refuse a person's words.
    short_message = reader.octets(length, "short_message")
    return ShortMessage(
        service_type=service_type,
        source_addr_ton=source[0],
        source_addr_npi=source[1],
        source_addr=source[2],
        dest_addr_ton=destination[0],
        dest_addr_npi=destination[1],
        destination_addr=destination[2],
        esm_class=esm_class,
        protocol_id=protocol_id,
        priority_flag=priority_flag,
        schedule_delivery_time=schedule,
        validity_period=validity,
        registered_delivery=registered,
        replace_if_present_flag=replace,
        data_coding=data_coding,
        sm_default_msg_id=default_id,
        short_message=short_message,
        tlvs=reader.tlvs(),
    )


def _decode_message_response(reader: _Reader) -> MessageResponse:
    return MessageResponse(reader.text(65, "message_id"), reader.tlvs())


_BINDS = (Command.BIND_TRANSCEIVER, Command.BIND_TRANSMITTER, Command.BIND_RECEIVER)
_DECODERS: dict[Command, Callable[[_Reader], Body]] = {
    **dict.fromkeys(_BINDS, _decode_bind),
    **dict.fromkeys((command.response for command in _BINDS), _decode_bind_response),
    **dict.fromkeys((Command.SUBMIT_SM, Command.DELIVER_SM), _decode_message),
    **dict.fromkeys((Command.SUBMIT_SM_RESP, Command.DELIVER_SM_RESP), _decode_message_response),
}


def encode_pdu(pdu: Pdu) -> bytes:
    """The octets of `pdu`. Raises SmppEncodeError when a value does not fit its field."""
    match pdu.body:
        case Bind() as bind:
            body = _encode_bind(bind)
        case BindResponse() as response:
            body = _text(response.system_id, 16, "system_id") + _tlvs(response.tlvs)
        case ShortMessage() as message:
            body = _encode_message(message)
        case MessageResponse() as response:
            body = _text(response.message_id, 65, "message_id") + _tlvs(response.tlvs)
        case None:
            body = b""
    return struct.pack("!IIII", HEADER_OCTETS + len(body), pdu.command, pdu.status, pdu.sequence) + body


def _text(value: str, size_max: int, name: str) -> bytes:
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError as wrong:
        raise SmppEncodeError(f"{name} must be plain characters") from wrong
    if len(raw) >= size_max or b"\0" in raw:
        raise SmppEncodeError(f"{name} takes at most {size_max - 1} characters and no NUL")
    return raw + b"\0"


def _octets(name: str, *values: int) -> bytes:
    try:
        return bytes(values)
    except ValueError as wrong:
        raise SmppEncodeError(f"{name}: one octet each takes 0 to 255") from wrong


def _tlvs(tlvs: Iterable[tuple[int, bytes]]) -> bytes:
    found = bytearray()
    for tag, value in tlvs:
        if not 0 <= tag <= 0xFFFF or len(value) > 0xFFFF:
            raise SmppEncodeError(f"optional parameter 0x{tag:04x} takes at most 65535 octets")
        found += struct.pack("!HH", tag, len(value)) + value
    return bytes(found)


def _encode_bind(bind: Bind) -> bytes:
    return (
        _text(bind.system_id, 16, "system_id")
        + _text(bind.password, 9, "password")
        + _text(bind.system_type, 13, "system_type")
        + _octets("addr_ton", bind.interface_version, bind.addr_ton, bind.addr_npi)
        + _text(bind.address_range, 41, "address_range")
    )


def _encode_message(message: ShortMessage) -> bytes:
    if len(message.short_message) > SHORT_MESSAGE_MAX:
        raise SmppEncodeError(f"short_message takes at most {SHORT_MESSAGE_MAX} octets: use message_payload")
    return b"".join(
        (
            _text(message.service_type, 6, "service_type"),
            _octets("source_addr_ton", message.source_addr_ton, message.source_addr_npi),
            _text(message.source_addr, 21, "source_addr"),
            _octets("dest_addr_ton", message.dest_addr_ton, message.dest_addr_npi),
            _text(message.destination_addr, 21, "destination_addr"),
            _octets("esm_class", message.esm_class, message.protocol_id, message.priority_flag),
            _text(message.schedule_delivery_time, 17, "schedule_delivery_time"),
            _text(message.validity_period, 17, "validity_period"),
            _octets("registered_delivery", message.registered_delivery, message.replace_if_present_flag),
            _octets("data_coding", message.data_coding, message.sm_default_msg_id, len(message.short_message)),
            message.short_message,
            _tlvs(message.tlvs),
        )
    )
