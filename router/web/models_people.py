"""What `/v1` takes and gives about people, and what every model of the border is made of."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from channels import messages
from channels.messages import Channel
from health.report import EndpointId
from router import erasure
from router.domain import conversation as domain

BINDINGS_MAX = 20

Line = StringConstraints(pattern=r"^[^\x00-\x1f\x7f\x85\u2028\u2029]*$", strip_whitespace=True)
"""One line: no CR, LF or other control character, no line end of Unicode's, so that it may stand in any header."""
Name = Annotated[str, Line, Field(min_length=1, max_length=200)]
Word = Annotated[str, Line, Field(max_length=200)]
Locale = Annotated[str, StringConstraints(pattern=r"^([a-z]{2,3}(-[A-Za-z0-9]{2,8})*)?$")]
EndpointName = Annotated[str, StringConstraints(pattern=r"^(email|chat|sms|phone)/[a-z0-9][a-z0-9-]{0,39}$")]


class Model(BaseModel):
    """Crosses the border: frozen, and an unknown field is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Nothing(Model):
    """No fields."""


def instant(unix_s: float) -> datetime | None:
    """Unix seconds as a time in UTC; 0 means never."""
    return datetime.fromtimestamp(unix_s, UTC) if unix_s else None


class Address(Model):
    """A place on a channel."""

    channel: Channel
    value: Annotated[str, Line, Field(min_length=1, max_length=320)]

    @classmethod
    def of(cls, address: messages.Address) -> "Address":
        return Address.model_construct(channel=address.channel, value=address.value)

    def to_domain(self) -> messages.Address:
        return messages.Address(self.channel, self.value)


class Binding(Model):
    """A person reachable at an address."""

    address: Address
    endpoint: EndpointName | None = None
    verified: bool = False
    consent: bool = True
    order: Annotated[int, Field(ge=0, le=100)] = 0
    locale: Locale = ""

    @classmethod
    def of(cls, binding: domain.Binding) -> "Binding":
        return Binding.model_construct(
            address=Address.of(binding.address),
            endpoint=binding.endpoint,
            verified=binding.verified,
            consent=binding.consent,
            order=binding.order,
            locale=binding.locale,
        )

    def to_domain(self) -> domain.Binding:
        return domain.Binding(
            address=self.address.to_domain(),
            endpoint=EndpointId(self.endpoint) if self.endpoint else None,
            verified=self.verified,
            consent=self.consent,
            order=self.order,
            locale=self.locale,
        )


class KnownBinding(Binding):
    """A binding as it stands."""

    unreachable_until: datetime | None
    """The provider said that nobody is there: not tried before then. Replacing the binding lets it be tried again."""

    @classmethod
    def of(cls, binding: domain.Binding) -> "KnownBinding":
        plain = Binding.of(binding)
        return KnownBinding.model_construct(**dict(plain), unreachable_until=instant(binding.unreachable_until))


class NewCustomer(Model):
    """Somebody who may write to us."""

    name: Word = ""
    locale: Locale = ""
    bindings: Annotated[tuple[Binding, ...], Field(max_length=BINDINGS_MAX)] = ()


class Customer(Model):
    """Who asks."""

    id: str
    name: str
    locale: str
    bindings: tuple[KnownBinding, ...]
    created_at: datetime | None
    alias_of: str = Field("", description="The customer this one turned out to be; empty: it is one of its own.")

    @classmethod
    def of(cls, customer: domain.Customer) -> Self:
        return cls(
            id=customer.id,
            name=customer.name,
            locale=customer.locale,
            bindings=tuple(KnownBinding.of(binding) for binding in customer.bindings),
            created_at=instant(customer.created_at),
            alias_of=customer.alias_of,
        )


class Merge(Model):
    """Which customer another turned out to be."""

    into: str = Field(min_length=1, max_length=60, description="The id that stays.")


class Customers(Model):
    """Customers at one address; several people may share it."""

    items: tuple[Customer, ...]


class CustomerQuery(Model):
    """Whom to look for."""

    channel: Channel
    address: Annotated[str, Line, Field(min_length=1, max_length=320)]


class Erasing(Model):
    """Why a customer is erased, and whether open conversations are ended for it."""

    why: Name = Field(description="Stands in the journal, which outlives the customer: it may not name them.")
    close: bool = Field(False, description="Erase open conversations too; what waits there is never said.")


class Erased(Model):
    """What was removed: everything that named the customer or repeated what was said. The journal keeps ids."""

    customer_id: str
    aliases: tuple[str, ...]
    conversations: int
    archived: int
    files: int
    spooled: int

    @classmethod
    def of(cls, erased: erasure.Erased) -> Self:
        return cls(
            customer_id=erased.customer_id,
            aliases=erased.aliases,
            conversations=erased.conversations,
            archived=erased.archived,
            files=erased.files,
            spooled=erased.spooled,
        )


class NewAgent(Model):
    """Somebody who answers."""

    name: Name
    team: Word = ""
    bindings: Annotated[tuple[Binding, ...], Field(max_length=BINDINGS_MAX)] = ()


class Agent(Model):
    """Who answers."""

    id: str
    name: str
    team: str
    bindings: tuple[Binding, ...]

    @classmethod
    def of(cls, agent: domain.Agent) -> Self:
        bindings = tuple(Binding.of(binding) for binding in agent.bindings)
        return cls(id=agent.id, name=agent.name, team=agent.team, bindings=bindings)


class Agents(Model):
    """All agents."""

    items: tuple[Agent, ...]


class Me(Model):
    """The key that asks."""

    key_id: str
    name: str
    role: str
    agent_id: str
    organisation: str
