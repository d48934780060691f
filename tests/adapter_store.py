"""An adapter's own store in this process's memory, for a reader of mailboxes."""


class MemoryStore:
    """Keeps what is put; the rest of an adapter's store is not used by mail."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        """What was put last."""
        return self.kept.get(key)

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """Within the bounds that the real one has."""
        assert len(key) <= 200
        assert 0 < ttl_s <= 30 * 86_400
        self.kept[key] = value
