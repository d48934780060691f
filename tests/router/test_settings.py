"""Settings: one file, the environment over it, and every fault said with file, field and remedy."""

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from channels.chat.console import ConsoleSettings
from channels.registry import CHANNELS, SETTINGS_OF
from router.cli.endpoint import write_table
from router.settings import Settings, SettingsError, default_broker_url, load_settings
from router.settings_faults import IN_WORDS

TWILIO = """
[[endpoints]]
id = "sms/acme"
provider = "twilio-sms"
account_sid = "AC00000000000000000000000000000001"
auth_token = "0123456789abcdef0123456789abcdef"
from_number = "+15550100"
"""


pytestmark = pytest.mark.usefixtures("folder")


def write(folder: Path, text: str) -> Path:
    file = folder / "throughline.toml"
    file.write_text(text)
    return file


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(write(folder, text))
    return str(refused.value)


def test_without_a_file_there_are_defaults_and_the_sandbox(folder: Path) -> None:
    """Nothing configured is a working configuration: stand-in vendors, everything local."""
    settings = load_settings()
    assert settings.sandbox_enabled
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.data_dir == folder / "var"


def test_a_real_endpoint_switches_the_sandbox_off(folder: Path) -> None:
    """`auto` means: stand-in vendors only where nobody real is configured."""
    settings = load_settings(write(folder, TWILIO))
    assert [endpoint.id for endpoint in settings.endpoints] == ["sms/acme"]
    assert not settings.sandbox_enabled


def test_the_console_alone_is_no_real_endpoint(folder: Path) -> None:
    """Console and web chat speak to nobody by themselves, so the sandbox stays."""
    settings = load_settings(write(folder, '[[endpoints]]\nid="chat/console"\nprovider="console"'))
    assert settings.endpoints == (ConsoleSettings(),)
    assert settings.sandbox_enabled


def test_the_environment_wins_field_by_field(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable changes one field; the rest of its table stays as the file says."""
    monkeypatch.setenv("THROUGHLINE_WEB__PORT", "9000")
    settings = load_settings(write(folder, '[web]\nhost = "0.0.0.0"\nport = 8000'))
    assert (settings.web.host, settings.web.port) == ("0.0.0.0", 9000)


def test_the_variable_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$THROUGHLINE_SETTINGS is read where no path is given."""
    other = folder / "other.toml"
    other.write_text('organisation = "Acme"')
    monkeypatch.setenv("THROUGHLINE_SETTINGS", str(other))
    assert load_settings().organisation == "Acme"


def test_a_secret_is_made_once_and_is_private(folder: Path) -> None:
    """The second start signs with the same secret, and nobody else can read it."""
    first = load_settings().secret.get_secret_value()
    assert load_settings().secret.get_secret_value() == first
    assert len(first) >= 32
    assert stat.S_IMODE((folder / "var/secret").stat().st_mode) == 0o600


def test_roles_that_start_together_agree_on_the_secret(folder: Path) -> None:
    """Eight at once on an empty folder: one secret, no drafts left."""
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: load_settings().secret.get_secret_value(), range(8)))
    assert len(made) == 1
    assert [file.name for file in (folder / "var").iterdir()] == ["secret"]


def test_a_value_may_stand_in_the_environment_or_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials need not stand in the settings file."""
    (folder / "token").write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setenv("ACME_SID", "AC00000000000000000000000000000002")
    text = TWILIO.replace("AC00000000000000000000000000000001", "${ACME_SID}").replace(
        "0123456789abcdef0123456789abcdef", f"${{file:{folder}/token}}"
    )
    endpoint = load_settings(write(folder, text)).endpoints[0]
    assert endpoint.model_dump()["account_sid"] == "AC00000000000000000000000000000002"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[web]\nport = 99999", "[web] port must be at most 65535, not 99999"),
        ('[web]\nport = "http"', "[web] port must be a whole number"),
        ("[web]\nprot = 1", "[web] prot: there is no such setting. Did you mean port?"),
        ("organization = 'x'", "Did you mean organisation?"),
        ("[failover]\nchannel_order = ['fax']", "[failover] channel_order must be one of"),
        ("[failover]\nchannel_order = ['sms', 'sms']", "[failover] channel_order names a channel twice"),
        ("[messages]\nattempts_max = 0", "[messages] attempts_max must be at least 1"),
        ("[health]\nhold_s = -1", "[health] hold_s must be more than 0"),
        ("[sandbox]\nenabled = 'maybe'", "[sandbox] enabled must be 'auto'"),
        ("broker_url = 'redis+cluster://h'", "broker_url is a Redis Cluster, which Celery cannot use"),
        ("redis_url = 'http://h'", "redis_url must look like redis://"),
        ("redis_url = 'redis+sentinel://h:1'", "redis_url must name the primary after the sentinels"),
        ("redis_url = 'redis+cluster://h:1/3'", "redis_url a Redis Cluster has one database"),
        ("redis_url = 'redis+cluster://h:1,k'", "broker_url must be set beside a Redis Cluster"),
        ("broker_url = 'sentinel://h:1'", "broker_url must look like redis://"),
        ("redis_replicas = 9", "redis_replicas must be"),
        ("public_url = 'talk.example.org'", "public_url is no base URL"),
        ("secret = 'short'", "secret is too short to sign with"),
        ("shards = 65", "shards must be at most 64"),
        ("templates_folder = '/nowhere'", "templates_folder names a folder that does not exist"),
        ("control_hosts = ['192.0.2.1:443']", "control_hosts names one host only, or one twice: name two or more"),
        ("control_hosts = ['h:1', 'h:2']", "control_hosts names one host only, or one twice: name two or more"),
        ("control_hosts = ['192.0.2.1', 'h:1']", "control_hosts has '192.0.2.1', which is no host and port; write it"),
        ("control_hosts = '192.0.2.1:443'", "control_hosts must be a list in brackets"),
        (f"control_hosts = {[f'h{n}:1' for n in range(9)]}", "control_hosts must have at most 8 entries"),
        (
            "control_hosts = ['api.twilio.com:443', 'h:1']\n" + TWILIO,
            "control_hosts names api.twilio.com:443, which sms/acme is; name one of another owner",
        ),
        ("[attachments]\nfile_max_bytes = 9\ntotal_max_bytes = 8", "file_max_bytes exceeds total_max_bytes"),
        ("web = 3", "web must be a table"),
        ("a = [", "this is not valid TOML"),
        ("organisation = '${NOT_SET_ANYWHERE}'", "organisation: the environment variable NOT_SET_ANYWHERE is not set"),
        (
            "organisation = '${file:/nowhere}'",
            "organisation: /nowhere cannot be read: No such file or directory. Correct its name",
        ),
        ("[[endpoints]]\nid = 'sms/a'\nprovider = 'pigeon'", "[[endpoints]] number 1: provider must be one of"),
        ("[[endpoints]]\nid = 'sms/a'", "[[endpoints]] number 1: provider is missing"),
        (
            TWILIO.replace("sms/acme", "SMS acme"),
            "[[endpoints]] number 1 (twilio-sms): id must be a channel and a name, as in",
        ),
        (TWILIO.replace("+15550100", ""), "[[endpoints]] number 1 (twilio-sms): from_number is empty; fill it in."),
        ("organisation = ''", "organisation is empty; fill it in. Meaning: the name customers know"),
        ("public_url = ' '", "public_url is empty; fill it in"),
        ("currency = 'euro'", "currency must be a currency's three capital letters, as in USD, not 'euro'"),
        ("default_locale = 'it'", "default_locale 'it' has no texts; there are de, en, es, fr. Name one of them"),
        (TWILIO.replace("sms/acme", "email/acme"), "its id must begin with sms/"),
        (TWILIO + TWILIO, "have the id sms/acme twice"),
        (TWILIO + "colour = 1", "[[endpoints]] number 1 (twilio-sms): colour is no setting of this provider"),
        (TWILIO.replace("account_sid", "#"), "[[endpoints]] number 1 (twilio-sms): account_sid is missing. Add it"),
    ],
)
def test_a_fault_names_file_field_and_remedy(folder: Path, text: str, expected: str) -> None:
    """Each fault is one line that begins with the file."""
    words = refusal(folder, text)
    assert words.startswith(str(folder / "throughline.toml") + ": ")
    assert expected in words


def test_what_endpoint_add_wrote_is_said_to_be_empty(folder: Path) -> None:
    """Straight after `endpoint add`, what is left to be done is to fill it in: no word of forms and addresses."""
    words = refusal(folder, write_table(SETTINGS_OF["smtp"], "smtp", "email/main")).splitlines()
    file = folder / "throughline.toml"
    assert words == [
        f"{file}: [[endpoints]] number 1 (smtp): {field} is empty; fill it in." for field in ("host", "from_address")
    ]


def test_every_pattern_of_a_setting_has_its_words() -> None:
    """Nobody who fills in a form has to read a regular expression."""
    schema = json.dumps(Settings.model_json_schema())  # it holds the endpoints' tables
    patterns = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', schema))
    assert len(patterns) >= 10
    assert not {json.loads(pattern) for pattern in patterns} - set(IN_WORDS)


@pytest.mark.parametrize("locale", ["en", "de-AT", "fr-CA"])
def test_a_regional_variant_may_do_with_its_language(folder: Path, locale: str) -> None:
    """Its texts are those of the language."""
    assert load_settings(write(folder, f"default_locale = '{locale}'")).default_locale == locale


def test_an_organisations_own_language_may_be_the_default(folder: Path) -> None:
    """A file of texts makes it one of those there are."""
    (folder / "texts").mkdir()
    (folder / "texts/it.toml").write_text("")
    assert load_settings(write(folder, "default_locale = 'it'\ntemplates_folder = 'texts'")).default_locale == "it"


def test_a_data_dir_that_cannot_be_written_is_named(folder: Path) -> None:
    """The folder, as its owner knows it: not a draft of a file that they never heard of."""
    (folder / "blocked").write_text("")
    words = refusal(folder, "data_dir = 'blocked/var'")
    assert words.startswith(f"data_dir: the folder {folder}/blocked/var cannot be written or read: ")


def test_every_fault_is_named_at_once(folder: Path) -> None:
    """Nobody corrects a file line by line, start by start."""
    assert len(refusal(folder, "shards = 0\n[web]\nport = 0\nhost = ''").splitlines()) == 3


def test_a_fault_in_the_environment_names_the_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the file, where the value does not stand."""
    monkeypatch.setenv("THROUGHLINE_WEB__PORT", "http")
    words = refusal(folder, "")
    assert words.startswith("environment variable THROUGHLINE_WEB__PORT: [web] port must be a whole number")


def test_a_list_in_the_environment_must_be_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal shows how to write it."""
    monkeypatch.setenv("THROUGHLINE_FAILOVER__CHANNEL_ORDER", "sms,email")
    assert "as JSON" in refusal(folder, "")


def test_an_unknown_variable_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in a variable's name must not be a setting silently lost."""
    monkeypatch.setenv("THROUGHLINE_REDISURL", "redis://h")
    assert "Did you mean THROUGHLINE_REDIS_URL?" in refusal(folder, "")


def test_a_refusal_holds_no_credentials(folder: Path) -> None:
    """Neither the words nor the error they were made from quote what an endpoint's table says."""
    with pytest.raises(SettingsError) as refused:
        load_settings(write(folder, TWILIO.replace("+15550100", "no number!") + "redis_url = 'redis://:pw1234@h'"))
    assert "0123456789abcdef" not in str(refused.value) + str(refused.value.__cause__)
    assert "pw1234" not in str(refused.value) + str(refused.value.__cause__)


def test_a_named_file_must_exist(folder: Path) -> None:
    """Only the default file may be absent."""
    with pytest.raises(SettingsError, match="there is no such file"):
        load_settings(folder / "absent.toml")


@pytest.mark.parametrize(
    ("redis_url", "expected"),
    [
        ("unix:///run/x.sock?db=0", "redis+socket:///run/x.sock?virtual_host=1"),
        ("redis://h:6379/0", "redis://h:6379/1"),
        ("rediss://u:p@h/0?ssl_cert_reqs=required", "rediss://u:p@h/1?ssl_cert_reqs=required"),
        ("redis://h?db=0", "redis://h/1"),
    ],
)
def test_the_broker_is_database_1_beside_ours(redis_url: str, expected: str) -> None:
    """Celery names the same server in its own words."""
    assert default_broker_url(redis_url) == expected


def test_every_provider_has_settings_and_a_channel() -> None:
    """The registry's tables name the same providers."""
    assert set(SETTINGS_OF) == set(CHANNELS)
