"""`throughline customer erase`, and archived conversations on the command line."""

import asyncio

import pytest
from click.testing import CliRunner, Result

from channels.messages import Address, Channel, InboundMessage
from health.report import EndpointId
from router.archive.moving import archive_conversation
from router.cli.app import throughline
from router.runtime import open_runtime
from router.settings import load_settings
from router.store.asked import LeaseTerms, Settlement

DANA = Address(Channel.EMAIL, "dana@customer.test")
MAIL, CONSOLE = EndpointId("email/sandbox"), EndpointId("chat/console")

pytestmark = pytest.mark.usefixtures("folder_with_redis")


def run(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(throughline, list(arguments), input=typed)


def written(text: str, *, archived: bool = False) -> tuple[str, str]:
    """Dana writes, and it may be long ago; the customer and the reference."""

    async def write() -> tuple[str, str]:
        async with open_runtime(load_settings(), "cli") as runtime:
            event = InboundMessage(
                endpoint=MAIL, vendor_id=text, sender=DANA, text=text, sent_at=0.0, subject="Order 77",
                sender_name="Dana Vogt",
            )  # fmt: skip
            identity = (await runtime.switchboard.accept(event)).conversation_id
            view = await runtime.switchboard.conversation(identity)
            if archived:
                for one in await runtime.store.lease(CONSOLE, "w", 9, LeaseTerms(8.0, {"normal": 60.0}, False, 3)):
                    row = Settlement(identity, one.side, one.message_id, one.number, one.fence, "sent")
                    await runtime.store.settle(0, [row])
                await runtime.store.close(identity)
                assert await archive_conversation(runtime.store, runtime.core.archive, identity) == "ok"
            return view.customer.id, view.conversation.reference

    return asyncio.run(write())


def test_a_customer_is_erased_after_a_yes() -> None:
    """No is no; who they are and what is open is shown before."""
    customer, reference = written("My order never came.")
    refused = run("customer", "erase", customer, "--why", "asked for it", "--close", typed="n\n")
    assert refused.exit_code == 1
    assert "Dana Vogt, 1 address, 1 open conversation." in refused.output
    assert run("conversation", "show", reference).exit_code == 0
    done = run("customer", "erase", customer, "--why", "asked for it", "--close", typed="y\n")
    assert done.exit_code == 0, done.output
    assert f"Erased {customer}: 1 conversations" in done.output
    assert run("conversation", "show", reference).exit_code == 1


def test_open_conversations_stand_in_the_way() -> None:
    """In the router's own words, which say what to do."""
    customer, _ = written("My order never came.")
    refused = run("customer", "erase", customer, "--why", "asked for it", "--yes")
    assert refused.exit_code == 1
    assert "1 of their conversations are open" in refused.stderr
    assert "add --close" in refused.stderr
    unknown = run("customer", "erase", "c0-nobody", "--why", "asked for it", "--yes")
    assert unknown.exit_code == 1
    assert "no such customer" in unknown.stderr


def test_an_archived_conversation_is_shown_and_found() -> None:
    """By its reference as any other; by words and customer in the archive's own list."""
    customer, reference = written("My order never came.", archived=True)
    shown = run("conversation", "show", reference).output
    assert "archived: it can only be read" in shown
    assert "My order never came." in shown
    assert reference not in run("conversation", "list", "--closed").output
    assert reference in run("conversation", "list", "--archived", "--text", "ORDER never").output
    assert reference in run("conversation", "list", "--archived", "--customer", customer).output
    assert reference not in run("conversation", "list", "--archived", "--text", "parcel").output
    assert run("conversation", "list", "--text", "order").exit_code == 2
    refused = run("conversation", "reply", reference, "Still there?")
    assert refused.exit_code == 1


def test_what_goes_on_with_an_archived_one_says_so() -> None:
    """By its reference, so that it can be looked up."""
    _, old = written("My order never came.", archived=True)
    _, new = written(f"About #{old}: still nothing.")
    assert new != old
    assert f"goes on with  {old}, which is archived" in run("conversation", "show", new).output
