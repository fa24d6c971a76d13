"""Transactions: what is not committed is not read, and what is not over is said to be."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import dagster as dg
import pytest
from kafka import KafkaProducer

from credit_risk_dagster.api.metrics.stream import TopicWatch, stream_metrics
from credit_risk_dagster.api.question import Told
from credit_risk_dagster.pipelines.stream_health import measure_backlog
from credit_risk_dagster.settings import KafkaSettings, Settings
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse
from resources.postgres.metrics import MetricsLedger
from sensors.offsets import loan_applications_offsets
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until


@contextmanager
def transactional(settings: KafkaSettings, name: str) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(**settings.client_options(), transactional_id=name)
    try:
        producer.init_transactions()
        yield producer
    finally:
        producer.close()


def send(producer: KafkaProducer, settings: KafkaSettings, events: int, partition: int = 0) -> None:
    for i in range(events):
        producer.send(settings.topic, good_event(i), b"key", partition=partition)
    producer.flush()


def test_an_open_transaction_is_told_and_starts_no_run(
    pipeline: Pipeline, settings: Settings, instance: dg.DagsterInstance
) -> None:
    pipeline.send([good_event(i) for i in range(10)])
    pipeline.drain()
    with transactional(pipeline.kafka, pipeline.kafka.topic) as producer:
        producer.begin_transaction()
        send(producer, pipeline.kafka, 5)
        pipeline.send([good_event(i) for i in range(3)])  # of another producer, behind it
        with pipeline.broker.watch() as watch:
            state = watch.state()
            assert (state.offsets[0], state.end(0)) == ((0, 10), 18)
            assert watch.timestamps({0: (0, 10)}).keys() == {0}
        assert state.open_transactions.keys() == {0}
        held = state.open_transactions[0]
        assert (held.waiting, held.producer_id is not None) == (8, True)
        said = (
            "partition 0: 8 offsets from 10 on wait for the open transaction of producer "
            f"{held.producer_id}, which last wrote "
        )
        for _ in range(2):
            skipped = tick(settings, instance)
            assert isinstance(skipped, dg.SkipReason)
            assert skipped.skip_message.startswith(f"lane 0: no new events; {said}")
        assert measure_backlog(pipeline.broker, pipeline.warehouse).events == 0
        assert pipeline.drain().ranges == {}
        producer.commit_transaction()
    assert pipeline.broker.inspect().open_transactions == {}
    assert pipeline.drain().scored == 8
    assert pipeline.unreconciled() == 0


def test_the_metrics_tell_an_open_transaction_and_how_old_it_is(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    watch = TopicWatch(pipeline.kafka)
    with watch.connect() as look, pipeline.warehouse.session() as connection:
        ledger = MetricsLedger(connection, pipeline.kafka.topic)

        def told(name: str) -> tuple[str, float]:
            """Of partition 0: the producer, and the value."""
            snapshot = ledger.read()
            watch.learn(snapshot)
            (sample,) = (
                sample
                for family in stream_metrics(snapshot, Told(look(), time.time(), up=True))
                for sample in family.samples
                if sample.name == f"credit_risk_{name}" and sample.labels["partition"] == "0"
            )
            return sample.labels.get("producer_id", ""), sample.value

        assert told("open_transaction_offsets") == told("open_transaction_seconds") == ("", 0)
        with transactional(pipeline.kafka, pipeline.kafka.topic) as producer:
            for at in (10, 16):
                began = time.time()
                producer.begin_transaction()
                send(producer, pipeline.kafka, 5)
                # A fetch that was under way when they came tells the end before them.
                who = wait_until(lambda: told("open_transaction_offsets")[0], 5, "it is told")
                assert told("open_transaction_offsets") == (who, 5)
                time.sleep(0.5)  # what is measured is time
                assert 0.4 < told("open_transaction_seconds")[1] < time.time() - began + 1
                assert told("lag_events")[1] == 0  # nobody can read it
                producer.commit_transaction()
                assert told("open_transaction_offsets") == ("", 0)
                assert told("lag_events")[1] == 6
                assert pipeline.drain().ranges == {0: (at, at + 6)}


def tick(settings: Settings, instance: dg.DagsterInstance) -> object:
    context = dg.build_sensor_context(
        instance,
        resources={
            "settings": settings,
            "broker": Broker(settings.kafka),
            "warehouse": Warehouse(settings.warehouse),
        },
    )
    return loan_applications_offsets(context)


def test_aborted_events_at_the_end_are_gaps(pipeline: Pipeline) -> None:
    pipeline.send([good_event(i) for i in range(10)])
    with transactional(pipeline.kafka, pipeline.kafka.topic) as producer:
        producer.begin_transaction()
        send(producer, pipeline.kafka, 5)
        producer.abort_transaction()
        producer.begin_transaction()
        send(producer, pipeline.kafka, 5)
        report = pipeline.drain()
        assert (report.scored, report.gaps, report.ranges) == (10, 6, {0: (0, 16)})
        producer.abort_transaction()
    assert pipeline.drain().ranges == {0: (16, 22)}
    assert pipeline.unreconciled() == 0


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_interleaved_producers_commit_and_abort_while_it_drains(
    pipeline: Pipeline, seconds: int, record_property: RecordProperty
) -> None:
    over = threading.Event()
    committed, aborted = [0] * 4, [0] * 4

    def work(number: int) -> None:
        choice = Random(number)
        with transactional(pipeline.kafka, f"{pipeline.kafka.topic}-{number}") as producer:
            while not over.is_set():
                producer.begin_transaction()
                events = choice.randint(1, 40)
                for i in range(events):
                    producer.send(pipeline.kafka.topic, good_event(i), str(i).encode())
                if choice.random() < 0.3:
                    producer.abort_transaction()
                    aborted[number] += events
                else:
                    producer.commit_transaction()
                    committed[number] += events

    producers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    timer = threading.Timer(seconds, over.set)
    for thread in (*producers, timer):
        thread.start()
    report = pipeline.drain(session_seconds=600, idle_seconds=2)
    for thread in producers:
        thread.join()
    rest = pipeline.drain(idle_seconds=1)
    record_property(SENT, f"{sum(committed)} + {sum(aborted)} aborted")
    record_property(COMMITTED, report.scored + rest.scored)
    assert report.scored + rest.scored == sum(committed)
    assert sum(aborted) > 0
    assert pipeline.unreconciled() == 0
