"""Sending loans to the topic at a given rate, each delivery checked."""

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from threading import Event
from typing import Any

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from credit_risk_dagster.domain.outcomes import application_of
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.loans import LoansUnavailable, Row, endless
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.broker import Broker
from resources.kafka.client import leave_undelivered, open_client
from resources.kafka.topics import partitions_of

# Events that may be on their way at once: the client itself takes any number into memory.
_MAX_IN_FLIGHT = 10_000
_BATCH_BYTES = 512 * 1024
_TICK_SECONDS = 0.1
_SHORTEST_WAIT_SECONDS = 0.001  # at high rates: waiting for each event costs more than sending it


class DeliveryFailed(PlatformError):
    """The broker did not take an event; the message says which one, where and why."""


@dataclass(frozen=True)
class Produced:
    """What a call of `produce` did: events sent and acknowledged, and the seconds it took."""

    sent: int
    acknowledged: int
    seconds: float

    @property
    def rate(self) -> float:
        """Acknowledged events a second."""
        return self.acknowledged / self.seconds if self.seconds else 0.0


def produce(
    settings: KafkaSettings,
    loans: Iterable[Row],
    *,
    rate: float = 0.0,
    max_events: int | None = None,
    loop: bool = False,
    on_progress: Callable[[int], None] | None = None,
    stop: Event | None = None,
) -> Produced:
    """Send loans to the topic as events, and wait until the broker has every one of them.

    An event is what was known when the loan was decided, as JSON, with `event_time`, the time of
    sending. Its key is the loan id: sent again, it goes to the same partition. A broker that is
    away for less than three times `settings.timeout_ms` delays events and loses none.

    Args:
        loans: rows; see `builtin_loans` and `csv_loans`.
        rate: events a second, on a schedule that does not drift: after a delay it catches up.
            0 means as fast as possible.
        max_events: how many to send at most; None means all.
        loop: begin again after the last loan; see `endless`.
        on_progress: called in this thread, at most ten times a second and at the end, with the
            number of events acknowledged so far.
        stop: when it is set, nothing more is sent; what was sent is waited for.

    Raises:
        BrokerUnavailable: the broker does not answer.
        TopicMissing: the topic does not exist; see `ensure_topic`.
        DeliveryFailed: the broker did not take an event.
        LoansUnavailable: the loans cannot be read; what was read before it is delivered, and
            counted in the message.
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"the rate must be 0 (as fast as possible) or more a second, not {rate}")
    stop = stop or Event()
    partitions = partitions_of(settings)
    started = time.monotonic()
    with _producer(settings, rate) as producer:
        sending = _Sending(producer, settings.topic, partitions, on_progress)
        try:
            for number, row in enumerate(islice(endless(loans) if loop else loans, max_events)):
                if rate:
                    sending.settle_until(started + number / rate, stop)
                sending.make_room(stop)
                if stop.is_set():
                    break
                sending.send(row)
        except DeliveryFailed:
            raise
        except LoansUnavailable as error:
            sending.finish(4 * settings.timeout_ms / 1000)
            sent = f"events sent before it: {sending.acknowledged:,}"
            raise LoansUnavailable(f"{error} ({sent})") from error
        except Exception:
            # Reading the loans failed; what was read before it is delivered all the same.
            sending.finish(4 * settings.timeout_ms / 1000)
            raise
        sending.finish(4 * settings.timeout_ms / 1000)
    return Produced(sending.sent, sending.acknowledged, time.monotonic() - started)


@contextmanager
def _producer(settings: KafkaSettings, rate: float) -> Iterator[KafkaProducer]:
    with ExitStack() as stack:
        with Broker(settings).errors():
            producer = stack.enter_context(
                open_client(
                    KafkaProducer,
                    settings,
                    acks="all",
                    enable_idempotence=True,  # a retry never doubles an event
                    # At a low rate an event leaves at once; at a high one it waits for company, and
                    # longest when all there are are to be sent.
                    linger_ms=20 if not rate else 10 if rate >= 200 else 0,
                    batch_size=_BATCH_BYTES,
                    max_request_size=8 * _BATCH_BYTES,
                    request_timeout_ms=settings.timeout_ms,
                    max_block_ms=settings.timeout_ms,
                    delivery_timeout_ms=3 * settings.timeout_ms,
                    reconnect_backoff_max_ms=settings.timeout_ms / 5,
                    metrics_enabled=False,
                )
            )
        # Events on their way are many objects: enough for full garbage collections, which need not
        # walk through everything that was there before (a tenth of the rate).
        gc.freeze()
        stack.callback(gc.unfreeze)
        try:
            yield producer
        except BaseException:
            leave_undelivered(producer)
            raise


class _Sending:
    """Sends events, and checks each delivery."""

    def __init__(
        self,
        producer: KafkaProducer,
        topic: str,
        partitions: list[int],
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._producer = producer
        self._topic = topic
        self._on_progress = on_progress
        self._next_report = 0.0
        self._pending: deque[tuple[Any, bytes | None, int | None]] = deque()
        self._encode = msgspec.json.Encoder().encode  # NaN becomes null

        # The default partitioner of all Kafka clients. Its hash is pure Python: remember results.
        @lru_cache(maxsize=2**16)
        def partition_of(key: bytes) -> int:
            return partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)]

        self._partition_of = partition_of

    def send(self, row: Row) -> None:
        """Send one event; returns before it is delivered."""
        loan_id = row.get("id")
        key = None if loan_id is None else str(loan_id).encode()
        partition = self._partition_of(key) if key else None
        event_time = datetime.now(UTC).isoformat(timespec="microseconds")
        value = self._encode({**application_of(row), "event_time": event_time})
        try:
            future = self._producer.send(self._topic, value, key, partition=partition)
        except KafkaError as error:
            raise self._failure(key, partition, error) from error
        self.sent += 1
        self._pending.append((future, key, partition))

    def settle_until(self, due: float, stop: Event) -> None:
        """Check deliveries until a time of the monotonic clock, or until stopped."""
        while (wait := due - time.monotonic()) > 0:
            if stop.wait(min(max(wait, _SHORTEST_WAIT_SECONDS), _TICK_SECONDS)):
                return
            self._settle()

    def make_room(self, stop: Event) -> None:
        """Check deliveries; wait for them while too many events are on their way."""
        self._settle()
        while len(self._pending) >= _MAX_IN_FLIGHT and not stop.is_set():
            self._await_oldest()

    def finish(self, seconds: float) -> None:
        """Wait until everything sent is delivered, or for so long. Raises DeliveryFailed."""
        deadline = time.monotonic() + seconds
        while self._pending:
            if time.monotonic() > deadline:
                _, key, partition = self._pending[0]
                raise self._failure(key, partition, f"no answer within {seconds:.0f} s")
            self._await_oldest()
        if self._on_progress:
            self._on_progress(self.acknowledged)

    def _await_oldest(self) -> None:
        with suppress(KafkaError):  # what became of it is for _settle to see
            self._pending[0][0].get(timeout=_TICK_SECONDS)
        self._settle()

    def _settle(self) -> None:
        """Take note of the deliveries whose outcome is known."""
        pending = self._pending
        while pending and pending[0][0].is_done:
            future, key, partition = pending.popleft()
            if future.exception is not None:
                raise self._failure(key, partition, future.exception)
            self.acknowledged += 1
        if self._on_progress and (now := time.monotonic()) >= self._next_report:
            self._next_report = now + _TICK_SECONDS
            self._on_progress(self.acknowledged)

    def _failure(
        self, key: bytes | None, partition: int | None, cause: BaseException | str
    ) -> DeliveryFailed:
        loan = "without id" if key is None else key.decode()
        where = self._topic if partition is None else f"{self._topic} partition {partition}"
        return DeliveryFailed(
            f"loan {loan} was not delivered to topic {where}: {cause} "
            f"({self.acknowledged} of {self.sent} events were)"
        )
