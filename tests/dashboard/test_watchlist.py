"""The Watchlist page as a viewer meets it, and its queries."""

import csv
import io
import re
from typing import Any

import pandas as pd
import psycopg
import pytest

from dashboard.data import watchlist as queries
from dashboard.data.application import Population
from dashboard.data.segments import Segment
from dashboard.data.watchlist import Flagged
from tests.dashboard.conftest import ELEVATED, LOW, WATCHLIST, Commit, open_view, words

DTI_AND_MORE = WATCHLIST | {
    "loan_amnt": 12_000,
    "revol_util": "85%",
    "inq_last_6mths": 3,
    "addr_state": "TX",
    "term": " 60 months",
}


def now() -> Any:
    return (pd.Timestamp.now(tz="UTC") + pd.Timedelta("1min")).to_pydatetime()


def loans(**choice: Any) -> list[str]:
    found = queries.watchlist(Flagged(until=now(), **choice), "UTC")
    assert found.matching == len(found.rows)
    return [str(loan) for loan in found.rows["loan_id"]]


def test_an_empty_database_says_what_will_appear(warehouse: psycopg.Connection[Any]) -> None:
    page = open_view("watchlist")
    assert not page.exception
    assert "No application was flagged in the last 24 hours" in page.info[0].value
    assert "make demo" in page.info[0].value
    assert not page.dataframe


def test_a_server_that_is_down_is_named(unreachable: None) -> None:
    page = open_view("watchlist")
    assert not page.exception
    assert "The warehouse does not answer" in page.warning[0].value


def test_the_newest_come_first_with_their_reasons(commit: Commit) -> None:
    commit(LOW, WATCHLIST)
    commit(DTI_AND_MORE, ELEVATED)
    page = open_view("watchlist")
    assert not page.exception
    table = page.dataframe[0].value
    assert table["loan_id"].tolist() == ["1002", "1001"]
    assert list(table["reasons"][1]) == ["DTI ≥ 30 %", "Delinquencies > 0"]
    assert table["purpose"].tolist() == ["Small business"] * 2
    assert "**2 applications**" in words(page)


def test_filters_and_order(commit: Commit) -> None:
    commit(LOW, WATCHLIST, DTI_AND_MORE, WATCHLIST | {"loan_amnt": 30_000, "grade": None})
    assert loans(sort="Largest amount") == ["1003", "1002", "1001"]
    assert loans(segment=Segment(addr_state=("TX",))) == ["1002"]
    assert loans(segment=Segment(grade=("",))) == ["1003"]
    assert loans(segment=Segment(term_months=(60,))) == ["1002"]
    assert loans(segment=Segment(amount_from=(25_000,))) == ["1003"]
    assert loans(segment=Segment(amount_from=(10_000, 25_000)), sort="Largest amount") == [
        *("1003", "1002", "1001"),
    ]
    assert loans(segment=Segment(purpose=("credit_card",))) == []
    assert loans(reasons=("REVOL_UTIL>=80",)) == ["1002"]
    assert loans(loan_id="1000") == ["1000"]  # of any tier
    assert loans(since=now()) == []


# Amount, PD, DTI, rate and utilization: no two orders of the first three are the same, values that
# are missing come last, and of equals (the last two) the newer one comes first.
RANKED = {
    "1000": (10_000, 0.1, 40, 14, 85),
    "1002": (20_000, 0.3, 35, 10, None),
    "1001": (30_000, None, 31, 12, 90),
    "1003": (30_000, None, 31, 12, 90),
}
ORDERS = {
    "Newest": ["1003", "1002", "1001", "1000"],
    "Largest amount": ["1003", "1001", "1002", "1000"],
    "Highest PD": ["1002", "1000", "1003", "1001"],
    "Highest DTI": ["1000", "1002", "1003", "1001"],
    "Highest rate": ["1000", "1003", "1001", "1002"],
    "Highest utilization": ["1003", "1001", "1000", "1002"],
}


@pytest.mark.parametrize("sort", queries.SORTS)
def test_every_order_is_what_its_name_says(
    warehouse: psycopg.Connection[Any], commit: Commit, sort: str
) -> None:
    for loan, (amount, pd_, dti, rate, utilization) in sorted(RANKED.items()):
        figures = {"loan_amnt": amount, "dti": dti, "int_rate": rate, "revol_util": utilization}
        commit(WATCHLIST | figures)  # each in a transaction, and so at a time, of its own
        warehouse.execute("UPDATE scored_applications SET pd = %s WHERE loan_id = %s", (pd_, loan))
    assert loans(sort=sort) == ORDERS[sort]
    exported = queries.watchlist_csv(Flagged(until=now(), sort=sort)).decode()
    assert [row["loan_id"] for row in csv.DictReader(io.StringIO(exported))] == ORDERS[sort]


def test_the_export_is_what_is_filtered(warehouse: psycopg.Connection[Any], commit: Commit) -> None:
    commit(LOW, WATCHLIST, DTI_AND_MORE, WATCHLIST | {"purpose": "-1"})
    warehouse.execute("SELECT review_application(1, 0, 2, 'Ada', 'note')")
    flagged = Flagged(until=now(), sort="Largest amount")
    rows = list(csv.DictReader(io.StringIO(queries.watchlist_csv(flagged).decode())))
    assert [row["loan_id"] for row in rows] == loans(sort="Largest amount")
    assert rows[0]["reasons"] == "DTI>=30; REVOL_UTIL>=80; DELINQ_2YRS>0; INQ_LAST_6MTHS>=2"
    assert [row["reviewed"] for row in rows] == ["t", "f", "f"]
    assert [row["purpose"] for row in rows if row["loan_id"] == "1003"] == ["'-1"]
    first = rows[0]
    assert (first["loan_amnt_usd"], first["dti_percent"]) == ("12000.00", "35.00")
    assert re.fullmatch(r"\d+\.\d\d", first["credit_history_years"])
    assert first["source"] == "loan_applications of cluster"
    one = Flagged(until=now(), segment=Segment(addr_state=("TX",), amount_from=(10_000,)))
    assert queries.watchlist_csv(one).decode().count("\n") == 2


def test_a_search_opens_the_application(commit: Commit) -> None:
    commit(LOW, WATCHLIST, *[LOW] * 8)
    page = open_view("watchlist", loan="1001")
    assert not page.exception
    assert page.header[0].value == "Loan 1001"
    assert "**Watchlist**: DTI ≥ 30 %, Delinquencies > 0." in words(page)
    assert "No PD: no model was active" in words(page)
    features = page.dataframe[1].value.set_index("Feature")
    assert features.loc["Debt to income", "Value"] == "35.0 %"
    assert features.loc["Debt to income", "Band"] == "High"
    assert features.loc["Debt to income", "Percentile"] >= 90
    assert features.loc["Loan amount", "Percentile"] == 50
    assert features.loc["Revolving utilization", "Value"] == "–"
    assert "lendingclub-v2@" in words(page)
    assert "partition 0, offset 1" in words(page)
    assert "/runs/run)" in words(page)


def test_a_search_shows_no_panel_of_another_loan(commit: Commit) -> None:
    """Its review form would take a review of the wrong one."""
    commit(WATCHLIST, WATCHLIST, LOW)
    page = open_view("watchlist", application="1-0-0")
    assert "Loan 1000" in [header.value for header in page.header]
    page.text_input(key="loan").set_value("4711").run()
    assert not page.exception
    assert "No application has the loan id 4711" in page.info[0].value
    assert not [header.value for header in page.header if header.value.startswith("Loan ")]
    page.text_input(key="loan").set_value("1001").run()
    assert [h.value for h in page.header if h.value.startswith("Loan ")] == ["Loan 1001"]


def test_the_probability_and_its_reasons_are_shown(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(WATCHLIST)
    warehouse.execute(
        "UPDATE scored_applications SET pd = 0.123, pd_reasons = '{high DTI,high rate}',"
        " arm = 'autumn/champion'"
    )
    page = open_view("watchlist", application="1-0-0")
    assert "Probability of the outcome **12.3 %**" in words(page)
    assert "Arm: `autumn/champion`" in words(page)
    assert "What raises it, for staff: high DTI, high rate. The decision is the" in words(page)


def test_decisions_on_the_same_loan_are_its_history(commit: Commit) -> None:
    commit(WATCHLIST | {"id": 7})
    commit(LOW | {"id": 7})
    page = open_view("watchlist", application="1-0-0")
    assert page.dataframe[2].value["risk_tier"].tolist() == ["Low", "Watchlist"]


def test_a_link_to_nothing_says_so(commit: Commit) -> None:
    commit(WATCHLIST)
    for link in ("1-0-99", "9-9-9"):
        page = open_view("watchlist", application=link)
        assert not page.exception
        assert "There is no application" in page.warning[0].value
    for link in ("1-0", "a-b-c", "1-0-99999999999999999999"):
        page = open_view("watchlist", application=link)
        assert not page.exception
        assert not page.header or "Loan" in page.header[0].value


def test_a_review_is_recorded_and_shown(warehouse: psycopg.Connection[Any], commit: Commit) -> None:
    commit(WATCHLIST, WATCHLIST)
    page = open_view("watchlist", application="1-0-0")
    assert "Nobody has reviewed" in words(page)
    page.text_area[0].set_value("x").run()
    page.button[-1].click().run()
    assert "needs a name and a note" in page.error[0].value
    page.text_input[-1].set_value("Ada *Lovelace*")
    page.text_area[0].set_value("Income verified; $2 and $3 are no formula")
    page.button[-1].click().run()
    assert not page.exception
    row = warehouse.execute("SELECT reviewer, note, loan_id FROM application_reviews").fetchone()
    assert row == ("Ada *Lovelace*", "Income verified; $2 and $3 are no formula", "1000")
    page = open_view("watchlist", application="1-0-0")
    assert page.text[0].value == "Income verified; $2 and $3 are no formula"
    assert loans(review="Reviewed") == ["1000"]
    assert loans(review="Open") == ["1001"]


def test_who_may_not_review_or_export_cannot_although_a_browser_says_so(
    warehouse: psycopg.Connection[Any], commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(WATCHLIST)

    def buttons() -> tuple[Any, Any, Any]:
        page = open_view("watchlist", application="1-0-0")
        assert not page.exception
        return page, page.get("download_button")[0].proto, page.button[-1]

    page, export, review = buttons()
    assert (export.disabled, review.disabled) == (False, False)
    page.text_input[-1].set_value("Ada")
    page.text_area[0].set_value("pressed on a page that is older than the rights")
    monkeypatch.setenv("CREDIT_RISK_ROLES", "submit: *; review: ada; export: bo")  # nobody of them
    review.click().run()
    assert not page.exception
    assert warehouse.execute("SELECT count(*) FROM application_reviews").fetchone() == (0,)
    _, export, review = buttons()
    assert (export.disabled, review.disabled) == (True, True)
    monkeypatch.setenv("CREDIT_RISK_ROLES", "review: *; export: *")
    _, export, review = buttons()
    assert (export.disabled, review.disabled) == (False, False)


def test_what_is_newer_is_announced(commit: Commit) -> None:
    commit(WATCHLIST)
    page = open_view("watchlist")
    assert page.button(key="refresh").label == "Up to date"
    commit(WATCHLIST, WATCHLIST)
    page.run()
    assert len(page.dataframe[0].value) == 1
    assert page.button(key="refresh").label == "Show 2 newer"
    page.button(key="refresh").click().run()
    assert len(page.dataframe[0].value) == 3


def test_ranks_are_shares_of_the_population() -> None:
    steps = [float(step) for step in range(101)]
    flat = Population(5, {"dti": steps, "term_months": [36.0] * 60 + [60.0] * 41})
    assert flat.rank("dti", 25.0) == pytest.approx(0.25)
    assert flat.rank("dti", -1) == 0
    assert flat.rank("dti", 1_000) == 1
    assert flat.rank("dti", None) is None
    assert flat.rank("term_months", 36.0) == pytest.approx(0.295)
