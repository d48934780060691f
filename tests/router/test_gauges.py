"""What waits and who works, read from a real Redis at each scrape."""

from prometheus_client import REGISTRY

from health.board import Board
from health.records import Freeze
from router.gauges import StoreGauges
from router.store import keys
from router.store.connecting import connect
from router.store.redis import Pipelined
from router.store.store import Store

NOW = 1_760_000_000.0


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_gauges_show_who_works_and_what_waits(redis_url: str) -> None:
    """Live loops by role, the supervisor by its lease, parked sides, and messages that newly need a person."""
    client = connect(redis_url)
    try:
        store, board = Store(Pipelined(client)), Board(client)
        gauges = StoreGauges(store, board)
        await gauges.refresh(NOW)
        assert value("throughline_workers", role="dispatch") == 0
        assert value("throughline_workers", role="supervise") == 0

        before = value("throughline_needs_human_total")
        await board.beat("d1", "dispatch", NOW)
        await board.beat("d2", "dispatch", NOW - 60)
        assert await board.lease_supervisor("s1", 10.0) is not None
        await client.zadd(f"{keys.shard(0)}d:{keys.PLAN}", {"v0-1:c": NOW * 1000})
        for state in ("queued", "needs_human"):
            await client.xadd(f"{keys.shard(0)}jr", {"k": "message.changed", "f": f'{{"st":"{state}"}}'})
        await gauges.refresh(NOW)
        assert value("throughline_workers", role="dispatch") == 1
        assert value("throughline_workers", role="supervise") == 1
        assert value("throughline_parked") == 1
        assert value("throughline_needs_human_total") == before + 1

        await gauges.refresh(NOW)
        assert value("throughline_needs_human_total") == before + 1

        await board.write_freeze(Freeze(NOW, "3 of 4 families"))
        await gauges.refresh(NOW)
        assert value("throughline_moves_frozen") == 1
        await board.write_freeze(None)
        await gauges.refresh(NOW)
        assert value("throughline_moves_frozen") == 0
    finally:
        await client.aclose()
