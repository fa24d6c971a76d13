"""The rebuild from the archive, compared with the live tables row by row."""

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from credit_risk_dagster.domain.policy import Policy, load_policy
from credit_risk_dagster.pipelines.lake_history import RawEvents, TableMissing
from credit_risk_dagster.pipelines.loans import builtin_loans, endless
from credit_risk_dagster.pipelines.rebuild import RebuildRefused, RebuildReport, rebuild
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.lake import LakeRefused
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.rebuilt import RebuiltLedger
from resources.postgres.reconciliation import reconcile
from tests.platform.pipeline import Pipeline, good_event

JUNK: tuple[bytes | None, ...] = (
    *(None, b"", b"junk", b"[]", b"{}", b'{"dti": NaN}', b"\xff\x00", b'{"loan_amnt": -5}'),
)
# What differs by nature: when a row was written, and by which batch; policies have other ids.
DIFFERS = {"scored_at", "rejected_at", "batch_id", "policy_id"}


def run(
    pipeline: Pipeline,
    settings: WarehouseSettings,
    policy: Policy | Path = DEFAULT_POLICY,
    into: str = "rebuilt",
    at: int | None = None,
    **period: Any,
) -> RebuildReport:
    return rebuild(
        settings,
        RawEvents(pipeline.lake, pipeline.kafka.topic, at),
        load_policy(policy) if isinstance(policy, Path) else policy,
        into=into,
        run_id="rebuild",
        log=logging.getLogger("test"),
        **period,
    )


def tables(settings: WarehouseSettings, schema: str) -> dict[str, list[dict[str, Any]]]:
    """Scored and rejected rows by coordinates, without what differs by nature."""
    store = Warehouse(settings.model_copy(update={"db_schema": schema}))
    with store.session() as connection:
        return {
            "scored": _comparable(
                fetch_all(
                    connection,
                    "SELECT s.*, p.content_hash FROM scored_applications s"
                    ' JOIN policies p USING (policy_id) ORDER BY source_id, partition, "offset"',
                )
            ),
            "rejected": _comparable(
                fetch_all(
                    connection,
                    'SELECT * FROM rejected_events ORDER BY source_id, partition, "offset"',
                )
            ),
            "offsets": _comparable(
                fetch_all(
                    connection,
                    "SELECT source_id, partition, first_offset, next_offset, scored, rejected, gaps"
                    " FROM stream_offsets WHERE next_offset > first_offset ORDER BY 1, 2",
                )
            ),
        }


def _comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if name not in DIFFERS} for row in rows]


def days_ago(*count: int) -> list[datetime]:
    """Noons, UTC."""
    today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    return [today - timedelta(days=days) for days in count]


def test_a_rebuild_equals_the_live_tables_row_by_row(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    count = 6_000
    loans = [msgspec.json.encode(loan) for loan in islice(endless(builtin_loans()), count)]
    values = [JUNK[i // 40 % len(JUNK)] if i % 40 == 7 else loan for i, loan in enumerate(loans)]
    for partition in range(4):
        pipeline.send(values[partition::4], partition)
    report = pipeline.drain(idle_seconds=1)  # the first fetch of so much takes its time
    assert report.scored + report.rejected == count
    assert report.rejected >= count // 40
    pipeline.archive()
    rebuilt = run(pipeline, warehouse_settings)
    assert (rebuilt.scored, rebuilt.rejected) == (report.scored, report.rejected)
    assert (rebuilt.tiers, rebuilt.reasons) == (report.tiers, report.reasons)
    live, again = (tables(warehouse_settings, s) for s in ("credit_risk", "rebuilt"))
    assert again == live
    assert len(live["scored"]) + len(live["rejected"]) == count
    assert run(pipeline, warehouse_settings).scored == 0  # once more adds nothing


def test_an_interrupted_rebuild_goes_on(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(900)])
    pipeline.archive(max_object_events=300)
    commit, calls = RebuiltLedger.commit, iter(range(10))

    def die(*args: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return commit(*args)

    with monkeypatch.context() as patch:
        patch.setattr(RebuiltLedger, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            run(pipeline, warehouse_settings)
    again = run(pipeline, warehouse_settings)
    assert (again.scored, again.known) == (300, 600)
    assert tables(warehouse_settings, "rebuilt") == tables(warehouse_settings, "credit_risk")


def test_another_policy_scores_otherwise(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, tmp_path: Path
) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text(
        DEFAULT_POLICY.with_name("lendingclub-v1.yaml")
        .read_text()
        .replace("lendingclub-v1", "lenient-v1")
        .replace("delinq_2yrs_above: 0", "delinq_2yrs_above: 9")
    )
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.archive()
    report = run(pipeline, warehouse_settings, strict)
    assert report.policy.startswith("lenient-v1@")
    assert (report.tiers["Watchlist"], report.tiers["Elevated"]) == (0, 10)


def test_days_are_rebuilt_in_any_order(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    noons = days_ago(3, 2, 1)
    days = [noon.date() for noon in noons]
    for noon in noons:
        pipeline.send([good_event(i) for i in range(5)], at=noon)
    pipeline.drain()
    pipeline.archive()
    assert run(pipeline, warehouse_settings, since=days[2]).scored == 5
    first = run(pipeline, warehouse_settings, until=days[0])
    assert (first.scored, first.gaps) == (5, 5)  # the day between
    with Warehouse(warehouse_settings.model_copy(update={"db_schema": "rebuilt"})).session() as c:
        (found,) = reconcile(c, 1)
        assert (found["scored"], found["gaps"], found["difference"]) == (10, 5, 0)
    again = run(pipeline, warehouse_settings, since=days[1])
    assert (again.scored, again.known, again.gaps) == (5, 5, 0)
    assert tables(warehouse_settings, "rebuilt") == tables(warehouse_settings, "credit_risk")


def test_days_are_rebuilt_side_by_side(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, environment: dict[str, str]
) -> None:
    noons = days_ago(3, 2, 1)
    days = [noon.date() for noon in noons]
    for noon in noons:
        for partition in range(4):
            pipeline.send([good_event(i) for i in range(300)], partition, at=noon)
    pipeline.drain()
    pipeline.archive()
    program = "from credit_risk_dagster.cli.main import main; main()"
    command = [sys.executable, "-c", program, "rebuild", "--into", "rebuilt"]
    running = [
        subprocess.Popen(
            [*command, f"--since={day}", f"--until={day}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for day in reversed(days)
    ]
    assert all("1,200 scored" in rebuilt.communicate()[0] for rebuilt in running)
    assert run(pipeline, warehouse_settings).known == 3_600
    assert tables(warehouse_settings, "rebuilt") == tables(warehouse_settings, "credit_risk")


def test_a_version_of_the_table_is_what_was_there_then(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    pipeline.archive()
    then = RawEvents(pipeline.lake, pipeline.kafka.topic).version
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    pipeline.archive()
    assert run(pipeline, warehouse_settings, at=then).scored == 5
    assert run(pipeline, warehouse_settings).scored == 5
    with pytest.raises(LakeRefused, match="version"):
        run(pipeline, warehouse_settings, at=99)


def test_a_lost_warehouse_is_rebuilt_from_the_table_and_goes_on(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    values: list[bytes | None] = [good_event(i) for i in range(100)]
    for partition in range(4):
        pipeline.send([*values, *JUNK], partition)
    pipeline.drain()
    pipeline.archive()
    lost = tables(warehouse_settings, "credit_risk")
    with pipeline.warehouse.connect() as connection:
        connection.execute("DROP SCHEMA credit_risk CASCADE")
    assert run(pipeline, warehouse_settings).scored == 400
    assert tables(warehouse_settings, "rebuilt") == lost
    # The drain goes on where the lost schema's ended, and the archive where the table does.
    pipeline.warehouse = Warehouse(warehouse_settings.model_copy(update={"db_schema": "rebuilt"}))
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.archive()
    assert pipeline.unreconciled() == 0
    assert len(pipeline.stored()["scored_applications"]) == 410
    rows = RawEvents(pipeline.lake, pipeline.kafka.topic).days()
    assert sum(len(batch) for _, _, batches in rows for batch in batches) == 442


def test_a_table_that_is_not_there_is_named(pipeline: Pipeline) -> None:
    with pytest.raises(TableMissing, match=r"s3://.*/raw_events/\S+ is no table yet"):
        RawEvents(pipeline.lake, pipeline.kafka.topic)


def test_files_that_are_not_the_tables_are_not_looked_at(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    """A writer that died left them, or the vacuum did not come yet."""
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.archive()
    (archived,) = pipeline.objects()
    folder = (archived.key or "").rpartition("/")[0]
    pipeline.lake.put(f"{folder}/8-10-{64 * '0'}.parquet", b"overlapping", "text/plain")
    assert run(pipeline, warehouse_settings).scored == 10
    with pytest.raises(RebuildRefused, match="schema credit_risk is the live one"):
        run(pipeline, warehouse_settings, into="credit_risk")
