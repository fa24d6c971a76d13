"""The archive, against a real broker, a real Postgres and S3 over HTTP."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from pydantic import SecretStr

from credit_risk_dagster.pipelines.archive_check import Verification, verify_lake
from credit_risk_dagster.pipelines.archive_source import LakeAhead
from credit_risk_dagster.settings import LakeSettings, WarehouseSettings
from infra.embedded.servers import S3, Postgres
from resources.kafka.errors import TopicReplaced
from resources.kafka.topics import reset_topic
from resources.kafka.watch import TopicState
from resources.lake import Lake, LakeRefused, LakeUnavailable
from resources.postgres.connection import Warehouse
from resources.postgres.micro_batch import Ledger
from resources.postgres.migrate import migrate
from resources.postgres.sources import Sources
from tests.platform.killed import keep_up
from tests.platform.pipeline import Pipeline, good_event, send_at

MIB = 2**20


def coordinates(per_partition: dict[int, int]) -> list[tuple[int, int]]:
    return [(p, offset) for p, count in per_partition.items() for offset in range(count)]


def assert_complete(pipeline: Pipeline, per_partition: dict[int, int]) -> None:
    """Every offset is on S3 once in each table, nothing else is, and the books say so."""
    assert pipeline.offsets() == pipeline.offsets("decisions") == coordinates(per_partition)
    recorded = {o.key: o.bytes or 0 for o in pipeline.objects() if o.key}
    there, files = pipeline.lake.sizes(""), pipeline.files()
    assert set(recorded) <= set(files)
    assert sum(recorded.values()) == sum(there[key] for key in files)
    account = pipeline.account()
    assert account.problems == []
    assert sum(p["archived"] for p in account.partitions) == sum(per_partition.values())


def test_exact_bytes_of_everything_that_was_committed(pipeline: Pipeline) -> None:
    values: list[bytes | None] = [good_event(1), b"\x00\xffjunk", None, b"", b"{}"]
    pipeline.send_and_drain(values, 1)
    pipeline.send(values, 2)  # not committed
    report = pipeline.archive()
    assert (report.rows, len(report.objects), report.lost) == (5, 1, [])
    rows = pipeline.rows()
    assert [row["value"] for row in rows] == values
    assert {row["key"] for row in rows} == {b"key"}
    assert [(row["partition"], row["offset"]) for row in rows] == [(1, i) for i in range(5)]
    stored = pipeline.query(
        'SELECT recorded_at FROM scored_applications WHERE partition = 1 AND "offset" = 0'
    )
    assert rows[0]["timestamp"] == stored[0]["recorded_at"]
    today = datetime.now(UTC).date()
    (archived,) = pipeline.objects()
    assert archived.key
    assert archived.key.startswith(f"raw_events/{pipeline.kafka.topic}/day={today}/")
    assert f"/p1/0-4-{archived.sha256}.parquet" in archived.key


def test_the_next_run_continues(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.archive()
    assert pipeline.archive().objects == []
    pipeline.send_and_drain([good_event(i) for i in range(7)])
    assert pipeline.archive().rows == 7
    assert [(o.first_offset, o.next_offset) for o in pipeline.objects()] == [(0, 10), (10, 17)]
    assert_complete(pipeline, {0: 17})


def test_objects_are_as_large_as_the_limits_allow(pipeline: Pipeline) -> None:
    """Whether values or headers are large."""
    pipeline.send_and_drain([good_event(i) for i in range(1_000)])
    pipeline.archive(max_object_events=300)
    assert [o.rows for o in pipeline.objects()] == [300, 300, 300, 100]
    noise = random.Random(1)
    large = [noise.randbytes(100_000) for _ in range(60)]
    pipeline.send(large, 1)
    producer = KafkaProducer(**pipeline.kafka.client_options())
    for content in large:
        producer.send(pipeline.kafka.topic, b"{}", partition=2, headers=[("trace", content)])
    producer.close()
    pipeline.drain()
    pipeline.archive(max_object_bytes=2 * MIB)
    for partition in (1, 2):
        sizes = [o.bytes or 0 for o in pipeline.objects() if o.partition == partition]
        assert max(sizes) <= 2 * MIB
        assert min(sizes[:-1]) > MIB
    assert_complete(pipeline, {0: 1_000, 1: 60, 2: 60})


def test_a_day_begins_a_new_object_and_a_late_event_does_not(pipeline: Pipeline) -> None:
    day = 86_400_000
    producer = KafkaProducer(**pipeline.kafka.client_options())
    for offset_ms in (0, 1, day, 2, day + 1, 3 * day):
        producer.send(
            pipeline.kafka.topic,
            good_event(1),
            partition=0,
            timestamp_ms=1_700_000_000_000 + offset_ms,
        )
        producer.flush()
    producer.close()
    pipeline.drain()
    pipeline.archive()
    assert [(str(o.dt), o.rows) for o in pipeline.objects()] == [
        ("2023-11-14", 2),
        ("2023-11-15", 3),
        ("2023-11-17", 1),
    ]
    assert_complete(pipeline, {0: 6})


def test_sources_with_the_same_offsets_are_kept_apart(pipeline: Pipeline) -> None:
    """A topic that was started over has the same topic, partitions, offsets and days."""
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    pipeline.archive()
    with pipeline.warehouse.session() as connection:
        Sources(connection).new_epoch(pipeline.broker.inspect())
    pipeline.drain()
    assert pipeline.archive().rows == 5
    first, second = (o.key or "" for o in pipeline.objects())
    assert first.split("/p0/")[0] != second.split("/p0/")[0]
    assert first.split("/p0/")[1] == second.split("/p0/")[1]
    assert set(pipeline.files()) == {first, second}
    assert pipeline.account().problems == []
    pipeline.send_and_drain([good_event(5)])
    assert pipeline.archive().rows == 1


def test_two_runs_at_once_share_the_work(pipeline: Pipeline) -> None:
    for partition in range(4):
        pipeline.send([good_event(i) for i in range(400)], partition)
    pipeline.drain()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(pipeline.archive, max_object_events=200) for _ in range(2)]
        reports = [run.result() for run in runs]
    assert sum(report.rows for report in reports) == 1_600
    assert_complete(pipeline, dict.fromkeys(range(4), 400))


def test_a_restored_backup_and_a_lost_warehouse_double_nothing(
    pipeline: Pipeline,
    postgres: Postgres,
    warehouse_settings: WarehouseSettings,
    database_url: str,
    tmp_path: Path,
) -> None:
    """600 events in three runs; Postgres is then last night's, and then nothing at all."""
    url = warehouse_settings.database_url.get_secret_value()
    dump = str(tmp_path / "dump")
    for part in range(3):
        pipeline.send_and_drain([good_event(i) for i in range(200)])
        pipeline.archive()
        if part == 0:
            postgres.run_client("pg_dump", "--format=custom", f"--file={dump}", url)
    postgres.run_client("pg_restore", "--exit-on-error", f"--dbname={database_url}", dump)
    settings = WarehouseSettings(DATABASE_URL=SecretStr(database_url))
    again = replace(pipeline, warehouse=Warehouse(settings))
    assert again.archive().rows == 0  # before the drain is where the table is
    again.drain()
    assert again.archive().rows == 0
    assert_complete(again, {0: 600})
    again.send_and_drain([good_event(i) for i in range(100)])
    assert again.archive().rows == 100
    assert_complete(again, {0: 700})
    migrate(settings.model_copy(update={"db_schema": "afresh"}))
    afresh = replace(
        pipeline, warehouse=Warehouse(settings.model_copy(update={"db_schema": "afresh"}))
    )
    afresh.drain()
    assert afresh.archive().rows == 0
    assert_complete(afresh, {0: 700})


def test_a_warehouse_that_lags_behind_its_epochs_is_told(pipeline: Pipeline) -> None:
    """A table with a later epoch than Postgres knows, and nothing to tell which topic that was."""
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    pipeline.archive()
    with pipeline.warehouse.session() as connection:
        Sources(connection).new_epoch(pipeline.broker.inspect())
    pipeline.drain()
    pipeline.archive()
    with pipeline.warehouse.session() as connection:
        for table in ("archive_objects", "lake_progress", "stream_offsets"):
            connection.execute(f"DELETE FROM {table} WHERE source_id = 2".encode())
        connection.execute("DELETE FROM sources WHERE source_id = 2")
    same = pipeline.broker.inspect().topic_id
    if same:
        assert pipeline.archive().rows == 0
    else:
        with pytest.raises(LakeAhead, match=r"epoch 1 of topic .* restored to before a new epoch"):
            pipeline.archive()
    assert len(pipeline.offsets()) == 10


@pytest.mark.parametrize("ids", [True, False])  # of topics, which brokers before 2.8 give none
def test_a_lost_warehouse_uses_no_number_of_other_events(pipeline: Pipeline, ids: bool) -> None:
    def drained(count: int) -> None:
        pipeline.send_and_drain([good_event(i) for i in range(count)])
        if not ids:
            pipeline.query("UPDATE sources SET topic_id = NULL RETURNING 1")

    def lose() -> None:
        with pipeline.warehouse.session() as connection:
            connection.execute(
                "TRUNCATE sources, scored_applications, rejected_events RESTART IDENTITY CASCADE"
            )

    drained(5)
    pipeline.archive()
    lose()
    drained(2)
    assert pipeline.archive().rows == 2  # it is the topic that the table has
    assert_complete(pipeline, {0: 7})
    reset_topic(pipeline.kafka)
    lose()
    drained(9)
    assert pipeline.archive().rows == pipeline.archive().decisions.rows + 9 == 9
    assert pipeline.offsets() == sorted(2 * [(0, at) for at in range(7)] + [(0, 7), (0, 8)])
    assert pipeline.source().epoch == 1
    assert pipeline.account().problems == []
    keep_up(pipeline)
    assert pipeline.archive().rows == 0


def test_times_that_can_be_none_stop_nothing(pipeline: Pipeline) -> None:
    """Nanoseconds, negative ones, and those beyond Python's dates."""
    moments = [1_700_000_000_000, 1_700_000_000_000_000_000, 253_402_300_800_000, 4_000_000_000_000]
    send_at(pipeline.kafka, [(good_event(i), at) for i, at in enumerate(moments)])
    pipeline.drain()
    assert pipeline.archive().rows == 4
    days = {str(o.dt) for o in pipeline.objects()}
    assert days == {"2023-11-14", str(datetime.now(UTC).date())}
    assert [row["timestamp_ms"] for row in pipeline.rows()] == moments
    assert_complete(pipeline, {0: 4})


def test_headers_and_clocks_are_kept(pipeline: Pipeline) -> None:
    producer = KafkaProducer(**pipeline.kafka.client_options())
    headers = [("trace", b"\x00"), ("trace", b"")]
    producer.send(pipeline.kafka.topic, good_event(1), partition=0, headers=headers).get(10)
    producer.close()
    pipeline.drain()
    pipeline.archive()
    (row,) = pipeline.rows()
    assert [(h["key"], h["value"]) for h in row["headers"]] == headers
    assert row["timestamp_type"] == "CreateTime"
    assert row["timestamp"].timestamp() * 1000 == pytest.approx(row["timestamp_ms"])


def test_events_that_the_broker_lost_first_are_counted_and_fail_the_check(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded broker has no retention, so its answer about the beginning is moved."""
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    state = pipeline.broker.inspect()
    moved = TopicState(state.cluster_id, state.topic, state.topic_id, {**state.offsets, 0: (4, 10)})
    monkeypatch.setattr(pipeline.broker, "inspect", lambda *_: moved)
    report = pipeline.archive()
    assert [(gone.first, gone.next, lost) for gone, lost in report.lost] == [(0, 4, 4)]
    assert pipeline.offsets() == [(0, offset) for offset in range(4, 10)]
    (problem,) = pipeline.account().problems
    assert "4 committed events had left the broker before they were archived" in problem


def test_a_topic_that_is_created_again_under_the_run_is_not_archived_as_the_one_before(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the run saw which topic it is, and before it reads, and by then it has as many."""
    pipeline.send_and_drain([good_event(i) for i in range(10)])

    def meanwhile(*_: Any) -> None:
        reset_topic(pipeline.kafka)
        pipeline.send([b"another"] * 20)

    monkeypatch.setattr("credit_risk_dagster.pipelines.archive.adopt_objects", meanwhile)
    with pytest.raises(TopicReplaced, match="changed under the run"):
        pipeline.archive()
    assert pipeline.rows() == []


def test_offsets_that_are_gaps_are_not_lost(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send([good_event(i) for i in range(10)])
    state = pipeline.broker.inspect()
    with pipeline.warehouse.session() as connection:
        source = Sources(connection).register(state)
        Ledger(connection).start_partitions(source.source_id, {0: 0})
    moved = TopicState(state.cluster_id, state.topic, state.topic_id, {**state.offsets, 0: (4, 10)})
    monkeypatch.setattr(pipeline.broker, "inspect", lambda *_: moved)
    pipeline.drain()
    assert pipeline.archive().lost == []
    assert pipeline.account().problems == []
    assert [(o.first_offset, o.next_offset, o.rows) for o in pipeline.objects()] == [
        (0, 4, 0),
        (4, 10, 6),
    ]


@pytest.fixture
def in_three_files(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Fifteen events in three files, and as many decisions in three others."""
    where = "credit_risk_dagster.pipelines.archive_decisions"
    monkeypatch.setattr(f"{where}._OFFSETS_AT_ONCE", 5)
    monkeypatch.setattr(f"{where}._BYTES_A_COMMIT", 1)
    pipeline.send_and_drain([good_event(i) for i in range(15)])
    pipeline.archive(max_object_events=5)
    return pipeline


def test_the_check_finds_missing_and_resized_files_of_both_tables(in_three_files: Pipeline) -> None:
    pipeline = in_three_files
    missing, resized, changed = [], [], []
    for table in ("raw_events", "decisions"):
        first, second, third = pipeline.files(table)
        whole = pipeline.lake.sizes(third)[third]
        pipeline.lake.delete(first)
        pipeline.lake.put(second, b"something else", "text/plain")
        pipeline.lake.put(third, b"x" * whole, "text/plain")
        missing.append(first)
        resized.append(second)
        changed.append(f"{third} has {whole} bytes with SHA-256")
    account = pipeline.account()
    assert (account.missing, account.resized) == (missing, resized)
    # What is wrong is read first, day by day, and named.
    for room in (None, 10**6):
        broken = " ".join(wrongs := verify(pipeline, room).broken)
        assert len(wrongs) == 6
        assert all(said in broken for said in (*missing, *resized, *changed))


def test_misplaced_ranges_are_found(in_three_files: Pipeline) -> None:
    in_three_files.query("DELETE FROM archive_objects WHERE first_offset = 5 RETURNING 1")
    assert any("holes or overlaps" in problem for problem in in_three_files.account().problems)


def verify(pipeline: Pipeline, bytes_a_day: int | None = None) -> Verification:
    return verify_lake(
        pipeline.warehouse, pipeline.lake, pipeline.kafka.topic, bytes_a_day=bytes_a_day
    )


def test_a_day_reads_so_much_and_the_longest_ago_first(in_three_files: Pipeline) -> None:
    pipeline = in_three_files

    def days_pass() -> None:
        pipeline.query(
            "UPDATE lake_verifications SET verified_at = verified_at - interval '1 day' RETURNING 1"
        )

    def seen() -> list[str]:
        rows = pipeline.query("SELECT key FROM lake_verifications ORDER BY verified_at")
        return [row["key"] for row in rows]

    there = {*pipeline.files(), *pipeline.files("decisions")}
    total = sum(size for key, size in pipeline.lake.sizes("").items() if key in there)
    half = total // 2
    first = verify(pipeline, half)
    assert 0 < first.bytes <= half
    assert (first.files + first.left, first.broken) == (6, [])
    assert verify(pipeline, half).files in (0, 1)  # the day has had its bytes
    assert verify(pipeline, 0).files == 0
    while len(seen()) < 6:
        days_pass()
        verify(pipeline, half)
    assert set(seen()) == there
    days_pass()
    before = seen()
    assert verify(pipeline, 1).files == 1  # one at least
    assert seen() == before[1:] + before[:1]
    pipeline.query("INSERT INTO lake_verifications SELECT key || '0', 1 FROM lake_verifications"
                   " RETURNING 1")  # fmt: skip
    verify(pipeline)
    assert set(seen()) == there


# --- what S3 can answer ---------------------------------------------------------------------------


def test_a_missing_bucket_is_named_and_created_only_when_asked(
    pipeline: Pipeline, lake_settings: LakeSettings
) -> None:
    pipeline.send_and_drain([good_event(1)])
    there = pipeline.lake
    settings = lake_settings.model_copy(update={"bucket": "nowhere-yet"})
    pipeline.lake = Lake(settings)
    with pytest.raises(LakeRefused, match=r"bucket nowhere-yet at http.*404.*S3_CREATE"):
        pipeline.archive()
    pipeline.lake = Lake(settings.model_copy(update={"create_bucket": True}))
    assert pipeline.archive().rows == 1
    assert_complete(pipeline, {0: 1})
    assert there.sizes("") == {}


def test_wrong_credentials_are_named(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3(environment={"INITIAL_NO_AUTH_ACTION_COUNT": "1"}) as strict:
        for name, value in strict.variables().items():
            monkeypatch.setenv(name, value)
        lake = Lake(LakeSettings(AWS_ENDPOINT_URL_S3=strict.endpoint_url))
        with pytest.raises(LakeRefused, match=r"storing k was refused, (InvalidAccessKeyId|403)"):
            lake.put("k", b"v", "text/plain")


def test_no_credentials_are_named(
    lake_settings: LakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(LakeRefused, match=r"needs credentials.*AWS_ACCESS_KEY_ID"):
        Lake(lake_settings).put("k", b"v", "text/plain")


def test_an_endpoint_that_is_down_is_named_and_archiving_resumes(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    with S3() as server:
        for name, value in server.variables().items():
            monkeypatch.setenv(name, value)
        pipeline.lake = Lake(
            LakeSettings(AWS_ENDPOINT_URL_S3=server.endpoint_url, S3_MAX_ATTEMPTS=2)
        )
        server.kill()
        with pytest.raises(LakeUnavailable, match=r"bucket credit-risk at http\S+ does not answer"):
            pipeline.archive()
        server.start()
        pipeline.send_and_drain([good_event(i) for i in range(10)])
        assert pipeline.archive().rows == 20
        assert_complete(pipeline, {0: 20})


def test_encryption_is_asked_for(lake_settings: LakeSettings) -> None:
    lake = Lake(lake_settings.model_copy(update={"encryption": "aws:kms", "kms_key_id": "my-key"}))
    lake.put("k", b"v", "text/plain")
    answer = lake._client.head_object(Bucket=lake_settings.bucket, Key="k")
    assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == ("aws:kms", "my-key")
