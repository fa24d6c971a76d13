"""The report of the week: a page by itself on S3, a message, and the dashboard's download of it."""

import io
import re

import dagster as dg
import pytest

from credit_risk_dagster.domain.policy import TIERS
from credit_risk_dagster.settings import WarehouseSettings
from dashboard.data.report import report_html
from resources.postgres.risk_reports import add_report
from tests.assets_src.test_drift import metadata, run_job
from tests.dashboard.conftest import point_at
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.webhook import webhook

pytestmark = pytest.mark.usefixtures("servers")

PORTFOLIO = {
    "applications": 8,
    "lgd": "LGD 75 % is assumed",
    "model": "<i>logistic</i>",
    "performance": None,
    "limits": {"largest_state": {"of": "CA", "value": 0.5}},
    "tiers": [
        {"tier": tier, "loans": 4, "bads": 1, "bad_rate": {"value": 0.25, "low": 0.1, "high": 0.6}}
        for tier in TIERS
    ],
    "expected": [
        {
            "of": "tier",
            "value": "Low",
            "applications": 8,
            "amount": 80_000.0,
            "pd": 0.02,
            "loss": 1_200.0,
            "loss_rate": 0.015,
        }
    ],
}


def test_the_week_is_a_page_and_a_message(
    pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_job(instance, "report_week").success  # of nothing
    pipeline.send_and_drain([good_event(number) for number in range(1, 9)])
    with pipeline.warehouse.session() as connection:
        add_report(connection, "portfolio", "p", PORTFOLIO, "run")
    with webhook() as hook:
        monkeypatch.setenv("CREDIT_RISK_ALERT_WEBHOOK_URL", hook.url)
        done = run_job(instance, "report_week")
    key = str(metadata(done, "weekly_report")["page"].value)
    assert re.fullmatch(r"reports/weekly/dt=\d{4}-\d\d-\d\d/[\dT.-]+Z\.html", key)
    html = io.BytesIO()
    pipeline.lake.get(key, html)
    page = html.getvalue().decode()
    assert "<td>Applications</td><td>8</td><td>0</td>" in page
    assert "largest state (CA)</td><td>50.0 %</td><td>20.0 %</td><td>25.0 %</td><td>Red" in page
    assert "25.0 % (10.0 to 60.0)" in page
    assert "&lt;i&gt;logistic" in page
    assert not re.search(r"<i>|(src|href)=.?http", page)
    (told,) = hook.posts
    assert told["kind"] == "weekly_report"
    assert told["text"].startswith("Credit risk, last 7 days: red (Limits); 8 applications")
    assert told["text"].endswith(f"Page: {key}")


def test_the_page_is_downloaded(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(1)])
    point_at(warehouse_settings.database_url.get_secret_value(), monkeypatch)
    for period, title in (("All", "1 day"), ("1 h", "1 day"), ("30 d", "30 days")):
        page = report_html(period).decode()
        assert f"Credit risk: {title} up to" in page
        assert "<td>Applications</td><td>1</td><td>0</td>" in page
        assert "<td>Pipeline</td>" in page  # every line of the strip
