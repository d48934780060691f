"""The online auditor: checks the invariants over everything stored, at a measured pace; reports what holds twice."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from health.board import Board
from health.report import EndpointId
from router.audit.conversation import WAKE, Examination
from router.audit.journal import JournalLook
from router.audit.records import SIDE_WORDS, Finding, read_page
from router.domain.conversation import SideName
from router.domain.ids import shard_of
from router.store import keys
from router.store.control import Control
from router.store.files import Files
from router.store.store import Store

__all__ = ["Finding", "audit"]

PACE_PER_S = 2_000.0
SCAN_COUNT = 1_000
"""Keys one SCAN looks at; it counts as this many conversations:"""
SCAN_COST = 20
TOGETHER = 8
"""Conversations read in one round trip."""
PAGE_MEMBERS = 200
SECOND_LOOK_S = 1.0
"""What is found counts if it is found again this much later: what we read moves under us."""
FINDINGS_MAX = 1_000
"""Beyond this many the first look ends: something is wrong at large."""
REFUSED_MAX = 10_000
"""Sides at a refused place that are looked at twice."""
CLOCKS_APART_S = 5.0
GATE = re.compile(r"^(open|closed)\|\d+$")


async def audit(
    store: Store, control: Control, board: Board, files: Files, *, now: float, pace_per_s: float = PACE_PER_S
) -> list[Finding]:
    """Everything that does not hold, at most 1,000 findings; an empty list: nothing is wrong.

    Reads only, about `pace_per_s` conversations a second, so that live traffic goes on meanwhile. What holds at the
    store's own moment (fences, order, places, due sets) is read in one script a conversation; every finding was found
    twice, a second apart. `now` is Unix seconds.

    Invariants 8 (a stale fence changes nothing) and 16 (an older Redis) leave nothing behind that could be audited:
    tests hold them.

    Raises:
        StoreUnavailable: Redis did not answer; nothing can be said.
    """
    return await _Auditor(store, control, board, files, now, pace_per_s).run()


@dataclass(slots=True)
class _Gates:
    """What every shard said of its gates at one moment."""

    at_ms: int
    """By the store's clock."""
    ours: float
    """The same moment by ours, Unix seconds."""
    rows: list[dict[str, str]]


@dataclass(slots=True)
class _Auditor:
    store: Store
    control: Control
    board: Board
    files: Files
    now: float
    pace_per_s: float
    _journals: list[JournalLook] = field(default_factory=list)
    _refused: dict[str, dict[SideName, int]] = field(default_factory=dict)
    _due_again: set[tuple[int, str]] = field(default_factory=set)
    """Due sets in which something was found, by shard and name."""
    _judged: frozenset[EndpointId] = frozenset()
    _there: dict[str, bool] = field(default_factory=dict)
    _spent: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    async def run(self) -> list[Finding]:
        self._journals = [JournalLook(self.store, shard) for shard in range(self.store.shards)]
        await self._read_journals()
        gates = await self._gates()
        first = await self._look_everywhere(gates)
        if first or self._refused:
            await asyncio.sleep(SECOND_LOOK_S)
        await self._read_journals()
        after = await self._gates()
        second = set(self._closed_gates_passed(gates, after))
        if first or self._refused:
            again = await self._look_again(first, after)
            # An attempt begun between the looks at a place that refused at the first can only be found by the second.
            second |= {one for one in again if one in first or one.invariant == 11}
        return sorted(second, key=_order)[:FINDINGS_MAX]

    async def _look_everywhere(self, gates: _Gates) -> set[Finding]:
        found = set(self._wrong_gates(gates))
        for journal in self._journals:
            found |= set(journal.too_many_retries())
            found |= await self._lost_accepts(journal, journal.accepted)
        for shard in range(self.store.shards):
            async for batch in self._conversations(shard):
                found |= await self._examine_all(batch)
                if len(found) >= FINDINGS_MAX:
                    return found
            async for name in self._keys(shard, "d:"):
                found |= await self._look_at_due_set(shard, name, gates)
                if len(found) >= FINDINGS_MAX:
                    return found
        return found

    async def _look_again(self, first: set[Finding], gates: _Gates) -> set[Finding]:
        """Whatever the first look found something about, and nothing else."""
        self._there.clear()
        found = set(self._wrong_gates(gates))
        suspects = sorted({one.conversation_id for one in first if one.conversation_id} | set(self._refused))
        for start in range(0, len(suspects), TOGETHER):
            found |= await self._examine_all(suspects[start : start + TOGETHER])
        for journal in self._journals:
            found |= set(journal.too_many_retries())
            lost = {one.message_id for one in first} & journal.accepted.keys()
            found |= await self._lost_accepts(journal, {one: journal.accepted[one] for one in lost})
        for shard, name in sorted(self._due_again):
            found |= await self._look_at_due_set(shard, name, gates)
        return found

    # Conversations

    async def _conversations(self, shard: int) -> AsyncIterator[list[str]]:
        """Every conversation of a shard, hidden ones too, a few at a time."""
        batch: list[str] = []
        async for identity in self._keys(shard, "v:"):
            batch.append(identity)
            if len(batch) == TOGETHER:
                yield batch
                batch = []
        yield batch

    async def _keys(self, shard: int, kind: str) -> AsyncIterator[str]:
        """What follows `kind` in the names of a shard's keys; a name may come twice."""
        prefix = f"{keys.shard(shard)}{kind}"
        cursor = "0"
        while True:
            answer = await self.store.redis.call("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCAN_COUNT)
            cursor = str(answer[0])
            await self._pay(SCAN_COST)
            for name in answer[1]:
                yield str(name).removeprefix(prefix)
            if cursor == "0":
                return

    async def _examine_all(self, conversation_ids: Sequence[str]) -> set[Finding]:
        found: set[Finding] = set()
        for findings in await asyncio.gather(*(self._examine(one) for one in conversation_ids)):
            found |= findings
        return found

    async def _examine(self, conversation_id: str) -> set[Finding]:
        """One conversation; nothing, if it is gone by now."""
        try:
            shard = shard_of(conversation_id)
        except ValueError:
            words = "a conversation has an id that names no shard"
            return {Finding(1, words, conversation_id, "", "Keep the data folder and report it")}
        examination = Examination(conversation_id, dict(self._refused.get(conversation_id, {})))
        found: set[Finding] = set()
        while True:
            page = await read_page(self.store, conversation_id, examination.next)
            if page is None:
                return set()
            await self._pay(1 + len(page.messages) / 50)
            if examination.see(page):
                break
        if shard < len(self._journals):
            found |= set(self._journals[shard].rebinds_missing(page))
        if examination.refused and len(self._refused) < REFUSED_MAX:
            self._refused.setdefault(conversation_id, examination.refused)
        for sha256, message_id in examination.files:
            if not await self._has_file(sha256):
                words = f"the file {sha256[:12]} is not on disk"
                found.add(Finding(1, words, conversation_id, message_id, "Restore data_dir/files from a backup"))
        return found | set(examination.findings)

    async def _has_file(self, sha256: str) -> bool:
        if sha256 not in self._there:
            self._there[sha256] = await self.files.has(sha256)
        return self._there[sha256]

    # Due sets

    async def _look_at_due_set(self, shard: int, where: str, gates: _Gates) -> set[Finding]:
        """Every entry points to a side that says it stands there, at an endpoint that there is."""
        name = f"{keys.shard(shard)}d:{where}"
        found: set[Finding] = set()
        cursor, count = "0", 0
        while True:
            answer = await self.store.redis.call("ZSCAN", name, cursor, "COUNT", PAGE_MEMBERS)
            cursor, members = str(answer[0]), [str(member) for member in _members(answer[1])]
            count += len(members)
            await self._pay(len(members) / 10)
            says = await asyncio.gather(*(self._says_due(shard, member) for member in members))
            for member, place in zip(members, says, strict=True):
                if place != where and await self._stands_wrongly(shard, member, where):
                    conversation, _, side = member.rpartition(":")
                    words = f"{SIDE_WORDS.get(side, side)} stands in the due set {where} and says that it does not"
                    found.add(Finding(3, words, conversation, "", WAKE))
            if cursor == "0":
                break
        gate = gates.rows[shard]
        if count and where != keys.PLAN and where not in gate and self._judged and self._judged <= gate.keys():
            words = f"sides wait at {where}, which is configured no more"
            found.add(Finding(15, words, "", "", "Configure it again, or force a failover away from it"))
        if found:
            self._due_again.add((shard, where))
        return found

    async def _says_due(self, shard: int, member: str) -> str | None:
        found = await self.store.redis.call("HGET", f"{keys.shard(shard)}s:{member}", "dp")
        return str(found) if found else None

    async def _stands_wrongly(self, shard: int, member: str, where: str) -> bool:
        """The same once more, both halves at one moment."""
        prefix = keys.shard(shard)
        async with self.store.redis.client.pipeline(transaction=True) as both:
            both.zscore(f"{prefix}d:{where}", member)
            both.hget(f"{prefix}s:{member}", "dp")
            score, says = await both.execute()
        return score is not None and says != where

    # The journal

    async def _read_journals(self) -> None:
        for journal in self._journals:
            while await journal.read_on():
                await self._pay(SCAN_COST)
            journal.caught_up = True

    async def _lost_accepts(self, journal: JournalLook, accepted: Mapping[str, str]) -> set[Finding]:
        """What the journal says was accepted is there, or went with its conversation to the archive."""
        found: set[Finding] = set()
        rows = list(accepted.items())
        prefix = keys.shard(journal.shard)
        for start in range(0, len(rows), PAGE_MEMBERS):
            batch = rows[start : start + PAGE_MEMBERS]
            await self._pay(len(batch) / 10)
            there = await asyncio.gather(
                *(self.store.redis.call("EXISTS", f"{prefix}m:{message}") for message, _ in batch)
            )
            for (message, conversation), exists in zip(batch, there, strict=True):
                if not exists and conversation not in journal.archived:
                    words = "it was accepted and is gone"
                    found.add(Finding(1, words, conversation, message, "Restore it from a backup; report it"))
        return found

    # Gates

    async def _gates(self) -> _Gates:
        rows = [
            dict(await self.control.redis.call("HGETALL", f"{keys.shard(shard)}gate"))
            for shard in range(self.store.shards)
        ]
        self._judged = frozenset(endpoint for endpoint, _ in await self.board.statuses())
        return _Gates(await self.store.clock_ms(), self.now + time.monotonic() - self._began, rows)

    def _wrong_gates(self, gates: _Gates) -> Iterator[Finding]:
        if abs(gates.at_ms / 1000 - gates.ours) > CLOCKS_APART_S:
            words = f"this machine's clock and Redis' are more than {CLOCKS_APART_S:.0f} s apart: expiries are wrong"
            yield Finding(12, words, "", "", "Set both clocks (NTP)")
        for shard, rows in enumerate(gates.rows):
            for endpoint, text in rows.items():
                if not GATE.match(text):
                    words = f"the gate of {endpoint} in shard {shard} cannot be read"
                    yield Finding(7, words, "", "", "Restart the supervisor: it writes every gate")
                elif text.partition("|")[0] != gates.rows[0].get(endpoint, text).partition("|")[0]:
                    words = f"the gate of {endpoint} is not the same in every shard"
                    yield Finding(7, words, "", "", "Restart the supervisor: it writes every gate")
            for endpoint in sorted(self._judged - rows.keys()) if rows else ():
                words = f"{endpoint} is judged and has no gate in shard {shard}"
                yield Finding(7, words, "", "", "Start a supervisor: `throughline supervise`")

    def _closed_gates_passed(self, before: _Gates, after: _Gates) -> Iterator[Finding]:
        """Attempts begun while a gate was closed the whole time: closed before and after, and never changed between."""
        for journal in self._journals:
            if journal.any_failover:
                continue
            for begun in journal.begun:
                was, still = (look.rows[journal.shard].get(begun.endpoint, "") for look in (before, after))
                if not (was.startswith("closed|") and still.startswith("closed|")) or begun.endpoint in journal.changed:
                    continue
                if before.at_ms < begun.at_ms < min(after.at_ms, int(was.partition("|")[2])):
                    words = f"an attempt was begun at {begun.endpoint} while its gate was closed"
                    yield Finding(7, words, begun.conversation_id, begun.message_id, "Keep the data folder; report it")

    async def _pay(self, conversations: float) -> None:
        """Wait until this much may be read at our pace."""
        self._spent += conversations
        ahead = self._spent / self.pace_per_s - (time.monotonic() - self._began)
        if ahead > 0.01:
            await asyncio.sleep(ahead)


def _members(flat: object) -> list[str]:
    if isinstance(flat, dict):
        return list(flat)
    if not isinstance(flat, list):
        raise TypeError(f"ZSCAN answered {flat!r}")
    return [one[0] for one in flat] if flat and isinstance(flat[0], (list, tuple)) else flat[::2]


def _order(finding: Finding) -> tuple[int, str, str, str]:
    return finding.invariant, finding.conversation_id, finding.message_id, finding.words
