"""Outcomes in Dagster: a month's files, and the schedule that asks for them."""

from datetime import UTC, datetime
from pathlib import Path

import boto3
import dagster as dg
import pytest

from assets_src.outcomes import load_outcomes_schedule
from credit_risk_dagster.definitions import defs
from credit_risk_dagster.settings import LakeSettings
from tests.assets_src.test_scoring import failure
from tests.pipelines.test_outcomes import CSV, file, stored
from tests.platform.commands import Run, one_line
from tests.platform.pipeline import Pipeline

MONTH = "2018-03-01"


def load(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = defs.resolve_job_def("load_outcomes")
    return job.execute_in_process(instance=instance, partition_key=MONTH, raise_on_error=False)


@pytest.mark.usefixtures("servers")
def test_a_month_is_loaded_and_again_changes_nothing(
    pipeline: Pipeline, lake_settings: LakeSettings, instance: dg.DagsterInstance
) -> None:
    nothing = load(instance)
    assert (nothing.success, nothing.get_asset_materialization_events()) == (True, [])
    client = boto3.client("s3")
    for key in ("2018-03.csv", "2018-03/servicing.csv", "2018-04.csv"):
        client.put_object(Bucket=lake_settings.bucket, Key=f"outcomes/{key}", Body=CSV.encode())
    for added in (6, 0):
        (event,) = load(instance).get_asset_materialization_events()
        assert event.partition == MONTH
        metadata = event.materialization.metadata
        assert (metadata["added"].value, metadata["known"].value) == (added, 6 - added)
    assert {row["source"] for row in stored(pipeline)} == {"2018-03.csv", "servicing.csv"}
    client.put_object(Bucket=lake_settings.bucket, Key="outcomes/2018-03.csv", Body=b"id\nx y\n")
    assert "outcomes/2018-03.csv: line 2: " in failure(load(instance))


def test_the_schedule_asks_for_two_months() -> None:
    when = datetime(2026, 3, 1, 4, 40, tzinfo=UTC)
    with dg.build_schedule_context(
        scheduled_execution_time=when, repository_def=defs.get_repository_def()
    ) as context:
        data = load_outcomes_schedule.evaluate_tick(context)
    assert [request.partition_key for request in data.run_requests or ()] == [
        *("2026-02-01", "2026-03-01")
    ]


@pytest.mark.usefixtures("servers")
def test_the_command(pipeline: Pipeline, run: Run, tmp_path: Path) -> None:
    good, bad = file(tmp_path, CSV), file(tmp_path, "id,status\n1,Current\n", "bad.csv")
    told = run("outcomes", "load", good, "--source", "desk")
    assert (told.code, told.out) == (0, "3 outcomes added, 0 were known\n")
    assert "line 2: observed_at is missing" in one_line(run("outcomes", "load", bad))
    day = ("--observed-at", "2019-03-31")
    assert run("outcomes", "load", bad, *day).out.startswith("1 outcome added")
    assert stored(pipeline)[-1]["observed_at"] == datetime(2019, 3, 31, tzinfo=UTC)


def test_vintages_need_no_server(run: Run) -> None:
    found = run("model", "vintages", "--sample", "builtin")
    assert found.code == 0
    for words in ("2018-01", " 79 ", "fewer than others", "early-delinquency-v2@"):
        assert words in found.out
