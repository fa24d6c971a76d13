"""An archive of the layout before, as its code wrote it, becomes the table's first files."""

import io
import json
from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from credit_risk_dagster.domain.lake_rows import RAW_EVENTS
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import archive_migration
from credit_risk_dagster.pipelines.archive_migration import adopt_objects
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.pipelines.rebuild import rebuild as again
from credit_risk_dagster.settings import DEFAULT_POLICY, LakeSettings, WarehouseSettings
from resources.lake import Lake
from resources.lake_tables import LakeTable
from tests.data.archive_0_1_0 import FILE, TOPIC
from tests.pipelines.test_rebuild import run as rebuild
from tests.pipelines.test_rebuild import tables
from tests.platform.pipeline import LOG, Pipeline, good_event

COLUMNS = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC")),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
DAY = date(2026, 1, 2)
NIGHT = datetime(2026, 1, 2, tzinfo=UTC)


def put(pipeline: Pipeline, partition: int, offsets: Sequence[int], folder: str = "") -> str:
    """An object as version 0.1.0 put it, under its key."""
    source = pipeline.source()
    rows = [
        {"partition": partition, "offset": at, "timestamp": NIGHT, "key": b"key",
         "value": good_event(at)}
        for at in offsets
    ]  # fmt: skip
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, COLUMNS), content, compression="zstd")
    said = {"cluster-id": source.cluster_id, "topic": source.topic, "epoch": str(source.epoch)}
    said |= {"rows": str(len(rows))} | ({"topic-id": source.topic_id} if source.topic_id else {})
    at = f"{folder or source.topic}/dt={DAY}/p{partition}/{offsets[0]}-{offsets[-1]}.parquet"
    key = f"raw_events/{at}"
    pipeline.lake.put(key, content.getvalue(), "application/vnd.apache.parquet", said)
    return key


def drained(pipeline: Pipeline, count: int = 100) -> None:
    for partition in (0, 1):
        pipeline.send([good_event(i) for i in range(count)], partition)
    pipeline.drain()


def test_objects_are_adopted_as_they_are(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    drained(pipeline)
    there = {
        put(pipeline, 0, range(60)),
        put(pipeline, 0, range(60, 80)),
        put(pipeline, 1, range(100)),
    }
    assert pipeline.archive().rows == 20
    assert there < set(pipeline.files())
    assert len(pipeline.offsets()) == len(set(pipeline.offsets())) == 200
    assert pipeline.account().problems == []
    assert pipeline.archive().rows == 0
    snapshot = LakeTable(pipeline.lake, f"raw_events/{pipeline.kafka.topic}", RAW_EVENTS).open()
    assert snapshot
    rows = snapshot.table.to_pyarrow_table(columns=["offset", "epoch", "headers"])
    assert rows.num_rows == 200
    assert rebuild(pipeline, warehouse_settings).scored == 200
    live, again = (tables(warehouse_settings, schema) for schema in ("credit_risk", "rebuilt"))
    assert again["offsets"] == live["offsets"]


def test_what_a_restored_backup_doubled_is_adopted_once(pipeline: Pipeline) -> None:
    drained(pipeline)
    put(pipeline, 0, range(30))
    put(pipeline, 0, range(90))  # cut anew after the restore
    put(pipeline, 0, range(30, 95))
    put(pipeline, 1, range(40))
    put(pipeline, 1, range(20, 70))
    assert pipeline.archive().rows == 5 + 30
    assert len(pipeline.offsets()) == len(set(pipeline.offsets())) == 200
    assert pipeline.account().problems == []


def test_a_folder_beside_the_topics_is_copied(pipeline: Pipeline) -> None:
    drained(pipeline)
    key = put(pipeline, 0, range(100), f"{pipeline.kafka.topic}@0123abcd")
    assert pipeline.archive().rows == 100
    assert key not in pipeline.files()
    assert len(set(pipeline.offsets())) == len(pipeline.offsets()) == 200
    assert pipeline.account().problems == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_adoption_goes_on(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    drained(pipeline)
    for first in range(0, 100, 20):
        put(pipeline, 0, range(first, first + 20))
    whole, commits = LakeTable.commit, []

    def die(*args: Any, **options: Any) -> None:
        commits.append(args)
        if when == "after" or len(commits) < 2:
            whole(*args, **options)
        if len(commits) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive_migration, "_FILES_A_COMMIT", 2)
        patch.setattr(LakeTable, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            pipeline.archive()
    assert pipeline.archive().rows == 100
    assert len(pipeline.offsets()) == len(set(pipeline.offsets())) == 200
    assert pipeline.account().problems == []


def test_what_the_version_before_archived_is_read_by_others(
    lake_settings: LakeSettings, warehouse_settings: WarehouseSettings
) -> None:
    """Of two epochs, over a restored backup: each event once, and as many decisions as events."""
    before = json.loads(FILE.read_text())
    lake = Lake(lake_settings)
    for stored in before["objects"]:
        lake.put(stored["key"], b64decode(stored["content"]), "text/plain", stored["labels"])
    table = LakeTable(lake, f"raw_events/{TOPIC}", RAW_EVENTS)
    assert adopt_objects(table, TOPIC, LOG) > 5
    assert adopt_objects(table, TOPIC, LOG) == 0
    snapshot = table.open()
    assert snapshot
    here = [stored["key"] for stored in before["objects"] if "@" not in stored["key"]]
    assert len({table.key(file.path) for file in snapshot.files()} & set(here)) > 3  # as they are
    rows = snapshot.table.to_pyarrow_dataset()  # noqa: F841 (DuckDB finds it by its name)
    found = duckdb.sql(
        'SELECT epoch, partition, "offset", epoch_ms(timestamp), base64(key), base64(value)'
        " FROM rows ORDER BY 1, 2, 3"
    ).fetchall()
    assert found == [(epoch, *event) for epoch in (0, 1) for event in before["events"]]
    report = again(
        *(warehouse_settings, RawEvents(lake, TOPIC), load_policy(DEFAULT_POLICY)),
        into="again",
        run_id="again",
        log=LOG,
    )
    assert (report.scored + report.rejected, report.gaps) == (len(found), 0)
