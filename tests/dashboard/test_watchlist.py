"""The Watchlist's page as a reviewer meets it, and its queries."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from credit_risk_dagster.domain.cases import BadRate
from credit_risk_dagster.domain.intervals import NOTHING, Interval
from credit_risk_dagster.pipelines.reviews import TurnedOut
from dashboard.data import cases as queries
from dashboard.data.application import Population
from dashboard.data.connection import Snapshot
from resources.postgres.cases import Wanted
from resources.postgres.risk_reports import add_report
from tests.dashboard.conftest import ELEVATED, LOW, WATCHLIST, Commit, figures, open_view, words

DTI_AND_MORE = WATCHLIST | {
    "loan_amnt": 12_000,
    "revol_util": "85%",
    "inq_last_6mths": 3,
    "addr_state": "TX",
    "term": " 60 months",
}
Db = psycopg.Connection[Any]


def loans(sort: str = "Newest", **choice: Any) -> list[str]:
    st.cache_data.clear()
    found = queries.queue(Wanted(**choice), sort, "UTC")
    assert found.matching == len(found.rows)
    return [str(loan) for loan in found.rows["loan_id"]]


def review(page: AppTest, name: str = "Ada") -> AppTest:
    """Say who reviews."""
    page.text_input(key="reviewer").set_value(name).run()
    assert not page.exception
    return page


def press(page: AppTest, label: str) -> AppTest:
    (button,) = (b for b in page.button if b.label == label)
    button.click().run()
    assert not page.exception
    return page


def test_an_empty_database_says_what_will_appear(warehouse: Db) -> None:
    page = open_view("watchlist")
    assert not page.exception
    assert "Nothing to do" in page.info[0].value
    assert "make demo" in page.info[0].value
    assert not page.dataframe
    assert queries.unreviewed() == queries.Unreviewed(0, None, 0)


def test_the_queue_has_each_loan_once_the_riskiest_first(commit: Commit) -> None:
    commit(LOW, WATCHLIST)
    commit(DTI_AND_MORE, ELEVATED, WATCHLIST | {"id": 1001})
    page = open_view("watchlist")
    assert not page.exception
    table = page.dataframe[0].value
    assert table["loan_id"].tolist() == ["1002", "1001"]
    assert set(table["reasons"][1]) == {"DTI ≥ 30 %", "Delinquencies > 0"}
    assert table["decisions"].tolist() == [1, 2]
    assert "**2 cases**, $22.0 K asked for, of which $4.40 K may be lost".replace(
        "$", "\\$"
    ) in words(page)
    found = queries.unreviewed()
    assert (found.cases, found.loan_amnt) == (2, 22_000)
    assert 0 <= (found.oldest_seconds or -1) < 60


def test_filters_and_order(warehouse: Db, commit: Commit) -> None:
    commit(LOW, WATCHLIST)
    commit(DTI_AND_MORE)
    commit(WATCHLIST | {"loan_amnt": 30_000})
    assert loans("Largest amount") == ["1003", "1002", "1001"]
    assert loans("Oldest") == ["1001", "1002", "1003"]
    assert loans(amount_from=12_000, amount_below=30_000) == ["1002"]
    assert loans(priority_from=3_000) == ["1003"]
    assert loans(reasons=("REVOL_UTIL>=80",)) == ["1002"]
    assert loans(loan_id="1000") == []
    assert loans(due_within=timedelta(hours=71)) == []
    assert loans(due_within=timedelta(hours=73)) == ["1003", "1002", "1001"]
    warehouse.execute("UPDATE cases SET due_at = now() - interval '1 hour' WHERE loan_id = '1001'")
    assert loans(overdue=True) == loans(due_within=timedelta(0)) == ["1001"]
    assert loans("Due first")[0] == "1001"
    queries.act(1, 1, "start", "Ada")
    queries.act(2, 1, "close", "Bo", disposition="confirmed", reason_code="other")
    assert loans(state="to_do") == ["1003", "1001"]
    assert loans(state="open") == ["1003"]
    assert loans(state="in_review") == loans(assignee="Ada") == ["1001"]
    assert loans(state="closed") == ["1002"]
    assert loans(assignee="") == ["1003"]
    assert queries.assignees() == ("Ada",)


def test_the_export_is_what_is_filtered_and_who_took_it_stays(
    warehouse: Db, commit: Commit
) -> None:
    commit(LOW, WATCHLIST, DTI_AND_MORE, WATCHLIST)
    queries.act(3, 1, "assign", "Ada", assignee="-1")
    wanted = Wanted(state="to_do")
    exported = queries.cases_csv(wanted, "Largest amount", " Ada ").decode()
    rows = list(csv.DictReader(io.StringIO(exported)))
    assert [row["loan_id"] for row in rows] == loans("Largest amount", state="to_do")
    first = rows[0]
    assert first["reasons"] == "DTI>=30; REVOL_UTIL>=80; DELINQ_2YRS>0; INQ_LAST_6MTHS>=2"
    assert (first["loan_amnt_usd"], first["priority_usd"]) == ("12000.00", "2400.00")
    assert first["source"] == "loan_applications of cluster"
    assert {row["assignee"] for row in rows} == {"", "'-1"}
    queries.cases_csv(Wanted(loan_id="1001"), "Newest", "Bo")
    kept = warehouse.execute("SELECT who, what, rows FROM exports ORDER BY export_id").fetchall()
    assert kept == [("Ada", "cases: state to_do", 3), ("Bo", "cases: one loan", 1)]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_of_the_export_is_a_formula(warehouse: Db, commit: Commit, text: str) -> None:
    commit(WATCHLIST)
    queries.act(1, 1, "assign", "Ada", assignee=text.strip())
    warehouse.execute("UPDATE cases SET reasons = ARRAY[%(t)s, 'x'], loan_id = %(t)s", {"t": text})
    warehouse.execute("UPDATE sources SET topic = %s", (text,))
    (row,) = csv.DictReader(io.StringIO(queries.cases_csv(Wanted(), "Newest", "Ada").decode()))
    texts = {name: row[name] for name in ("source", "loan_id", "reasons", "assignee")}
    assert all(found.startswith("'") for found in texts.values()), texts
    assert texts["reasons"] == f"'{text}; x"


def test_a_search_opens_the_case_and_its_decision(commit: Commit) -> None:
    commit(LOW, WATCHLIST, *[LOW] * 8)
    page = open_view("watchlist", loan="1001")
    assert not page.exception
    assert page.header[0].value == "Loan 1001"
    assert r"**Watchlist**: DTI ≥ 30 %, Delinquencies \> 0." in words(page)
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
    page = open_view("watchlist", loan="1000")  # never on the Watchlist
    assert "It has no case" in words(page)
    assert "**Low**, without an early warning" in words(page)


def test_a_search_shows_no_case_of_another_loan(commit: Commit) -> None:
    """What is done to it would be done to the wrong one."""
    commit(WATCHLIST, WATCHLIST, LOW)
    page = open_view("watchlist", application="1-0-0")
    assert "Loan 1000" in [header.value for header in page.header]
    page.text_input(key="loan").set_value("4711").run()
    assert not page.exception
    assert "No case is of loan 4711" in page.info[0].value
    assert not [header.value for header in page.header if header.value.startswith("Loan ")]
    page.text_input(key="loan").set_value("1001").run()
    assert [h.value for h in page.header if h.value.startswith("Loan ")] == ["Loan 1001"]


def test_what_comes_from_outside_is_no_markup(warehouse: Db, commit: Commit) -> None:
    commit(WATCHLIST | {"id": "_1_", "purpose": "a - b.c", "home_ownership": "_RENT_"}, LOW)
    for table in ("cases", "scored_applications"):
        warehouse.execute(f"UPDATE {table} SET reasons = '{{[x](http://y)}}'".encode())
    page = review(open_view("watchlist", case="1"), "*Ada*")
    assert r"Loan \_1\_" in [header.value for header in page.header]
    assert words(page).count("\\[x\\]\\(http\\:\u2060//y\\)") == 2
    assert r"\_rent\_" in words(page)
    queries.act(1, 1, "note", "*Bo*", note="mine")
    press(page, "Start review")
    assert r"was changed by \*Bo\* at" in page.error[0].value
    page = open_view("watchlist", loan="![x](http://y)")
    assert page.info[0].value == "No case is of loan \\!\\[x\\]\\(http\\:\u2060//y\\)."


def test_the_probability_and_its_reasons_are_shown(warehouse: Db, commit: Commit) -> None:
    commit(WATCHLIST)
    warehouse.execute(
        "UPDATE scored_applications SET pd = 0.123, pd_reasons = '{high DTI,high rate}',"
        " arm = 'autumn/champion'"
    )
    page = open_view("watchlist", case="1")
    assert "Probability of the outcome **12.3 %**" in words(page)
    assert "Arm: `autumn/champion`" in words(page)
    assert "What raises it, for staff: high DTI, high rate. The decision is the" in words(page)


def test_a_case_shows_all_decisions_of_its_loan(commit: Commit) -> None:
    commit(WATCHLIST | {"id": 7})
    commit(LOW | {"id": 7})
    page = open_view("watchlist", case="1")
    assert page.dataframe[2].value["risk_tier"].tolist() == ["Low", "Watchlist"]


def test_a_link_to_nothing_says_so(commit: Commit) -> None:
    commit(WATCHLIST)
    for link in ("1-0-99", "9-9-9"):
        page = open_view("watchlist", application=link)
        assert not page.exception
        assert "There is no application" in page.warning[0].value
    page = open_view("watchlist", case="99")
    assert "There is no case 99" in page.warning[0].value
    for name, link in (
        ("application", "1-0"),
        ("application", "1-0-9999999999999999999"),
        ("application", "99999999999-0-0"),
        ("case", "a"),
        ("case", "9" * 30),
    ):
        page = open_view("watchlist", **{name: link})
        assert not page.exception
        assert not [h for h in page.header if "Loan" in h.value]


def test_a_case_from_the_queue_to_its_end(warehouse: Db, commit: Commit) -> None:
    commit(WATCHLIST, DTI_AND_MORE)
    page = review(open_view("watchlist"), "Ada *Lovelace*")
    press(page, "Next unreviewed")
    assert "Loan 1001" in [header.value for header in page.header]
    press(page, "Start review")
    assert "Ada" in page.dataframe[0].value["assignee"][0]
    press(page, "Close case")
    assert "Not done: a case is closed as one of confirmed" in page.error[0].value
    page.selectbox(key="disposition 2").set_value("override_down").run()
    page.selectbox(key="reason 2 override_down").set_value("new_information")
    page.text_area(key="note 2").set_value("Income verified; $2 and $3 are no formula")
    press(page, "Close case")
    row = warehouse.execute(
        "SELECT state, disposition, reason_code, closed_by FROM cases WHERE case_id = 2"
    ).fetchone()
    assert row == ("closed", "override_down", "new_information", "Ada *Lovelace*")
    assert page.text[0].value == "Income verified; $2 and $3 are no formula"
    assert "closed it as override down (new information)" in words(page)
    press(page, "Open again")
    assert "reopen of case 2 needs a note" in page.error[0].value
    page.text_area(key="note 2").set_value("new papers")
    press(page, "Open again")
    assert "opened it again" in words(page)
    press(page, "Next unreviewed")
    assert "Loan 1000" in [header.value for header in page.header]
    page = review(open_view("watchlist", case="1"), " ")
    press(page, "Start review")
    assert "Say who you are" in page.error[0].value


def test_who_is_second_is_told_who_was_first(commit: Commit) -> None:
    commit(WATCHLIST)
    first, second = (review(open_view("watchlist", case="1"), name) for name in ("Ada", "Bo"))
    for page in (first, second):
        page.selectbox(key="disposition 1").set_value("confirmed").run()
        page.selectbox(key="reason 1 confirmed").set_value("other")
    press(first, "Close case")
    assert not first.error
    press(second, "Close case")
    assert "Not done: case 1 was changed by Ada at " in second.error[0].value
    assert "and is closed now" in second.error[0].value
    assert "Open again" in [button.label for button in second.button]


def test_many_are_assigned_at_once(warehouse: Db, commit: Commit) -> None:
    commit(WATCHLIST, WATCHLIST, WATCHLIST)
    queries.act(2, 1, "note", "Bo", note="mine")
    said = queries.assign([(1, 1), (2, 1), (3, 1)], "Cy", "Ada")
    assert len(said) == 1
    assert said[0].startswith("case 2 was changed by Bo at")
    rows = warehouse.execute("SELECT assignee FROM cases ORDER BY case_id").fetchall()
    assert rows == [("Cy",), (None,), ("Cy",)]
    assert queries.assign([(1, 2)], "", "Ada") == []
    assert loans(assignee="") == ["1001", "1000"]


def test_who_may_not_review_or_export_cannot_although_a_browser_says_so(
    warehouse: Db, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(WATCHLIST)
    queries.act(1, 1, "note", "Bo", note="between us")
    page = review(open_view("watchlist", case="1"))
    assert not page.get("download_button")[0].proto.disabled
    assert "between us" in [text.value for text in page.text]
    monkeypatch.setenv("CREDIT_RISK_ROLES", "review: bo")
    press(page, "Start review")
    assert warehouse.execute("SELECT version FROM cases").fetchone() == (2,)
    page = open_view("watchlist", case="1")
    assert page.get("download_button")[0].proto.disabled
    assert not {"Start review", "Close case", "Assign 0 selected"} & {b.label for b in page.button}
    assert not page.text
    assert "is for who may review" in words(page)


def test_who_may_not_see_applicants_sees_none(
    commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(WATCHLIST)
    monkeypatch.setenv("CREDIT_RISK_ROLES", "see: ada")
    for query in ({}, {"case": "1"}, {"loan": "1000"}, {"application": "1-0-0"}):
        page = open_view("watchlist", **query)
        assert not page.exception
        assert "for who may see them" in page.info[0].value
        assert not page.dataframe
        assert "1000" not in words(page)
    monkeypatch.setenv("CREDIT_RISK_ROLES", "review: ada")  # as before there was the right
    assert open_view("watchlist").dataframe


def test_what_is_newer_is_announced(commit: Commit) -> None:
    commit(WATCHLIST)
    page = open_view("watchlist")
    assert page.button(key="refresh").label == "Up to date"


def test_what_looks_for_cases_uses_indexes_only(
    warehouse: Db, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(WATCHLIST)
    warehouse.execute(
        """
        INSERT INTO cases (loan_id, source_id, partition, "offset", opened_at, due_at, loan_amnt,
            priority, reasons, policy_id)
        SELECT 'x' || n, 1, 0, n, now() - n * interval '1 minute', now(), 1, 1, '{}', 1
        FROM generate_series(1, 5000) AS n
        """
    )
    warehouse.execute("ANALYZE cases")
    plans: list[str] = []

    def explained(method: Any) -> Any:
        def run(self: Snapshot, query: str, *given: Any, **named: Any) -> Any:
            plan = self.connection.execute(f"EXPLAIN {query}".encode(), named).fetchall()
            plans.append("\n".join(row[0] for row in plan))
            return method(self, query, *given, **named)

        return run

    for name in ("rows", "frame"):
        monkeypatch.setattr(Snapshot, name, explained(getattr(Snapshot, name)))
    assert queries.newer(datetime.now(UTC) - timedelta(minutes=5)) == 5
    assert loans(loan_id="x7") == ["x7"]
    assert queries.case_of((1, 0, 7))
    assert len([plan for plan in plans if " on cases" in plan]) == 4
    for plan in plans:
        assert "Seq Scan on cases" not in plan, plan


def test_ranks_are_shares_of_the_population() -> None:
    steps = [float(step) for step in range(101)]
    flat = Population(5, {"dti": steps, "term_months": [36.0] * 60 + [60.0] * 41})
    assert flat.rank("dti", 25.0) == pytest.approx(0.25)
    assert flat.rank("dti", -1) == 0
    assert flat.rank("dti", 1_000) == 1
    assert flat.rank("dti", None) is None
    assert flat.rank("term_months", 36.0) == pytest.approx(0.295)


def test_the_figures_tell_how_often_the_watchlist_was_right(commit: Commit, warehouse: Db) -> None:
    page = open_view("watchlist", show="Figures")
    assert not page.exception
    assert figures(page)["Precision"] == "–"
    commit(*[WATCHLIST] * 5)
    for case_id, found in enumerate(("confirmed", "confirmed", "override_down"), 1):
        queries.act(case_id, 1, "close", "Ada", disposition=found, reason_code="other")
    st.cache_data.clear()
    page = open_view("watchlist", show="Figures")
    assert not page.exception
    assert figures(page) | {"Come by day": ""} == {
        "Not closed": "2",
        "Come by day": "",
        "Precision": "66.7 %",
        "Overridden": "33.3 %",
    }
    assert "launch the job `report_reviews`" in words(page)
    assert page.dataframe[0].value["down"].tolist() == [1]
    assert set(page.dataframe[1].value["of"]) == {"DTI ≥ 30 %", "Delinquencies > 0"}
    rates = [BadRate("overridden", 40, 4, Interval(0.04, 0.1, 0.23))]
    document = TurnedOut(rates, NOTHING, 1_234).document()
    add_report(warehouse, "reviews", "early_delinquency", document, "run")
    st.cache_data.clear()
    said = words(open_view("watchlist", show="Figures"))
    assert "1,234 had none" in said
    assert "report_reviews" not in said
