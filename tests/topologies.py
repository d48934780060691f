"""Redis as it is run on more than one machine, made of real servers on loopback: a Cluster, and Sentinel."""

import contextlib
import hashlib
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import redis

from router.private_redis import find_binary

SLOTS = 16_384
READY_WITHIN_S = 20.0
DOWN_AFTER_MS = 1000
"""Sentinels believe that long that a primary only paused."""
SERVICE = "throughline"


def free_port() -> int:
    """One whose cluster bus, ten thousand above it, stays below the ports of outgoing connections."""
    for _ in range(100):
        port = random.randrange(11_000, 22_000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port
    raise RuntimeError("no free port in a hundred tries")


@dataclass(frozen=True, slots=True)
class Security:
    """TLS with an authority of its own, and the login that deploy/redis names. The plain port is for the test alone."""

    authority: Path
    certificate: Path
    key: Path
    logins: Path
    user: str = "throughline"
    password: str = "p@ss/w:rd"

    @property
    def login(self) -> str:
        """As a URL writes it."""
        return f"{self.user}:{quote(self.password, safe='')}@"

    @property
    def query(self) -> str:
        """What a URL says of TLS."""
        return f"?ssl_ca_certs={self.authority}"

    def arguments(self, port: int, *, login: bool = True) -> tuple[str, ...]:
        """A server's. Sentinels and other servers of the same make are spoken to over TLS, too."""
        files = ("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key),
                 "--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "no")  # fmt: skip
        return ("--tls-port", str(port), *files, "--tls-replication", "yes",
                *(("--aclfile", str(self.logins)) if login else ()))  # fmt: skip


def make_security(folder: Path, user: str = "throughline") -> Security:
    """A certificate for this machine by an authority that nobody else trusts, and the documented logins' file."""
    one = Security(folder / "authority.pem", folder / "server.pem", folder / "server.key", folder / "logins.acl", user)
    signing = folder / "authority.key"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    request = folder / "server.csr"
    for command in (
        ["req", "-x509", *new, "-days", "2", "-subj", "/CN=tests", "-keyout", signing, "-out", one.authority],
        ["req", *new, "-subj", "/CN=127.0.0.1", "-keyout", one.key, "-out", request],
        ["x509", "-req", "-in", request, "-CA", one.authority, "-CAkey", signing, "-CAcreateserial", "-days", "2",
         "-extfile", names, "-out", one.certificate],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    digest = hashlib.sha256(one.password.encode()).hexdigest()
    documented = (Path(__file__).parents[1] / "deploy" / "redis" / "throughline.acl").read_text()
    # What is restored goes into an empty store, and the stories empty it, and look, as the same user.
    lines = [
        f"{line} +flushall +keys" for line in documented.splitlines() if line.startswith("user throughline-backup ")
    ]
    lines += [line for line in documented.splitlines() if line.startswith("user throughline ")]
    one.logins.write_text("user default on nopass ~* &* +@all\n" + "\n".join(lines).replace("SHA256", digest) + "\n")
    return one


def speaks_tls(binary: Path) -> bool:
    """Whether a server was built with it."""
    said = subprocess.run([str(binary), "--tls-port", "-1"], capture_output=True, text=True, check=False, timeout=10)
    return "argument" in said.stdout + said.stderr and "Bad directive" not in said.stdout + said.stderr


@dataclass
class Server:
    """One redis-server, or one sentinel, in a folder of its own."""

    folder: Path
    binary: Path
    arguments: tuple[str, ...] = ()
    config: str = ""
    port: int = field(default_factory=free_port)
    security: Security | None = None
    tls_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def client(self) -> "redis.Redis":
        """A plain client of this server alone."""
        return redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True, protocol=2, socket_timeout=5)

    @property
    def place(self) -> int:
        """The port by which others know it."""
        return self.tls_port if self.security else self.port

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and return once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(self.binary)]
        if self.config:
            (self.folder / "server.conf").write_text(self.config)
            command.append(str(self.folder / "server.conf"))
        command += [
            "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--daemonize", "no",
            "--logfile", str(self.folder / "server.log"), *self.arguments,
        ]  # fmt: skip
        if self.security is not None:
            command += self.security.arguments(self.tls_port, login="--sentinel" not in self.arguments)
        self.process = subprocess.Popen(command)
        until(self._answers, f"{command} answers")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client as client:
            return bool(client.ping())
        return False

    def stop(self) -> None:
        """Kill it; nothing of it is needed any more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def until(look: Callable[[], object], what: str, within_s: float = READY_WITHIN_S) -> None:
    """Poll until `look` is true."""
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline, f"in {within_s:.0f} s it did not happen: {what}"
        time.sleep(0.05)


def _url(kind: str, servers: list[Server], path: str = "") -> str:
    """As the settings name them."""
    hosts, security = ",".join(f"127.0.0.1:{one.place}" for one in servers), servers[0].security
    if security is None:
        return f"redis+{kind}://{hosts}{path}"
    return f"rediss+{kind}://{security.login}{hosts}{path}{security.query}"


@dataclass
class Single:
    """One server."""

    server: Server

    @property
    def url(self) -> str:
        """As the settings name it."""
        security = self.server.security
        assert security is not None
        return f"rediss://{security.login}127.0.0.1:{self.server.tls_port}/0{security.query}"

    @property
    def holders(self) -> list[Server]:
        """Who holds keys and can be written to."""
        return [self.server]


@contextlib.contextmanager
def run_single(folder: Path, binary: Path | None = None, *, security: Security) -> Iterator[Single]:
    """A server without persistence, for those who log in."""
    more = ("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
    server = Server(folder / "single", binary or find_binary(), more, security=security)
    try:
        server.start()
        yield Single(server)
    finally:
        server.stop()


@dataclass
class Cluster:
    """Primaries that share the slots, and a replica of each where they have one."""

    servers: list[Server]
    """The primaries, as it began."""
    replicas: list[Server] = field(default_factory=list)
    """Each one's, in the same order."""

    @property
    def url(self) -> str:
        """As the settings name it: two of the nodes are enough to find the others."""
        return _url("cluster", self.servers[:2])

    @property
    def holders(self) -> list[Server]:
        """Who holds keys and can be written to, as it began."""
        return self.servers

    def pair_of(self, slot: int) -> tuple[Server, Server]:
        """Who holds a slot now, and who would take over; as whoever of them lives knows it."""
        for one, other in zip(self.servers, self.replicas, strict=True):
            for primary, replica in ((one, other), (other, one)):
                if primary.process is not None and slot in slots_of(primary):
                    return primary, replica
        raise LookupError(f"nobody alive holds slot {slot}")


def slots_of(server: Server) -> set[int]:
    """Which slots a node holds as their primary, as it says itself."""
    with server.client as client:
        mine = client.execute_command("CLUSTER MYID")
        known = client.execute_command("CLUSTER NODES")
    (row,) = [one for one in known.values() if one["node_id"] == mine]
    ranges = [(int(one[0]), int(one[-1])) for one in row["slots"] if "-" not in str(one[0])]
    return {slot for first, last in ranges for slot in range(first, last + 1)} if "master" in row["flags"] else set()


@contextlib.contextmanager
def run_cluster(
    folder: Path,
    binary: Path | None = None,
    *,
    nodes: int = 3,
    replicated: bool = False,
    durable: bool = False,
    security: Security | None = None,
) -> Iterator[Cluster]:
    """A Cluster; `replicated`: each primary with one replica that is promoted for it, in step."""
    keep = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
    more = ("--save", "", *keep, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
            "--cluster-require-full-coverage", "no", "--maxmemory-policy", "noeviction",
            "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
            *(("--tls-cluster", "yes") if security else ()))  # fmt: skip
    kind = binary or find_binary()
    servers = [Server(folder / f"node{n}", kind, more, security=security) for n in range(nodes)]
    count = nodes if replicated else 0
    replicas = [Server(folder / f"replica{n}", kind, more, security=security) for n in range(count)]
    everybody = [*servers, *replicas]
    try:
        for number, server in enumerate(everybody):
            server.start()
            with server.client as client:
                if server in servers:
                    mine = range(number * SLOTS // nodes, (number + 1) * SLOTS // nodes)
                    client.execute_command("CLUSTER ADDSLOTS", *mine)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                if number:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].place)
        until(lambda: all(_is_whole(one, nodes) for one in everybody), "the cluster is whole")
        for primary, replica in zip(servers, replicas, strict=False):
            _follow(replica, primary)
        until(lambda: all(_in_step(one) for one in replicas), "the replicas are in step")
        until(lambda: all(_knows_replicas(one, len(replicas)) for one in everybody), "everybody knows the replicas")
        yield Cluster(servers, replicas)
    finally:
        for server in everybody:
            server.stop()


def _follow(replica: Server, primary: Server) -> None:
    """Once it has heard of it."""
    with primary.client as there, replica.client as here:
        name = there.execute_command("CLUSTER MYID")
        until(lambda: name in str(here.execute_command("CLUSTER NODES")), "the replica knows its primary")
        here.execute_command("CLUSTER REPLICATE", name)


def _knows_replicas(server: Server, count: int) -> bool:
    with server.client as client:
        known = client.execute_command("CLUSTER NODES")
    return sum("slave" in row["flags"] for row in known.values()) == count


def _is_whole(server: Server, nodes: int) -> bool:
    with server.client as client:
        info = client.execute_command("CLUSTER INFO")
        known = len(client.execute_command("CLUSTER SLOTS")) >= nodes
    state = info["cluster_state"] if isinstance(info, dict) else str(info).partition("cluster_state:")[2]
    return known and str(state).startswith("ok")


@dataclass
class Watched:
    """A primary, its replica, and the sentinels that promote one for the other."""

    primary: Server
    replica: Server
    sentinels: list[Server]

    @property
    def url(self) -> str:
        """As the settings name it."""
        return _url("sentinel", self.sentinels, f"/{SERVICE}/0")

    @property
    def holders(self) -> list[Server]:
        """Who holds keys and can be written to, as it began."""
        return [self.primary]

    def named(self) -> int:
        """The place of the primary, as a sentinel knows it."""
        with self.sentinels[0].client as client:
            found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1])


def cut_off(primary: Server, replica: Server) -> None:
    """A replica loses its primary, and cannot come back to it: a password that it does not know is not taken."""
    with replica.client as here, primary.client as there:
        here.config_set("masterauth", "wrong")
        there.execute_command("CLIENT", "KILL", "TYPE", "replica")
        until(lambda: here.info("replication")["master_link_status"] == "down", "the replica is cut off")


def behind(primary: Server, replica: Server) -> int:
    """How far a replica is behind, in octets."""
    with primary.client as there, replica.client as here:
        return int(there.info("replication")["master_repl_offset"]) - int(here.info("replication")["slave_repl_offset"])


@contextlib.contextmanager
def run_watched(
    folder: Path,
    binary: Path | None = None,
    *,
    sentinels: int = 3,
    durable: bool = False,
    security: Security | None = None,
) -> Iterator[Watched]:
    """A primary and a replica in step, watched by sentinels that know each other."""
    kind = binary or find_binary()
    keep = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
    more = ("--save", "", *keep, "--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0",
            "--repl-ping-replica-period", "1")  # fmt: skip
    primary = Server(folder / "primary", kind, more, security=security)
    follow = (*more, "--replicaof", "127.0.0.1", str(primary.place))
    replica = Server(folder / "replica", kind, follow, security=security)
    config = (
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.place} {sentinels // 2 + 1}\n"
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {SERVICE} 6000\n"
    )
    watchers = [
        Server(folder / f"sentinel{n}", kind, ("--sentinel",), config, security=security) for n in range(sentinels)
    ]
    try:
        primary.start()
        replica.start()
        until(lambda: _in_step(replica), "the replica is in step")
        for one in watchers:
            one.start()
        until(lambda: all(_knows(one, sentinels) for one in watchers), "the sentinels know each other and the replica")
        yield Watched(primary, replica, watchers)
    finally:
        for server in (*watchers, replica, primary):
            server.stop()


def _in_step(replica: Server) -> bool:
    with replica.client as client:
        facts = client.info("replication")
    return facts["role"] == "slave" and facts["master_link_status"] == "up"


def _knows(sentinel: Server, count: int) -> bool:
    with sentinel.client as client:
        rows = client.execute_command("SENTINEL", "MASTER", SERVICE)
    facts = rows if isinstance(rows, dict) else dict(zip(rows[::2], rows[1::2], strict=True))
    return int(facts["num-slaves"]) == 1 and int(facts["num-other-sentinels"]) == count - 1
