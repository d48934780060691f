"""The doors of our web role: the production ones, but that a talk knows by itself which conversation it is."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from channels.messages import Accepted, Event, ReceiptEvent
from router.core import Core
from router.reception import Reception
from router.switchboard import Switchboard

if TYPE_CHECKING:
    from tests.simulation.world import World


class Doors(Switchboard):
    """What one process answers clients and vendors, and what it takes out of a spool."""

    def __init__(self, world: "World", core: Core) -> None:
        desk = cast(Any, SimpleNamespace(say=lambda _: None))
        super().__init__(core, desk)
        self._reception = cast(Reception, _Entrance(world, core, Reception(core, desk, cast(Any, None))))


class _Entrance:
    def __init__(self, world: "World", core: Core, reception: Reception) -> None:
        self._world, self._core, self._reception = world, core, reception

    async def accept(self, event: Event) -> Accepted:
        if isinstance(event, ReceiptEvent):
            return await self._reception.accept(event)
        talk = next(one for one in self._world.talks if any(each.address == event.sender for each in one.bindings))
        return await talk.take(self._core, event)
