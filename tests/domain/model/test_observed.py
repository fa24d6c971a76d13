"""Outcomes at a horizon: who is bad, who is good, and who is neither, and why."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from credit_risk_dagster.domain.model.observed import (
    IMMATURE,
    NO_DATE,
    OBSERVED,
    UNSEEN,
    add_months,
    exposure,
    resolve,
)
from credit_risk_dagster.domain.model.outcome import Outcome, load_outcome
from credit_risk_dagster.domain.model.sample import Loans, SampleTooSmall, make_sample
from tests.domain.model.samples import OUTCOME, builtin_rows, planted, sample_of

SIXTY = Outcome(
    name="sixty",
    horizon_months=12,
    bad=["days_past_due >= 60", "Charged Off"],
    good=["days_past_due < 60", "Current", "Fully Paid"],
)
Seen = tuple[str, str | None, float | None]


def observations(rows: Sequence[tuple[str, Seen]]) -> pa.Table:
    """A loan, and day, status and days past due."""
    return pa.table(
        {
            "loan_id": [loan for loan, _ in rows],
            "observed_at": [datetime.fromisoformat(f"{day}T00:00Z") for _, (day, *_) in rows],
            "status": [status for _, (_, status, _) in rows],
            "days_past_due": [days for _, (_, _, days) in rows],
            "balance": pa.nulls(len(rows)),
            "recovered": pa.nulls(len(rows)),
        },
        OBSERVED,
    )


def found(outcome: Outcome, seen: Sequence[Seen], decided: str = "2018-01-15") -> Any:
    """Of one loan: bad, good, or why it is left out. Another one is observed for years."""
    rows = [("loan", one) for one in seen] + [("old", ("2021-01-01", "Current", 0.0))]
    days = np.array([decided, "2018-01-01"], "datetime64[D]")
    resolved = resolve(outcome, pa.array(["loan", "old"]), days, observations(rows))
    if resolved.known[0]:
        return "bad" if resolved.bad[0] else "good"
    (why,) = (reason for reason in resolved.left_out)
    return why


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([("2018-08-01", None, 60.0), ("2019-02-01", "Current", 0.0)], "bad"),  # cured, and was bad
        ([("2019-01-15", None, 60.0)], "bad"),  # at the horizon itself
        ([("2018-08-01", None, 59.0), ("2019-01-15", None, 59.0)], "good"),
        ([("2018-08-01", "Charged Off", None)], "bad"),  # and nobody looks any more
        ([("2018-05-01", "Fully Paid", None)], "good"),  # the same
        ([("2018-12-20", None, 30.0), ("2019-01-20", None, 61.0)], "good"),  # bad just after it
        ([("2018-08-01", None, 30.0), ("2019-03-01", None, 150.0)], UNSEEN),  # when did it go bad?
        ([("2018-12-20", None, 0.0)], UNSEEN),
        ([("2017-12-01", None, 90.0), ("2019-02-01", None, 0.0)], "good"),  # before the decision
        ([("2019-02-01", "Issued", None)], "status 'Issued'"),
        ([("2019-02-01", None, None)], "no status"),
        ([("2018-03-01", "Issued", None), ("2019-02-01", None, 0.0)], "good"),
        (  # the second is a correction of the first
            [("2018-12-31", None, 90.0), ("2018-12-31", None, 0.0), ("2019-02-01", None, 0.0)],
            "good",
        ),
        ([], "no outcome observed"),
    ],
)  # fmt: skip
def test_who_is_bad_within_twelve_months(seen: Sequence[Seen], expected: str) -> None:
    assert found(SIXTY, seen) == expected


def test_the_young_are_left_out_whether_bad_or_good() -> None:
    """Those of them that are bad already would make the young look worse than the old."""
    assert found(SIXTY, [("2020-06-01", None, 90.0)], "2020-02-01") == IMMATURE
    assert found(SIXTY, [("2020-06-01", None, 0.0)], "2020-02-01") == IMMATURE
    assert found(SIXTY, [("2019-06-01", None, 0.0)], "NaT") == NO_DATE


def test_without_a_horizon_the_last_observation_decides() -> None:
    late, cured = ("2018-03-01", "Late (16-30 days)", None), ("2018-04-01", "Current", None)
    assert found(OUTCOME, [late, cured]) == "good"
    assert found(OUTCOME, [cured, late]) == "good"  # by its time, however late it was told
    assert found(OUTCOME, [cured, ("2018-05-01", "Issued", None)]) == "status 'Issued'"


def test_months_later_is_the_same_day_or_the_last_one() -> None:
    days = np.array(["2018-01-31", "2019-03-15", "2020-02-29"], "datetime64[D]")
    assert add_months(days, 1).astype(str).tolist() == ["2018-02-28", "2019-04-15", "2020-03-29"]
    assert add_months(days, 12).astype(str).tolist() == ["2019-01-31", "2020-03-15", "2021-02-28"]


def test_loans_that_do_not_meet_the_policy_have_an_outcome() -> None:
    """Loans of 2007 to 2010 of LendingClub's files, of which 276 of 456 vanished silently."""
    prefix = "Does not meet the credit policy. Status:"
    status = np.array([f"{prefix}Charged Off"] * 76 + [f"{prefix}Fully Paid"] * 200 + ["x"] * 180)
    for name in ("early_delinquency", "matured"):
        sample = sample_of("old", load_outcome(name), planted(np.zeros(456), loan_status=status))
        assert (len(sample), sample.bads) == (276, 76)
        assert sample.left_out == {"status 'x'": 180}


def test_who_applies_again_after_going_bad_is_learned_from_as_decided() -> None:
    """Bad loans decided at a DTI of 41.5 at most, and sent again with 99: a model that trained on
    the newest rows knew them by it (AUC 1.0)."""
    random = np.random.default_rng(0)
    bad = np.arange(1_000) < 300
    first = planted(bad, dti=random.uniform(0, 41.5, 1_000))
    again = planted(bad, dti=np.where(bad, 99.0, first["dti"].to_numpy()))
    sample = sample_of("sent", OUTCOME, pa.concat_tables([first, again]))
    assert sample.bads == 300
    assert sample.rows["dti"].to_numpy().max() <= 41.5


def test_a_sample_says_who_is_left_out() -> None:
    rows = planted(np.arange(200) < 100)
    ids = rows["loan_id"].combine_chunks()
    day = datetime(2019, 6, 1, tzinfo=UTC)
    observed = pa.table(
        {
            "loan_id": ids,
            "observed_at": [day] * 200,
            "status": [None] * 200,
            "days_past_due": [90.0] * 100 + [0.0] * 100,
            "balance": pa.nulls(200),
            "recovered": pa.nulls(200),
        },
        OBSERVED,
    )
    young = np.where(np.arange(200) % 2, "2018-01-01", "2019-03-01").astype("datetime64[D]")
    rows = rows.set_column(rows.column_names.index("issue_d"), "issue_d", pa.array(young))
    loans = Loans("told", rows, ids, observed, unobserved=7)
    outcome = SIXTY.model_copy(update={"horizon_months": None})
    assert (len(make_sample(outcome, loans)), make_sample(outcome, loans).bads) == (200, 100)
    # Of the old ones, nobody knows when within the 17 months they went bad.
    with pytest.raises(SampleTooSmall) as refused:
        make_sample(SIXTY, loans)
    assert "0 bad and 50 good loans by sixty@" in str(refused.value)
    assert (
        "(157 left out: immature 100, not observed at the horizon 50, no outcome observed 7)"
        in str(refused.value)
    )


def test_how_long_loans_were_watched() -> None:
    seen = [
        ("cured", ("2018-03-01", None, 70.0)),
        ("cured", ("2018-09-01", None, 0.0)),
        ("good", ("2018-05-31", None, 0.0)),
    ]
    days = np.array(["2018-01-15"] * 3, "datetime64[D]")
    watched = exposure(SIXTY, pa.array(["cured", "good", "none"]), days, observations(seen))
    assert watched.months.tolist() == [2, 4, -1]
    assert watched.bad.tolist() == [True, False, False]


def test_the_builtin_vintages() -> None:
    sample = sample_of("builtin", OUTCOME, builtin_rows())
    assert [(bads, loans) for _, loans, bads in sample.by_month()] == [
        (79, 3_377),
        (49, 2_970),
        (49, 3_596),
    ]
