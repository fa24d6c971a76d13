"""Scoring: the credit policy applied to a cleaned batch, column by column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from credit_risk_dagster.domain.cleaning import CleanApplications, Floats, Texts, clean
from credit_risk_dagster.domain.events import ACCEPTED, REASONS, DecodedEvents, decode, reason_code
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import BANDS, TIERS, Policy

Codes = npt.NDArray[np.int8]

LOW, ELEVATED, WATCHLIST = range(len(TIERS))
NO_BAND = -1


@dataclass(frozen=True)
class Decisions:
    """What the policy says of n applications; every array has shape (n,).

    Attributes:
        dti_band, util_band, rate_band: position in `BANDS`, `NO_BAND` where the value is missing.
        tier: position in `TIERS`.
        reasons: bit i set when the policy's reason i fired; 0 without an early warning.
    """

    dti_band: Codes
    util_band: Codes
    rate_band: Codes
    tier: Codes
    reasons: Codes

    @property
    def early_warning(self) -> npt.NDArray[np.bool_]:
        return self.tier == WATCHLIST


def decide(
    policy: Policy,
    *,
    dti: Floats,
    revol_util: Floats,
    int_rate: Floats,
    delinq_2yrs: Floats,
    inq_last_6mths: Floats,
) -> Decisions:
    """Apply a policy to columns of features (NaN is missing, and never fires a rule)."""
    rule = policy.early_warning
    fired = (
        dti >= rule.dti_at_least,
        revol_util >= rule.revol_util_at_least,
        delinq_2yrs > rule.delinq_2yrs_above,
        inq_last_6mths >= rule.inq_last_6mths_at_least,
    )
    early_warning = (fired[0] | fired[1]) & (fired[2] | fired[3])
    reasons = sum((flag.astype(np.int8) << bit) for bit, flag in enumerate(fired))
    dti_band = _bands(dti, policy.bands.dti)
    util_band = _bands(revol_util, policy.bands.revol_util)
    elevated = np.maximum(dti_band, util_band) >= BANDS.index(policy.elevated_from)
    return Decisions(
        dti_band=dti_band,
        util_band=util_band,
        rate_band=_bands(int_rate, policy.bands.int_rate),
        tier=np.where(early_warning, WATCHLIST, np.where(elevated, ELEVATED, LOW)).astype(np.int8),
        reasons=np.where(early_warning, reasons, 0).astype(np.int8),
    )


def _bands(values: Floats, edges: Sequence[float]) -> Codes:
    codes = np.searchsorted(edges, values, side="left")  # left: the upper edge is inclusive
    return np.where(np.isnan(values), NO_BAND, codes).astype(np.int8)


@dataclass(frozen=True)
class Assessment:
    """A batch after cleaning and scoring: every input event is either scored or rejected.

    Attributes:
        loan_ids: the loan id of every input event, where it has one.
        scored: one row for each scored event, in input order, with the columns that
            `scored_applications` has beyond the record's coordinates.
        scored_at: positions of those events in the input, ascending.
        tiers: their positions in `TIERS`.
        rejected_at: positions of the rejected events in the input, ascending.
        reasons: their reasons, as positions in `REASONS`.
        model_error: why there is no PD although there is a model; None when all is well.
    """

    loan_ids: Texts
    scored: pa.RecordBatch
    scored_at: npt.NDArray[np.intp]
    tiers: Codes
    rejected_at: npt.NDArray[np.intp]
    reasons: npt.NDArray[np.int16]
    model_error: str | None = None

    def tier_counts(self) -> dict[str, int]:
        """Scored events by tier; a tier without any is there with 0."""
        counts = np.bincount(self.tiers, minlength=len(TIERS))
        return dict(zip(TIERS, counts.tolist(), strict=True))

    def tier_amounts(self) -> list[float]:
        """USD applied for, by tier."""
        amounts = np.bincount(
            self.tiers,
            weights=self.scored["loan_amnt"].to_numpy(zero_copy_only=False),
            minlength=len(TIERS),
        )
        return amounts.astype(np.float64).tolist()  # of no rows, bincount makes integers

    def rejecting(self, found: Mapping[int, str]) -> "Assessment":
        """The same, with some of the scored rows rejected.

        Args:
            found: position in `scored` to reason.
        """
        if not found:
            return self
        scored = np.ones(len(self.scored_at), np.bool_)
        scored[list(found)] = False
        rejected_at = np.concatenate([self.rejected_at, self.scored_at[list(found)]])
        codes = np.array([reason_code(reason) for reason in found.values()], np.int16)
        order = np.argsort(rejected_at)
        return replace(
            self,
            scored=self.scored.filter(pa.array(scored)),
            scored_at=self.scored_at[scored],
            tiers=self.tiers[scored],
            rejected_at=rejected_at[order],
            reasons=np.concatenate([self.reasons, codes])[order],
        )

    def reason_counts(self) -> dict[str, int]:
        """Rejected events by reason; only the reasons that occurred."""
        codes, counts = np.unique(self.reasons, return_counts=True)
        return {REASONS[code]: int(count) for code, count in zip(codes, counts, strict=True)}


def assess(events: DecodedEvents, policy: Policy, model: PdModel | None = None) -> Assessment:
    """Clean and score a decoded batch.

    With a model, `scored` has its columns too (see `PdModel.score`). The policy decides and the
    model only adds: when it fails, for whatever reason, the batch is scored without it.
    """
    applications = clean(events)
    numbers = applications.numbers
    decisions = decide(
        policy,
        **{
            name: numbers[name]
            for name in ("dti", "revol_util", "int_rate", "delinq_2yrs", "inq_last_6mths")
        },
    )
    accepted = applications.reasons == ACCEPTED
    scored = _to_arrow(applications, decisions, policy)
    tiers = decisions.tier
    if not accepted.all():
        scored = scored.filter(pa.array(accepted))
        tiers = tiers[accepted]
    scored, model_error = _add_pd(scored, model)
    rejected_at = np.flatnonzero(~accepted)
    return Assessment(
        loan_ids=applications.texts["loan_id"],
        scored=scored,
        scored_at=np.flatnonzero(accepted),
        tiers=tiers,
        rejected_at=rejected_at,
        reasons=applications.reasons[rejected_at],
        model_error=model_error,
    )


def _add_pd(scored: pa.RecordBatch, model: PdModel | None) -> tuple[pa.RecordBatch, str | None]:
    if model is None:
        return scored, None
    try:
        added = model.score(scored)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with a model, the stream goes on)
        return scored, f"model {model.version} cannot score: {type(error).__name__}: {error}"
    for name in added.schema.names:
        scored = scored.append_column(name, added[name])
    return scored, None


FEATURES = (
    *("loan_amnt", "annual_inc", "dti", "int_rate", "revol_util", "delinq_2yrs"),
    *("inq_last_6mths", "credit_history_years", "emp_length_yrs", "term_months"),
    *("purpose", "grade", "addr_state", "home_ownership"),
)
_DECISION = ("risk_tier", "early_warning", "reasons", "dti_band", "util_band", "rate_band")


def answers(
    values: Sequence[bytes | None], policy: Policy, model: PdModel | None = None
) -> list[dict[str, Any]]:
    """What the stream would make of raw values, one answer for each, in order, ready for JSON.

    An answer has loan_id, outcome (scored or rejected), the decision (nulls when rejected), the
    policy's version, reject_reason (null when scored) and features (empty when rejected). With a
    model it also has pd, pd_reasons (nulls when rejected) and the model's version.
    """
    assessment = assess(decode(values), policy, model)
    version = policy.version
    model_version = {} if model is None else {"model": model.version}
    estimate = () if model is None else ("pd", "pd_reasons")
    nothing: dict[str, Any] = dict.fromkeys((*_DECISION, *estimate))
    replies: list[dict[str, Any]] = [{}] * len(values)
    for at, row in zip(assessment.scored_at, assessment.scored.to_pylist(), strict=True):
        replies[at] = {
            "loan_id": row["loan_id"],
            "outcome": "scored",
            **{name: row[name] for name in _DECISION},
            **{name: row.get(name) for name in estimate},
            "policy": version,
            **model_version,
            "reject_reason": None,
            "features": {name: row[name] for name in FEATURES},
        }
    for at, code in zip(assessment.rejected_at, assessment.reasons, strict=True):
        replies[at] = {
            "loan_id": assessment.loan_ids[at],
            "outcome": "rejected",
            **nothing,
            "policy": version,
            **model_version,
            "reject_reason": REASONS[code],
            "features": {},
        }
    return replies


def _to_arrow(
    applications: CleanApplications, decisions: Decisions, policy: Policy
) -> pa.RecordBatch:
    numbers, texts = applications.numbers, applications.texts
    columns: dict[str, pa.Array] = {
        "event_time": pa.array(applications.event_time, pa.timestamp("us")).cast(
            pa.timestamp("us", "UTC")
        ),
        "issue_d": pa.array(applications.issue_d.astype("datetime64[D]")),
    }
    columns |= {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
    columns |= {name: pa.array(values, pa.string()) for name, values in texts.items()}
    bands = pa.array([*BANDS, None], pa.string())  # NO_BAND is -1: the last entry
    for name in ("dti_band", "util_band", "rate_band"):
        columns[name] = bands.take(pa.array(getattr(decisions, name) % len(bands)))
    columns["early_warning"] = pa.array(decisions.early_warning)
    columns["risk_tier"] = pa.array(TIERS, pa.string()).take(pa.array(decisions.tier))
    columns["reasons"] = _reason_sets(policy).take(pa.array(decisions.reasons))
    return pa.RecordBatch.from_pydict(columns)


def _reason_sets(policy: Policy) -> pa.Array:
    """The reasons of every possible bit set, so that a batch takes its own from 16 arrays."""
    codes = policy.reason_codes
    flags = product((False, True), repeat=len(codes))  # counts up, last position fastest
    return pa.array([list(compress(codes, bits[::-1])) for bits in flags], pa.list_(pa.string()))
