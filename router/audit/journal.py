"""The journal as the auditor reads it: what was accepted, begun, rebound, archived."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from health.report import EndpointId
from router.audit.records import Finding, Page
from router.store.store import Store

PAGE = 500
MINUTE_MS = 60_000
RETRY_SHARE = 0.1
RETRY_FLOOR_PER_S = 2
RETRY_BURST = 50
"""The budget of lease.lua: retries over first tries, a floor each second, and what may have been saved up."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt as the journal has it."""

    at_ms: int
    endpoint: EndpointId
    conversation_id: str
    message_id: str


@dataclass(slots=True)
class JournalLook:
    """One shard's journal, read on from where the last reading ended."""

    store: Store
    shard: int
    oldest_ms: int = 0
    """The time of the oldest entry; what was before it has been trimmed."""
    accepted: dict[str, str] = field(default_factory=dict)
    """Conversation by message."""
    archived: set[str] = field(default_factory=set)
    begun: list[Begun] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    """Endpoints whose status, or whose forced failover, changed since the first reading ended."""
    any_failover: bool = False
    caught_up: bool = False
    _rebound: set[tuple[str, str, int]] = field(default_factory=set)
    _after: str = "0"
    _tries: Counter[int] = field(default_factory=Counter)
    _retries: Counter[int] = field(default_factory=Counter)
    _last: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def read_on(self) -> int:
        """Read up to 500 further entries; how many there were."""
        rows = await self.store.journal_after(self.shard, self._after, PAGE)
        for identity, row in rows:
            self._after = identity
            self._take(row)
        return len(rows)

    def rebinds_missing(self, page: Page) -> Iterator[Finding]:
        """Legs younger than the journal that it does not tell of."""
        for side in page.sides:
            for leg in side.legs:
                known = (page.conversation_id, side.name.value, int(leg["e"])) in self._rebound
                if not known and int(leg["at"]) > self.oldest_ms > 0:
                    words = f"{side.words} was rebound to epoch {leg['e']} and the journal does not tell"
                    yield Finding(14, words, page.conversation_id, "", "A bug: keep the data folder and report it")

    def too_many_retries(self) -> Iterator[Finding]:
        """Minutes in which more was tried again than the budget allows."""
        for minute, retries in self._retries.items():
            tries = self._tries[minute] + self._tries[minute - 1]
            if retries > RETRY_SHARE * tries + RETRY_FLOOR_PER_S * 60 + RETRY_BURST:
                words = f"in the minute from {minute * 60} attempts were repeated beyond the budget"
                yield Finding(13, words, "", "", "Look at which endpoint fails: `throughline status`; report it")

    def _take(self, row: Mapping[str, str]) -> None:
        at_ms, facts = int(row["at"]), json.loads(row["f"])
        self.oldest_ms = self.oldest_ms or at_ms
        conversation, message = row["c"], row["m"]
        match row["k"]:
            case "message.accepted":
                self.accepted[message] = conversation
            case "attempt.begun":
                self._count(message, at_ms, facts)
                if self.caught_up:
                    self.begun.append(Begun(at_ms, EndpointId(row["ep"]), conversation, message))
            case "side.rebound":
                self._rebound.add((conversation, facts["s"], int(facts["e"])))
            case "conversation.archived" | "conversation.erased":
                self.archived.add(conversation)
            case "endpoint.changed" if self.caught_up:
                self.changed.add(row["ep"])
            case "failover.started" | "failover.stopped" if self.caught_up:
                self.any_failover = True

    def _count(self, message: str, at_ms: int, facts: Mapping[str, int | str]) -> None:
        """A try on the same leg as the one before counts as a retry; what was given back unsent counts for nothing."""
        if facts.get("k") == "notice":
            return
        number, epoch = int(facts["n"]), int(facts["e"])
        before = self._last.get(message)
        self._last[message] = (number, epoch)
        if before is None:
            self._tries[at_ms // MINUTE_MS] += 1
        elif before[1] == epoch and number > before[0]:
            self._retries[at_ms // MINUTE_MS] += 1
