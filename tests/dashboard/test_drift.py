"""The Drift page as a person meets it."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from streamlit.testing.v1 import AppTest

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import drift
from credit_risk_dagster.pipelines.drift import DriftReport
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    DriftSettings,
    LakeSettings,
    WarehouseSettings,
)
from resources.lake import Lake
from resources.postgres.baselines import Baselines
from resources.postgres.connection import Warehouse
from tests.dashboard.conftest import ELEVATED, LOW, Commit, figures, open_view, words
from tests.pipelines.approvals import approved

BASELINE = [LOW | {"dti": 5 + i % 20} for i in range(100)]
SHIFTED = [LOW | {"dti": 30 + i % 10} for i in range(120)]

SETTINGS = DriftSettings(_env_file=None, baseline_rows=100, min_rows=50)

Report = Callable[..., DriftReport]


@pytest.fixture
def report(warehouse_settings: WarehouseSettings) -> Report:
    """Makes a drift report, as its run does."""

    def make(rows: int) -> DriftReport:
        return drift.report_drift(
            Warehouse(warehouse_settings),
            SETTINGS,
            "loan_applications",
            load_policy(DEFAULT_POLICY),
            run_id="a-run",
            last_rows=rows,
        )

    return make


def freeze(settings: WarehouseSettings, rows: int, name: str | None = None) -> None:
    """Freeze and activate a baseline of the first so many applications."""
    warehouse, policy = Warehouse(settings), load_policy(DEFAULT_POLICY)
    _, new = drift.freeze_baseline(
        *(warehouse, SETTINGS, "loan_applications", policy), rows=rows, name=name
    )
    assert new


def table(page: AppTest) -> dict[str, str]:
    frame = page.table[0].value
    return dict(zip(map(str, frame.index), frame["Value"], strict=True))


def test_without_a_baseline_the_page_says_how_to_make_one(
    warehouse: psycopg.Connection[Any],
) -> None:
    page = open_view("drift")
    assert not page.exception
    assert "No baseline yet" in page.info[0].value
    assert "credit-risk baseline freeze" in page.info[0].value


def test_without_a_report_the_page_says_who_makes_them(
    warehouse_settings: WarehouseSettings, commit: Commit
) -> None:
    commit(*BASELINE)
    freeze(warehouse_settings, 100)
    page = open_view("drift", period="24 h")
    assert not page.exception
    assert "No drift report in the last 24 hours" in page.info[0].value
    assert "drift_report" in page.info[0].value


def test_a_shift_is_shown_over_time_and_in_detail(commit: Commit, report: Report) -> None:
    commit(*BASELINE)
    report(100)
    commit(*SHIFTED)
    report(120)
    page = open_view("drift")
    assert not page.exception
    assert "Significant" in words(page)
    assert "120 decisions" in words(page)
    assert "“loan_applications, first 100”" in words(page).replace("\\", "")
    assert "2 reports" in words(page)
    assert figures(page)["Significant drift"] == "1 of 15"
    assert len(page.get("vega_lite_chart")) == 3
    assert page.selectbox(key="feature").value == "dti"  # the worst one
    assert table(page)["Verdict"] == "Significant"
    assert table(page)["Mean"] == "14.5 → 34.5"
    features = page.dataframe[0].value.set_index("feature")
    assert features["verdict"]["DTI, %"] == "Significant"
    assert features["verdict"]["Loan amount, USD"] == "Stable"


def test_another_feature_and_another_report_can_be_chosen(commit: Commit, report: Report) -> None:
    commit(*BASELINE)
    first = report(100)
    commit(*SHIFTED)
    report(120)
    page = open_view("drift", feature="Purpose")
    assert page.selectbox(key="feature").value == "purpose"
    assert "Chi-square" in table(page)
    page.selectbox(key="report").set_value(first.report_id).run()
    assert not page.exception
    assert table(page)["Verdict"] == "Stable"
    assert page.selectbox(key="feature").value == "purpose"


def test_the_lines_of_no_feature(commit: Commit, report: Report) -> None:
    commit(*BASELINE)
    report(100)
    page = open_view("drift")
    page.pills(key="features").set_value([]).run()
    assert not page.exception
    assert "Choose a feature" in words(page)


def test_too_few_rows_are_no_verdict(commit: Commit, report: Report) -> None:
    commit(*BASELINE)
    report(10)
    page = open_view("drift")
    assert not page.exception
    assert "Too few rows" in words(page)
    assert figures(page)["Significant drift"] == "0 of 15"


def test_an_older_baseline_can_be_chosen(
    warehouse_settings: WarehouseSettings, commit: Commit, report: Report
) -> None:
    commit(*BASELINE)
    report(100)
    commit(*[ELEVATED] * 50)
    freeze(warehouse_settings, 150, "the second")
    with Warehouse(warehouse_settings).session() as connection:
        Baselines(connection).activate(approved(connection, "baseline", 2), "a test")
    page = open_view("drift")
    assert "against this baseline" in page.info[0].value
    first, second = sorted(page.selectbox(key="baseline").options)
    assert (first, second) == ("loan_applications, first 100", "the second (active)")
    page.selectbox(key="baseline").select(first).run()
    assert not page.exception
    assert "1 report in" in words(page)


def test_the_html_report_comes_from_s3(
    warehouse: psycopg.Connection[Any],
    commit: Commit,
    report: Report,
    lake_settings: LakeSettings,
) -> None:
    commit(*BASELINE)
    made = report(100)
    assert "being made" in words(open_view("drift"))
    warehouse.execute("UPDATE drift_reports SET created_at = created_at - interval '3 minutes'")
    assert "no HTML" in words(open_view_again())
    Lake(lake_settings).put("reports/one.html", b"<html>drift</html>", "text/html")
    warehouse.execute(
        "UPDATE drift_reports SET html_key = 'reports/one.html' WHERE report_id = %s",
        (made.report_id,),
    )
    page = open_view_again()
    page.button(key="html").click().run()
    assert not page.exception
    assert not page.warning
    assert "18 bytes" in page.get("download_button")[0].proto.label


def test_without_s3_the_page_says_what_it_needs(
    warehouse: psycopg.Connection[Any],
    commit: Commit,
    report: Report,
    lake_settings: LakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit(*BASELINE)
    report(100)
    warehouse.execute("UPDATE drift_reports SET html_key = 'reports/one.html'")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    page = open_view_again()
    page.button(key="html").click().run()
    assert not page.exception
    assert "S3_BUCKET" in page.warning[0].value
    assert "does not answer" in page.warning[0].value
    assert page.metric  # the rest of the page is there


def open_view_again() -> AppTest:
    import streamlit as st

    st.cache_data.clear()
    return open_view("drift")


def test_without_dagster_the_checks_say_where_it_was_looked_for(
    commit: Commit, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", "http://127.0.0.1:1")
    commit(*BASELINE)
    report(100)
    page = open_view("drift")
    assert not page.exception
    assert "Dagster at http://127.0.0.1:1 does not answer" in words(page)
    assert page.metric
