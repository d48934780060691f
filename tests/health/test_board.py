"""The board on a real Redis."""

import asyncio

import pytest
import redis.asyncio

from health.board import BEGINNING, PIECES_MAX, Board, LeaseLost
from health.incident import IncidentEvent, IncidentState, open_incident, resolve
from health.records import Freeze, StatusRecord, fresh
from health.report import Direction, EndpointId, Evidence, Report, Status, Transition, Verdict, Witness

E = EndpointId("sms/acme")
OUT, IN = Direction.OUT, Direction.IN


def evidence(number, **more):
    return Evidence(E, OUT, Verdict.FAILURE, Witness.OUTCOME, 100.0 + number, f"t{number}", "http_503", **more)


def down(name="sms/acme", at=100.0):
    return Transition(EndpointId(name), OUT, Status.UP, Status.DOWN, at, "five_in_a_row", "It is down.")


async def test_evidence_is_read_in_order_and_only_once(board):
    """After an id, up to a count of entries, as it was recorded."""
    said = [evidence(number, latency_s=0.25, worker="w1") for number in range(3 * PIECES_MAX + 1)]
    await board.record(said)
    await board.record([])
    first = await board.read_evidence(BEGINNING, 3)
    rest = await board.read_evidence(first[-1][0], 100)
    assert [len(pieces) for _, pieces in first + rest] == [PIECES_MAX] * 3 + [1]
    assert [one for _, pieces in first + rest for one in pieces] == said
    assert await board.read_evidence(rest[-1][0], 100) == []


async def test_evidence_is_bounded(board, redis_client, monkeypatch):
    """The stream is trimmed as it grows."""
    monkeypatch.setattr("health.board.EVIDENCE_MAX", 1000)
    for _ in range(30):
        await board.record([evidence(number) for number in range(100 * PIECES_MAX)])
    assert await redis_client.xlen(board.key("evidence")) <= 1200


async def test_every_key_lies_in_one_slot(board, redis_client):
    """All of them carry the hash tag."""
    await board.record([evidence(1)])
    await board.beat("w1", "dispatch", 1.0)
    await board.commit(transitions=[down()], snapshots={"a": {"x": 1}})
    await board.lease_supervisor("me", 5)
    await board.open_incident(open_incident(await board.next_incident_id(), down()))
    assert {name.split("}")[0] for name in await redis_client.keys("*")} == {"tl:{h"}


async def test_reports_expire_and_a_source_replaces_its_own(board):
    """The live ones only."""
    for at, source, words in ((100.0, "adapter", "first"), (101.0, "adapter", "second"), (101.0, "status-page", "x")):
        ttl_s = 60 if source == "adapter" else 5
        await board.push_report(Report(E, OUT, Status.DOWN, "unbound", words, at, ttl_s, source))
    assert sorted(report.words for report in await board.reports(102)) == ["second", "x"]
    assert [report.words for report in await board.reports(110)] == ["second"]
    assert await board.reports(200) == []


async def test_beats_are_kept_until_the_worker_is_forgotten(board):
    """The last one of each, with its facts."""
    await board.beat("w1", "dispatch", 100.0)
    await board.beat("w1", "dispatch", 101.0, {"lag_ms": 3})
    await board.beat("w2", "web", 100.5)
    beats = {beat.worker: beat for beat in await board.beats()}
    assert (beats["w1"].at, beats["w1"].role, beats["w1"].facts) == (101.0, "dispatch", {"lag_ms": 3})
    await board.forget_worker("w1")
    assert [beat.worker for beat in await board.beats()] == ["w2"]


async def test_statuses_transitions_and_snapshots_are_read_back(board):
    """As they were written, together."""
    record = StatusRecord(
        E, OUT, Status.RECOVERING, 100.0, "probes_ok", "It answers.", 0.25, 500.0, 99.0, 90.0, True, 101.0
    )
    await board.commit(statuses=[record], transitions=[down()], snapshots={"sms/acme": {"fast": 1.5}, "cursor": "1-0"})
    assert await board.statuses() == {(E, OUT): record}
    assert [found for _, found in await board.read_transitions(BEGINNING)] == [down()]
    assert await board.detectors() == {"sms/acme": {"fast": 1.5}, "cursor": "1-0"}
    await board.commit(statuses=[StatusRecord(E, IN, Status.UP, 1.0, "heard", "")], snapshots={"sms/old": {}})
    await board.keep_only([(E, OUT)], ["sms/acme"])
    assert list(await board.statuses()) == [(E, OUT)]
    assert list(await board.detectors()) == ["sms/acme"]


async def test_a_status_nobody_confirms_is_unknown_after_a_minute(board):
    """Down stays down here; the gate's own expiry lets single messages try."""
    record = StatusRecord(E, OUT, Status.UP, 100.0, "heard", "", written_at=100.0)
    assert fresh(record, 150).status is Status.UP
    assert fresh(record, 161).status is Status.UNKNOWN
    assert fresh(StatusRecord(E, OUT, Status.DOWN, 1, "", "", 0.0), 500).status is Status.DOWN


async def test_only_one_supervisor_at_a_time(board):
    """A second one waits; the same one may come again with a newer fence; renewal needs the current fence."""
    first = await board.lease_supervisor("one", 30)
    assert await board.lease_supervisor("two", 30) is None
    again = await board.lease_supervisor("one", 30)
    assert again > first
    assert not await board.renew_supervisor("one", first, 30)
    assert await board.renew_supervisor("one", again, 30)
    assert await board.supervisor() == ("one", again)
    assert not await board.release_supervisor("two", again)
    assert await board.release_supervisor("one", again)
    assert await board.supervisor() is None
    assert await board.lease_supervisor("two", 30) > again


async def test_a_lease_runs_out(board):
    """A dead supervisor blocks nobody for longer than its lease."""
    await board.lease_supervisor("one", 0.05)
    deadline = asyncio.get_running_loop().time() + 5
    while (fence := await board.lease_supervisor("two", 30)) is None:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    assert fence == 2


async def test_a_supervisor_that_lost_its_lease_writes_nothing(board):
    """It slept, somebody took over, it wakes: refused whole."""
    old = await board.lease_supervisor("one", 30)
    new = await board.lease_supervisor("one", 30)
    with pytest.raises(LeaseLost):
        await board.commit(transitions=[down()], snapshots={"a": {}}, fence=old)
    assert await board.read_transitions(BEGINNING) == []
    assert await board.detectors() == {}
    await board.commit(transitions=[down()], fence=new)
    assert len(await board.read_transitions(BEGINNING)) == 1


async def test_incidents_are_opened_told_and_resolved(board):
    """By id, open ones, newest first, page by page."""
    for number in range(3):
        await board.open_incident(open_incident(await board.next_incident_id(), down(at=100.0 + number)))
    assert [incident.id for incident in await board.incidents()] == ["inc-3", "inc-2", "inc-1"]
    await board.append_to_incident("inc-2", IncidentEvent(110, "note", "Called the vendor.", "Ada"))
    await board.acknowledge_incident("inc-2", "Ada", 111)
    found = await board.incident("inc-2")
    assert (found.acknowledged_by, found.timeline[1].words) == ("Ada", "Called the vendor.")
    await board.change_incident("inc-3", lambda found: resolve(found, 200, "Over.", "Ada"))
    assert [incident.id for incident in await board.open_incidents()] == ["inc-2", "inc-1"]
    assert [incident.id for incident in await board.incidents(limit=1, before=102.0)] == ["inc-2"]
    assert await board.incident("inc-9") is None
    assert await board.append_to_incident("inc-9", IncidentEvent(1, "note", "")) is None
    assert (await board.incident("inc-3")).state is IncidentState.RESOLVED


async def test_two_who_write_in_the_same_incident_lose_nothing(board, redis_url):
    """A person's note and the monitor's events, at once."""
    await board.open_incident(open_incident("inc-1", down()))
    other = redis.asyncio.Redis.from_url(redis_url)
    notes = [
        (Board(other) if number % 2 else board).append_to_incident("inc-1", IncidentEvent(1, "note", f"n{number}"))
        for number in range(4)
    ]
    await asyncio.gather(*notes)
    found = await board.incident("inc-1")
    assert sorted(event.words for event in found.timeline[1:]) == ["n0", "n1", "n2", "n3"]
    await other.aclose()


async def test_old_resolved_incidents_are_let_go_open_ones_never(board, redis_client, monkeypatch):
    """Bounded history."""
    monkeypatch.setattr("health.board.INCIDENTS_MAX", 3)
    await board.open_incident(open_incident("inc-open", down(at=1.0)))
    for number in range(6):
        await board.open_incident(open_incident(f"inc-{number}", down(at=10.0 + number)))
        await board.change_incident(f"inc-{number}", lambda found: resolve(found, 20.0, "Over."))
    names = await redis_client.keys("*incident:*")
    assert len(names) <= 4
    assert await board.incident("inc-open") is not None


async def test_a_freeze_is_told_and_lifted(board):
    """With since when and why."""
    assert await board.freeze() is None
    await board.write_freeze(Freeze(100.0, "3 of 4 families"))
    assert await board.freeze() == Freeze(100.0, "3 of 4 families")
    await board.write_freeze(None)
    assert await board.freeze() is None


async def test_a_cancelled_caller_is_let_go_and_its_command_is_carried_through(board):
    """However often; redis-py alone would swallow most of these cancellations."""

    async def record_for_ever():
        while True:
            await board.record([evidence(1)])
            await board.beat("w1", "dispatch", 1.0)

    for _ in range(20):
        worker = asyncio.create_task(record_for_ever())
        while not board.under_way:
            await asyncio.sleep(0)
        worker.cancel()
        done, _ = await asyncio.wait([worker], timeout=5)
        assert done
        await board.settle()
    assert len(await board.read_evidence(BEGINNING)) == 20
