"""A backup holds everything, and a restored store sends nothing until a person says so."""

import asyncio
import json
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest
import redis
from click.testing import CliRunner, Result

from channels.messages import Address, Channel, InboundMessage
from health.report import EndpointId
from router.api_keys import Role
from router.audit.auditor import audit
from router.canary import Canaries
from router.cli.app import throughline
from router.domain.conversation import Binding, SideName
from router.private_redis import PrivateRedis, find_binary
from router.runtime import Runtime, open_runtime
from router.settings import load_settings
from router.store import codec, keys
from router.store.adapter_store import RedisAdapterStore
from router.store.asked import LeaseTerms, Rebind, Settlement
from router.store.connecting import open_primaries
from router.store.freezing import read_frozen
from router.store.snapshot import MOMENTARY, OUTBOX_LEAP, pour

T = TypeVar("T")
DANA = Address(Channel.EMAIL, "dana@customer.test")
MAIL, SMS = EndpointId("email/sandbox"), EndpointId("sms/sandbox")
TERMS = LeaseTerms(lease_s=0.2, hold_s={"normal": 0.1, "urgent": 0.1}, idempotent=False, attempts_max=3)


@pytest.fixture(autouse=True)
def nobody_waits_for_celery(folder_with_redis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, an empty Redis, and no broker."""
    monkeypatch.setenv("THROUGHLINE_BROKER_URL", "redis://127.0.0.1:1/1")


def run(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(throughline, list(arguments), input=answer)


def words(*arguments: str, answer: str = "") -> str:
    result = run(*arguments, answer=answer)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


def within(work: Callable[[Runtime], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with open_runtime(load_settings(), "cli") as runtime:
            return await work(runtime)

    return asyncio.run(ask())


def empty(redis_url: str) -> None:
    with open_primaries(redis_url) as servers:
        for server in servers:
            server.flushall()


async def lease(runtime: Runtime, endpoint: EndpointId) -> list[codec.Leased]:
    return await runtime.store.lease(endpoint, "w1", 10, TERMS)


async def begin(runtime: Runtime, text: str = "Where is it?") -> str:
    """Dana, who may be written to by mail and SMS, writes; the conversation's id."""
    places = (Binding(DANA, verified=True), Binding(Address(Channel.SMS, "+12025550100"), verified=True, order=1))
    if not await runtime.switchboard.find_customers(DANA):
        await runtime.switchboard.create_customer(name="Dana", locale="en", bindings=places)
    accepted = await runtime.switchboard.accept(
        InboundMessage(endpoint=MAIL, vendor_id=text, sender=DANA, text=text, sent_at=0.0, subject=text)
    )
    return accepted.conversation_id


async def answer(runtime: Runtime, conversation: str, text: str) -> str:
    sent = await runtime.switchboard.send(
        conversation, text=text, author="a0-bob", author_name="Bob", idempotency_key=text
    )
    return sent.message_id


async def settle_all(runtime: Runtime, endpoint: EndpointId) -> None:
    for one in await lease(runtime, endpoint):
        await runtime.store.settle(
            0, [Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")]
        )


def restored_elsewhere(redis_url: str, file: str = "b.tl") -> str:
    empty(redis_url)
    return words("restore", file)


def test_everything_comes_back_and_nothing_is_sent_until_a_person_says_so(redis_url: str, folder: Path) -> None:
    """Queued, under way, and queued behind it: all are held, listed by id and marked; then all go, in order."""

    async def fill(runtime: Runtime) -> tuple[str, list[str]]:
        conversation = await begin(runtime)
        first = await answer(runtime, conversation, "It left.")
        await settle_all(runtime, MAIL)
        second = await answer(runtime, conversation, "Yesterday.")
        (open_attempt,) = await lease(runtime, MAIL)
        assert open_attempt.message_id == second
        return conversation, [first, second, await answer(runtime, conversation, "By post.")]

    conversation, (first, second, third) = within(fill)
    assert "the store" in words("backup", "b.tl")
    told = restored_elsewhere(redis_url)
    assert "3 messages waited then" in told  # Dana's own, to the agent, is one of them
    assert f"{second} of {conversation} to the customer" in told
    assert "email/sandbox: 2 messages in 1 conversation side;" in told

    async def held(runtime: Runtime) -> None:
        message = await runtime.store.message(first)
        assert message is not None and message.state == "sent" and not message.possible_duplicate
        for _ in range(5):
            assert not await lease(runtime, MAIL)
            await asyncio.sleep(0.1)  # the attempt that was open runs out, and the endpoint's turn comes again
        assert not await runtime.store.plan(0, 10)

    within(held)
    assert "Frozen" in words("status")
    assert "resume" in run("doctor").output
    assert f"{second} of" in words("resume", "--list")
    assert "Aborted" in run("resume", answer="n\n").output
    within(held)
    assert "Sending" in words("resume", answer="y\n")
    assert "Nothing is frozen" in words("resume")
    assert "Frozen" not in words("status")

    async def goes_on(runtime: Runtime) -> list[tuple[str, bool]]:
        said = []
        deadline = asyncio.get_running_loop().time() + 10
        while len(said) < 2 and asyncio.get_running_loop().time() < deadline:
            for one in await lease(runtime, MAIL):
                said.append((one.message_id, one.possible_duplicate))
                await runtime.store.settle(
                    0, [Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "sent")]
                )
            await asyncio.sleep(0.05)
        core = runtime.core
        assert not await audit(core.store, core.control, core.board, core.files, now=core.clock.now())
        return said

    assert within(goes_on) == [(second, True), (third, True)]


def test_a_notice_that_may_have_been_told_says_so(redis_url: str) -> None:
    """It is held like any message, and marked where it was not told by the time of the backup."""

    async def move(runtime: Runtime) -> None:
        conversation = await begin(runtime)
        await answer(runtime, conversation, "It left.")
        side = await runtime.store.side(conversation, SideName.CUSTOMER)
        assert side is not None
        notice = codec.Notice("m0-" + "0" * 22, "failover", MAIL, 1.0)
        place = "sms:+12025550100"
        rebind = Rebind(conversation, SideName.CUSTOMER, side.epoch, SMS, place, "failover", notice)
        assert await runtime.store.rebind(0, [rebind]) == ["ok"]

    within(move)
    words("backup", "b.tl")
    assert "a notice of" in restored_elsewhere(redis_url)
    assert not within(lambda runtime: lease(runtime, SMS))
    words("resume", "--yes")
    (notice,) = within(lambda runtime: _due(runtime, SMS))
    assert notice.notice is not None and notice.possible_duplicate


async def _due(runtime: Runtime, endpoint: EndpointId) -> list[codec.Leased]:
    deadline = asyncio.get_running_loop().time() + 10
    while not (found := await lease(runtime, endpoint)):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    return found


def test_what_was_accepted_while_it_was_frozen_waits_too_and_is_not_marked(redis_url: str) -> None:
    """It cannot have been said before."""
    conversation = within(begin)
    words("backup", "b.tl")
    restored_elsewhere(redis_url)
    message = within(lambda runtime: answer(runtime, conversation, "It left."))
    assert not within(lambda runtime: lease(runtime, MAIL))
    words("resume", "--yes")
    (leased,) = within(lambda runtime: _due(runtime, MAIL))
    assert leased.message_id == message and not leased.possible_duplicate


def test_nobody_is_moved_while_the_store_is_frozen(redis_url: str) -> None:
    """What wants another way waits for it: whoever would be told of the move cannot be told."""

    async def refuse(runtime: Runtime) -> None:
        await answer(runtime, await begin(runtime), "It left.")
        (one,) = await lease(runtime, MAIL)
        row = Settlement(one.conversation_id, one.side, one.message_id, one.number, one.fence, "rejected")
        assert await runtime.store.settle(0, [row]) == ["ok"]

    within(refuse)
    words("backup", "b.tl")
    restored_elsewhere(redis_url)
    assert not within(lambda runtime: runtime.store.plan(0, 10))
    words("resume", "--yes")
    assert len(within(lambda runtime: runtime.store.plan(0, 10))) == 1


def test_no_canary_leaves_a_frozen_store(redis_url: str) -> None:
    """Not even what we send to ourselves."""
    within(begin)
    words("backup", "b.tl")
    restored_elsewhere(redis_url)

    async def take(runtime: Runtime) -> object:
        argument = json.dumps({"ep": MAIL})
        return await runtime.store.redis.run("canary", keys.shard(0), None, argument)

    async def ask(runtime: Runtime) -> object:
        await Canaries(runtime.core)._ask(MAIL, "abc")
        return await take(runtime)

    assert within(ask) is None
    words("resume", "--yes")
    assert json.loads(str(within(take)))["token"] == "abc"


def test_a_backup_goes_into_an_empty_store_only(redis_url: str) -> None:
    """One key is enough to refuse, and to leave everything as it is."""
    within(begin)
    words("backup", "b.tl")
    assert "not empty" in refused("restore", "b.tl")
    assert within(lambda runtime: read_frozen(runtime.store.redis)) is None


@pytest.mark.parametrize("where", ["store", "end", "middle"])
def test_a_damaged_backup_is_refused_before_anything_is_written(redis_url: str, folder: Path, where: str) -> None:
    """One bit in the store, a file cut off, a member taken out."""
    within(begin)
    words("backup", "b.tl")
    whole = bytearray((folder / "b.tl").read_bytes())
    if where == "store":
        whole[600] ^= 1
    elif where == "end":
        del whole[-15_000:]
    else:
        whole[whole.index(b"manifest.json") + 700] ^= 1
    (folder / "b.tl").write_bytes(whole)
    empty(redis_url)
    assert "b.tl" in refused("restore", "b.tl")
    assert "b.tl" in refused("restore", "--check", "b.tl")
    with open_primaries(redis_url) as servers:
        assert not any(server.dbsize() for server in servers)


def test_a_restore_that_broke_off_can_never_be_let_go(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the queue without what stood before it must not be sent."""
    within(begin)
    words("backup", "b.tl")
    empty(redis_url)

    def breaks(source: object, target: object) -> int:
        raise OSError("the machine went down")

    monkeypatch.setattr("router.backup.pour", breaks)
    assert "frozen and holds a part" in refused("restore", "b.tl")
    assert "broke off" in refused("resume", "--yes")
    assert "broke off" in words("status")


def test_an_older_redis_takes_what_a_newer_one_reads(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key, every kind of key, in its order and with its life."""

    async def fill(runtime: Runtime) -> None:
        conversation = await begin(runtime)
        for number in range(3):
            await answer(runtime, conversation, f"Part {number}.")
        await settle_all(runtime, MAIL)
        await runtime.keys.create(Role.OPS, "grafana")
        await runtime.core.control.claim_vendor_id(MAIL, ["v-1"], "t")

    within(fill)
    before = contents(redis_url)
    words("backup", "b.tl")
    empty(redis_url)
    monkeypatch.setattr("router.store.snapshot.FOREIGN", "")  # whatever it says

    def refuse(source: redis.Redis, target: Any) -> int:
        pipeline = target.pipeline

        def broken(**more: object) -> Any:
            one = pipeline(**more)
            execute = one.execute_command
            one.execute_command = lambda name, key, *rest: execute(name, key, *rest[:-1], b"of another version")
            return one

        target.pipeline = broken
        return pour(source, target)

    monkeypatch.setattr("router.backup.pour", refuse)
    words("restore", "b.tl")
    after = contents(redis_url)
    assert {kind for kind, _, _ in before.values()} == {b"string", b"hash", b"list", b"set", b"zset", b"stream"}
    for key, (kind, value, mortal) in before.items():
        if key.endswith(b"}:jr"):
            assert value == after[key][1][: len(value)]
        elif not MOMENTARY.match(key.decode()) and b":m:" not in key:
            assert after[key] == (kind, value, mortal), key


def contents(redis_url: str) -> dict[bytes, tuple[bytes, Any, bool]]:
    """Every key: its kind, what is in it, whether it ends by itself."""
    found = {}
    with open_primaries(redis_url) as servers:
        for server in servers:
            for key in server.keys("*"):
                read: dict[bytes, Callable[[], Any]] = {
                    b"string": lambda key=key, server=server: server.get(key),
                    b"hash": lambda key=key, server=server: server.hgetall(key),
                    b"list": lambda key=key, server=server: server.lrange(key, 0, -1),
                    b"set": lambda key=key, server=server: server.smembers(key),
                    b"zset": lambda key=key, server=server: server.zrange(key, 0, -1, withscores=True),
                    b"stream": lambda key=key, server=server: server.xrange(key),
                }
                kind = server.type(key)
                found[key] = (kind, read[kind](), server.pttl(key) > 0)
    return found


def test_files_and_archive_come_along_and_the_file_is_ours_alone(redis_url: str, folder: Path) -> None:
    """What a message names is there; an archive that is there already knows more and stays."""
    conversation = within(begin)
    sha256 = within(lambda runtime: runtime.core.files.write(b"a picture"))
    with sqlite3.connect(folder / "var" / "archive.sqlite3") as archive:
        archive.execute("create table kept (text)")
        archive.execute("insert into kept values ('long ago')")
    archive.close()
    words("backup", "b.tl")
    assert stat.S_IMODE((folder / "b.tl").stat().st_mode) == 0o600
    assert "exists" in refused("backup", "b.tl")
    shutil.rmtree(folder / "var" / "files")
    (folder / "var" / "archive.sqlite3").unlink()
    restored_elsewhere(redis_url)
    assert within(lambda runtime: runtime.core.files.read(sha256)) == b"a picture"
    with sqlite3.connect(folder / "var" / "archive.sqlite3") as archive:
        assert archive.execute("select text from kept").fetchall() == [("long ago",)]
        archive.execute("insert into kept values ('since')")
    archive.close()
    assert "it knows more" in restored_elsewhere(redis_url)
    assert within(lambda runtime: runtime.store.conversation(conversation)) is not None


def test_a_chat_page_that_saw_later_entries_shows_what_comes_now(redis_url: str) -> None:
    """The numbers of an outbox leap over those given out since."""
    chat = EndpointId("chat/web")

    async def append(runtime: Runtime) -> int:
        return await RedisAdapterStore(runtime.store.redis, chat).append("outbox:1", "hello", 60.0)

    within(append)
    words("backup", "b.tl")
    seen = [within(append) for _ in range(5)][-1]
    restored_elsewhere(redis_url)
    assert within(append) > seen


def test_a_redis_that_lets_nobody_copy_it_is_named(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """A user without SYNC gets a sentence, and no half file."""
    if not redis_url.startswith("unix://"):
        pytest.skip("its user is made on one server")
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser(
            "clerk", enabled=True, passwords=["+pw"], categories=["+@all"], commands=["-sync"], keys=["*"]
        )
        try:
            monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url.replace("unix://", "unix://clerk:pw@"))
            assert "needs the command SYNC" in refused("backup", "b.tl")
        finally:
            client.acl_deluser("clerk")
    assert not [path.name for path in folder.iterdir() if "b.tl" in path.name]


def test_a_private_redis_is_restored_where_nothing_runs(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started for it, filled, stopped; the next start finds it frozen, on its own disk, for its owner's eyes only."""
    monkeypatch.setenv("THROUGHLINE_SECRET", "a secret of one's own, so that no file of it is made")
    conversation = within(begin)
    words("backup", "b.tl")
    monkeypatch.delenv("THROUGHLINE_REDIS_URL")
    shutil.rmtree(folder / "var", ignore_errors=True)
    assert "Restored" in words("restore", "b.tl")
    assert (folder / "var").stat().st_mode & 0o077 == 0
    assert "not empty" in refused("restore", "b.tl")
    server = PrivateRedis(folder / "var" / "redis", binary=find_binary())
    server.start()
    try:
        monkeypatch.setenv("THROUGHLINE_REDIS_URL", server.url)
        assert within(lambda runtime: runtime.store.conversation(conversation)) is not None
        assert "Frozen" in words("status")
    finally:
        server.stop()


@pytest.mark.parametrize("broken", ["archive", "redis"])
def test_a_backup_that_was_not_made_leaves_nothing_behind(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A half file would hold what customers wrote, and nobody would know of it."""
    within(begin)
    if broken == "archive":
        (folder / "var" / "archive.sqlite3").write_bytes(b"no database at all" * 100)
        assert "No backup was made" in refused("backup", "b.tl")
    else:

        def break_off(_: redis.Redis, to: IO[bytes]) -> int:
            to.write(b"half of it")
            raise redis.ConnectionError("gone")

        monkeypatch.setattr("router.backup.copy_server", break_off)
        assert "No backup was made" in refused("backup", "b.tl")
    assert not [path.name for path in folder.iterdir() if "b.tl" in path.name or path.name.startswith(".backup-")]


def test_a_walk_that_meets_keys_twice_pours_them_once(redis_url: str) -> None:
    """As SCAN may, where the copy's own tables grow or shrink meanwhile."""

    async def fill(runtime: Runtime) -> None:
        conversation = await begin(runtime)
        await answer(runtime, conversation, "Here.")
        await RedisAdapterStore(runtime.store.redis, EndpointId("chat/web")).append("outbox:1", "hello", 60.0)

    within(fill)
    with tempfile.TemporaryDirectory(prefix="tl-") as room, open_primaries(redis_url) as servers:
        other = PrivateRedis(Path(room), durable=False)
        other.start()
        try:
            with redis.Redis.from_url(other.url) as target:
                counts = [sum(pour(server, target) for server in servers) for _ in range(2)]
                number = target.get("tl:{e:chat/web|outbox:1}:n")
        finally:
            other.stop()
        first = next(server.get(name) for server in servers for name in server.keys("tl:{e:chat/web|outbox:1}:n"))
    assert counts[0] == counts[1] > 5
    assert int(number) - int(first) == OUTBOX_LEAP
