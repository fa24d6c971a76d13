"""Sending single applications to the topic, each confirmed by the broker."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.client import leave_undelivered, open_client
from resources.kafka.errors import BrokerUnavailable, refused
from resources.kafka.topics import partitions_of

# Those that stood in line behind a failure fail with it, instead of waiting for one more each.
_FAILURE_LASTS_SECONDS = 1.0

Headers = Sequence[tuple[str, bytes]]


class PublisherBusy(PlatformError):
    """As many applications wait for the broker as may wait."""


@dataclass(frozen=True)
class Published:
    """Where the broker stored an event."""

    topic: str
    partition: int
    offset: int


class Publisher:
    """A producer for an event loop: nothing of it ever waits in the loop's thread.

    It connects when it is first used, and anew after a failure, so that it needs no broker to
    start and none of its errors lasts.

    Args:
        settings: broker and topic.
        max_in_flight: most events that wait for the broker at once.
    """

    def __init__(self, settings: KafkaSettings, max_in_flight: int) -> None:
        self._settings = settings
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._threads = ThreadPoolExecutor(4, "publish")
        self._lock = Lock()
        self._connection = ExitStack()
        self._producer: KafkaProducer | None = None
        self._failure: PlatformError | None = None
        self._failed_at = 0.0

    async def publish(self, key: bytes, value: bytes, headers: Headers = ()) -> Published:
        """Send an event, and wait until every replica that is in sync has it (acks=all).

        Raises:
            PublisherBusy: too many wait already; nothing was sent.
            BrokerUnavailable: not confirmed in time. The event may be stored all the same.
            TopicMissing: there is no such topic; nothing was sent.
        """
        if self._in_flight >= self._max_in_flight:
            raise PublisherBusy(
                f"{self._in_flight} applications wait for the broker, and no more may "
                "(CREDIT_RISK_API_MAX_IN_FLIGHT)"
            )
        loop = asyncio.get_running_loop()
        self._in_flight += 1
        try:
            producer, sent = await loop.run_in_executor(
                self._threads, self._send, key, value, headers
            )
            try:
                record = await asyncio.wrap_future(sent)
            except KafkaError as error:
                raise await loop.run_in_executor(
                    self._threads, self._fail, producer, error
                ) from error
        finally:
            self._in_flight -= 1
        return Published(record.topic, record.partition, record.offset)

    def close(self) -> None:
        """Give up what is not confirmed, and disconnect."""
        with self._lock:
            self._disconnect()
        self._threads.shutdown()

    def _send(
        self, key: bytes, value: bytes, headers: Headers
    ) -> tuple[KafkaProducer, "Future[Any]"]:
        producer = self._connect()
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()  # whoever asked may go; the event does not come back
        try:
            sent = producer.send(self._settings.topic, value, key, [*headers])
        except (KafkaError, OSError) as error:
            raise self._fail(producer, error) from error
        sent.add_callback(done.set_result)
        sent.add_errback(done.set_exception)
        return producer, done

    def _connect(self) -> KafkaProducer:
        timeout_ms = self._settings.timeout_ms
        with self._lock:
            if self._failure and time.monotonic() - self._failed_at < _FAILURE_LASTS_SECONDS:
                raise self._failure
            if self._producer is None:
                try:
                    self._producer = self._connection.enter_context(
                        open_client(
                            KafkaProducer,
                            self._settings,
                            acks="all",
                            enable_idempotence=True,  # a retry never doubles an event
                            linger_ms=0,
                            request_timeout_ms=timeout_ms // 2,
                            max_block_ms=timeout_ms // 2,
                            delivery_timeout_ms=timeout_ms,
                            reconnect_backoff_max_ms=timeout_ms // 5,
                            metrics_enabled=False,
                        )
                    )
                except (KafkaError, OSError, PlatformError) as error:
                    raise self._remember(error) from error
            return self._producer

    def _fail(self, producer: KafkaProducer, error: BaseException) -> PlatformError:
        """Forget a producer that failed; whatever else it holds fails, too."""
        if isinstance(error, KafkaTimeoutError | UnknownTopicOrPartitionError):
            try:  # the client does not say that it waits for a topic that is not there
                partitions_of(self._settings)
            except PlatformError as reason:
                error = reason
        with self._lock:
            if producer is not self._producer:  # forgotten before, with another of its events
                return self._told(error)
            self._disconnect()
            return self._remember(error)

    def _disconnect(self) -> None:
        if self._producer is not None:
            leave_undelivered(self._producer)
            self._producer = None
            self._connection.close()

    def _remember(self, error: BaseException) -> PlatformError:
        self._failed_at = time.monotonic()
        self._failure = self._told(error)
        return self._failure

    def _told(self, error: BaseException) -> PlatformError:
        if isinstance(error, PlatformError):
            return error
        return refused(error, self._settings) or BrokerUnavailable(
            self._settings.bootstrap_servers, error
        )
