"""Clients of kafka-python, and all of it that is taken by a private name."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord as ConsumerRecord
from kafka.errors import CorruptRecordError, KafkaError, KafkaTimeoutError, UnsupportedCodecError
from kafka.net.compat import KafkaNetClient

from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.errors import UnreadableBatch

# What goes wrong arrives as an exception; the client also logs it, with each of its attempts.
logging.getLogger("kafka").setLevel(logging.CRITICAL)

Client = TypeVar("Client", KafkaAdminClient, KafkaConsumer, KafkaProducer)


@contextmanager
def open_client(kind: type[Client], settings: KafkaSettings, **options: Any) -> Iterator[Client]:
    """A client of kafka-python with the settings' options, closed at the end.

    A client that cannot reach its broker raises in its constructor and leaves its network thread
    and sockets behind; the sensor makes one every few seconds. So the network is held here.
    A server that hangs keeps it waiting for ever in a TLS handshake, which no timeout of the
    client covers.
    """
    networks: list[KafkaNetClient] = []
    gave_up = threading.Event()

    def make_network(**configs: Any) -> KafkaNetClient:
        networks.append(KafkaNetClient(**configs))
        return networks[-1]

    def give_up() -> None:
        gave_up.set()
        for network in networks:
            network._net.stop()

    patience = threading.Timer(2 * settings.timeout_ms / 1000, give_up)
    patience.start()
    try:
        client = kind(**settings.client_options(), **options, kafka_client=make_network)
    except BaseException as error:
        for network in networks:
            network._net.stop()
            network.close()
        if gave_up.is_set():
            raise KafkaTimeoutError(f"no answer within {patience.interval:g} s") from error
        raise
    finally:
        patience.cancel()
    try:
        yield client
    finally:
        client.close()


def poll(
    consumer: KafkaConsumer, *, timeout_ms: int, max_records: int | None = None
) -> dict[TopicPartition, list[ConsumerRecord]]:
    """Records that have arrived, or that arrive within the time.

    Raises:
        UnreadableBatch: the next batch of a partition cannot be taken apart. Its position stays
            before the batch, so that the next call says so again.
    """
    try:
        polled: dict[TopicPartition, list[ConsumerRecord]] = consumer.poll(
            timeout_ms=timeout_ms, max_records=max_records
        )
    except Exception as error:
        batch = consumer._fetcher._next_partition_records
        # Each codec has errors of its own; those of the client are about something else.
        broken = not isinstance(error, KafkaError | OSError)
        if batch and (broken or isinstance(error, CorruptRecordError | UnsupportedCodecError)):
            batch.drain()  # left as it is, the next call would try it for ever
            tp, offset = batch.topic_partition, batch.next_fetch_offset
            raise UnreadableBatch(tp.topic, tp.partition, offset, error) from error
        raise
    return polled
