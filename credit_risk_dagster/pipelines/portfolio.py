"""The report of the portfolio: the newest applications by a model's PD, and what became of them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from credit_risk_dagster.domain.drift.comparison import Thresholds
from credit_risk_dagster.domain.fairness import by_class, by_segment
from credit_risk_dagster.domain.intervals import share
from credit_risk_dagster.domain.model.development import stability
from credit_risk_dagster.domain.model.estimated import estimate
from credit_risk_dagster.domain.model.measures import auc_interval
from credit_risk_dagster.domain.model.observed import resolve
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.domain.pd import PdModel, probability
from credit_risk_dagster.domain.policy import TIERS, Policy
from credit_risk_dagster.domain.portfolio import (
    came_of_tiers,
    expected_losses,
    largest,
    loss_given_default,
    stress,
    unmoved,
)
from credit_risk_dagster.pipelines.classes import CLASS, Classes
from resources.postgres.connection import Warehouse
from resources.postgres.models import ModelStore
from resources.postgres.outcomes import Outcomes
from resources.postgres.risk_reports import add_report

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

KIND = "portfolio"
MOST_APPLICATIONS = 50_000
WINDOW, _MOST_WINDOWS = 500, 40
_HISTORY = (5.0, 10.0, 20.0)  # years
_HISTORY_WORDS = ("under 5 years", "5 to 10 years", "10 to 20 years", "20 years and more")


@dataclass(frozen=True)
class _Applications:
    """The newest applications, the oldest first; `bad` is NaN where the outcome is not known."""

    rows: pa.Table
    observed: pa.Table
    flagged: Flags
    bad: Floats
    pd: Floats | None

    @property
    def tiers(self) -> list[str]:
        tiers: list[str] = self.rows["risk_tier"].to_pylist()
        return tiers


def report_portfolio(
    warehouse: Warehouse,
    policy: Policy,
    outcome: Outcome,
    *,
    run_id: str,
    most: int = MOST_APPLICATIONS,
    classes: Classes | None = None,
) -> dict[str, Any] | None:
    """Compute and store the report of the newest applications, each loan once; None without any.

    Args:
        policy: decides anew in the stress.
        outcome: what is bad.
        most: applications.
        classes: to which the applicants belong, where that is known; of them only sums are kept.

    Raises:
        WarehouseUnavailable, NotMigrated: as their names say.
    """
    with warehouse.session("portfolio") as connection:
        with connection.transaction():
            rows, observed = Outcomes(connection).newest(most)
        rows = _each_once(rows)
        model, active = _model(ModelStore(connection))
        if not len(rows):
            return None
        found = _applications(rows, observed, outcome, model)
        document = _document(found, policy, outcome, model, active, classes)
        if model is not None and found.pd is not None:
            kept = ModelStore(connection).model(model.model_id).metrics.get("development") or {}
            stable = stability(kept, found.rows, pa.array(found.pd), Thresholds())
            document["stability"] = [asdict(one) for one in stable]
        add_report(connection, KIND, policy.version, document, run_id)
    return document


def _model(models: ModelStore) -> tuple[PdModel | None, bool]:
    """The active model, or else the newest that could be; and whether it is active."""
    active, _ = models.active_scorer()
    if active is not None:
        return active, True
    able = [model.model_id for model in models.models() if model.can_score]
    return (models.scorer(able[0]), False) if able else (None, False)


def _each_once(rows: pa.Table) -> pa.Table:
    """The last application of each loan, in order; one without an id is a loan of its own."""
    ids = rows["loan_id"].to_pylist()
    last = dict(zip(ids, range(len(ids)), strict=True))
    keep = [at for at, loan in enumerate(ids) if loan is None or last[loan] == at]
    return rows.take(pa.array(keep, pa.int64()))


def _applications(
    rows: pa.Table, observed: pa.Table, outcome: Outcome, model: PdModel | None
) -> _Applications:
    bad = np.full(len(rows), np.nan)
    ids = rows["loan_id"].to_numpy()
    named = np.array([loan is not None for loan in ids])
    if named.any():
        loans, first, at = np.unique(ids[named].astype(str), return_index=True, return_inverse=True)
        decided = rows["issue_d"].to_numpy().astype("datetime64[D]")[named][first]
        resolved = resolve(outcome, pa.array(loans), decided, observed)
        bad[named] = np.where(resolved.known, resolved.bad, np.nan)[at]
    tiers = rows["risk_tier"].to_numpy()
    pd = None if model is None else probability(model.log_odds(rows)[0])
    return _Applications(rows, observed, np.asarray(tiers == "Watchlist"), bad, pd)


def _document(
    found: _Applications,
    policy: Policy,
    outcome: Outcome,
    model: PdModel | None,
    active: bool,
    classes: Classes | None,
) -> dict[str, Any]:
    rows, known = found.rows, ~np.isnan(found.bad)
    amount = rows["loan_amnt"].to_numpy()
    exposures = dict(zip(rows["loan_id"].to_pylist(), amount.tolist(), strict=True))
    lgd = loss_given_default(found.observed, exposures)
    score = rows["int_rate"].to_numpy() if found.pd is None else found.pd
    months = rows["issue_d"].to_numpy().astype("datetime64[M]").astype(str).tolist()
    groups = {
        "tier": found.tiers,
        "purpose": rows["purpose"].to_pylist(),
        "grade": rows["grade"].to_pylist(),
        "vintage": [None if month == "NaT" else month for month in months],
    }
    segments = by_segment(_attributes(rows), found.flagged, score, found.bad)
    if classes is not None:
        segments += by_class({CLASS: classes.of(rows)}, found.flagged, score, found.bad)
    losses = [] if found.pd is None else expected_losses(groups, found.pd, amount, lgd)
    return {
        "policy": policy.version,
        "outcome": outcome.version,
        "model": model and model.version,
        "active": active,
        "applications": len(rows),
        "known": int(known.sum()),
        "first": str(rows["scored_at"][0]),
        "last": str(rows["scored_at"][len(rows) - 1]),
        "lgd": lgd.words,
        "score": "rate" if found.pd is None else "PD",
        "classes": classes and classes.words(rows),
        "segments": [asdict(segment) for segment in segments],
        "expected": [asdict(group) for group in losses],
        "tiers": [asdict(tier) for tier in came_of_tiers(found.tiers, found.bad)],
        "performance": None if found.pd is None else _performance(found, found.pd),
        "limits": {
            "watchlist_share": {"value": float(found.flagged.mean())},
            "expected_loss": {"value": losses[0].loss_rate if losses else None},
            **{
                f"largest_{name}": dict(zip(("of", "value"), largest(values, amount), strict=True))
                for name, values in (
                    ("state", rows["addr_state"].to_pylist()),
                    ("purpose", groups["purpose"]),
                )
            },
        },
        "unmoved": [] if model is None else unmoved(model),
        "stress": [asdict(scenario) for scenario in stress(rows, policy, model, lgd)],
        "windows": [] if found.pd is None else _windows(found, found.pd, amount, lgd.value),
    }


def _attributes(rows: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """Of whom the policy is asked whether it flags them more often; as `pipelines.fairness`."""
    names = ("application_type", "home_ownership", "addr_state", "grade")
    years = rows["credit_history_years"].to_numpy()
    words = np.array([*_HISTORY_WORDS, None], dtype=object)
    bins = np.where(np.isnan(years), len(_HISTORY_WORDS), np.searchsorted(_HISTORY, years, "right"))
    found = {name: np.array(rows[name].to_pylist(), object) for name in names}
    return {**found, "age of credit": words[bins]}


def _windows(found: _Applications, pd: Floats, amount: Floats, lgd: float) -> list[dict[str, Any]]:
    """The applications in up to 40 parts of at least `WINDOW`, the oldest first: what is expected
    of the PD, what came, and the mean PD and expected loss (by the amount) of each tier."""
    loss = pd * amount * lgd
    count = max(1, min(_MOST_WINDOWS, len(pd) // WINDOW))
    times = found.rows["scored_at"]
    windows = []
    for part in np.array_split(np.arange(len(pd)), count):
        estimated = estimate(pd[part], found.flagged[part])
        tiers = np.array(found.tiers, object)[part]
        windows.append(
            {
                "until": str(times[int(part[-1])]),
                "applications": len(part),
                "estimated": estimated and asdict(estimated),
                "realised": _realised(pd[part], found.flagged[part], found.bad[part]),
                "tiers": [
                    {
                        "tier": tier,
                        "n": int(inside.sum()),
                        "pd": float(pd[part][inside].mean()),
                        "loss_rate": float(loss[part][inside].sum() / amount[part][inside].sum()),
                    }
                    for tier in TIERS
                    if (inside := tiers == tier).any()
                ],
            }
        )
    return windows


def _performance(found: _Applications, pd: Floats) -> dict[str, Any]:
    """What came of all loans whose outcome is known, beside what their PDs say."""
    known = ~np.isnan(found.bad)
    came = _realised(pd, found.flagged, found.bad)
    low = high = None
    if came["auc"] is not None:
        _, low, high = auc_interval(found.bad[known] == 1, pd[known])
    expected = float(pd[known].mean()) if known.any() else None
    return {**came, "auc_low": low, "auc_high": high, "expected_bad_rate": expected}


def _realised(pd: Floats, flagged: Flags, bad: Floats) -> dict[str, Any]:
    """What came, of the loans whose outcome is known; what has no value is None."""
    known = ~np.isnan(bad)
    went_bad = bad[known] == 1
    bads, loans = int(went_bad.sum()), int(known.sum())
    auc = auc_interval(went_bad, pd[known])[0] if 0 < bads < loans else None
    return {
        "loans": loans,
        "bads": bads,
        "auc": auc,
        "bad_rate": asdict(share(bads, loans)),
        "recall": asdict(share(int((went_bad & flagged[known]).sum()), bads)),
    }
