"""The exactly-once drain, against a real broker and a real Postgres."""

import gc
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError
from pydantic import SecretStr

from credit_risk_dagster.pipelines.bounds import Bound, BoundsError
from credit_risk_dagster.pipelines.drain import _end_of_time
from credit_risk_dagster.settings import DrainSettings, KafkaSettings, WarehouseSettings
from infra.embedded.servers import Broker as BrokerServer
from resources.kafka.errors import (
    BrokerUnavailable,
    TopicMissing,
    TopicReplaced,
    UnreadableBatch,
)
from resources.kafka.reader import Fetch, Reader
from resources.kafka.topics import reset_topic
from resources.kafka.watch import Identity, TopicState, Watch
from resources.postgres.connection import NotMigrated, Warehouse, WarehouseUnavailable
from resources.postgres.lanes import LaneBusy, lock_partitions
from resources.postgres.micro_batch import Ledger
from resources.postgres.migrate import migrate
from resources.postgres.migrations import SCHEMA_VERSION
from resources.postgres.sources import Sources
from tests.conftest import create_topic
from tests.platform.far_away import far_away
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until


def coordinates(per_partition: dict[int, int]) -> list[tuple[int, int]]:
    return [(p, offset) for p, count in per_partition.items() for offset in range(count)]


def test_every_event_is_scored_or_rejected_once(pipeline: Pipeline) -> None:
    for partition in range(4):
        pipeline.send([good_event(i) for i in range(50)] + [b"junk", None, b""], partition)
    report = pipeline.drain("run-1")
    assert (report.scored, report.rejected, report.gaps) == (200, 12, 0)
    assert report.ranges == dict.fromkeys(range(4), (0, 53))
    assert report.reasons == {"invalid_json": 4, "tombstone": 4, "empty_value": 4}
    stored = pipeline.stored()
    assert stored["scored_applications"] == coordinates(dict.fromkeys(range(4), 50))
    assert len(stored["rejected_events"]) == 12
    assert pipeline.unreconciled() == 0


def test_a_row_is_what_the_policy_says(pipeline: Pipeline) -> None:
    pipeline.send([good_event(68407277)])
    pipeline.drain("run-1")
    (row,) = pipeline.query(
        "SELECT s.*, p.name, b.run_id FROM scored_applications s"
        " JOIN policies p USING (policy_id) JOIN batches b USING (batch_id)"
    )
    assert row["loan_id"] == "68407277"
    assert (row["dti"], row["int_rate"], row["revol_util"]) == (35.5, 13.56, 81.2)
    assert row["credit_history_years"] == 23.5
    assert (row["dti_band"], row["util_band"], row["rate_band"]) == (
        *("High", "Very High", "Moderate"),
    )
    assert (row["risk_tier"], row["early_warning"]) == ("Watchlist", True)
    assert row["reasons"] == ["DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0"]
    assert (row["name"], row["run_id"]) == ("lendingclub-v2", "run-1")
    assert row["inq_last_6mths"] == 0
    assert row["emp_length_yrs"] is None


def test_a_rejected_event_keeps_its_exact_bytes(pipeline: Pipeline) -> None:
    raw = b'\x00\xff{"not json'
    pipeline.send([raw, None, b" "])
    pipeline.drain()
    rows = pipeline.query('SELECT reason, key, value FROM rejected_events ORDER BY "offset"')
    assert [(r["reason"], r["key"], r["value"]) for r in rows] == [
        ("invalid_json", b"key", raw),
        ("tombstone", b"key", None),
        ("empty_value", b"key", b" "),
    ]


def test_the_next_run_continues_where_the_last_one_committed(pipeline: Pipeline) -> None:
    pipeline.send([good_event(i) for i in range(10)])
    first = pipeline.drain()
    pipeline.send([good_event(i) for i in range(5)])
    second = pipeline.drain()
    third = pipeline.drain()
    assert first.ranges == {0: (0, 10)}
    assert second.ranges == {0: (10, 15)}
    assert (third.ranges, third.ended) == ({}, "no event for 0.3 s")
    assert pipeline.stored()["scored_applications"] == coordinates({0: 15})


def test_a_successor_asks_the_broker_once_before_it_reads(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events wait for it meanwhile."""
    asked = []
    inspect = Reader.inspect

    def counted(reader: Reader, committed: dict[int, int]) -> TopicState:
        asked.append(len(committed))
        return inspect(reader, committed)

    monkeypatch.setattr(Reader, "inspect", counted)
    pipeline.send([good_event(1)])
    pipeline.drain()
    assert asked == [0, 4]  # where new partitions begin, too
    asked.clear()
    pipeline.drain()
    assert asked == [4]


def test_batches_are_bounded_by_events_and_by_bytes(pipeline: Pipeline) -> None:
    pipeline.send([good_event(i) for i in range(100)])
    assert pipeline.drain(max_batch_events=30).batches == 4
    pipeline.send([b"x" * 50_000] * 20)
    assert pipeline.drain(max_batch_bytes=2**16).batches >= 5
    assert pipeline.unreconciled() == 0


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches_are_read(pipeline: Pipeline, codec: str) -> None:
    pipeline.send([good_event(i) for i in range(200)], compression_type=codec)
    assert pipeline.drain().scored == 200
    assert pipeline.unreconciled() == 0


def damaged(_: bytes) -> bytes:
    raise ValueError("damaged")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"codec.snappy": None}, "snappy compression codec not found.* .`make install`"),
        ({"record.default_records.snappy_decode": damaged}, "damaged.*kafka-delete-records.sh"),
    ],
)
def test_a_batch_that_cannot_be_read_is_told_as_such(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any], said: str
) -> None:
    """What came before it is committed; the broker is not blamed, and still answers."""
    pipeline.send([good_event(i) for i in range(10)], partition=2)
    pipeline.send([good_event(i) for i in range(10)], partition=2, compression_type="snappy")
    with monkeypatch.context() as patch:
        for name, value in broken.items():
            patch.setattr(f"kafka.{name}", value)
        for _ in range(2):
            with pytest.raises(UnreadableBatch, match=f"partition 2: .* offset 10 .*{said}"):
                pipeline.drain()
        assert pipeline.stored()["scored_applications"] == [(2, offset) for offset in range(10)]
        assert pipeline.broker.inspect().end(2) == 20
    assert pipeline.drain().ranges == {2: (10, 20)}
    assert pipeline.unreconciled() == 0


def test_session_seconds_zero_is_one_batch(pipeline: Pipeline) -> None:
    pipeline.send([good_event(i) for i in range(25)])
    report = pipeline.drain(session_seconds=0, max_batch_events=10)
    assert (report.batches, report.scored) == (1, 10)


def test_a_run_that_is_asked_to_stop_finishes_its_batch(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives while the third batch is fetched and the second one is committed."""

    class Asked(BaseException):
        """What Dagster raises in a run that is terminated."""

    fetch, fetched = Reader.fetch_and, 0

    def until_asked(reader: Reader, *how: Any) -> tuple[Fetch, Any]:
        nonlocal fetched
        fetched += 1
        if fetched == 3:
            raise Asked
        return fetch(reader, *how)

    pipeline.send([good_event(i) for i in range(25)])
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "fetch_and", until_asked)
        report = pipeline.drain(max_batch_events=10, interrupts=(Asked,))
    assert report.ended == "the run was asked to stop"
    assert report.ranges == {0: (0, 20)}
    assert pipeline.stored()["scored_applications"] == coordinates({0: 20})
    assert pipeline.drain().ranges == {0: (20, 25)}
    assert pipeline.unreconciled() == 0


def test_the_ledger_has_the_counts_timings_and_latency_of_a_batch(pipeline: Pipeline) -> None:
    pipeline.send([good_event(i) for i in range(10)] + [b"junk"])
    report = pipeline.drain("run-7")
    (batch,) = pipeline.query("SELECT * FROM batches")
    assert (batch["scored"], batch["rejected"], batch["watchlist"], batch["low"]) == (10, 1, 10, 0)
    assert batch["reject_reasons"] == {"invalid_json": 1}
    assert (batch["partitions"], batch["first_offsets"], batch["next_offsets"]) == ([0], [0], [11])
    assert sum(batch["latency_buckets"]) == 11
    assert batch["latency_buckets"] == report.latency_buckets
    assert 0 < batch["latency_sum_s"] < 11 * 60
    assert batch["decode_ms"] > 0
    assert batch["score_ms"] > 0
    assert batch["copy_ms"] > 0
    rollup = pipeline.query("SELECT risk_tier, applications, loan_amnt FROM risk_by_minute")
    assert sorted((r["risk_tier"], r["applications"], r["loan_amnt"]) for r in rollup) == [
        ("Rejected", 1, 0.0),
        ("Watchlist", 10, 100_000.0),
    ]


def test_lanes_share_the_partitions(pipeline: Pipeline) -> None:
    for partition in range(4):
        pipeline.send([good_event(i) for i in range(10)], partition)
    reports = [pipeline.drain(lanes=3, lane=lane) for lane in range(3)]
    assert [sorted(report.ranges) for report in reports] == [[0, 3], [1], [2]]
    assert pipeline.unreconciled() == 0
    spare = pipeline.drain(lanes=6, lane=5)
    assert spare.ended == "lane 5 of 6 has no partition"


FIRST = "another run was here first"


def check_two_drains(pipeline: Pipeline) -> None:
    """Two drains at once store every event exactly once."""
    count = 5_000
    pipeline.send([good_event(i) for i in range(count)])
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(pipeline.drain, max_batch_events=200) for _ in range(2)]
        reports = [run.result() for run in runs]
    assert sum(report.scored for report in reports) == count
    assert pipeline.stored()["scored_applications"] == coordinates({0: count})
    assert pipeline.unreconciled() == 0


def test_two_drains_at_once_double_and_lose_nothing(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """The second waits for the first, and then has nothing to do or goes on."""
    check_two_drains(pipeline)
    assert FIRST not in caplog.text  # nothing was done in vain


def test_compare_and_set_alone_is_enough(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the lock, two drains on one partition waste work, and are never wrong."""
    both = threading.Barrier(2)
    monkeypatch.setattr(
        "credit_risk_dagster.pipelines.drain.wait_for_lane", lambda *_: both.wait(30)
    )
    check_two_drains(pipeline)
    assert FIRST in caplog.text  # or this was no race


def test_a_waiting_run_takes_over_when_the_session_ends(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For so long the second one goes on: it has no successor.
    monkeypatch.setattr("credit_risk_dagster.pipelines.drain.HANDOVER_SECONDS", 1.0)
    stop = threading.Event()

    def keep_sending() -> None:
        number = 0
        while not stop.wait(0.02):
            pipeline.send([good_event(number)])
            number += 1

    with ThreadPoolExecutor(3) as pool:
        sending = pool.submit(keep_sending)
        try:
            first = pool.submit(pipeline.drain, session_seconds=2, idle_seconds=30)
            second = pool.submit(pipeline.drain, session_seconds=2, idle_seconds=30)
            done = first.result().ended, second.result().ended
        finally:
            stop.set()
        sending.result()
    assert "the session is over; the next run takes the lane" in done
    pipeline.drain()
    assert pipeline.unreconciled() == 0


def test_a_session_counts_from_when_its_run_stood_in_line(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the sensor does, which asks for its successor: the line gets no longer by handovers."""
    monkeypatch.setattr("credit_risk_dagster.pipelines.drain.HANDOVER_SECONDS", 0.0)
    pipeline.send([good_event(1)])
    with ThreadPoolExecutor(1) as pool:
        with pipeline.warehouse.session("holder") as holder:
            source = Sources(holder).register(pipeline.broker.inspect()).source_id
            lock_partitions(holder, source, range(4), 1)
            began = time.monotonic()
            waiting = pool.submit(pipeline.drain, session_seconds=4, idle_seconds=30)
            wait_until(pipeline.somebody_waits, 20, "a run that waits for the lane")
            time.sleep(max(0.0, began + 3 - time.monotonic()))  # the predecessor's work
        report = waiting.result(30)
    assert (report.ended, report.scored) == ("the session is over", 1)
    assert report.seconds < 2.5


@pytest.mark.parametrize(
    ("waited", "bounds", "left"),
    [(0, [], 600), (200, [], 400), (595, [], 10), (700, [], 10), (700, [Bound(0, 0, 9)], 600)],
)
def test_a_session_that_waited_for_long_has_some_seconds(
    waited: float, bounds: list[Bound], left: float
) -> None:
    settings = DrainSettings(session_seconds=600)
    assert _end_of_time(1_000 - waited, 1_000, settings, bounds) == 1_000 + left


def test_a_session_without_an_end_stays_until_somebody_waits_for_its_lane(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is quiet, and asks the broker little; an event is committed at once; and who waits, be it
    another run or a command, does not wait for the session to end."""
    monkeypatch.setattr("credit_risk_dagster.pipelines.drain._PROGRESS_SECONDS", 0.1)
    asked, ask = [], Identity.asking
    monkeypatch.setattr(Identity, "asking", lambda self: (asked.append(self), ask(self))[1])
    told: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        limits: dict[str, Any] = {"session_seconds": 600, "idle_seconds": None}
        session = pool.submit(
            partial(pipeline.drain, progress=lambda report: told.append(report.scored)), **limits
        )
        wait_until(lambda: pipeline.query("SELECT FROM stream_offsets"), 10, "it has the lane")
        before = len(asked)
        time.sleep(2.5)  # what is measured is how often it looks in that time
        assert len(asked) - before <= 6
        for number in range(2):
            pipeline.send([good_event(number)])
            sent = time.monotonic()
            rows = partial(pipeline.query, "SELECT FROM scored_applications OFFSET %(n)s", n=number)
            wait_until(rows, 5, "it is scored")
            assert time.monotonic() - sent < 2
        assert not session.done()
        assert pipeline.drain("waits").scored == 0
        report = session.result(timeout=30)
    assert report.ended == "another run, or a command, takes the lane"
    assert (report.scored, told[-1:]) == (2, [2])
    assert report.seconds < 60


def test_a_run_that_waits_too_long_says_so(pipeline: Pipeline) -> None:
    pipeline.send([good_event(1)])
    pipeline.drain()
    with pipeline.warehouse.session("holder") as holder:
        (source,) = Sources(holder).all()
        lock_partitions(holder, source.source_id, [0], 1)
        with (
            pipeline.warehouse.session("other") as other,
            pytest.raises(LaneBusy, match=r"another run held partition 0 for more than 0 s"),
        ):
            lock_partitions(other, source.source_id, [0], 0.2)


def test_bounds_limit_what_is_processed(pipeline: Pipeline) -> None:
    for partition in range(2):
        pipeline.send([good_event(i) for i in range(100)], partition)
    report = pipeline.drain(bounds=[Bound(1, 0, 40)])
    assert (report.ranges, report.ended) == ({1: (0, 40)}, "the bounds are reached")
    report = pipeline.drain(bounds=[Bound(1, 0, 60), Bound(0, 0, 10)])
    assert report.ranges == {0: (0, 10), 1: (40, 60)}
    assert pipeline.drain(bounds=[Bound(1, 0, 60)]).ranges == {}
    pipeline.drain()
    assert pipeline.stored()["scored_applications"] == coordinates({0: 100, 1: 100})


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (Bound(0, 5, 10), r"begin at 5, but offsets from 0 on are not processed yet"),
        (Bound(9, 0, 10), r"bounds name partition 9, but \S+ has partitions 0 to 3"),
        (Bound(0, 10, 5), r"end at 5, before they begin at 10"),
    ],
)
def test_bounds_that_would_skip_offsets_are_refused(
    pipeline: Pipeline, bound: Bound, message: str
) -> None:
    pipeline.send([good_event(i) for i in range(20)])
    with pytest.raises(BoundsError, match=message):
        pipeline.drain(bounds=[bound])
    assert pipeline.stored()["scored_applications"] == []


def test_a_broker_that_is_slower_than_the_quiet_is_not_taken_for_quiet(
    warehouse_settings: WarehouseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seek = Reader.seek
    with BrokerServer() as server:
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers, topic="loans")
        pipeline = Pipeline(kafka, Warehouse(warehouse_settings))
        create_topic(kafka)
        pipeline.send([good_event(i) for i in range(12)])

        def seek_and_hang(reader: Reader, *where: Any) -> None:
            seek(reader, *where)
            pid = server.pid or 0
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(1.0, os.kill, (pid, signal.SIGCONT)).start()

        monkeypatch.setattr(Reader, "seek", seek_and_hang)
        report = pipeline.drain(idle_seconds=0.3)
    assert (report.ranges, report.ended) == ({0: (0, 12)}, "no event for 0.3 s")


def test_a_new_cluster_is_a_new_source(warehouse_settings: WarehouseSettings) -> None:
    with BrokerServer() as server:
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers, topic="loans")
        pipeline = Pipeline(kafka, Warehouse(warehouse_settings))
        create_topic(kafka)
        pipeline.send([good_event(i) for i in range(30)])
        pipeline.drain()
        server.kill()
        server.start(str(uuid.uuid4()))
        create_topic(kafka)
        pipeline.send([good_event(i) for i in range(12)])
        report = pipeline.drain()
    assert report.ranges == {0: (0, 12)}
    assert len(pipeline.stored()["scored_applications"]) == 42
    assert len(pipeline.query("SELECT FROM sources")) == 2
    assert pipeline.unreconciled() == 0


def test_a_recreated_topic_stops_the_drain_until_a_new_epoch(
    warehouse_settings: WarehouseSettings,
) -> None:
    with BrokerServer() as server:
        kafka = KafkaSettings(bootstrap_servers=server.bootstrap_servers, topic="loans")
        pipeline = Pipeline(kafka, Warehouse(warehouse_settings))
        create_topic(kafka)
        pipeline.send([good_event(i) for i in range(30)])
        pipeline.drain()
        server.kill()
        server.start()  # the same cluster id; its topics are gone
        with pytest.raises(TopicMissing, match="topic loans does not exist on cluster"):
            pipeline.drain()
        create_topic(kafka)
        pipeline.send([good_event(i) for i in range(12)])
        with pytest.raises(TopicReplaced, match=r"partition 0 committed 30, now ends at 12"):
            pipeline.drain()
        assert len(pipeline.stored()["scored_applications"]) == 30
        # Also when it has grown past the committed offset, which no offset can tell.
        pipeline.send([good_event(i) for i in range(30)])
        with pytest.raises(TopicReplaced, match="new-epoch"):
            pipeline.drain()
        with pipeline.warehouse.session() as connection:
            assert Sources(connection).new_epoch(pipeline.broker.inspect()) == 1
        assert pipeline.drain().ranges == {0: (0, 42)}
    assert len(pipeline.stored()["scored_applications"]) == 72
    assert pipeline.unreconciled() == 0


def test_what_came_before_the_topic_was_created_again_is_not_committed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is asked who it is after the fetch, and its answer is waited for after scoring."""
    poll = Reader._poll

    def then_created_again(reader: Reader, patience: float) -> Any:
        columns = poll(reader, patience)
        reset_topic(pipeline.kafka)
        return columns

    pipeline.send([good_event(1)])
    monkeypatch.setattr(Reader, "_poll", then_created_again)
    with pytest.raises(TopicReplaced, match="changed under the run"):
        pipeline.drain()
    assert pipeline.stored()["scored_applications"] == []


def test_a_topic_that_is_deleted_stays_deleted(pipeline: Pipeline) -> None:
    """A broker may create the topic that a consumer asks it for, as Kafka does by default."""
    admin = KafkaAdminClient(**pipeline.kafka.client_options())
    with closing(admin), pipeline.broker.reader(DrainSettings()) as reader:
        admin.delete_topics([pipeline.kafka.topic])
        reader.seek({0: 0})
        with pytest.raises(TopicMissing):
            reader.fetch(1)
        assert pipeline.kafka.topic not in admin.list_topics()


def test_offsets_of_a_topic_that_is_created_again_are_not_the_ones_before(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Watch._listed

    def meanwhile(*asked: Any) -> dict[TopicPartition, int]:
        monkeypatch.undo()
        reset_topic(pipeline.kafka)
        return listed(*asked)

    monkeypatch.setattr(Watch, "_listed", meanwhile)
    with pytest.raises(TopicReplaced, match="changed under the run"):
        pipeline.broker.inspect()


def test_a_truncated_topic_stops_the_drain(pipeline: Pipeline) -> None:
    """The topic is the same one, and ends before the committed offset."""
    pipeline.send([good_event(i) for i in range(10)])
    pipeline.drain()
    pipeline.query(
        "UPDATE stream_offsets SET next_offset = 25, scored = 25 WHERE partition = 0 RETURNING 1"
    )
    with pytest.raises(TopicReplaced, match=r"partition 0 ends at offset 10.* committed offset 25"):
        pipeline.drain()


def after_retention(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of partition 0, offsets 0 to 9 are committed, and 10 to 16 are gone from the broker. The
    embedded one has no retention, so its answer about the beginning is moved."""
    pipeline.send([good_event(i) for i in range(10)])
    pipeline.drain()
    pipeline.send([good_event(i) for i in range(20)])
    state = pipeline.broker.inspect()
    moved = replace(state, offsets={**state.offsets, 0: (17, 30)})
    monkeypatch.setattr(pipeline.broker, "inspect", lambda *_: moved)


def test_events_that_retention_removed_are_lost_and_said_to_be(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    after_retention(pipeline, monkeypatch)
    report = pipeline.drain("run-2")
    assert (report.ranges, report.gaps, report.lost) == ({0: (17, 30)}, 0, 7)
    assert report.scored == 13
    told = [r for r in caplog.records if r.name == "test" and r.levelname == "WARNING"]
    assert [r.getMessage() for r in told if "lost" in r.getMessage()] == [
        "7 events are lost: the broker removed them before they were read; `credit-risk lost ls` "
        "shows which, and `credit-risk lost acknowledge` says that you know of them"
    ]
    (gone,) = pipeline.query("SELECT * FROM lost_events")
    assert (gone["partition"], gone["first_offset"], gone["next_offset"]) == (0, 10, 17)
    assert (gone["events"], gone["reason"]) == (7, "removed by the broker's retention")
    assert gone["acknowledged_at"] is None
    (batch,) = pipeline.query("SELECT * FROM batches WHERE lost > 0")
    assert (batch["run_id"], batch["lost"], batch["gaps"], batch["scored"]) == ("run-2", 7, 0, 0)
    (progress,) = pipeline.query("SELECT * FROM stream_offsets WHERE next_offset > 0")
    assert (progress["gaps"], progress["lost"], progress["next_offset"]) == (0, 7, 30)
    assert pipeline.unreconciled() == 0
    assert pipeline.drain().lost == 0


def test_lost_events_that_another_run_recorded_first_are_looked_at_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_retention(pipeline, monkeypatch)
    record, raced = Ledger.record_lost, 0

    def second(ledger: Ledger, *args: Any) -> None:
        """The other run is faster by a moment."""
        nonlocal raced
        raced += 1
        if raced == 1:
            with pipeline.warehouse.session() as other:
                record(Ledger(other), *args)
        record(ledger, *args)

    monkeypatch.setattr(Ledger, "record_lost", second)
    report = pipeline.drain()
    assert (raced, report.lost, report.ranges) == (1, 0, {0: (17, 30)})
    assert pipeline.unreconciled() == 0
    assert [g["events"] for g in pipeline.query("SELECT events FROM lost_events")] == [7]


def test_nothing_is_lost_to_another_cluster_at_the_same_address(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the run waits for its lane, the address becomes that of a copy of the cluster, whose
    topic begins later. Its own still has the events between."""
    after_retention(pipeline, monkeypatch)
    there = [pipeline.broker.inspect()]
    monkeypatch.setattr(pipeline.broker, "inspect", lambda *_: there[-1])
    monkeypatch.setattr(
        "credit_risk_dagster.pipelines.drain.wait_for_lane",
        lambda *_: there.append(replace(there[0], cluster_id="a copy")),
    )
    with pytest.raises(TopicReplaced, match=r"changed under the run: .* is now cluster a copy"):
        pipeline.drain()
    assert pipeline.query("SELECT * FROM lost_events") == []
    assert pipeline.stored()["scored_applications"] == coordinates({0: 10})


def test_a_broker_that_is_down_is_named(warehouse_settings: WarehouseSettings) -> None:
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:9", timeout_ms=500)
    pipeline = Pipeline(kafka, Warehouse(warehouse_settings))
    with pytest.raises(BrokerUnavailable, match=r"Kafka broker at 127.0.0.1:9 does not answer"):
        pipeline.drain()


def test_a_database_that_is_down_is_named_without_its_password(
    kafka_settings: KafkaSettings,
) -> None:
    settings = WarehouseSettings(DATABASE_URL="postgresql://me:s3cret@127.0.0.1:9/loans")
    pipeline = Pipeline(kafka_settings, Warehouse(settings))
    with pytest.raises(
        WarehouseUnavailable, match=r"Postgres at 127.0.0.1:9/loans does not answer"
    ) as raised:
        pipeline.drain()
    assert "s3cret" not in str(raised.value)


def test_a_schema_without_tables_asks_for_the_migration(
    kafka_settings: KafkaSettings, warehouse_settings: WarehouseSettings
) -> None:
    empty = warehouse_settings.model_copy(update={"db_schema": "elsewhere"})
    pipeline = Pipeline(kafka_settings, Warehouse(empty))
    with pytest.raises(NotMigrated, match=r"schema elsewhere .*run `credit-risk migrate`"):
        pipeline.drain()
    assert [migrate(empty) for _ in range(2)] == [SCHEMA_VERSION] * 2
    pipeline.send([good_event(1)])
    assert pipeline.drain().scored == 1


def test_the_database_refuses_progress_that_does_not_add_up(pipeline: Pipeline) -> None:
    pipeline.send([good_event(1)])
    pipeline.drain()
    with (
        pipeline.warehouse.connect() as connection,
        pytest.raises(psycopg.errors.CheckViolation, match="every_offset_is_accounted_for"),
    ):
        connection.execute("UPDATE stream_offsets SET next_offset = next_offset + 1")


def test_a_batch_is_four_round_trips_to_postgres(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    trips = {}
    with far_away(warehouse_settings.database_url.get_secret_value()) as there:
        settings = warehouse_settings.model_copy(update={"database_url": SecretStr(there.url)})
        distant = replace(pipeline, warehouse=Warehouse(settings))
        for batches in (2, 12):
            for number in range(batches):  # each on the Watchlist, and with what is rejected
                pipeline.send([good_event(number), b"junk", b"[]"])
            before = there.round_trips
            started = time.monotonic()
            report = distant.drain(max_batch_events=3, poll_interval_ms=1, idle_seconds=0.1)
            # Each second it looks who decides, and who waits for the lane.
            trips[batches] = there.round_trips - before - 2 * (time.monotonic() - started)
            assert (report.batches, report.rejected) == (batches, 2 * batches)
    assert trips[12] - trips[2] <= 10 * 4


def test_a_fetch_leaves_nothing_to_the_garbage_collector(pipeline: Pipeline) -> None:
    """Each asks once more than there is something, and what times out keeps nothing alive: neither
    the records of the batch, nor those of the answer."""
    for _ in range(4):
        pipeline.send([good_event(number) for number in range(50)])
    with pipeline.broker.reader(DrainSettings(poll_interval_ms=50, max_batch_events=70)) as reader:
        reader.seek({0: 0})
        assert reader.fetch(5.0).values
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            assert sum(len(reader.fetch(1.0).values) for _ in range(3)) == 130
            gc.collect()
            # Other threads of the process may have left something, too.
            errors = [found for found in gc.garbage if isinstance(found, KafkaError)]
            lists = [found for found in gc.garbage if isinstance(found, list) and found]
            assert not errors
            assert not [found for found in lists if isinstance(found[0], ConsumerRecord)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


def test_a_batch_is_collected_for_as_long_as_the_one_before_is_waited_for(
    pipeline: Pipeline,
) -> None:
    with pipeline.broker.reader(DrainSettings(poll_interval_ms=1)) as reader:
        reader.seek({0: 0})
        pipeline.send([good_event(1)])
        reader.collect_for(0.2)
        started = time.monotonic()
        assert len(reader.fetch(5.0).values) == 1
        assert time.monotonic() - started >= 0.1  # half of it
