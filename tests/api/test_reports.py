"""The HTML of a drift report, by the API."""

import json

import pytest

from credit_risk_dagster.api.guards import HEADER, new_key
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.drift import report_drift
from credit_risk_dagster.settings import DEFAULT_POLICY, DriftSettings
from infra.embedded.servers import HOST, free_port
from resources.postgres.drift import DriftLedger
from tests.api.conftest import StartApi
from tests.api.test_decisions import problem
from tests.platform.pipeline import Pipeline, good_event

PAGE = b"<html><script>document.write('drift')</script></html>"
KEY = "reports/drift/dt=2026-11-28/one.html"


@pytest.fixture
def report_id(pipeline: Pipeline) -> int:
    """A report that says where its HTML is; the bucket has nothing yet."""
    pipeline.send_and_drain([good_event(i) for i in range(150)])
    report = report_drift(
        pipeline.warehouse,
        DriftSettings(baseline_rows=100),
        pipeline.kafka.topic,
        load_policy(DEFAULT_POLICY),
        run_id="run",
    )
    with pipeline.warehouse.session() as connection:
        DriftLedger(connection).set_html(report.report_id, KEY)
    return report.report_id


def test_a_report_is_served_to_who_has_a_key(
    start_api: StartApi, pipeline: Pipeline, report_id: int
) -> None:
    pipeline.lake.put(KEY, PAGE, "text/html")
    key, digest = new_key()
    api = start_api(CREDIT_RISK_API_KEYS=f"desk:{digest}")
    at = f"/reports/drift/{report_id}"
    assert problem(api.get(at))[0] == 401
    found = api.get(at, headers={HEADER: key})
    assert (found.status_code, found.content) == (200, PAGE)
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src")
    assert "allow-same-origin" not in found.headers["content-security-policy"]
    assert f"drift-{report_id}.html" in found.headers["content-disposition"]
    assert found.headers["cache-control"] == "no-store"


def test_what_is_not_there_is_said(start_api: StartApi, report_id: int) -> None:
    api = start_api()
    assert problem(api.get(f"/reports/drift/{report_id}")) == (
        404,
        f"the HTML of drift report {report_id} is gone from S3",
    )
    assert problem(api.get(f"/reports/drift/{report_id + 1}"))[0] == 404
    assert problem(api.get("/reports/drift/0"))[0] == 422
    assert problem(api.get(f"/reports/drift/{2**63}"))[0] == 422


def test_without_s3_it_says_when_to_come_back(start_api: StartApi, report_id: int) -> None:
    api = start_api(AWS_ENDPOINT_URL_S3=f"http://{HOST}:{free_port()}")
    found = api.get(f"/reports/drift/{report_id}")
    assert problem(found) == (503, "LakeUnavailable: try again later; the log says more")
    assert json.loads(found.headers["retry-after"]) > 0
