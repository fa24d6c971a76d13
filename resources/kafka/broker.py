"""A topic of a broker: connections to look at it, and to read it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError

from credit_risk_dagster.settings import DrainSettings, KafkaSettings
from resources.kafka.client import open_client
from resources.kafka.errors import BrokerUnavailable, refused
from resources.kafka.reader import Reader
from resources.kafka.watch import Identity, TopicState, Watch

# A batch is closed after `max_batch_bytes`; one fetch response more may be in memory beside it.
_PARTITION_FETCH_BYTES = 4 * 2**20
# A watch looks at single records. In a fetch session, a broker leaves out what has not changed
# since the last answer, the high watermark too.
_WATCH = {
    "fetch_max_bytes": 2**16,
    "max_partition_fetch_bytes": 2**14,
    "enable_incremental_fetch_sessions": False,
}


class Broker:
    """A topic of a Kafka-API broker."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.topic = settings.topic

    def inspect(self, committed: Mapping[int, int] | None = None) -> TopicState:
        """Ask for the topic's identity and offsets.

        Args:
            committed: the next offset of partitions, read before, as `Watch.state` takes them.

        Raises:
            BrokerUnavailable: no answer within the configured time, or access is refused.
            TopicMissing: the topic does not exist.
            TopicReplaced: it ends before a committed offset.
        """
        with self.watch() as watch:
            return watch.state(committed or {})

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Keep connections for asking for the topic's state again and again."""
        with self.errors(), self.identity() as identity, self._consumer(**_WATCH) as consumer:
            yield Watch(self.topic, consumer, identity, self._settings.timeout_ms)

    @contextmanager
    def reader(
        self, limits: DrainSettings, *, of: TopicState | None = None, whole: bool = False
    ) -> Iterator[Reader]:
        """Open a reader.

        Args:
            of: the topic that it is bound to; by default the one that it sees first.
            whole: records come with all that they have.

        Raises:
            TopicReplaced: the topic is not that one any more.
        """
        with (
            self.errors(),
            self.identity() as identity,
            self._consumer(
                fetch_max_bytes=limits.max_batch_bytes,
                max_partition_fetch_bytes=min(limits.max_batch_bytes, _PARTITION_FETCH_BYTES),
            ) as consumer,
        ):
            yield Reader(self.topic, consumer, identity, limits, self.inspect, of=of, whole=whole)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the client's errors into BrokerUnavailable or BrokerRefused."""
        try:
            yield
        except (KafkaError, OSError) as error:
            raise (
                refused(error, self._settings)
                or BrokerUnavailable(self._settings.bootstrap_servers, error)
            ) from error

    @contextmanager
    def identity(self) -> Iterator[Identity]:
        """A connection for asking who the broker is."""
        timeout_ms = self._settings.timeout_ms
        with open_client(KafkaAdminClient, self._settings, request_timeout_ms=timeout_ms) as admin:
            yield Identity(self.topic, admin, timeout_ms)

    @contextmanager
    def _consumer(self, **options: Any) -> Iterator[KafkaConsumer]:
        with open_client(
            KafkaConsumer,
            self._settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",  # an aborted transaction's events never happened
            metrics_enabled=False,
            **options,
        ) as consumer:
            yield consumer
