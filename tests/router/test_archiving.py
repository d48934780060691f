"""The job that archives: one conversation that cannot be written holds up no other."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from channels.messages import Address, Channel, InboundMessage
from health.report import EndpointId
from router.archive.database import ArchiveError
from router.audit.records import Page
from router.jobs import _archive_closed
from router.runtime import Runtime, open_runtime
from router.settings import load_settings
from router.store.asked import LeaseTerms, Settlement

MAIL, CONSOLE = EndpointId("email/sandbox"), EndpointId("chat/console")
TERMS = LeaseTerms(lease_s=8.0, hold_s={"normal": 60.0}, idempotent=False, attempts_max=3)


@pytest.fixture
async def runtime(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """The use cases over stand-in vendors; what is closed moves at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", redis_url)
    monkeypatch.setenv("THROUGHLINE_ARCHIVE__AFTER_DAYS", "0")
    async with open_runtime(load_settings(), "clockwork") as opened:
        yield opened


async def closed(runtime: Runtime, name: str) -> str:
    event = InboundMessage(
        endpoint=MAIL, vendor_id=name, sender=Address(Channel.EMAIL, f"{name}@customer.test"), text=name, sent_at=0.0
    )
    identity = (await runtime.switchboard.accept(event)).conversation_id
    for one in await runtime.store.lease(CONSOLE, "w", 9, TERMS):
        await runtime.store.settle(0, [Settlement(identity, one.side, one.message_id, one.number, one.fence, "sent")])
    await runtime.store.close(identity)
    return identity


async def test_one_that_cannot_be_written_is_passed_over(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in Redis, and is tried again at the next minute; the others move."""
    first, second = await closed(runtime, "ann"), await closed(runtime, "bob")
    keep = runtime.core.archive.keep

    async def refuse_first(pages: Sequence[Page]) -> None:
        if pages[0].conversation_id == first:
            raise ArchiveError("it has a word that no database takes")
        await keep(pages)

    monkeypatch.setattr(runtime.core.archive, "keep", refuse_first)
    assert await _archive_closed(runtime.core) == {"failed": 1, "ok": 1}
    assert await runtime.store.conversation(first) is not None
    assert await runtime.store.conversation(second) is None
    monkeypatch.undo()
    assert await _archive_closed(runtime.core) == {"ok": 1}


async def test_an_archive_that_is_away_ends_the_job(runtime: Runtime) -> None:
    """Without trying every conversation in vain."""
    for name in ("ann", "bob"):
        await closed(runtime, name)
    runtime.core.archive.database.path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ArchiveError, match="cannot be used"):
        await _archive_closed(runtime.core)
    assert len(await runtime.store.closed_before(0, runtime.clock.now() + 1)) == 2
