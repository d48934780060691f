"""Settings for a drill: the policy of the real ones, built anew around stand-in vendors; nothing that leads outside."""

import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import assert_never

from pydantic import BaseModel, SecretStr

from channels.messages import Channel
from channels.registry import CHANNELS, AnyEndpointSettings
from channels.sandbox.mail import MailVendor
from channels.sandbox.smsc import SmscVendor
from channels.sandbox.twilio import TwilioSmsVendor, TwilioVoiceVendor
from channels.sandbox.vendor import Journal, Vendor
from router.demo.stage import HOLD_S, StageFault, write_toml
from router.demo.stage import SETTINGS as QUICK
from router.runtime import all_endpoints
from router.settings import Settings

HEAD = ("organisation", "default_locale", "currency", "default_country")
"""Words that are rehearsed as they are: what customers read depends on them."""
TABLES = ("failover", "messages", "strangers", "health", "dispatch", "attachments")
"""Tables of policy: nothing in them leads anywhere."""
NOWHERE = frozenset(
    {
        *HEAD,
        *TABLES,
        "templates_folder",
        "data_dir",
        "web",
        "archive",
        "sandbox",
        "shards",
        "redis_replicas",
        "endpoints",
    }
)
"""Settings that lead to nobody, and the endpoints, which are looked at one by one."""
COMMON = ("rate_per_s", "hold_s", "price", "canary_every_s", "canary_bound_s")
"""What of every endpoint's table is policy."""
POLICY: Mapping[str, tuple[str, ...]] = {
    "smtp": ("connections_max", "idle_s", "files_max_bytes"),
    "smpp": ("window", "enquire_link_s", "segments_max", "wide_reference", "validity", "partial_after_s"),
    "twilio-sms": (),
    "twilio-voice": ("locale",),
    "webchat": ("ask_details",),
    "console": (),
}
"""And of each provider's own fields; every other one names somebody or opens something, so it is invented."""
LANGUAGE = "locale"
"""The one word among them: a language tag, by its settings' own rule."""
DOMAIN = "drill.test"
"""Reserved (RFC 6761, section 6.2): no mail to it ever leaves."""
AREA_CODES = range(601, 700)
"""555-0100 to 555-0199 are kept for fiction in each; the invented customers have other area codes."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
MODES = frozenset({"", "none", "tls", "starttls", "lmtp", "smtp", "same", "decimal", "hex", "INBOX"})
"""Texts that choose between ways of speaking and lead nowhere."""


class RehearsalFault(StageFault):
    """This cannot be rehearsed; the text says why and what to do."""


def build_vendors(settings: Settings, journal: Journal, router_url: str) -> list[Vendor]:
    """A stand-in of the same provider for each endpoint that has a vendor, under the same id; not started."""
    invented = Invented(texts_of(settings))
    made = (_build_vendor(endpoint, journal, router_url, invented) for endpoint in all_endpoints(settings))
    return [vendor for vendor in made if vendor is not None]


def _build_vendor(
    endpoint: AnyEndpointSettings, journal: Journal, router_url: str, invented: "Invented"
) -> Vendor | None:
    identity, token = endpoint.id, secrets.token_hex(16)
    canary = invented.address(CHANNELS[endpoint.provider]) if endpoint.canary else ""
    if endpoint.provider == "smtp":
        mailbox = invented.mailbox()
        return MailVendor(journal, endpoint=identity, from_address=mailbox, password=token, canary=canary)
    if endpoint.provider == "smpp":
        return SmscVendor(
            journal,
            endpoint=identity,
            system_id=f"drill-{token[:8]}",
            password=token[8:16],  # SMPP 3.4 allows eight
            number=invented.number(),
            canary=canary,
        )
    if endpoint.provider == "twilio-sms":
        number = invented.number() if can_be_answered(endpoint) else invented.name()
        sms = TwilioSmsVendor(identity, journal, router_url, number=number, auth_token=token, canary=canary)
        sms.account_sid = f"AC{secrets.token_hex(16)}"
        return sms
    if endpoint.provider == "twilio-voice":
        voice = TwilioVoiceVendor(
            identity, journal, router_url, number=invented.number(), auth_token=token, auto="answer"
        )
        voice.account_sid = f"AC{secrets.token_hex(16)}"
        return voice
    if endpoint.provider == "webchat" or endpoint.provider == "console":  # noqa: PLR1714 - mypy narrows no set
        return None
    assert_never(endpoint)


def write_rehearsal(settings: Settings, vendors: Sequence[Vendor], port: int, *, quick: bool) -> str:
    """The `throughline.toml` of the drill, whose web role takes `port`; the vendors listen already.

    It is made of the stand-ins' own tables and the policy of `settings`, field by field: the real tables are never
    copied. `quick` puts the demo's shorter hold and ramp over it.

    Raises:
        RehearsalFault: something of the real settings that leads outside would be in it.
    """
    tables: dict[str, dict[str, object]] = {"web": {"port": port}, "sandbox": {"enabled": False}}
    for name in TABLES:
        table: BaseModel = getattr(settings, name)
        tables[name] = _present(table.model_dump(mode="json"))
    for name, fields in QUICK.items() if quick else ():
        tables[name] |= fields
    head: dict[str, object] = {name: getattr(settings, name) for name in HEAD}
    if settings.templates_folder is not None:
        head["templates_folder"] = str(settings.templates_folder)
    if settings.control_hosts:  # so that this outage is not taken for our own, as it would not be there
        head["control_hosts"] = [f"{host}:{port}" for host in ("127.0.0.1", "localhost")]
    reached = {vendor.endpoint: vendor for vendor in vendors}
    endpoints = [_rehearse(one, reached.get(one.id), quick=quick) for one in all_endpoints(settings)]
    text = write_toml({**head, "data_dir": "."}, tables, endpoints)
    if shared := find_shared(settings, Settings(**tomllib.loads(text))):
        raise RehearsalFault(
            f"Nothing was started: {len(shared)} of your hosts, ports or addresses would be in the rehearsal. They are "
            "chosen anew each time, so start it again; if this repeats, it is a defect."
        )
    return text


def _rehearse(endpoint: AnyEndpointSettings, vendor: Vendor | None, *, quick: bool) -> dict[str, object]:
    """One endpoint's table: where its stand-in is, and what its own says about policy."""
    if vendor is None:
        return {"id": endpoint.id, "provider": endpoint.provider, **_policy(endpoint)}
    row = {**vendor.endpoint_table(), **_policy(endpoint)}
    if endpoint.provider == "smtp" and not can_be_answered(endpoint):
        del row["lmtp"]
    if endpoint.provider == "smpp" and not can_be_answered(endpoint):
        row["sender"] = Invented(frozenset()).name()
    if vendor.canary:
        row["canary"] = vendor.canary
    if quick:
        row["hold_s"] = HOLD_S
    return row


def _policy(endpoint: AnyEndpointSettings) -> dict[str, object]:
    """Numbers and truths alone, whatever becomes of the list of fields.

    Raises:
        RehearsalFault: a field that is listed as policy holds something else.
    """
    found: dict[str, object] = {}
    for name in (*COMMON, *POLICY[endpoint.provider]):
        value = getattr(endpoint, name)
        if value is None or (name.startswith("canary") and not endpoint.canary):
            continue
        if name != LANGUAGE and not isinstance(value, bool | int | float | Decimal):
            raise RehearsalFault(f"{endpoint.id}: {name} is no number, so it is not rehearsed.")
        found[name] = str(value) if isinstance(value, Decimal) else value
    return found


def _present(table: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in table.items() if value is not None}


def can_be_answered(endpoint: AnyEndpointSettings) -> bool:
    """Whether people can reply there, as its adapter says: conversations live nowhere else."""
    if endpoint.provider == "smtp":
        return endpoint.imap is not None or endpoint.lmtp is not None
    if endpoint.provider == "smpp":
        return endpoint.is_numeric
    if endpoint.provider == "twilio-sms":
        return not any(letter.isalpha() for letter in endpoint.from_number or "")
    return True


class Invented:
    """Addresses nobody has: in reserved ranges, none twice, none that is in `taken`."""

    def __init__(self, taken: frozenset[str]) -> None:
        self._taken = taken
        self._numbers = self._free(f"+1{area}55501{line:02d}" for area in AREA_CODES for line in range(100))
        self._mailboxes = self._free(f"desk{number}@{DOMAIN}" for number in range(1, 10_000))

    def number(self) -> str:
        """A telephone number kept for fiction."""
        return next(self._numbers)

    def mailbox(self) -> str:
        """A mailbox of a reserved domain."""
        return next(self._mailboxes)

    def name(self) -> str:
        """A sender that nobody can answer, as telephones show it: at most 11 characters."""
        return f"Drill{secrets.token_hex(2)}"

    def address(self, channel: Channel) -> str:
        """On that channel."""
        return self.mailbox() if channel is Channel.EMAIL else self.number()

    def _free(self, offered: Iterator[str]) -> Iterator[str]:
        return (one for one in offered if one not in self._taken and one.removeprefix("+") not in self._taken)


def texts_of(settings: Settings) -> frozenset[str]:
    """Every text in them, secrets too."""
    models: list[BaseModel] = [settings, *all_endpoints(settings)]
    return frozenset(_plain(value) for model in models for _, value in _leaves("", model.model_dump()))


def find_shared(real: Settings, rehearsed: Settings) -> list[str]:
    """Hosts, ports, credentials and addresses that stand in both; there must be none."""
    return sorted(_leading(real) & _leading(rehearsed))


def _leading(settings: Settings) -> set[str]:
    """Whatever leads to somebody, or opens something."""
    top = {name: getattr(settings, name) for name in Settings.model_fields if name not in NOWHERE}
    found = {_plain(value) for _, value in _leaves("", top) if isinstance(value, str | SecretStr)}
    for endpoint in all_endpoints(settings):
        policy = {"id", "provider", *COMMON, *POLICY[endpoint.provider]}
        fields = {name: value for name, value in endpoint.model_dump().items() if name not in policy}
        for name, value in _leaves("", fields):
            if isinstance(value, str | SecretStr):
                found.add(_plain(value))
            elif name == "port":
                found.add(f"port {value}")
    return found - MODES - LOOPBACK


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Each single value with the name of its field."""
    if isinstance(value, Mapping):
        for inner, each in value.items():
            yield from _leaves(str(inner), each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(name, each)
    elif value is not None:
        yield name, value


def forget_credentials(settings: Settings) -> None:
    """Take out of the environment what real secrets it holds: the drill's processes inherit it."""
    models: list[BaseModel] = [settings, *settings.endpoints]
    found = (value for model in models for _, value in _leaves("", model.model_dump()))
    held = {value.get_secret_value() for value in found if isinstance(value, SecretStr)}
    for name in [name for name, value in os.environ.items() if value in held]:
        del os.environ[name]
