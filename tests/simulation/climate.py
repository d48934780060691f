"""What each seed draws: topology, load, faults, and what health concludes from them and when."""

from dataclasses import dataclass, field
from decimal import Decimal
from random import Random

from channels.contract import Capabilities
from channels.messages import Channel
from health.records import StatusRecord
from health.report import Direction, EndpointId, Status
from router.core import CONSOLE_ENDPOINT
from tests.simulation.loop import EPOCH_S
from tests.simulation.server import LineFaults
from tests.simulation.vendors import DOWN, MODES, Weather

CHAT, SMS, BACKUP, MAIL = (EndpointId(one) for one in ("chat/web", "sms/acme", "sms/backup", "email/support"))

CAPABILITIES = {
    CONSOLE_ENDPOINT: Capabilities(
        Channel.CHAT, "console", 100_000, 5.0, idempotent=True, rate_per_s=1000.0, hold_s=0.0
    ),
    CHAT: Capabilities(
        Channel.CHAT,
        "webchat",
        10_000,
        5.0,
        receipts=True,
        receipt_due_s=30.0,
        echoes_token=True,
        idempotent=True,
        hold_s=5.0,
    ),
    SMS: Capabilities(Channel.SMS, "smpp", 1_500, 5.0, receipts=True, hold_s=30.0, price=Decimal("0.01")),
    BACKUP: Capabilities(
        Channel.SMS, "twilio-sms", 1_500, 5.0, receipts=True, echoes_token=True, hold_s=60.0, price=Decimal("0.02")
    ),
    MAIL: Capabilities(
        Channel.EMAIL, "smtp", 100_000, 5.0, threads=True, receipts=True, echoes_token=True, hold_s=60.0
    ),
}


@dataclass(frozen=True, slots=True)
class Change:
    """Health changes its mind about an endpoint."""

    at: float
    endpoint: EndpointId
    status: Status
    reason: str


@dataclass
class Climate:
    """Everything drawn for one seed; the rest follows."""

    faults_s: float
    talks: int
    pause_s: float
    """Between two turns of a talk, on average."""
    dispatchers: int
    supervisors: int
    shards: int
    endpoints: list[EndpointId]
    line: LineFaults
    weather: dict[EndpointId, list[Weather]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    stops: list[tuple[float, float]] = field(default_factory=list)
    """A process is stopped: when, for how long."""
    kills: list[float] = field(default_factory=list)
    away: list[tuple[float, float]] = field(default_factory=list)
    """Redis does not answer: from, for how long."""
    steps: list[tuple[float, int]] = field(default_factory=list)
    """Redis' clock steps: when, by how many ms."""
    damages: list[float] = field(default_factory=list)
    """When an index of the store is damaged."""
    spools: bool = False
    """Whether web and dispatchers keep on disk what Redis cannot take."""
    disk_full: float = 0.0
    """The share of writes to a spool that fail."""
    torn: float = 0.0
    """The share of these in which the process dies in the middle of a line."""
    clock_off_s: float = 0.0
    """How far a process's clock may be off."""
    no_supervisor: tuple[float, float] = (0.0, 0.0)
    forced: list[tuple[float, EndpointId, EndpointId | None, float]] = field(default_factory=list)
    stop_at_commit: float = 0.0

    def status(self, endpoint: EndpointId, now: float, heard_at: float) -> StatusRecord:
        """The board's conclusion as of `now`."""
        status, since, reason = Status.UP, 0.0, ""
        for change in self.changes:
            if change.endpoint == endpoint and change.at <= now:
                status, since, reason = change.status, change.at, change.reason
        return StatusRecord(
            endpoint, Direction.OUT, status, EPOCH_S + since, reason, reason, written_at=EPOCH_S + heard_at
        )


def draw_climate(rng: Random) -> Climate:
    """Swarm testing: each seed turns on some faults only, so that rare ones do not drown in common ones."""
    faults_s = rng.choice((60.0, 120.0, 180.0, 240.0))
    if rng.random() < 0.02:
        faults_s = 3600.0
    on = {name for name in FAULTS if rng.random() < 0.45}
    spools = rng.random() < 0.5
    if spools and rng.random() < 0.7:
        on.add("away")
    some = {name: rng.random() ** 2 if name in on else 0.0 for name in FAULTS}
    endpoints = [SMS, rng.choice((BACKUP, MAIL))] if rng.random() < 0.5 else [CHAT, SMS, BACKUP]
    if rng.random() < 0.25:
        endpoints.append(MAIL)
    endpoints = list(dict.fromkeys(endpoints))
    climate = Climate(
        faults_s=faults_s,
        talks=rng.randint(2, 6),
        pause_s=rng.choice((5.0, 15.0, 40.0)) * faults_s / 120.0,
        dispatchers=rng.choice((1, 2, 2, 3)),
        supervisors=2 if "two_supervisors" in on else 1,
        shards=rng.choice((1, 1, 2, 3)),
        endpoints=endpoints,
        line=LineFaults(
            killed_before=0.004 * some["killed"],
            killed_after=0.01 * some["killed"],
            request_lost=0.05 * some["request_lost"],
            answer_lost=0.08 * some["answer_lost"],
            slow=0.05 * some["slow"],
            bell_lost=some["bell_lost"],
            bell_doubled=some["bell_doubled"],
        ),
        clock_off_s=600.0 * some["clocks_off"],
        spools=spools,
        disk_full=0.3 * some["disk_full"],
        torn=rng.choice((0.0, 0.5)),
        stop_at_commit=0.1 * some["stop_at_commit"],
    )
    _draw_vendors(rng, climate, on)
    _draw_events(rng, climate, on)
    climate.changes.sort(key=lambda one: one.at)
    return climate


FAULTS = (
    "killed", "request_lost", "answer_lost", "slow", "bell_lost", "bell_doubled", "two_supervisors", "clocks_off",
    "stop_at_commit", "vendors", "all_down", "false_alarms", "stops", "kills", "away", "steps", "no_supervisor",
    "forced", "console", "disk_full",
)  # fmt: skip


def _draw_vendors(rng: Random, climate: Climate, on: set[str]) -> None:
    ends = climate.faults_s
    for endpoint in [*climate.endpoints, CONSOLE_ENDPOINT]:
        spells = climate.weather[endpoint] = []
        if endpoint == CONSOLE_ENDPOINT and "console" not in on:
            continue
        for _ in range(rng.randint(0, 3) if "vendors" in on or rng.random() < 0.7 else 0):
            begins = rng.uniform(0.0, ends)
            mode = rng.choice(MODES if endpoint != CONSOLE_ENDPOINT else ("refuses", "hangs", "drops", "slow", "flaky"))
            share = rng.choice((0.1, 0.5, 1.0, 1.0))
            if mode in {"rejects", "unreachable"}:
                share = 0.15
            spells.append(Weather(begins, min(ends, begins + rng.uniform(5.0, ends * 0.6)), mode, share))
        _conclude(rng, climate, endpoint)
    if "all_down" in on:
        begins = rng.uniform(0.0, ends * 0.7)
        for endpoint in climate.endpoints:
            spell = Weather(begins, min(ends, begins + rng.uniform(10.0, 60.0)), rng.choice(("refuses", "hangs")), 1.0)
            climate.weather[endpoint].append(spell)
            _conclude_spell(rng, climate, endpoint, spell)


def _conclude(rng: Random, climate: Climate, endpoint: EndpointId) -> None:
    """Health sees most outages, after a while, and is slow to believe in recovery."""
    if endpoint == CONSOLE_ENDPOINT:
        return
    for spell in climate.weather[endpoint]:
        _conclude_spell(rng, climate, endpoint, spell)
    if rng.random() < 0.15:
        begins = rng.uniform(0.0, climate.faults_s)
        _conclude_spell(rng, climate, endpoint, Weather(begins, begins + rng.uniform(1.0, 30.0), "refuses", 1.0))


def _conclude_spell(rng: Random, climate: Climate, endpoint: EndpointId, spell: Weather) -> None:
    lost = spell.mode == "loses"
    if spell.mode not in DOWN and not lost and spell.mode not in {"flaky", "slow"}:
        return
    if rng.random() < 0.15 or spell.share < 0.3:
        return
    down = spell.begins + (rng.uniform(5.0, 40.0) if lost else rng.uniform(0.5, 15.0))
    if rng.random() < 0.5:
        climate.changes.append(Change(down - 0.4, endpoint, Status.SUSPECT, "cusum_fast"))
        climate.changes.append(Change(max(down, spell.ends) + 5.0, endpoint, Status.UP, "probes_ok"))
    if spell.mode in {"flaky", "slow"} and rng.random() < 0.5:
        return
    climate.changes.append(Change(down, endpoint, Status.DOWN, "receipt_deficit" if lost else "five_in_a_row"))
    again = max(down + 1.0, spell.ends) + rng.uniform(2.0, 30.0)
    climate.changes.append(Change(again, endpoint, Status.RECOVERING, "probes_ok"))
    climate.changes.append(Change(again + rng.uniform(1.0, 30.0), endpoint, Status.UP, "proven"))


def _draw_events(rng: Random, climate: Climate, on: set[str]) -> None:
    ends = climate.faults_s

    def moments(most: int) -> list[float]:
        return sorted(rng.uniform(1.0, ends) for _ in range(rng.randint(1, most)))

    if "stops" in on:
        climate.stops = [(at, rng.choice((2.0, 5.0, 8.0, 12.0, 60.0))) for at in moments(5)]
    if "kills" in on:
        climate.kills = moments(6)
    if "away" in on:
        climate.away = [(at, rng.uniform(0.5, 15.0)) for at in moments(2)]
    if rng.random() < 0.12:
        climate.damages = moments(4)
    if "steps" in on:
        climate.steps = [(at, rng.choice((-30_000, -2_000, 2_000, 30_000, 600_000))) for at in moments(2)]
    if "no_supervisor" in on:
        begins = rng.uniform(0.0, ends)
        climate.no_supervisor = (begins, begins + rng.uniform(10.0, 120.0))
    if "forced" in on:
        for at in moments(2):
            scope = rng.choice(climate.endpoints)
            target = rng.choice([None, *(one for one in climate.endpoints if one != scope)])
            climate.forced.append((at, scope, target, rng.uniform(10.0, 90.0)))
