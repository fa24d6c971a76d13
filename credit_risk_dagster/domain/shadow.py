"""Shadows: what candidates say of each batch beside what is decided, and where they differ.

A policy is compared by tiers, with what it would reject; a model by bands of the PD.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.decision import OUTCOMES, Codes, Decisions
from credit_risk_dagster.domain.decoding import DUPLICATE, UNSTORABLE, reason_code
from credit_risk_dagster.domain.pd import Floats, PdModel, probability
from credit_risk_dagster.domain.policy import TIERS, Policy
from credit_risk_dagster.domain.scoring import Assessment, Batch

FAILED: Final = "Failed"
STATES: Final = (*TIERS, "Rejected", FAILED)
PD_EDGES: Final = (0.02, 0.05, 0.1, 0.2)
PD_BANDS: Final = (
    *("PD below 2 %", "PD 2 to 5 %", "PD 5 to 10 %", "PD 10 to 20 %", "PD 20 % and more"),
    *("No PD", FAILED),
)
_REJECTED, _NO_PD = len(TIERS), len(PD_BANDS) - 2
_OF_NO_POLICY = [reason_code(reason) for reason in (DUPLICATE, *UNSTORABLE)]


@dataclass(frozen=True)
class Shadow:
    """A candidate that decides beside."""

    experiment_id: int
    candidate: Policy | PdModel


@dataclass(frozen=True)
class Opinion:
    """What a shadow says of a batch of n events.

    Attributes:
        labels: `STATES` or `PD_BANDS`.
        codes: position in `labels`, shape (n,).
        decisions: of a policy, of all events.
        pd: of a model, shape (n,), NaN where it has none.
        error: why it says nothing.
    """

    experiment_id: int
    labels: tuple[str, ...]
    codes: Codes
    decisions: Decisions | None = None
    pd: Floats | None = None
    error: str | None = None


@dataclass(frozen=True)
class Beside:
    """A shadow's opinion beside what was decided.

    Attributes:
        decided, candidate: labels of each cell of the matrix that has applications.
        applications, loan_amnt, decided_pd, candidate_pd: of each cell, the latter as sums; None
            without PDs.
        differing: positions of the events of which the shadow says otherwise.
        rows: what it says of those, in their order.
    """

    decided: list[str]
    candidate: list[str]
    applications: list[int]
    loan_amnt: list[float]
    decided_pd: list[float] | None
    candidate_pd: list[float] | None
    differing: npt.NDArray[np.intp]
    rows: pa.RecordBatch


def opinion(shadow: Shadow, batch: Batch, assessment: Assessment) -> Opinion:
    """What a shadow says of a batch; its failure, whatever it is, is its own."""
    candidate = shadow.candidate
    labels = STATES if isinstance(candidate, Policy) else PD_BANDS
    try:
        if isinstance(candidate, Policy):
            decisions = batch.decide(candidate)
            codes = np.where(batch.accepted(candidate), decisions.tier, _REJECTED).astype(np.int8)
            return Opinion(shadow.experiment_id, labels, codes, decisions)
        pd = np.full(len(batch), np.nan)
        pd[assessment.scored_at] = probability(candidate.log_odds(assessment.scored)[0])
        return Opinion(shadow.experiment_id, labels, _pd_bands(pd), pd=pd)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with a candidate, the stream goes on)
        said = f"experiment {shadow.experiment_id}, {candidate.version}: {type(error).__name__}"
        failed = np.full(len(batch), len(labels) - 1, np.int8)
        return Opinion(shadow.experiment_id, labels, failed, error=f"{said}: {error}")


def beside(found: Opinion, assessment: Assessment) -> Beside:
    """An opinion beside what was decided of the same batch."""
    count, at = len(found.codes), assessment.scored_at
    if found.labels is STATES:
        decided = np.full(count, _REJECTED, np.int8)
        decided[at] = assessment.tiers
        decided_pd = None
        of_all = np.flatnonzero(_compared(assessment, count))
    else:
        decided_pd = np.full(count, np.nan)
        if "pd" in assessment.scored.schema.names:
            decided_pd[at] = assessment.scored["pd"].to_numpy(zero_copy_only=False)
        decided = _pd_bands(decided_pd)
        of_all = at  # there is no PD of what is rejected
    differs = decided != found.codes
    if found.decisions is not None:
        recommended = pc.index_in(assessment.scored["recommendation"], pa.array(OUTCOMES))
        differs[at] |= found.decisions.outcome[at] != pc.fill_null(recommended, -1).to_numpy()
    differing = of_all[differs[of_all]] if found.error is None else np.empty(0, np.intp)
    amounts = np.zeros(count)
    amounts[at] = assessment.scored["loan_amnt"].to_numpy(zero_copy_only=False)
    width = len(found.labels)
    cells = decided[of_all].astype(np.intp) * width + found.codes[of_all]
    totals = np.bincount(cells, minlength=width**2)
    there = np.flatnonzero(totals)

    def sums(values: Floats | None) -> list[float] | None:
        if values is None:
            return None
        weights = np.nan_to_num(values[of_all])
        return np.bincount(cells, weights, width**2)[there].astype(np.float64).tolist()

    return Beside(
        decided=np.take(found.labels, there // width).tolist(),
        candidate=np.take(found.labels, there % width).tolist(),
        applications=totals[there].tolist(),
        loan_amnt=sums(amounts) or [],
        decided_pd=sums(decided_pd),
        candidate_pd=sums(found.pd),
        differing=differing,
        rows=_rows(found, decided, decided_pd, differing),
    )


def _compared(assessment: Assessment, count: int) -> npt.NDArray[np.bool_]:
    """Not what was rejected whatever any policy says: repeated, or not to be stored."""
    found = np.ones(count, np.bool_)
    found[assessment.rejected_at[np.isin(assessment.reasons, _OF_NO_POLICY)]] = False
    return found


def _pd_bands(pd: Floats) -> Codes:
    bands = np.searchsorted(PD_EDGES, pd, side="right")
    return np.where(np.isnan(pd), _NO_PD, bands).astype(np.int8)


def _rows(
    found: Opinion, decided: Codes, decided_pd: Floats | None, at: npt.NDArray[np.intp]
) -> pa.RecordBatch:
    labels = pa.array(found.labels, pa.string())
    columns: dict[str, pa.Array] = {
        "decided": labels.take(pa.array(decided[at])),
        "candidate": labels.take(pa.array(found.codes[at])),
    }
    if found.decisions is not None:
        some = found.decisions.some(at)
        outcomes = pa.array([*OUTCOMES, None], pa.string())
        columns["recommendation"] = outcomes.take(pa.array(some.outcome % len(outcomes)))
        columns["reasons"] = some.reasons()
    for name, values in (("decided_pd", decided_pd), ("candidate_pd", found.pd)):
        if values is not None:
            columns[name] = pa.array(values[at], from_pandas=True)
    return pa.RecordBatch.from_pydict(columns)
