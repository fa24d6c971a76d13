"""What Dagster knows of the platform."""

import importlib
import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path
from tempfile import gettempdir

import dagster as dg
import pytest
import yaml

import credit_risk_dagster
from assets_src import archive
from assets_src.common import kept_fresh, table
from credit_risk_dagster.base_settings import GroupOfSettings, wrong
from credit_risk_dagster.definitions import defs
from credit_risk_dagster.pipelines.archive import ArchiveReport
from credit_risk_dagster.settings import (
    GROUPS,
    PROJECT_ROOT,
    ApiSettings,
    DashboardSettings,
    Settings,
)
from resources.configurable import resources
from sensors.alerts import check_outcomes, failing_sensors, run_failures
from sensors.offsets import loan_applications_offsets
from tests.cli.test_fuzz import FIELDS, VALUES

SNAPSHOT = Path(__file__).with_name("asset_graph.json")
HEAVY = ("sklearn", "evidently", "streamlit", "boto3", "dagster_aws", "alembic", "altair")


def asset_graph() -> dict[str, dict[str, object]]:
    """The graph as people see it: asset to its neighbours, group, kinds, owners, checks."""
    graph = defs.resolve_asset_graph()
    checks: dict[str, list[str]] = {}
    for check in graph.asset_check_keys:
        checks.setdefault(check.asset_key.to_user_string(), []).append(check.name)
    nodes = ((key.to_user_string(), graph.get(key)) for key in graph.get_all_asset_keys())
    return {
        name: {
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
            "checks": sorted(checks.get(name, [])),
        }
        for name, node in sorted(nodes)
    }


def test_asset_graph_is_as_recorded() -> None:
    """Changed on purpose? Then: python -m tests.test_definitions"""
    assert asset_graph() == json.loads(SNAPSHOT.read_text())


def test_every_asset_and_check_explains_itself() -> None:
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
    graph = defs.resolve_asset_graph()
    for check in graph.asset_check_keys:
        assert graph.get_check_spec(check).description, check


# Fresh only when something is wrong, when somebody asks, or by design never again; and the topic,
# which is observed.
NOT_KEPT_FRESH = {
    *("rejected_events", "rebuilt_applications", "drift_baseline", "loan_applications"),
    "loan_outcomes",  # partitioned by month, and whatever is delivered
}


def test_what_a_schedule_or_the_stream_keeps_fresh_has_a_deadline() -> None:
    policies = {s.key.to_user_string(): s.freshness_policy for s in defs.resolve_all_asset_specs()}
    assert {name for name, policy in policies.items() if policy is None} == NOT_KEPT_FRESH
    assert policies["raw_event_archive"] == dg.FreshnessPolicy.time_window(
        warn_window=timedelta(hours=1), fail_window=timedelta(days=1)
    )
    daily = dg.FreshnessPolicy.time_window(
        warn_window=timedelta(days=2), fail_window=timedelta(days=3)
    )
    assert policies["model_benchmark"] == kept_fresh("30 5 * * *") == daily


def test_tables_are_described_as_the_migrations_make_them() -> None:
    versions = sorted((PROJECT_ROOT / "resources/postgres/migrations/versions").glob("0*.py"))
    migrations = "".join(file.read_text() for file in versions)
    for name in ("scored_applications", "rejected_events"):
        body = migrations.split(f"CREATE TABLE {name} (")[1].split("PRIMARY KEY")[0]
        created = [line.split()[0].strip('"') for line in body.strip().splitlines() if line.strip()]
        for change in re.findall(rf"ALTER TABLE {name}\s[^;]+;", migrations):
            created += re.findall(r"ADD COLUMN (\w+)", change)
        (spec,) = (s for s in defs.resolve_all_asset_specs() if s.key == dg.AssetKey(name))
        schema = spec.metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema)
        assert sorted(column.name for column in schema.columns) == sorted(created)


def test_the_code_location_imports_nothing_heavy() -> None:
    """Whatever it imports, every run imports before it can work."""
    program = (
        "import sys; import credit_risk_dagster.definitions;"
        f"print([m for m in {(*HEAVY, 'pandas')!r} if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")
@pytest.mark.parametrize(
    ("deep", "forked"), [("", "True"), ("too/deep/for/a/socket/" * 4, "False")]
)
def test_a_run_is_forked_with_the_code_and_nothing_else(
    deep: str, forked: str, tmp_path: Path
) -> None:
    """Dagster's code server starts its runs by multiprocessing's context of this name."""
    temporary = tmp_path / deep if deep else Path(gettempdir())
    temporary.mkdir(parents=True, exist_ok=True)
    program = """
import multiprocessing
import credit_risk_dagster.definitions

RUN = '''
import gc, multiprocessing, os, psutil, sys, threading
forked = os.getppid() != multiprocessing.parent_process().pid
loaded = "credit_risk_dagster.definitions" in sys.modules
made = any(type(found).__name__ == "RepositoryDefinition" for found in gc.get_objects())
alone = threading.enumerate() == [threading.main_thread()]
print(forked, loaded, made, alone, psutil.Process().net_connections())
'''
run = multiprocessing.get_context("spawn").Process(target=exec, args=(RUN,))
run.start()
run.join()
raise SystemExit(run.exitcode)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert run.stdout.split() == [forked, forked, forked, "True", "[]"]


def test_dagster_dev_finds_the_workspace() -> None:
    """A [tool.dagster] or [tool.dg] table in pyproject.toml would make it ignore the file."""
    (location,) = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == "credit_risk_dagster.definitions"
    pyproject = (PROJECT_ROOT / "pyproject.toml").read_text()
    assert "[tool.dagster" not in pyproject
    assert "[tool.dg" not in pyproject
    # The command `dg`, whose `dg check defs` is part of `make lint`, loads the same.
    project = tomllib.loads((PROJECT_ROOT / "dg.toml").read_text())["project"]
    assert project["code_location_target_module"] == location["python_module"]["module_name"]
    assert project["code_location_name"] == location["python_module"]["location_name"]


# --- wrong settings -------------------------------------------------------------------------------


def loaded(patch: pytest.MonkeyPatch) -> dg.Definitions:
    """The code location as a process of Dagster loads it, which begins with none of it."""
    for name in [*sys.modules]:
        if name.split(".")[0] in ("assets_src", "sensors"):
            patch.delitem(sys.modules, name)
    patch.delitem(sys.modules, "credit_risk_dagster.definitions")
    patch.setattr(credit_risk_dagster, "definitions", None)
    found = importlib.import_module("credit_risk_dagster.definitions").defs
    assert isinstance(found, dg.Definitions)
    return found


def a_wrong_value(group: type[GroupOfSettings], name: str) -> str | None:
    """One that the group refuses; None where everything may be meant."""
    with pytest.MonkeyPatch.context() as patch:
        for value in filter(None, VALUES):
            patch.setenv(group.variable(name), value)
            if wrong([group]):
                return value
    return None


def test_wrong_settings_stop_no_loading(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With every setting wrong that can be: what runs says it, and the log, a line each."""
    values = {group.variable(name): a_wrong_value(group, name) for group, name in FIELDS}
    refused = {variable: value for variable, value in values.items() if value}
    assert len(refused) > 40
    for variable, value in refused.items():
        monkeypatch.setenv(variable, value)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        found = loaded(patch)
    for kind in ("jobs", "sensors", "schedules"):
        assert [it.name for it in getattr(found, kind)] == [it.name for it in getattr(defs, kind)]
    told = [r.getMessage() for r in caplog.records if r.name == "credit_risk_dagster.definitions"]
    others = {g.variable(n) for g, n in FIELDS if g in (ApiSettings, DashboardSettings)}
    unsaid = {*refused} - others - {line.split(":")[0] for line in told}
    assert unsaid == {"S3_KMS_KEY_ID"}  # which needs one that is wrong itself
    assert not any("\n" in line for line in told)


@pytest.mark.parametrize(
    ("variable", "job"),
    [
        ("CREDIT_RISK_SCHEMA", "prepare_partitions"),
        ("CREDIT_RISK_SCHEMA", "roll_up_segments"),
        ("KAFKA_TOPIC", "archive_raw_events"),
        ("CREDIT_RISK_ARCHIVE_CRON", "archive_raw_events"),
        ("CREDIT_RISK_DRIFT_CRON", "report_drift"),
        ("CREDIT_RISK_MODEL_SEED", "benchmark_models"),
        ("CREDIT_RISK_RETENTION_DAYS", "apply_retention"),
        ("CREDIT_RISK_LANES", "score_applications"),
        ("S3_SERVER_SIDE_ENCRYPTION", "rebuild_from_archive"),
    ],
)
def test_a_run_says_which_setting_is_wrong(
    variable: str, job: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the run's page; of a resource, Dagster would tell a traceback."""
    monkeypatch.setenv(variable, "not that!")
    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key="2026-01-01" if job == "rebuild_from_archive" else None,
        raise_on_error=False,
    )
    told = [
        event.step_failure_data.user_failure_data.description
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    ]
    failed = [event for event in result.all_events if event.is_step_failure]
    assert told == wrong(GROUPS) * len(failed) != []


@pytest.mark.parametrize("variable", ["CREDIT_RISK_STREAM_CRON", "KAFKA_TOPIC"])
def test_a_check_says_which_setting_is_wrong(
    variable: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "not that!")
    result = defs.resolve_job_def("check_stream").execute_in_process(instance=instance)
    checks = result.get_asset_check_evaluations()
    assert [(check.passed, check.description) for check in checks] == [
        (False, line) for line in wrong(GROUPS) * 2
    ]


@pytest.mark.parametrize(
    ("group", "sensor"),
    [
        *((group, loan_applications_offsets) for group in GROUPS[:1]),
        *((group, loan_applications_offsets) for group in GROUPS if "Drain" in group.__name__),
        *(
            (g, s)
            for g in GROUPS
            if "Alert" in g.__name__
            for s in (run_failures, failing_sensors, check_outcomes)
        ),
    ],
)
def test_a_tick_says_which_setting_is_wrong(
    group: type[GroupOfSettings],
    sensor: dg.SensorDefinition,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = 0
    for name in group.model_fields:
        if value := a_wrong_value(group, name):
            with monkeypatch.context() as patch:
                patch.setenv(group.variable(name), value)
                with dg.build_sensor_context(instance, resources=resources(Settings)) as context:
                    tick = sensor.evaluate_tick(context)
                assert [tick.skip_message] == wrong([group])
                said += 1
    assert said > 2


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(asset_graph(), indent=2) + "\n")


def test_everything_loads_together_as_the_code_server_loads_it() -> None:
    """Names of ops are unique over all jobs, which no job alone shows."""
    jobs = {job.name for job in defs.get_repository_def().get_all_jobs()}
    assert {"score_applications", "activate_model", "activate_policy"} <= jobs


def test_a_table_of_nothing_has_its_schema() -> None:
    """When events were lost and no object was written, the run failed on its own metadata."""
    none = table([], "key", "events")
    assert [column.name for column in none.schema.columns] == ["key", "events"]
    assert table([]).records == []
    assert archive._metadata(ArchiveReport(), 0)["objects"].records == []


def test_a_check_is_of_nothing_that_is_materialized_more_often_than_it_runs() -> None:
    """Each materialization of an asset drops its checks: those of another job were grey."""
    graph = asset_graph()
    of_runs = {"scored_applications": ["reconciliation"], "raw_event_archive": ["archive_complete"]}
    assert {name: graph[name]["checks"] for name in of_runs} == of_runs
