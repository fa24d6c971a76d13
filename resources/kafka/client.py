"""Clients of kafka-python, and all of it that is taken by a private name."""

import logging
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord as ConsumerRecord
from kafka.errors import (
    BrokerResponseError,
    CorruptRecordError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnsupportedCodecError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.access import Attempt, explain
from resources.kafka.errors import UnreadableBatch

# What goes wrong arrives as an exception; the client also logs it, with each of its attempts.
logging.getLogger("kafka").setLevel(logging.CRITICAL)

_RECEIVE_BYTES = 2**20

Client = TypeVar("Client", KafkaAdminClient, KafkaConsumer, KafkaProducer)


@contextmanager
def open_client(kind: type[Client], settings: KafkaSettings, **options: Any) -> Iterator[Client]:
    """A client of kafka-python with the settings' options, closed at the end.

    A client that cannot reach its broker raises in its constructor and leaves its network thread
    and sockets behind; the sensor makes one every few seconds. So the network is held here.
    A server that hangs keeps it waiting for ever in a TLS handshake, which no timeout of the
    client covers.
    """
    networks: list[_Network] = []
    gave_up = threading.Event()

    def make_network(**configs: Any) -> KafkaNetClient:
        networks.append(_Network(**configs))
        return networks[-1]

    def give_up() -> None:
        gave_up.set()
        for network in networks:
            network._net.stop()

    def explained() -> PlatformError | None:
        return explain(settings, [a for network in networks for a in network.attempts])

    patience = threading.Timer(2 * settings.timeout_ms / 1000, give_up)
    patience.start()
    try:
        client = kind(**settings.client_options(), **options, kafka_client=make_network)
    except BaseException as error:
        for network in networks:
            network._net.stop()
            network.close()
        if isinstance(error, KafkaError | OSError) and (reason := explained()):
            raise reason from error
        if gave_up.is_set():
            raise KafkaTimeoutError(f"no answer within {patience.interval:g} s") from error
        raise
    finally:
        patience.cancel()
    try:
        yield client
    except (KafkaError, OSError) as error:
        answered = isinstance(error, BrokerResponseError)
        if not answered and (reason := explained()):
            raise reason from error
        raise
    finally:
        client.close()


class _Manager(KafkaConnectionManager):
    """Connections whose failures are remembered: the client itself only says that it gave up."""

    def __init__(self, *args: Any, **configs: Any) -> None:
        super().__init__(*args, **configs)
        self.attempts: deque[Attempt] = deque(maxlen=8)

    def get_connection(self, node_id: Any, *args: Any, **options: Any) -> Any:
        known = self._conns.get(node_id)
        connection = super().get_connection(node_id, *args, **options)
        if connection is not known:
            node = self.cluster.broker_metadata(node_id)
            address = f"{node.host}:{node.port}"
            number = None if self.cluster.is_bootstrap(node_id) else int(node_id)

            def remember(was_open: bool, error: BaseException) -> None:
                self.attempts.append(Attempt(address, number, was_open, error))
                if isinstance(error, SaslAuthenticationFailedError):
                    self._auth_failures[node_id] = error  # the same again would be no better

            connection.init_future.add_errback(remember, False)
            connection.init_future.add_callback(
                lambda _: connection.close_future.add_errback(remember, True)
            )
            connection.init_future.add_callback(lambda _: self._forget(address))
        return connection

    def _forget(self, address: str) -> None:
        """An address that could not be reached, and now is."""
        kept = [a for a in self.attempts if a.was_open or a.address != address]
        self.attempts.clear()
        self.attempts.extend(kept)

    async def _build_transport(self, *args: Any, **options: Any) -> Any:
        transport = await super()._build_transport(*args, **options)
        transport._sock_recv = lambda: _receive(transport._sock)
        return transport


def _receive(sock: socket.socket) -> tuple[bytes, BaseException | None]:
    """All that has arrived, and why nothing more can.

    The client's own asks for 4 KiB at a time, and whoever asks gives Python's lock away: beside a
    thread that computes, a fetch of megabytes comes at 8 MB/s. And it drops what arrives together
    with the end of a connection, which is where a broker says why it ends it.
    """
    parts = []
    error: BaseException | None = None
    try:
        while part := sock.recv(_RECEIVE_BYTES):
            parts.append(part)
        error = KafkaConnectionError("socket disconnected")
    except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass  # no more yet
    except Exception as failure:  # noqa: BLE001 (whatever ends the connection)
        error = KafkaConnectionError(failure)
    return b"".join(parts), None if parts else error


class _Selector(NetworkSelector):
    def run(self, *work: Any) -> Any:
        try:
            return super().run(*work)
        except KafkaTimeoutError as error:
            # Each poll that finds nothing ends like this. The frames below keep the error, which
            # keeps them, and so whoever called, with all records that they have: megabytes, which
            # only the garbage collector would find.
            raise error.with_traceback(None) from None


class _Network(KafkaNetClient):
    def __init__(self, **configs: Any) -> None:
        selector = _Selector(**configs)
        super().__init__(selector, _Manager(selector, **configs))

    @property
    def attempts(self) -> list[Attempt]:
        return list(self._manager.attempts)


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


def leave_undelivered(producer: KafkaProducer) -> None:
    """What is not delivered keeps `close` waiting, and in the end from stopping the client's
    thread: not any more."""
    producer._sender.force_close()


def answer_within(consumer: KafkaConsumer, milliseconds: int) -> None:
    """How long a broker may keep a question that it has no event for, from the next one on: the
    client is told that once, when it is made."""
    consumer._fetcher.config["fetch_max_wait_ms"] = milliseconds


def ask_for(admin: KafkaAdminClient, topic: str) -> Callable[[], tuple[str, dict[str, Any]]]:
    """Ask for the cluster id and the topic's metadata, in one question that brokers of any age
    answer; calling what is returned waits for the answer.

    The client's own `describe_cluster` needs the second version of its request, where the broker
    has one at all, which Redpanda has not.
    """
    manager = admin._manager
    asked = manager.call_soon(admin._get_cluster_metadata, [topic])

    def answer() -> tuple[str, dict[str, Any]]:
        found = manager.run(manager.wait_for, asked, None)
        (described,) = found["topics"]
        return found["cluster_id"], described

    return answer


def last_stable_offsets(consumer: KafkaConsumer) -> dict[TopicPartition, int]:
    """The last stable offsets that the answers to fetches told, filled while the consumer polls:
    of what an answer says of a partition's ends, the client itself keeps the high watermark."""
    told: dict[TopicPartition, int] = {}
    fetcher = consumer._fetcher
    parse = fetcher._parse_fetched_data

    def parse_and_keep(completed: Any) -> Any:
        records = parse(completed)
        tp, data = completed.topic_partition, completed.partition_data
        # Otherwise it was an answer to an earlier question, which counts no more.
        taken = tp in consumer.assignment() and consumer.highwater(tp) == data.high_watermark
        if taken and data.last_stable_offset >= 0:
            told[tp] = data.last_stable_offset
        return records

    fetcher._parse_fetched_data = parse_and_keep
    return told
