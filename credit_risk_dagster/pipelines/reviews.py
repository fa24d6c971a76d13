"""The figures of reviews: what became of the Watchlist's cases, and whether it was right."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from credit_risk_dagster.domain.cases import (
    BadRate,
    Overridden,
    Precision,
    bad_rates,
    overridden,
    precisions,
)
from credit_risk_dagster.domain.intervals import Interval
from credit_risk_dagster.domain.model.observed import resolve
from credit_risk_dagster.domain.model.outcome import Outcome
from resources.postgres.case_figures import Age, CaseFigures, Day


@dataclass(frozen=True)
class Reviews:
    """What became of cases.

    Attributes:
        precisions: of all closed cases (rule "") and of each rule.
        ages: of those that are not closed.
        days: what came in and went out.
        by_reviewer, by_rule: overrides.
        bad_rates: of loans whose case was closed, by whether it was overridden; `difference` is by
            how much those that were not are worse than those overridden down.
        without_outcome: loans of closed cases that have none.
    """

    precisions: list[Precision]
    ages: list[Age]
    days: list[Day]
    by_reviewer: list[Overridden]
    by_rule: list[Overridden]
    bad_rates: list[BadRate]
    difference: Interval
    without_outcome: int

    @property
    def open(self) -> int:
        """Cases that are not closed."""
        return sum(age.cases for age in self.ages)

    @property
    def overdue(self) -> int:
        """Those that should be."""
        return sum(age.overdue for age in self.ages)


def review_figures(
    connection: psycopg.Connection[Any],
    outcome: Outcome,
    *,
    since: datetime,
    closed_since: datetime | None = None,
    zone: str = "UTC",
) -> Reviews:
    """Count the cases.

    Args:
        outcome: what is bad.
        since: of the days.
        closed_since: of precision and overrides; None is ever, as of bad rates.
        zone: of the days.
    """
    figures = CaseFigures(connection)
    closed = figures.closed(closed_since)
    outcomes, unknown = _outcomes(figures, outcome)
    rates, difference = bad_rates(outcomes)
    return Reviews(
        precisions(closed),
        figures.ages(),
        figures.days(since, zone),
        overridden(closed, "reviewer"),
        overridden(closed, "rule"),
        rates,
        difference,
        unknown,
    )


def _outcomes(figures: CaseFigures, outcome: Outcome) -> tuple[list[tuple[str, bool]], int]:
    """What each loan with an outcome was closed as, and whether it went bad; and the others."""
    rows = figures.reviewed_loans()
    loans = pa.array([loan for loan, _, _ in rows], pa.string())
    decided = np.array([day for *_, day in rows], "datetime64[D]")
    found = resolve(outcome, loans, decided, figures.observed(loans.to_pylist()))
    known = [(rows[at][1], bool(found.bad[at])) for at in np.flatnonzero(found.known).tolist()]
    return known, len(rows) - len(known)
