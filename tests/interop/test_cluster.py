"""Three brokers: leaders that die, and a replica that was behind and is elected all the same."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka import KafkaAdminClient

from credit_risk_dagster.pipelines.bounds import Bound
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from resources.kafka.errors import BrokerUnavailable, TopicReplaced
from resources.postgres.connection import Warehouse
from tests.conftest import create_topic
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.interop.kafka import Kafka
from tests.interop.test_changes import admin, scored
from tests.interop.test_drain import flowing
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

pytestmark = pytest.mark.long


def settings(cluster: list[Kafka], topic: str) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=cluster[0].bootstrap_servers,
        topic=topic,
        partitions=6,
        replication_factor=3,
    )


def leader(client: KafkaAdminClient, topic: str, partition: int = 0) -> int:
    (described,) = client.describe_topics([topic])
    (found,) = (p for p in described["partitions"] if p["partition_index"] == partition)
    return int(found["leader_id"])


def test_four_leaders_are_killed_while_it_drains(
    cluster: list[Kafka], warehouse_settings: WarehouseSettings, record_property: RecordProperty
) -> None:
    kafka = settings(cluster, "killed")
    create_topic(kafka, replicas=3)
    pipeline = Pipeline(kafka, Warehouse(warehouse_settings))
    failed: list[str] = []
    over = False

    def drain_and_drain() -> None:
        """What the sensor does: a session that fails is followed by another."""
        while not over:
            try:
                pipeline.drain(session_seconds=10, idle_seconds=2)
            except BrokerUnavailable as error:
                failed.append(str(error))

    longest = 0.0
    with ThreadPoolExecutor(1) as beside, admin(kafka) as client:
        with flowing(kafka, 0.003) as sent:
            sessions = beside.submit(drain_and_drain)
            wait_until(lambda: scored(pipeline), 30, "a first commit")
            for _ in range(4):
                (dead,) = (b for b in cluster if b.node_id == leader(client, kafka.topic))
                dead.kill()
                before, killed = scored(pipeline), time.monotonic()
                wait_until(lambda at=before: scored(pipeline) > at + 500, 90, "scoring goes on")
                longest = max(longest, time.monotonic() - killed)
                dead.start()
                time.sleep(8)
        wait_until(lambda: scored(pipeline) >= sent[0], 90, "all that was sent is scored")
        over = True
        sessions.result()
    ends = sum(end for _, end in pipeline.broker.inspect().offsets.values())
    record_property(SENT, sent[0])
    record_property(COMMITTED, f"{scored(pipeline)}, longest pause {longest:.1f} s")
    assert scored(pipeline) == ends >= sent[0]
    assert pipeline.unreconciled() == 0
    assert not [line for line in failed if "Traceback" in line or "\n" in line]


def test_an_unclean_election_is_told_as_truncation(
    cluster: list[Kafka], warehouse_settings: WarehouseSettings, record_property: RecordProperty
) -> None:
    """The replica that was behind is elected, which the topic allows; the truncation is real."""
    kafka = settings(cluster, "unclean").model_copy(update={"partitions": 1})
    with admin(kafka) as client:
        configs = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
        shape = {"assignments": {0: [1, 2]}, "configs": configs}
        client.create_topics({kafka.topic: shape}, wait_for_metadata=True)
        pipeline = Pipeline(kafka, Warehouse(warehouse_settings))
        pipeline.send([good_event(i) for i in range(10)])
        pipeline.drain()
        ahead, behind, _ = cluster
        behind.kill()
        pipeline.send([good_event(i) for i in range(20)], acks=1, enable_idempotence=False)
        # Committed, once the other replica is given up.
        assert pipeline.drain(idle_seconds=20, bounds=[Bound(0, 10, 30)]).scored == 20
        ahead.kill()
        behind.start()
        wait_until(lambda: leader(client, kafka.topic) == 2, 60, "the election of the second")
    with pytest.raises(TopicReplaced, match="ends at offset 10, before the committed offset 30"):
        pipeline.drain()
    record_property(SENT, "30, then cut to 10")
    record_property(COMMITTED, scored(pipeline))
    assert scored(pipeline) == 30
    assert pipeline.unreconciled() == 0
