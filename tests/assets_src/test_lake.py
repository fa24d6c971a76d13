"""The lake's Dagster side and command line, against real servers."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.settings import PROJECT_ROOT
from tests.assets_src.test_scoring import failure
from tests.platform.commands import Run
from tests.platform.pipeline import Pipeline, good_event

pytestmark = pytest.mark.usefixtures("servers")


def run_job(instance: dg.DagsterInstance, name: str, **options: Any) -> dg.ExecuteInProcessResult:
    job = defs.resolve_job_def(name)
    return job.execute_in_process(instance=instance, raise_on_error=False, **options)


def check(result: dg.ExecuteInProcessResult) -> tuple[str, bool, str]:
    (found,) = result.get_asset_check_evaluations()
    return found.check_name, found.passed, found.description or ""


def test_a_run_archives_and_checks(pipeline: Pipeline, instance: dg.DagsterInstance) -> None:
    assert check(run_job(instance, "archive_raw_events")) == (
        *("archive_complete", True, "nothing of the topic is committed yet"),
    )
    nothing = run_job(instance, "maintain_lake")
    assert (nothing.success, nothing.get_asset_materialization_events()) == (True, [])
    pipeline.send_and_drain([good_event(i) for i in range(20)] + [b"junk"])
    result = run_job(instance, "archive_raw_events")
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["dagster/row_count"].value == 21
    assert metadata["compression ratio"].value > 1
    assert check(result) == (
        *("archive_complete", True, "21 offsets archived, 0 committed since and pending"),
    )
    again = run_job(instance, "archive_raw_events")
    assert again.success
    assert again.get_asset_materialization_events() == []
    pipeline.send_and_drain([good_event(i) for i in range(20)])
    pipeline.archive()
    (kept_up,) = run_job(instance, "maintain_lake").get_asset_materialization_events()
    figures = kept_up.materialization.metadata
    assert figures["raw_events: merged"].value == 2
    assert figures["raw_events: files"].value == 1
    assert check(run_job(instance, "verify_archive"))[:2] == ("archive_checksums", True)


def test_what_s3_refuses_is_the_runs_failure_and_the_checks(
    pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(1)])
    monkeypatch.setenv("S3_BUCKET", "nowhere")
    result = run_job(instance, "archive_raw_events")
    assert not result.success
    name, passed, said = check(result)
    assert (name, passed) == ("archive_complete", False)
    assert "bucket nowhere at http" in said
    assert "NoSuchBucket" in said
    assert failure(result) == said
    assert pipeline.send_and_drain([good_event(2)]).scored == 1  # scoring goes on
    monkeypatch.setenv("S3_BUCKET", pipeline.lake._settings.bucket)
    assert run_job(instance, "archive_raw_events").success
    assert len(pipeline.rows()) == 2


def test_a_damaged_object_fails_the_daily_check(
    pipeline: Pipeline, instance: dg.DagsterInstance
) -> None:
    pipeline.send_and_drain([good_event(1)])
    pipeline.archive()
    (archived,) = pipeline.objects()
    pipeline.lake.put(archived.key or "", b"x" * (archived.bytes or 0), "text/plain")
    assert check(run_job(instance, "archive_raw_events"))[1] is True
    _, passed, said = check(run_job(instance, "verify_archive"))
    assert not passed
    assert archived.key
    assert archived.key in said


def test_a_day_is_rebuilt_by_the_job(pipeline: Pipeline, instance: dg.DagsterInstance) -> None:
    """As of now, and of a time; what is no time or version is told in a line."""
    pipeline.send_and_drain([good_event(i) for i in range(5)] + [b"junk"])
    pipeline.archive()
    (archived,) = pipeline.objects()
    then = datetime.now(UTC).isoformat()
    pipeline.send_and_drain([good_event(9)])
    pipeline.archive()

    def rebuild(into: str, at: str) -> dg.ExecuteInProcessResult:
        config = {"ops": {"rebuilt_applications": {"config": {"into": into, "at": at}}}}
        day = str(archived.dt)
        return run_job(instance, "rebuild_from_archive", partition_key=day, run_config=config)

    for into, at, scored in (("by_now", "", 6), ("by_time", then, 5)):
        result = rebuild(into, at)
        assert result.success
        (event,) = result.get_asset_materialization_events()
        metadata = event.materialization.metadata
        assert (metadata["scored"].value, metadata["rejected"].value) == (scored, 1)
        rows = pipeline.query(f"SELECT count(*) AS n FROM {into}.scored_applications")
        assert rows == [{"n": scored}]
    assert "at 'noon': neither a version of the table" in failure(rebuild("never", "noon"))


def test_the_redrive_job(pipeline: Pipeline, instance: dg.DagsterInstance) -> None:
    pipeline.send_and_drain([b"junk", b"{}"])
    pipeline.query(  # as if a fix had made both readable
        "UPDATE rejected_events SET value = %(value)s RETURNING 1", value=good_event(1)
    )
    config = {"ops": {"redrive_events": {"config": {"reason": "invalid_json"}}}}
    assert run_job(instance, "redrive_rejected", run_config=config).success
    assert pipeline.stored() == {"scored_applications": [(0, 0)], "rejected_events": [(0, 1)]}
    config = {"ops": {"redrive_events": {"config": {"reason": "nonsense"}}}}
    assert "no event is rejected as nonsense" in failure(
        run_job(instance, "redrive_rejected", run_config=config)
    )


# --- the command line -----------------------------------------------------------------------------


def test_the_command_line(pipeline: Pipeline, run: Run, tmp_path: Path) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(5)] + [b"junk"], 3)
    archived_now = run("archive", "run")
    assert archived_now.out.startswith("6 events in 1 object,"), archived_now.err
    assert "6 decisions" in archived_now.out
    (archived,) = pipeline.objects()
    assert archived.key
    assert archived.key in run("lake", "ls", "--files", "--json").out
    verified = run("lake", "verify")
    assert (verified.code, verified.out[:6]) == (0, "2 of 2")
    got = run("lake", "get", tmp_path)
    assert got.code == 0, got.err
    assert (tmp_path / archived.key).stat().st_size == archived.bytes
    rebuilt = run("rebuild", "--into", "again")
    assert "schema again: 5 scored, 1 rejected, 0 were there, 0 gaps" in rebuilt.out, rebuilt.err
    assert "invalid_json" in run("rejected", "ls").out
    assert run("rejected", "show", "3", "5").out == "junk"
    redriven = run("rejected", "redrive")
    assert redriven.out.startswith("0 of 1 rejected event now"), redriven.err
    pipeline.lake.put(archived.key, b"damaged", "text/plain")
    broken = run("lake", "verify")
    assert broken.code == 1
    assert f"{archived.key} has 7 bytes with SHA-256" in broken.err
    refused = run("lake", "get", tmp_path)
    assert refused.code == 1
    assert "restore it from a version or a replica" in refused.err


def test_duckdb_reads_the_copy_as_its_page_says(
    pipeline: Pipeline, run: Run, tmp_path: Path
) -> None:
    """The query of docs/lake.md, over what `lake get` wrote."""
    import duckdb

    pipeline.send_and_drain([good_event(i) for i in range(5)] + [b"junk", b"\xff\x00", None])
    pipeline.archive()
    assert run("lake", "get", tmp_path).code == 0
    document = (PROJECT_ROOT / "docs" / "lake.md").read_text()
    query = document.split("```sql\n-- DuckDB")[1].split("\n", 1)[1].split("```")[0]
    assert "copy/raw_events/loan_applications/" in query
    query = query.replace(
        "copy/raw_events/loan_applications/", f"{tmp_path}/raw_events/{pipeline.kafka.topic}/"
    )
    rows = duckdb.sql(query).fetchall()
    (archived,) = pipeline.objects()
    assert rows == [(archived.dt, "car", 5, 10_000.0)]
