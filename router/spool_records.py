"""Events as the spool keeps them: JSON, with the bytes of files and raw mails on disk beside it."""

from dataclasses import asdict
from typing import Any

from channels.messages import Address, Channel, Event, InboundFile, InboundMessage, ReceiptEvent, ReceiptState
from health.report import EndpointId
from router.store.files import Files


def order_of(event: Event) -> str:
    """What must stay in order with it: whatever the same sender says over the same endpoint; a message's receipts."""
    if isinstance(event, ReceiptEvent):
        return f"{event.endpoint}|{event.token or event.vendor_id}"
    return f"{event.endpoint}|{event.sender}"


async def dump_event(event: Event, files: Files) -> dict[str, Any]:
    """The event as JSON values; its bytes are on disk when this returns. Raises OSError."""
    if isinstance(event, ReceiptEvent):
        return {"receipt": asdict(event)}
    row = asdict(event)
    row["original"] = await files.write(event.original) if event.original else ""
    row["files"] = [[file.name, file.media_type, await files.write(file.content)] for file in event.files]
    return {"message": row}


async def load_event(fields: dict[str, Any], files: Files) -> Event:
    """The event that `dump_event` wrote."""
    if "receipt" in fields:
        row = dict(fields["receipt"])
        row |= {"endpoint": EndpointId(row["endpoint"]), "state": ReceiptState(row["state"])}
        return ReceiptEvent(**row)
    row = dict(fields["message"])
    row["endpoint"] = EndpointId(row["endpoint"])
    row["sender"] = Address(Channel(row["sender"]["channel"]), row["sender"]["value"])
    row["in_reply_to"] = tuple(row["in_reply_to"])
    row["original"] = await files.read(row["original"]) if row["original"] else b""
    read = [InboundFile(name, media, await files.read(sha256)) for name, media, sha256 in row["files"]]
    row["files"] = tuple(read)
    return InboundMessage(**row)
