"""The store is lost, and yesterday's copy is put in its place: nobody hears anything twice without being told so."""

import asyncio

from health.report import EndpointId
from router.backup import make_backup, restore_backup
from router.domain.ids import shard_of
from router.restoring import complete
from router.runtime import open_runtime
from router.store.connecting import open_primaries
from router.store.freezing import thaw

MAIL = EndpointId("email/sandbox")


async def test_a_restored_router_says_nothing_until_it_may_and_then_marks_what_was_said_in_the_lost_time(
    world, tmp_path
):
    """Every role runs on the frozen store, takes what comes, and holds it; a mail that went out before says so."""
    ann = await world.known_customer("ann")
    await ann.writes_mail("Hello")
    talk = await ann.conversation()
    await world.stop("dispatch")
    await talk.answer("It left.")
    await asyncio.to_thread(make_backup, world.settings, tmp_path / "b.tl")
    await world.start("dispatch")
    await ann.mailbox.expects("It left.")
    await talk.reaches("sent", "It left.")

    for role in list(world.roles):
        await world.stop(role)
    with open_primaries(world.settings.redis_url) as servers:
        for server in servers:
            server.flushall()
    await asyncio.to_thread(restore_backup, world.settings, tmp_path / "b.tl")
    async with open_runtime(world.settings, "cli") as runtime:
        assert (await complete(runtime.core)).flagged >= 1
    await world.start("web", "dispatch", "supervise")
    begun = await world.core.store.clock_ms() / 1000
    await ann.writes_mail("And now?")
    await talk.hears("And now?")
    await talk.answer("Tomorrow.")

    async def tried() -> bool:
        """The dispatcher has asked for it, and was put off."""
        return await world.core.store.due_since(shard_of(talk.id), MAIL) > begun + 1.0

    await world.eventually(tried, "the dispatcher asks for what is due")
    ann.mailbox.stays_silent()

    await thaw(world.core.store.redis)
    again = await ann.mailbox.expects("It left.")
    tomorrow = await ann.mailbox.expects("Tomorrow.")
    assert "possible_duplicate" in again.details and "possible_duplicate" not in tomorrow.details
    await world.ends_well()
