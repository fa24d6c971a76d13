"""Experiments on the Policy lab's page: arms by outcome with intervals, shadows beside."""

import json
from typing import Any

import psycopg
import pytest
import streamlit as st

from credit_risk_dagster.domain.intervals import Interval, difference, share
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import experiments
from credit_risk_dagster.settings import DEFAULT_POLICY
from resources.postgres.policies import register_policy
from tests.dashboard.conftest import LOW, WATCHLIST, Commit, open_view, words
from tests.pipelines.approvals import approved, started
from tests.platform.pipeline import Pipeline

V1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
BAD, GOOD = {"loan_status": "Charged Off"}, {"loan_status": "Fully Paid"}
APPLICATIONS = [*[LOW | GOOD] * 150, *[LOW | BAD] * 10, *[WATCHLIST | BAD] * 30]


def test_the_difference_of_independent_shares_is_newcombes() -> None:
    """Examples (a) and (h) of the paper, method 10."""
    for one, other, low, high in (
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((10, 10), (0, 10), -1, -0.6075),
    ):
        found = difference(share(*one), share(*other))
        assert found.low == pytest.approx(low, abs=6e-5)
        assert found.high == pytest.approx(high, abs=6e-5)


@pytest.fixture
def page_of(pipeline: Pipeline, warehouse: psycopg.Connection[Any]) -> Any:
    """Drains applications under experiments, and opens the page."""

    def open_page(**given: Any) -> Any:
        values = [
            json.dumps({"id": 1_000 + at, **row}).encode() for at, row in enumerate(APPLICATIONS)
        ]
        pipeline.send_and_drain(values[:1])
        with pipeline.warehouse.session() as connection:
            second = approved(connection, "policy", register_policy(connection, V1))
            started(connection, policy_id=second, **given)
        pipeline.send_and_drain(values[1:])
        st.cache_data.clear()
        return open_view("policy_lab", outcome="matured")

    return open_page


def test_the_arms_of_a_split_by_outcome(page_of: Any, pipeline: Pipeline) -> None:
    page = page_of(share=40, salt="autumn")
    assert not page.exception
    assert "split, 40 % to lendingclub-v1@" in page.selectbox(key="experiment").format_func(1)
    table = page.table[-1].value
    assert [*table.columns] == ["Champion", "Challenger", "Change"]
    rows = pipeline.query(
        "SELECT split_part(arm, '/', 2) AS arm, count(*) AS loans,"
        " count(*) FILTER (WHERE risk_tier = 'Watchlist') AS flagged,"
        " count(*) FILTER (WHERE loan_status = 'Charged Off') AS bads"
        " FROM scored_applications WHERE arm IS NOT NULL GROUP BY 1 ORDER BY 1 DESC"
    )
    for row in rows:
        shown = table[row["arm"].capitalize()]
        assert shown["Loans"].startswith(f"{row['loans']} (")
        assert shown["Decided by policy"] == {"champion": "1", "challenger": "2"}[row["arm"]]
        assert shown["Outcome known"] == str(row["loans"])
        for measure, part, whole in (
            ("On the Watchlist", row["flagged"], row["loans"]),
            ("Bad rate", row["bads"], row["loans"]),
            ("Bad loans caught", row["flagged"], row["bads"]),
        ):
            assert shown[measure].startswith(f"{100 * part / whole:.1f} % ("), measure
    assert "points (" in table["Change"]["Bad rate"]
    assert "submit by postgres: a test" in words(page).replace("\\", "")


def test_a_shadow_beside_what_was_decided(page_of: Any) -> None:
    page = page_of()
    assert not page.exception
    assert "shadow of lendingclub-v1@" in page.selectbox(key="experiment").format_func(1)
    table = page.table[-1].value
    assert table.loc["Watchlist", "Watchlist"] == "30"
    assert table.loc["Low", "Low"] == "159"
    assert "of which it says otherwise" in words(page)


def test_without_any_experiment_the_page_says_how_to_start_one(commit: Commit) -> None:
    commit(LOW)
    page = open_view("policy_lab")
    assert "No experiment yet: `credit-risk experiment submit`" in words(page)
    assert isinstance(share(1, 2), Interval)
    assert experiments.Running().shadows == ()
