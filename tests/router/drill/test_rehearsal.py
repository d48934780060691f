"""What a drill rehearses: the settings' own policy, and nothing of theirs that leads to anybody."""

import os
import re
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from channels.registry import SETTINGS_OF
from channels.sandbox.vendor import Journal, Vendor
from router.demo.stage import SETTINGS as QUICK
from router.drill import rehearsal
from router.drill.crowd import find_drillable
from router.drill.rehearsal import (
    COMMON,
    HEAD,
    POLICY,
    TABLES,
    RehearsalFault,
    build_vendors,
    find_shared,
    forget_credentials,
    write_rehearsal,
)
from router.runtime import all_endpoints
from router.settings import Settings, load_settings

KEPT_AS_THEY_ARE = {"id", "provider", "locale", "organisation", "default_locale", "default_country", "currency"}
MODES = {"starttls"}


@dataclass
class Rehearsed:
    """What a drill of some settings runs on."""

    text: str
    settings: Settings
    vendors: list[Vendor]

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in tomllib.loads(self.text)["endpoints"]}


async def rehearse(real: Settings, *, quick: bool = False) -> Rehearsed:
    """The rehearsed settings, with the stand-ins really listening while they are written."""
    vendors = build_vendors(real, Journal(), "http://127.0.0.1:39999")
    try:
        for vendor in vendors:
            await vendor.start()
        text = write_rehearsal(real, vendors, 39_999, quick=quick)
    finally:
        for vendor in vendors:
            await vendor.stop()
    return Rehearsed(text, Settings(**tomllib.loads(text)), vendors)


@pytest.fixture
async def rehearsed(real: Settings) -> AsyncIterator[Rehearsed]:
    yield await rehearse(real)


def texts(value: object, name: str = "") -> Iterator[str]:
    """Every text and number of a TOML document but what is rehearsed as it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, name)
    elif name == "port" or (isinstance(value, str) and name not in KEPT_AS_THEY_ARE | {"channel_order", "price"}):
        yield str(value)


def test_no_host_port_credential_or_number_of_the_real_settings_is_rehearsed(
    real: Settings, real_text: str, rehearsed: Rehearsed
) -> None:
    """Nor any part of a URL: looked for in the text of the rehearsed file, value by value."""
    found = set(texts(tomllib.loads(real_text))) - MODES
    ports = {one for one in found if one.isdigit()} | {one for text in found for one in re.findall(r":(\d+)", text)}
    assert len(found) > 35 and len(ports) > 7
    for one in found - ports | {"hush", "colis.example", "+336446"}:
        assert one not in rehearsed.text, one
    assert not ports & set(re.findall(r"(?:port = |:)(\d+)", rehearsed.text))
    assert find_shared(real, rehearsed.settings) == []


def test_everything_rehearsed_stays_on_this_machine(rehearsed: Rehearsed) -> None:
    """Hosts are loopback, mailboxes in a reserved domain, numbers kept for fiction and not those of the settings."""
    for row in rehearsed.tables.values():
        where = [str(row.get(name)) for name in ("host", "api_base") if name in row]
        assert all("127.0.0.1" in one for one in where)
        for name in ("from_address", "canary", "sender", "from_number"):
            said = str(row.get(name, "x@drill.test"))
            assert re.fullmatch(r"\+16\d\d55501\d\d|[a-z0-9]+@drill\.test|Drill[0-9a-f]{4}", said), said
    assert rehearsed.tables["phone/twilio"]["from_number"] != "+16015550100"
    assert rehearsed.settings.redis_url is None and rehearsed.settings.broker_url is None
    assert rehearsed.settings.archive_url == SecretStr("") and not rehearsed.settings.sandbox_enabled
    assert rehearsed.settings.control_hosts == ("127.0.0.1:39999", "localhost:39999")


def test_the_policy_is_the_real_one(real: Settings, rehearsed: Rehearsed) -> None:
    """Every table of policy, the words customers read by, and each endpoint by id, provider and numbers."""
    for name in (*HEAD, *TABLES):
        assert getattr(rehearsed.settings, name) == getattr(real, name), name
    ours = {one.id: one for one in all_endpoints(real)}
    theirs = {one.id: one for one in all_endpoints(rehearsed.settings)}
    assert list(ours) == list(theirs)
    for identity, one in ours.items():
        assert theirs[identity].provider == one.provider
        for kept in (*COMMON, *POLICY[one.provider]):
            assert getattr(theirs[identity], kept) == getattr(one, kept), (identity, kept)
        assert bool(theirs[identity].canary) == bool(one.canary)
    assert theirs["phone/twilio"].hold_s is None


def test_who_cannot_be_answered_cannot_be_answered_in_the_drill(real: Settings, rehearsed: Rehearsed) -> None:
    """One-way senders carry no conversation, so they must not seem to be a way out."""
    there = find_drillable(real)
    assert there == ["email/support", "sms/acme", "sms/twilio", "phone/twilio"]
    assert find_drillable(rehearsed.settings) == there


def test_every_setting_is_policy_leads_nowhere_or_leads_somewhere() -> None:
    """A new one is not rehearsed until somebody decides: add it here, or in the drill to one of its lists."""
    leading = {"public_url", "redis_url", "broker_url", "archive_url", "secret", "control_hosts"}
    assert set(Settings.model_fields) == leading | rehearsal.NOWHERE | set(HEAD)


@pytest.mark.parametrize("provider", SETTINGS_OF)
def test_every_field_of_a_provider_is_policy_or_invented(provider: str) -> None:
    """A new field is not rehearsed until somebody decides that it leads nowhere: add it here or to POLICY."""
    invented = {
        "smtp": {
            *("host", "port", "tls", "ca_file", "username", "password", "oauth2", "from_address", "from_name"),
            *("reply_domain", "authserv_id", "imap", "lmtp"),
        },
        "smpp": {
            *("host", "port", "tls", "ca_file", "system_id", "password", "system_type", "sender", "sender_ton"),
            *("sender_npi", "region", "receipt_ids"),
        },
        "twilio-sms": {"account_sid", "auth_token", "api_base", "from_number", "messaging_service_sid"},
        "twilio-voice": {
            *("account_sid", "auth_token", "api_base", "from_number", "callback_number", "connect_allowed"),
        },
        "webchat": {"title", "allowed_origins", "secret"},
        "console": set(),
    }[provider]
    fields = set(SETTINGS_OF[provider].model_fields)
    assert fields == {"id", "provider", "canary", *COMMON, *POLICY[provider]} | invented


@pytest.mark.parametrize(("name", "kept"), [("port", 2525), ("host", "mail.colis.example")])
async def test_a_rehearsal_with_something_real_in_it_is_refused(
    real: Settings, monkeypatch: pytest.MonkeyPatch, name: str, kept: object
) -> None:
    """Even if the stand-in's own table named it."""

    def leak(vendor: Any) -> dict[str, object]:
        return {**told(vendor), name: kept, "tls": "starttls"}

    told = rehearsal.MailVendor.endpoint_table
    monkeypatch.setattr(rehearsal.MailVendor, "endpoint_table", leak)
    with pytest.raises(RehearsalFault, match="Nothing was started"):
        await rehearse(real)


async def test_a_text_listed_as_policy_is_refused(real: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and truths alone are copied, whatever the list of fields says."""
    monkeypatch.setattr(rehearsal, "POLICY", {**POLICY, "smpp": ("host",)})
    with pytest.raises(RehearsalFault, match="host is no number"):
        await rehearse(real)


async def test_quick_puts_the_demos_hold_and_ramp_over_the_settings(real: Settings) -> None:
    """And nothing else."""
    quick = await rehearse(real, quick=True)
    assert quick.settings.health.hold_s == QUICK["health"]["hold_s"] != real.health.hold_s
    assert quick.settings.failover.park_s == 17.0
    assert {row.get("hold_s") for row in quick.tables.values()} == {4.0, None}


async def test_without_settings_the_sandboxs_own_endpoints_are_drilled() -> None:
    """By the same ids, with other credentials and ports than a running sandbox has."""
    ours = load_settings()
    rehearsed = await rehearse(ours)
    assert find_drillable(ours) == ["email/sandbox", "sms/sandbox", "sms/backup", "phone/sandbox"]
    assert list(rehearsed.tables) == [one.id for one in all_endpoints(ours)]


def test_real_credentials_leave_the_environment(real: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those the settings took from it: every process of the drill would inherit them."""
    monkeypatch.setenv("SOME_MAIL_PASSWORD", "hush-mail")
    monkeypatch.setenv("SOMETHING_ELSE", "stays")
    forget_credentials(real)
    assert not {"REAL_SECRET", "SOME_MAIL_PASSWORD"} & os.environ.keys()
    assert os.environ["SOMETHING_ELSE"] == "stays"
