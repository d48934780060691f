"""SMPP delivery receipts: what a message centre's `id:... stat:...` says, and how one is written."""

import re
from dataclasses import dataclass

from channels.wire.smpp import ShortMessage, find_tlv
from channels.wire.smpp_numbers import MessageState, Tag

# SMPP 3.4, appendix B: the states' seven letters. Case and length differ between message centres.
_WORDS = {
    MessageState.ENROUTE: "ENROUTE",
    MessageState.DELIVERED: "DELIVRD",
    MessageState.EXPIRED: "EXPIRED",
    MessageState.DELETED: "DELETED",
    MessageState.UNDELIVERABLE: "UNDELIV",
    MessageState.ACCEPTED: "ACCEPTD",
    MessageState.UNKNOWN: "UNKNOWN",
    MessageState.REJECTED: "REJECTD",
}
_STATES = {word: state for state, word in _WORDS.items()}
_STATES |= {"DELIVERED": MessageState.DELIVERED, "UNDELIVERABLE": MessageState.UNDELIVERABLE}
_STATES |= {"ACCEPTED": MessageState.ACCEPTED, "REJECTED": MessageState.REJECTED, "FAILED": MessageState.UNDELIVERABLE}
_FIELD = re.compile(rb"\b(id|stat|err)\s*:\s*([^\s:]{1,64})", re.IGNORECASE)
_TEXT = re.compile(rb"\btext\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DeliveryReceipt:
    """What became of a submitted message."""

    message_id: str
    state: MessageState
    error: str = ""
    """The network's code, as it came: `000`; its meaning is the message centre's own."""


def read_receipt(message: ShortMessage) -> DeliveryReceipt | None:
    """The receipt in `message`, from its optional parameters and, where they are missing, its text.

    None if it is no receipt or names no message. A state nobody knows is MessageState.UNKNOWN.
    """
    coded = find_tlv(message.tlvs, Tag.MESSAGE_STATE)
    # Some message centres forget esm_class, but nothing else carries both of these.
    if not message.is_receipt and not (coded and message.receipted_message_id):
        return None
    # The first words of the message itself stand at the end and may look like a field.
    head = _TEXT.split(message.user_data, maxsplit=1)[0]
    fields = {name.lower().decode(): value.decode("latin-1") for name, value in reversed(_FIELD.findall(head))}
    message_id = message.receipted_message_id or fields.get("id", "")
    if not message_id:
        return None
    state = _STATES.get(fields.get("stat", "").upper(), MessageState.UNKNOWN)
    if coded and MessageState.ENROUTE <= coded[0] <= MessageState.REJECTED:
        state = MessageState(coded[0])
    return DeliveryReceipt(message_id, state, fields.get("err", ""))


def write_receipt(receipt: DeliveryReceipt, *, submitted: str, done: str, text: str = "") -> bytes:
    """A receipt's text as appendix B has it; `submitted` and `done` are `YYMMDDhhmm`."""
    delivered = int(receipt.state is MessageState.DELIVERED)
    return (
        f"id:{receipt.message_id} sub:001 dlvrd:{delivered:03d} submit date:{submitted} done date:{done}"
        f" stat:{_WORDS[receipt.state]} err:{receipt.error or '000'} text:{text[:20]}"
    ).encode("latin-1", "replace")
