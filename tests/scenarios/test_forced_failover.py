"""Ops staff lead traffic away by hand: previewed, reasoned, and over by itself."""

from dataclasses import replace

from router.domain.conversation import SideName
from router.failovers import dump_failover


async def test_a_forced_failover_moves_what_its_preview_said_and_ends_by_itself(world):
    """The gate closes first; whoever waits moves; at its end health's view holds and nobody is moved home by it."""
    gil = await world.known_customer("gil")
    await gil.writes_mail("Any news?")
    talk = await gil.conversation()
    ask = {"scope": ["email/sandbox"], "target": "sms/backup", "why": "Provider maintenance", "expires_in_s": 3600}
    looked = await world.post("/v1/failovers", ask | {"dry_run": True})
    assert looked["failover"] is None
    assert looked["preview"]["moved"] == {"sms/backup": 1}, looked
    await talk.is_at("email/sandbox")

    started = (await world.post("/v1/failovers", ask))["failover"]
    assert not (await world.core.control.gates())["email/sandbox"]
    notice = await gil.phone.expects("Example Shop", await talk.reference())
    assert notice.endpoint == "sms/backup"
    await talk.is_at("sms/backup")
    await talk.answer("Soon.")
    await gil.phone.expects("Soon.")
    shown = {one["id"]: one for one in (await world.get("/v1/endpoints"))["items"]}
    assert shown["email/sandbox"]["forced"] == "down" and shown["email/sandbox"]["gate_open"] is False

    # An hour passes.
    (failover,) = [one for one in await world.core.failovers() if one.id == started["id"]]
    over = replace(failover, expires_at=world.core.clock.now())
    await world.core.control.save_failover(over.id, dump_failover(over))

    hal = await world.known_customer("hal")
    await hal.writes_mail("I have a question")
    other = await hal.conversation()
    await other.answer("Go on.")
    await hal.mailbox.expects("Go on.")
    await talk.answer("It is on its way.")
    await gil.phone.expects("It is on its way.")
    legs = await world.core.store.legs(talk.id, SideName.CUSTOMER)
    assert [leg["r"] for leg in legs] == ["forced"]
    await world.ends_well()
