"""What the warehouse tells: the stream's totals, its reconciliation, the archive, the tables."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from credit_risk_dagster.api.metrics.families import counter, gauge, histogram
from credit_risk_dagster.domain.cases import (
    ACTIONS,
    AGE_WORDS,
    DISPOSITIONS,
    Closed,
    Overridden,
    overridden,
    precisions,
)
from credit_risk_dagster.domain.decoding import UNSTORABLE
from credit_risk_dagster.domain.latency import BOUNDS_SECONDS, STAGE_BOUNDS_SECONDS
from resources.postgres.metrics import Row, Snapshot

MOST_NAMES = 20
STAGES = ("fetch", "decode", "score", "copy", "commit")


def ledger_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Of a snapshot of the warehouse."""
    totals = snapshot.totals
    yield counter(
        "events",
        "Offsets of the topic that were committed, by what became of them",
        [({"outcome": name}, totals[name]) for name in ("scored", "rejected")]
        + [({"outcome": "gap"}, totals["gaps"]), ({"outcome": "lost"}, totals["lost"])],
    )
    yield counter(
        "decisions",
        "Decisions on the stream, by risk tier; a loan that is decided again counts again",
        [({"tier": t}, totals[t.lower()]) for t in ("Low", "Elevated", "Watchlist")],
    )
    yield counter(
        "rejects",
        "Events of the stream that could not be scored, by reason",
        [({"reason": reason}, events) for reason, events in snapshot.rejected.items()],
    )
    yield counter(
        "unstorable_events",
        "Events that Postgres refused to store, which are rejected for that",
        [({}, sum(snapshot.rejected.get(reason, 0) for reason in UNSTORABLE))],
    )
    yield counter(
        "redriven_events",
        "Rejected events that were scored later",
        [({}, totals["redriven"])],
    )
    yield counter(
        "forgotten_events",
        "Offsets whose row was deleted because its applicant was forgotten",
        [({}, totals["forgotten"])],
    )
    yield gauge(
        "lost_events_unacknowledged",
        "Events that the broker removed before they were scored, and of which nobody said to know",
        [({}, totals["lost_unknown"])],
    )
    yield from _cases(snapshot.cases)
    yield from _reviews(snapshot)
    yield counter("batches", "Micro-batches committed", [({}, totals["batches"])])
    yield counter(
        "event_bytes", "Bytes of the committed events' values", [({}, totals["value_bytes"])]
    )
    yield from _durations(totals)
    yield gauge(
        "last_commit_timestamp_seconds",
        "When the newest micro-batch was committed; 0 before the first",
        [({}, totals["last_commit"] or 0)],
    )
    yield from _partitions(snapshot)
    yield from _reconciliation(snapshot.reconciliation)
    yield gauge(
        "table_bytes",
        "Size of a table with its indexes, over all its time partitions",
        [({"table": table}, size) for table, size in snapshot.table_bytes.items()],
    )


def _cases(found: list[Row]) -> Iterator[Metric]:
    yield gauge(
        "cases",
        "Cases of the Watchlist that are not closed, by state",
        [
            ({"state": state}, sum(row["cases"] for row in found if row["state"] == state))
            for state in ("open", "in_review")
        ],
    )
    yield gauge(
        "cases_by_age",
        "Cases of the Watchlist that are not closed, by how long ago they were opened",
        [
            ({"age": age}, sum(row["cases"] for row in found if row["band"] == band))
            for band, age in enumerate(AGE_WORDS)
        ],
    )
    yield gauge(
        "cases_overdue",
        "Cases that are not closed, and should be",
        [({}, sum(row["cases"] for row in found if row["overdue"]))],
    )
    yield gauge(
        "cases_unassigned_since_timestamp_seconds",
        "When the oldest case that is nobody's was opened; 0 without one",
        [({}, min((row["opened_at"] for row in found if not row["assigned"]), default=0))],
    )


def _reviews(snapshot: Snapshot) -> Iterator[Metric]:
    closed = [Closed(**row) for row in snapshot.closed]
    yield gauge(
        "cases_closed",
        "Cases that were closed in 30 days, by what was found",
        [
            (
                {"disposition": found},
                sum(c.cases for c in closed if c.disposition == found and not c.rule),
            )
            for found in DISPOSITIONS
        ],
    )
    yield gauge(
        "case_precision",
        "Share of the cases closed in 30 days that were right, of those right or wrong, by rule; "
        "95 % interval",
        [
            ({"rule": one.rule or "all", "bound": bound}, value)
            for one in precisions(closed)
            for bound, value in vars(one.share).items()
            if not math.isnan(value)
        ],
    )
    acted = {row["action"]: row["times"] for row in snapshot.acted}
    yield counter(
        "case_actions",
        "What was done to cases: open and reopen are work that came in, close is what went out",
        [({"action": action}, acted.get(action, 0)) for action in ("open", *ACTIONS)],
    )
    people, rules = overridden(closed, "reviewer"), overridden(closed, "rule")
    yield gauge(
        "case_overrides",
        "Cases closed in 30 days, by whether that was other than the policy decided, and by rule; "
        "all is each case once",
        _overrides(people, "rule", lambda _: "all") + _overrides(rules, "rule"),
    )
    yield gauge(
        "case_overrides_by_reviewer",
        f"The same of the {MOST_NAMES} reviewers who closed most, and of the others together",
        _overrides(people, "reviewer"),
    )


def _overrides(
    found: list[Overridden], label: str, named: Callable[[str], str] = str
) -> list[tuple[dict[str, str], float]]:
    counts: Counter[tuple[str, str]] = Counter()
    for at, one in enumerate(found):
        # Names may be typed by hand: they are no endless series.
        name = named(one.of if at < MOST_NAMES else "others")
        kept = one.closed - one.up - one.down
        for direction, cases in (("up", one.up), ("down", one.down), ("none", kept)):
            counts[name, direction] += cases
    return [({label: name, "direction": way}, cases) for (name, way), cases in counts.items()]


def _reconciliation(found: Row) -> Iterator[Metric]:
    yield gauge(
        "reconciliation_difference_offsets",
        "Offsets that were found missing or doubled in the tables, until somebody clears them",
        [({}, found["difference"])],
    )
    yield gauge(
        "reconciliation_lag_offsets",
        "Committed offsets that were not counted in the tables yet",
        [({}, found["uncounted"])],
    )
    yield gauge(
        "reconciliation_timestamp_seconds",
        "When offsets were last counted in the tables; all of them by the daily job, or new ones",
        [
            ({"scope": scope}, at)
            for scope, at in (("new", found["checked_at"]), ("all", found["everything_at"]))
        ],
    )


def _durations(totals: Row) -> Iterator[Metric]:
    yield histogram(
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
    yield histogram(
        "batch_stage_duration_seconds",
        "Seconds of work that a micro-batch took, by stage",
        STAGE_BOUNDS_SECONDS,
        [
            ({"stage": stage}, buckets[i * width : (i + 1) * width], sums[i] / 1000)
            for i, stage in enumerate(STAGES)
        ],
    )


def _partitions(snapshot: Snapshot) -> Iterator[Metric]:
    now = time.time()
    rows = [({"partition": str(p["partition"])}, p) for p in snapshot.partitions]
    yield gauge(
        "committed_offset",
        "The next offset to process",
        [(labels, p["next_offset"]) for labels, p in rows],
    )
    yield gauge(
        "archive_lag_events",
        "Committed offsets that are not archived yet",
        [(labels, p["next_offset"] - p["archived"]) for labels, p in rows],
    )
    yield gauge(
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
