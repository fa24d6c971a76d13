"""Baseline, report and checks: against real servers, through Dagster's jobs."""

import base64
import io
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pyarrow as pa
import pytest

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.domain.drift.baseline import FEATURES, freeze
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.drift import report_drift
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY, DriftSettings
from resources.postgres.drift import DriftLedger
from tests.assets_src.test_scoring import failure
from tests.domain.drift.populations import window_of
from tests.platform.pipeline import Pipeline, good_event

pytestmark = pytest.mark.usefixtures("servers")

LOANS = builtin_loans()


def events(first: int, following: int, **changes: Any) -> list[bytes]:
    """Real loans as events, with some columns changed."""
    return [msgspec.json.encode({**loan, **changes}) for loan in LOANS[first:following]]


def shifted(first: int, following: int, dti: float) -> list[bytes]:
    return [
        msgspec.json.encode({**loan, "dti": loan["dti"] and loan["dti"] + dti})
        for loan in LOANS[first:following]
    ]


@pytest.fixture
def instance(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    for name, value in {"BASELINE_ROWS": "600", "WINDOW_ROWS": "600", "MIN_ROWS": "500"}.items():
        monkeypatch.setenv(f"CREDIT_RISK_DRIFT_{name}", value)
    return instance


def run_job(
    instance: dg.DagsterInstance, name: str, config: Mapping[str, Any] | None = None
) -> dg.ExecuteInProcessResult:
    op = {
        "report_drift": "drift_report",
        "report_reviews": "review_report",
        "freeze_baseline": "drift_baseline",
    }.get(name, name)
    return defs.resolve_job_def(name).execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"ops": {op: {"config": dict(config)}}} if config else None,
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    return {
        e.check_name: (e.passed, e.description or "") for e in result.get_asset_check_evaluations()
    }


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = (
        e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(asset)
    )
    return dict(event.materialization.metadata)


def test_reports_from_the_first_application_to_a_drift(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = run_job(instance, "report_drift")
    assert nothing.success
    assert nothing.get_asset_materialization_events() == []
    assert "nothing of topic" in checks(nothing)["psi_significant"][1]

    pipeline.send_and_drain(events(0, 300))
    too_few = run_job(instance, "report_drift")
    assert too_few.success
    passed, said = checks(too_few)["psi_significant"]
    assert passed
    assert "a baseline of 600 needs more" in said

    pipeline.send_and_drain([*events(300, 650), b"junk"])
    first = run_job(instance, "report_drift", {"html": False})
    assert first.success
    assert metadata(first, "drift_baseline")["dagster/row_count"].value == 600
    assert metadata(first, "drift_report")["HTML report"].value == "none: not asked for"
    assert all(passed for passed, _ in checks(first).values()), checks(first)

    pipeline.send_and_drain(shifted(1000, 1700, dti=8.0))
    drifted = run_job(instance, "report_drift")
    assert drifted.success
    passed, said = checks(drifted)["psi_significant"]
    assert not passed
    assert "dti" in said
    found = metadata(drifted, "drift_report")
    assert found["verdict"].value == "significant"
    for name, pictures in (("PSI", 1), ("baseline and window", 4)):
        drawn = re.findall(r"data:image/svg\+xml;base64,([^)]+)", found[name].value)
        assert len(drawn) == pictures
        assert all(base64.b64decode(svg).startswith(b"<svg") for svg in drawn)
        assert len(found[name].value) < 150_000  # the event log keeps it
    (report,) = pipeline.query("SELECT * FROM drift_reports ORDER BY created_at DESC LIMIT 1")
    features = pipeline.query(
        "SELECT * FROM drift_features WHERE report_id = %(id)s", id=report["report_id"]
    )
    assert (report["rows"], report["verdict"]) == (600, "significant")
    assert {f["feature"] for f in features} == {f.name for f in FEATURES}
    (dti,) = (f for f in features if f["feature"] == "dti")
    assert dti["verdict"] == "significant"
    assert dti["mean"] > dti["reference_mean"] + 6

    html = io.BytesIO()
    pipeline.lake.get(report["html_key"], html)
    page = html.getvalue().decode()
    assert re.fullmatch(
        r"reports/drift/dt=\d{4}-\d\d-\d\d/\d{4}-\d\d-\d\dT\d{6}\.\d{6}Z\.html", report["html_key"]
    )
    # The key, and no link: a signature in the event log opens the bucket to whoever reads the log,
    # and dies with temporary credentials.
    assert found["HTML report"].value == report["html_key"]
    assert not [entry for entry in instance.all_logs(drifted.run_id) if "X-Amz-" in repr(entry)]
    assert "<td class='significant'>significant</td>" in page
    assert "PSI over the baseline" in page  # Evidently's own table
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.?http", page)  # self-contained

    again = run_job(instance, "report_drift")
    assert metadata(again, "drift_report")["report"].value == report["report_id"]


@pytest.mark.parametrize("by", ["launch", "settings"])
def test_damaged_rows_of_a_baselines_file(
    by: str, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused in the file's line; left out and counted when that is asked for."""
    header = "id,loan_amnt,annual_inc,dti,int_rate,earliest_cr_line,issue_d"
    rows = [f"{i},5000,50000,{10 + i % 5},{5 + i % 7},Jan-2000,Jan-2018" for i in range(120)]
    file = tmp_path / "loans.csv"
    file.write_text("\n".join([header, *rows[:3], "3,5000", *rows[3:]]))
    asked: dict[str, Any] = {"csv": str(file)} if by == "launch" else {}
    monkeypatch.setenv("CREDIT_RISK_DRIFT_BASELINE_CSV", "" if by == "launch" else str(file))
    refused = failure(run_job(instance, "freeze_baseline", asked))
    assert refused.startswith(f"{file}: line 5 has 2 fields, the header has 7")
    if by == "settings":
        monkeypatch.setenv("CREDIT_RISK_DRIFT_BASELINE_SKIP_BAD", "true")
    else:
        asked["skip_bad"] = True
    found = metadata(run_job(instance, "freeze_baseline", asked), "drift_baseline")
    assert found["dagster/row_count"].value == 120
    assert found["origin"].value == (
        "the loans of loans.csv; 1 damaged row was left out, the first in line 5"
    )


def test_an_unread_window_is_asked_for_by_rows_or_hours(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
) -> None:
    pipeline.send_and_drain(events(0, 700))
    for config, rows in (({"last_rows": 550}, 550), ({"last_hours": 1}, None)):
        result = run_job(instance, "report_drift", {**config, "html": False})
        stored = pipeline.query("SELECT count(*) AS n FROM scored_applications")[0]["n"]
        assert metadata(result, "drift_report")["dagster/row_count"].value == (rows or stored)
    both = run_job(instance, "report_drift", {"last_rows": 5, "last_hours": 1})
    assert not both.success
    pipeline.query(
        "UPDATE scored_applications SET scored_at = scored_at - interval '1 hour' RETURNING 1"
    )
    empty = run_job(instance, "report_drift", {"last_hours": 0.5})
    assert empty.success
    assert metadata(empty, "drift_report")["verdict"].value == "too few rows"
    assert "0 applications are too few to tell" in checks(empty)["psi_significant"][1]
    assert metadata(empty, "drift_report")["HTML report"].value.startswith("reports/")


@pytest.mark.parametrize("broken", ["s3", "evidently", "no evidently"])
def test_without_html_the_numbers_land(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    pipeline.send_and_drain(events(0, 650))
    if broken == "s3":
        monkeypatch.setenv("S3_BUCKET", "nowhere")
        problem = "none: bucket nowhere at http"
    elif broken == "no evidently":
        monkeypatch.setitem(sys.modules, "evidently", None)
        problem = "none: Evidently is not installed; the extra `report` has it"
    else:
        from evidently import Report

        def fail(*_: Any, **__: Any) -> None:
            raise KeyError("a bug of theirs")

        monkeypatch.setattr(Report, "run", fail)
        problem = "none: Evidently failed: KeyError: 'a bug of theirs'"
    result = run_job(instance, "report_drift")
    assert result.success
    assert metadata(result, "drift_report")["HTML report"].value.startswith(problem)
    assert len(checks(result)) == 4
    (report,) = pipeline.query("SELECT rows, html_key FROM drift_reports")
    assert report == {"rows": 600, "html_key": None}
    assert len(pipeline.query("SELECT 1 FROM drift_features")) == len(FEATURES)


def test_postgres_counts_as_numpy_does(
    pipeline: Pipeline,
    population: pa.Table,
) -> None:
    """Over values that no application has, too: infinite ones, NaN, ties, nulls, a quote."""
    pipeline.send_and_drain(events(0, 800))
    with pipeline.warehouse.session() as connection:
        for number, (column, value) in enumerate(
            [
                *(("dti", v) for v in ("Infinity", "-Infinity", "NaN", "0", "-0")),
                *(("revol_util", v) for v in (None, "NaN", "1e300")),
                *(("purpose", v) for v in (None, "it's", "(missing)")),
                *(("term_months", v) for v in (None, "48", "36.5")),
            ]
        ):
            connection.execute(
                f"UPDATE scored_applications SET {column} = %s WHERE ctid IN"
                ' (SELECT ctid FROM scored_applications ORDER BY partition, "offset"'
                " OFFSET %s LIMIT 3)",
                (value, 17 * number),
            )
        ledger = DriftLedger(connection)
        (source,) = (s.source_id for s in [pipeline.source()])
        everything, _ = ledger.first_rows(source, 10_000)
        period = ledger.last_rows(source, 10_000)
        assert period
        for before in (
            population.slice(0, 3000),
            everything,
            everything.slice(0, 1),
            everything.filter(pa.compute.is_null(everything["revol_util"])),
        ):
            baseline = freeze(before, rejected=0, origin="")
            found = ledger.count(period, baseline.references)
            expected = window_of(everything, baseline)
            assert found.rows == len(everything)
            assert found.tiers.tolist() == expected.tiers.tolist()
            for name, feature in expected.features.items():
                assert found.features[name].counts.tolist() == feature.counts.tolist(), name
                assert found.features[name].missing == feature.missing, name
                assert found.features[name].median == feature.median, name
                assert found.features[name].mean == pytest.approx(feature.mean), name


def test_the_last_rows_are_the_newest(pipeline: Pipeline) -> None:
    """Whatever minutes they were scored in; ties of a transaction are cut at an offset."""
    for first in (0, 300, 600):
        pipeline.send_and_drain(events(first, first + 300), partition=first // 300)
    with pipeline.warehouse.session() as connection:
        connection.execute(
            "UPDATE scored_applications SET scored_at = scored_at - partition * interval '3 min'"
        )
        connection.execute("DELETE FROM risk_by_minute")
        connection.execute(
            "INSERT INTO risk_by_minute SELECT date_trunc('minute', scored_at), source_id,"
            " risk_tier, count(*), sum(loan_amnt) FROM scored_applications GROUP BY 1, 2, 3"
        )
        ledger = DriftLedger(connection)
        source = pipeline.source().source_id
        baseline = freeze(ledger.first_rows(source, 100)[0], rejected=0, origin="")
        total = pipeline.query("SELECT count(*) AS n FROM scored_applications")[0]["n"]
        for rows in (1, 250, 299, 450, total, total + 1):
            period = ledger.last_rows(source, rows)
            assert period
            window = ledger.count(period, baseline.references)
            assert window.rows == min(rows, total)
            sample = ledger.sample(period, window.rows, 50)
            assert 0 < len(sample) <= max(2 * 50, 1)
        newest = ledger.sample(ledger.last_rows(source, 100), 100, 1000)  # type: ignore[arg-type]
        assert len(newest) == 100
        first = ledger.first_rows(source, 100)[0]
        expected = pipeline.query(
            'SELECT loan_amnt FROM scored_applications ORDER BY scored_at, partition, "offset"'
            " LIMIT 100"
        )
        assert first["loan_amnt"].to_pylist() == [row["loan_amnt"] for row in expected]


def test_the_decisions_shares_have_control_limits(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
) -> None:
    pipeline.send_and_drain(events(0, 650))
    run_job(instance, "report_drift", {"html": False})
    pipeline.send_and_drain([*events(1000, 1600), *[b"junk"] * 60])
    rejects = checks(run_job(instance, "report_drift", {"html": False}))
    passed, said = rejects["reject_share"]
    assert not passed
    assert re.fullmatch(r"\d+\.\d\d% of the events were rejected, limit \d+\.\d\d%", said)
    assert rejects["watchlist_share"][0]
    pipeline.send_and_drain([good_event(i) for i in range(600)])  # all of them Watchlist
    result = run_job(instance, "report_drift", {"html": False})
    passed, said = checks(result)["watchlist_share"]
    assert not passed
    assert said.startswith("on the Watchlist: 100.00% of the window, limits")
    assert "of the last 24 hours, limits" in said
    severity = {e.check_name: e.severity.value for e in result.get_asset_check_evaluations()}
    assert severity == {
        "psi_significant": "ERROR",
        "psi_moderate": "WARN",
        "reject_share": "ERROR",
        "watchlist_share": "WARN",
    }
    assert "the tiers" in checks(result)["psi_significant"][1]
    (report,) = pipeline.query("SELECT * FROM drift_reports ORDER BY report_id DESC LIMIT 1")
    assert report["watchlist_low"] <= report["watchlist_share"] <= report["watchlist_high"]
    assert report["watchlist_share"] > report["watchlist_upper_limit"]
    assert report["day_rows"] == 650 + 600 + 600
    assert report["watchlist_share"] > report["day_share"] > report["day_upper_limit"]


def test_a_baseline_begins_after_what_retention_dropped(pipeline: Pipeline) -> None:
    """The rollup keeps the minutes of dropped months; their rows are gone."""
    pipeline.send_and_drain(events(0, 200))
    source = pipeline.source().source_id
    with pipeline.warehouse.session() as connection:
        connection.execute(
            "INSERT INTO risk_by_minute VALUES ('2020-01-15 10:00Z', %s, 'Low', 1000, 1)", (source,)
        )
        ledger = DriftLedger(connection)
        assert len(ledger.first_rows(source, 150)[0]) == 0
        connection.execute(
            "INSERT INTO dropped_rows (source_id, partition, month, scored, rejected)"
            " VALUES (%s, 0, '2020-01-01', 1000, 0)",
            (source,),
        )
        assert len(ledger.first_rows(source, 150)[0]) == 150


def test_reports_at_the_same_time_freeze_one_baseline(
    pipeline: Pipeline,
) -> None:
    pipeline.send_and_drain(events(0, 300))
    settings = DriftSettings(baseline_rows=200, window_rows=100)

    def report(number: int) -> int:
        return report_drift(
            pipeline.warehouse,
            settings,
            pipeline.kafka.topic,
            load_policy(DEFAULT_POLICY),
            run_id=f"run {number}",
        ).report_id

    with ThreadPoolExecutor(4) as pool:
        reports = set(pool.map(report, range(4)))
    assert len(pipeline.query("SELECT 1 FROM drift_baselines")) == 1
    assert len(reports) == 1
    assert len(pipeline.query("SELECT 1 FROM drift_features")) == len(FEATURES)
