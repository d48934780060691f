"""A vendor answers that it took everything, and delivers nothing."""

from channels.sandbox.vendor import Fault
from health.report import Direction, EndpointId, Status

SMS = EndpointId("sms/sandbox")
BACKUP = EndpointId("sms/backup")
MAIL = EndpointId("email/sandbox")
QUICK = {"canary_every_s": 1.0, "canary_bound_s": 2.0}


async def test_a_vendor_that_loses_silently_goes_down_and_what_it_took_is_said_again_elsewhere(build_world):
    """Its canary does not come back: the lost text goes out elsewhere, flagged; nothing else does; then it recovers."""
    async with build_world(endpoints_each={SMS: QUICK, BACKUP: QUICK}, failover={"one_move_per_s": 1.0}) as world:
        ann = await world.known_customer("ann")
        await ann.texts("Hello")
        talk = await ann.conversation()
        await talk.answer("Heard well.")
        await ann.phone.expects("Heard well.")
        await talk.reaches("delivered", "Heard well.")
        await world.vendor("sms").suffers(Fault.LOSE_SILENTLY)
        await talk.answer("Lost at first.")
        await talk.reaches("sent", "Lost at first.")
        await world.expects_status(SMS, Status.DOWN, within_s=20)
        assert (await world.core.board.statuses())[SMS, Direction.OUT].reason == "canary_lost"
        await ann.phone.expects("Example Shop", await talk.reference())
        again = await ann.phone.expects("Perhaps a repeat", "Lost at first.")
        assert again.endpoint == BACKUP
        await world.proven_since(BACKUP, again.at)
        await world.vendor("sms").recovers()
        await world.expects_status(SMS, Status.UP, within_s=30)
        await world.ends_well()
        shown = await world.get("/v1/conversations")
        assert "canary" not in str(shown)


async def test_a_mail_vendor_that_loses_silently_is_found_though_mail_knows_no_receipts(build_world):
    """What it took since the last canary that came back is said again by SMS; what was proven before is not."""
    async with build_world(endpoints_each={MAIL: QUICK}) as world:
        bob = await world.known_customer("bob")
        await bob.writes_mail("Hello")
        talk = await bob.conversation()
        await talk.answer("Read well.")
        await bob.mailbox.expects("Read well.")
        began = world.core.clock.now()
        await world.proven_since(MAIL, began)
        await world.vendor("email").suffers(Fault.LOSE_SILENTLY)
        await talk.answer("Lost at first.")
        await world.expects_status(MAIL, Status.DOWN, within_s=20)
        await bob.phone.expects("Example Shop", await talk.reference())
        await bob.phone.expects("Perhaps a repeat", "Lost at first.")
        await world.ends_well()
