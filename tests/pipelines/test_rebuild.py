"""The rebuild from the archive, compared with the live tables row by row."""

import logging
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.loans import builtin_loans, endless
from credit_risk_dagster.pipelines.rebuild import RebuildRefused, RebuildReport, rebuild
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.lake import Lake
from resources.postgres.connection import Warehouse, fetch_all
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
    policy: Path = DEFAULT_POLICY,
    **period: Any,
) -> RebuildReport:
    return rebuild(
        settings,
        pipeline.lake,
        load_policy(policy),
        into="rebuilt",
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


def test_a_rebuild_equals_the_live_tables_row_by_row(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    count = 24_000
    loans = [msgspec.json.encode(loan) for loan in islice(endless(builtin_loans()), count)]
    values = [JUNK[i // 40 % len(JUNK)] if i % 40 == 7 else loan for i, loan in enumerate(loans)]
    for partition in range(4):
        pipeline.send(values[partition::4], partition)
    report = pipeline.drain()
    assert report.scored + report.rejected == count
    assert report.rejected >= count // 40
    pipeline.archive(max_object_events=2_500)
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
    pipeline.send_and_drain([good_event(i) for i in range(1_000)])
    pipeline.archive(max_object_events=300)
    get, calls = Lake.get, iter(range(10))

    def die(*args: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return get(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "get", die)
        with pytest.raises(KeyboardInterrupt):
            run(pipeline, warehouse_settings)
    assert run(pipeline, warehouse_settings).scored in (400, 700)
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
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    pipeline.archive()
    for days_ago, first in ((2, 0), (1, 5)):
        pipeline.query(
            "UPDATE archive_objects SET dt = %(dt)s WHERE first_offset = %(first)s RETURNING 1",
            dt=datetime.now(UTC).date() - timedelta(days=days_ago),
            first=first,
        )
        pipeline.send_and_drain([good_event(i) for i in range(5)])
        pipeline.archive()
    days = [o.dt or date.min for o in pipeline.objects()]
    assert days == sorted(set(days))
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
    for partition in range(4):
        pipeline.send([good_event(i) for i in range(900)], partition)
    pipeline.drain()
    pipeline.archive(max_object_events=300)
    days = [date(2026, 11, day) for day in (1, 2, 3)]
    for day, first in zip(days, (0, 300, 600), strict=True):
        pipeline.query(
            "UPDATE archive_objects SET dt = %(day)s WHERE first_offset = %(first)s RETURNING 1",
            day=day,
            first=first,
        )
    command = [Path(sys.executable).with_name("credit-risk"), "rebuild", "--from-archive"]
    running = [
        subprocess.Popen(
            [*command, "--into", "rebuilt", f"--since={day}", f"--until={day}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for day in reversed(days)
    ]
    assert all("1,200 scored" in rebuilt.communicate()[0] for rebuilt in running)
    assert tables(warehouse_settings, "rebuilt") == tables(warehouse_settings, "credit_risk")


def test_a_lost_warehouse_is_rebuilt_from_the_bucket_and_goes_on(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    values: list[bytes | None] = [good_event(i) for i in range(500)]
    for partition in range(4):
        pipeline.send_and_drain([*values, *JUNK], partition)
    pipeline.archive(max_object_events=200)
    pipeline.lake.put("raw_events/notes.txt", b"not the archive's", "text/plain")
    lost = tables(warehouse_settings, "credit_risk")
    with pipeline.warehouse.connect() as connection:
        connection.execute("DROP SCHEMA credit_risk CASCADE")
    assert run(pipeline, warehouse_settings, from_bucket=True).scored == 2_000
    assert tables(warehouse_settings, "rebuilt") == lost
    # The drain and the archive go on where the lost schema's ended, in the same folder.
    pipeline.warehouse = Warehouse(warehouse_settings.model_copy(update={"db_schema": "rebuilt"}))
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    assert pipeline.archive().rows == 10
    assert {(o.key or "").split("/")[1] for o in pipeline.objects()} == {pipeline.kafka.topic}
    assert pipeline.account().problems == []
    assert pipeline.unreconciled() == 0
    assert len(pipeline.stored()["scored_applications"]) == 2_010


def test_objects_that_are_not_the_tables_are_not_looked_at(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    """A writer that died left them, or the vacuum did not come yet."""
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.archive()
    (archived,) = pipeline.objects()
    folder = (archived.key or "").rpartition("/")[0]
    pipeline.lake.put(f"{folder}/8-10-{64 * '0'}.parquet", b"overlapping", "text/plain")
    assert run(pipeline, warehouse_settings, from_bucket=True).scored == 10


def test_the_live_schema_is_refused(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    with pytest.raises(RebuildRefused, match="schema credit_risk is the live one"):
        rebuild(
            warehouse_settings,
            pipeline.lake,
            load_policy(DEFAULT_POLICY),
            into="credit_risk",
            run_id="rebuild",
            log=logging.getLogger("test"),
        )
