"""The upkeep of the lake's tables: few files, the same rows, whoever writes meanwhile."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from credit_risk_dagster.domain.lake_rows import RAW_EVENTS
from credit_risk_dagster.pipelines import archive
from credit_risk_dagster.pipelines.archive_check import verify_lake
from credit_risk_dagster.pipelines.lake_maintenance import Upkeep, maintain, maintain_table
from credit_risk_dagster.settings import LakeSettings
from resources.lake import Lake
from resources.lake_tables import LakeMoved, LakeTable
from resources.postgres.abandoned import AbandonedOffsets
from tests.pipelines.test_archive import assert_complete
from tests.pipelines.test_rebuild import days_ago
from tests.platform.pipeline import Pipeline, good_event
from tests.resources.test_lake_tables import DAY, SOURCE, append, rows

KEEP = timedelta(days=7)
LOG = logging.getLogger("test")


@pytest.fixture
def table(lake_settings: LakeSettings) -> LakeTable:
    """Two partitions of a day; among the files of the first one is of the day before."""
    table = LakeTable(Lake(lake_settings), "raw_events/t", RAW_EVENTS)
    append(table, rows(0, 0, 4))
    append(table, rows(0, 4, 3), before=4)
    append(table, rows(0, 7, 2, -DAY), before=7)
    append(table, rows(0, 9, 5), before=9)
    append(table, rows(0, 14, 5), before=14)
    append(table, rows(1, 0, 2))
    append(table, rows(1, 2, 2), before=2)
    return table


def content(table: LakeTable, at: int | None = None) -> pa.Table:
    snapshot = table.open(at)
    assert snapshot
    days = {file.day for file in snapshot.files()}
    return pa.concat_tables(
        pa.Table.from_batches(table.read(snapshot.files(since=day, until=day)), RAW_EVENTS)
        for day in sorted(days)
    )


def keep_up(table: LakeTable, keep: timedelta = KEEP, **options: Any) -> Upkeep:
    return maintain_table("raw_events", table, keep, target=2**20, log=LOG, **options)


def test_a_days_files_become_few_and_are_the_same_rows(table: LakeTable) -> None:
    before, version = content(table), table.open()
    assert version
    done = keep_up(table)
    assert (done.before, done.merged, done.merges, done.refused) == (8, 7, 2, 0)
    snapshot = table.open()
    assert snapshot
    assert content(table).equals(before)
    assert snapshot.progress(SOURCE, [0, 1]) == {0: 19, 1: 4}
    assert len(snapshot.files()) == done.files == 3
    for file in snapshot.files():
        with table.fetched(file):  # each name has the checksum
            assert file.sha256
            assert file.partitions
            assert file.offsets
    # Whoever reads an older version still can, and nothing is left to do.
    assert content(table, version.version).equals(before)
    again = keep_up(table)
    assert (again.merged, again.vacuumed, again.files) == (0, 0, 3)
    assert [entry.get("run") for entry in table.history()].count("compaction") == 2


def test_what_was_replaced_goes_when_its_time_is_over(table: LakeTable) -> None:
    keep_up(table)
    before = content(table)
    (day, *_) = [file.path.rpartition("/")[0] for file in table.open().files()]  # type: ignore[union-attr]
    table.lake.put(table.key(f"{day}/left-behind.parquet"), b"by a killed run", "text/plain")
    assert keep_up(table).vacuumed == 0
    assert len(table.vacuum(timedelta(0))) == 7 + 1
    assert content(table).equals(before)


def test_larger_files_are_left_and_many_are_merged_again(
    table: LakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "credit_risk_dagster.pipelines.lake_maintenance"
    assert maintain_table("t", table, KEEP, target=100, log=LOG).merged == 0
    before = content(table)
    for first in range(19, 29):
        append(table, rows(0, first, 1), before=first)
    monkeypatch.setattr(f"{module}._FILES_A_MERGE", 3)
    done = keep_up(table)
    assert done.files == 3
    assert content(table).num_rows == before.num_rows + 10


def test_of_two_at_once_one_is_refused_and_nothing_is_lost(table: LakeTable) -> None:
    before = content(table)
    with ThreadPoolExecutor(2) as pool:
        done = [run.result() for run in [pool.submit(keep_up, table) for _ in range(2)]]
    assert sum(run.merges for run in done) >= 2
    assert content(table).equals(before)
    assert keep_up(table).files == 3


def test_a_commit_of_which_the_answer_was_lost_is_none_that_was_refused(
    table: LakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, commit = content(table), LakeTable.commit

    def unheard(*args: Any, **options: Any) -> None:
        commit(*args, **options)
        raise LakeMoved("tried again")

    monkeypatch.setattr(LakeTable, "commit", unheard)
    assert keep_up(table).merges == 2
    assert content(table).equals(before)


def test_a_damaged_file_stops_no_other(table: LakeTable) -> None:
    snapshot = table.open()
    assert snapshot
    broken = next(file for file in snapshot.files() if file.partitions == (1, 1))
    table.lake.put(table.key(broken.path), b"x" * broken.bytes, "text/plain")
    done = keep_up(table)
    assert done.merges == 1
    assert len(done.damaged) == 1
    assert "were stored: restore it" in done.damaged[0]


def test_the_archive_and_its_mirror_go_on(pipeline: Pipeline) -> None:
    """Two days that take turns."""
    noons = days_ago(2, 1, 2)
    for noon in noons:
        for partition in (0, 1):
            pipeline.send([good_event(i) for i in range(5)], partition, at=noon)
        pipeline.drain()
        pipeline.archive()
    platform = pipeline.warehouse, pipeline.lake, pipeline.kafka.topic, KEEP
    done, decisions = maintain(*platform, log=LOG)
    assert (done.before, done.files, done.rows) == (6, 4, 30)
    assert (decisions.before, decisions.files, decisions.rows) == (3, 1, 30)
    assert_complete(pipeline, {0: 15, 1: 15})
    mirrored = [(o.first_offset, o.next_offset, o.rows) for o in pipeline.objects()]
    assert mirrored == 2 * [(0, 15, 15)]
    assert verify_lake(pipeline.warehouse, pipeline.lake, pipeline.kafka.topic).broken == []
    with ThreadPoolExecutor(2) as pool:
        pipeline.send_and_drain([good_event(i) for i in range(5)])
        archived = pool.submit(pipeline.archive)
        pool.submit(maintain, *platform, log=LOG).result()
        archived.result()
    pipeline.archive()
    assert_complete(pipeline, {0: 20, 1: 15})


def test_what_was_given_up_stays_given_up(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that lacks an event, as one does where the topic was compacted first."""
    whole = archive._rows
    for part in range(3):
        pipeline.send_and_drain([good_event(i) for i in range(5)])
        with monkeypatch.context() as patch:
            if part == 1:
                patch.setattr(archive, "_rows", lambda fetch: whole(fetch).slice(1))
            pipeline.archive()
    with pipeline.warehouse.session() as connection:
        abandoned = AbandonedOffsets(connection)
        (lost,) = abandoned.waiting()
        assert (lost.first_offset, lost.next_offset, lost.events) == (5, 10, 1)
        abandoned.abandon(lost.source_id, [lost.range], "Ada", "compacted")
    assert pipeline.account().problems == []
    maintain(pipeline.warehouse, pipeline.lake, pipeline.kafka.topic, KEEP, log=LOG)
    assert len(pipeline.files("decisions")) == 1
    assert pipeline.account().problems == []
