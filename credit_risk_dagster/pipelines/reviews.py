"""The figures of reviews: what became of the Watchlist's cases, and whether it was right."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
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
from credit_risk_dagster.domain.intervals import NOTHING, Interval
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
    """

    precisions: list[Precision]
    ages: list[Age]
    days: list[Day]
    by_reviewer: list[Overridden]
    by_rule: list[Overridden]

    @property
    def open(self) -> int:
        """Cases that are not closed."""
        return sum(age.cases for age in self.ages)

    @property
    def overdue(self) -> int:
        """Those that should be."""
        return sum(age.overdue for age in self.ages)


@dataclass(frozen=True)
class TurnedOut:
    """How the loans of closed cases turned out.

    Attributes:
        bad_rates: by whether the case was overridden; `difference` is by how much those that were
            not are worse than those overridden down.
        without_outcome: loans that have none.
    """

    bad_rates: list[BadRate]
    difference: Interval
    without_outcome: int

    def document(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @staticmethod
    def of(document: Mapping[str, Any]) -> "TurnedOut":
        """What was stored; the version before had only the rates."""
        rates = [
            BadRate(row["of"], row["loans"], row["bads"], _interval(row["share"]))
            for row in document["bad_rates"]
        ]
        return TurnedOut(
            rates, _interval(document.get("difference", {})), document.get("without_outcome", 0)
        )


def _interval(stored: Mapping[str, float | None]) -> Interval:
    known = {bound: value for bound, value in stored.items() if value is not None}
    return replace(NOTHING, **known)


def review_figures(
    connection: psycopg.Connection[Any],
    *,
    since: datetime,
    closed_since: date | None = None,
    zone: str = "UTC",
) -> Reviews:
    """Count the cases, at a cost that does not grow with history.

    Args:
        since: of the days.
        closed_since: of precision and overrides, a day in UTC; None is ever.
        zone: of the days.
    """
    figures = CaseFigures(connection)
    closed = figures.closed(closed_since)
    return Reviews(
        precisions(closed),
        figures.ages(),
        figures.days(since, zone),
        overridden(closed, "reviewer"),
        overridden(closed, "rule"),
    )


def turned_out(connection: psycopg.Connection[Any], outcome: Outcome) -> TurnedOut:
    """Look up how the loans of the newest `MOST_CLOSED` closed cases turned out: seconds, which a
    report has and a page has not."""
    figures = CaseFigures(connection)
    rows = figures.reviewed_loans()
    loans = pa.array([loan for loan, _, _ in rows], pa.string())
    decided = np.array([day for *_, day in rows], "datetime64[D]")
    found = resolve(outcome, loans, decided, figures.observed(loans.to_pylist()))
    known = [(rows[at][1], bool(found.bad[at])) for at in np.flatnonzero(found.known).tolist()]
    rates, difference = bad_rates(known)
    return TurnedOut(rates, difference, len(rows) - len(known))
