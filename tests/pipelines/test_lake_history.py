"""The lake's tables, read by others and as they were."""

from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable

from credit_risk_dagster.pipelines.lake_history import (
    QueryRefused,
    RawEvents,
    TableMissing,
    ask,
    copied,
    tables,
    there,
)
from credit_risk_dagster.settings import LakeSettings
from resources.lake import Lake, LakeRefused
from tests.resources.test_lake_tables import DAY, append, rows

TOPIC = "applications"


@pytest.fixture
def lake(lake_settings: LakeSettings) -> Lake:
    """Two commits: four days of partition 0, then three events of partition 1."""
    found = Lake(lake_settings)
    table = tables(found, TOPIC)["raw_events"]
    append(table, rows(0, 0, 16, DAY // 4))
    append(table, rows(1, 5, 3))
    return found


def test_a_query_is_answered_in_its_order(lake: Lake) -> None:
    sql = "SELECT day, count(*) AS n FROM raw_events GROUP BY day ORDER BY day DESC;"
    columns, found, more = ask(lake, TOPIC, sql)
    assert (columns, more) == (["day", "n"], False)
    assert [n for _, n in found] == [2, 4, 4, 4, 5]
    assert found == sorted(found, reverse=True)
    assert isinstance(found[0][0], date)
    _, found, more = ask(lake, TOPIC, 'SELECT value FROM raw_events ORDER BY "offset"', limit=2)
    assert (found, more) == ([("value 0",), ("value 1",)], True)
    assert ask(lake, TOPIC, "SELECT count(*) FROM raw_events", at=1)[1] == [(16,)]


def test_a_version_is_one_tables(lake: Lake) -> None:
    assert [name for name, _, _ in there(lake, TOPIC, 1)] == ["raw_events"]
    tables(lake, TOPIC)["decisions"].create()
    both = 'SELECT count(*) FROM raw_events JOIN decisions USING (source, partition, "offset")'
    for asked in (lambda: ask(lake, TOPIC, both, 1), lambda: there(lake, TOPIC, 1)):
        with pytest.raises(QueryRefused, match="versions of their own: give a time"):
            asked()
    now = datetime.now(UTC)
    assert ask(lake, TOPIC, both, now)[1] == [(0,)]
    assert len(there(lake, TOPIC, now)) == 2


REFUSED = {
    "SELECT nothing FROM raw_events": "No field named nothing",
    "SELECT * FROM elsewhere": "elsewhere",
    "": "one SELECT, over raw_events",
    "DROP TABLE raw_events": "one SELECT",
    "COPY (SELECT 1) TO '{file}'": "one SELECT",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'": "one SELECT",
    "SELECT 1; COPY (SELECT 1) TO '{file}'": "one SELECT",
    "SELECT 1) AS a; COPY (SELECT 1) TO '{file}'; --": "one SELECT",
    "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'": "one SELECT",
}


def test_what_is_no_query_is_refused_in_a_line(lake: Lake, tmp_path: Path) -> None:
    for sql, said in REFUSED.items():
        with pytest.raises(QueryRefused, match=said) as refused:
            ask(lake, TOPIC, sql.format(file=tmp_path / "written.csv"))
        assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_days_and_versions(lake: Lake) -> None:
    raw = RawEvents(lake, TOPIC)
    found = [(day, sum(map(len, batches))) for day, _, batches in raw.days()]
    assert [events for _, events in found] == [5, 4, 4, 4, 2]
    second, third = found[1][0], found[2][0]
    some = RawEvents(lake, TOPIC).days(second, third)
    assert [day for day, _, _ in some] == [second, third]
    (source,) = raw.sources()
    assert raw.progress(source, [0, 1, 2]) == {0: 16, 1: 8}
    before = RawEvents(lake, TOPIC, raw.version - 1)
    assert before.progress(source, [0, 1]) == {0: 16}
    now = datetime.now(UTC)
    assert RawEvents(lake, TOPIC, now).version == raw.version
    with pytest.raises(LakeRefused, match="version"):
        RawEvents(lake, TOPIC, raw.version + 1)
    with pytest.raises(TableMissing, match="no table yet"):
        RawEvents(lake, "another")


def test_a_copy_is_a_table_and_duckdb_reads_both(lake: Lake, tmp_path: Path) -> None:
    ((name, table, snapshot),) = there(lake, TOPIC)
    append(table, rows(2, 0, 1))  # came later, and is not in the copy
    assert name == "raw_events"
    files = list(copied(table, snapshot, tmp_path))
    assert len(files) == len(snapshot.files()) + snapshot.version + 1
    copy = DeltaTable(tmp_path / table.root)
    assert copy.version() == snapshot.version
    for delta in (copy, snapshot.table):  # on the disk, and on S3
        events = delta.to_pyarrow_dataset()  # noqa: F841 (DuckDB finds it by its name)
        counted = duckdb.sql('SELECT count(*), sum("offset") FROM events WHERE partition = 0')
        assert counted.fetchall() == [(16, 120)]
