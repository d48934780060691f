"""What may be done with customers and agents."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from channels.messages import Address, Channel
from channels.text import clean_text, one_line
from health.report import EndpointId
from router.addresses import normalise
from router.core import Core, Invalid, NotFound
from router.domain.conversation import Agent, Binding, Customer
from router.domain.ids import new_id, shard_for, shard_of
from router.domain.unverified import in_countries
from router.store.keys import place as place_text
from router.store.people import TooManyBindings
from router.store.redis import StoreUnavailable

NAME_MAX = 200

log = structlog.get_logger()


class PeopleDesk:
    """The use cases around people."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def create_customer(self, *, name: str, locale: str, bindings: Sequence[Binding]) -> Customer:
        """Write a new customer. Raises Invalid: a bad name or address, an agent's address, more than 50 bindings."""
        checked = tuple(self._checked(binding) for binding in bindings)
        for binding in checked:
            await self._refuse_agents(binding)
        now = self.core.clock.now()
        customer = Customer(
            id=new_id("c", await self._shard(checked, name), int(now * 1000)),
            name=self._name(name),
            locale=one_line(locale)[:35] or self.core.settings.default_locale,
            bindings=checked,
            created_at=now,
        )
        try:
            await self.core.people.create(customer)
        except TooManyBindings as error:
            raise Invalid("too_many_bindings", str(error)) from error
        return customer

    async def _shard(self, bindings: Sequence[Binding], name: str) -> int:
        """Where somebody lives already with whom they share an address: one notice can tell them both."""
        for binding in bindings:
            for known in await self.core.people.at(binding.address, binding.endpoint):
                return shard_of(known)
        first = place_text(bindings[0].address, bindings[0].endpoint) if bindings else name
        return shard_for(first, self.core.store.shards)

    async def customer(self, customer_id: str) -> Customer:
        """One customer. Raises NotFound."""
        try:
            shard_of(customer_id)
        except ValueError as error:
            raise NotFound("unknown_customer", "There is no such customer.") from error
        customer = await self.core.people.customer(customer_id)
        if customer is None:
            raise NotFound("unknown_customer", "There is no such customer.")
        return customer

    def may_be_left(self, address: Address) -> bool:
        """Whether a stranger may leave it as their own: a number of a country that is written to unverified."""
        return in_countries(self.core.policy.unverified, address)

    async def find_customers(self, address: Address, endpoint: EndpointId | None = None) -> list[Customer]:
        """Who is reachable at an address. Raises Invalid: no valid address."""
        normal = self._checked(Binding(address, endpoint))
        ids = await self.core.people.at(normal.address, endpoint)
        found = [await self.core.people.customer(one) for one in ids if one.startswith("c")]
        return [one for one in found if one is not None]

    async def learn_name(self, customer_id: str, name: str) -> None:
        """What somebody without a name calls themselves, up to 200 characters of it; a name that stands stays."""
        if name := " ".join(clean_text(name).split())[:NAME_MAX]:
            await self.core.people.learn_name(customer_id, name)

    async def set_binding(self, customer_id: str, binding: Binding, *, who: str = "") -> Customer:
        """Add or replace a binding; withdrawn consent holds from the next lease on. The journal says `who` did it.

        Raises:
            NotFound, Invalid (a bad address; an agent's address; more than 50 bindings).
        """
        customer = await self.customer(customer_id)
        checked = self._checked(binding)
        if all(one.address != checked.address for one in customer.bindings):
            await self._refuse_agents(checked)
        try:
            # Consent is one person's: it changes at every alias first, so that none of them still writes.
            for other in await self._same_person(customer):
                held = next((one for one in other.bindings if one.address == checked.address), None)
                if held is not None:
                    await self.core.people.set_binding(other.id, replace(held, consent=checked.consent))
            await self.core.people.set_binding(customer_id, checked)
        except TooManyBindings as error:
            raise Invalid("too_many_bindings", str(error)) from error
        if who:
            await self._note_binding(customer_id, "binding_set", checked, who)
        await self.core.wake_customer(customer_id)
        return await self.customer(customer_id)

    async def remove_binding(self, customer_id: str, address: Address, *, who: str = "") -> Customer:
        """Forget a binding; the journal says `who` did it. Raises NotFound."""
        customer = await self.customer(customer_id)
        found = next((one for one in customer.bindings if one.address == address), None)
        if found is None:
            raise NotFound("unknown_binding", "The customer has no such address.")
        await self.core.people.remove_binding(customer_id, found)
        if who:
            await self._note_binding(customer_id, "binding_removed", found, who)
        return await self.customer(customer_id)

    async def _note_binding(self, customer_id: str, what: str, binding: Binding, who: str) -> None:
        """Without the address, which the journal would keep after the customer is erased."""
        facts: dict[str, object] = {"cu": customer_id, "what": what, "channel": binding.address.channel, "who": who}
        if what == "binding_set":
            facts |= {"consent": binding.consent, "verified": binding.verified}
        await self.core.store.note(shard_of(customer_id), "customer.changed", facts)

    async def merge_customer(self, loser_id: str, into: str) -> Customer:
        """Say that two customers are one person: nothing moves, what is new begins with `into`. Undone by `unmerge`.

        Raises:
            NotFound, Invalid (the same one; one of them is an alias or has aliases already; more than 50 bindings).
        """
        loser, winner = await self.customer(loser_id), await self.customer(into)
        if loser.id == winner.id:
            raise Invalid("same_customer", "A customer cannot be merged into itself. Name two.")
        if loser.alias_of or winner.alias_of or await self.core.people.aliases(loser.id):
            raise Invalid(
                "already_merged", "One of them is merged already. Undo that first, or merge into its customer."
            )
        try:
            await self.core.people.make_alias(loser, winner)
        except TooManyBindings as error:
            raise Invalid("too_many_bindings", str(error)) from error
        await self.core.wake_customer(winner.id)
        return await self.customer(winner.id)

    async def unmerge_customer(self, loser_id: str) -> Customer:
        """They are two people after all. Raises NotFound, Invalid (it is no alias)."""
        loser = await self.customer(loser_id)
        if not loser.alias_of:
            raise Invalid("not_merged", "This customer is not merged into another.")
        await self.core.people.drop_alias(loser)
        return await self.customer(loser_id)

    async def _same_person(self, customer: Customer) -> list[Customer]:
        """The other ids of this person."""
        root = customer.alias_of or customer.id
        ids = {root, *await self.core.people.aliases(root)} - {customer.id}
        found = [await self.core.people.customer(one) for one in sorted(ids)]
        return [one for one in found if one is not None]

    async def create_agent(self, *, name: str, team: str, bindings: Sequence[Binding]) -> Agent:
        """Write a new agent; an address that a customer only claimed is the agent's from now on.

        Raises:
            Invalid: a bad name or address; an address that a customer has proven theirs.
        """
        now = self.core.clock.now()
        checked = tuple(replace(self._checked(one), verified=True) for one in bindings)
        for binding in checked:
            await self._take_from_customers(binding)
        agent = Agent(new_id("a", 0, int(now * 1000)), self._name(name), one_line(team)[:100], checked)
        await self.core.people.create_agent(agent)
        return agent

    async def agents(self) -> list[Agent]:
        """Every agent, by name."""
        return await self.core.people.agents()

    async def signature(self, agent_id: str) -> str:
        """The name that customers read under an agent's words; empty for no agent, and while Redis is away.

        A key's own name is for our lists: it may say whose machine it is, or what it may do.
        """
        spool = self.core.spool
        if not agent_id or (spool is not None and spool.away):
            return ""
        if spool is None:
            agent = await self.core.people.agent(agent_id)
        else:
            try:
                agent = await spool.within(self.core.people.agent(agent_id))
            except StoreUnavailable:
                return ""  # what they say is taken all the same, and goes out unsigned
        return agent.name if agent is not None else ""

    async def _refuse_agents(self, binding: Binding) -> None:
        """What is said at an agent's address is our own: no customer may have it, or it would be filed as theirs."""
        if any(one.startswith("a") for one in await self.core.people.at(binding.address, binding.endpoint)):
            words = "This address is an agent's. A customer needs an address of their own."
            raise Invalid("agents_address", words)

    async def _take_from_customers(self, binding: Binding) -> None:
        ids = [one for one in await self.core.people.at(binding.address, binding.endpoint) if one.startswith("c")]
        for customer in [await self.core.people.customer(one) for one in ids]:
            held = [one for one in customer.bindings if one.address == binding.address] if customer else []
            if customer is None or not held:
                continue
            if held[0].verified:
                words = f"This address is customer {customer.id}'s. Remove it there first, if it is the agent's."
                raise Invalid("customers_address", words)
            await self.core.people.remove_binding(customer.id, held[0])
            log.warning("binding.taken", customer=customer.id, channel=binding.address.channel, reason="agents_address")

    def _checked(self, binding: Binding) -> Binding:
        address = normalise(binding.address, self.core.settings.default_country)
        if address.channel is Channel.CHAT and binding.endpoint is None:
            raise Invalid("chat_needs_endpoint", "A chat session belongs to one endpoint; name it.")
        return replace(binding, address=address)

    def _name(self, name: str) -> str:
        clean = " ".join(name.split())
        if not clean or len(clean) > NAME_MAX or any(ord(character) < 32 for character in name):
            raise Invalid("bad_name", f"A name has 1 to {NAME_MAX} characters on one line.")
        return clean
