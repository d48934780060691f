"""Tells the board of one attempt: provisionally when no answer comes for 2 s, and finally."""

import asyncio

from channels.tools import Clock
from health.report import Direction, EndpointId, Evidence, Verdict, Witness
from router.evidence_desk import EvidenceDesk

PROVISIONAL_AFTER_S = 2.0
"""No answer for this long is provisional evidence against an endpoint."""


class Provisional:
    """The evidence of one attempt; the two seconds begin with it."""

    def __init__(self, desk: EvidenceDesk, clock: Clock, endpoint: EndpointId, worker: str, token: str) -> None:
        self._desk = desk
        self._clock = clock
        self._endpoint = endpoint
        self._worker = worker
        self._token = token
        self._said = False
        self._timer = asyncio.get_running_loop().call_later(PROVISIONAL_AFTER_S, self._doubt)

    def _doubt(self) -> None:
        self._said = True
        self._say(Verdict.PROVISIONAL, "no_answer_yet", None)

    def end(self, verdict: Verdict | None, reason: str, latency_s: float | None) -> None:
        """The attempt ended; None says nothing against the endpoint."""
        self._timer.cancel()
        if self._said and verdict is not Verdict.FAILURE:
            self._say(Verdict.WITHDRAWN, reason, latency_s)
        if verdict is not None and not (self._said and verdict is Verdict.OK):
            self._say(verdict, reason, latency_s)

    def _say(self, verdict: Verdict, reason: str, latency_s: float | None) -> None:
        self._desk.say(
            Evidence(
                endpoint=self._endpoint,
                direction=Direction.OUT,
                verdict=verdict,
                witness=Witness.OUTCOME,
                at=self._clock.now(),
                token=self._token,
                reason=reason,
                latency_s=latency_s,
                worker=self._worker,
            )
        )
