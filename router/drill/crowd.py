"""Whom a drill invents: customers at the drilled endpoints, some with other ways to be reached and some with none."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import count

from channels.messages import Channel
from channels.registry import CHANNELS
from router.demo.people import Person
from router.drill.rehearsal import RehearsalFault, can_be_answered, texts_of
from router.runtime import all_endpoints
from router.settings import Settings

ALONE_EVERY = 8
"""One customer in so many has nothing but the drilled channel, as in every real list of customers."""
CUSTOMERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Crowd:
    """The customers, and what they could be reached over."""

    people: tuple[Person, ...]
    home: Mapping[int, str]
    """The drilled endpoint each writes to, by customer's number."""
    elsewhere: Mapping[int, tuple[str, ...]]
    """The endpoints that could carry their conversation while all the drilled ones are out."""

    @property
    def alone(self) -> tuple[int, ...]:
        """Those who have no other way."""
        return tuple(number for number, ways in self.elsewhere.items() if not ways)


def find_drillable(settings: Settings) -> list[str]:
    """The endpoints whose outage can be rehearsed: they have a vendor, and conversations live there."""
    return [
        one.id for one in all_endpoints(settings) if CHANNELS[one.provider] is not Channel.CHAT and can_be_answered(one)
    ]


def check_drilled(settings: Settings, drilled: Sequence[str]) -> None:
    """Raises RehearsalFault where one of `drilled` cannot be rehearsed; the text says why."""
    known = {one.id: one for one in all_endpoints(settings)}
    there = ", ".join(find_drillable(settings)) or "none"
    for name in drilled:
        if name not in known:
            raise RehearsalFault(f"There is no endpoint {name}; nothing was started. To drill there are: {there}.")
        if CHANNELS[known[name].provider] is Channel.CHAT:
            raise RehearsalFault(
                f"{name} has no vendor that could fail: it is our own web role. To drill there are: {there}."
            )
        if not can_be_answered(known[name]):
            raise RehearsalFault(
                f"Nobody can answer over {name}, so no conversation lives there that could be moved. To drill there "
                f"are: {there}."
            )


def gather(settings: Settings, drilled: Sequence[str], customers: int) -> Crowd:
    """`customers` people, evenly at the drilled endpoints. Of eight at each, one has no other channel, three have one
    more, four have every channel; none has an address that stands in the settings.
    """
    open_endpoints = [one for one in find_drillable(settings) if one not in drilled]
    order = settings.failover.channel_order
    carried = {_channel(one) for one in (*open_endpoints, *drilled)}
    taken = texts_of(settings)
    people: list[Person] = []
    for number in count(1):
        if len(people) == min(customers, CUSTOMERS_MAX):
            break
        place, which = divmod(len(people), len(drilled))
        channel = _channel(drilled[which])
        others = [one for one in order if one in carried and one is not channel]
        person = Person(number, channel, tuple(_some(others, place)))
        if not _is_taken(person, taken):
            people.append(person)
    return Crowd(
        people=tuple(people),
        home={one.number: drilled[index % len(drilled)] for index, one in enumerate(people)},
        elsewhere={
            one.number: tuple(each for each in open_endpoints if _channel(each) in {one.channel, *one.others})
            for one in people
        },
    )


def _some(others: Sequence[Channel], place: int) -> Sequence[Channel]:
    rank = place % ALONE_EVERY
    if rank == ALONE_EVERY - 1:
        return ()
    return others[:1] if rank % 2 else others


def _is_taken(person: Person, taken: AbstractSet[str]) -> bool:
    return bool({person.mailbox, person.phone, person.phone.removeprefix("+")} & taken)


def _channel(endpoint: str) -> Channel:
    return Channel(endpoint.partition("/")[0])
