"""Scoring: the credit policy applied to a cleaned batch, column by column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from credit_risk_dagster.domain.cleaning import FIGURES, CleanApplications, Cleaning, Joint
from credit_risk_dagster.domain.decision import OUTCOMES, TIERS, Codes, Decisions, decide
from credit_risk_dagster.domain.decoding import (
    ACCEPTED,
    DUPLICATE,
    REASONS,
    DecodedEvents,
    decode,
    reason_code,
)
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.texts import Texts
from credit_risk_dagster.domain.unary import BANDS, Flags


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
        firsts: source, partition and offset of the record that each of them repeats, -1 where it
            repeats none, shape (len(rejected_at), 3); None when none does.
        model_error: why there is no PD although there is a model; None when all is well.
    """

    loan_ids: Texts
    scored: pa.RecordBatch
    scored_at: npt.NDArray[np.intp]
    tiers: Codes
    rejected_at: npt.NDArray[np.intp]
    reasons: npt.NDArray[np.int16]
    firsts: npt.NDArray[np.int64] | None = None
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
        at = self.scored_at[list(found)]
        return self._rejecting(at, np.array([reason_code(r) for r in found.values()], np.int16))

    def repeating(self, at: npt.NDArray[np.intp], firsts: npt.NDArray[np.int64]) -> "Assessment":
        """The same, with some of the events rejected because they repeat others.

        Args:
            at: their positions in the input.
            firsts: source, partition and offset of what each repeats, shape (len(at), 3).
        """
        if not len(at):
            return self
        found = self._rejecting(at, np.full(len(at), reason_code(DUPLICATE), np.int16))
        places = np.full((len(found.rejected_at), 3), -1, np.int64)
        places[np.searchsorted(found.rejected_at, at)] = firsts
        return replace(found, firsts=places)

    def _rejecting(self, at: npt.NDArray[np.intp], reasons: npt.NDArray[np.int16]) -> "Assessment":
        """The same, with the events at these positions rejected for these reasons."""
        if not len(at):
            return self
        codes = np.full(len(self.scored_at) + len(self.rejected_at), ACCEPTED, np.int16)
        codes[self.rejected_at] = self.reasons
        codes[at] = reasons
        rejected_at = np.flatnonzero(codes != ACCEPTED)
        scored = codes[self.scored_at] == ACCEPTED
        firsts = None
        if self.firsts is not None:
            firsts = np.full((len(rejected_at), 3), -1, np.int64)
            firsts[np.searchsorted(rejected_at, self.rejected_at)] = self.firsts
        return replace(
            self,
            scored=self.scored.filter(pa.array(scored)),
            scored_at=self.scored_at[scored],
            tiers=self.tiers[scored],
            rejected_at=rejected_at,
            reasons=codes[rejected_at],
            firsts=firsts,
        )

    def only(self, which: Flags) -> "Assessment":
        """The same without the other events; positions stay those of the whole input."""
        scored, rejected = which[self.scored_at], which[self.rejected_at]
        return replace(
            self,
            scored=_some(self.scored, scored),
            scored_at=self.scored_at[scored],
            tiers=self.tiers[scored],
            rejected_at=self.rejected_at[rejected],
            reasons=self.reasons[rejected],
        )

    def reason_counts(self) -> dict[str, int]:
        """Rejected events by reason; only the reasons that occurred."""
        codes, counts = np.unique(self.reasons, return_counts=True)
        return {REASONS[code]: int(count) for code, count in zip(codes, counts, strict=True)}


class Batch:
    """A decoded batch, ready for any number of policies: its values are cleaned once.

    With a model, `scored` of its assessments has the model's columns too (see `PdModel.score`). The
    policy decides and the model only adds: when it fails, for whatever reason, the batch is scored
    without it.
    """

    def __init__(self, events: DecodedEvents, model: PdModel | None = None) -> None:
        self._cleaning = Cleaning(events)
        self._model = model
        self._ready: dict[Joint, _Ready] = {}
        self.loan_ids = self._cleaning.texts["loan_id"]
        """Of every event; null where it has none."""

    def __len__(self) -> int:
        return len(self.loan_ids)

    def assess(self, policy: Policy) -> Assessment:
        """What a policy makes of it."""
        ready = self._as(policy)
        decisions = self.decide(policy)
        scored, model_error = ready.scored
        decided = _some(_decided(decisions), ready.accepted)
        for name in decided.schema.names:
            scored = scored.append_column(name, decided[name])
        rejected_at = np.flatnonzero(~ready.accepted)
        return Assessment(
            loan_ids=ready.applications.texts["loan_id"],
            scored=scored,
            scored_at=np.flatnonzero(ready.accepted),
            tiers=decisions.tier[ready.accepted],
            rejected_at=rejected_at,
            reasons=ready.applications.reasons[rejected_at],
            model_error=model_error,
        )

    def decide(self, policy: Policy) -> Decisions:
        """What a policy says of every event, of the rejected ones, too."""
        ready = self._as(policy)
        columns = ready.columns
        if "pd" in policy.program.columns:
            columns = columns | {"pd": ready.pd}
        return decide(policy.program, columns)

    def accepted(self, policy: Policy) -> Flags:
        """Which events a policy can decide on."""
        return self._as(policy).accepted

    def _as(self, policy: Policy) -> "_Ready":
        joint = policy.program.joint
        if joint not in self._ready:
            applications = self._cleaning.decided_by(joint)
            self._ready[joint] = _Ready(applications, self._model)
        return self._ready[joint]


@dataclass(frozen=True)
class _Ready:
    """A batch by whose figures decide, as columns for policies and as rows; each made once, and
    only when it is asked for."""

    applications: CleanApplications
    model: PdModel | None

    @cached_property
    def accepted(self) -> Flags:
        found: Flags = self.applications.reasons == ACCEPTED
        return found

    @cached_property
    def columns(self) -> dict[str, Any]:
        return self.applications.columns()

    @cached_property
    def scored(self) -> tuple[pa.RecordBatch, str | None]:
        """The rows of what is accepted, with the model's columns, or why they lack those."""
        return _add_pd(_some(_to_arrow(self.applications), self.accepted), self.model)

    @property
    def pd(self) -> npt.NDArray[np.float64]:
        rows, _ = self.scored
        found = np.full(len(self.accepted), np.nan)
        if "pd" in rows.schema.names:
            found[self.accepted] = rows["pd"].to_numpy(zero_copy_only=False)
        return found


def assess(events: DecodedEvents, policy: Policy, model: PdModel | None = None) -> Assessment:
    """Clean and score a decoded batch; see `Batch`."""
    return Batch(events, model).assess(policy)


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


# Of the bands, those that a row has.
BAND_COLUMNS = {"dti_band": "dti", "util_band": "revol_util", "rate_band": "int_rate"}
FEATURES = (
    *("loan_amnt", "annual_inc", "dti", "int_rate", "revol_util", "delinq_2yrs"),
    *("inq_last_6mths", "credit_history_years", "emp_length_yrs", "term_months"),
    *("purpose", "grade", "addr_state", "home_ownership", "application_type"),
    *("annual_inc_primary", "dti_primary", "annual_inc_joint", "dti_joint"),
)
_DECISION = (
    *("risk_tier", "recommendation", "early_warning", "reasons", "figures"),
    *BAND_COLUMNS,
)


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
            "loan_id": assessment.loan_ids[at].as_py(),
            "outcome": "rejected",
            **nothing,
            "policy": version,
            **model_version,
            "reject_reason": REASONS[code],
            "features": {},
        }
    return replies


def _to_arrow(applications: CleanApplications) -> pa.RecordBatch:
    numbers = applications.numbers
    columns: dict[str, pa.Array] = {
        "event_time": pa.array(applications.event_time, pa.timestamp("us")).cast(
            pa.timestamp("us", "UTC")
        ),
        "issue_d": pa.array(applications.issue_d.astype("datetime64[D]")),
    }
    columns |= {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
    columns |= applications.texts
    columns["figures"] = _named(FIGURES, applications.figures)
    return pa.RecordBatch.from_pydict(columns)


def _some(rows: pa.RecordBatch, which: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    return rows if which.all() else rows.filter(pa.array(which))


def _decided(decisions: Decisions) -> pa.RecordBatch:
    columns = {
        column: _named(BANDS, decisions.bands[number]) for column, number in BAND_COLUMNS.items()
    }
    columns["early_warning"] = pa.array(decisions.early_warning)
    columns["risk_tier"] = _named(TIERS, decisions.tier)
    columns["recommendation"] = _named(OUTCOMES, decisions.outcome)
    columns["reasons"] = decisions.reasons()
    return pa.RecordBatch.from_pydict(columns)


def _named(names: tuple[str, ...], codes: Codes) -> pa.Array:
    """The names of codes; -1, the last entry, has none."""
    named = _and_none(names)
    return named.take(pa.array(codes % len(named)))


@cache
def _and_none(names: tuple[str, ...]) -> pa.Array:
    return pa.array([*names, None], pa.string())
