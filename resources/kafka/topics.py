"""Creating the topic, and starting over with an empty one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kafka import KafkaAdminClient
from kafka.errors import (
    BrokerResponseError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.broker import Broker
from resources.kafka.client import open_client
from resources.kafka.errors import BrokerUnavailable, TopicMissing, in_words, refused

_TOPIC_CHANGE_SECONDS = 30.0


class TopicRefused(PlatformError):
    """The broker answers, but does not create or delete the topic."""


def ensure_topic(settings: KafkaSettings) -> int:
    """Create the topic when it is missing, and return how many partitions it has.

    Raises:
        BrokerUnavailable: the broker does not answer.
        TopicRefused: the broker does not create the topic.
    """
    with suppress(TopicMissing):
        return len(partitions_of(settings))
    with _admin(settings) as admin:
        with suppress(TopicAlreadyExistsError):  # another process was faster
            _create(admin, settings)
        admin.wait_for_topics([settings.topic], timeout_ms=_TOPIC_CHANGE_SECONDS * 1000)
    return len(partitions_of(settings))


def reset_topic(settings: KafkaSettings) -> int:
    """Delete the topic with all that is in it, create it again, and wait until it is there, empty.

    Returns:
        The number of partitions.

    Raises:
        BrokerUnavailable: the broker does not answer.
        TopicRefused: the broker does not delete or create the topic.
    """
    broker = Broker(settings)
    deadline = time.monotonic() + _TOPIC_CHANGE_SECONDS
    # Brokers delete in the background, keep the name until they are done, and tell nobody. Then
    # somebody's consumer may ask for the topic, and be answered by its creation.
    with _admin(settings) as admin:
        while True:
            with suppress(UnknownTopicOrPartitionError):
                admin.delete_topics([settings.topic])
            try:
                _create(admin, settings)
                break
            except TopicAlreadyExistsError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        admin.wait_for_topics([settings.topic], timeout_ms=_TOPIC_CHANGE_SECONDS * 1000)
    while True:
        offsets = broker.inspect().offsets.values()
        if all(first == end for first, end in offsets):
            return len(offsets)
        if time.monotonic() > deadline:
            raise TopicRefused(f"topic {settings.topic} still has events after its deletion")
        time.sleep(0.1)


def partitions_of(settings: KafkaSettings) -> list[int]:
    """Partitions of the topic. Raises BrokerUnavailable and TopicMissing."""
    broker = Broker(settings)
    with broker.errors(), broker.identity() as identity:
        return identity.ask()[2]


def _create(admin: KafkaAdminClient, settings: KafkaSettings) -> None:
    shape = {
        "num_partitions": settings.partitions,
        "replication_factor": settings.replication_factor,
        # The latency is then measured by one clock, the broker's.
        "configs": {"message.timestamp.type": "LogAppendTime"},
    }
    admin.create_topics({settings.topic: shape})


@contextmanager
def _admin(settings: KafkaSettings) -> Iterator[KafkaAdminClient]:
    try:
        with open_client(
            KafkaAdminClient, settings, request_timeout_ms=settings.timeout_ms
        ) as admin:
            yield admin
    except BrokerResponseError as error:
        raise refused(error, settings) or TopicRefused(
            f"Kafka broker at {settings.bootstrap_servers} refuses topic {settings.topic}: "
            f"{in_words(error)}"
        ) from error
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(settings.bootstrap_servers, error) from error
