"""The composition root: from settings to one process's stores, adapters and switchboard."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import aiohttp
from pydantic import TypeAdapter

from channels.contract import Adapter
from channels.messages import Address
from channels.registry import CHANNELS, AnyEndpointSettings, build
from channels.sandbox.app import endpoint_tables, sandbox_settings
from channels.tools import AdapterStore, Clock, Tools
from health.board import Board
from health.report import EndpointId, Report
from router.api_keys import ApiKeys
from router.archive.archive import ARCHIVE_FILE, Archive
from router.archive.database import database_of
from router.core import CONSOLE_ENDPOINT, Core
from router.domain.canary import Canary
from router.domain.catalogues import overlay_catalogues, packaged_catalogues, parse_catalogue
from router.domain.wording import Wording
from router.evidence_desk import EvidenceDesk
from router.settings import Settings
from router.spool import Spool
from router.store.adapter_store import RedisAdapterStore
from router.store.connecting import connect
from router.store.control import Control
from router.store.files import Files
from router.store.people import People
from router.store.redis import Pipelined
from router.store.store import Store
from router.switchboard import Switchboard

CHAT_ENDPOINT = EndpointId("chat/web")
HTTP_CONNECTIONS_MAX = 200
SANDBOX_HOLD_S = 10.0
"""Stand-in vendors send receipts within a second: who watches by hand need not wait a real vendor's minute."""
HTTP_TIMEOUT_S = 15.0
"""The rim for every HTTP call; adapters bound theirs tighter."""
SPOOLING_ROLES = frozenset({"web", "dispatch"})
"""Roles that vendors and clients speak to; they run `Switchboard.empty_spool`."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Runtime:
    """One process's hold on everything."""

    settings: Settings
    role: str
    core: Core
    switchboard: Switchboard
    adapters: Mapping[EndpointId, Adapter]
    desk: EvidenceDesk
    keys: ApiKeys

    @property
    def clock(self) -> Clock:
        """Time."""
        return self.core.clock

    @property
    def board(self) -> Board:
        """Health."""
        return self.core.board

    @property
    def store(self) -> Store:
        """The truth."""
        return self.core.store

    def adapter_store(self, endpoint: EndpointId) -> AdapterStore:
        """An endpoint's own small store."""
        return RedisAdapterStore(self.core.store.redis, endpoint)


def all_endpoints(settings: Settings) -> tuple[AnyEndpointSettings, ...]:
    """The configured endpoints, the stand-in vendors where they run, and always the console and our own chat."""
    tables: list[dict[str, object]] = []
    if settings.sandbox_enabled:
        tables += [{"hold_s": SANDBOX_HOLD_S, **table} for table in endpoint_tables(sandbox_settings(settings))]
    providers = {endpoint.provider for endpoint in settings.endpoints}
    if "console" not in providers:
        tables.append({"id": CONSOLE_ENDPOINT, "provider": "console"})
    if "webchat" not in providers:
        tables.append({"id": CHAT_ENDPOINT, "provider": "webchat"})
    reader: TypeAdapter[AnyEndpointSettings] = TypeAdapter(AnyEndpointSettings)
    return (*settings.endpoints, *(reader.validate_python(table) for table in tables))


def canaries_of(settings: Settings) -> Mapping[EndpointId, Canary]:
    """Where each endpoint's canary goes, for those that have one."""
    return {
        EndpointId(endpoint.id): Canary(
            Address(CHANNELS[endpoint.provider], endpoint.canary.lower()),
            endpoint.canary_every_s,
            endpoint.canary_bound_s,
        )
        for endpoint in all_endpoints(settings)
        if endpoint.canary
    }


def load_wording(settings: Settings) -> Wording:
    """The texts of all languages, checked.

    Raises:
        WordingError: a template is missing or bad; the text names file, key and remedy.
    """
    catalogues: Mapping[str, Mapping[str, str]] = packaged_catalogues()
    if settings.templates_folder is not None:
        own = {
            file.stem: parse_catalogue(file.read_text(encoding="utf-8"), str(file))
            for file in sorted(settings.templates_folder.glob("*.toml"))
        }
        catalogues = overlay_catalogues(catalogues, own)
    wording = Wording(catalogues, settings.organisation)
    wording.check()
    return wording


@asynccontextmanager
async def open_runtime(settings: Settings, role: str, *, clock: Clock | None = None) -> AsyncIterator[Runtime]:
    """Everything one process needs, built, and let go of at the end. `settings.redis_url` must be set.

    Raises:
        WordingError: a template is bad.
    """
    if settings.redis_url is None:
        raise ValueError("open_runtime needs settings.redis_url; `up` starts a Redis and sets it")
    wording = load_wording(settings)
    client = connect(settings.redis_url)
    redis = Pipelined(client, replicas=settings.redis_replicas)
    board = Board(client)
    used_clock = clock or SystemClock()
    desk = EvidenceDesk(board, used_clock)
    files = Files(settings.data_dir / "files")
    archive = Archive(database_of(settings.archive_url.get_secret_value(), settings.data_dir / ARCHIVE_FILE))
    async with _http() as http:
        adapters = _adapters(settings, http, used_clock, redis, files, desk.report)
        core = Core(
            settings=settings,
            store=Store(redis, shards=settings.shards),
            people=People(redis),
            control=Control(redis, settings.shards),
            board=board,
            files=files,
            archive=archive,
            wording=wording,
            clock=used_clock,
            capabilities={endpoint: adapter.capabilities for endpoint, adapter in adapters.items()},
            spool=Spool(settings.data_dir / "spool", role) if role in SPOOLING_ROLES else None,
            canaries=canaries_of(settings),
        )
        try:
            yield Runtime(settings, role, core, Switchboard(core, desk), adapters, desk, ApiKeys(client, "tl"))
        finally:
            for adapter in adapters.values():
                await adapter.close()
            await desk.flush()
            await archive.close()
            await redis.close()


@asynccontextmanager
async def _http() -> AsyncIterator[aiohttp.ClientSession]:
    """One session, no cookies, no redirects followed by default where an adapter does not ask for it."""
    connector = aiohttp.TCPConnector(limit=HTTP_CONNECTIONS_MAX, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


def _adapters(
    settings: Settings,
    http: aiohttp.ClientSession,
    clock: Clock,
    redis: Pipelined,
    files: Files,
    report: Callable[[Report], None],
) -> dict[EndpointId, Adapter]:
    adapters: dict[EndpointId, Adapter] = {}
    for endpoint in all_endpoints(settings):
        identity = EndpointId(endpoint.id)
        tools = Tools(
            endpoint=identity,
            http=http,
            clock=clock,
            store=cast(AdapterStore, RedisAdapterStore(redis, identity)),
            files=files,
            report=report,
            organisation=settings.organisation,
            public_url=settings.public_url,
        )
        adapters[identity] = build(endpoint, tools)
    return adapters
