"""Redis hangs or dies, and the people at the edge are answered all the same: our disk keeps what they said."""

import os
import signal
import time

import pytest

from router.private_redis import PrivateRedis
from router.rollback import POSITION_FILE

SLACK_S = 3.0
"""The shortest time a vendor gives us for our answer."""


@pytest.fixture
def server(tmp_path):
    one = PrivateRedis(tmp_path / "redis", durable=True)
    one.start()
    yield one
    if one.pid is not None:
        os.kill(one.pid, signal.SIGCONT)
    one.stop()


async def timed(work):
    begun = time.monotonic()
    answer = await work
    return time.monotonic() - begun, answer


async def say(world, talk, text):
    """An agent says something that only our disk can take."""
    world.answers.append((talk.id, text))
    path = f"/v1/conversations/{talk.id}/messages"
    took_s, (status, sent) = await timed(world.attempt("POST", path, {"text": text}, key=text.replace(" ", "-")))
    assert (status, sent["durable"], sent["sequence"]) == (202, "spool", 0)
    return took_s, sent["message_id"]


async def test_while_redis_hangs_vendors_and_agents_are_answered_in_time_and_everything_comes_in_its_order(
    build_world, server
):
    async with build_world(redis_url=server.url) as world:
        eva = await world.known_customer("eva")
        await eva.texts("Hello", over="backup")
        talk = await eva.conversation()
        await talk.answer("Good morning.")
        await eva.phone.expects("Good morning.")
        os.kill(server.pid, signal.SIGSTOP)
        for number in range(3):
            took_s, _ = await timed(eva.texts(f"Question {number}", over="backup"))
            assert took_s < SLACK_S, f"the vendor waited {took_s:.1f} s"
        said = [await say(world, talk, f"Answer {number}.") for number in range(3)]
        assert max(took_s for took_s, _ in said) < 5.0, "Redis itself is waited for longer"
        os.kill(server.pid, signal.SIGCONT)
        for number in range(3):
            await eva.phone.expects(f"Answer {number}.", within_s=30)
        await talk.hears("Question 2", within_s=30)
        heard = [one.content.text for one in await talk.messages() if one.content.text.startswith("Question")]
        assert heard == ["Question 0", "Question 1", "Question 2"]
        shown = await world.get(f"/v1/messages/{said[0][1]}")
        assert shown["state"] in {"sent", "delivered"}, "the id that was promised is the message's"
        await world.ends_well()


async def test_what_a_web_process_kept_goes_on_after_it_was_killed(build_world, server, monkeypatch):
    async with build_world(redis_url=server.url) as world:
        await world.stop("web")
        world.runtimes["web"] = world.runtimes["dispatch"]
        monkeypatch.setenv("THROUGHLINE_WEB__PORT", str(world.settings.web.port))
        first = await world.spawn("web")
        await world.has_workers("web", 1)
        ben = await world.known_customer("ben")
        await ben.texts("Hello", over="backup")
        talk = await ben.conversation()
        await talk.answer("Good morning.")
        await ben.phone.expects("Good morning.")
        server.stop()
        await ben.texts("Are you there?", over="backup")
        await say(world, talk, "Yes, I am.")
        await say(world, talk, "And I stay.")
        first.send_signal(signal.SIGKILL)
        await first.wait()
        server.start()
        await world.spawn("web")
        await ben.phone.expects("Yes, I am.", within_s=30)
        await ben.phone.expects("And I stay.", within_s=30)
        await talk.hears("Are you there?", within_s=30)
        await world.ends_well()


async def test_a_machine_that_comes_back_on_an_older_store_says_nothing_again_unmarked(build_world, server, tmp_path):
    """All its processes are new, and none has seen the store before: what the last ones knew stands on disk."""
    async with build_world(redis_url=server.url, start=("web",)) as world:
        (tmp_path / POSITION_FILE).write_text('{"tl:{s0}:": "4000000000000-0"}')
        ann = await world.known_customer("ann")
        await ann.texts("Hello", over="backup")
        talk = await ann.conversation()
        await talk.answer("Good morning.")
        await world.start("dispatch", "supervise")
        came = await ann.phone.expects("Good morning.", "Perhaps a repeat", within_s=30)
        assert came.delivered
        await world.journals("store.went_back")
        await world.ends_well()
