"""Topics and brokers that change while they are read."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg
import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import TopicAlreadyExistsError

from credit_risk_dagster.pipelines.drain import DrainReport
from credit_risk_dagster.pipelines.loans import Row
from credit_risk_dagster.pipelines.producer import DeliveryFailed, produce
from credit_risk_dagster.settings import KafkaSettings, Settings
from resources.kafka.errors import TopicMissing, TopicReplaced
from resources.kafka.publisher import Publisher
from resources.kafka.topics import partitions_of
from resources.postgres.lost import LostEvents
from resources.postgres.metrics import MetricsLedger
from tests.assets_src import test_scoring as scoring
from tests.conftest import create_topic
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.interop.kafka import Kafka
from tests.interop.test_drain import draining, flowing
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until


@contextmanager
def admin(settings: KafkaSettings) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(**settings.client_options())
    try:
        yield client
    finally:
        client.close()


@contextmanager
def at_work(pipeline: Pipeline, idle_seconds: float = 4) -> Iterator[Future[DrainReport]]:
    """A session that has committed something."""
    pipeline.send([good_event(0)])
    with draining(pipeline, idle_seconds=idle_seconds) as session:
        wait_until(lambda: scored(pipeline) or session.done(), 20, "a first commit")
        yield session


def scored(pipeline: Pipeline) -> int:
    (row,) = pipeline.query("SELECT count(*) AS n FROM scored_applications")
    return int(row["n"])


@pytest.mark.parametrize("kafka_settings", [2], indirect=True)
def test_a_live_session_takes_up_new_partitions(
    pipeline: Pipeline, record_property: RecordProperty
) -> None:
    with at_work(pipeline) as session:
        with admin(pipeline.kafka) as client:
            client.create_partitions({pipeline.kafka.topic: 5})
        for partition in range(5):
            pipeline.send([good_event(i) for i in range(10)], partition)
        sent = time.monotonic()
        wait_until(lambda: scored(pipeline) == 51, 7, "the new partitions' events")
        record_property(SENT, "5 partitions, 3 of them new")
        record_property(COMMITTED, f"51, in {time.monotonic() - sent:.1f} s")
        assert sorted(session.result().ranges) == [0, 1, 2, 3, 4]
    assert pipeline.unreconciled() == 0


def test_a_topic_that_is_deleted_and_created_again_under_a_session(pipeline: Pipeline) -> None:
    with at_work(pipeline) as session:
        with admin(pipeline.kafka) as client:
            client.delete_topics([pipeline.kafka.topic])
            while True:
                try:
                    create_topic(pipeline.kafka)
                    break
                except TopicAlreadyExistsError:
                    time.sleep(0.05)
        pipeline.send([good_event(i) for i in range(30)])
        with pytest.raises(
            (TopicReplaced, TopicMissing), match=r"changed under the run|was deleted while"
        ):
            session.result()
    assert scored(pipeline) == 1
    with pytest.raises(TopicReplaced, match="deleted and created again"):
        pipeline.drain()


def test_a_topic_that_is_deleted_under_a_producer_stays_deleted(pipeline: Pipeline) -> None:
    settings = pipeline.kafka.model_copy(update={"timeout_ms": 1_000})

    def until_deleted() -> Iterator[Row]:
        yield {"id": "1"}
        with admin(settings) as client:
            client.delete_topics([settings.topic])
        yield from ({"id": f"{number}"} for number in range(2, 12))

    with pytest.raises(DeliveryFailed):
        produce(settings, until_deleted(), rate=10)
    with pytest.raises(TopicMissing):
        partitions_of(settings)


def test_a_topic_that_is_deleted_under_the_api_is_missing(pipeline: Pipeline) -> None:
    settings = pipeline.kafka.model_copy(update={"timeout_ms": 1_000})
    publisher = Publisher(settings, 10)
    try:
        asyncio.run(publisher.publish(b"1", b"{}"))
        with admin(settings) as client:
            client.delete_topics([settings.topic])
        with pytest.raises(TopicMissing):
            asyncio.run(publisher.publish(b"2", b"{}"))
        with pytest.raises(TopicMissing):
            partitions_of(settings)
    finally:
        publisher.close()


def test_a_topic_that_is_deleted_under_a_session(pipeline: Pipeline) -> None:
    with at_work(pipeline) as session:
        with admin(pipeline.kafka) as client:
            client.delete_topics([pipeline.kafka.topic])
        with pytest.raises(TopicMissing, match="was deleted while it was read"):
            session.result()


def test_records_that_were_deleted_before_they_were_read_are_lost(
    pipeline: Pipeline, record_property: RecordProperty
) -> None:
    pipeline.send([good_event(i) for i in range(10)])
    pipeline.drain()
    pipeline.send([good_event(i) for i in range(20)])
    with admin(pipeline.kafka) as client:
        client.delete_records({TopicPartition(pipeline.kafka.topic, 0): 17})
    report = pipeline.drain()
    record_property(SENT, "30, 7 of them deleted")
    record_property(COMMITTED, f"{10 + report.scored}, {report.lost} lost")
    assert (report.scored, report.lost, report.ranges) == (13, 7, {0: (17, 30)})
    assert pipeline.unreconciled() == 0


BY_TIME = {"retention.ms": "1000", "segment.ms": "500"}
BY_SIZE = {"retention.bytes": str(2**20), "segment.bytes": str(2**20)}


@pytest.mark.long
@pytest.mark.parametrize("limits", [BY_TIME, BY_SIZE], ids=["time", "size"])
def test_retention_that_is_faster_than_scoring(
    pipeline: Pipeline,
    settings: Settings,
    instance: dg.DagsterInstance,
    limits: dict[str, str],
    record_property: RecordProperty,
) -> None:
    """Whole segments go. What was in them is lost, said to be, and acknowledged by name."""
    kafka = pipeline.kafka.model_copy(update={"topic": pipeline.kafka.topic + "_r"})
    with admin(kafka) as client:
        shape = {"num_partitions": 1, "replication_factor": 1, "configs": limits}
        client.create_topics({kafka.topic: shape}, wait_for_metadata=True)
    short = Pipeline(kafka, pipeline.warehouse)
    short.send([good_event(i) for i in range(10)])
    assert short.drain().scored == 10
    padding = b'{"desc": "' + b"x" * 100_000 + b'", ' if limits is BY_SIZE else b"{"
    short.send([padding + good_event(i)[1:] for i in range(40)])
    wait_until(lambda: short.broker.inspect().offsets[0][0] > 10, 60, "retention")
    first, end = short.broker.inspect().offsets[0]
    settings.kafka = kafka
    (check,) = scoring.run_job(instance, settings).get_asset_check_evaluations()
    (batch,) = short.query("SELECT sum(scored) AS scored, sum(lost) AS lost FROM batches")
    record_property(SENT, f"50, {batch['lost']} of them removed")
    record_property(COMMITTED, f"{batch['scored']}, {batch['lost']} lost")
    assert batch["scored"] + batch["lost"] == end == 50
    assert batch["lost"] >= first - 10 > 0
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f"; {batch['lost']} events are lost, which the broker removed" in str(check.description)
    with short.warehouse.session() as connection:
        totals = MetricsLedger(connection, kafka.topic).read().totals
        assert totals["lost_unknown"] == batch["lost"]  # which the critical alert looks at
        LostEvents(connection).acknowledge("ada", "the weekend")
    (check,) = scoring.run_job(instance, settings).get_asset_check_evaluations()
    assert check.passed
    assert short.unreconciled() == 0


def compacted_topic(pipeline: Pipeline, broker: Kafka, *, drain: bool = False) -> Pipeline:
    """A topic of one partition, of whose 150 events of one key the broker removed some, after they
    were drained or before."""
    compact = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.01",
        "segment.ms": "500",
        "max.compaction.lag.ms": "500",
        "delete.retention.ms": "100",
    }
    settings = pipeline.kafka.model_copy(update={"topic": pipeline.kafka.topic + "_c"})
    with admin(settings) as client:
        shape = {"num_partitions": 1, "replication_factor": 1, "configs": compact}
        client.create_topics({settings.topic: shape}, wait_for_metadata=True)
    compacted = replace(pipeline, kafka=settings)
    for _ in range(3):  # one key, three segments
        compacted.send([good_event(i) for i in range(50)])
        if drain:
            assert compacted.drain().scored == 50
        time.sleep(1)
    wait_until(lambda: dirs_cleaned(broker, settings.topic), 30, "compaction")
    return compacted


def test_compaction_leaves_gaps(
    pipeline: Pipeline, broker: Kafka, record_property: RecordProperty
) -> None:
    compacted = compacted_topic(pipeline, broker)
    report = compacted.drain()
    record_property(SENT, "150 of one key")
    record_property(COMMITTED, f"{report.scored}, {report.gaps} gaps")
    assert report.scored < 150
    assert report.scored + report.gaps == 150
    assert compacted.unreconciled() == 0


def dirs_cleaned(broker: Kafka, topic: str) -> bool:
    """Whether the first segment went into a smaller one."""
    first = broker.folder / "data" / f"{topic}-0" / f"{0:020}.log"
    return first.exists() and first.stat().st_size < 5_000


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.long)])
def test_a_broker_that_hangs_for_a_while(
    pipeline: Pipeline, broker: Kafka, seconds: float, record_property: RecordProperty
) -> None:
    """Shorter than its patience, the session waits; longer, it fails, and the next one goes on."""
    with at_work(pipeline, idle_seconds=1) as session:
        with flowing(pipeline.kafka, 0.005) as sent:
            wait_until(lambda: scored(pipeline) > 20, 20, "some commits")
            with broker.stopped():
                time.sleep(seconds)
        error = session.exception()
        assert error is None or "does not answer" in str(error)
    pipeline.drain(idle_seconds=1)
    record_property(SENT, sent[0] + 1)
    record_property(COMMITTED, scored(pipeline))
    assert scored(pipeline) == sent[0] + 1
    assert pipeline.unreconciled() == 0


@pytest.mark.parametrize("megabytes", [10, pytest.param(40, marks=pytest.mark.long)])
def test_big_events(pipeline: Pipeline, megabytes: int, record_property: RecordProperty) -> None:
    settings = pipeline.kafka.model_copy(update={"topic": pipeline.kafka.topic + "_big"})
    with admin(settings) as client:
        configs = {"max.message.bytes": str(100 * 2**20)}
        shape = {"num_partitions": 1, "replication_factor": 1, "configs": configs}
        client.create_topics({settings.topic: shape}, wait_for_metadata=True)
    big = Pipeline(settings, pipeline.warehouse)
    padding = b'{"desc": "' + b"x" * (megabytes * 2**20) + b'", '
    events = [padding + good_event(i)[1:] for i in range(3)]
    big.send([good_event(0), *events, good_event(1)], max_request_size=100 * 2**20)
    report = big.drain(idle_seconds=1)
    record_property(SENT, f"3 of {megabytes} MB, 2 small")
    record_property(COMMITTED, report.scored)
    assert report.scored == 5
    assert big.unreconciled() == 0
