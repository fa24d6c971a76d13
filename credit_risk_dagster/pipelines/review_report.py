"""The report of reviews: their figures as a page by itself, and in a line."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from credit_risk_dagster.domain.cases import AGE_WORDS, FEWEST, BadRate, Overridden, Precision
from credit_risk_dagster.domain.intervals import Interval
from credit_risk_dagster.domain.model.card import Section, to_html
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.pipelines.reviews import Reviews, TurnedOut

Row = TypeVar("Row")


def summary(found: Reviews, days: int) -> str:
    """The report in a line, for a chat."""
    opened, closed = (
        sum(getattr(day, name) for day in found.days) for name in ("opened", "closed")
    )
    every = next((one for one in found.precisions if not one.rule), None)
    said = f"precision {interval(every.share)}" if every else "none is closed yet"
    return (
        f"Reviews of the last {counted(days, 'day')}: {counted(opened, 'case')} opened, "
        f"{closed:,} closed; {counted(found.open, 'waits', 'wait')}, {found.overdue:,} of them "
        f"overdue; {said}"
    )


def page(
    found: Reviews, loans: TurnedOut, until: datetime, days: int, closed_days: int, outcome: str
) -> str:
    """The report as an HTML page.

    Args:
        until: when it was made.
        days: of the work by day; `closed_days`: of precision and overrides.
        outcome: what is bad, in words.
    """
    recent = f"Of the cases that were closed in the last {closed_days} days."
    sections = [
        Section("In short", (summary(found, days) + ".",)),
        Section(
            "Precision by rule",
            (
                f"{recent} Right is what was confirmed or overridden up, wrong what was a false "
                "positive or overridden down; what was escalated is undecided, and left out of the "
                "share. A case counts for each rule that flagged its loan. Intervals are Wilson's, "
                "at 95 %.",
            ),
            _table(
                ("rule", "right", "wrong", "undecided", "precision"), found.precisions, _precision
            ),
        ),
        *_work(found),
        *(
            Section(
                f"Overrides by {by}",
                (recent,),
                _table((by, "closed", "up", "down", "share overridden"), rows, _overridden),
            )
            for by, rows in (("reviewer", found.by_reviewer), ("rule", found.by_rule))
        ),
        Section(
            "Did the overrides turn out right",
            (
                f"Loans of closed cases whose outcome is known ({outcome}), by what their newest "
                f"case was closed as; {counted(loans.without_outcome, 'has', 'have')} none. "
                f"Below {FEWEST} loans the figures say little, whatever they are.",
                "Those that were not overridden went bad more often than those overridden down by "
                f"{interval(loans.difference)} (Newcombe's interval).",
            ),
            _table(("cases", "loans", "went bad", "bad rate"), loans.bad_rates, _bad_rate),
        ),
    ]
    return to_html(f"Reviews up to {until:%Y-%m-%d %H:%M} UTC", sections)


def _work(found: Reviews) -> list[Section]:
    return [
        Section(
            "Waiting",
            ("Cases that are not closed, by days since they were opened.",),
            _table(
                ("age", "cases", "overdue", "nobody's", "amount, USD"),
                found.ages,
                lambda age: (
                    AGE_WORDS[age.band],
                    *(f"{n:,}" for n in (age.cases, age.overdue, age.unassigned)),
                    f"{age.loan_amnt:,.0f}",
                ),
            ),
        ),
        Section(
            "Work by day",
            ("In UTC. Opened again counts as coming in.",),
            _table(
                ("day", "opened", "opened again", "closed"),
                found.days,
                lambda day: (
                    f"{day.day.astimezone(UTC):%Y-%m-%d}",
                    *(f"{n:,}" for n in (day.opened, day.reopened, day.closed)),
                ),
            ),
        ),
    ]


def interval(of: Interval) -> str:
    """`12.3 % (95 %: 10.1 to 14.9)`."""
    if math.isnan(of.value):
        return "not known"
    return f"{100 * of.value:.1f} % (95 %: {100 * of.low:.1f} to {100 * of.high:.1f})"


def _table(
    head: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], Sequence[str]]
) -> tuple[Sequence[str], ...]:
    return (head, *map(cells, rows)) if rows else (head, ("none yet", *[""] * (len(head) - 1)))


def _precision(one: Precision) -> Sequence[str]:
    counts = (one.right, one.wrong, one.undecided)
    return (one.rule or "all cases", *(f"{n:,}" for n in counts), interval(one.share))


def _overridden(one: Overridden) -> Sequence[str]:
    counts = (one.closed, one.up, one.down)
    return (one.of, *(f"{n:,}" for n in counts), interval(one.share))


def _bad_rate(one: BadRate) -> Sequence[str]:
    few = " (too few to tell)" if one.few else ""
    return (one.of, f"{one.loans:,}", f"{one.bads:,}", interval(one.share) + few)
