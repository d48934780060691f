"""The spool: on disk in order, taken once Redis is back, by whoever lives, and nothing is ever dropped."""

import asyncio
import contextlib
import errno
import os
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from channels.messages import Address, Channel, InboundFile, InboundMessage, ReceiptEvent, ReceiptState
from health.report import EndpointId
from router import spool as spools
from router import spool_files
from router.spool import Spool, SpoolFull
from router.spool_records import dump_event, load_event, order_of
from router.store.files import Files
from router.store.redis import StoreUnavailable


class Taker:
    """Redis as the spool sees it: takes, or does not."""

    def __init__(self):
        self.taken, self.answering, self.broken = [], True, set()

    async def __call__(self, kind, fields):
        if not self.answering:
            raise StoreUnavailable("away")
        if fields["n"] in self.broken:
            raise ValueError("nobody can take this")
        await asyncio.sleep(0)
        self.taken.append((kind, fields["n"]))

    @property
    def numbers(self):
        return [number for _, number in self.taken]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(spools, "LOOK_S", 0.02)


@contextlib.asynccontextmanager
async def running(spool, taker):
    task = asyncio.create_task(spool.run(taker))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(look):
    deadline = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_what_is_kept_is_taken_in_the_order_of_its_key_once_redis_is_back(tmp_path):
    spool, taker = Spool(tmp_path, "web"), Taker()
    taker.answering = False
    async with running(spool, taker):
        for number in range(40):
            await spool.keep("event", f"key{number % 3}", {"n": number})
        await until(lambda: spool.away)
        assert spool.holds("key0") and spool.holds("anything"), "while Redis is away nobody waits for it"
        taker.answering = True
        await until(lambda: spool.waiting == 0 and not spool.away)
    assert sorted(taker.numbers) == list(range(40))
    for key in range(3):
        assert [one for one in taker.numbers if one % 3 == key] == list(range(key, 40, 3))


async def test_what_comes_later_waits_behind_its_like_and_nothing_else_does(tmp_path):
    spool = Spool(tmp_path, "web")
    await spool.keep("event", "ann", {"n": 1})
    assert spool.holds("ann") and not spool.holds("bob")


async def test_what_a_dead_process_kept_is_taken_by_the_next_and_what_a_living_one_keeps_is_not(tmp_path):
    dead, alive, taker = Spool(tmp_path, "web"), Spool(tmp_path, "dispatch"), Taker()
    await dead.keep("event", "ann", {"n": 1})
    await dead.keep("event", "ann", {"n": 2})
    os.close(dead._own.descriptor)  # its process is gone, and with it its lock
    await alive.keep("event", "bob", {"n": 3})
    async with running(Spool(tmp_path, "web"), taker):
        await until(lambda: len(taker.taken) == 2)
        await asyncio.sleep(0.1)
    assert taker.numbers == [1, 2]


async def test_a_torn_last_line_and_a_damaged_one_do_not_hold_up_the_others(tmp_path):
    dead, taker = Spool(tmp_path, "web"), Taker()
    for number in range(3):
        await dead.keep("event", "ann", {"n": number})
    os.close(dead._own.descriptor)
    path = dead._own.path
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second.replace(b'"n":1', b'"n":7') + third + first[:20])
    async with running(Spool(tmp_path, "web"), taker):
        await until(lambda: len(taker.taken) == 2)
    assert taker.numbers == [0, 2]


async def test_what_nobody_can_take_is_put_aside_for_a_person_and_the_rest_goes_on(tmp_path):
    spool, taker = Spool(tmp_path, "web"), Taker()
    taker.broken = {1}
    for number in range(3):
        await spool.keep("event", "ann", {"n": number})
    async with running(spool, taker):
        await until(lambda: spool.waiting == 0)
    assert taker.numbers == [0, 2]
    assert '"n":1' in (tmp_path / "aside").read_text() and "nobody can take this" in (tmp_path / "aside").read_text()


async def test_what_was_put_aside_is_not_taken_after_all_by_whoever_takes_the_file_up(tmp_path):
    async def take(kind, fields):
        if fields["n"] == 1:
            raise ValueError("its conversation is closed")
        if fields["n"] == 2:
            raise StoreUnavailable("away again")

    dead, taker = Spool(tmp_path, "web"), Taker()
    for key, number in (("ann", 0), ("ann", 1), ("bob", 2)):
        await dead.keep("event", key, {"n": number})
    async with running(dead, take):
        await until(lambda: (tmp_path / "aside").exists() and dead.waiting == 1)
    async with running(Spool(tmp_path, "web"), taker):
        await until(lambda: 2 in taker.numbers)
    assert sorted(taker.numbers) == [0, 2], "a person was given it, and it was said as well, behind what came later"


async def test_what_was_taken_can_be_taken_again_for_ten_minutes_and_is_dropped_then(tmp_path):
    spool, taker = Spool(tmp_path, "web"), Taker()
    async with running(spool, taker):
        await spool.keep("event", "ann", {"n": 1})
        await until(lambda: list(tmp_path.glob("*.taken")))
        assert spool.take_again() == 1
        await until(lambda: len(taker.taken) == 2)
        await until(lambda: list(tmp_path.glob("*.taken")))
        (old,) = tmp_path.glob("*.taken")
        os.utime(old, (time.time() - 700, time.time() - 700))
        await until(lambda: not list(tmp_path.iterdir()))
        assert spool.take_again() == 0


async def test_a_full_spool_and_a_full_disk_refuse_and_promise_nothing(tmp_path, monkeypatch):
    spool, taker = Spool(tmp_path, "web"), Taker()
    monkeypatch.setattr(spools, "COUNT_MAX", 2)
    await spool.keep("event", "ann", {"n": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            await spool.keep("event", "ann", {"n": 2})
    await spool.keep("event", "ann", {"n": 3})
    with pytest.raises(SpoolFull):
        await spool.keep("event", "ann", {"n": 4})
    async with running(spool, taker):
        await until(lambda: spool.waiting == 0)
    assert taker.numbers == [1, 3]


async def test_who_takes_too_long_is_not_waited_for_and_not_broken_off(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "TRY_S", 0.05)
    spool, done = Spool(tmp_path, "web"), []

    async def slow():
        await asyncio.sleep(0.2)
        done.append(True)

    with pytest.raises(StoreUnavailable):
        await spool.within(slow())
    assert spool.away and not done
    await until(lambda: done)


async def test_every_field_of_an_event_survives_the_disk(tmp_path):
    files = Files(tmp_path)
    message = InboundMessage(
        endpoint=EndpointId("email/support"),
        vendor_id="<1@x>",
        sender=Address(Channel.EMAIL, "ann@example.org"),
        text="Grüße\n",
        sent_at=12.5,
        recipient="us@example.org",
        html="<p>",
        subject="Subject",
        files=(InboundFile("a.png", "image/png", b"\x00\xff"),),
        sender_name="Ann",
        locale="de",
        reply_token="tok",
        in_reply_to=("<0@x>", "<9@x>"),
        references_text="ref",
        automatic=True,
        unverified=True,
        opt="stop",
        late=True,
        original=b"raw \xff mail",
    )
    receipt = ReceiptEvent(
        EndpointId("sms/acme"), ReceiptState.UNDELIVERED, 3.0, "t0-1.2", "SM1", "30003", permanent=False, final=False
    )
    for event in (message, receipt):
        assert await load_event(await dump_event(event, files), files) == event
    assert order_of(message) == "email/support|email:ann@example.org" and order_of(receipt) == "sms/acme|t0-1.2"


async def test_one_that_can_neither_be_taken_nor_put_aside_holds_up_only_its_like(tmp_path, monkeypatch):
    """The first of all, on a full disk: the others go on, and Redis is known to be back."""
    spool, taker = Spool(tmp_path, "web"), Taker()
    taker.broken = {0}
    monkeypatch.setattr(spool_files, "put_aside", lambda *_: False)
    await spool.keep("event", "ann", {"n": 0})
    for number in range(1, 5):
        await spool.keep("event", f"bob{number}", {"n": number})
    spool.away = True
    async with running(spool, taker):
        await until(lambda: spool.waiting == 1)
        assert sorted(taker.numbers) == [1, 2, 3, 4] and not spool.holds("carl") and spool.holds("ann")
        taker.broken = set()
        await until(lambda: spool.waiting == 0)


async def test_who_may_open_no_file_looks_again(tmp_path, monkeypatch):
    """A process with too many connections: its spool goes on as soon as it may."""
    dead, taker, spool = Spool(tmp_path, "web"), Taker(), Spool(tmp_path, "web")
    await dead.keep("event", "ann", {"n": 1})
    os.close(dead._own.descriptor)
    refused, look = [], spool_files.lock_and_read

    def refuse(path):
        if len(refused) < 3:
            refused.append(path)
            raise OSError(errno.EMFILE, "Too many open files")
        return look(path)

    monkeypatch.setattr(spool_files, "lock_and_read", refuse)
    async with running(spool, taker):
        await until(lambda: taker.numbers == [1])
    assert len(refused) == 3


async def test_a_new_folder_and_what_is_put_aside_are_on_disk_by_name_too(tmp_path, monkeypatch):
    """A power failure may take a name whose folder was not synced, whatever the file itself was."""
    synced, sync = [], spool_files.sync
    monkeypatch.setattr(spool_files, "sync", lambda folder: (synced.append(folder), sync(folder)))
    spool, taker = Spool(tmp_path / "spool", "web"), Taker()
    taker.broken = {0}
    await spool.keep("event", "ann", {"n": 0})
    assert synced == [tmp_path, tmp_path / "spool"]
    async with running(spool, taker):
        await until(lambda: spool.waiting == 0)
    assert synced == [tmp_path, tmp_path / "spool", tmp_path / "spool"]


async def test_what_nobody_looks_at_does_not_grow_for_ever(tmp_path, monkeypatch):
    """The last one that fits is put aside whole, the next stays in the spool."""
    monkeypatch.setattr(spool_files, "ASIDE_BYTES_MAX", 200)
    spool, taker = Spool(tmp_path, "web"), Taker()
    taker.broken = {0, 1}
    await spool.keep("event", "ann", {"n": 0})
    await spool.keep("event", "bob", {"n": 1})
    async with running(spool, taker):
        await until(lambda: spool.waiting == 1)
        await asyncio.sleep(0.2)
    assert spool.waiting == 1 and len((tmp_path / "aside").read_text().splitlines()) == 1


async def test_a_file_that_cannot_get_its_name_leaves_nothing_and_promises_nothing(tmp_path, monkeypatch):
    spool = Spool(tmp_path, "web")
    monkeypatch.setattr(spool_files, "sync", Mock(side_effect=OSError(errno.EIO, "I/O error")))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="I/O error"):
            await spool.keep("event", "ann", {"n": 1})
    assert not list(tmp_path.iterdir()) and len(list(Path("/proc/self/fd").iterdir())) <= opened + 1
    monkeypatch.undo()
    await spool.keep("event", "ann", {"n": 1})
    assert spool.waiting == 1


async def test_who_may_not_read_what_it_has_locked_lets_it_go_and_looks_again(tmp_path, monkeypatch):
    """The lock took the last free descriptor: held on to, it would keep the file from everybody for good."""
    dead, taker, spool = Spool(tmp_path, "web"), Taker(), Spool(tmp_path, "web")
    await dead.keep("event", "ann", {"n": 1})
    os.close(dead._own.descriptor)
    refused, read = [], Path.read_bytes

    def refuse(path):
        if not refused:
            refused.append(path)
            raise OSError(errno.EMFILE, "Too many open files")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    async with running(spool, taker):
        await until(lambda: taker.numbers == [1])
    assert refused


async def test_a_file_that_cannot_be_put_away_leaves_none_closed_in_use(tmp_path, monkeypatch):
    """What is closed may be somebody else's descriptor by now: nothing may be written there."""
    dead, taker, spool = Spool(tmp_path, "web"), Taker(), Spool(tmp_path, "web")
    await spool.keep("event", "ann", {"n": 1})
    await dead.keep("event", "bob", {"n": 2})
    os.close(dead._own.descriptor)
    refused, touch = [], os.utime

    def refuse(path, *times):
        if path == dead._own.path and not refused:
            refused.append(path)
            raise OSError(errno.EIO, "I/O error")
        touch(path, *times)

    monkeypatch.setattr(os, "utime", refuse)
    async with running(spool, taker):
        await until(lambda: refused)
        await spool.keep("event", "ann", {"n": 3})
        await until(lambda: not list(tmp_path.glob("*.spool")))
    assert sorted(taker.numbers) == [1, 2, 3] and len(list(tmp_path.glob("*.taken"))) == 3


async def test_a_file_that_somebody_took_away_is_not_looked_for_for_ever(tmp_path):
    spool, taker = Spool(tmp_path, "web"), Taker()
    await spool.keep("event", "ann", {"n": 1})
    spool._own.path.unlink()
    async with running(spool, taker):
        await until(lambda: spool.waiting == 0 and not spool._files)
        await spool.keep("event", "ann", {"n": 2})
        await until(lambda: list(tmp_path.glob("*.taken")))
    assert taker.numbers == [1, 2]


def entry_of(folder, number):
    file = spool_files.create_file(folder, "web")
    line = spool_files.dump_line("event", "ann", {"n": number})
    return spool_files.Entry("event", "ann", {"n": number}, line, file)


async def test_what_one_process_cannot_put_aside_takes_nothing_from_another(tmp_path, monkeypatch):
    """The disk has no room for the first, and room for the second a moment later: what is cut off is its own alone."""
    first, second = entry_of(tmp_path, 1), entry_of(tmp_path, 2)
    writes, begun, ended = spool_files.write_all, threading.Event(), threading.Event()

    def fill(descriptor, content):
        if b'"n":1' in content and not begun.is_set():
            begun.set()
            ended.wait(0.3)
            raise OSError(errno.ENOSPC, "No space left on device")
        writes(descriptor, content)

    def follow():
        begun.wait()
        kept = spool_files.put_aside(tmp_path, second, ValueError("broken"))
        ended.set()
        return kept

    monkeypatch.setattr(spool_files, "write_all", fill)
    kept = await asyncio.gather(
        asyncio.to_thread(spool_files.put_aside, tmp_path, first, ValueError("broken")), asyncio.to_thread(follow)
    )
    assert kept == [False, True] and '"n":2' in (tmp_path / "aside").read_text()


async def test_a_torn_line_does_not_hide_that_something_was_put_aside(tmp_path):
    """It was put aside out of a file whose writer died within its last line."""
    spool, taker = Spool(tmp_path, "web"), Taker()
    entry = entry_of(tmp_path, 1)
    entry.file.write([entry.line])
    os.write(entry.file.descriptor, entry.line[:10])
    os.close(entry.file.descriptor)
    taker.broken = {1}
    await spool._adopt()
    assert await spool._take_first(taker, "ann") and spool.waiting == 0
    os.close(spool._files[0].descriptor)
    next_one = Spool(tmp_path, "web")
    await next_one._adopt()
    assert next_one.waiting == 0, "it is a person's"


async def test_what_one_process_left_in_two_files_is_taken_by_one_other(tmp_path):
    """After a fault of the disk it began another file: who has only that one waits for whoever has the first."""
    gone = Spool(tmp_path, "web")
    for number in (1, 2):
        await gone.keep("say", "v0-1", {"n": number})
        gone._own = None
    for file in gone._files:
        os.close(file.descriptor)
    first, second = sorted(tmp_path.glob("*.spool"))
    held = spool_files.lock_and_read(first)
    looks, lock_and_read = [], spool_files.lock_and_read
    taker, spool = Taker(), Spool(tmp_path, "dispatch")

    def look(path):
        looks.append(path)
        return lock_and_read(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_files, "lock_and_read", look)
        async with running(spool, taker):
            await until(lambda: len(looks) > 5)
            assert taker.numbers == [] and second not in looks
            os.close(held[0].descriptor)
            await until(lambda: taker.numbers == [1, 2])
