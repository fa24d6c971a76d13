"""The times of records on Apache Kafka."""

from dataclasses import replace

from resources.kafka.broker import Broker
from resources.kafka.topics import ensure_topic
from tests.platform.pipeline import Pipeline, good_event, send_at

YEAR_1970, YEAR_2010 = 1, 1_262_304_000_000


def test_a_topic_that_the_platform_makes_has_the_brokers_time(pipeline: Pipeline) -> None:
    """Whatever the producer writes; and latency is measured by one clock."""
    own = replace(
        pipeline, kafka=pipeline.kafka.model_copy(update={"topic": f"{pipeline.kafka.topic}-own"})
    )
    assert ensure_topic(own.kafka) == 4
    with Broker(own.kafka).watch() as watch:
        assert watch.clock() == "unknown"
    send_at(own.kafka, [(good_event(1), YEAR_2010), (good_event(2), YEAR_1970)])
    with Broker(own.kafka).watch() as watch:
        assert watch.clock() == "broker"
    report = own.drain()
    assert (report.scored, report.clock) == (2, "broker")
    assert report.latency(99) < 60


def test_a_producers_time_is_said_to_be_its(pipeline: Pipeline) -> None:
    send_at(pipeline.kafka, [(good_event(1), None), (good_event(2), 0), (good_event(3), YEAR_1970)])
    with pipeline.broker.watch() as watch:
        assert watch.clock() == "producer"
    report = pipeline.drain()
    assert (report.scored, report.clock) == (3, "producer")
    assert sum(report.latency_buckets) == 1
