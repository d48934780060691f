"""Every number the detectors judge by, in one place, with its reason."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1000)]


class DetectorSettings(BaseModel):
    """Thresholds of detection, hold, ramp and damping. Seconds where a name ends in `_s`.

    The CUSUM figures are Wald's and Lorden's: `h = ln 10^4` bounds false alarms by one in 10^4 observations.
    Hold and ramp are shaped like Envoy's outlier detection and slow start, damping like RFC 2439.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    failure_share_floor: Share = 0.02
    """Failures we take as normal; a higher long-run share of an endpoint's own replaces it."""
    failure_share_ceiling: Share = 0.20
    """The most that an endpoint may teach us to take as normal."""
    baseline_weight: Share = 0.002
    """Of one send in the long-run share: a memory of about 500 sends."""
    fast_share: Share = 0.50
    """The failure share that the fast arm is tuned for."""
    slow_share: Share = 0.20
    """The slow arm's. Tuned for a tenth it would take an endpoint down whose share wanders from 2 to 5 %."""
    event_s: Positive = 0.5
    """What fails within it is one event, such as a broken connection: it counts as two failures at most."""
    trip: Positive = 9.21
    """CUSUM threshold: four straight failures at the floor."""
    trip_recovering: Positive = 4.6
    """Stricter while recovering, until `ramp_successes` were taken: two straight failures."""
    alone_factor: Annotated[float, Field(ge=1)] = 1.5
    """At this multiple of `trip` real sends confirm without probes."""

    row: Count = 5
    """Failures in a row, sends and probes together, that confirm (Envoy's default); more where failures are normal."""
    row_chance: Share = 1e-7
    """As many as keep the chance of such a row below this: five at 2 %, six at 5 %, eight at 10 %."""
    row_refused: Count = 4
    """The same where each connection was refused: nobody listens, which says nothing of the message."""
    row_refused_span_s: Positive = 1.5
    row_span_s: Positive = 2.0
    """They must lie this far apart: one broken connection fails many sends at once, a vendor's restart a few more."""
    provisional_span_s: Positive = 3.0
    """The same where nothing has failed for good yet: two seconds plus these make the usual bound of one send."""
    provisional_max: Count = 8
    """Unanswered sends that count at a time."""
    probe_row: Count = 3
    """Probes in a row that confirm when no send says otherwise."""
    probe_row_span_s: Positive = 4.5

    burst: Count = 3
    burst_spacing_s: Positive = 1.0
    burst_gap_s: Positive = 10.0
    """Between the beginnings of two bursts that single failures start."""
    burst_most: Count = 30
    """Probes a minute that bursts come to while probes fail, too."""
    probe_memory_s: Positive = 20.0
    """Probes older than this confirm nothing."""
    probe_bound_s: Positive = 5.0
    probe_provisional_s: Positive = 2.0
    probe_suspect_s: Positive = 10.0
    probe_down_s: Positive = 10.0
    """At most; a third of the hold if that is shorter, so that a short hold is not wasted."""

    clean_s: Positive = 30.0
    """A suspicion is dropped after this long without a failure."""
    unknown_after_s: Positive = 300.0
    """Without any evidence for this long we no longer claim to know."""
    report_stands_s: Positive = 5.0
    """An adapter's own claim that it is down confirms after standing this long, unless probes say otherwise."""
    doubt_memory_s: Positive = 10.0
    """How long a doubt about ourselves still scales thresholds: what our stall spoilt must be washed out first."""

    hold_s: Positive = 30.0
    """Times the number of recent outages: how long an endpoint stays down at least."""
    hold_max_s: Positive = 300.0
    hold_forget_s: Positive = 600.0
    """Every so often one recent outage is forgotten."""
    ramp_s: Positive = 120.0
    """From the first share to all of it."""
    ramp_share_min: Share = 0.10
    ramp_successes: Count = 20
    recovery_probes: Count = 3

    penalty_down: Positive = 1000.0
    penalty_suspect: Positive = 500.0
    penalty_half_life_s: Positive = 300.0
    penalty_suppress: Positive = 2500.0
    penalty_reuse: Positive = 750.0
    suppress_max_s: Positive = 1800.0

    broken_within_s: Positive = 60.0
    """Provider families that fail within this time of each other fail at once."""
    broken_families_min: Count = 3
    """Without a control probe: fewer families than this prove nothing about ourselves."""
    beat_s: Positive = 1.0
    beat_pause_s: Positive = 1.5
    beat_deviation_min_s: Positive = 0.2
    beat_phi: Positive = 8.0

    @property
    def probe_down_every_s(self) -> float:
        """Between two probes of an endpoint that is down."""
        return min(self.probe_down_s, self.hold_s / 3)

    @property
    def probe_recovering_every_s(self) -> float:
        """Between two probes of an endpoint that is recovering."""
        return min(self.probe_suspect_s, self.ramp_s / 6)
