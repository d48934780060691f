"""Customers and agents, their bindings, and who is reachable at an address."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from channels.messages import Address
from health.report import EndpointId
from router.domain.conversation import Agent, Binding, Customer
from router.domain.ids import new_reference, shard_of
from router.store import codec, keys
from router.store.redis import Pipelined

BINDINGS_MAX = 50
REFERENCE_TRIES = 20
CLAIM_S = 60
MARK_TRIES = 5
"""At a binding that somebody changes meanwhile; one that stays unmarked is marked after the next send to nobody."""
CHANGE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""Only as it was read: consent withdrawn in between must not come back."""


class TooManyBindings(Exception):
    """A person has at most 50 bindings."""


class People:
    """Names and addresses live here and nowhere else, so that erasure is possible."""

    def __init__(self, redis: Pipelined) -> None:
        self.redis = redis

    async def create(self, customer: Customer) -> None:
        """Write a new customer with their bindings."""
        prefix = keys.shard(shard_of(customer.id))
        await self.redis.call(
            "HSET", f"{prefix}cu:{customer.id}", "v", 1, "n", customer.name, "l", customer.locale, "at",
            customer.created_at, "cv", 0,
        )  # fmt: skip
        for binding in customer.bindings:
            await self.set_binding(customer.id, binding)

    async def customer(self, customer_id: str) -> Customer | None:
        """One customer, or None."""
        prefix = keys.shard(shard_of(customer_id))
        row, bindings = await asyncio.gather(
            self.redis.call("HGETALL", f"{prefix}cu:{customer_id}"),
            self.redis.call("HGETALL", f"{prefix}bd:{customer_id}"),
        )
        if not row:
            return None
        return codec.load_customer(customer_id, row, bindings)

    async def learn_name(self, customer_id: str, name: str) -> None:
        """Set the name of a customer who is there and has none."""
        key = f"{keys.shard(shard_of(customer_id))}cu:{customer_id}"
        if await self.redis.call("HGET", key, "n") == "":
            await self.redis.call("HSET", key, "n", name)

    async def set_binding(self, customer_id: str, binding: Binding) -> None:
        """Add or replace a binding; withdrawn consent holds from the next lease on.

        Raises:
            TooManyBindings: there are 50 already.
        """
        prefix = keys.shard(shard_of(customer_id))
        where = codec.place_of(binding)
        key = f"{prefix}bd:{customer_id}"
        known = await self.redis.call("HEXISTS", key, where)
        if not known and int(await self.redis.call("HLEN", key)) >= BINDINGS_MAX:
            raise TooManyBindings(f"{customer_id} has {BINDINGS_MAX} bindings already; remove one first")
        # Consent is withdrawn before it is written down, and given after: a crash between errs on the silent side.
        refused = f"{prefix}no:{customer_id}"
        if not binding.consent:
            await self.redis.call("SADD", refused, where)
        await self.redis.call("HSET", key, where, codec.dump_binding(binding))
        await self.redis.call("HINCRBY", f"{prefix}cu:{customer_id}", "cv", 1)
        if binding.consent:
            await self.redis.call("SREM", refused, where)
        await self.redis.call("HSETNX", keys.address(binding.address, binding.endpoint), customer_id, _stamp(binding))

    async def make_alias(self, loser: Customer, winner: Customer) -> None:
        """Two customers are one person: no key moves, the loser becomes an alias and the winner gets its bindings."""
        known = {codec.place_of(one) for one in winner.bindings}
        given = [one for one in loser.bindings if codec.place_of(one) not in known]
        for number, binding in enumerate(given):
            await self.set_binding(winner.id, replace(binding, order=len(winner.bindings) + number))
        key = f"{keys.shard(shard_of(loser.id))}cu:{loser.id}"
        places = json.dumps([codec.place_of(one) for one in given])
        await self.redis.call("HSET", key, "al", winner.id, "cp", places)
        await self.redis.call("SADD", f"{keys.shard(shard_of(winner.id))}als:{winner.id}", loser.id)

    async def drop_alias(self, loser: Customer) -> None:
        """Undo `make_alias`: they are two people again, and the winner loses what was given then."""
        key = f"{keys.shard(shard_of(loser.id))}cu:{loser.id}"
        places = set(json.loads(await self.redis.call("HGET", key, "cp") or "[]"))
        winner = await self.customer(loser.alias_of)
        for binding in winner.bindings if winner is not None else ():
            if codec.place_of(binding) in places:
                await self.remove_binding(loser.alias_of, binding)
        await self.redis.call("SREM", f"{keys.shard(shard_of(loser.alias_of))}als:{loser.alias_of}", loser.id)
        await self.redis.call("HDEL", key, "al", "cp")

    async def aliases(self, customer_id: str) -> list[str]:
        """Ids of the customers that are aliases of this one."""
        key = f"{keys.shard(shard_of(customer_id))}als:{customer_id}"
        return sorted(await self.redis.call("SMEMBERS", key))

    async def remove_binding(self, customer_id: str, binding: Binding) -> None:
        """Forget a binding."""
        prefix = keys.shard(shard_of(customer_id))
        where = codec.place_of(binding)
        await self.redis.call("SADD", f"{prefix}no:{customer_id}", where)
        await self.redis.call("HDEL", f"{prefix}bd:{customer_id}", where)
        await self.redis.call("HDEL", keys.address(binding.address, binding.endpoint), customer_id)
        await self.redis.call("HINCRBY", f"{prefix}cu:{customer_id}", "cv", 1)

    async def unclaim(self, customer_id: str, binding: Binding) -> None:
        """Whoever writes from there from now on is somebody new."""
        key = keys.address(binding.address, binding.endpoint)
        await self.redis.call("HDEL", key, customer_id)
        if await self.redis.call("GET", f"{key}:claim") == customer_id:
            await self.redis.call("DEL", f"{key}:claim")

    async def erase(self, customer_id: str) -> None:
        """Remove a customer's record, bindings, refusals and lists."""
        prefix = keys.shard(shard_of(customer_id))
        for kind in ("bd", "no", "als", "op", "cu"):
            await self.redis.call("DEL", f"{prefix}{kind}:{customer_id}")

    async def mark_unreachable(self, customer_id: str, where: str, until: float) -> None:
        """The provider says nobody is there: not tried before `until`."""
        key = f"{keys.shard(shard_of(customer_id))}bd:{customer_id}"
        for _ in range(MARK_TRIES):
            text = await self.redis.call("HGET", key, where)
            if not text:
                return
            marked = codec.dump_binding(replace(codec.load_binding(where, text), unreachable_until=until))
            if await self.redis.call("EVAL", CHANGE, 1, key, where, text, marked):
                return

    async def at(self, address: Address, endpoint: EndpointId | None = None) -> list[str]:
        """Ids of the customers reachable at an address."""
        return sorted(await self.redis.call("HKEYS", keys.address(address, endpoint)))

    async def claim_address(self, address: Address, endpoint: EndpointId | None, customer_id: str) -> str:
        """Make `customer_id` the first customer at an unknown address; the id of whoever was first.

        Two deliveries at once make one customer.
        """
        key = keys.address(address, endpoint) + ":claim"
        if await self.redis.call("SET", key, customer_id, "NX", "EX", CLAIM_S):
            return customer_id
        return str(await self.redis.call("GET", key) or customer_id)

    async def claim_reference(self, conversation_id: str) -> str:
        """A reference that nobody else has, owned by the conversation.

        Raises:
            RuntimeError: twenty tries were all taken; there are 33 million.
        """
        for _ in range(REFERENCE_TRIES):
            reference = new_reference()
            if await self.redis.call("SET", keys.reference(reference), conversation_id, "NX"):
                return reference
        raise RuntimeError("No free reference found in twenty tries.")

    async def by_reference(self, reference: str) -> str:
        """The conversation that owns a reference, or ''."""
        return str(await self.redis.call("GET", keys.reference(reference)) or "")

    async def create_agent(self, agent: Agent) -> None:
        """Write an agent."""
        await self.redis.call("HSET", keys.AGENTS, agent.id, _dump_agent(agent))
        for binding in agent.bindings:
            await self.redis.call("HSET", keys.address(binding.address, binding.endpoint), agent.id, "0")

    async def agents(self) -> list[Agent]:
        """Every agent."""
        rows = await self.redis.call("HGETALL", keys.AGENTS)
        return sorted((_load_agent(k, v) for k, v in rows.items()), key=lambda agent: agent.name)

    async def agent(self, agent_id: str) -> Agent | None:
        """One agent, or None."""
        text = await self.redis.call("HGET", keys.AGENTS, agent_id)
        return _load_agent(agent_id, text) if text else None


def _stamp(binding: Binding) -> str:
    return str(binding.order)


def _dump_agent(agent: Agent) -> str:
    bindings: Sequence[Any] = [[codec.place_of(b), codec.dump_binding(b)] for b in agent.bindings]
    return json.dumps({"n": agent.name, "t": agent.team, "b": bindings})


def _load_agent(agent_id: str, text: str) -> Agent:
    row = json.loads(text)
    return Agent(agent_id, row["n"], row["t"], tuple(codec.load_binding(where, b) for where, b in row["b"]))
