"""What waits in the topic, by what the broker says and by what the drain saw of its ends.

The broker is asked, and may be late or away. The drain writes with each batch where the topic
ended, so lag is known all the same; of each partition the newer of the two counts, with its age.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from credit_risk_dagster.api.metrics.families import gauge
from credit_risk_dagster.api.question import Told
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.broker import Broker
from resources.kafka.errors import BrokerRefused, TopicMissing
from resources.kafka.watch import OpenTransaction, TopicState, Watch
from resources.postgres.metrics import Row, Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """The topic as the broker had it.

    Attributes:
        topic: None when there is none of that name, or when the broker refuses to tell.
        waiting: partition to the next offset to process, of those that had it, and since when it
            waits (Unix time).
        held: partition to the open transaction behind which nothing can be read, and since when it
            is seen (Unix time).
        replaced: it is not the topic whose offsets are committed: recreated, or cut short.
        refused: the broker answers, and does not let this client in, or not to the topic.
    """

    topic: TopicState | None
    waiting: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    held: Mapping[int, tuple[OpenTransaction, float]] = field(default_factory=dict)
    replaced: bool = False
    refused: bool = False


class TopicWatch:
    """Looks at the topic over connections that stay, and compares it with what is committed."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._committed: dict[int, int] = {}
        self._source: tuple[str, str | None] = ("", None)
        self._waiting: dict[int, tuple[int, float]] = {}
        self._held: dict[int, tuple[OpenTransaction, float]] = {}
        self._doubt = False

    def learn(self, snapshot: Snapshot) -> None:
        """Take what is committed. Before the broker is asked: a drain commits in between, and what
        is read later would be ahead of the broker's answer."""
        rows = snapshot.partitions
        self._committed = {row["partition"]: row["next_offset"] for row in rows}
        self._source = (rows[0]["cluster_id"], rows[0]["topic_id"]) if rows else ("", None)

    @contextmanager
    def connect(self) -> Iterator[Callable[[], Look]]:
        """Connect to the broker; the value looks. A broker that refuses is no broker that is down:
        that is what is seen, once, and then to connect again is due."""
        broker = Broker(self._settings)
        with ExitStack() as stack:
            refusals = iter([Look(None, refused=True)])
            try:
                watch = stack.enter_context(broker.watch())
            except BrokerRefused as error:
                log.warning("%s", error)
                yield lambda: next(refusals)
            else:
                yield lambda: self._look(broker, watch)

    def _look(self, broker: Broker, watch: Watch) -> Look:
        committed, source = self._committed, self._source
        try:
            with broker.errors():
                topic = watch.state()
        except TopicMissing:
            return Look(None)
        except BrokerRefused:
            return Look(None, refused=True)
        known = committed if topic.cluster_id == source[0] else {}
        recreated = bool(known and source[1] and topic.topic_id and source[1] != topic.topic_id)
        short = any(at > topic.end(p) for p, at in known.items())
        # A broker may hand out events beyond the end that it names. What stays is true.
        replaced, self._doubt = recreated or (short and self._doubt), short
        positions = {p: max(known.get(p, 0), first) for p, (first, _) in topic.offsets.items()}
        waiting = {p: at for p, at in positions.items() if at < topic.offsets[p][1]}
        now = time.time()
        unread = {p: (at, topic.offsets[p][1]) for p, at in waiting.items()}
        sent = watch.timestamps(unread) if unread else {}
        before = self._waiting
        self._waiting = {
            # A record's timestamp is its producer's, who may have had none.
            p: (at, sent[p])
            if 0 < sent.get(p, 0) <= now
            else (before[p] if before.get(p, (None,))[0] == at else (at, now))
            for p, at in waiting.items()
        }
        self._held = {
            p: (found, self._held_since(p, found, now))
            for p, found in topic.open_transactions.items()
        }
        return Look(topic, self._waiting, self._held, replaced)

    def _held_since(self, partition: int, found: OpenTransaction, now: float) -> float:
        """Since when a transaction holds back what is behind it: what the broker tells of its
        producer, or the first time that it was seen."""
        before, since = self._held.get(partition, (None, now))
        seen = since if before and before.first_offset == found.first_offset else now
        return min(seen, found.last_write or now)


def stream_metrics(snapshot: Snapshot | None, told: Told[Look]) -> Iterator[Metric]:
    """Ends and lag, as far as anybody has told of them; and whether the topic is the right one."""
    now = time.time()
    if look := told.answer:
        yield from _state(look)
        yield from _transactions(look, now)
    topic = look.topic if look else None
    rows: dict[int, Row] = (
        {row["partition"]: row for row in snapshot.partitions} if snapshot else {}
    )
    if topic and any(row["cluster_id"] != topic.cluster_id for row in rows.values()):
        rows = {}  # of another cluster that had the address before
    ends = {
        p: (row["end_offset"], row["end_seen_at"])
        for p, row in rows.items()
        if row["end_offset"] is not None
    }
    for p, (_, end) in topic.offsets.items() if topic else ():
        if p not in ends or told.at >= ends[p][1]:
            ends[p] = (end, told.at)
    firsts = {p: first for p, (first, _) in topic.offsets.items()} if topic else {}
    lags: dict[int, tuple[int, float]] = {}
    for p, (end, seen) in ends.items():
        committed = rows[p]["next_offset"] if p in rows else firsts[p]
        at, since = look.waiting.get(p, (-1, 0.0)) if look else (-1, 0.0)
        if at < committed:  # that one is committed meanwhile, or was never seen waiting
            since = seen
        lag = max(end - max(committed, firsts.get(p, 0)), 0)
        lags[p] = (lag, max(now - since, 0.0) if lag else 0.0)
    yield from _ends_and_lags(ends, lags, now)


def _state(look: Look) -> Iterator[Metric]:
    for name, text, state in (
        (
            "topic_missing",
            "Whether the broker has no topic of the configured name",
            look.topic is None and not look.refused,
        ),
        (
            "topic_replaced",
            "Whether the topic was recreated or cut short, so that nothing of it is scored",
            look.replaced,
        ),
        (
            "broker_refuses",
            "Whether the broker answers and does not let this client in, or not to the topic",
            look.refused,
        ),
    ):
        yield gauge(name, text, [({}, float(state))])


def _ends_and_lags(
    ends: Mapping[int, tuple[int, float]], lags: Mapping[int, tuple[int, float]], now: float
) -> Iterator[Metric]:
    labels = {p: {"partition": str(p)} for p in sorted(ends)}
    yield gauge(
        "end_offset",
        "The next offset that the broker will give to an event",
        [(labels[p], ends[p][0]) for p in labels],
    )
    yield gauge(
        "end_offset_age_seconds",
        "Seconds since the broker or a drain's fetch told where the partition ends",
        [(labels[p], max(now - ends[p][1], 0.0)) for p in labels],
    )
    yield gauge(
        "lag_events",
        "Offsets in the broker that are not committed yet",
        [(labels[p], lags[p][0]) for p in labels],
    )
    yield gauge(
        "lag_seconds",
        "Seconds that the oldest event which is not committed has waited; 0 without one",
        [(labels[p], lags[p][1]) for p in labels],
    )


def _transactions(look: Look, now: float) -> Iterator[Metric]:
    rows = []
    for p in sorted(look.topic.offsets) if look.topic else ():
        labels = {"partition": str(p), "producer_id": ""}
        if p not in look.held:
            rows.append((labels, 0, 0.0))
            continue
        found, since = look.held[p]
        if found.producer_id is not None:
            labels["producer_id"] = str(found.producer_id)
        rows.append((labels, found.waiting, max(now - since, 0.0)))
    yield gauge(
        "open_transaction_offsets",
        "Offsets that nobody can read until a producer's transaction is over; no part of the lag",
        [(labels, waiting) for labels, waiting, _ in rows],
    )
    yield gauge(
        "open_transaction_seconds",
        "Seconds since its producer wrote last, or since it is seen; 0 without one",
        [(labels, seconds) for labels, _, seconds in rows],
    )
