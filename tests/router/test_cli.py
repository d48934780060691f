"""The command line: words for people, statuses for machines."""

import json
import os
import socket
import stat
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result

from channels.contract import Adapter, Capabilities
from channels.errors import EndpointMisconfigured, EndpointUnavailable, LocalFault
from channels.messages import Channel
from channels.registry import CHANNELS, SETTINGS_OF
from health.report import EndpointId
from router.cli import doctor as cli_doctor
from router.cli import key as cli_key
from router.cli import up as cli_up
from router.cli.app import throughline
from router.cli.endpoint import write_table
from router.cli.failover import show_preview
from router.cli.rim import Duration, ago, read_run_file, who_asks, with_redis, write_run_file
from router.domain.failover import Preview
from router.runtime import open_runtime
from router.settings import Settings, SettingsError, load_settings
from router.store.connecting import without_password

pytestmark = pytest.mark.usefixtures("folder")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(throughline, list(arguments))


def test_every_command_of_the_design_is_there() -> None:
    """What the documents name can be typed."""
    words = run("--help").output
    for name in (
        *("up", "demo", "doctor", "status", "audit", "failover", "conversation", "key", "endpoint"),
        *("backup", "restore", "resume"),
        *("web", "dispatch", "supervise", "clockwork", "sandbox"),
    ):
        assert f"\n  {name} " in words


@pytest.mark.parametrize("group", ["failover", "conversation", "key", "endpoint"])
def test_every_command_says_what_it_does(group: str) -> None:
    """`--help` of a group has a sentence for each of its commands."""
    lines = run(group, "--help").output.split("Commands:\n")[1].splitlines()
    assert lines
    assert all(len(line.split()) > 2 for line in lines)


def test_without_redis_a_command_says_what_to_start() -> None:
    """Not a stack trace: what is missing, and both ways to have it."""
    result = run("status")
    assert result.exit_code == 1
    assert "`throughline up` is not running" in result.stderr
    assert "redis_url is not set" in result.stderr


def test_a_redis_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runbook's page stands in the answer; the password does not."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("THROUGHLINE_REDIS_URL", f"redis://:hush@127.0.0.1:{port}/0")
    result = run("status")
    assert result.exit_code == 1
    assert f"Redis does not answer at redis://127.0.0.1:{port}/0" in result.stderr
    assert "redis-down.md" in result.stderr
    assert ".." not in result.stderr
    assert "hush" not in result.output


def test_wrong_settings_end_with_status_2(folder: Path) -> None:
    """In a process of its own, as a service manager sees it: one line a fault, nothing started."""
    (folder / "throughline.toml").write_text("[web]\nport = 0\nhots = 'x'")
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-m", "router", "up"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert ended.returncode == 2
    assert "nothing was started" in ended.stderr
    assert "[web] port must be at least 1" in ended.stderr
    assert "Did you mean host?" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_said_before_anything_starts(folder: Path) -> None:
    """With its number and the setting that chooses it; no Redis was started for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (folder / "throughline.toml").write_text(f"[web]\nport = {port}")
        result = run("up")
    assert result.exit_code == 1
    assert f"Port {port} on 127.0.0.1 is in use" in result.stderr
    assert "[web] port" in result.stderr
    assert not (folder / "var/redis").exists()


def test_whoever_has_no_name_here_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run us as a user that no file knows; a failover must start there all the same."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert who_asks() == f"uid {os.getuid()}"


def test_a_secret_in_a_file_that_is_no_text_is_named(folder: Path) -> None:
    """With file, place and remedy, as every other fault of the settings is."""
    (folder / "secret.bin").write_bytes(b"\xff\xfe")
    (folder / "throughline.toml").write_text(f'secret = "${{file:{folder}/secret.bin}}"')
    with pytest.raises(SettingsError, match=r"secret: .*secret\.bin holds no text"):
        load_settings()


def test_a_second_up_on_the_same_folder_is_refused(folder: Path) -> None:
    """Two servers on one folder would destroy it."""
    settings = load_settings()
    with cli_up.only_one(settings.data_dir):
        result = run("up")
    assert result.exit_code == 1
    assert "already running" in result.stderr


def test_up_starts_vendors_first_and_a_dispatcher_for_each_channel() -> None:
    """Nobody begins by finding the stand-in vendors down."""
    settings = load_settings().model_copy(update={"redis_url": "unix:///x.sock?db=0"})
    names = [child.name for child in cli_up.children(settings, None)]
    assert names[:2] == ["sandbox", "web"]
    assert {"dispatch-email", "dispatch-chat", "dispatch-sms", "dispatch-phone"} < set(names)
    assert names[-2:] == ["supervise", "clockwork"]


def test_every_child_can_be_started_as_it_is_written() -> None:
    """Its command line is one that we read."""
    settings = load_settings().model_copy(update={"redis_url": "unix:///x.sock?db=0"})
    for child in cli_up.children(settings, None):
        name, *arguments = child.command[3:]
        throughline.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("role", ["agent", "ops", "admin"])
def test_roles_of_keys_are_written_as_the_api_writes_them(role: str) -> None:
    """In lower case."""
    assert cli_key.create.make_context("create", ["--role", role, "--name", "me"]).params["role"] == role


def test_children_are_told_where_redis_and_broker_are(folder: Path) -> None:
    """And which settings file; the environment they get is one that settings accept."""
    file = folder / "throughline.toml"
    file.write_text("")
    settings = load_settings().model_copy(update={"redis_url": "unix:///x.sock?db=0"})
    environment = cli_up.children(settings, file)[0].environment
    assert environment["THROUGHLINE_BROKER_URL"] == "redis+socket:///x.sock?virtual_host=1"
    assert environment["THROUGHLINE_SETTINGS"] == str(file)


def test_commands_find_the_private_redis_of_a_running_up(folder: Path) -> None:
    """Through a file in data_dir; a Redis in the settings wins over it."""
    settings = load_settings()
    assert with_redis(settings).redis_url is None
    write_run_file(settings.data_dir, "unix:///x.sock?db=0")
    assert read_run_file(settings.data_dir) == "unix:///x.sock?db=0"
    assert with_redis(settings).broker_url == "redis+socket:///x.sock?virtual_host=1"
    own = settings.model_copy(update={"redis_url": "redis://h"})
    assert with_redis(own).redis_url == "redis://h"


@pytest.mark.parametrize("provider", sorted(set(CHANNELS) - {"console"}))
def test_endpoint_add_writes_a_table_with_every_field(provider: str, folder: Path) -> None:
    """Each field of the provider, required ones to fill in, the others commented out."""
    assert run("endpoint", "add", provider, "--name", "acme").exit_code == 0
    text = (folder / "throughline.toml").read_text()
    assert f'id = "{CHANNELS[provider]}/acme"' in text
    for name, field in SETTINGS_OF[provider].model_fields.items():
        if field.is_required():
            assert f"\n{name} = " in text
        else:
            assert f"#{name} =" in text or f"#[endpoints.{name}]" in text or name in {"id", "provider"}


def test_what_endpoint_add_wrote_is_refused_until_it_is_filled_in(folder: Path) -> None:
    """The settings name what is still open."""
    run("endpoint", "add", "smpp")
    with pytest.raises(SettingsError, match="SMS_MAIN_PASSWORD is not set"):
        load_settings()


def test_endpoint_add_does_not_write_an_id_twice(folder: Path) -> None:
    """The second table would be refused at start."""
    run("endpoint", "add", "webchat")
    result = run("endpoint", "add", "webchat")
    assert result.exit_code == 1
    assert "already has an endpoint chat/main" in result.stderr
    assert (folder / "throughline.toml").read_text().count("[[endpoints]]") == 1


def test_a_filled_in_table_loads(folder: Path) -> None:
    """What it writes is what settings read."""
    table = write_table(SETTINGS_OF["webchat"], "webchat", "chat/main")
    (folder / "throughline.toml").write_text(table)
    assert load_settings().endpoints[0].id == "chat/main"


@pytest.mark.parametrize(("typed", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)])
def test_durations(typed: str, seconds: float) -> None:
    """People write units."""
    assert Duration().convert(typed, None, None) == seconds


def test_a_duration_without_a_unit_is_refused() -> None:
    """An hour or a second? Nobody may guess how long a failover holds."""
    result = run("failover", "start", "sms/acme", "--why", "maintenance", "--for", "60")
    assert result.exit_code == 2
    assert "90s, 30m, 2h or 1d" in result.output


def test_ages_are_readable() -> None:
    """Seconds, minutes, hours, days."""
    assert [ago(1000 - s, 1000) for s in (3, 600)] == ["3 s", "10 min"]
    assert ago(0, 1000) == ""


@pytest.mark.parametrize(
    ("moved", "messages", "expected"),
    [
        ({}, 0, "Nothing would move."),
        ({"sms/acme": 1}, 1, "Would move 1 conversation side, saying 1 message for 0 USD:"),
        ({"sms/acme": 1, "sms/other": 1}, 0, "Would move 2 conversation sides, saying 0 messages for 0 USD:"),
    ],
)
def test_a_preview_counts_in_words(
    capsys: pytest.CaptureFixture[str], moved: dict[EndpointId, int], messages: int, expected: str
) -> None:
    """One side, two sides, and nothing where nothing would move."""
    show_preview(Preview(moved, {}, {}, messages, Decimal(0), 0.0), "USD")
    assert capsys.readouterr().out.splitlines()[0] == expected


def test_passwords_are_not_shown() -> None:
    """A URL in a message keeps host, port and database only."""
    assert without_password("redis://u:hush@h:1/2") == "redis://h:1/2"


def test_doctor_without_redis_finds_nothing_to_put_right(folder: Path) -> None:
    """A fresh machine is in order: `up` will start its own."""
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "Nothing to put right" in result.output


def test_doctor_says_what_a_redis_would_lose(redis_url: str) -> None:
    """The tests' own server keeps nothing on disk: that is a fault, with its remedy."""
    found = list(cli_doctor.check_redis(redis_url))
    assert [finding.fault for finding in found] == [True]
    assert "appendonly is no, not yes" in found[0].words
    assert "redis.conf" in found[0].remedy


def test_doctor_finds_a_url_that_vendors_cannot_reach(folder: Path) -> None:
    """Twilio cannot call 127.0.0.1."""
    settings = Settings.model_validate(
        {
            "public_url": "http://127.0.0.1:8080",
            "endpoints": [
                {
                    "id": "sms/acme",
                    "provider": "twilio-sms",
                    "account_sid": "AC" + "0" * 32,
                    "auth_token": "t" * 32,
                    "from_number": "+15550100",
                }
            ],
        }
    )
    (found,) = cli_doctor.check_public_url(settings)
    assert found.fault
    assert "sms/acme" in found.words


class Probed:
    """An endpoint whose probe ends as told."""

    def __init__(self, ends: Exception | None) -> None:
        self._ends = ends

    async def probe(self) -> None:
        if self._ends is not None:
            raise self._ends


@pytest.mark.parametrize(
    ("ends", "fault", "remedy"),
    [
        (None, False, ""),
        (EndpointMisconfigured("auth", "the password is wrong"), True, "credentials"),
        (EndpointUnavailable("refused", "connection refused"), True, "status page"),
        (LocalFault("no DNS"), True, "our side"),
    ],
)
async def test_doctor_tells_whose_fault_it_is(ends: Exception | None, fault: bool, remedy: str) -> None:
    """Credential, vendor or ourselves: each has another remedy."""
    found = await cli_doctor.check_endpoint("sms/acme", cast("Adapter", Probed(ends)))
    assert found.fault is fault
    assert remedy in found.remedy


class OneWay:
    """An endpoint that can do what it is told."""

    def __init__(self, channel: Channel, replyable: bool) -> None:
        self.capabilities = Capabilities(channel=channel, provider="acme", text_max=1000, io_s=1.0, replyable=replyable)


@pytest.mark.parametrize(
    ("channel", "name", "fault", "words"),
    [
        (Channel.EMAIL, "email/support", True, "nobody can answer mail of email/support"),
        (Channel.SMS, "sms/acme", False, "nobody can answer what sms/acme says"),
    ],
)
def test_doctor_says_where_nobody_can_answer(channel: Channel, name: str, fault: bool, words: str) -> None:
    """Mail without a way in must be put right; a sender that is a name is told of; what takes answers is silent."""
    (found,) = cli_doctor.check_replyable(name, cast("Adapter", OneWay(channel, False)))
    assert found.fault is fault
    assert words in found.words
    assert not list(cli_doctor.check_replyable(name, cast("Adapter", OneWay(channel, True))))


async def test_doctor_says_that_mail_without_a_mailbox_cannot_be_answered(folder: Path, redis_url: str) -> None:
    """An smtp table without imap or lmtp: one line names the endpoint and the two tables that would mend it."""
    (folder / "throughline.toml").write_text(
        f'redis_url = "{redis_url}"\n[[endpoints]]\nid = "email/support"\nprovider = "smtp"\nhost = "127.0.0.1"\n'
        'port = 9\ntls = "none"\nfrom_address = "help@example.org"\n'
    )
    async with open_runtime(load_settings(), "cli") as runtime:
        found = await cli_doctor.check_endpoints(runtime)
    (line,) = [one for one in found if "answer" in one.words and one.subject == "email/support" and one.fault]
    assert line.words.startswith("nobody can answer mail of email/support")
    assert line.remedy == "Add [endpoints.imap] or [endpoints.lmtp]"


def test_up_names_a_data_dir_that_it_cannot_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the secret is set, so that nothing was written there before: a sentence, no traceback."""
    monkeypatch.setenv("THROUGHLINE_SECRET", "s" * 40)
    monkeypatch.setenv("THROUGHLINE_DATA_DIR", str(folder / "blocked/var"))
    (folder / "blocked").write_text("")
    result = run("up")
    assert result.exit_code == 1
    assert f"data_dir: the folder {folder}/blocked/var cannot be written" in " ".join(result.output.split())


def test_the_admin_key_file_is_for_its_owner_alone(folder: Path) -> None:
    """So is everything else that is secret in data_dir."""
    settings = load_settings()
    assert stat.S_IMODE((settings.data_dir / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


def test_the_run_file_is_json(folder: Path) -> None:
    """Other programs may read it too."""
    write_run_file(folder, "unix:///x.sock")
    assert json.loads((folder / "run.json").read_text()) == {"redis_url": "unix:///x.sock"}
