"""Old time partitions leave Postgres only when S3 has them; old runs leave Dagster."""

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from assets_src.retention import delete_runs
from credit_risk_dagster.definitions import defs
from credit_risk_dagster.pipelines.retention import RetentionReport, drop_old_periods
from credit_risk_dagster.settings import RetentionSettings, Settings, WarehouseSettings
from resources.configurable import resources
from resources.dagster_storage import DagsterStorage
from resources.kafka.reader import OffsetRange
from resources.postgres.abandoned import AbandonedOffsets
from resources.postgres.decisions import Decisions
from resources.postgres.partitions import TablesBusy
from resources.postgres.retention import Period, RetentionLedger
from tests.pipelines.test_redrive import reject_scored
from tests.pipelines.test_redrive import run as redrive
from tests.platform.pipeline import Pipeline, good_event

NOW = datetime.now(UTC)
_FIRST = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
THIS_MONTH = Period(_FIRST, (_FIRST + timedelta(days=32)).replace(day=1))


def apply(pipeline: Pipeline, **later: Any) -> RetentionReport:
    return drop_old_periods(
        pipeline.warehouse, 30, now=NOW + timedelta(**later), log=logging.getLogger("test")
    )


def test_a_month_goes_when_it_is_old_and_in_both_tables(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)] + [b"junk"], 1)
    assert THIS_MONTH not in apply(pipeline, days=1).dropped
    kept = apply(pipeline, days=70).kept
    assert kept == {THIS_MONTH: "not in both tables of the lake: source 1 partition 1"}
    pipeline.archive()
    assert apply(pipeline, days=70).dropped[THIS_MONTH] == 11
    assert pipeline.stored() == {"scored_applications": [], "rejected_events": []}
    assert pipeline.query("SELECT FROM batches") == []
    assert pipeline.unreconciled() == 0
    # The stream goes on, also in the month that was dropped.
    pipeline.send_and_drain([good_event(1)], 1)
    assert pipeline.stored()["scored_applications"] == [(1, 11)]
    assert pipeline.unreconciled() == 0
    assert pipeline.account().problems == []


@pytest.mark.parametrize("how", ["drop_month(%(day)s)", "drop_period(%(starts)s, %(ends)s)"])
@pytest.mark.parametrize("table", ["raw_events", "decisions"])
def test_the_database_itself_keeps_what_either_table_lacks(
    pipeline: Pipeline, how: str, table: str
) -> None:
    """Whoever calls its functions, with or without the job, and whatever a check found."""
    pipeline.send_and_drain([good_event(0)])
    pipeline.archive()
    pipeline.query(f"UPDATE lake_progress SET {table} = 0 RETURNING 1")
    pipeline.query("UPDATE archive_objects SET verified_at = now() RETURNING 1")
    with pipeline.warehouse.session() as connection:
        parameters = vars(THIS_MONTH) | {"day": THIS_MONTH.starts.date()}
        with suppress(psycopg.errors.ObjectNotInPrerequisiteState):
            connection.execute(f"SELECT {how}".encode(), parameters)
    assert pipeline.stored()["scored_applications"] == [(0, 0)]
    assert pipeline.query("SELECT FROM dropped_rows") == []


def test_what_was_lost_before_it_was_archived_is_dropped_when_it_is_given_up(
    pipeline: Pipeline,
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.archive()
    pipeline.query(  # as if the broker had removed four events, which an object lacks
        "UPDATE archive_objects SET rows = rows - 4, lost = 4 RETURNING 1"
    )
    assert len(pipeline.account().problems) == 1
    assert THIS_MONTH in apply(pipeline, days=70).kept
    with pipeline.warehouse.session() as connection:
        (gone,) = AbandonedOffsets(connection).waiting()
        assert (gone.range, gone.events) == (OffsetRange(0, 0, 10), 4)
        AbandonedOffsets(connection).abandon(1, [gone.range], "Ada", "retention was too short")
    assert pipeline.account().problems == []
    assert apply(pipeline, days=70).dropped[THIS_MONTH] == 10
    assert pipeline.unreconciled() == 0


def test_a_redriven_row_stays_until_its_decision_is_in_the_lake(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    reject_scored(pipeline, [2])
    pipeline.archive()
    redrive(pipeline)
    assert THIS_MONTH in apply(pipeline, days=70).kept
    pipeline.archive()
    assert apply(pipeline, days=70).dropped[THIS_MONTH] == 5
    assert len(pipeline.rows("decisions")) == 6
    assert pipeline.archive().decisions.gone == 0


def test_what_the_tables_lost_again_stays(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror is the tables', whatever it said before."""
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    pipeline.archive()
    for key in pipeline.lake.sizes("decisions/"):
        pipeline.lake.delete(key)  # as a bucket that was restored to before
    with monkeypatch.context() as patch:
        patch.setattr(Decisions, "first", lambda *_: _die())
        with pytest.raises(KeyboardInterrupt):
            pipeline.archive()
    assert THIS_MONTH in apply(pipeline, days=70).kept


def _die() -> None:
    raise KeyboardInterrupt


def test_a_month_in_use_stays(pipeline: Pipeline) -> None:
    with pipeline.warehouse.connect(autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM scored_applications")
        with pytest.raises(TablesBusy, match=r"is not dropped: the next run tries again"):
            apply(pipeline, days=70)
    assert THIS_MONTH in apply(pipeline, days=70).dropped


def test_old_runs_are_deleted(warehouse_settings: WarehouseSettings) -> None:
    job = defs.resolve_job_def("apply_retention")
    with dg.DagsterInstance.ephemeral() as instance:
        for retention in (RetentionSettings(), RetentionSettings(run_days=0)):
            settings = Settings(warehouse=warehouse_settings, retention=retention)
            given = resources(lambda settings=settings: settings)
            run = job.execute_in_process(instance=instance, resources=given)
            assert run.output_for_node("prune_runs") == 0  # none is so old; 0 keeps all
        before = {run.run_id for run in instance.get_runs()}
        assert delete_runs(instance, datetime.now(UTC)) == 2
        assert not before & {run.run_id for run in instance.get_runs()}
        assert all(instance.all_logs(run_id) == [] for run_id in before)


def test_the_job_says_what_went_and_what_stays(pipeline: Pipeline) -> None:
    job = defs.resolve_job_def("apply_retention")
    settings = Settings(warehouse=pipeline.warehouse._settings, retention=RetentionSettings(days=0))

    def told() -> dict[str, Any]:
        with dg.DagsterInstance.ephemeral() as instance:
            run = job.execute_in_process(instance=instance, resources=resources(lambda: settings))
            (output,) = (
                event.step_output_data
                for event in run.events_for_node("drop_periods")
                if event.is_successful_output
            )
            return {name: value.value for name, value in output.metadata.items()}

    told()  # of a fresh database
    assert told() == {"dropped": {}, "kept": {}, "rows dropped": 0}


def test_reviews_have_a_retention_of_their_own(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(1)])
    for _ in range(2):
        pipeline.query("SELECT review_application(1, 0, 0, 'Bo', 'a note')")
    pipeline.query(
        "UPDATE application_reviews SET reviewed_at = now() - interval '31 days'"
        " WHERE review_id = 1 RETURNING 1"
    )
    job = defs.resolve_job_def("apply_retention")
    for days, left in ((None, 2), (32, 2), (31, 1)):
        settings = Settings(
            warehouse=pipeline.warehouse._settings,
            retention=RetentionSettings(review_days=days),
        )
        with dg.DagsterInstance.ephemeral() as instance:
            run = job.execute_in_process(
                instance=instance, resources=resources(lambda settings=settings: settings)
            )
            assert run.output_for_node("delete_reviews") == 2 - left
        assert len(pipeline.query("SELECT FROM application_reviews")) == left
    with pipeline.warehouse.session() as connection:  # nobody's of today, whoever asks
        assert RetentionLedger(connection).delete_reviews(0) == 0


def test_old_observations_are_deleted(
    servers: dict[str, str], warehouse_settings: WarehouseSettings
) -> None:
    """Those that sensors made; no run takes them along."""
    topic = dg.AssetKey("loan_applications")
    settings = Settings(warehouse=warehouse_settings, retention=RetentionSettings())
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetObservation(topic, metadata={"x": 1}))
        instance.report_runless_asset_event(dg.AssetMaterialization(topic))
        defs.resolve_job_def("apply_retention").execute_in_process(
            instance=instance, resources=resources(lambda: settings)
        )
        assert len(instance.fetch_observations(topic, limit=9).records) == 1  # it is young
        with psycopg.connect(servers["DAGSTER_POSTGRES_URL"]) as connection:
            later = datetime.now(UTC) + timedelta(seconds=1)
            assert DagsterStorage(connection).delete_observations(later) == 1
        assert instance.fetch_observations(topic, limit=9).records == []
        assert len(instance.fetch_materializations(topic, limit=9).records) == 1
