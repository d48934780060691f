"""What came in, as the records keep it: bounded, its files and its raw original on disk."""

import hashlib

from channels.messages import Channel, Content, File, InboundMessage, Kind
from channels.text import one_line
from health.report import EndpointId
from router.core import Core
from router.domain.conversation import MessageClass, SideName
from router.domain.ids import new_id
from router.store.asked import NewMessage

SUBJECT_MAX = 80
HTML_MAX = 200_000
DROPPED_TOLD_MAX = 10
"""Files that were too many or too large, named in the text: nobody is to wait for what is not there."""
TEXT_TRUNCATED = "\n[...]"


def natural_key(event: InboundMessage) -> str:
    """What makes a message the same however often, and over whichever connection of its endpoint, it is delivered.

    A mail's Message-ID is its sender's to choose and many know it: it counts together with who the mail is from, and
    whether that is proven. Else a stranger could use one first, and the customer's mail would pass for a repeat.
    Hashed: addresses live nowhere but with their owner.
    """
    if event.sender.channel is not Channel.EMAIL:
        return f"{event.endpoint}:{event.vendor_id}"
    who = hashlib.sha256(f"{event.sender.value.lower()}|{event.unverified}".encode()).hexdigest()[:16]
    return f"{event.endpoint}:{who}:{event.vendor_id}"


def mail_id_of(endpoint: EndpointId, key: str) -> str:
    """The Message-ID that a mail's natural key ends with; empty for what was no mail."""
    is_mail = endpoint.startswith(f"{Channel.EMAIL}/") and key.startswith(f"{endpoint}:")
    return key.removeprefix(f"{endpoint}:").partition(":")[2] if is_mail else ""


def new_message(
    core: Core, event: InboundMessage, shard: int, author: str, author_name: str, content: Content
) -> NewMessage:
    """The record of what came in, to be heard by the agent's side."""
    return NewMessage(
        id=new_id("m", shard, int(core.clock.now() * 1000)),
        side=SideName.AGENT,
        kind=Kind.MESSAGE,
        author=author,
        author_name=author_name or event.sender_name[:200],
        content=content,
        message_class=MessageClass.NORMAL,
        expires_at=0,
        endpoint=event.endpoint,
        late=event.late,
        unverified=event.unverified,
        original=hashlib.sha256(event.original).hexdigest() if event.original else "",
    )


async def keep_content(core: Core, event: InboundMessage) -> Content:
    """The message's content; its files and its raw original are on disk when it returns.

    Files beyond the limits are not kept, and its text says so. Raises OSError.
    """
    if event.original:
        await core.files.write(event.original)
    limits = core.settings.attachments
    files = []
    dropped = list(event.files[limits.files_max :])
    for file in event.files[: limits.files_max]:
        if len(file.content) > limits.file_max_bytes:
            dropped.append(file)
            continue
        digest = await core.files.write(file.content)
        files.append(File(digest, file.name[:200], file.media_type[:100], len(file.content)))
    told = "".join(
        f"\n[not kept: {one_line(file.name)[:100]}, {len(file.content)} bytes]" for file in dropped[:DROPPED_TOLD_MAX]
    )
    text_max = core.settings.messages.text_max
    told = told[: text_max // 2]  # what was said needs room, too
    text, room = event.text, text_max - len(told)
    if len(text) > room:
        text = text[: room - len(TEXT_TRUNCATED)] + TEXT_TRUNCATED
    return Content(
        text=(text + told).strip() if told else text,
        html=event.html[:HTML_MAX] if event.html else None,
        subject=event.subject[:SUBJECT_MAX] if event.subject else None,
        files=tuple(files),
    )


def said_hash(content: Content) -> str:
    """What tells other words under the same key apart."""
    return hashlib.sha256(f"{content.subject}\n{content.text}".encode()).hexdigest()[:16]


def subject_of(event: InboundMessage) -> str:
    """The subject of the conversation it opens."""
    subject = event.subject or event.text
    return " ".join(subject.split())[:SUBJECT_MAX]
