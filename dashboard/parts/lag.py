"""How far the pipeline is behind the topic, from the broker's offsets and the committed ones."""

import logging
import time
from collections import deque
from dataclasses import dataclass, field

import streamlit as st

from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.status import partition_status
from credit_risk_dagster.pipelines.stream_health import measure_backlog
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings
from resources.kafka.broker import Broker
from resources.kafka.errors import (
    BrokerRefused,
    BrokerUnavailable,
    TopicMissing,
    TopicReplaced,
    UnreadableBatch,
)
from resources.postgres.connection import NotMigrated, Warehouse, WarehouseUnavailable

_logger = logging.getLogger(__name__)

# The page is waiting: rather no lag than a slow page.
TIMEOUT_MS = 1_000
QUIET_SECONDS = 30.0
SAMPLES = 60


@dataclass(frozen=True)
class Lag:
    """Events in the topic that are not committed.

    Attributes:
        events: of all partitions; None when that is not known, and `words` say why.
        by_partition: of the topic's newest source.
        topic: that the dashboard looks at.
        words: what a viewer should know about it.
        history: the last figures, oldest first, since somebody opened the dashboard.
        waited_seconds: how long the oldest of them waits, where nothing moves; else None.
        halted: the topic is missing, or not the one that was scored.
    """

    events: int | None
    by_partition: dict[int, int]
    topic: str
    words: str
    history: tuple[int, ...]
    waited_seconds: float | None = None
    halted: bool = False


@dataclass
class _Memory:
    """What all viewers' pages remember: the last figures, how much was committed then, what went
    wrong, when to ask again."""

    history: deque[int] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    quiet_until: float = 0.0
    trouble: str = ""
    halted: bool = False
    committed: int = -1


# Their messages name hosts and commands, which are for the log.
WORDS: dict[type[PlatformError], str] = {
    BrokerUnavailable: f"the broker did not answer within {TIMEOUT_MS / 1000:g} s",
    BrokerRefused: "the broker answers, and does not let the dashboard in",
    UnreadableBatch: "the topic has a batch that cannot be read",
    TopicMissing: "the topic does not exist",
    TopicReplaced: "the topic was recreated or cut short: nothing is scored",
    WarehouseUnavailable: "Postgres does not answer",
    NotMigrated: "the tables are of another version",
}


def in_words(error: PlatformError) -> str:
    """What a viewer should know about an error."""
    for kind, words in WORDS.items():
        if isinstance(error, kind):
            return words
    return f"not known: {type(error).__name__}"


@st.cache_resource
def _memory() -> _Memory:
    return _Memory()


@st.cache_data(ttl=5, show_spinner=False)
def consumer_lag() -> Lag:
    """The lag now. What went wrong is left alone for half a minute: the page would wait for it each
    time."""
    settings = KafkaSettings()
    memory = _memory()
    if time.monotonic() < memory.quiet_until:
        return _not_known(settings, memory)
    impatient = settings.model_copy(update={"timeout_ms": TIMEOUT_MS})
    reader = WarehouseSettings().of_dashboard()
    waited = None
    try:
        status = partition_status(impatient, reader)
        committed = sum(row["committed"] for row in status["partitions"])
        stands, memory.committed = committed == memory.committed, committed
        if stands and any(row["lag"] for row in status["partitions"]):
            backlog = measure_backlog(Broker(impatient), Warehouse(reader), patience=1.0)
            waited = backlog.waited_seconds
    except PlatformError as error:
        _logger.warning("%s", error)
        memory.quiet_until = time.monotonic() + QUIET_SECONDS
        memory.trouble = in_words(error)
        memory.halted = isinstance(error, TopicMissing | TopicReplaced)
        return _not_known(settings, memory)
    by_partition = {row["partition"]: row["lag"] for row in status["partitions"]}
    memory.history.append(sum(by_partition.values()))
    return Lag(
        memory.history[-1],
        by_partition,
        settings.topic,
        f"in {counted(len(by_partition), 'partition')}",
        tuple(memory.history),
        waited,
    )


def _not_known(settings: KafkaSettings, memory: _Memory) -> Lag:
    history = tuple(memory.history)
    return Lag(None, {}, settings.topic, memory.trouble, history, halted=memory.halted)
