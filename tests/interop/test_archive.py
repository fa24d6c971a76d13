"""The archive and the rebuild over topics whose offsets have holes: aborted and compacted ones."""

import pytest
from kafka import KafkaConsumer, TopicPartition

from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.interop.kafka import Kafka
from tests.interop.test_changes import compacted_topic
from tests.interop.test_transactions import send, transactional
from tests.pipelines.test_rebuild import run as rebuild
from tests.pipelines.test_rebuild import tables
from tests.platform.pipeline import Pipeline

pytestmark = pytest.mark.long

Records = dict[tuple[int, int], bytes]


def on_the_broker(settings: KafkaSettings) -> Records:
    """Every committed record by partition and offset, as a client of nobody's reads it."""
    consumer = KafkaConsumer(
        **settings.client_options(), isolation_level="read_committed", enable_auto_commit=False
    )
    try:
        partitions = [
            TopicPartition(settings.topic, p)
            for p in consumer.partitions_for_topic(settings.topic) or ()
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found: Records = {}
        while any(consumer.position(at) < end for at, end in ends.items()):
            for at, records in consumer.poll(timeout_ms=500).items():
                found |= {(at.partition, record.offset): record.value for record in records}
        return found
    finally:
        consumer.close()


def archived(pipeline: Pipeline) -> Records:
    rows = pipeline.rows()
    found = {(row["partition"], row["offset"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found


def assert_archived_and_rebuilt(pipeline: Pipeline, settings: WarehouseSettings) -> None:
    """The lake has what the broker has and nothing else, every check passes, and a rebuild makes
    the same rows."""
    assert archived(pipeline) == on_the_broker(pipeline.kafka)
    account = pipeline.account()
    assert account.problems == []
    assert all(p["archived"] == p["committed"] > 0 for p in account.partitions)
    assert pipeline.unreconciled() == 0
    rebuilt = rebuild(pipeline, settings)
    live, again = (tables(settings, schema) for schema in ("credit_risk", "rebuilt"))
    ends = [
        {o["partition"]: o["next_offset"] for o in them.pop("offsets")} for them in (live, again)
    ]
    assert ends[0] == ends[1]
    # A rebuilt partition begins with the first event that the lake has, which no gap comes before.
    assert again == live
    assert rebuilt.scored == len(live["scored"])
    assert pipeline.unreconciled() == 0


def test_aborted_transactions(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, record_property: RecordProperty
) -> None:
    """Between committed ones and at the end, with an archive run after each drain and after two."""
    committed = aborted = 0
    with transactional(pipeline.kafka, pipeline.kafka.topic) as producer:
        for number in range(12):
            producer.begin_transaction()
            for partition in range(4):
                send(producer, pipeline.kafka, 5 + number, partition)
            if number % 3:
                producer.commit_transaction()
                committed += 4 * (5 + number)
            else:
                producer.abort_transaction()
                aborted += 4 * (5 + number)
            if number % 2:
                pipeline.drain()
            if number % 4 == 1:
                pipeline.archive()
        producer.begin_transaction()
        send(producer, pipeline.kafka, 3)
        producer.abort_transaction()
    pipeline.drain()
    report = pipeline.archive()
    record_property(SENT, f"{committed} + {aborted + 3} aborted")
    record_property(COMMITTED, f"{len(archived(pipeline))} archived")
    assert (len(archived(pipeline)), report.lost) == (committed, [])
    assert_archived_and_rebuilt(pipeline, warehouse_settings)


def test_compacted_before_it_was_scored(
    pipeline: Pipeline,
    broker: Kafka,
    warehouse_settings: WarehouseSettings,
    record_property: RecordProperty,
) -> None:
    compacted = compacted_topic(pipeline, broker)
    scored = compacted.drain().scored
    assert compacted.archive().lost == []
    record_property(SENT, "150 of one key")
    record_property(COMMITTED, f"{scored} archived")
    assert 0 < scored == len(archived(compacted)) < 150
    assert_archived_and_rebuilt(compacted, warehouse_settings)


def test_compacted_before_it_was_archived(
    pipeline: Pipeline, broker: Kafka, record_property: RecordProperty
) -> None:
    """What was scored and is gone is counted, and fails the check until it is given up by name."""
    compacted = compacted_topic(pipeline, broker, drain=True)
    report = compacted.archive()
    lost = sum(events for _, events in report.lost)
    record_property(SENT, "150 of one key, scored")
    record_property(COMMITTED, f"{report.rows} archived, {lost} lost")
    assert archived(compacted) == on_the_broker(compacted.kafka)
    assert report.rows + lost == 150
    (problem,) = compacted.account().problems
    assert f"partition 0: {lost} committed events had left the broker" in problem
    assert compacted.unreconciled() == 0
