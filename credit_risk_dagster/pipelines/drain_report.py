"""What a session of the drain did, and how it is told."""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from credit_risk_dagster.domain.decoding import UNSTORABLE
from credit_risk_dagster.domain.latency import BOUNDS_SECONDS, percentile
from credit_risk_dagster.domain.record_time import UNKNOWN_CLOCK
from resources.postgres.sources import Source

_MOST = 20  # problems that are told
STAGES = ("fetch", "decode", "score", "write", "commit")


@dataclass
class DrainReport:
    """What a session did.

    Attributes:
        policy: version of the policy; of several, as they were activated, with commas.
        policy_note: what is to be said of the policy; empty of an active one.
        ended: why it ended.
        began: when its run stood in line for the lane, by this process's clock.
        seconds: how long it had the lane.
        model: version of the model that gave the PDs; None when none did.
        model_error: why the active model gave none, for some batch at least.
        experiments: the splits and shadows that ran last.
        problems: what was wrong with them, each once.
        ranges: partition to (first, next) offset that it committed.
        batch_ids: the first and the last batch that it committed; None without any.
        lost: events that the broker removed before anybody read them.
        clock: whose clock the latency is measured from: broker, producer or unknown.
        busy_seconds: stage to seconds; write and commit overlap with the others.
    """

    policy: str
    lane: int
    source: Source
    policy_note: str = ""
    ended: str = ""
    model: str | None = None
    model_error: str | None = None
    experiments: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    batches: int = 0
    gaps: int = 0
    lost: int = 0
    clock: str = UNKNOWN_CLOCK
    value_bytes: int = 0
    tiers: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    batch_ids: tuple[int, int] | None = None
    latency_buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_SECONDS) + 1))
    busy_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @property
    def scored(self) -> int:
        return self.tiers.total()

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    def add_problems(self, found: Iterable[str]) -> None:
        """Remember what was wrong with candidates: of thousands of batches, it is the same."""
        known = self.problems
        known += [problem for problem in found if problem not in known][: _MOST - len(known)]

    def latency(self, q: float) -> float:
        """Event-to-commit latency in seconds at percentile q; NaN without events."""
        return percentile(self.latency_buckets, q)

    def tell(self, log: logging.Logger) -> None:
        """Say what somebody has to know."""
        if self.policy_note:
            log.warning("%s", self.policy_note)
        if self.model_error:
            log.warning("%s; the applications were scored by the policy alone", self.model_error)
        for problem in self.problems:
            log.warning("%s; the applications were decided without it", problem)
        unstorable = {r: n for r, n in self.reasons.items() if r in UNSTORABLE}
        if unstorable:
            log.warning("Postgres refused events, which are rejected for that: %s", unstorable)
        if self.lost:
            log.warning(
                "%d events are lost: the broker removed them before they were read; `credit-risk"
                " lost ls` shows which, and `credit-risk lost acknowledge` says that you know of"
                " them",
                self.lost,
            )
        log.info("%s: %d scored, %d rejected", self.ended, self.scored, self.rejected)

    def fields(self) -> dict[str, Any]:
        """What the log says of a session."""
        return {
            "why": self.ended,
            "seconds": round(self.seconds, 1),
            "batches": self.batches,
            "batch_ids": self.batch_ids,
            "offsets": self.ranges,
            "scored": self.scored,
            "rejected": self.rejected,
            "gaps": self.gaps,
            "lost": self.lost,
            "reject_reasons": dict(self.reasons),
            "model": self.model,
            "model_error": self.model_error,
            "experiments": self.experiments,
            "problems": self.problems,
        }
