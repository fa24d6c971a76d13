"""How far the pipeline is behind the topic, from the broker's offsets and the committed ones."""

import logging
import time
from collections import deque
from dataclasses import dataclass, field

import streamlit as st

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.status import partition_status
from credit_risk_dagster.settings import KafkaSettings, WarehouseSettings

_logger = logging.getLogger(__name__)

# The page is waiting: rather no lag than a slow page.
TIMEOUT_MS = 1_000
QUIET_SECONDS = 30.0
SAMPLES = 60


@dataclass(frozen=True)
class Lag:
    """Events in the topic that are not committed.

    Attributes:
        events: of all partitions; None when the broker does not answer.
        by_partition: of the topic's newest source.
        topic: that the dashboard looks at.
        words: what a viewer should know about it.
        history: the last figures, oldest first, since somebody opened the dashboard.
    """

    events: int | None
    by_partition: dict[int, int]
    topic: str
    words: str
    history: tuple[int, ...]


@dataclass
class _Memory:
    """What all viewers' pages remember: the last figures, and when to ask the broker again."""

    history: deque[int] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    quiet_until: float = 0.0


@st.cache_resource
def _memory() -> _Memory:
    return _Memory()


@st.cache_data(ttl=5, show_spinner=False)
def consumer_lag() -> Lag:
    """The lag now. A broker that does not answer is left alone for half a minute: the page would
    wait for it each time."""
    settings = KafkaSettings()
    memory = _memory()
    unknown = Lag(None, {}, settings.topic, "the broker does not answer", tuple(memory.history))
    if time.monotonic() < memory.quiet_until:
        return unknown
    try:
        status = partition_status(
            settings.model_copy(update={"timeout_ms": TIMEOUT_MS}),
            WarehouseSettings().of_dashboard(),
        )
    except PlatformError as error:
        _logger.warning("%s", error)
        memory.quiet_until = time.monotonic() + QUIET_SECONDS
        return unknown
    by_partition = {row["partition"]: row["lag"] for row in status["partitions"]}
    memory.history.append(sum(by_partition.values()))
    return Lag(
        memory.history[-1],
        by_partition,
        settings.topic,
        f"in {len(by_partition)} partitions",
        tuple(memory.history),
    )
