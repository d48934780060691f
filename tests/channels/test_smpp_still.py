"""A process that stood still reads at once what a message centre said again and again on one connection."""

import asyncio
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from channels.messages import Accepted
from channels.sms.inbound import Inbound
from channels.sms.session import SmppSession, Taken
from channels.tools import Tools
from channels.wire.smpp import Pdu, ShortMessage, encode_pdu
from channels.wire.smpp_numbers import Command

TEXT = ShortMessage(source_addr="12025550123", destination_addr="12025550181", short_message=b"Where is it?")


class Store:
    """Keeps marks."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.kept.get(key)

    async def put(self, key: str, value: str, _ttl_s: float) -> None:
        self.kept[key] = value


@pytest.mark.parametrize(
    ("arrivals", "texts"),
    [
        (((100.0, 60.0), (100.001, 60.0), (100.002, 60.0)), 1),  # all of them while we stood still
        (((40.1, 0.0), (100.0, 60.0)), 1),  # read before, answered after: the centre did not hear it in time
        (((100.0, 0.0), (100.5, 0.0)), 2),  # a person who says it twice
    ],
)
async def test_an_equal_text_read_after_a_standstill_is_the_same_one(
    arrivals: tuple[tuple[float, float], ...], texts: int
) -> None:
    """Nobody knows when it came; two of one person in that time are one, which is better than each of them doubled."""
    taken: list[str] = []

    async def accept(event: Any) -> Accepted:
        taken.append(event.vendor_id)
        return Accepted()

    tools = cast(Tools, SimpleNamespace(store=Store(), endpoint="sms/x", clock=SimpleNamespace(now=time.time)))
    inbound = Inbound(
        tools, accept, cast(Any, None), read_address=lambda *_: "+12025550123",
        read_id=str, read_own_id=str, early_s=1.0, partial_after_s=60.0,
    )  # fmt: skip
    for arrived, behind_s in arrivals:
        answer = await inbound.take(TEXT, "session", arrived, behind_s)
        inbound.answered(answer.mark)
        inbound._once[answer.mark].answered_at = max(arrived, 100.0)
    assert len(set(taken)) == texts


@dataclass
class Receiver:
    """Notes for how long each text may have waited."""

    behind: list[float] = field(default_factory=list)

    async def take(self, _message: ShortMessage, _session: str, _arrived: float, behind_s: float) -> Taken:
        self.behind.append(behind_s)
        return Taken()

    def answered(self, mark: str) -> None:
        """Nothing is marked."""

    async def confirm(self, marks: tuple[str, ...]) -> None:
        """Nothing is marked."""


async def test_a_session_knows_for_how_long_it_stood_still() -> None:
    """As after a SIGSTOP: the loop runs nothing, and the texts wait in the socket."""
    arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: arrived.put_nowait(writer), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    centre, receiver = await arrived.get(), Receiver()

    async def late(_note: object, _answer: Pdu) -> None:
        """Nobody waits."""

    session = SmppSession(reader, writer, receiver=receiver, window=10, enquire_link_s=30, answered_late=late)
    try:
        for pause_s in (0.0, 1.3):
            await asyncio.sleep(0.3)
            time.sleep(pause_s)  # nothing runs: that is what is tested
            for sequence in (1, 2):
                centre.write(encode_pdu(Pdu(Command.DELIVER_SM, sequence, 0, TEXT)))
            expected = len(receiver.behind) + 2
            async with asyncio.timeout(5):
                while len(receiver.behind) < expected:
                    await asyncio.sleep(0.01)
        assert receiver.behind[:2] == [0.0, 0.0]
        assert all(1.2 < one < 2.0 for one in receiver.behind[2:])
    finally:
        await session.close("done")
        centre.close()
        server.close()
