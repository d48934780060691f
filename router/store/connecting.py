"""One Redis, a primary that Sentinel names, or a Cluster: told apart by their URL, and clients for each."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.retry import Retry as RetryNow

SOCKET_TIMEOUT_S = 5.0
SENTINEL_PORT = 26_379
REDIS_PORT = 6_379
FORMS = (
    "redis://host:port/0, unix:///path, redis+cluster://host:port,host:port or "
    "redis+sentinel://host:port,host:port/name-of-the-primary/0 (rediss for TLS, then also ?ssl_ca_certs=/path)"
)
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""What a `rediss` URL may name: the authorities to trust instead of the system's, and a certificate of ours."""
TLS_CHECK_NAME = "ssl_check_hostname"
SECRET_QUERY = frozenset({"password", "ssl_password"})
"""What else of a URL is a secret: redis-py takes them there, too."""
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is: what a Redis URL with several hosts says."""

    kind: Literal["cluster", "sentinel"]
    places: tuple[Place, ...]
    tls: bool
    username: str | None
    password: str | None
    service: str = ""
    """Sentinel's name of the primary."""
    database: int = 0
    tls_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What every connection to a store there is made with."""
        return {"username": self.username, "password": self.password} | self.tls_facts

    @property
    def tls_facts(self) -> dict[str, Any]:
        """What of it the sentinels are asked with, too."""
        return {"ssl": True, **self.tls_options} if self.tls else {}


def read_address(url: str) -> Address | None:
    """What a URL of a Cluster or of Sentinel says; None: it names one server.

    Raises:
        ValueError: it cannot be read; the text says what it should look like, and shows no password.
    """
    parts = urlsplit(url)
    scheme, plus, kind = parts.scheme.partition("+")
    if scheme in {"redis", "rediss", "unix"} and not plus:
        return None
    if scheme not in {"redis", "rediss"} or kind not in {"cluster", "sentinel"}:
        raise ValueError(f"must look like {FORMS}")
    identity, _, hosts = parts.netloc.rpartition("@")
    username, _, password = identity.partition(":")
    places = tuple(_read_place(host, SENTINEL_PORT if kind == "sentinel" else REDIS_PORT) for host in hosts.split(","))
    service, _, database = parts.path.strip("/").partition("/")
    if kind == "cluster" and (service not in {"", "0"} or database):
        raise ValueError("a Redis Cluster has one database, and its URL no path")
    if kind == "sentinel" and not service:
        raise ValueError("must name the primary after the sentinels: redis+sentinel://host:port/name-of-the-primary")
    options = _read_tls_options(parts.query)
    if (database and not database.isdecimal()) or (options and scheme == "redis"):
        raise ValueError(f"must look like {FORMS}")
    return Address(
        kind="cluster" if kind == "cluster" else "sentinel",
        places=places,
        tls=scheme == "rediss",
        username=unquote(username) or None,
        password=unquote(password) or None,
        service=service if kind == "sentinel" else "",
        database=int(database or 0),
        tls_options=options,
    )


def _read_tls_options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == TLS_CHECK_NAME and value.lower() in {"true", "false"}:
            options[name] = value.lower() == "true"
        elif name in TLS_FILES and value:
            options[name] = value
        else:
            raise ValueError(f"must look like {FORMS}")
    return options


def check_tls_files(url: str) -> None:
    """That every file which a URL names can be read. Raises ValueError: one cannot; the text names its parameter."""
    for name, value in parse_qsl(urlsplit(url).query):
        if name in TLS_FILES:
            try:
                Path(value).read_bytes()
            except OSError as error:
                raise ValueError(f"names an {name} that cannot be read: {error.strerror}") from error


def connect(url: str) -> "redis.asyncio.Redis":
    """A client that never retries by itself: a script whose answer is lost may have run.

    That of a Cluster is given out as a plain one: redis-py makes them no kin, and what we ask of one the other can.
    """
    address = read_address(url)
    facts: dict[str, Any] = {
        "decode_responses": True,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "health_check_interval": 0,
    }
    if address is None:
        return redis.asyncio.Redis.from_url(url, **facts)
    facts |= address.facts
    if address.kind == "cluster":
        nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in address.places]
        cluster = redis.asyncio.cluster.RedisCluster(startup_nodes=nodes, require_full_coverage=False, **facts)
        return cast("redis.asyncio.Redis", cluster)
    many: Any = redis.asyncio.sentinel.Sentinel  # untyped in redis-py, as all of it that follows
    sentinels = many(list(address.places), sentinel_kwargs=_of_sentinels(facts))
    return cast("redis.asyncio.Redis", sentinels.master_for(address.service, db=address.database, **facts))


async def disconnect(client: "redis.asyncio.Redis") -> None:
    """Let go of what `connect` gave out, and of the sentinels it asked."""
    await client.aclose()
    pool: Any = getattr(client, "connection_pool", None)
    if isinstance(pool, redis.asyncio.sentinel.SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


@contextmanager
def open_primaries(url: str, *, timeout_s: float = SOCKET_TIMEOUT_S) -> Iterator[list["redis.Redis"]]:
    """A plain client of every server that holds a part of the store: one, or each primary of a Cluster.

    Answers are bytes. Raises `redis.RedisError`: nobody there answers.
    """
    address = read_address(url)
    facts: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
    if address is None:
        with closing(redis.Redis.from_url(url, **facts)) as client:
            yield [client]
        return
    facts |= address.facts
    if address.kind == "sentinel":
        many: Any = redis.sentinel.Sentinel
        once = _of_sentinels(facts) | {"retry": RetryNow(NoBackoff(), 0)}  # there are others to ask
        sentinels = many(list(address.places), sentinel_kwargs=once)
        try:
            _check_named(sentinels, address)
            with closing(sentinels.master_for(address.service, db=address.database, **facts)) as client:
                yield [client]
        finally:
            for sentinel in sentinels.sentinels:
                sentinel.close()
        return
    with closing(open_cluster(address, **facts)) as cluster:
        found = sorted(cluster.get_primaries(), key=lambda node: str(node.name))
        yield [cluster.get_redis_connection(node) for node in found]


@contextmanager
def open_whole(url: str, *, timeout_s: float = SOCKET_TIMEOUT_S) -> Iterator[Any]:
    """A plain client of the whole store, wherever a key is; untyped. Raises `redis.RedisError`: nobody answers."""
    address = read_address(url)
    if address is not None and address.kind == "cluster":
        facts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2} | address.facts
        with closing(open_cluster(address, **facts)) as cluster:
            yield cluster
        return
    with open_primaries(url, timeout_s=timeout_s) as servers:
        yield servers[0]


def read_database(url: str) -> int:
    """The number of the database that a URL names."""
    address = read_address(url)
    if address is not None:
        return address.database
    parts = urlsplit(url)
    named = parse_qs(parts.query).get("db", [""])[-1] or ("" if parts.scheme == "unix" else parts.path.strip("/"))
    return int(named) if named.isdecimal() else 0


def open_cluster(address: Address, **facts: Any) -> Any:
    """A plain client of a Cluster, untyped in redis-py. Raises `redis.RedisError`: nobody there answers."""
    node: Any = redis.cluster.ClusterNode
    nodes = [node(host, port) for host, port in address.places]
    try:
        return redis.cluster.RedisCluster(startup_nodes=nodes, retry=RetryNow(NoBackoff(), 0), **facts)
    except redis.exceptions.RedisClusterException as error:  # no kin of RedisError
        raise redis.ConnectionError(str(error)) from error


def _check_named(sentinels: Any, address: Address) -> None:
    """That one of the sentinels names a primary; redis-py tells only that none does, and not why.

    Raises:
        redis.RedisError: none does; the text says what one of them answered.
    """
    try:
        sentinels.discover_master(address.service)
    except redis.sentinel.MasterNotFoundError as error:
        words = "they know no primary of that name that is up"
        for sentinel in sentinels.sentinels:
            try:
                sentinel.ping()
            except redis.RedisError as fault:
                words = str(fault)
        raise redis.ConnectionError(f"no sentinel names the primary {address.service}: {words}") from error


def without_password(url: str) -> str:
    """A URL that may be shown."""
    parts = urlsplit(url)
    rows = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode([(name, value) for name, value in rows if name not in SECRET_QUERY], safe="/:")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{f'?{query}' if query else ''}"


def _of_sentinels(facts: dict[str, Any]) -> dict[str, Any]:
    """Sentinels have no login of the store's; what bounds a connection, and the tries at it, bounds theirs."""
    return {
        name: value
        for name, value in facts.items()
        if name.startswith(("socket_", "ssl")) or name in {"protocol", "retry"}
    }


def _read_place(text: str, default: int) -> Place:
    host, _, port = text.rpartition(":") if ":" in text.rpartition("]")[2] else (text, "", str(default))
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"must look like {FORMS}")
    return host.strip("[]"), int(port)
