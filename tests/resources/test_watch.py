"""Looking at a topic, on a real broker."""

import time
from dataclasses import replace

import pytest

from credit_risk_dagster.settings import KafkaSettings
from infra.embedded.servers import Broker
from resources.kafka.broker import Broker as Topic
from resources.kafka.errors import TopicReplaced
from resources.kafka.topics import ensure_topic
from resources.kafka.watch import Watch
from tests.platform.pipeline import send

BATCHES = 5_000  # one after the other: to find the last takes it some milliseconds


@pytest.mark.usefixtures("own_servers")
def test_a_broker_that_is_slow_to_find_a_record_tells_since_when_it_waits() -> None:
    """One that may keep a question for a millisecond answers without what it took longer to find:
    a demo of some minutes was told to have no broker."""
    with Broker() as broker:
        kafka = KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, partitions=1, timeout_ms=10_000
        )
        ensure_topic(kafka)
        send(kafka, [b"{}"] * BATCHES, batch_size=0, linger_ms=0)
        with Topic(kafka).watch() as watch:
            assert watch.state().offsets == {0: (0, BATCHES)}
            sent = watch.timestamps({0: (BATCHES - 3, BATCHES)})
    assert abs(sent[0] - time.time()) < 60


def test_partitions_that_are_no_more_are_named(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a broker without topic ids, whose topic was created again with fewer."""
    with Topic(kafka_settings).watch() as watch:
        state = watch.state()
        fewer = replace(state, offsets={p: state.offsets[p] for p in (0, 1)})
        monkeypatch.setattr(Watch, "_look", lambda _: fewer)
        monkeypatch.setattr("resources.kafka.watch._SUSPICION_SECONDS", 0.0)
        with pytest.raises(TopicReplaced, match=r"has no partitions \[2\] any more"):
            watch.state({0: 0, 2: 5})
