"""What one row tells of how a loan went."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from credit_risk_dagster.domain.outcomes import (
    LATE_COLUMNS,
    Observation,
    OutcomeRefused,
    application_of,
    observation,
    observed_when,
)
from credit_risk_dagster.pipelines.loans import builtin_loans

DAY = datetime(2019, 3, 31, tzinfo=UTC)


def test_a_row_by_its_own_names_and_by_lendingclubs() -> None:
    own: dict[str, Any] = {
        "loan_id": 68407277.0,
        "observed_at": "2019-03-31",
        "status": " Late (31-120 days)",
        "days_past_due": "63",
        "balance": "21345.67",
        "recovered": 0,
        "source": "servicing",
    }
    late = "Late (31-120 days)"
    expected = Observation("68407277", DAY, late, 63, 21345.67, 0.0, "servicing")
    assert observation(own, source="file") == expected
    theirs = {"id": "68407277", "last_credit_pull_d": "Mar-2019", "loan_status": "Fully Paid"}
    told = observation(theirs | {"out_prncp": "0.0", "recoveries": ""}, source="file.csv")
    assert (told.observed_at, told.status) == (datetime(2019, 3, 1, tzinfo=UTC), "Fully Paid")
    assert (told.balance, told.recovered, told.source) == (0.0, None, "file.csv")
    assert observation({"id": "1", "status": "x"}, source="s", observed_at=DAY).observed_at == DAY


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loan_id": None}, "loan_id is missing or no id"),
        ({"loan_id": "nan"}, "loan_id is missing or no id"),
        ({"observed_at": None}, "observed_at is missing: give a day"),
        ({"observed_at": "soon"}, "observed_at is no time: give a day"),
        ({"observed_at": "0000-00-00"}, "observed_at is no time"),
        ({"observed_at": 20190331}, "observed_at is no time"),
        ({"loan_id": False}, "loan_id is missing or no id"),
        ({"observed_at": "9999-12-31T23:59:59-12:00"}, "observed_at is no time"),
        ({"observed_at": str(datetime.now(UTC) + timedelta(days=3))}, "is in the future"),
        ({"status": None}, "it says nothing: give one of status, days_past_due"),
        ({"status": "a\0b"}, "status is no text"),
        ({"status": ["Current"]}, "status is no text"),
        ({"status": "x" * 201}, "status is no text of at most 200"),
        ({"days_past_due": -1}, "days_past_due is not between 0 and 20,000"),
        ({"days_past_due": True}, "days_past_due is no number"),
        ({"days_past_due": "1e999"}, "days_past_due is not between"),
        ({"balance": "a lot"}, "balance is no number"),
        ({"recovered": -5}, "recovered is not between"),
    ],
)
def test_what_is_no_outcome_is_refused_without_the_loan(changed: Any, message: str) -> None:
    row = {"loan_id": "127000001", "observed_at": "2019-03-31", "status": "Current"}
    with pytest.raises(OutcomeRefused, match=message) as refused:
        observation(row | changed, source="file")
    assert "127000001" not in str(refused.value)


def test_times_are_utc_where_they_do_not_say() -> None:
    assert observed_when("2019-03-31T12:00:00+02:00") == datetime(2019, 3, 31, 10, tzinfo=UTC)
    assert observed_when("2019-03-31 10:00") == datetime(2019, 3, 31, 10, tzinfo=UTC)
    assert observed_when(datetime(2019, 3, 31)) == DAY  # noqa: DTZ001 (as Parquet may have it)
    assert observed_when(DAY.date()) == DAY


def test_an_application_knows_nothing_of_what_came_later() -> None:
    loan = builtin_loans()[0]
    sent = application_of(loan)
    assert "loan_status" in loan
    assert not LATE_COLUMNS & set(sent)
    assert sent["issue_d"] == "Mar-2018"
    assert set(loan) - set(sent) <= LATE_COLUMNS


def test_a_file_of_a_million_rows_is_read_in_seconds() -> None:
    """An id takes no batch of its own, as it did: 1 ms a row, which were 17 minutes."""
    row = {"loan_id": "68407277", "observed_at": "2019-03-31", "days_past_due": "63"}
    started = time.process_time()
    for _ in range(2_000):
        observation(row, source="file")
    assert time.process_time() - started < 0.2
