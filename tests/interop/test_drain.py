"""The exactly-once drain on Apache Kafka."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import KafkaProducer

from credit_risk_dagster.pipelines.drain import DrainReport
from credit_risk_dagster.pipelines.status import partition_status, stream_state
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.interop.test_transactions import transactional
from tests.platform.pipeline import Pipeline, good_event


@contextmanager
def flowing(settings: KafkaSettings, pause: float = 0.001) -> Iterator[list[int]]:
    """Events one by one, in sends of their own, all the time; the value counts them."""
    over = threading.Event()
    sent = [0]

    def send() -> None:
        producer = KafkaProducer(**settings.client_options(), linger_ms=0)
        while not over.wait(pause):
            producer.send(settings.topic, good_event(sent[0]), str(sent[0]).encode())
            sent[0] += 1
        producer.flush()
        producer.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


@contextmanager
def draining(pipeline: Pipeline, **limits: Any) -> Iterator[Future[DrainReport]]:
    """A session beside the test, until the topic is quiet."""
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(pipeline.drain, **{"session_seconds": 600, "idle_seconds": 2, **limits})


@pytest.mark.parametrize("kafka_settings", [16], indirect=True)
@pytest.mark.parametrize("seconds", [8, pytest.param(90, marks=pytest.mark.long)])
def test_records_beyond_the_high_watermark_of_their_answer_are_no_truncation(
    pipeline: Pipeline, seconds: float, record_property: RecordProperty
) -> None:
    """Kafka reads the high watermark before the records; a producer and its replicas move on."""
    with draining(pipeline, poll_interval_ms=10) as session:
        with flowing(pipeline.kafka) as sent:
            wait([session], seconds)
        report = session.result()
    record_property(SENT, sent[0])
    record_property(COMMITTED, report.scored)
    assert report.scored == sent[0]
    assert pipeline.unreconciled() == 0


@pytest.mark.parametrize("kafka_settings", [16], indirect=True)
def test_what_a_live_drain_commits_meanwhile_is_no_truncation(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    """The sensor's question and `status`, again and again beside a drain that commits."""
    with draining(pipeline, poll_interval_ms=10) as session:
        with flowing(pipeline.kafka) as sent:
            for _ in range(15):
                watched, connected = pipeline.broker.watch(), pipeline.warehouse.session()
                with watched as watch, connected as connection:
                    stream = stream_state(watch, connection)
                committed = {p.partition: p.next_offset for p in stream.progress}
                assert all(stream.topic.end(p) >= at for p, at in committed.items())
                status = partition_status(pipeline.kafka, warehouse_settings)
                assert all(partition["lag"] >= 0 for partition in status["partitions"])
        assert session.result().scored == sent[0]


class _Before(KafkaSettings):
    """A client that speaks to the broker as if it were of an earlier version."""

    def client_options(self) -> dict[str, Any]:
        return {**super().client_options(), "api_version": self.version}

    version: tuple[int, int]


@pytest.mark.parametrize("version", [(2, 8), (2, 4), (1, 0)])
def test_brokers_that_know_less(pipeline: Pipeline, version: tuple[int, int]) -> None:
    """Kafka 2.8 has the first version of DescribeCluster only, as Redpanda has, and those before
    2.8 no topic ids, nor DescribeProducers."""
    before = _Before(**pipeline.kafka.model_dump(), version=version)
    earlier = Pipeline(before, pipeline.warehouse)
    pipeline.send([good_event(i) for i in range(10)])
    assert earlier.drain().scored == 10
    with transactional(pipeline.kafka, pipeline.kafka.topic) as producer:
        producer.begin_transaction()
        producer.send(pipeline.kafka.topic, good_event(0), b"key", partition=0)
        producer.flush()
        state = earlier.broker.inspect()
        assert (state.offsets[0], state.end(0)) == ((0, 10), 11)
        assert "open transaction of " in str(state.open_transactions[0])
        producer.abort_transaction()
    assert (state.topic_id is None) == (version < (2, 8))
    assert earlier.drain().ranges == {0: (10, 12)}
    assert earlier.unreconciled() == 0


def test_a_quiet_topic_is_looked_at_again_and_again(pipeline: Pipeline) -> None:
    pipeline.send([good_event(1)])
    with pipeline.broker.watch() as watch:
        assert [watch.state().end(0) for _ in range(3)] == [1, 1, 1]
