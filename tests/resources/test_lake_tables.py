"""A table of the lake, on S3 over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from credit_risk_dagster.domain.lake_rows import RAW_EVENTS, SourceKey, days_of, raw_rows
from credit_risk_dagster.settings import LakeSettings
from resources.lake import Lake, LakeRefused, LakeUnavailable, ObjectMissing
from resources.lake_tables import LakeDamaged, LakeMoved, LakeTable, application
from resources.parquet_files import DayFiles

SOURCE = SourceKey("cluster.of-ours", None, 0)
DAY = 86_400_000
NOON = 1_700_049_600_000
TODAY = datetime.now(UTC).date()


def rows(partition: int, first: int, count: int, every: int = 0) -> pa.RecordBatch:
    offsets = np.arange(first, first + count)
    times = NOON + every * np.arange(count)
    return raw_rows(
        *(np.full(count, partition, np.int32), offsets, times, [b"key"] * count),
        *([b"value %d" % at for at in offsets], times, np.zeros(count, np.int64)),
        [[("trace", b"\x00"), ("trace", None)], *[None] * (count - 1)],
    )


def append(
    table: LakeTable,
    *batches: pa.RecordBatch,
    before: int | None = None,
    source: SourceKey = SOURCE,
) -> None:
    moved = {}
    with DayFiles(RAW_EVENTS) as files:
        for batch in batches:
            files.add(batch, days_of(batch, "timestamp", TODAY))
            partition, last = batch["partition"][0].as_py(), batch["offset"][-1].as_py()
            moved[application(source, partition)] = (before, last + 1)
        table.commit([table.upload(staged, source) for staged in files.finish()], moved)


@pytest.fixture
def table(lake_settings: LakeSettings) -> LakeTable:
    return LakeTable(Lake(lake_settings), "raw_events/t", RAW_EVENTS)


def test_rows_and_progress_are_one_commit(table: LakeTable) -> None:
    assert table.open() is None
    append(table, rows(0, 0, 10, DAY // 4), rows(1, 5, 3))
    snapshot = table.open()
    assert snapshot
    assert snapshot.progress(SOURCE, [0, 1, 2]) == {0: 10, 1: 8}
    assert snapshot.sources() == [SOURCE]
    days = [(str(file.day), file.rows) for file in snapshot.files(SOURCE)]
    assert days == [("2023-11-15", 5), ("2023-11-16", 4), ("2023-11-17", 4)]
    assert sum(file.rows for file in snapshot.files()) == 13
    found = [
        (row["partition"], row["offset"], row["value"], row["headers"])
        for batch in table.read(snapshot.files(SOURCE))
        for row in batch.to_pylist()
    ]
    assert [row[:2] for row in found] == [
        *((0, i) for i in range(10)),
        *((1, i) for i in (5, 6, 7)),
    ]
    trace = [{"key": "trace", "value": b"\x00"}, {"key": "trace", "value": None}]
    assert found[0][2:] == (b"value 0", trace)
    assert found[1][2:] == (b"value 1", None)
    seen = duckdb.from_arrow(snapshot.table.to_pyarrow_dataset())
    assert seen.aggregate('count(*), count(DISTINCT "offset")').fetchall() == [(13, 10)]


def test_of_two_writers_one_is_refused(table: LakeTable) -> None:
    append(table, rows(0, 0, 10))
    with pytest.raises(LakeMoved):
        append(table, rows(0, 0, 10))
    append(table, rows(0, 10, 10), before=10)
    outcomes: list[str] = []

    def write() -> None:
        try:
            append(table, rows(0, 20, 5), before=20)
            outcomes.append("committed")
        except LakeMoved:
            outcomes.append("refused")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["committed", "refused", "refused", "refused"]
    snapshot = table.open()
    assert snapshot
    assert sum(file.rows for file in snapshot.files()) == 25


def test_the_progress_of_all_partitions_is_one_reading_of_the_log(
    table: LakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a checkpoint and after it, and as of a version before it."""
    for partition in range(6):
        if partition == 4:
            table.checkpoint(timedelta(days=7))
        append(table, rows(partition, 0, 3))
    append(table, rows(0, 3, 3), before=3)
    read, get = [], Lake.get
    monkeypatch.setattr(
        Lake, "get", lambda lake, key, into: read.append(key) or get(lake, key, into)
    )
    for at, checkpoint, entries in (
        (None, 1, 3),
        (table.history(1)[0]["version"] - 1, 1, 2),
        (2, 0, 3),
    ):
        table = LakeTable(table.lake, table.root, table.columns)
        snapshot = table.open(at)
        assert snapshot
        read.clear()
        found = snapshot.progress(SOURCE, range(6))
        names = ("t.parquet", ".json")
        assert [sum(key.endswith(n) for key in read) for n in names] == [checkpoint, entries]
        assert len(read) == 1 + checkpoint + entries
        assert snapshot.transaction("nobody") is None
        one_by_one = {
            p: snapshot.table.transaction_version(application(SOURCE, p)) for p in range(6)
        }
        assert one_by_one == {p: found.get(p) for p in range(6)}


def test_a_log_may_be_cleaned_while_it_is_read(table: LakeTable) -> None:
    """Up to a checkpoint, from which whoever reads on goes on; versions before it are not known."""
    append(table, rows(0, 0, 3))
    slow = LakeTable(table.lake, table.root, table.columns)
    before = slow.open()
    assert before
    assert before.progress(SOURCE, [0]) == {0: 3}
    for first in range(3, 9, 3):
        append(table, rows(0, first, 3), before=first)
    opened = LakeTable(table.lake, table.root, table.columns).open()
    assert opened
    now = opened.version
    append(table, rows(0, 9, 3), before=9)
    table.checkpoint(timedelta(0))
    log = f"{table.root}/_delta_log/"
    entries = [key for key in table.lake.sizes(log) if key.endswith(".json")]
    assert f"{log}{now:020}.json" not in entries
    assert not entries or min(entries) > f"{log}{now:020}.json"
    with pytest.raises(ObjectMissing, match=r"has no object .*_delta_log"):
        opened.progress(SOURCE, [0])
    after = slow.open()
    assert after
    assert after.version > now
    assert after.progress(SOURCE, [0]) == {0: 12}
    for at in (1, datetime.now(UTC) - timedelta(days=1)):
        with pytest.raises(LakeRefused, match=rf"not known as of .* {after.version} to"):
            table.open(at)


def test_versions_and_times(table: LakeTable) -> None:
    before = datetime.now(UTC)
    append(table, rows(0, 0, 10))
    then = datetime.now(UTC)
    append(table, rows(0, 10, 5), before=10)
    for at, count in ((0, 0), (1, 10), (2, 15), (then, 10), (datetime.now(UTC), 15)):
        snapshot = table.open(at)
        assert snapshot
        assert sum(file.rows for file in snapshot.files()) == count
    assert table.open(before) is None
    with pytest.raises(LakeRefused, match=r"raw_events/t is not known as of 7: .* versions 0 to 2"):
        table.open(7)
    assert [entry["version"] for entry in table.history()] == [2, 1, 0]


def test_replaced_files_stay_until_the_vacuum(table: LakeTable) -> None:
    append(table, rows(0, 0, 10))
    append(table, rows(0, 10, 5), before=10)
    snapshot = table.open()
    assert snapshot
    old = snapshot.files()
    with DayFiles(RAW_EVENTS) as files:
        for batch in table.read(old):
            files.add(batch, days_of(batch, "timestamp", TODAY))
        added = [table.upload(staged, SOURCE) for staged in files.finish()]
    table.commit(added, {}, removed=old)
    with pytest.raises(LakeMoved):
        table.commit(added, {}, removed=old)
    now = table.open()
    assert now
    assert [file.rows for file in now.files()] == [15]
    assert now.progress(SOURCE, [0]) == {0: 15}
    assert table.vacuum(timedelta(days=7)) == []
    assert sorted(table.vacuum(timedelta(0))) == sorted(file.path for file in old)
    assert sum(len(batch) for batch in table.read(now.files())) == 15


def test_a_damaged_file_is_named(table: LakeTable) -> None:
    append(table, rows(0, 0, 10))
    snapshot = table.open()
    assert snapshot
    (file,) = snapshot.files()
    table.lake.put(table.key(file.path), b"x" * file.bytes, "text/plain")
    with pytest.raises(LakeDamaged, match=r"were stored: restore it"):
        list(table.read([file]))


def test_a_mebibyte_of_days_is_written_in_order(table: LakeTable) -> None:
    """Row groups are many, partitions come one after the other within them."""
    append(table, rows(0, 0, 60_000), rows(1, 0, 30_000))
    append(table, rows(0, 60_000, 60_000), before=60_000)
    snapshot = table.open()
    assert snapshot
    read = pa.Table.from_batches(table.read(snapshot.files(), ["partition", "offset"]))
    assert read.num_rows == 150_000
    pairs = list(zip(*(read[name].to_pylist() for name in ("partition", "offset")), strict=True))
    assert all(a < b for a, b in pairwise(pairs))


@pytest.mark.parametrize(
    ("millis", "day"),
    [(NOON, date(2023, 11, 15)), (-1, TODAY), (NOON + 50 * 365 * DAY, TODAY)],
)
def test_no_producer_makes_a_day_of_its_own(millis: int, day: date) -> None:
    times = np.array([millis])
    batch = raw_rows(
        *(np.zeros(1, np.int32), np.zeros(1, np.int64), times, [None], [None], times),
        *(np.zeros(1, np.int64), [None]),
    )
    assert days_of(batch, "timestamp", TODAY).tolist() == [day]


@contextmanager
def _careless(status: int) -> Iterator[Lake]:
    """A store that answers every put so."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            said = b"<Error><Code>NotImplemented</Code></Error>" if status != 200 else b""
            self.send_response(status)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Lake(LakeSettings(AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "does"), [(200, "replaces an object"), (501, "refuses a put with If-None-Match")]
)
def test_a_store_that_replaces_objects_is_refused(table: LakeTable, status: int, does: str) -> None:
    """Also where a table is, that was brought there."""
    table.create()
    table.lake.require_conditional_puts("k")
    with _careless(status) as lake:
        table.lake.require_conditional_puts = lake.require_conditional_puts  # type: ignore[method-assign]
        with pytest.raises(LakeRefused, match=rf"{does}.*AWS S3"):
            append(table, rows(0, 0, 10))
    assert table.history(1)[0]["version"] == 0


def test_an_endpoint_that_is_down_is_one_line(lake_settings: LakeSettings) -> None:
    down = lake_settings.model_copy(
        update={"endpoint_url": "http://127.0.0.1:9", "max_attempts": 1}
    )
    with pytest.raises(LakeUnavailable, match=r"does not answer") as raised:
        LakeTable(Lake(down), "raw_events/t", RAW_EVENTS).open()
    assert "\n" not in str(raised.value)
