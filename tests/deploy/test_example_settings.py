"""The example settings: they load, every setting stands in them, and every default they show is the real one."""

import re
import tomllib
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr

from channels.registry import SETTINGS_OF
from router.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / "deploy/throughline.example.toml"
VARIABLE = re.compile(r"\$\{([A-Z_]+)\}")
VALUES = {
    "TWILIO_ACCOUNT_SID": "AC00000000000000000000000000000001",
    "ACME_SMPP_PASSWORD": "8letters",
}
DIFFERS = {
    # Shown with a value because the default depends on something else, or is none.
    *("templates_folder", "ca_file", "reply_domain", "sender_ton", "sender_npi", "region", "messaging_service_sid"),
    *("archive_url", "callback_number", "secret", "rate_per_s", "hold_s"),
}
COMMON = {"rate_per_s", "hold_s", "price", "canary", "canary_every_s", "canary_bound_s"}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example, with what its references stand for put in place."""
    monkeypatch.chdir(tmp_path)
    text = EXAMPLE.read_text()
    for name in set(VARIABLE.findall(text)):
        monkeypatch.setenv(name, VALUES.get(name, "a" * 40))
    (tmp_path / "signing").write_text("s" * 40)
    return text.replace("/run/secrets/throughline", str(tmp_path / "signing"))


def tables(text: str) -> dict[str, Any]:
    """The example with every commented setting put in force."""
    return tomllib.loads(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text))


def models() -> list[tuple[str, type[BaseModel]]]:
    return [(name, model) for name, field in Settings.model_fields.items() if (model := table_in(field.annotation))]


def table_in(annotation: Any) -> type[BaseModel] | None:
    parts = get_args(annotation) or (annotation,)
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def test_the_example_loads(text: str, tmp_path: Path) -> None:
    """As it stands, once its secrets are there."""
    file = tmp_path / "throughline.toml"
    file.write_text(text)
    settings = load_settings(file)
    assert {endpoint.provider for endpoint in settings.endpoints} == set(SETTINGS_OF)


def test_every_setting_of_the_router_stands_in_it(text: str) -> None:
    """A setting nobody can find is no setting."""
    shown = tables(text)
    assert set(Settings.model_fields) - set(shown) == set()
    for name, model in models():
        assert set(model.model_fields) - set(shown[name]) == set(), f"[{name}]"


def test_nothing_stands_in_it_that_is_no_setting(text: str) -> None:
    """Nor does it promise settings that are gone."""
    shown = tables(text)
    assert set(shown) - set(Settings.model_fields) == set()
    for name, model in models():
        assert set(shown[name]) - set(model.model_fields) == set(), f"[{name}]"


def test_every_field_of_every_provider_stands_in_it(text: str) -> None:
    """Over all tables of a provider together, and in the tables within them."""
    shown = tables(text)["endpoints"]
    for provider, model in SETTINGS_OF.items():
        given: dict[str, Any] = {}
        for table in shown:
            if table["provider"] == provider:
                given |= table
        for name, field in model.model_fields.items():
            assert name in given or (name in COMMON), f"{provider}: {name}"
            inner = table_in(field.annotation)
            if inner is not None:
                missing = set(inner.model_fields) - set(given[name])
                assert missing <= {"oauth2"}, f"{provider}: {name} lacks {missing}"


def test_the_defaults_shown_are_the_defaults(text: str) -> None:
    """What stands behind a `#` is what holds without it."""
    silent = tomllib.loads(text)
    shown = tables(text)
    wrong: list[str] = []

    def compare(where: str, model: type[BaseModel], all_of_it: dict[str, Any], in_force: dict[str, Any]) -> None:
        for name, field in model.model_fields.items():
            inner = table_in(field.annotation)
            if inner is not None and name in all_of_it:
                compare(f"{where} {name}", inner, all_of_it[name], in_force.get(name, {}))
            elif name in all_of_it and name not in in_force and name not in DIFFERS:
                default = plain(field.get_default(call_default_factory=True))
                if default is not None and all_of_it[name] != default:
                    wrong.append(f"{where} {name}: shows {all_of_it[name]!r}, is {default!r}")

    compare("", Settings, {k: v for k, v in shown.items() if k != "endpoints"}, silent)
    for all_of_it, in_force in zip(shown["endpoints"], silent["endpoints"], strict=True):
        compare(all_of_it["id"], SETTINGS_OF[all_of_it["provider"]], all_of_it, in_force)
    assert wrong == []


def test_every_setting_has_words_above_it() -> None:
    """In the router's own tables each line that sets something follows a comment."""
    lines = EXAMPLE.read_text().split("# Endpoints: one table")[0].splitlines()
    bare = [line for before, line in pairwise(lines) if re.match(r"#?[a-z_]+ = ", line) and not before.startswith("# ")]
    assert bare == []
