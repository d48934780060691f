"""What everybody says and knows about health, in Redis: evidence, reports, beats, statuses, incidents, one lease."""

import asyncio
import functools
import json
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Concatenate, ParamSpec, TypeVar

import redis.asyncio
from redis.exceptions import WatchError

from health import incident as incidents_
from health.incident import Incident, IncidentEvent, IncidentState
from health.records import (
    Beat,
    Freeze,
    StatusRecord,
    beat_from_json,
    beat_to_json,
    evidence_from_json,
    evidence_to_json,
    read_or_none,
    report_from_json,
    report_to_json,
    status_from_json,
    status_to_json,
    transition_from_json,
    transition_to_json,
)
from health.report import Direction, EndpointId, Evidence, Report, Transition

EVIDENCE_MAX = 50_000
PIECES_MAX = 20
"""Of evidence in one entry: told one by one they cost their teller and Redis five times as much."""
TRANSITIONS_MAX = 10_000
REPORTS_MAX = 1_000
BEATS_MAX = 1_000
INCIDENTS_MAX = 500
FREEZE_TTL_S = 30.0
CHANGE_TRIES = 10
BEGINNING = "0-0"
"""The id before every entry of a stream."""


P = ParamSpec("P")
T = TypeVar("T")


def _whole(
    method: Callable[Concatenate["Board", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Board", P], Coroutine[Any, Any, T]]:
    """Let a cancelled caller go at once while what it asked of Redis is carried through.

    redis-py would break a connection in the middle of an answer, and with hiredis it often swallows the cancellation,
    so that the caller's loop would never end.
    """

    @functools.wraps(method)
    async def carried_through(board: "Board", /, *args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.create_task(method(board, *args, **kwargs))
        board.under_way.add(task)
        task.add_done_callback(board.under_way.discard)
        return await asyncio.shield(task)

    return carried_through


class LeaseLost(Exception):
    """Another supervisor holds the lease: what this one concluded was not written, and it must stop."""


class BoardFull(Exception):
    """More reporters or workers than the board keeps; something invents names."""


class Board:
    """One board a deployment. Every key shares the hash tag `{h}`, so it lives in one slot of a cluster.

    Values are read back whether or not the client decodes responses. Every method raises `redis.RedisError` when
    Redis cannot be reached; nothing is retried here.
    """

    def __init__(self, client: "redis.asyncio.Redis", prefix: str = "tl") -> None:
        # redis-py types every answer as sync or async at once; what we read is parsed at this rim anyway.
        self._redis: Any = client
        self._prefix = f"{prefix}:{{h}}:"
        self.under_way: set[asyncio.Task[Any]] = set()
        """What is being asked of Redis right now."""
        folder = files("health") / "lua"
        self._commit = client.register_script((folder / "commit.lua").read_text())
        self._take_lease = client.register_script((folder / "take_lease.lua").read_text())
        self._keep_lease = client.register_script((folder / "keep_lease.lua").read_text())

    def key(self, name: str) -> str:
        """The full key of one part of the board."""
        return self._prefix + name

    async def settle(self) -> None:
        """Wait until Redis has answered everything, also what cancelled callers asked; before closing the client."""
        while self.under_way:
            await asyncio.wait(self.under_way)

    @_whole
    async def _call(self, *command: Any) -> Any:
        return await self._redis.execute_command(*command)

    # Evidence

    @_whole
    async def record(self, evidence: Sequence[Evidence]) -> None:
        """Append evidence, in order, up to 20 pieces an entry; about the last 50,000 entries are kept."""
        if not evidence:
            return
        async with self._redis.pipeline(transaction=False) as batch:
            for start in range(0, len(evidence), PIECES_MAX):
                text = evidence_to_json(evidence[start : start + PIECES_MAX])
                batch.xadd(self.key("evidence"), {"e": text}, maxlen=EVIDENCE_MAX, approximate=True)
            await batch.execute()

    async def read_evidence(self, after_id: str, count: int = 1000) -> list[tuple[str, list[Evidence]]]:
        """Up to `count` entries of evidence after an id, oldest first; one that cannot be read says nothing."""
        found = await self._after("evidence", after_id, count)
        return [(name, read_or_none(evidence_from_json, text) or []) for name, text in found]

    async def _after(self, name: str, after_id: str, count: int) -> list[tuple[str, str]]:
        answer = await self._call("XRANGE", self.key(name), f"({after_id}", "+", "COUNT", count)
        return [(_text(entry_id), _text(next(iter(fields.values())))) for entry_id, fields in answer]

    # Reports

    async def push_report(self, report: Report) -> None:
        """Keep a claim until it expires; a newer one of the same source replaces it.

        Raises:
            BoardFull: a thousand other claims are live.
        """
        key, field = self.key("reports"), f"{report.endpoint} {report.direction} {report.source}"
        known, count = await self._call("HEXISTS", key, field), await self._call("HLEN", key)
        if not known and int(count) >= REPORTS_MAX:
            await self.reports(report.at)
            if int(await self._call("HLEN", key)) >= REPORTS_MAX:
                raise BoardFull(f"{REPORTS_MAX} reports are live; {report.source} cannot report on {report.endpoint}")
        await self._call("HSET", key, field, report_to_json(report))

    async def reports(self, now: float) -> list[Report]:
        """The claims that have not expired; the others, and those that cannot be read, are dropped."""
        return await self._kept("reports", report_from_json, lambda report: report.at + report.ttl_s > now)

    # Workers

    @_whole
    async def beat(self, worker_id: str, role: str, now: float, facts: Mapping[str, Any] | None = None) -> None:
        """A worker lives. `facts` are few and small: what it listens to, how late its loop is.

        Raises:
            BoardFull: a thousand workers are known; forget the dead.
        """
        key = self.key("beats")
        async with self._redis.pipeline(transaction=False) as batch:
            batch.hset(key, worker_id, beat_to_json(Beat(worker_id, role, now, facts or {})))
            batch.hlen(key)
            count = (await batch.execute())[1]
        if int(count) > BEATS_MAX:
            await self.forget_worker(worker_id)
            raise BoardFull(f"{BEATS_MAX} workers are known; {worker_id} is not noted")

    async def beats(self) -> list[Beat]:
        """The last beat of every worker that has not been forgotten; one that cannot be read is."""
        return await self._kept("beats", beat_from_json, lambda _: True)

    async def forget_worker(self, worker_id: str) -> None:
        """A worker left in good order, or is long dead."""
        await self._call("HDEL", self.key("beats"), worker_id)

    # Conclusions

    async def statuses(self) -> dict[tuple[EndpointId, Direction], StatusRecord]:
        """Every conclusion, by endpoint and direction."""
        records = [status_from_json(text) for text in (await self._hash("statuses")).values()]
        return {(record.endpoint, record.direction): record for record in records}

    async def read_transitions(self, after_id: str, count: int = 100) -> list[tuple[str, Transition]]:
        """Up to `count` changes after an id, oldest first; about the last 10,000 are kept."""
        found = await self._after("transitions", after_id, count)
        return [(name, transition_from_json(text)) for name, text in found]

    async def detectors(self) -> dict[str, Any]:
        """What was kept."""
        return {name: json.loads(text) for name, text in (await self._hash("detectors")).items()}

    @_whole
    async def commit(
        self,
        *,
        statuses: Sequence[StatusRecord] = (),
        transitions: Sequence[Transition] = (),
        snapshots: Mapping[str, Mapping[str, Any] | str] | None = None,
        fence: int | None = None,
    ) -> None:
        """Write what one step concluded, whole or not at all.

        Raises:
            LeaseLost: `fence` is no longer the lease's; nothing was written.
        """
        arguments: list[Any] = ["" if fence is None else fence, TRANSITIONS_MAX, len(statuses)]
        for record in statuses:
            arguments += [_field(record.endpoint, record.direction), status_to_json(record)]
        arguments += [len(transitions), *(transition_to_json(transition) for transition in transitions)]
        kept = snapshots or {}
        arguments.append(len(kept))
        for name, value in kept.items():
            arguments += [name, json.dumps(value, separators=(",", ":"))]
        keys = [self.key(name) for name in ("lease", "statuses", "transitions", "detectors")]
        if not await self._commit(keys=keys, args=arguments):
            raise LeaseLost(f"fence {fence} is no longer the supervisor's")

    async def keep_only(self, statuses: Collection[tuple[EndpointId, Direction]], snapshots: Collection[str]) -> None:
        """Drop conclusions about endpoints that are no longer configured."""
        kept = {_field(endpoint, direction) for endpoint, direction in statuses}
        for name, wanted in (("statuses", kept), ("detectors", set(snapshots))):
            stale = [field for field in await self._hash(name) if field not in wanted]
            if stale:
                await self._call("HDEL", self.key(name), *stale)

    async def write_freeze(self, freeze: Freeze | None) -> None:
        """Say that nothing is moved for now, or (None) that it may be again. It lapses 30 s after the last word."""
        if freeze is None:
            await self._call("DEL", self.key("freeze"))
            return
        value = json.dumps([freeze.since, freeze.words])
        await self._call("SET", self.key("freeze"), value, "PX", int(FREEZE_TTL_S * 1000))

    async def freeze(self) -> Freeze | None:
        """Whether moving is frozen, since when and why."""
        text = await self._call("GET", self.key("freeze"))
        return Freeze(*json.loads(text)) if text else None

    # Incidents

    async def next_incident_id(self) -> str:
        """A short id that people can say: `inc-17`."""
        return f"inc-{int(await self._call('INCR', self.key('incident-number')))}"

    @_whole
    async def open_incident(self, incident: Incident) -> None:
        """Keep a new incident; the oldest resolved ones beyond 500 are dropped."""
        async with self._redis.pipeline(transaction=True) as batch:
            self._put(batch, incident)
            batch.zadd(self.key("incidents"), {incident.id: incident.opened_at})
            batch.zrange(self.key("incidents"), 0, -1 - INCIDENTS_MAX)
            excess = (await batch.execute())[-1]
        for name in map(_text, excess):
            if not await self._call("SISMEMBER", self.key("incidents-open"), name):
                await self._call("ZREM", self.key("incidents"), name)
                await self._call("DEL", self.key(f"incident:{name}"))

    @_whole
    async def change_incident(self, incident_id: str, change: Callable[[Incident], Incident]) -> Incident | None:
        """Apply a pure change to the stored incident; None: there is no such incident.

        Raises:
            redis.WatchError: ten others changed it first.
        """
        key = self.key(f"incident:{incident_id}")
        for tries_left in range(CHANGE_TRIES, 0, -1):
            async with self._redis.pipeline(transaction=True) as batch:
                await batch.watch(key)
                text = await batch.get(key)
                if text is None:
                    return None
                changed = change(incidents_.from_json(text))
                batch.multi()
                self._put(batch, changed)
                try:
                    await batch.execute()
                except WatchError:
                    if tries_left == 1:
                        raise
                    continue
                return changed
        return None

    def _put(self, batch: Any, incident: Incident) -> None:
        batch.set(self.key(f"incident:{incident.id}"), incidents_.to_json(incident))
        if incident.state is IncidentState.RESOLVED:
            batch.srem(self.key("incidents-open"), incident.id)
        else:
            batch.sadd(self.key("incidents-open"), incident.id)

    async def append_to_incident(self, incident_id: str, event: IncidentEvent) -> Incident | None:
        """Tell one more thing in its timeline."""
        return await self.change_incident(incident_id, lambda found: incidents_.append(found, event))

    async def acknowledge_incident(self, incident_id: str, who: str, at: float) -> Incident | None:
        """A person looks after it."""
        return await self.change_incident(incident_id, lambda found: incidents_.acknowledge(found, who, at))

    async def incident(self, incident_id: str) -> Incident | None:
        """One incident with its timeline."""
        text = await self._call("GET", self.key(f"incident:{incident_id}"))
        return incidents_.from_json(text) if text else None

    async def open_incidents(self) -> list[Incident]:
        """Those not resolved, newest first."""
        names = map(_text, await self._call("SMEMBERS", self.key("incidents-open")))
        return sorted(await self._incidents(names), key=lambda found: found.opened_at, reverse=True)

    async def incidents(self, limit: int = 50, before: float | None = None) -> list[Incident]:
        """The newest, resolved or not; `before`: only those opened earlier (for the next page)."""
        bound = "+inf" if before is None else f"({before!r}"
        names = await self._call(
            "ZREVRANGEBYSCORE", self.key("incidents"), bound, "-inf", "LIMIT", 0, min(limit, INCIDENTS_MAX)
        )
        return await self._incidents(map(_text, names))

    async def _incidents(self, names: Iterable[str]) -> list[Incident]:
        keys = [self.key(f"incident:{name}") for name in names]
        return [incidents_.from_json(text) for text in await self._call("MGET", *keys) if text] if keys else []

    # The single supervisor

    @_whole
    async def lease_supervisor(self, owner: str, ttl_s: float) -> int | None:
        """Become the one supervisor for `ttl_s` seconds: a fence that only grows, or None: another one is.

        The same owner may take it again (after a restart) and gets a new fence.
        """
        keys = [self.key("lease"), self.key("fence")]
        fence = await self._take_lease(keys=keys, args=[owner, int(ttl_s * 1000)])
        return None if fence is None else int(fence)

    @_whole
    async def renew_supervisor(self, owner: str, fence: int, ttl_s: float) -> bool:
        """Stay the supervisor; False: it is no longer ours."""
        return bool(
            await self._keep_lease(keys=[self.key("lease")], args=[f"{fence} {owner}", max(1, int(ttl_s * 1000))])
        )

    @_whole
    async def release_supervisor(self, owner: str, fence: int) -> bool:
        """Give the lease up; False: it was no longer ours."""
        return bool(await self._keep_lease(keys=[self.key("lease")], args=[f"{fence} {owner}", 0]))

    async def supervisor(self) -> tuple[str, int] | None:
        """Who holds the lease, and its fence."""
        text = await self._call("GET", self.key("lease"))
        if not text:
            return None
        fence, owner = _text(text).split(" ", 1)
        return owner, int(fence)

    async def _kept(self, name: str, read: Callable[[str], T], is_kept: Callable[[T], bool]) -> list[T]:
        """What is said there; the rest is dropped: whoever wrote what nobody can read says it again, if they live."""
        read_back = {field: read_or_none(read, text) for field, text in (await self._hash(name)).items()}
        kept = {field: one for field, one in read_back.items() if one is not None and is_kept(one)}
        if dropped := read_back.keys() - kept.keys():
            await self._call("HDEL", self.key(name), *dropped)
        return list(kept.values())

    async def _hash(self, name: str) -> dict[str, str]:
        answer = await self._call("HGETALL", self.key(name))
        return {_text(field): _text(value) for field, value in answer.items()}


def _field(endpoint: EndpointId, direction: Direction) -> str:
    return f"{endpoint} {direction}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
