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
from kafka.consumer.fetcher import Fetcher, IsolationLevel
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
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

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
    if isinstance(client, KafkaConsumer):
        client._fetcher.PartitionRecords = _Records
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
        # What somebody deleted stays deleted. The client loses its option of this name.
        self.cluster.config["allow_auto_create_topics"] = False
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


class _Records(Fetcher.PartitionRecords):
    """The records of an answer, without deserializers. In place of the client's own, because it
    makes two objects of each, with a dozen calls between them: this takes two fifths of its time.
    """

    def _unpack_records(
        self, tp: TopicPartition, records: Any, *_: Any
    ) -> Iterator[ConsumerRecord]:
        while (batch := records.next_batch()) is not None:
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(
                    f"the batch at offset {batch.base_offset} of {tp} fails its checksum"
                )
            if batch.magic < 2:
                yield from self._of_old(tp, batch)
                continue
            self.leader_epoch = batch.leader_epoch
            if not self._is_left_out(batch):
                try:
                    yield from self._of(tp, batch)
                except (ValueError, IndexError) as error:
                    raise CorruptRecordError(f"a record that cannot be read: {error!r}") from error
            # Where the last records were compacted away it goes on after them.
            self.next_fetch_offset = batch.next_offset
        self.drain()

    def _is_left_out(self, batch: DefaultRecordBatch) -> bool:
        """Whether it is a transaction's marker, or of one that was aborted."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _of(self, tp: TopicPartition, batch: DefaultRecordBatch) -> Iterator[ConsumerRecord]:
        """By the format of a record: https://kafka.apache.org/documentation/#record"""
        batch._maybe_uncompress()
        buffer = batch._buffer = bytes(batch._buffer)  # which is then there once
        at = batch._pos
        (topic, partition), epoch, base = tp, batch.leader_epoch, batch.base_offset
        clock, time, read = batch.timestamp_type, batch.first_timestamp, decode_varint
        if is_appended := clock == batch.LOG_APPEND_TIME:
            time = batch.max_timestamp
        new, total = tuple.__new__, 0  # the named tuple's own is a function of Python
        for _ in range(batch.records_count):
            size, start = read(buffer, at)
            delta, at = read(buffer, start + 1)  # after its attributes, which say nothing
            offset, at = read(buffer, at)
            offset += base
            key = value = None
            key_size, at = read(buffer, at)
            if key_size >= 0:
                key = buffer[at : (at := at + key_size)]
            value_size, at = read(buffer, at)
            if value_size >= 0:
                value = buffer[at : (at := at + value_size)]
            headers, header_size, at = _headers(buffer, at) if buffer[at] else ([], -1, at + 1)
            if at != start + size:
                raise ValueError(f"offset {offset} has {at - start} bytes, and says {size}")
            total += size
            self.next_fetch_offset = offset + 1
            moment = time if is_appended else time + delta
            yield new(ConsumerRecord, (
                topic, partition, epoch, offset, moment, clock, key, value, headers, None,
                key_size, value_size, header_size,
            ))  # fmt: skip
        if at != len(buffer):
            raise ValueError(f"{len(buffer) - at} bytes after its last record")
        self.records_read += batch.records_count
        self.bytes_read += total

    def _of_old(self, tp: TopicPartition, batch: Any) -> Iterator[ConsumerRecord]:
        for record in batch:
            if self.check_crcs and not record.validate_crc():
                raise CorruptRecordError(f"offset {record.offset} of {tp} fails its checksum")
            self.records_read += 1
            self.bytes_read += record.size_in_bytes
            self.next_fetch_offset = record.offset + 1
            sizes = (-1 if text is None else len(text) for text in (record.key, record.value))
            yield ConsumerRecord(
                *(tp.topic, tp.partition, self.leader_epoch, record.offset),
                *(record.timestamp, record.timestamp_type, record.key, record.value),
                *(record.headers, record.checksum, *sizes, -1),
            )


def _headers(buffer: bytes, at: int) -> tuple[list[tuple[str, bytes | None]], int, int]:
    """The headers that begin there, at least one, their size, and where they end."""
    count, at = decode_varint(buffer, at)
    if count < 0:
        raise ValueError(f"{count} headers")
    headers: list[tuple[str, bytes | None]] = []
    total = 0
    for _ in range(count):
        size, at = decode_varint(buffer, at)
        if size < 0:
            raise ValueError(f"a header's key of {size} bytes")
        key = buffer[at : (at := at + size)].decode()
        total += size
        size, at = decode_varint(buffer, at)
        headers.append((key, None if size < 0 else buffer[at : (at := at + size)]))
        total += max(size, 0)
    return headers, total, at


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
