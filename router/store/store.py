"""The truth, typed: conversations, sides and messages behind the scripts."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from redis.exceptions import ResponseError

from health.report import EndpointId
from router.domain.conversation import SideName
from router.domain.ids import shard_of
from router.store import codec, keys
from router.store.asked import (
    AcceptAnswer,
    Fail,
    LeaseTerms,
    NewConversation,
    NewMessage,
    Park,
    Rebind,
    Settlement,
    dump_change,
    dump_create,
    dump_message,
    dump_settlement,
)
from router.store.codec import UNREADABLE, Leased, SideFacts
from router.store.reading import QUEUE_MAX, Reading

BATCH_MAX = 100
"""Sides one script call may touch."""
REBIND_MAX = 20
"""Of these, the ones one call rebinds: each costs some thirty commands, and whoever writes meanwhile waits for them."""
NATURAL_KEY_KEPT_MS = 7 * 24 * 3600 * 1000
REFERENCE_KEPT_S = 365 * 24 * 3600
"""How long an archived conversation's reference is given to no other."""
RECONCILED_MAX = 50
"""Conversations one script call looks at."""
INSPECTED_BYTES = 256_000
"""Of messages that one `inspect` reads, so that it holds Redis for a fraction of a millisecond."""

T = TypeVar("T")

log = structlog.get_logger()


class Store(Reading):
    """One deployment's records. `now_ms` is None in production: scripts then ask the server for the time."""

    async def accept(
        self,
        conversation_id: str,
        message: NewMessage,
        *,
        natural_key: str = "",
        said_hash: str = "",
        create: NewConversation | None = None,
        reopen: bool = False,
        pin: tuple[EndpointId, str] | None = None,
        mail_id: str = "",
        front: bool = False,
        quiet: bool = False,
        decision: str = "",
        held: tuple[str, Sequence[str]] | None = None,
    ) -> AcceptAnswer:
        """Take a message once, and journal the decision that put it here with it. Durable when it returns.

        `held`: why it waits for proof, and ids of the conversations it may belong to.

        Raises:
            StoreUnavailable: Redis did not answer; the message may have been taken: ask again with the same key.
        """
        argument: dict[str, Any] = {
            "c": conversation_id,
            "m": dump_message(message),
            "nh": said_hash,
            "queue_max": QUEUE_MAX,
            "reopen": int(reopen),
            "front": int(front),
            "quiet": int(quiet),
        }
        if natural_key:
            argument["nk"] = natural_key
        if pin is not None:
            argument["pin"] = {"ep": pin[0], "ad": pin[1]}
        if mail_id:
            argument["mt"] = mail_id
        if decision:
            argument["dc"] = decision
        if held is not None:
            argument["held"] = {"w": held[0], "k": json.dumps(held[1])}
        if create is not None:
            argument["create"] = dump_create(create)
        answer = await self._run("accept", shard_of(conversation_id), argument)
        return AcceptAnswer(answer[0], answer[1], int(answer[2]), EndpointId(answer[3]), answer[4])

    async def lease(
        self, endpoint: EndpointId, worker: str, count: int, terms: LeaseTerms, *, shard: int = 0, request: str = ""
    ) -> list[Leased]:
        """Up to `count` messages to say at `endpoint` now, their attempts written.

        One that cannot be read is left out: its attempt runs out, until a person is asked.
        """
        rows = await self._run(
            "lease",
            shard,
            {
                "ep": endpoint,
                "w": worker,
                "req": request or secrets.token_hex(8),
                "n": min(count, BATCH_MAX),
                "lease": int(terms.lease_s * 1000),
                "holds": {name: int(value * 1000) for name, value in terms.hold_s.items()},
                "idem": int(terms.idempotent),
                "attempts_max": terms.attempts_max,
                "human_ms": int(terms.needs_human_s * 1000),
                "retry_floor": terms.retry_floor_per_s,
            },
        )
        return _load_each(codec.load_leased, rows)

    async def settle(self, shard: int, settlements: Sequence[Settlement]) -> list[str]:
        """Record what came of attempts of one shard; `ok`, `late` or `missing` for each."""
        answers: list[str] = []
        for start in range(0, len(settlements), BATCH_MAX):
            batch = [dump_settlement(s) for s in settlements[start : start + BATCH_MAX]]
            answers += await self._run("settle", shard, batch)
        return answers

    async def rebind(self, shard: int, changes: Sequence[Rebind | Park | Fail]) -> list[str]:
        """Move, park or fail sides of one shard; `ok`, `epoch` or `missing` for each."""
        answers: list[str] = []
        for start in range(0, len(changes), REBIND_MAX):
            batch = [dump_change(change) for change in changes[start : start + REBIND_MAX]]
            answers += await self._run("rebind", shard, batch)
        return answers

    async def receipt(
        self,
        token: str,
        state: str,
        *,
        reason: str = "",
        permanent: bool = False,
        final: bool = True,
        resend: bool = True,
        by: EndpointId | None = None,
        kin: str = "",
    ) -> tuple[str, str, str]:
        """Record a later word about an attempt: (`ok` | `old` | `foreign` | `missing`, conversation id, message state).

        `by` is the endpoint that says so, None: we ourselves. Of another endpoint's attempt nothing is changed
        (`foreign`, and the journal says so), unless that one's id begins with `kin`.

        Raises:
            ValueError: the token is not one of ours.
        """
        message_id, number = read_token(token)
        argument: dict[str, Any] = {
            "m": message_id,
            "n": number,
            "st": state,
            "r": reason[:200],
            "perm": int(permanent),
            "final": int(final),
            "resend": int(resend),
        }
        if by is not None:
            argument["by"] = by
        if kin:
            argument["kin"] = kin
        answer = await self._run("receipt", shard_of(message_id), argument)
        return answer[0], answer[1], answer[2]

    async def plan(self, shard: int, count: int) -> list[SideFacts]:
        """Sides that need a route decided, claimed for five seconds; one that cannot be read is left out."""
        rows = await self._run("plan", shard, {"n": min(count, BATCH_MAX)})
        return _load_each(codec.load_facts, rows)

    async def affected(self, shard: int, members: Sequence[str]) -> list[SideFacts]:
        """Facts about sides of one shard, `conversation:side` each; what is gone, or cannot be read, is left out."""
        facts: list[SideFacts] = []
        for start in range(0, len(members), BATCH_MAX):
            rows = await self._affected(shard, list(members[start : start + BATCH_MAX]))
            facts += _load_each(codec.load_facts, [row for row in rows if row])
        return facts

    async def _affected(self, shard: int, members: list[str]) -> list[str]:
        try:
            return list(await self._run("affected", shard, {"ids": members}))
        except ResponseError:
            if len(members) == 1:
                log.exception("record.unreadable", side=members[0])
                return []
        # One that the script stumbles over must not keep the others where they are.
        return [row for member in members for row in await self._affected(shard, [member])]

    async def wake_sides(self, shard: int, members: Sequence[str]) -> int:
        """Look again now at those of these sides (`conversation:side`, at most 100) that wait for a route; how many."""
        count, _ = await self._run("wake", shard, {"ids": list(members[:BATCH_MAX])})
        return int(count)

    async def wake_parked(self, shard: int) -> int:
        """Look again now at everything that waits for a route; how many sides that were."""
        total, after = 0, 0
        for _ in range(1000):
            count, highest = await self._run("wake", shard, {"n": BATCH_MAX, "after": after})
            total += int(count)
            if int(count) < BATCH_MAX:
                break
            after = int(highest)
        return total

    async def recall(self, shard: int, endpoint: EndpointId, since: float) -> int:
        """Return to `unknown` what `endpoint` took after `since` and has no receipt for; how many messages."""
        total = skip = 0
        for _ in range(1000):
            argument = {"ep": endpoint, "since": int(since * 1000), "n": BATCH_MAX, "skip": skip}
            count, kept = await self._run("recall", shard, argument)
            total, skip = total + int(count), skip + int(kept)
            if await self.redis.call("ZCARD", f"{keys.shard(shard)}aw:{endpoint}") <= skip:
                break
        return total

    async def close(self, conversation_id: str) -> str:
        """End a conversation: `ok`, `already` or `missing`."""
        return str(
            await self._run("close", shard_of(conversation_id), {"c": conversation_id, "keep": NATURAL_KEY_KEPT_MS})
        )

    async def inspect(self, conversation_id: str, start: int = 0, *, count: int = 200) -> list[Any]:
        """One conversation of one moment, with messages from position `start` on; see inspect.lua. Empty: none."""
        argument = {"c": conversation_id, "at": start, "n": count, "bytes": INSPECTED_BYTES}
        return list(await self._run("inspect", shard_of(conversation_id), argument))

    async def forget(self, conversation_id: str, *, sequence: str, closed_at: str) -> str:
        """Remove a closed conversation that was read as of `sequence` (`sq`) and `closed_at` (`ca`), as they stand.

        Answers `ok`, `open`, `busy` (something is still to be said), `changed` (not what was read) or `missing`;
        all but the first changed nothing.
        """
        argument = {"c": conversation_id, "q": sequence, "ca": closed_at, "keep": NATURAL_KEY_KEPT_MS}
        answer = "more"
        while answer == "more":
            answer = str(await self._run("forget", shard_of(conversation_id), argument))
        return answer

    async def let_reference_go(self, reference: str) -> None:
        """Its conversation is archived: after a year another one may have it."""
        await self.redis.call("EXPIRE", keys.reference(reference), REFERENCE_KEPT_S)

    async def cancel(self, message_id: str, reason: str) -> str:
        """Take back a message nobody has begun to say: `ok`, `begun` or `missing`."""
        return str(await self._run("cancel", shard_of(message_id), {"m": message_id, "r": reason}))

    async def reconcile(self, shard: int, conversation_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Put sides back where their work is; (conversation id, side, what was wrong) for each repair."""
        repairs: list[tuple[str, str, str]] = []
        for start in range(0, len(conversation_ids), RECONCILED_MAX):
            batch = list(conversation_ids[start : start + RECONCILED_MAX])
            repairs += [(row[0], row[1], row[2]) for row in await self._run("reconcile", shard, {"ids": batch})]
        return repairs

    async def doubt(self, shard: int, conversation_ids: Sequence[str]) -> int:
        """Mark whatever waits to be said there as a possible repeat; how many messages."""
        flagged = 0
        for start in range(0, len(conversation_ids), RECONCILED_MAX):
            batch = list(conversation_ids[start : start + RECONCILED_MAX])
            flagged += int(await self._run("doubt", shard, {"ids": batch}))
        return flagged

    async def forget_receipt(self, shard: int, endpoint: EndpointId, token: str) -> None:
        """Wait no longer for an attempt's receipt."""
        await self.redis.call("ZREM", f"{keys.shard(shard)}aw:{endpoint}", token)

    async def let_held_go(self, conversation_id: str) -> None:
        """Nothing waits for proof there any more; what comes later does."""
        prefix = self._prefix(conversation_id)
        await self.redis.call("HSET", f"{prefix}v:{conversation_id}", "hn", 0)
        await self.redis.call("ZREM", f"{prefix}held", conversation_id)

    async def hold_again(self, conversation_id: str, since: float, count: int) -> None:
        """Something waits for proof there after all: `count` messages, the first since `since` (unix seconds)."""
        prefix = self._prefix(conversation_id)
        await self.redis.call("HSET", f"{prefix}v:{conversation_id}", "hn", count)
        await self.redis.call("ZADD", f"{prefix}held", int(since * 1000), conversation_id)

    async def set_owner(self, conversation_id: str, side: SideName, owner: str) -> None:
        """Whose side it is: an assigned agent's bindings are where the agent's side may go."""
        await self.redis.call("HSET", f"{self._prefix(conversation_id)}s:{conversation_id}:{side}", "o", owner)

    async def update(self, conversation_id: str, changes: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        """Set fields of a conversation's record (their short names), with a journal entry that holds no content."""
        key = f"{self._prefix(conversation_id)}v:{conversation_id}"
        flat = [part for pair in changes.items() for part in pair]
        if flat:
            await self.redis.call("HSET", key, *flat)
        await self.note(shard_of(conversation_id), "conversation.changed", facts, conversation_id=conversation_id)

    async def note(
        self,
        shard: int,
        kind: str,
        facts: Mapping[str, Any],
        *,
        conversation_id: str = "",
        message_id: str = "",
        endpoint: str = "",
    ) -> None:
        """Write a decision or a change into the journal."""
        now = await self.clock_ms()
        text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
        await self.redis.call(
            "XADD", f"{keys.shard(shard)}jr", "MAXLEN", "~", 100_000, "*",
            "k", kind, "c", conversation_id, "m", message_id, "ep", endpoint, "at", now, "f", text,
        )  # fmt: skip


def _load_each(load: Callable[[str], T], rows: Sequence[str]) -> list[T]:
    found = []
    for row in rows:
        try:
            found.append(load(row))
        except UNREADABLE:
            log.exception("record.unreadable")
    return found


def read_token(token: str) -> tuple[str, int]:
    """The message id and the attempt's number that a token names.

    Raises:
        ValueError: it is not a token of ours.
    """
    head, dot, number = token.partition(".")
    if not dot or not head.startswith("t") or not number.isdecimal() or len(token) > 60:
        raise ValueError(f"not an attempt's token: {token[:60]!r}")
    message_id = "m" + head[1:]
    shard_of(message_id)
    return message_id, int(number)
