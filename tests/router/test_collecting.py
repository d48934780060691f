"""Files that nothing refers to go after a while; whatever refers to one keeps it."""

import hashlib
import os
from pathlib import Path

import pytest

from channels.messages import Address, Channel, InboundFile, InboundMessage
from health.report import EndpointId
from router.archive.moving import archive_conversation
from router.collecting import DUE, collect_files
from router.runtime import Runtime
from router.spool_records import dump_event
from router.store.asked import LeaseTerms, Settlement
from router.store.files import Files

MAIL, CONSOLE = EndpointId("email/sandbox"), EndpointId("chat/console")
DANA = Address(Channel.EMAIL, "dana@customer.test")
DAY_S = 86_400.0


def mail(text: str, attached: bytes) -> InboundMessage:
    return InboundMessage(
        endpoint=MAIL,
        vendor_id=f"<{text}@customer.test>",
        sender=DANA,
        text=text,
        sent_at=0.0,
        original=f"raw {text}".encode(),
        files=(InboundFile("a.txt", "text/plain", attached),),
    )


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def age(runtime: Runtime, days: float) -> None:
    """Make every file on disk this old."""
    at = runtime.clock.now() - days * DAY_S
    for path in (runtime.settings.data_dir / "files").rglob("*"):
        if path.is_file():
            os.utime(path, (at, at))


async def collect(runtime: Runtime) -> dict[str, int]:
    """A day later."""
    await runtime.store.redis.call("DEL", DUE)
    return await collect_files(runtime.core)


async def test_what_nothing_refers_to_goes_and_the_rest_stays(runtime: Runtime) -> None:
    """An open conversation, an archived one and an entry of the spool each keep their attachment and raw mail."""
    files = runtime.core.files
    first = (await runtime.switchboard.accept(mail("one", b"of an archived one"))).conversation_id
    for one in await runtime.store.lease(CONSOLE, "w", 9, LeaseTerms(8.0, {"normal": 60.0}, False, 3)):
        row = Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")
        await runtime.store.settle(0, [row])
    await runtime.store.close(first)
    assert await archive_conversation(runtime.store, runtime.core.archive, first) == "ok"
    await runtime.switchboard.accept(mail("two", b"of an open one"))
    assert runtime.core.spool is not None
    await runtime.core.spool.keep("event", "k", await dump_event(mail("three", b"of the spool"), files))
    nobodys = [await files.write(b"a stranger's"), await files.write(b"another's")]
    age(runtime, 8)
    young = await files.write(b"just being taken")
    assert await collect(runtime) == {"looked_at": 8, "removed": 2}
    assert [await files.has(one) for one in nobodys] == [False, False]
    for content in (b"of an archived one", b"of an open one", b"of the spool", b"raw one", b"raw two", b"raw three"):
        assert await files.has(digest(content)), content
    assert await files.has(young)


async def test_it_waits_its_days(runtime: Runtime) -> None:
    """Seven, unless set otherwise."""
    one = await runtime.core.files.write(b"a stranger's")
    age(runtime, 6.9)
    assert await collect(runtime) == {"looked_at": 0, "removed": 0}
    assert await runtime.core.files.has(one)


async def test_it_is_done_once_a_day(runtime: Runtime) -> None:
    """Whoever asks how often; after a failure it is tried again an hour later."""
    await runtime.core.files.write(b"a stranger's")
    age(runtime, 8)
    assert (await collect_files(runtime.core))["removed"] == 1
    assert await collect_files(runtime.core) == {}
    assert 3600 < int(await runtime.store.redis.call("TTL", DUE)) <= DAY_S


async def test_what_is_written_again_is_wanted_again(runtime: Runtime, tmp_path: Path) -> None:
    """Between looking and removing somebody may send the same file: it stays."""
    files = Files(tmp_path / "shelf")
    one = await files.write(b"a logo that everybody sends")
    path = tmp_path / "shelf" / one[:2] / one
    os.utime(path, (1.0, 1.0))
    assert await files.older_than(1000.0, 10) == [one]
    await files.write(b"a logo that everybody sends")
    assert await files.remove([one], 1000.0) == 0
    os.utime(path, (1.0, 1.0))
    assert await files.remove([one], 1000.0) == 1


async def test_half_a_file_goes_too(tmp_path: Path) -> None:
    """Whoever wrote it ended in between."""
    files = Files(tmp_path)
    one = await files.write(b"whole")
    half = tmp_path / one[:2] / f".{one}.1a2b3c4d"
    half.write_bytes(b"wh")
    os.utime(half, (1.0, 1.0))
    assert await files.older_than(1000.0, 10) == []
    assert not half.exists()


async def test_without_the_archive_nothing_is_removed(runtime: Runtime) -> None:
    """Nobody can say what it refers to."""
    one = await runtime.core.files.write(b"a stranger's")
    age(runtime, 8)
    runtime.core.archive.database.path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Exception, match="cannot be used"):
        await collect(runtime)
    assert await runtime.core.files.has(one)
