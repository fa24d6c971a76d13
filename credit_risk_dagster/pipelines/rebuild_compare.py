"""What another policy would have decided of the lake's history, beside what was decided then.

Nothing is written. The raw events are scored anew by the drain's own code, and each is compared
with its row of the table `decisions`.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.decision import Codes
from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.domain.policy import TIERS, Policy
from credit_risk_dagster.domain.policy_lab import Comparison, outcome_codes, tally
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.interpreter import tuned_interpreter
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.pipelines.rebuild import fetch_of

_REJECTED, _UNKNOWN = -1, -2


@dataclass
class HistoryComparison:
    """A candidate beside the decisions of then.

    Attributes:
        policy: the candidate.
        compared: of the applications that were scored then and are now; amounts in USD.
        newly_rejected, newly_scored: events that only then, or only now, can be scored.
        rejected: events that neither then nor now can be.
        undecided: events of which the table has no decision.
    """

    policy: str
    compared: Comparison
    newly_rejected: int = 0
    newly_scored: int = 0
    rejected: int = 0
    undecided: int = 0
    seconds: float = 0.0
    days: set[date] = field(default_factory=set)

    def told(self) -> dict[str, Any]:
        """All of it by name, for a program: shares from 0 to 1, None where there is nothing."""

        def number(value: float) -> float | None:
            return None if np.isnan(value) else float(value)

        compared = self.compared
        return {
            "policy": self.policy,
            "days": len(self.days),
            "applications": compared.applications,
            "newly_rejected": self.newly_rejected,
            "newly_scored": self.newly_scored,
            "rejected": self.rejected,
            "undecided": self.undecided,
            "moves": [
                {
                    "then": before,
                    "now": after,
                    "applications": int(compared.moves[i, j]),
                    "amount": float(compared.amounts[i, j]),
                }
                for i, before in enumerate(TIERS)
                for j, after in enumerate(TIERS)
            ],
            **{
                f"{name}_{when}": number(value)
                for when, verdict in (("then", compared.active), ("now", compared.candidate))
                for name, value in (
                    ("watchlist_share", verdict.flagged_share.value),
                    ("watchlist_amount", verdict.exposure),
                    ("capture_rate", verdict.recall.value),
                    ("precision", verdict.precision.value),
                )
            },
        }


def compare_history(
    raw: RawEvents,
    policy: Policy,
    outcome: Outcome,
    *,
    since: date | None = None,
    until: date | None = None,
    log: logging.Logger,
) -> HistoryComparison:
    """Compare a policy with the decisions of then, over days (both inclusive; without, all).

    Raises:
        ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
    """
    nothing = np.empty(0, np.int8)
    found = HistoryComparison(policy.version, tally(nothing, nothing, np.empty(0), nothing))
    started = time.monotonic()
    with tuned_interpreter():
        for day, source, batches in raw.days(since, until):
            log.info("comparing %s of source %s", day, source)
            then = _Then(iter(raw.decisions(source, day).to_batches()))
            found.days.add(day)
            for batch in batches:
                _compare(found, batch, then, policy, outcome)
    found.seconds = time.monotonic() - started
    return found


def _compare(
    found: HistoryComparison, batch: pa.RecordBatch, then: "_Then", policy: Policy, outcome: Outcome
) -> None:
    fetch = fetch_of(batch)
    before = then.tiers(fetch.partitions, fetch.offsets)
    assessment = assess(decode(fetch.values, fetch.keys), policy)
    after = np.full(len(before), _REJECTED, np.int8)
    after[assessment.scored_at] = assessment.tiers
    found.undecided += int((before == _UNKNOWN).sum())
    found.newly_rejected += int(((before >= 0) & (after == _REJECTED)).sum())
    found.newly_scored += int(((before == _REJECTED) & (after >= 0)).sum())
    found.rejected += int(((before == _REJECTED) & (after == _REJECTED)).sum())
    both = before[assessment.scored_at] >= 0
    statuses = assessment.scored["loan_status"].to_pylist()
    found.compared += tally(
        before[assessment.scored_at][both],
        assessment.tiers[both],
        assessment.scored["loan_amnt"].to_numpy(zero_copy_only=False)[both],
        outcome_codes(outcome, statuses)[both],
    )


class _Then:
    """A day's decisions: the tier of each offset, `_REJECTED` where there is none."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        found: dict[int, list[tuple[npt.NDArray[np.int64], Codes]]] = {}
        for batch in batches:
            partitions, offsets = (batch[name].to_numpy() for name in ("partition", "offset"))
            at = pc.index_in(batch["risk_tier"], pa.array(TIERS))
            tiers = at.fill_null(_REJECTED).to_numpy().astype(np.int8)
            for partition in np.unique(partitions).tolist():
                of_it = partitions == partition
                found.setdefault(partition, []).append((offsets[of_it], tiers[of_it]))
        self._by_partition = {}
        for partition, parts in found.items():
            offsets, tiers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            order = np.argsort(offsets, kind="stable")
            self._by_partition[partition] = offsets[order], tiers[order]

    def tiers(self, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> Codes:
        tiers = np.full(len(offsets), _UNKNOWN, np.int8)
        for partition in np.unique(partitions).tolist():
            if partition in self._by_partition:
                known, decided = self._by_partition[partition]
                of_it = np.flatnonzero(partitions == partition)
                # The last one, where an offset has several: a re-drive came later.
                at = np.searchsorted(known, offsets[of_it], side="right") - 1
                there = (at >= 0) & (known[at] == offsets[of_it])
                tiers[of_it[there]] = decided[at[there]]
        return tiers
