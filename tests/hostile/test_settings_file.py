"""A settings file with anything in it: refused with its place, in words, and never with what is secret in it."""

import os
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from router.settings import Settings, SettingsError, load_settings
from tests.hostile.mutation import SEED, cases

SECRETS = ("pw-Wolkenbruch-1", "tok-Wolkenbruch-2", "dsn-Wolkenbruch-3", "key-Wolkenbruch-4-of-more-than-32-characters")
SETTINGS_TOML = f"""
organisation = "Acme"
secret = "{SECRETS[3]}"
redis_url = "redis://:{SECRETS[0]}@127.0.0.1:6379/0"
archive_url = "postgresql://us:{SECRETS[2]}@127.0.0.1/archive"
control_hosts = ["198.51.100.1:53", "198.51.100.2:53"]

[web]
port = 8080

[health]
hold_s = 30.0

[failover]
channel_order = ["email", "sms"]

[[endpoints]]
id = "email/support"
provider = "smtp"
host = "mail.example.org"
from_address = "support@example.org"
username = "us"
password = "{SECRETS[0]}"
price = "0.001"
[endpoints.imap]
host = "mail.example.org"
username = "us"
password = "{SECRETS[0]}"

[[endpoints]]
id = "sms/twilio"
provider = "twilio-sms"
account_sid = "AC00000000000000000000000000000001"
auth_token = "{SECRETS[1]}"
from_number = "+12025550101"

[[endpoints]]
id = "sms/acme"
provider = "smpp"
host = "smpp.example.org"
system_id = "us"
password = "{SECRETS[0][:8]}"
sender = "+12025550102"
"""
STRANGE = (
    *('""', '"x"', '"\\u0000"', '"\\uD7FF\\U0010FFFF"', '"' + "x" * 100_000 + '"', '"~nobody-of-that-name/x"'),
    *('"${NOBODY_SET_THIS}"', '"${a\\u0000b}"', '"${a=b}"'),
    *('"${file:/does/not/exist}"', '"${file:/dev}"', '"${file:/dev/zero}"', '"${file:\\u0000}"'),
    *("0", "-1", "1e400", "-inf", "nan", "9223372036854775807", "99999999999999999999999999", "true"),
    *("[]", "[[]]", "[1, [2]]", '["x", 1]', "{}", "{a = {b = 1}}", "1979-05-27T07:32:00Z", "07:32:00"),
    *('"redis://[::1"', '"redis://h:99999"', '"redis://h/x"', '"redis+sentinel://"', '"+sentinel://"'),
    *('"postgresql://h:x/y"', '"http://[/"', '"http://h:port"'),
)
"""Values as they stand in a file; each is wrong nearly everywhere."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("THROUGHLINE_"):
            monkeypatch.delenv(name)
    return tmp_path


def load(folder: Path, octets: bytes, name: str) -> str:
    """What is said against it; empty: nothing. Only the settings' own error may come, and it names where."""
    file = folder / "throughline.toml"
    file.write_bytes(octets)
    try:
        load_settings(file)
    except SettingsError as refused:
        words = str(refused)
        assert words.strip(), name
        assert all(len(line) < 2000 for line in words.splitlines()), name
        for secret in SECRETS:
            assert secret not in words + str(refused.__cause__), name
        assert "Traceback" not in words
        return words
    return ""


def test_the_sample_is_good(folder: Path) -> None:
    """Otherwise the rest would say little."""
    assert load(folder, SETTINGS_TOML.encode(), "the sample") == ""


def test_no_octets_make_reading_the_settings_fall_over(folder: Path) -> None:
    """Bits, cuts, copies and absurd numbers in a good file: taken, or refused in words that begin with a place."""
    tokens = [one.encode() for one in STRANGE] + [b"[[endpoints]]", b"[", b"]]", b"=", b"'''", b"\n", b"\xff", b"\x00"]
    for case in cases("settings", [SETTINGS_TOML.encode()], tokens, size_max=200_000):
        # Cut inside a credential, what is left of it is another text; the place is what counts there.
        words = load(folder, case.octets, case.name)
        for line in words.splitlines():
            assert line.startswith((str(folder), "data_dir")), (case.name, line)


@pytest.mark.parametrize("words", [b"9" * 5000, b"[" * 20_000 + b"]" * 20_000], ids=["number", "lists"])
def test_what_no_reader_of_toml_can_hold_is_said_in_words(folder: Path, words: bytes) -> None:
    """Python's own reader breaks on these in its own ways."""
    assert "thousands of digits, or its lists" in load(folder, b"redis_url = " + words, "absurd")


def test_a_name_of_thousands_of_letters_is_not_repeated_whole(folder: Path) -> None:
    """Neither a setting's nor an endpoint's."""
    octets = f"{'x' * 6000} = 1\n[dispatch]\n{'y' * 6000} = 1\n[[endpoints]]\nprovider = 'smtp'\n{'z' * 6000} = 1\n"
    words = load(folder, octets.encode(), "long names")
    assert [sign for sign in "xyz" if sign * 40 in words] == list("xyz")


def _places(table: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value in tables and lists."""
    found = [place] if place else []
    inner = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in inner:
        found += _places(value, (*place, key))
    return found


def _all_places() -> list[tuple[Any, ...]]:
    """Those of the sample, and of every setting that has a default."""
    tables = {name: field.default for name, field in Settings.model_fields.items()}
    named = [(name,) for name in tables]
    named += [
        (name, key) for name, one in tables.items() if isinstance(one, BaseModel) for key in type(one).model_fields
    ]
    return list(dict.fromkeys([*_places(tomllib.loads(SETTINGS_TOML)), *named]))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, Strange):
        return value.words
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value).replace("'", '"')


class Strange:
    """A value as it stands in the file."""

    def __init__(self, words: str) -> None:
        self.words = words


def test_no_value_in_any_place_makes_reading_the_settings_fall_over(folder: Path) -> None:
    """Each setting there is, in turn, with values it was not made for: the refusal names the setting."""
    chance, refused, tried = random.Random(f"{SEED}/settings"), 0, 0
    for place in _all_places():
        for words in chance.sample(STRANGE, 4):
            tables = tomllib.loads(SETTINGS_TOML)
            spot: Any = tables
            for key in place[:-1]:
                spot = spot.setdefault(key, {}) if isinstance(spot, dict) else spot[key]
            spot[place[-1]] = Strange(words)
            text = "\n".join(f"{key} = {_toml(value)}" for key, value in tables.items())
            case = f"FUZZ_SEED={SEED} {place} = {words[:80]}"
            said = load(folder, text.encode(), case)
            assert not said or str(place[0]) in said, (case, said[:300])
            refused, tried = refused + bool(said), tried + 1
    assert refused > tried / 2, "values that nothing refuses try nothing"
