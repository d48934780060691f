"""`throughline doctor`: is everything there that the router needs? One line each, and what to do."""

import asyncio
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import redis
from rich.markup import escape

from channels.contract import CANARY_FORMS, Adapter
from channels.email.smtp import SmtpSettings
from channels.errors import EndpointMisconfigured, LocalFault, SendFailed
from channels.messages import Channel
from router.archive.archive import ARCHIVE_FILE, Archive
from router.archive.database import ArchiveError, database_of
from router.cli.rim import (
    ANSWER_WITHIN_S,
    CLOCKWORK_LATE_S,
    FAULT_STATUS,
    Session,
    out,
    ping,
    say_frozen,
    say_went_back,
    with_redis,
)
from router.control_probe import connect_to, read_control_hosts
from router.settings import Settings
from router.store import keys
from router.store.connecting import open_primaries, without_password
from router.store.freezing import read_frozen
from router.store.going_back import read_went_back

if TYPE_CHECKING:
    from router.runtime import Runtime

PROBE_WITHIN_S = 15.0
DISK_FREE_MIN_BYTES = 1_000_000_000
REDIS_VERSION_MIN = (6, 2)
REDIS_REMEDIES = (
    ("address mismatch", "Its certificate does not name that address: write its name, or ?ssl_check_hostname=false"),
    ("Hostname mismatch", "Its certificate is for another name: write that one, or ?ssl_check_hostname=false"),
    ("CERTIFICATE_VERIFY_FAILED", "Name the authority that signed it in redis_url: ?ssl_ca_certs=/path/authority.pem"),
    ("SSL", "It does not speak TLS there: correct the port, or write redis instead of rediss"),
    ("reset by peer", "It may speak TLS only: then write rediss instead of redis; else look at its log"),
    ("closed by server", "It may speak TLS only: then write rediss instead of redis; else look at its log"),
    ("username-password", "Correct user and password in redis_url"),
    ("Authentication required", "Put its user and password into redis_url"),
    ("permission", "Give that user what deploy/redis/throughline.acl lists"),
)  # fmt: skip
"""What a server that cannot be used says, and what to do; the first that fits."""
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fault` True: it must be put right; `remedy` says how."""

    subject: str
    words: str
    fault: bool = False
    remedy: str = ""


@click.command()
@click.pass_obj
def doctor(session: Session) -> None:
    """Check settings, folders, Redis, and every endpoint's credentials and reachability. Status 1 on any fault."""
    findings = [Finding("settings", f"{session.file or 'none: defaults'}, read without fault")]
    settings = with_redis(session.settings)
    findings += check_folder(settings.data_dir)
    findings += check_public_url(settings)
    findings += check_mail_trust(settings)
    findings += check_canaries(settings)
    findings += asyncio.run(check_control_hosts(settings))
    findings.append(asyncio.run(check_archive(settings)))
    if settings.redis_url is None:
        findings.append(Finding("redis", "none set and `throughline up` is not running: it will start a private one"))
    else:
        findings += check_redis(settings.redis_url)
    for finding in findings:
        _say(finding)
    reachable = settings.redis_url is not None and not any(
        found.fault for found in findings if found.subject == "redis"
    )
    if settings.redis_url is not None and not ping(settings.redis_url):
        for finding in session.ask(_check_store):
            findings.append(finding)
            _say(finding)
    if reachable:
        for finding in session.ask(check_endpoints):
            findings.append(finding)
            _say(finding)
    else:
        _say(Finding("endpoints", "not tried: that needs Redis. Run `throughline doctor` again while it runs"))
    faults = sum(found.fault for found in findings)
    if faults:
        out.print(f"\n{faults} to put right.")
        sys.exit(FAULT_STATUS)
    out.print("\nNothing to put right.")


def check_folder(folder: Path) -> Iterator[Finding]:
    """Can we write there, and for how long?"""
    try:
        probe = folder / ".doctor"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding("data_dir", f"{folder}: {error.strerror}", True, "Give this user the folder, or name another")
        return
    if free < DISK_FREE_MIN_BYTES:
        yield Finding(
            "data_dir",
            f"{folder}: only {free // 1_000_000} MB free",
            True,
            "Make room: when the disk is full, Redis takes nothing more",
        )
        return
    yield Finding("data_dir", f"{folder}: writable, {free / 1e9:.0f} GB free")


def check_public_url(settings: Settings) -> Iterator[Finding]:
    """Can vendors call us?"""
    called = [endpoint.id for endpoint in settings.endpoints if endpoint.provider.startswith("twilio")]
    parts = urlsplit(settings.public_url)
    if called and (parts.hostname in LOCAL_HOSTS or parts.scheme != "https"):
        yield Finding(
            "public_url",
            f"{settings.public_url} cannot be reached by the vendors of {', '.join(called)}",
            True,
            "Set public_url to the https address under which the internet reaches the web role",
        )
        return
    yield Finding("public_url", settings.public_url)


def check_mail_trust(settings: Settings) -> Iterator[Finding]:
    """Does our own mail server tell us whose mail is forged?"""
    for endpoint in settings.endpoints:
        if isinstance(endpoint, SmtpSettings) and not endpoint.authserv_id and (endpoint.imap or endpoint.lmtp):
            yield Finding(
                endpoint.id, "forged senders cannot be told: authserv_id is not set", True,
                "Set it to the name your mail server writes first into Authentication-Results",
            )  # fmt: skip


def check_canaries(settings: Settings) -> Iterator[Finding]:
    """Which endpoints could lose silently for long?"""
    for endpoint in settings.endpoints:
        if endpoint.canary:
            when = f"every {endpoint.canary_every_s:g} s" if endpoint.canary_every_s else "when receipts are missing"
            yield Finding(endpoint.id, f"a canary goes to {endpoint.canary} {when}")
        elif endpoint.id.partition("/")[0] in CANARY_FORMS:
            yield Finding(
                endpoint.id, "no canary: if it loses messages silently, that may go unnoticed", False,
                "Set canary to an address of yours that sends back what reaches it",
            )  # fmt: skip


async def check_control_hosts(settings: Settings) -> list[Finding]:
    """Could we tell our own outage from everybody else's?"""
    hosts = read_control_hosts(settings.control_hosts)
    if not hosts:
        words = "none: an outage of our own network looks like one of the providers, and may move everybody"
        remedy = "Set control_hosts to two or more host:port of different owners, none of them a provider's"
        return [Finding("control_hosts", words, False, remedy)]
    local = [str(host) for host in hosts if host.is_local]
    if local:
        words = f"{', '.join(local)} is this machine: it answers even when our way out is broken"
        return [Finding("control_hosts", words, True, "Name hosts that are reached as the providers are")]
    answers = await asyncio.gather(*(connect_to(host) for host in hosts), return_exceptions=True)
    silent = [str(host) for host, answer in zip(hosts, answers, strict=True) if isinstance(answer, BaseException)]
    if silent:
        words = f"{', '.join(silent)} takes no connection"
        remedy = (
            "Is this machine's network sound, and may it reach it? Else name another: if none answers, moves freeze"
        )
        return [Finding("control_hosts", words, True, remedy)]
    return [Finding("control_hosts", f"all {len(hosts)} answer")]


async def check_archive(settings: Settings) -> Finding:
    """Can closed conversations be kept, and does PostgreSQL keep what it acknowledged?"""
    archive = Archive(database_of(settings.archive_url.get_secret_value(), settings.data_dir / ARCHIVE_FILE))
    try:
        if not await archive.is_durable():
            return Finding(
                "archive", f"{archive.database.words}: fsync is off", True, "Switch it on in postgresql.conf"
            )
        return Finding("archive", await archive.check())
    except ArchiveError as error:
        return Finding("archive", str(error), True, "Until then closed conversations stay in Redis")
    finally:
        await archive.close()


def check_redis(url: str) -> Iterator[Finding]:
    """Does it answer, is it new enough, and does it keep what it acknowledged?"""
    shown = without_password(url)
    if fault := ping(url):
        yield Finding("redis", f"{shown} does not answer: {fault}", True, _remedy_for(fault))
        return
    with open_primaries(url, timeout_s=ANSWER_WITHIN_S) as servers:
        for number, server in enumerate(servers, 1):
            yield from _check_server(server, f"{shown}{f', part {number}' if len(servers) > 1 else ''}")


def _remedy_for(fault: str) -> str:
    """What most likely helps, by what the server or our side of TLS said."""
    for sign, remedy in REDIS_REMEDIES:
        if sign in fault:
            return remedy
    return "Start it, or correct redis_url"


def _check_server(server: "redis.Redis", shown: str) -> Iterator[Finding]:
    try:
        facts = server.info()
        config = server.config_get("*")  # several patterns at once are Redis 7
    except redis.ResponseError as error:
        yield Finding(
            "redis", f"{shown} answers, but does not show its configuration ({error})", False,
            "Make sure of appendonly yes, appendfsync always, maxmemory-policy noeviction",
        )  # fmt: skip
        return
    version = tuple(int(part) for part in str(facts["redis_version"]).split(".")[:2])
    if version < REDIS_VERSION_MIN:
        yield Finding(
            "redis", f"{shown} is version {facts['redis_version']}", True, "Install Redis 6.2 or newer, or Valkey"
        )
        return
    wrong = [
        f"{name} is {config.get(name)}, not {wanted}"
        for name, wanted in (("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction"))
        if config.get(name) != wanted
    ]
    if wrong:
        yield Finding(
            "redis", f"{shown}: {'; '.join(wrong)}", True,
            "Set these in redis.conf: without them accepted messages can be lost",
        )  # fmt: skip
        return
    yield Finding("redis", f"{shown}: version {facts['redis_version']}, keeps what it acknowledges")


async def _check_store(runtime: "Runtime") -> list[Finding]:
    """Does it send at all, did it lose anything, and do jobs go through?"""
    now, redis_calls = runtime.clock.now(), runtime.store.redis
    found = []
    if frozen := await read_frozen(redis_calls):
        found.append(Finding("store", say_frozen(frozen, now), True, "See deploy/runbook/backup-and-restore.md"))
    if went_back := await read_went_back(redis_calls):
        remedy = "Run `throughline audit` and tell agents. See deploy/runbook/redis-down.md"
        found.append(Finding("store", say_went_back(went_back, now), False, remedy))
    ticked = float(await redis_calls.call("GET", keys.BEAT) or 0)
    if ticked and now - ticked > CLOCKWORK_LATE_S:
        words = f"has not ticked for {now - ticked:.0f} s: nothing is archived or tidied up"
        found.append(Finding("clockwork", words, True, "Start `throughline clockwork`; under `up`, read its log"))
    return found


async def check_endpoints(runtime: "Runtime") -> list[Finding]:
    """Would each take a message now, and could it be answered?"""
    adapters = sorted(runtime.adapters.items())
    tried = await asyncio.gather(*(check_endpoint(name, adapter) for name, adapter in adapters))
    return [*tried, *(finding for name, adapter in adapters for finding in check_replyable(name, adapter))]


def check_replyable(name: str, adapter: Adapter) -> Iterator[Finding]:
    """Can customers answer what it says? Mail without a way in is a slip; a sender's name in letters was chosen."""
    if adapter.capabilities.replyable:
        return
    if adapter.capabilities.channel is Channel.EMAIL:
        remedy = "Add [endpoints.imap] or [endpoints.lmtp]"
        yield Finding(name, f"nobody can answer mail of {name}, so it carries only notices", True, remedy)
        return
    words = f"nobody can answer what {name} says, for its sender is a name: it carries only notices"
    yield Finding(name, words, False, "Set a number of yours as its sender if people are to answer")


async def check_endpoint(name: str, adapter: Adapter) -> Finding:
    """Would it take a message now?"""
    try:
        async with asyncio.timeout(PROBE_WITHIN_S):
            await adapter.probe()
    except EndpointMisconfigured as error:
        return Finding(name, error.words, True, "Correct its credentials or settings in its [[endpoints]] table")
    except SendFailed as error:
        return Finding(name, error.words, True, "Is the vendor up, and may this machine reach it? See its status page")
    except LocalFault as error:
        return Finding(
            name, f"could not be tried: {error}", True, "This is on our side: check DNS and the network here"
        )
    except TimeoutError:
        return Finding(
            name, f"no answer within {PROBE_WITHIN_S:g} s", True, "A firewall may swallow it: check host and port"
        )
    return Finding(name, "would take a message now")


def _say(finding: Finding) -> None:
    mark = "[red]fault[/red]" if finding.fault else "[green]   ok[/green]"
    remedy = f". {finding.remedy}" if finding.remedy else ""
    out.print(f"{mark}  {finding.subject:<14} {escape(finding.words + remedy)}.")
