"""What another policy would have decided of the lake's history, beside what was decided then.

Nothing is written. The raw events are scored anew by the drain's own code, and each is compared
with its row of the table `decisions`; how the loans went, `loan_outcomes` says, if it can be asked.
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
from credit_risk_dagster.domain.model.observed import OBSERVED, resolve
from credit_risk_dagster.domain.model.outcome import BAD, GOOD, UNKNOWN, Outcome
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
            "known_outcomes": compared.known,
            "bads": compared.bads,
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
            "tiers": [
                {
                    "tier": tier,
                    "when": when,
                    "applications": int(verdict.tiers[at]),
                    "known_outcomes": int(verdict.outcomes[at, [GOOD, BAD]].sum()),
                    "bads": int(verdict.outcomes[at, BAD]),
                    **{
                        name: number(value)
                        for name, value in zip(
                            ("bad_rate_low", "bad_rate", "bad_rate_high"),
                            vars(verdict.bad_rate(at)).values(),
                            strict=True,
                        )
                    },
                }
                for at, tier in enumerate(TIERS)
                for when, verdict in (("then", compared.active), ("now", compared.candidate))
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
    observed: pa.Table | None = None,
    *,
    since: date | None = None,
    until: date | None = None,
    log: logging.Logger,
) -> HistoryComparison:
    """Compare a policy with the decisions of then, over days (both inclusive; without, all).

    A loan's outcome counts once, at its first application.

    Args:
        outcome: what is bad.
        observed: `OBSERVED`, of the warehouse; without, only what applications carry is known.

    Raises:
        ObjectMissing, LakeUnavailable, LakeRefused, LakeDamaged.
    """
    nothing = np.empty(0, np.int8)
    found = HistoryComparison(policy.version, tally(nothing, nothing, np.empty(0), nothing))
    outcomes = _Outcomes(outcome, OBSERVED.empty_table() if observed is None else observed)
    started = time.monotonic()
    with tuned_interpreter():
        for day, source, batches in raw.days(since, until):
            log.info("comparing %s of source %s", day, source)
            then = _Then(iter(raw.decisions(source, day).to_batches()))
            found.days.add(day)
            for batch in batches:
                _compare(found, batch, then, policy, outcomes)
    found.seconds = time.monotonic() - started
    return found


def _compare(
    found: HistoryComparison,
    batch: pa.RecordBatch,
    then: "_Then",
    policy: Policy,
    outcomes: "_Outcomes",
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
    recorded = fetch.timestamps[assessment.scored_at].astype("datetime64[ms]")
    recorded[recorded < np.datetime64(0, "ms")] = np.datetime64("NaT")  # `NO_TIME`
    found.compared += tally(
        before[assessment.scored_at][both],
        assessment.tiers[both],
        assessment.scored["loan_amnt"].to_numpy(zero_copy_only=False)[both],
        outcomes.codes(assessment.scored, recorded.astype("datetime64[D]"))[both],
    )


class _Outcomes:
    """What became of the loans of applications, each loan counted once."""

    def __init__(self, outcome: Outcome, observed: pa.Table) -> None:
        self._outcome, self._observed = outcome, observed
        self._loans = pc.unique(observed["loan_id"])
        self._due = np.ones(len(self._loans), np.bool_)

    def codes(self, scored: pa.RecordBatch, recorded: npt.NDArray[np.datetime64]) -> Codes:
        """`BAD`, `GOOD` or `UNKNOWN` of each application."""
        codes = outcome_codes(self._outcome, scored["loan_status"].to_pylist())
        found = pc.index_in(scored["loan_id"], value_set=self._loans).fill_null(-1).to_numpy()
        codes[found >= 0] = UNKNOWN
        loans, first = np.unique(found, return_index=True)
        new = (loans >= 0) & np.append(self._due, False)[loans]
        loans, first = loans[new], first[new]
        self._due[loans] = False
        if len(loans):
            decided = recorded
            for name in ("event_time", "issue_d"):
                said = scored[name].to_numpy(zero_copy_only=False).astype("datetime64[D]")
                decided = np.where(np.isnat(said), decided, said)
            ids = self._loans.take(pa.array(loans))
            resolved = resolve(self._outcome, ids, decided[first], self._observed)
            known = np.where(resolved.bad, BAD, GOOD)
            codes[first] = np.where(resolved.known, known, UNKNOWN)
        return codes


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
