"""The job, executed in process against a real broker and a real Postgres."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_src.scoring import _topic
from credit_risk_dagster.definitions import defs
from credit_risk_dagster.domain.latency import percentile
from credit_risk_dagster.settings import Settings
from resources.configurable import resources
from resources.kafka.broker import Broker
from resources.postgres.lost import LostEvents
from tests.platform.pipeline import Pipeline, good_event


def run_job(
    instance: dg.DagsterInstance, settings: Settings, **config: Any
) -> dg.ExecuteInProcessResult:
    job = defs.resolve_job_def("score_applications")
    return job.execute_in_process(
        instance=instance,
        run_config={"ops": {"score_stream": {"config": config}}} if config else None,
        resources=resources(lambda: settings),
        raise_on_error=False,
    )


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    return {
        event.asset_key.to_user_string(): {
            name: value if isinstance(value, dg.TableMetadataValue) else value.value
            for name, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (event,) = (e for e in result.all_events if e.is_step_failure)
    error = event.step_failure_data
    assert error.user_failure_data
    return error.user_failure_data.description or ""


def test_a_launch_without_config_drains_what_is_there(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
) -> None:
    pipeline.send([good_event(i) for i in range(20)] + [b"junk", b'{"id": 1}'], partition=2)
    result = run_job(instance, settings)
    assert result.success
    assets = materialized(result)
    scored, rejected = assets["scored_applications"], assets["rejected_events"]
    assert scored["dagster/row_count"] == 20
    assert scored["tier: Watchlist"] == 20
    assert scored["policy"].startswith("lendingclub-v2@")
    assert [r.data for r in scored["offsets"].records] == [
        {"partition": 2, "first offset": 0, "next offset": 22}
    ]
    assert scored["latency by the clock of the"] == "producer"  # the embedded broker has no other
    (batch,) = pipeline.query("SELECT latency_buckets FROM batches")
    for q in (50, 95, 99):
        expected = 1000 * percentile(batch["latency_buckets"], q)
        assert scored[f"latency p{q} (ms)"] == pytest.approx(expected, abs=0.5)
    seconds = scored["session (s)"]  # to one digit
    assert scored["throughput (events/s)"] * seconds == pytest.approx(22, rel=0.15)
    assert {r.data["reason"]: r.data["events"] for r in rejected["reject reasons"].records} == {
        "invalid_json": 1,
        "missing_required:loan_amnt": 1,
    }
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("reconciliation", True)


def test_bounds_limit_a_launch(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
) -> None:
    pipeline.send([good_event(i) for i in range(20)])
    result = run_job(
        instance, settings, bounds=[{"partition": 0, "first_offset": 0, "until_offset": 7}]
    )
    assert result.success
    found = materialized(result)["scored_applications"]
    assert (found["dagster/row_count"], found["scored"]) == (7, 7)
    again = run_job(
        instance, settings, bounds=[{"partition": 0, "first_offset": 7, "until_offset": 9}]
    )
    found = materialized(again)["scored_applications"]
    assert (found["dagster/row_count"], found["scored"]) == (9, 2)  # the table's, the session's
    assert "rejected_events" not in materialized(result)
    refused = run_job(
        instance, settings, bounds=[{"partition": 0, "first_offset": 12, "until_offset": 20}]
    )
    assert "begin at 12, but offsets from 9 on are not processed yet" in failure(refused)


def test_a_session_shows_what_it_did_while_it_goes_on(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("credit_risk_dagster.pipelines.drain._PROGRESS_SECONDS", 0.0)
    pipeline.send([*map(good_event, range(9)), b"junk"])
    result = run_job(instance, settings)
    seen = {
        event.asset_key.to_user_string(): event.asset_observation_data.asset_observation.metadata
        for event in result.all_events
        if event.is_asset_observation and event.asset_key
    }
    assert {*seen} == {"scored_applications", "rejected_events"}
    assert {(m["scored"].value, m["rejected"].value) for m in seen.values()} == {(9, 1)}
    settings.drain = settings.drain.model_copy(update={"idle_seconds": None})
    assert run_job(instance, settings).success  # a launch by hand ends


def test_nothing_new_materializes_nothing(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
) -> None:
    result = run_job(instance, settings)
    assert result.success
    assert materialized(result) == {}
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.description) == (
        *(True, "each of the 0 offsets since the last check is stored once"),
    )


def test_a_failed_reconciliation_shows_in_the_check(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
) -> None:
    """A row that is missing from the table is found by counting, not by the ledger's own sums."""
    pipeline.send([good_event(i) for i in range(5)])
    with pipeline.warehouse.connect() as connection:
        connection.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            ' $$ BEGIN RETURN CASE WHEN NEW."offset" = 3 THEN NULL ELSE NEW END; END $$'
        )
        for (table,) in connection.execute(
            "SELECT relid::regclass::text FROM pg_partition_tree('scored_applications')"
            " WHERE isleaf"
        ).fetchall():
            connection.execute(
                f"CREATE TRIGGER lose BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION lose()"
            )
    (check,) = run_job(instance, settings).get_asset_check_evaluations()
    assert not check.passed
    assert check.description == (
        "finding 1: 1 missing in source 1 partition 0, offset 3: `credit-risk reconciliation ls`"
    )
    # The next run is right, which explains nothing.
    (next_check,) = run_job(instance, settings).get_asset_check_evaluations()
    assert not next_check.passed


def test_the_check_counts_what_another_run_committed(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(5)])  # a run without a check: killed
    with pipeline.warehouse.connect() as connection:
        connection.execute('DELETE FROM scored_applications WHERE "offset" = 3')
    (check,) = run_job(instance, settings).get_asset_check_evaluations()
    assert not check.passed


def test_everything_is_counted_once_a_day(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    job = defs.resolve_job_def("reconcile_everything")

    def check() -> dg.AssetCheckEvaluation:
        result = job.execute_in_process(instance=instance, resources=resources(lambda: settings))
        (found,) = result.get_asset_check_evaluations()
        return found

    pipeline.send_and_drain([good_event(i) for i in range(5)])
    assert run_job(instance, settings).get_asset_check_evaluations()[0].passed
    assert check().description == "each of the 5 offsets of every source is stored once"
    with pipeline.warehouse.connect() as connection:
        connection.execute('DELETE FROM scored_applications WHERE "offset" = 3')
    assert run_job(instance, settings).get_asset_check_evaluations()[0].passed  # counted before
    found = check()
    assert not found.passed
    assert "1 missing in source 1 partition 0, offset 3" in (found.description or "")


def test_a_run_of_a_lane_that_is_no_more_ends_well(
    pipeline: Pipeline, instance: dg.DagsterInstance, settings: Settings
) -> None:
    """The sensor asked for it, it waited in the queue, and CREDIT_RISK_LANES was changed."""
    pipeline.send([good_event(1)])
    job = defs.resolve_job_def("score_applications")
    for tags, ends_well in (({"credit_risk/lanes": "4"}, True), ({}, False)):
        result = job.execute_in_process(
            instance=instance,
            run_config={"ops": {"score_stream": {"config": {"lane": 3}}}},
            resources=resources(lambda: settings),
            tags=tags,
            raise_on_error=False,
        )
        assert result.success is ends_well
    assert "lane 3 does not exist: CREDIT_RISK_LANES is 1" in failure(result)


def test_the_topic_that_is_shown_is_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TOPIC", "mortgages")
    assert _topic() == "mortgages"
    monkeypatch.setenv("KAFKA_TIMEOUT_MS", "soon")
    assert _topic() == "unknown: the settings KAFKA_* are wrong"


def test_lost_events_are_a_warning_until_they_are_acknowledged(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(3)])
    pipeline.send([good_event(i) for i in range(9)])
    state = pipeline.broker.inspect()
    moved = replace(state, offsets={**state.offsets, 0: (8, 12)})
    with monkeypatch.context() as patch:
        patch.setattr(Broker, "inspect", lambda *_: moved)
        result = run_job(instance, settings)
    assert materialized(result)["scored_applications"]["lost"] == 5
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "; 5 events are lost, which the broker removed before they were read" in (
        check.description or ""
    )
    with pipeline.warehouse.session() as connection:
        assert [gone.events for gone in LostEvents(connection).acknowledge("ada", None)] == [5]
    (check,) = run_job(instance, settings).get_asset_check_evaluations()
    assert check.passed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kafka": {"topic": "nowhere"}}, r"topic nowhere does not exist"),
        (
            {"drain": {"policy_file": Path("/nowhere.yaml")}},
            r"policy /nowhere.yaml cannot be read",
        ),
        (
            {"kafka": {"bootstrap_servers": "127.0.0.1:9", "timeout_ms": 500}},
            r"Kafka broker at 127.0.0.1:9 does not answer",
        ),
    ],
)
def test_what_is_wrong_is_the_runs_failure(
    instance: dg.DagsterInstance,
    settings: Settings,
    wrong: dict[str, dict[str, Any]],
    message: str,
) -> None:
    for group, values in wrong.items():
        setattr(settings, group, getattr(settings, group).model_copy(update=values))
    assert message in failure(run_job(instance, settings))


def test_a_lane_that_does_not_exist_is_refused(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    refused = failure(run_job(instance, settings, lane=3))
    assert "lane 3 does not exist: CREDIT_RISK_LANES is 1" in refused
