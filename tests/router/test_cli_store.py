"""The commands that ask Redis: keys, status, failovers, conversations."""

import asyncio
import re
import threading
import time
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

from channels.messages import Address, Channel, InboundMessage
from channels.sandbox.app import DEMO_CUSTOMERS
from health.records import Freeze
from health.report import EndpointId
from router.cli.app import throughline
from router.cli.rim import Fault, Session
from router.cli.roles import PATIENCE_S
from router.cli.up import prepare_store
from router.private_redis import PrivateRedis
from router.process_tree import STEADY_AFTER_S
from router.runtime import open_runtime
from router.settings import load_settings
from router.store import keys
from router.store.going_back import write_went_back

DANA = Address(Channel.EMAIL, "dana@customer.test")
MAIL = EndpointId("email/sandbox")

pytestmark = pytest.mark.usefixtures("folder_with_redis")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(throughline, list(arguments))


def words(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def write_mail(text: str) -> str:
    """Dana writes; the conversation's reference."""

    async def write() -> str:
        async with open_runtime(load_settings(), "cli") as runtime:
            accepted = await runtime.switchboard.accept(
                InboundMessage(endpoint=MAIL, vendor_id=text, sender=DANA, text=text, sent_at=0.0, subject="Order 77")
            )
            return (await runtime.switchboard.conversation(accepted.conversation_id)).conversation.reference

    return asyncio.run(write())


def test_a_key_is_made_listed_and_revoked() -> None:
    """Shown once, then only its id, role and name."""
    plain, *_ = words("key", "create", "--role", "ops", "--name", "grafana").split()
    key_id = plain.split("_")[1]
    listed = words("key", "list")
    assert key_id in listed
    assert "grafana" in listed
    assert plain not in listed
    assert "Revoked" in words("key", "revoke", key_id)
    refused = run("key", "revoke", key_id)
    assert refused.exit_code == 1
    assert "There is no key" in refused.stderr


def test_status_shows_every_endpoint_and_why() -> None:
    """The stand-in vendors, the console and the chat, before anybody said anything about them."""
    shown = words("status")
    for endpoint in ("email/sandbox", "sms/sandbox", "sms/backup", "phone/sandbox", "chat/web", "chat/console"):
        assert endpoint in shown
    assert "Open incidents: none" in shown


def test_status_says_that_we_doubt_ourselves(redis_url: str) -> None:
    """First of all, and why; nothing of it otherwise."""
    assert "Moves:" not in words("status")

    async def freeze() -> None:
        async with open_runtime(load_settings(), "cli") as runtime:
            await runtime.board.write_freeze(Freeze(runtime.clock.now() - 600, "3 of 4 provider families fail at once"))

    asyncio.run(freeze())
    shown = " ".join(words("status").split())
    assert "Moves: frozen for 10 min, as it seems to be us: 3 of 4 provider families fail at once." in shown


def test_a_failover_is_previewed_started_listed_and_stopped() -> None:
    """With Redis alone: no other process runs in this test."""
    assert "Nothing would move." in words("failover", "preview", "sms/sandbox")
    started = words("failover", "start", "sms/sandbox", "--to", "sms/backup", "--why", "a test", "--for", "5m", "--yes")
    identity = started.split()[1].rstrip(",")
    assert "away from sms/sandbox to sms/backup" in words("failover", "list")
    assert "a test" in words("status")
    assert "Ended" in words("failover", "stop", identity)
    assert "No forced failover" in words("failover", "list")
    assert identity in words("failover", "list", "--all")


def test_a_failover_is_asked_about_before_it_starts() -> None:
    """No is no."""
    result = CliRunner().invoke(throughline, ["failover", "start", "sms/sandbox", "--why", "a test"], input="n\n")
    assert result.exit_code == 1
    assert "Nothing would move." in result.output
    assert "No forced failover" in words("failover", "list")


def test_an_unknown_endpoint_is_named_with_those_there_are() -> None:
    """Nothing is changed."""
    refused = run("failover", "start", "sms/nowhere", "--why", "a test", "--yes")
    assert refused.exit_code == 1
    assert "There is no endpoint sms/nowhere" in refused.stderr
    assert "sms/sandbox" in refused.stderr


def test_what_the_switchboard_refuses_is_said_in_its_words() -> None:
    """A target that is left itself is none."""
    refused = run("failover", "start", "sms/sandbox", "--to", "sms/sandbox", "--why", "a test", "--yes")
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert refused.stderr.strip()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--for", "1s"), "between 60s and 7d"),
        (("--for", "8d"), "between 60s and 7d"),
        (("--why", " "), "say why on one line of at most 200 characters"),
        (("--why", "x" * 201), "say why on one line of at most 200 characters"),
        (("--why", "a test\nof two lines"), "say why on one line of at most 200 characters"),
    ],
)
def test_what_no_failover_can_be_is_said_before_the_preview(wrong: tuple[str, str], said: str) -> None:
    """Nobody reads a preview and says yes to hear that it cannot be; a long reason is never cut silently."""
    arguments = {"--why": "a test", "--for": "5m", wrong[0]: wrong[1]}
    options = [word for pair in arguments.items() for word in pair]
    refused = CliRunner().invoke(throughline, ["failover", "start", "sms/sandbox", *options], input="y\n")
    assert refused.exit_code == 2
    assert said in " ".join(refused.stderr.split())
    assert "would move" not in refused.output.lower()
    assert "No forced failover" in words("failover", "list", "--all")


def test_show_says_where_the_next_message_goes_and_why_nowhere_else() -> None:
    """While mail works; and while it is led away from, for somebody who has nothing but mail."""
    reference = write_mail("My order never came.")
    shown = words("conversation", "show", reference)
    assert "next message    to email/sandbox: " in shown
    assert "not sms/sandbox" not in shown
    words("failover", "start", "email/sandbox", "--why", "a test", "--for", "5m", "--yes")
    shown = " ".join(words("conversation", "show", reference).split())
    assert "next message nowhere yet, until" in shown
    assert "No endpoint can be used for this person now." in shown
    assert "not email/sandbox: A forced failover leads away from here." in shown
    assert "not sms/sandbox: The person has no address on this channel." in shown


@pytest.mark.parametrize(
    ("command", "next_step"),
    [
        (("conversation", "show", "nothing-like-it"), "throughline conversation list"),
        (("conversation", "show", "ZZZZZ"), "throughline conversation list"),
        (("conversation", "reply", "ZZZZZ", "Hello"), "throughline conversation list"),
        (("conversation", "list", "--customer", "nobody"), "throughline conversation show REFERENCE"),
        (("customer", "erase", "nobody", "--why", "asked for it", "--yes"), "throughline conversation show REFERENCE"),
        (("customer", "erase", "nobody", "--why", "asked for it"), "throughline conversation show REFERENCE"),
        (("failover", "stop", "nothing"), "throughline failover list"),
    ],
)
def test_whoever_names_what_is_not_there_hears_where_to_look(command: tuple[str, ...], next_step: str) -> None:
    """Status 1, and the command that lists what there is."""
    refused = run(*command)
    assert refused.exit_code == 1
    assert next_step in refused.stderr


def test_a_key_speaks_for_an_agent_there_is() -> None:
    """A slip in the id would make a key whose words nobody signs."""
    refused = run("key", "create", "--role", "agent", "--name", "desk 1", "--agent", "a0-nobody")
    assert refused.exit_code == 1
    assert "There is no agent a0-nobody; no key was made" in refused.stderr
    assert "desk 1" not in words("key", "list")

    async def hire() -> str:
        async with open_runtime(load_settings(), "cli") as runtime:
            return (await runtime.switchboard.create_agent(name="Ana", team="", bindings=())).id

    agent = asyncio.run(hire())
    assert f"There are: {agent}." in run("key", "create", "--role", "agent", "--name", "x", "--agent", "slip").stderr
    words("key", "create", "--role", "agent", "--name", "desk 1", "--agent", agent)
    assert agent in words("key", "list")


def test_a_backup_into_a_folder_there_is_not_says_so(folder: Path) -> None:
    """The folder's name, not that of a draft nobody asked for."""
    refused = run("backup", str(folder / "none/one.tlb"))
    assert refused.exit_code == 1
    assert f"there is no folder {folder}/none" in " ".join(refused.stderr.split())


def test_a_conversation_is_listed_shown_and_answered() -> None:
    """By its reference; the answer is accepted and waits for a dispatcher."""
    reference = write_mail("My order never came.")
    assert reference in words("conversation", "list")
    accepted = words("conversation", "reply", reference, "We look into it.", "--as", "Ana")
    assert "goes out at email/sandbox" in accepted
    shown = words("conversation", "show", reference)
    assert "My order never came." in shown
    assert "We look into it." in shown
    assert "Ana" in shown
    assert "queued" in shown


def test_a_long_conversation_is_shown_by_its_end() -> None:
    """What was just said is what is looked for; how much stands before it is told, and how to see that."""
    reference = write_mail("message 0")

    async def write_on() -> None:
        async with open_runtime(load_settings(), "cli") as runtime:
            for number in range(1, 230):
                words_in = InboundMessage(MAIL, f"m{number}", DANA, f"message {number}", 0.0, subject=f"[{reference}]")
                await runtime.switchboard.accept(words_in)

    asyncio.run(write_on())
    shown = words("conversation", "show", reference)
    assert "message 229" in shown and "message 180" in shown
    assert "message 179" not in shown
    assert "180 earlier messages are left out: --last 230 shows them." in shown
    assert "message 0\n" in words("conversation", "show", reference, "--last", "230")


def test_what_somebody_wrote_does_not_command_the_terminal() -> None:
    """Neither in the transcript nor in the list: a customer must not rewrite what ops staff see."""
    reference = write_mail("before \x1b]52;c;aGk=\x07\x1b[2J \x9b1m [red]after[/red]")
    for shown in (words("conversation", "show", reference), words("conversation", "list")):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert "[red]after[/red]" in words("conversation", "show", reference)


def test_an_unknown_conversation_is_said() -> None:
    """Not a stack trace."""
    refused = run("conversation", "show", "ZZZZZ")
    assert refused.exit_code == 1
    assert refused.stderr.strip()
    assert "Traceback" not in refused.output


def test_the_first_admin_key_is_made_once(folder: Path) -> None:
    """The second start finds it; where Redis forgot it, there is a new one. The pocket's customers are there once."""
    settings = load_settings()
    first = asyncio.run(prepare_store(settings))
    assert asyncio.run(prepare_store(settings)) == first
    assert (folder / "var/admin.key").read_text().strip() == first
    assert words("key", "list").count("first admin") == 1
    words("key", "revoke", first.split("_")[1])
    assert asyncio.run(prepare_store(settings)) != first
    write_mail("Hello?")
    assert "Dana Vogt" in words("conversation", "list")

    async def known(place: Address) -> list[str]:
        async with open_runtime(settings, "cli") as runtime:
            return [one.name for one in await runtime.switchboard.find_customers(place)]

    for person in DEMO_CUSTOMERS:
        for channel, value in ((Channel.EMAIL, person.email), (Channel.SMS, person.phone)):
            assert asyncio.run(known(Address(channel, value))) == [person.name]


def test_an_audit_of_what_is_sound_finds_nothing() -> None:
    """Status 0, and the words that one hopes for."""
    write_mail("My order never came.")
    assert "Nothing wrong" in words("audit")


def test_status_and_doctor_say_that_redis_came_back_older() -> None:
    """For a day, with how much was flagged; nothing of it otherwise."""
    assert "came back older" not in words("status")

    async def notice() -> None:
        async with open_runtime(load_settings(), "cli") as runtime:
            for flagged in (3, 0):  # each process that notices says it
                await write_went_back(runtime.store.redis, runtime.clock.now() - 12, flagged)

    asyncio.run(notice())
    for command in ("status", "doctor"):
        shown = " ".join(run(command).stdout.split())
        assert re.search(r"came back older than it was \d+ s ago: 3 messages are marked as possible duplicates", shown)
        assert "redis-down.md" in shown


def test_status_and_doctor_say_that_the_clockwork_does_not_tick(redis_url: str) -> None:
    """Three minutes without a job; until two are missed nobody is alarmed."""

    def ticked(ago_s: float) -> str:
        with redis.Redis.from_url(redis_url) as client:
            client.set(keys.BEAT, f"{time.time() - ago_s:.3f}")
        return " ".join((run("status").stdout + run("doctor").stdout).split())

    assert "has not ticked" not in ticked(100)
    assert len(re.findall(r"has not ticked for 1[89]\d s", ticked(180))) == 2


def test_a_role_that_starts_while_redis_is_away_waits_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a process tree takes to call it steady: its deaths never add up to the end of the tree."""
    assert PATIENCE_S > STEADY_AFTER_S
    server = PrivateRedis(folder / "late", durable=False)
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", server.url)
    coming = threading.Timer(1.0, server.start)
    coming.start()
    try:
        assert Session(None).connected(PATIENCE_S).redis_url == server.url
        with pytest.raises(Fault, match="Redis does not answer"):
            server.stop()
            Session(None).connected()
    finally:
        coming.join()
        server.stop()
