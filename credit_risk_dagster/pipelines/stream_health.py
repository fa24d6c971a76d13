"""Watching the stream itself: whether scoring keeps up, and whether the events look as before."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kafka.errors import OffsetOutOfRangeError

from credit_risk_dagster.domain.record_time import NO_TIME
from credit_risk_dagster.domain.stream_columns import Change, StreamColumns, changes, describe
from credit_risk_dagster.pipelines.status import stream_state
from credit_risk_dagster.settings import DrainSettings
from resources.kafka.broker import Broker
from resources.kafka.reader import Fetch
from resources.postgres.baselines import Baselines
from resources.postgres.connection import Warehouse
from resources.postgres.micro_batch import Ledger

_FEWEST_EVENTS = 50
_MAX_BYTES = 16 * 2**20
# Everything that is sampled is already on the broker.
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Backlog:
    """How far scoring is behind.

    Attributes:
        events: those that are on the broker and not committed.
        waited_seconds: since the oldest of them was sent; None when there is none to be read.
        silent_seconds: since an application was scored; None when none ever was.
        partitions: partition to (end offset, events that wait).
    """

    events: int
    waited_seconds: float | None
    silent_seconds: float | None
    partitions: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def is_stale(self, limit_seconds: float) -> bool:
        """Whether events wait and nothing is scored, both for longer than the limit. An event that
        has just come after a quiet hour is no reason to worry."""
        return self.events > 0 and all(
            seconds is None or seconds > limit_seconds
            for seconds in (self.waited_seconds, self.silent_seconds)
        )


def measure_backlog(
    broker: Broker, warehouse: Warehouse, patience: float = _PATIENCE_SECONDS
) -> Backlog:
    """How many events wait, and for how long.

    Args:
        patience: seconds that the broker may take to hand out the oldest.

    Raises:
        BrokerUnavailable, TopicMissing, TopicReplaced, WarehouseUnavailable, NotMigrated.
    """
    with broker.watch() as watch, warehouse.session("backlog") as connection:
        state = stream_state(watch, connection)
        source = state.source
        silent = Ledger(connection).silent_seconds(source.source_id) if source else None
    offsets, waiting = state.topic.offsets, state.waiting()
    # What retention removed before it was scored waits no longer.
    waiting = {p: min(waiting[p], end - first) for p, (first, end) in offsets.items()}
    partitions = {p: (end, waiting[p]) for p, (_, end) in offsets.items()}
    oldest = {p: end - waiting[p] for p, (_, end) in offsets.items() if waiting[p]}
    sent = [
        milliseconds / 1000
        for fetch in _read(broker, {p: (at, at + 1) for p, at in oldest.items()}, patience)
        for milliseconds in fetch.timestamps.tolist()
        if milliseconds != NO_TIME
    ]
    waited = max(0.0, time.time() - min(sent)) if sent else None
    return Backlog(sum(waiting.values()), waited, silent, partitions)


@dataclass(frozen=True)
class SchemaComparison:
    """What the newest events look like, and what changed since the baseline first met them.

    Attributes:
        baseline_id: of the active baseline; None without one.
        before: what it recorded; None when it just did so for the first time.
    """

    now: StreamColumns
    baseline_id: int | None = None
    before: StreamColumns | None = None
    found: list[Change] = field(default_factory=list)

    @property
    def too_few(self) -> bool:
        return self.now.events < _FEWEST_EVENTS


def compare_schema(broker: Broker, warehouse: Warehouse, sample_events: int) -> SchemaComparison:
    """Compare the columns of the newest events with those that the active baseline recorded; the
    first look at a baseline records them.

    Raises:
        BrokerUnavailable, TopicMissing, TopicReplaced, WarehouseUnavailable, NotMigrated.
    """
    now = describe(newest_events(broker, sample_events))
    with warehouse.session("schema") as connection:
        baselines = Baselines(connection)
        active = baselines.active()
        if active is None or now.events < _FEWEST_EVENTS:
            return SchemaComparison(now, active.baseline_id if active else None)
        recorded = baselines.stream_columns(active.baseline_id)
        if recorded is None:
            baselines.set_stream_columns(active.baseline_id, vars(now))
            return SchemaComparison(now, active.baseline_id)
    before = StreamColumns(**recorded)
    return SchemaComparison(now, active.baseline_id, before, changes(before, now))


def newest_events(broker: Broker, events: int) -> list[bytes | None]:
    """The newest events of the topic, evenly of its partitions: at most so many, and 16 MiB."""
    filled = {p: bounds for p, bounds in broker.inspect().offsets.items() if bounds[0] < bounds[1]}
    each = math.ceil(events / max(len(filled), 1))
    newest = {p: (max(first, end - each), end) for p, (first, end) in filled.items()}
    return [value for fetch in _read(broker, newest) for value in fetch.values]


def _read(
    broker: Broker, ranges: Mapping[int, tuple[int, int]], patience: float = _PATIENCE_SECONDS
) -> Iterator[Fetch]:
    """Read offset ranges by partition, until their end, 16 MiB, or so many seconds of silence."""
    if not ranges:
        return
    limits = DrainSettings.model_construct(
        max_batch_events=sum(end - first for first, end in ranges.values()),
        max_batch_bytes=_MAX_BYTES,
        poll_interval_ms=50,
    )
    ends = {partition: end for partition, (_, end) in ranges.items()}
    positions = {partition: first for partition, (first, _) in ranges.items()}
    size, moved = 0, time.monotonic()
    with broker.reader(limits) as reader:
        reader.seek(positions, ends)
        while size < _MAX_BYTES and any(positions[p] < ends[p] for p in ends):
            try:
                fetch = reader.fetch()
            except OffsetOutOfRangeError:  # retention was faster
                return
            if fetch.ranges:
                positions |= {reached.partition: reached.next for reached in fetch.ranges}
                size += fetch.value_bytes
                moved = time.monotonic()
                yield fetch
            elif time.monotonic() - moved > patience:
                return
