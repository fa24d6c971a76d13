"""The models in Dagster: the benchmark's job, activation, and what starts them."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_src.drift import PSI_SIGNIFICANT
from assets_src.model import benchmark_schedule
from credit_risk_dagster.definitions import defs
from credit_risk_dagster.pipelines.modelling import Stored
from credit_risk_dagster.settings import Settings
from resources.configurable import resources
from resources.postgres.connection import Warehouse
from resources.postgres.models import ModelStore
from sensors.population import DRIFTED, STABLE, population_drifted
from tests.assets_src.test_scoring import failure
from tests.pipelines.approvals import approved
from tests.pipelines.models import KINDS, loans
from tests.platform.pipeline import Pipeline


def run_job(
    instance: dg.DagsterInstance, settings: Settings, **config: Any
) -> dg.ExecuteInProcessResult:
    job = defs.resolve_job_def("benchmark_models")
    return job.execute_in_process(
        instance=instance,
        run_config={"ops": {"model_loans": {"config": config}}},
        resources=resources(lambda: settings),
        raise_on_error=False,
    )


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    return {
        event.asset_key.to_user_string(): dict(event.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    return {
        check.check_name: (check.passed, check.description or "")
        for check in result.get_asset_check_evaluations()
    }


def test_a_benchmark_from_the_launch_form(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    result = run_job(
        instance,
        settings,
        sample="builtin",
        outcome="early_delinquency",
        features=["int_rate", "dti"],
        seed=3,
    )
    assert result.success
    found = materialized(result)
    sample, model, measured = (
        found[name] for name in ("training_sample", "risk_model", "model_benchmark")
    )
    assert sample["dagster/row_count"].value == 10_000
    assert sample["bad loans"].value == 178
    assert "early-delinquency-v2@" in sample["outcome"].value
    assert [row.data["month"] for row in sample["loans by month of issue"].records] == [
        *("2018-01", "2018-02", "2018-03")
    ]
    assert model["features"].value == "int_rate, dti"
    assert "At the same 3.6 % flagged" in measured["verdict"].value
    subjects = {row.data["subject"]: row.data for row in measured["subjects"].records}
    assert subjects.keys() == {"rules", *KINDS, "price", "without_price"}
    assert subjects["rules"]["Brier"] == ""
    assert 0.6 < subjects["logistic"]["AUC"] < 0.75
    plots = [value.value for name, value in measured.items() if name.startswith("plot: ")]
    assert len(plots) == 4
    for plot in (*plots, model["coefficients"].value):
        assert plot.startswith("![")
        assert "data:image/svg+xml;base64," in plot
    assert {name: passed for name, (passed, _) in checks(result).items()} == {
        "enough_outcomes": True,
        "no_leakage": True,
        "fit_for_activation": False,
    }
    assert "times as many" in checks(result)["fit_for_activation"][1]


def test_without_outcomes_the_check_says_what_is_missing(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    """By default the sample is the scored table; here, of forty loans."""
    pipeline.send(loans(40))
    pipeline.drain()
    result = run_job(instance, settings)
    assert result.success
    assert materialized(result).keys() == {"loan_vintages"}
    passed, description = checks(result)["enough_outcomes"]
    assert not passed
    assert "sample scored has " in description
    assert "at least 30 of each are needed" in description


def test_a_leaking_feature_stops_everything(
    instance: dg.DagsterInstance, settings: Settings, tmp_path: Any
) -> None:
    header = "id,loan_amnt,annual_inc,dti,int_rate,earliest_cr_line,issue_d,loan_status,revol_util"
    rows = [
        f"{number},5000,50000,{10 + number % 5},{5 + number % 7},Jan-2000,Jan-2018,"
        + ("Charged Off,99" if number % 3 == 0 else "Fully Paid,20")
        for number in range(300)
    ]
    file = tmp_path / "loans.csv"
    file.write_text("\n".join([header, *rows]))
    result = run_job(instance, settings, sample=str(file), features=["dti", "revol_util"])
    assert result.success
    assert materialized(result).keys() == {"training_sample"}
    passed, description = checks(result)["no_leakage"]
    assert not passed
    assert "revol_util (1.000) separates good from bad" in description


def test_damaged_rows_of_a_sample(
    instance: dg.DagsterInstance,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """Refused in the file's line; left out and counted when that is asked for."""
    header = "id,loan_amnt,annual_inc,dti,int_rate,earliest_cr_line,issue_d,loan_status"
    rows = [
        f"{number},5000,50000,{10 + number % 5},{5 + number % 7},Jan-2000,Jan-2018,"
        + ("Charged Off" if number % 3 == 0 else "Fully Paid")
        for number in range(90)
    ]
    file = tmp_path / "loans.csv"
    file.write_text("\n".join([header, *rows[:3], "3,5000,50000", *rows[3:], "4,5000"]))
    asked = {"sample": str(file), "features": ["dti", "grade"]}  # no grade: nothing is trained
    assert f"{file}: line 5 has 3 fields, the header has 8" in failure(
        run_job(instance, settings, **asked)
    )
    found = materialized(run_job(instance, settings, **asked, skip_bad=True))["training_sample"]
    assert found["damaged rows left out"].value == 2
    assert found["dagster/row_count"].value == 90


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"features": ["dti", "recoveries"]}, "recoveries cannot be a feature: it is known only"),
        ({"outcome": "default"}, "there is no outcome 'default'"),
        ({"sample": "everything"}, "there is no sample 'everything'"),
        ({"sample": "/nowhere.csv"}, "/nowhere.csv: no such file"),
    ],
)
def test_what_is_wrong_is_the_runs_failure(
    instance: dg.DagsterInstance, settings: Settings, config: dict[str, Any], message: str
) -> None:
    assert message in failure(run_job(instance, settings, **config))


def test_activation_is_a_job(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings, stored: Stored, ready: int
) -> None:
    job = defs.resolve_job_def("activate_model")

    def activate(model_id: int) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            instance=instance,
            run_config={"ops": {"activate": {"config": {"model_id": model_id}}}},
            resources=resources(lambda: settings),
            raise_on_error=False,
        )

    assert "cannot score the stream" in failure(activate(stored.models["gradient_boosting"]))
    assert "it expects 72.5 bad" in failure(activate(stored.models["logistic"]))
    assert f"model {ready} is not approved" in failure(activate(ready))
    with pipeline.warehouse.session() as connection:
        approved(connection, "model", ready)
    assert activate(ready).success
    with Warehouse.session(pipeline.warehouse) as connection:
        active = ModelStore(connection).scorer()
    assert active is not None
    assert active.model_id == ready


def test_the_schedule_is_daily() -> None:
    assert benchmark_schedule.cron_schedule == "30 5 * * *"
    assert benchmark_schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_a_drift_is_benchmarked_once() -> None:
    def report(passed: bool) -> None:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=PSI_SIGNIFICANT.asset_key,
                check_name=PSI_SIGNIFICANT.name,
                passed=passed,
                description="PSI of dti 0.612",
            )
        )

    def tick(cursor: str | None) -> tuple[int, str | None]:
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            result = population_drifted(context)
        if isinstance(result, dg.SkipReason):
            return 0, cursor
        assert isinstance(result, dg.SensorResult)
        return len(result.run_requests or ()), result.cursor

    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(None) == (0, None)
        report(True)
        assert tick(None) == (0, STABLE)
        report(False)
        assert tick(STABLE) == (1, DRIFTED)
        report(False)
        assert tick(DRIFTED) == (0, DRIFTED)
        report(True)
        assert tick(DRIFTED) == (0, STABLE)
        report(False)
        assert tick(STABLE) == (1, DRIFTED)
