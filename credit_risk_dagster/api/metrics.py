"""The platform's metrics for Prometheus.

Counters and histograms come from the ledger in Postgres: they outlive runs, and are the same from
every replica of the API. A scrape asks the warehouse, the broker and Dagster's storage at the same
time. Of one that is slow it tells the answer before; of one that does not answer,
`credit_risk_<name>_up` is 0 and the rest is left out.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from credit_risk_dagster.api.question import Question, Unanswered
from credit_risk_dagster.domain.latency import BOUNDS_SECONDS, STAGE_BOUNDS_SECONDS
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings, Settings, WarehouseSettings
from resources.dagster_storage import DagsterState, DagsterStorage
from resources.kafka.broker import Broker
from resources.kafka.watch import TopicState
from resources.postgres.connection import Warehouse, only_read
from resources.postgres.metrics import MetricsLedger, Row, Snapshot

PREFIX = "credit_risk_"
TIMEOUT_SECONDS = 2.0
# A server that needs longer than that is slow; one that needs longer than this is down. Its late
# answer is for the next scrape, as they come every 15 s.
PATIENCE_SECONDS = 10.0
KEPT_SECONDS = 30.0
# Several Prometheus servers, and impatient people, ask at the same time.
FRESH_SECONDS = 1.0
# Dagster's runs and ticks move every few seconds at most.
DAGSTER_FRESH_SECONDS = 5.0
# A verdict of drift as a number; too few rows for one is none.
DRIFT_LEVELS = {"stable": 0, "moderate": 1, "significant": 2}
STAGES = ("fetch", "decode", "score", "copy", "commit")

Labels = dict[str, str]
Value = tuple[Labels, float | None]


class PlatformCollector(Collector):
    """Collects at a scrape. Safe to use from any number of threads.

    Args:
        settings: where the servers are.
        timeout: most seconds that a scrape waits for one of them.
    """

    def __init__(self, settings: Settings, timeout: float | None = None) -> None:
        timeout = timeout or TIMEOUT_SECONDS
        self._committed: dict[int, int] = {}
        self._cluster_id = ""
        self._warehouse = Question(
            "the warehouse",
            lambda: _warehouse(settings.warehouse, settings.kafka.topic),
            timeout=timeout,
            fresh_for=FRESH_SECONDS,
            kept_for=KEPT_SECONDS,
        )
        self._broker = Question(
            "the broker",
            lambda: self._watch(settings.kafka),
            timeout=timeout,
            fresh_for=FRESH_SECONDS,
            kept_for=KEPT_SECONDS,
        )
        self._dagster = Question(
            "Dagster's storage",
            _dagster,
            timeout=timeout,
            fresh_for=DAGSTER_FRESH_SECONDS,
            kept_for=KEPT_SECONDS,
        )

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not ask the servers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, from what the servers say now."""
        started = time.perf_counter()
        dagster = self._dagster.ask()
        warehouse = self._warehouse.ask()
        try:
            snapshot = warehouse()
        except Unanswered:
            yield _up("warehouse", False)
        else:
            yield _up("warehouse", True)
            yield from _ledger(snapshot)
            self._committed = {p["partition"]: p["next_offset"] for p in snapshot.partitions}
            self._cluster_id = snapshot.partitions[0]["cluster_id"] if snapshot.partitions else ""
        try:
            topic, lag_since = self._broker.ask()()
        except Unanswered:
            yield _up("broker", False)
        else:
            yield _up("broker", True)
            yield from _stream(topic, self._progress(topic), lag_since)
        try:
            state = dagster()
        except Unanswered:
            yield _up("dagster", False)
        else:
            yield _up("dagster", True)
            yield from _orchestration(state)
        yield _gauge(
            "scrape_duration_seconds",
            "Seconds that this scrape took to ask all servers",
            [({}, time.perf_counter() - started)],
        )

    def _progress(self, topic: TopicState) -> dict[int, int]:
        """The next offset to process of each partition, as far as the warehouse has told."""
        known = self._committed if topic.cluster_id == self._cluster_id else {}
        return {p: known.get(p, beginning) for p, (beginning, _) in topic.offsets.items()}

    @contextmanager
    def _watch(
        self, settings: KafkaSettings
    ) -> Iterator[Callable[[], tuple[TopicState, dict[int, float]]]]:
        patient = settings.model_copy(update={"timeout_ms": round(PATIENCE_SECONDS * 1000)})
        with Broker(patient).watch() as watch:

            def look() -> tuple[TopicState, dict[int, float]]:
                topic = watch.state()
                waiting = {
                    partition: max(at, topic.offsets[partition][0])
                    for partition, at in self._progress(topic).items()
                    if at < topic.offsets[partition][1]
                }
                return topic, watch.timestamps(waiting) if waiting else {}

            yield look


@contextmanager
def _warehouse(settings: WarehouseSettings, topic: str) -> Iterator[Callable[[], Snapshot]]:
    with Warehouse(settings).session("metrics") as connection:
        only_read(connection, PATIENCE_SECONDS)
        yield MetricsLedger(connection, topic).read


@contextmanager
def _dagster() -> Iterator[Callable[[], DagsterState]]:
    import psycopg
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        url = getattr(instance.run_storage, "postgres_url", None)
    if url is None:
        raise PlatformError(
            "Dagster does not keep its runs in Postgres: see infra/dagster.yaml and DAGSTER_HOME"
        )
    with psycopg.connect(
        url, autocommit=True, connect_timeout=5, application_name="credit-risk metrics"
    ) as connection:
        only_read(connection, PATIENCE_SECONDS)
        yield DagsterStorage(connection).read


# --- what each server tells ---------------------------------------------------------------------


def _ledger(snapshot: Snapshot) -> Iterator[Metric]:
    totals = snapshot.totals
    yield _counter(
        "events",
        "Offsets of the topic that were committed, by what became of them",
        [({"outcome": name}, totals[name]) for name in ("scored", "rejected")]
        + [({"outcome": "gap"}, totals["gaps"])],
    )
    yield _counter(
        "decisions",
        "Applications scored from the stream, by risk tier",
        [({"tier": t}, totals[t.lower()]) for t in ("Low", "Elevated", "Watchlist")],
    )
    yield _counter(
        "rejects",
        "Events of the stream that could not be scored, by reason",
        [({"reason": reason}, events) for reason, events in snapshot.rejected.items()],
    )
    yield _counter(
        "redriven_events",
        "Rejected events that were scored later",
        [({}, totals["redriven"])],
    )
    yield _counter("batches", "Micro-batches committed", [({}, totals["batches"])])
    yield _counter(
        "event_bytes", "Bytes of the committed events' values", [({}, totals["value_bytes"])]
    )
    yield from _durations(totals)
    yield _gauge(
        "last_commit_timestamp_seconds",
        "When the newest micro-batch was committed; 0 before the first",
        [({}, totals["last_commit"] or 0)],
    )
    yield from _partitions(snapshot)
    yield from _reconciliation(snapshot.reconciliation)
    yield from _drift(snapshot)
    yield from _benchmark(snapshot)
    yield _gauge(
        "table_bytes",
        "Size of a table with its indexes, over all its time partitions",
        [({"table": table}, size) for table, size in snapshot.table_bytes.items()],
    )


def _reconciliation(found: Row) -> Iterator[Metric]:
    yield _gauge(
        "reconciliation_difference_offsets",
        "Offsets that were found missing or doubled in the tables, until somebody clears them",
        [({}, found["difference"])],
    )
    yield _gauge(
        "reconciliation_lag_offsets",
        "Committed offsets that were not counted in the tables yet",
        [({}, found["uncounted"])],
    )
    yield _gauge(
        "reconciliation_timestamp_seconds",
        "When offsets were last counted in the tables; all of them by the daily job, or new ones",
        [
            ({"scope": scope}, at)
            for scope, at in (("new", found["checked_at"]), ("all", found["everything_at"]))
        ],
    )


def _durations(totals: Row) -> Iterator[Metric]:
    yield _histogram(
        "event_to_commit_seconds",
        "Seconds from the broker's timestamp of an event to its commit",
        BOUNDS_SECONDS,
        [
            (
                {},
                totals["latency_buckets"] or [0] * (len(BOUNDS_SECONDS) + 1),
                totals["latency_sum_s"],
            )
        ],
    )
    width = len(STAGE_BOUNDS_SECONDS) + 1
    buckets = totals["stage_buckets"] or [0] * width * len(STAGES)
    sums = totals["stage_sum_ms"] or [0.0] * len(STAGES)
    yield _histogram(
        "batch_stage_duration_seconds",
        "Seconds of work that a micro-batch took, by stage",
        STAGE_BOUNDS_SECONDS,
        [
            ({"stage": stage}, buckets[i * width : (i + 1) * width], sums[i] / 1000)
            for i, stage in enumerate(STAGES)
        ],
    )


def _drift(snapshot: Snapshot) -> Iterator[Metric]:
    report = snapshot.drift
    if report is None:
        return
    yield _gauge(
        "drift_report_timestamp_seconds",
        "When the newest drift report was made",
        [({}, report["created_at"])],
    )
    yield _gauge(
        "drift_level",
        "Verdict of the newest drift report: 0 stable, 1 moderate, 2 significant",
        [({}, DRIFT_LEVELS.get(report["verdict"]))],
    )
    yield _gauge(
        "tier_psi",
        "Population stability index of the risk tiers, in the newest drift report",
        [({}, report["tier_psi"])],
    )
    features = [({"feature": row["feature"]}, row) for row in snapshot.features]
    yield _gauge(
        "psi",
        "Population stability index of a feature, in the newest drift report",
        [(labels, row["psi"]) for labels, row in features],
    )
    yield _gauge(
        "feature_drift_level",
        "Verdict on a feature in the newest drift report: 0 stable, 1 moderate, 2 significant",
        [(labels, DRIFT_LEVELS.get(row["verdict"])) for labels, row in features],
    )


def _benchmark(snapshot: Snapshot) -> Iterator[Metric]:
    if not snapshot.benchmark:
        return
    yield _gauge(
        "model_benchmark_timestamp_seconds",
        "When the rules and the models were last compared",
        [({}, snapshot.benchmark[0]["created_at"])],
    )
    for name, text in (
        ("auc", "Area under the ROC curve"),
        ("auc_low", "Lower end of the confidence interval of the area under the ROC curve"),
        ("auc_high", "Upper end of the confidence interval of the area under the ROC curve"),
        ("gini", "Gini coefficient"),
        ("ks", "Kolmogorov-Smirnov statistic"),
        ("brier", "Brier score"),
    ):
        yield _gauge(
            f"model_{name}",
            f"{text} of the rules or a model, in the newest benchmark",
            [({"subject": row["subject"]}, row[name]) for row in snapshot.benchmark],
        )


def _partitions(snapshot: Snapshot) -> Iterator[Metric]:
    now = time.time()
    rows = [({"partition": str(p["partition"])}, p) for p in snapshot.partitions]
    yield _gauge(
        "committed_offset",
        "The next offset to process",
        [(labels, p["next_offset"]) for labels, p in rows],
    )
    yield _gauge(
        "archive_lag_events",
        "Committed offsets that are not archived yet",
        [(labels, p["next_offset"] - p["archived"]) for labels, p in rows],
    )
    yield _gauge(
        "archive_lag_seconds",
        "Seconds since the commit of the oldest event that is not archived yet; 0 without one",
        [
            (
                labels,
                0.0 if p["unarchived_since"] is None else max(now - p["unarchived_since"], 0.0),
            )
            for labels, p in rows
        ],
    )


def _stream(
    topic: TopicState, progress: dict[int, int], lag_since: dict[int, float]
) -> Iterator[Metric]:
    now = time.time()
    ends = [(p, {"partition": str(p)}, end) for p, (_, end) in topic.offsets.items()]
    yield _gauge(
        "end_offset",
        "The next offset that the broker will give to an event",
        [(labels, end) for _, labels, end in ends],
    )
    lags = [(p, labels, max(end - progress[p], 0)) for p, labels, end in ends]
    yield _gauge(
        "lag_events",
        "Offsets in the broker that are not committed yet",
        [(labels, lag) for _, labels, lag in lags],
    )
    yield _gauge(
        "lag_seconds",
        "Seconds that the oldest event which is not committed has waited; 0 without one",
        [
            (labels, max(now - lag_since[p], 0.0) if lag and p in lag_since else 0.0)
            for p, labels, lag in lags
        ],
    )


def _orchestration(state: DagsterState) -> Iterator[Metric]:
    yield _gauge(
        "dagster_runs",
        "Runs that are not finished, and those that finished within an hour, by job and status",
        [({"job_name": r["job"], "status": r["status"]}, r["runs"]) for r in state.runs],
    )
    yield _gauge(
        "dagster_oldest_queued_run_seconds",
        "Seconds that the oldest run which has not begun to work has waited; 0 without one",
        [({}, state.oldest_waiting_seconds)],
    )
    yield _gauge(
        "dagster_daemon_heartbeat_timestamp_seconds",
        "When a daemon of Dagster last said that it is alive",
        [({"daemon": daemon}, at) for daemon, at in state.heartbeats.items()],
    )
    ticks = [({"name": tick["name"], "kind": tick["kind"]}, tick) for tick in state.ticks]
    yield _gauge(
        "dagster_last_tick_timestamp_seconds",
        "When a sensor or schedule that is not stopped was last evaluated",
        [(labels, tick["at"]) for labels, tick in ticks],
    )
    yield _gauge(
        "dagster_last_tick_failed",
        "Whether that evaluation failed",
        [(labels, float(tick["failed"])) for labels, tick in ticks],
    )


# --- Prometheus' families -----------------------------------------------------------------------


def _up(name: str, up: bool) -> Metric:
    return _gauge(f"{name}_up", f"Whether the {name} answers, be it slowly", [({}, float(up))])


def _gauge(name: str, text: str, values: Sequence[Value]) -> Metric:
    return _filled(GaugeMetricFamily(PREFIX + name, text, labels=_names(values)), values)


def _counter(name: str, text: str, values: Sequence[Value]) -> Metric:
    return _filled(CounterMetricFamily(PREFIX + name, text, labels=_names(values)), values)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Sequence[Value]
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in values:
        if value is not None:
            family.add_metric(list(labels.values()), float(value))
    return family


def _names(values: Sequence[Value]) -> list[str]:
    return list(values[0][0]) if values else []


def _histogram(
    name: str,
    text: str,
    bounds: Sequence[float],
    values: Sequence[tuple[Labels, Sequence[int], float]],
) -> Metric:
    """Of counts by bucket, one more than there are bounds."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=list(values[0][0]))
    edges = [*(str(float(bound)) for bound in bounds), "+Inf"]
    for labels, counts, total in values:
        cumulative = [float(count) for count in accumulate(counts)]
        family.add_metric(
            list(labels.values()), list(zip(edges, cumulative, strict=True)), sum_value=total
        )
    return family
