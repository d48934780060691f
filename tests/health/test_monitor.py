"""The monitor's loop on a real board and virtual time: stories of outages."""

import asyncio
import itertools
import statistics

import pytest
from redis.exceptions import ResponseError

from health.board import LeaseLost
from health.incident import IncidentState
from health.monitor import MonitorTarget
from health.report import Direction, EndpointId, Evidence, Report, Status, Verdict, Witness
from health.thresholds import DetectorSettings

ACME, POST = EndpointId("sms/acme"), EndpointId("sms/post")
OUT = Direction.OUT


def target(family="acme", **more):
    return MonitorTarget(family, **more)


async def test_a_vendor_dies_and_comes_back(scene, board):
    """Down in seconds, an incident opens; held, probed, ramped, up again; the incident closes by itself."""
    play = scene(acme=target())
    monitor = play.monitor(settings=DetectorSettings(hold_s=6, ramp_s=10))
    await play.play(monitor, 10)
    assert (await board.statuses())[ACME, OUT].status is Status.UP
    play.vendor.state[ACME] = "refused"
    died = play.clock.at
    await play.play(monitor, 8)
    assert play.became("acme", Status.DOWN)[0] - died <= 4
    record = (await board.statuses())[ACME, OUT]
    assert (record.status, record.share) == (Status.DOWN, 0.0)
    (incident,) = await board.open_incidents()
    assert incident.affected[0].endpoint == ACME
    play.vendor.state[ACME] = "up"
    play.traffic.clear()
    await play.play(monitor, 12)
    assert (await board.statuses())[ACME, OUT].status is Status.RECOVERING
    play.traffic.add(ACME)
    await play.play(monitor, 30)
    assert (await board.statuses())[ACME, OUT].status is Status.UP
    over = await board.incident(incident.id)
    assert over.state is IncidentState.RESOLVED
    assert [event.kind for event in over.timeline] == ["went_down", "recovering", "came_up", "resolved"]
    assert [found for _, found in await board.read_transitions("0-0")] == play.transitions


@pytest.mark.parametrize(("state", "within_s"), [("refused", 4.0), ("hang", 8.0)])
async def test_time_to_down_through_the_whole_loop(scene, state, within_s):
    """At one message a second, board, probes and all; median over several endpoints that die at odd moments."""
    play = scene(**{f"v{number}": target(f"v{number}") for number in range(9)})
    monitor = play.monitor(control=_answers)
    times = []
    for number, endpoint in enumerate(sorted(play.targets)):
        await play.play(monitor, 1 + 0.25 * (number % 4))
        play.vendor.state[endpoint] = state
        died = play.clock.at
        await play.play(monitor, 2 * within_s)
        times.append(play.became(endpoint.removeprefix("sms/"), Status.DOWN)[0] - died)
    assert statistics.median(times) <= within_s
    assert play.vendor.most_at_once == 1, "two probes at a time"


async def _answers() -> None:
    """A control host that works."""


async def test_a_refused_credential_takes_only_its_endpoint_down_at_the_next_probe(scene):
    """A person must act; the others carry on."""
    play = scene(acme=target(probe_s=5), post=target("post"))
    play.traffic = {POST}
    monitor = play.monitor()
    await play.play(monitor, 3)
    play.vendor.state[ACME] = "unauthorised"
    await play.play(monitor, 8)
    assert [found.reason for found in play.transitions if found.after is Status.DOWN] == ["misconfigured"]


async def test_an_idle_endpoint_that_is_down_is_probed_a_third_of_the_hold_apart(scene):
    """So that a demo with a short hold need not wait for a probe."""
    play = scene(acme=target())
    monitor = play.monitor(settings=DetectorSettings(hold_s=3))
    play.vendor.state[ACME] = "refused"
    await play.play(monitor, 12)
    assert play.became("acme", Status.DOWN)
    play.vendor.probes.clear()
    await play.play(monitor, 12)
    assert 8 <= len(play.vendor.probes) <= 16


async def test_ten_flaps_in_a_minute_make_one_move(scene):
    """3 s down, 3 s up: down once, not up again within that minute."""
    play = scene(acme=target())
    monitor = play.monitor()
    await play.play(monitor, 5)
    began = play.clock.at
    for _ in range(10):
        for state in ("refused", "up"):
            play.vendor.state[ACME] = state
            await play.play(monitor, 3)
    assert len(play.became("acme", Status.DOWN)) == 1
    assert [at for at in play.became("acme", Status.UP) if at > play.became("acme", Status.DOWN)[0]] == []
    assert play.clock.at - began == 60


async def test_a_restarted_supervisor_goes_on(scene, board):
    """Two failures seen, a restart, three more: down at the fifth, each piece of evidence counted once."""
    play = scene(acme=target(probe_s=1000))
    play.traffic.clear()
    first = play.monitor()
    await play.play(first, 3)

    async def fail(times, monitor):
        for _ in range(times):
            await board.record([Evidence(ACME, OUT, Verdict.FAILURE, Witness.OUTCOME, play.clock.at, "", "refused")])
            await play.play(monitor, 1.25)

    play.vendor.state[ACME] = "unanswered"
    await fail(2, first)
    await first.close()
    assert (await board.statuses())[ACME, OUT].status is Status.SUSPECT
    second = play.monitor()
    await fail(2, second)
    assert (await board.statuses())[ACME, OUT].status is Status.SUSPECT
    await fail(1, second)
    assert (await board.statuses())[ACME, OUT].status is Status.DOWN
    third = play.monitor()
    await play.play(third, 1)
    assert (await board.statuses())[ACME, OUT].status is Status.DOWN
    assert len(play.became("acme", Status.DOWN)) == 1


async def test_a_supervisor_that_lost_its_lease_stops(scene, board):
    """What it concludes is not written."""
    play = scene(acme=target())
    fence = await board.lease_supervisor("one", 60)
    monitor = play.monitor(fence=lambda: fence)
    await play.play(monitor, 2)
    await board.lease_supervisor("one", 60)
    with pytest.raises(LeaseLost):
        await play.play(monitor, 3)


async def test_a_transition_is_told_again_until_it_was_taken(scene):
    """Whoever acts on it failed once; nothing is lost, nothing else held up."""
    play = scene(acme=target())
    told = []

    async def fails_once(transition):
        told.append(transition.after)
        if len(told) == 1:
            raise RuntimeError("not now")

    monitor = play.monitor(on_transition=fails_once)
    with pytest.raises(RuntimeError):
        await play.play(monitor, 3)
    await play.play(monitor, 3)
    assert told == [Status.UP, Status.UP]


async def test_when_everything_fails_at_once_it_is_us(scene, board):
    """Three providers and the control probe die in one moment: frozen, nothing goes down; it ends, all goes on."""
    play = scene(acme=target(), post=target("post"), tele=target("tele"))
    broken = False

    async def control():
        if broken:
            raise OSError

    monitor = play.monitor(control=control)
    await play.play(monitor, 5)
    broken = True
    for endpoint in play.targets:
        play.vendor.state[endpoint] = "refused"
    await play.play(monitor, 30)
    assert monitor.frozen is not None
    assert (await board.freeze()).words == monitor.frozen.words
    assert [found for found in play.transitions if found.after is Status.DOWN] == []
    broken = False
    play.vendor.state.clear()
    await play.play(monitor, 90)
    assert monitor.frozen is None
    assert await board.freeze() is None
    assert {record.status for record in (await board.statuses()).values()} == {Status.UP}


async def test_two_endpoints_and_no_control_probe_are_believed(scene):
    """Two prove nothing about us; moving is the smaller harm."""
    play = scene(acme=target(), post=target("post"))
    monitor = play.monitor()
    await play.play(monitor, 5)
    play.vendor.state = {ACME: "refused", POST: "refused"}
    await play.play(monitor, 10)
    assert play.became("acme", Status.DOWN)
    assert play.became("post", Status.DOWN)


async def test_our_own_stall_takes_nothing_down(scene):
    """The event loop wakes seconds late and sends time out because of it."""
    play = scene(acme=target())
    monitor = play.monitor()
    await play.play(monitor, 5)
    for _ in range(3):
        play.clock.at += 2.0
        at = play.clock.at
        timeouts = [Evidence(ACME, OUT, Verdict.FAILURE, Witness.OUTCOME, at, "", "read_timeout")] * 2
        await play.board.record(timeouts)
        await monitor.step(at, lag_s=2.0)
    await play.play(monitor, 40)
    assert play.became("acme", Status.DOWN) == []


async def test_a_killed_worker_is_noticed_within_five_seconds_and_told_once(scene, board):
    """And one that beats on, or left in good order, is not."""
    play = scene(acme=target())
    monitor = play.monitor()
    alive = {"w1", "w2", "w3"}

    def beat(now):
        if now % 1 == 0:
            return asyncio.gather(*(board.beat(worker, "dispatch", now) for worker in sorted(alive)))
        return None

    await play.play(monitor, 20, beat)
    alive.discard("w1")
    alive.discard("w3")
    await board.forget_worker("w3")
    await play.play(monitor, 5, beat)
    assert play.silent == [("w1", "dispatch")]
    assert monitor.silent_workers == ["w1"]
    await play.play(monitor, 20, beat)
    assert play.silent == [("w1", "dispatch")]
    alive.add("w1")
    await play.play(monitor, 5, beat)
    assert monitor.silent_workers == []


async def test_our_own_pause_makes_no_worker_silent(scene, board):
    """We slept for half a minute, they did not."""
    play = scene(acme=target())
    monitor = play.monitor()
    for pause_s in (0.25, 30.0):
        for _ in range(40):
            await board.beat("w1", "dispatch", play.clock.at)
            await play.play(monitor, 0.25)
        play.clock.at += pause_s
        await play.play(monitor, 2)
    assert play.silent == []


async def test_a_listener_says_that_it_cannot_receive(scene, board):
    """Inbound cannot be probed: the adapter's own report takes it down, and up again; sending is untouched."""
    both = frozenset({Direction.OUT, Direction.IN})
    play = scene(acme=target(directions=both))
    monitor = play.monitor(settings=DetectorSettings(hold_s=3, ramp_s=5))
    await play.play(monitor, 3)
    words = "The mailbox refuses us."
    await board.push_report(Report(ACME, Direction.IN, Status.DOWN, "imap_lost", words, play.clock.at, 20, "adapter"))
    await play.play(monitor, 8)
    statuses = await board.statuses()
    assert statuses[ACME, Direction.IN].status is Status.DOWN
    assert statuses[ACME, Direction.OUT].status is Status.UP
    await play.play(monitor, 40)
    assert (await board.statuses())[ACME, Direction.IN].status is Status.UP


async def test_taken_but_never_delivered_is_found_by_receipts_and_a_canary(scene, board):
    """Silent loss: receipts stop, a canary is sent and lost, the endpoint is down within a minute and a half."""
    play = scene(acme=target(receipts=True, canary=True))
    play.traffic.clear()
    lost = False
    canaries = []

    async def canary(endpoint):
        canaries.append(endpoint)
        if lost:
            raise TimeoutError

    monitor = play.monitor(canary=canary)

    def traffic(now):
        if now % 0.5:
            return None
        said = [Evidence(ACME, OUT, Verdict.OK, Witness.OUTCOME, now, f"m{now}")]
        if not lost:
            said.append(Evidence(ACME, OUT, Verdict.OK, Witness.RECEIPT, now, f"m{now - 4}"))
        return board.record(said)

    await play.play(monitor, 90, traffic)
    assert canaries == []
    lost = True
    began = play.clock.at
    await play.play(monitor, 60, traffic)
    assert canaries[0] == ACME
    (went_down,) = play.became("acme", Status.DOWN)
    assert went_down - began < 60
    assert play.transitions[-1].reason == "canary_lost"
    await play.play(monitor, 60)
    assert play.became("acme", Status.RECOVERING) == [], "probes alone prove nothing here"
    lost = False
    await play.play(monitor, 60)
    assert play.became("acme", Status.RECOVERING)


async def test_an_endpoint_that_is_no_longer_configured_leaves_no_trace(scene, board):
    """Its status goes, its incident closes."""
    play = scene(acme=target(), post=target("post"))
    monitor = play.monitor()
    await play.play(monitor, 3)
    play.vendor.state[ACME] = "refused"
    await play.play(monitor, 6)
    assert len(await board.open_incidents()) == 1
    del play.targets[ACME]
    play.traffic.discard(ACME)
    await play.play(play.monitor(), 2)
    assert [endpoint for endpoint, _ in await board.statuses()] == [POST]
    assert await board.open_incidents() == []


async def test_a_worker_with_a_wrong_clock_does_no_harm(scene, board):
    """An hour ahead counts as now; an hour behind says nothing."""
    play = scene(acme=target())
    monitor = play.monitor()
    await play.play(monitor, 3)
    for offset in (3600, -3600):
        for _ in range(6):
            at = play.clock.at + offset
            await board.record([Evidence(ACME, OUT, Verdict.OK, Witness.OUTCOME, at)])
            await play.play(monitor, 1)
    assert (await board.statuses())[ACME, OUT].status is Status.UP
    ahead = play.clock.at + 3600
    await board.record([Evidence(ACME, OUT, Verdict.MISCONFIGURED, Witness.OUTCOME, ahead, "", "auth_rejected")])
    await play.play(monitor, 1)
    assert play.became("acme", Status.DOWN)[0] <= play.clock.at


async def test_the_loop_runs_until_cancelled_and_survives_a_failing_step(scene, caplog):
    """A callback that raises costs a step, not the loop; cancelled, its probes are gone."""
    play = scene(acme=target())
    told = asyncio.Event()
    failures = 2

    async def picky(transition):
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("not now")
        told.set()

    running = asyncio.create_task(play.monitor(on_transition=picky).run())
    async with asyncio.timeout(10):
        await told.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sum(play.vendor.under_way.values()) == 0


async def test_redis_goes_away_and_comes_back(scene, board, redis_client):
    """Nobody can beat or say anything meanwhile: afterwards no worker is called dead and nothing is down."""
    play = scene(acme=target())
    monitor = play.monitor()

    def beat(now):
        return board.beat("w1", "dispatch", now) if now % 1 == 0 else None

    await play.play(monitor, 10, beat)
    for _ in range(80):
        play.clock.at += 0.25
        await redis_client.rename(board.key("evidence"), "aside")
        await redis_client.set(board.key("evidence"), "not a stream")
        with pytest.raises(ResponseError):
            await monitor.step(play.clock.at)
        await redis_client.rename("aside", board.key("evidence"))
    await play.play(monitor, 1)
    await play.play(monitor, 10, beat)
    assert play.silent == []
    assert (await board.statuses())[ACME, OUT].status is Status.UP


async def test_a_probe_that_ignores_its_end_is_not_joined_by_a_second(scene):
    """Given up after 5 s and counted as failed, it still runs; no other begins beside it."""
    play = scene(acme=target())
    play.traffic.clear()
    let_go = asyncio.Event()

    async def stubborn(endpoint):
        play.vendor.probes.append(endpoint)
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    monitor = play.monitor(probe=stubborn)
    await play.play(monitor, 60)
    at_once = len(play.vendor.probes)
    let_go.set()
    assert at_once == 1
    await play.play(monitor, 2)
    assert len(play.vendor.probes) > 1
    await monitor.close()


async def test_probes_of_a_burst_begin_a_second_apart(scene):
    """Also where each fails at once."""
    play = scene(acme=target(probe_s=3))
    play.vendor.state[ACME] = "refused"
    began = []

    async def refuse(endpoint):
        began.append(play.clock.at)
        raise ConnectionRefusedError

    await play.play(play.monitor(probe=refuse), 10)
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert len(gaps) >= 3
    assert min(gaps) >= 1


async def test_what_nobody_can_read_blinds_nobody(scene, board, redis_client):
    """Evidence, a report and a beat of a version to come: left out, and what others say is judged as before."""
    play = scene(acme=target())
    monitor = play.monitor()
    await play.play(monitor, 5)
    await redis_client.xadd(board.key("evidence"), {"e": '[["sms/acme","out","odd","outcome",1,"","",null,""]]'})
    await redis_client.hset(board.key("reports"), "sms/acme in imap", '{"endpoint":"sms/acme","new":1}')
    await redis_client.hset(board.key("beats"), "w1", "[")
    play.vendor.state[ACME] = "refused"
    await play.play(monitor, 8)
    assert (await board.statuses())[ACME, OUT].status is Status.DOWN
    assert not await redis_client.exists(board.key("beats"), board.key("reports"))
