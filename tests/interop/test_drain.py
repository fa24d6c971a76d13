"""The exactly-once drain on Apache Kafka."""

from tests.platform.pipeline import Pipeline, good_event


def test_every_event_is_scored_once(pipeline: Pipeline) -> None:
    for partition in range(4):
        pipeline.send([good_event(i) for i in range(50)], partition)
    assert pipeline.drain().scored == 200
    assert pipeline.unreconciled() == 0
