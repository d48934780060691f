"""Erasing a customer: afterwards nothing anywhere names them or repeats what was said, and nothing else is missing."""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from channels.chat.session import OUTBOX_TTL_S, OutboxEntry, outbox_key, talk_key
from channels.messages import Address, Channel, InboundFile, InboundMessage
from health.report import EndpointId
from router.archive.moving import archive_conversation
from router.audit.auditor import audit
from router.core import Conflict, Invalid, NotFound
from router.domain.conversation import Binding
from router.runtime import Runtime
from router.spool_records import dump_event
from router.store.asked import LeaseTerms, Rebind, Settlement
from router.store.codec import Notice

MAIL, SMS, CHAT, PHONE, CONSOLE = (
    EndpointId(one) for one in ("email/sandbox", "sms/sandbox", "chat/web", "phone/sandbox", "chat/console")
)
SESSION = "0123456789abcdef0123456789abcdef"
WILMA = Address(Channel.EMAIL, "wilma.zweistein@customer.test")
WILMAS_PHONE = Address(Channel.SMS, "+12025550177")
WILMAS_OTHER = Address(Channel.SMS, "+12025550178")
BODY = "Xylophonkonzert"
MARKS = ("Zweistein", "wilma.zweistein", "2025550177", "2025550178", SESSION, BODY)
BOB = Address(Channel.EMAIL, "bob@customer.test")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)
WHY = "asked for it, case 7"


async def hear(runtime: Runtime, text: str, sender: Address, **more: Any) -> str:
    """Somebody writes; the conversation's id."""
    endpoint = {Channel.EMAIL: MAIL, Channel.SMS: SMS, Channel.CHAT: CHAT}[sender.channel]
    more.setdefault("vendor_id", f"<{hashlib.sha256(text.encode()).hexdigest()[:9]}.{sender.value}>")
    name = "Bob" if sender is BOB else "Wilma Zweistein"
    event = InboundMessage(endpoint=endpoint, sender=sender, text=text, sent_at=0.0, sender_name=name, **more)
    return (await runtime.switchboard.accept(event)).conversation_id


async def drain(runtime: Runtime) -> None:
    """Say everything that waits, as vendors would take it."""
    store = runtime.store
    for endpoint in (MAIL, SMS, CHAT, PHONE, CONSOLE):
        for one in await store.lease(endpoint, "w1", 50, TERMS):
            vendor_id = f"<{one.token}.{one.address.value}>"
            await runtime.core.control.claim_vendor_id(endpoint, [vendor_id], one.token)
            row = Settlement(
                one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent", vendor_ids=(vendor_id,)
            )
            await store.settle(0, [row])


async def say(runtime: Runtime, conversation: str, text: str) -> None:
    await runtime.switchboard.send(
        conversation, text=text, author="cli", author_name="Ana", idempotency_key=f"{conversation}-{text}"
    )


async def everything(runtime: Runtime) -> str:
    """All of Redis, names and values, and every file on disk, as one text."""
    client = runtime.store.redis.client
    parts: list[str] = []
    async for key in client.scan_iter("*", count=1000):
        kind = await client.type(key)
        value: Any = {
            "string": client.get,
            "hash": client.hgetall,
            "set": client.smembers,
            "list": lambda name: client.lrange(name, 0, -1),
            "zset": lambda name: client.zrange(name, 0, -1, withscores=True),
            "stream": client.xrange,
        }[kind](key)
        parts.append(f"{key} {await value!r}")
    files = [path for path in Path.cwd().rglob("*") if path.is_file()]
    parts += [f"{path} {path.read_bytes().decode(errors='replace')}" for path in files]
    return "\n".join(parts)


async def wilma(runtime: Runtime) -> tuple[str, str]:
    """A customer with everything we may hold of one; her id and that of one who was merged into her."""
    store, switchboard = runtime.store, runtime.switchboard
    files = (InboundFile("score.txt", "text/plain", f"{BODY} in C".encode()),)
    archived = await hear(runtime, f"{BODY} one", WILMA, original=f"From: {WILMA.value} {BODY}".encode(), files=files)
    customer = (await switchboard.conversation(archived)).customer.id
    for address in (WILMAS_PHONE, Address(Channel.CHAT, SESSION)):
        endpoint = CHAT if address.channel is Channel.CHAT else None
        await switchboard.set_binding(customer, Binding(address, endpoint, verified=True, order=1))
    await say(runtime, archived, f"{BODY}? Gladly, Frau Zweistein.")
    await drain(runtime)
    await switchboard.close_conversation(archived, "cli")
    assert await archive_conversation(store, runtime.core.archive, archived) == "ok"
    # Closed, moved by a failover, with a notice that nobody heard yet.
    moved = await hear(runtime, f"{BODY} two", WILMA)
    await drain(runtime)
    change = Rebind(
        moved, "c", 1, SMS, str(WILMAS_PHONE), "failover", Notice("m0-notice", "failover", MAIL, runtime.clock.now())
    )
    assert await store.rebind(0, [change]) == ["ok"]
    await switchboard.close_conversation(moved, "cli")
    # Open, in chat, with something that waits and something in her outbox.
    talk = await hear(runtime, f"{BODY} three", Address(Channel.CHAT, SESSION))
    await say(runtime, talk, f"{BODY}: we look for it.")
    outbox = runtime.adapter_store(CHAT)
    entry = OutboxEntry("m0-x", "t0-x.1", "message", BODY, "Ana", 0.0, talk, "4F2K9").encode()
    await outbox.append(outbox_key(SESSION), entry, OUTBOX_TTL_S)
    await outbox.put(talk_key(SESSION), talk, OUTBOX_TTL_S)
    # A text in parts of which one is missing.
    partial = {"key": f"parts/{WILMAS_PHONE.value[1:]}/100/7/2", "part": 1, "value": BODY, "total": 2,
               "source": WILMAS_PHONE.value, "recipient": "+12025550100", "due": 0.0}  # fmt: skip
    await runtime.adapter_store(SMS).collect(partial["key"], 1, BODY, 900.0)
    await runtime.adapter_store(SMS).append("partials", json.dumps(partial), 900.0)
    # Another customer of hers, merged.
    other = await switchboard.create_customer(
        name="W. Zweistein", locale="", bindings=[Binding(WILMAS_OTHER, verified=True)]
    )
    await hear(runtime, f"{BODY} four", WILMAS_OTHER)
    await switchboard.merge_customer(other.id, customer)
    return customer, other.id


async def held(runtime: Runtime, reference: str) -> None:
    """Words of hers that were only kept: they claim a conversation that is not hers, and one was looked at since."""
    for place in (WILMAS_PHONE, WILMA):
        await hear(runtime, f"{BODY} for #{reference}", place)
    found = [one for shard in [0] for one in await runtime.store.hidden_before(shard, runtime.clock.now() + 1)]
    assert len(found) == 2
    await runtime.store.close(found[0])


async def test_nothing_is_left_and_the_audit_finds_nothing(runtime: Runtime) -> None:
    """Neither in Redis, key names included, nor in the archive, nor on disk. Bob's conversation is as it was."""
    customer, other = await wilma(runtime)
    bobs = await hear(runtime, "And my order?", BOB)
    await held(runtime, (await runtime.switchboard.conversation(bobs)).conversation.reference)
    before = await everything(runtime)
    assert all(mark in before for mark in MARKS)
    said = await runtime.switchboard.transcript(bobs)
    with pytest.raises(Conflict, match="of their conversations are open"):
        await runtime.switchboard.erase_customer(customer, who="cli", why=WHY)
    erased = await runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True)
    assert (erased.customer_id, erased.aliases, erased.archived) == (customer, (other,), 1)
    after = await everything(runtime)
    for mark in MARKS:
        assert mark not in after, [line[:300] for line in after.split("\n") if mark in line]
    assert [(view.conversation.id) for view in (await runtime.switchboard.conversations()).items] == [bobs]
    assert await runtime.switchboard.transcript(bobs) == said
    for gone in (customer, other):
        with pytest.raises(NotFound):
            await runtime.switchboard.customer(gone)
    core = runtime.core
    assert await audit(core.store, core.control, core.board, core.files, now=core.clock.now()) == []


async def test_the_journal_says_who_erased_whom_and_why(runtime: Runtime) -> None:
    """By ids, and each conversation by its own."""
    customer, other = await wilma(runtime)
    await runtime.switchboard.erase_customer(customer, who="key:1", why=WHY.replace(", ", ",\n"), close=True)
    rows = [row for _, row in await runtime.store.journal_last(0, 200)]
    (line,) = [json.loads(row["f"]) for row in rows if row["k"] == "customer.erased"]
    ended = [row["c"] for row in rows if row["k"] == "conversation.erased"]
    assert line == {"cu": customer, "aliases": [other], "who": "key:1", "why": WHY, "count": len(set(ended))}
    assert len(set(ended)) >= 4


async def test_whoever_writes_again_is_somebody_new(runtime: Runtime) -> None:
    """A token to what was erased opens nothing of it."""
    customer, _ = await wilma(runtime)
    old = (await runtime.store.open_of_customer(customer))[0]
    await runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True)
    new = await hear(runtime, "Hello again", WILMA, reply_token=runtime.core.reply_token(old))
    view = await runtime.switchboard.conversation(new)
    assert view.customer.id != customer and dict(view.conversation.fields) == {}


async def test_what_is_being_said_is_waited_for(runtime: Runtime) -> None:
    """A worker that holds a message of theirs settles it first."""
    conversation = await hear(runtime, f"{BODY} one", WILMA)
    customer = (await runtime.switchboard.conversation(conversation)).customer.id
    (one,) = await runtime.store.lease(CONSOLE, "w1", 1, TERMS)
    erasing = asyncio.create_task(runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True))
    async with asyncio.timeout(5):
        while (await runtime.store.conversation(conversation)).open:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not erasing.done() and await runtime.store.message(one.message_id) is not None
    row = Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")
    assert await runtime.store.settle(0, [row]) == ["ok"]
    await erasing
    assert await runtime.store.settle(0, [row]) == ["missing"]
    assert BODY not in await everything(runtime)


async def test_it_goes_on_where_it_was(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between: the customer is known to the last, so that asking again finds the rest."""
    customer, _ = await wilma(runtime)

    async def fail(*_: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as broken:
        broken.setattr(runtime.core.archive, "erase", fail)
        with pytest.raises(OSError, match="the power is gone"):
            await runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True)
    await runtime.switchboard.erase_customer(customer, who="cli", why=WHY)
    after = await everything(runtime)
    assert [line[:300] for line in after.split("\n") for mark in MARKS if mark in line] == []


async def test_a_file_that_others_sent_too_stays(runtime: Runtime) -> None:
    """Only the bytes are the same."""
    logo = (InboundFile("logo.png", "image/png", b"a logo that everybody sends"),)
    conversation = await hear(runtime, f"{BODY} one", WILMA, files=logo)
    bobs = await hear(runtime, "Bob's", BOB, files=logo)
    customer = (await runtime.switchboard.conversation(conversation)).customer.id
    erased = await runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True)
    assert erased.files == 0
    (message,) = await runtime.switchboard.transcript(bobs)
    assert await runtime.core.files.has(message.content.files[0].sha256)


async def test_the_spool_forgets_them_too(runtime: Runtime) -> None:
    """What Redis took stays on disk for a while, what nobody could take for ever; others' entries stay there."""
    conversation = await hear(runtime, f"{BODY} one", WILMA)
    customer = (await runtime.switchboard.conversation(conversation)).customer.id
    spool, files = runtime.core.spool, runtime.core.files
    assert spool is not None
    events = [
        InboundMessage(endpoint=MAIL, vendor_id=f"<{sender.value}>", sender=sender, text=text, sent_at=0.0)
        for sender, text in ((WILMA, BODY), (BOB, "Bob was here"))
    ]
    for event in events:
        await spool.keep("event", str(event.sender), await dump_event(event, files))
    with pytest.raises(Conflict, match="waits on disk for Redis"):
        await runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True)
    (own,) = spool.folder.glob("*.spool")
    lines = own.read_bytes()
    (spool.folder / "dead.taken").write_bytes(lines)
    (spool.folder / "aside").write_bytes(
        b"".join(b'{"error": "x", "at": 1.0} ' + one + b"\n" for one in lines.splitlines())
    )
    os.truncate(own, 0)
    erased = await runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True)
    assert erased.spooled == 2
    for name in ("dead.taken", "aside"):
        kept = (spool.folder / name).read_text()
        assert BODY not in kept and kept.count("Bob was here") == 1


async def test_a_shared_address_stays_the_others(runtime: Runtime) -> None:
    """Erasing one of two who share a phone takes nothing from the other."""
    first = await hear(runtime, f"{BODY} one", WILMAS_PHONE)
    customer = (await runtime.switchboard.conversation(first)).customer.id
    bob = await runtime.switchboard.create_customer(
        name="Bob", locale="", bindings=[Binding(WILMAS_PHONE, verified=True)]
    )
    await runtime.switchboard.erase_customer(customer, who="cli", why=WHY, close=True)
    assert [one.id for one in await runtime.switchboard.find_customers(WILMAS_PHONE)] == [bob.id]
    assert BODY not in await everything(runtime)


async def test_what_cannot_be_erased_is_said(runtime: Runtime) -> None:
    """Nobody; an alias; without a reason; with one that names them and would outlive them."""
    customer, other = await wilma(runtime)
    erase = runtime.switchboard.erase_customer
    with pytest.raises(NotFound):
        await erase("c0-nobody", who="cli", why=WHY)
    with pytest.raises(Conflict, match=f"merged into {customer}"):
        await erase(other, who="cli", why=WHY)
    for why in (" ", f"{WILMA.value.upper()} asked", "for Wilma Zweistein"):
        with pytest.raises(Invalid):
            await erase(customer, who="cli", why=why, close=True)
    assert BODY in await everything(runtime)
