"""Growth: whether what the platform does takes as long with a long history as without one.

The history is of the source that is drained, in time partitions of months as by default, or of what
CREDIT_RISK_PARTITION_SPAN says; the last 24 hours are the same with each. So what looks at the
newest only must not become slower. What the dashboard shows of 30 days or more has more to show,
and only the dashboard's own bar.
"""

import shutil
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from tempfile import gettempdir
from typing import Any

import numpy as np
import psycopg

from credit_risk_dagster.pipelines import producer
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import KafkaSettings
from infra.embedded.servers import S3
from resources.postgres.connection import Warehouse
from tests.benchmarks.history import fill
from tests.benchmarks.lab import BenchmarkFailed, Lab, OpenLab, warehouse_settings
from tests.benchmarks.report import Bar, Section, table

LOANS = 10_000  # drained, and of which the history is made
WINDOW = 5_000  # of a drift report, by default
DRAIN = "drain, events/s"
# Of a measurement: of how many the median is, or a percentile of all of them together.
NAMES = {
    "drain": DRAIN,
    "commit": "event to commit, p95, ms",
    "check": "check after a run, ms",
    "archive": "archive run, s",
    "drift": "drift report, s",
    "scrape": "scrape, p95, ms",
    "pages": "dashboard, slowest page of 24 hours, ms",
    "more": "dashboard, slowest page of more, ms",
}
# Pages that show or count what there is of more than a day; cases by a rule are those of all time.
MORE = ("30 d", "all", "figures", "a rule")
DAYS_A_MONTH = 365.25 / 12
_BYTES_A_ROW = 450  # with what filling needs besides
FLAT_PERCENT, DRAIN_PERCENT, FIRST_PAINT_MS = 120.0, 90.0, 1_500.0


@dataclass(frozen=True)
class Size:
    """How much history, beside none; over how many days; events a round; seconds of a stream of 100
    events a second; and how often."""

    history: tuple[int, ...]
    days: int
    recent: int
    events: int
    seconds: float
    rounds: int


FULL = Size(
    (10_000_000, 100_000_000), days=365, recent=40_000, events=200_000, seconds=20, rounds=3
)
QUICK = Size((1_000_000,), days=90, recent=20_000, events=60_000, seconds=8, rounds=3)
SMALLEST = Size((4_000,), days=31, recent=800, events=2_000, seconds=1, rounds=1)


@dataclass
class Level:
    """A database with so much history, and what was measured in it."""

    history: int
    kafka: KafkaSettings
    url: str
    found: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in NAMES})
    bytes_per_row: float = 0.0


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Fill the databases, then measure them in turns."""
    size = _that_fits(size, say)
    with ExitStack() as stack:
        lab, s3 = stack.enter_context(open_lab()), stack.enter_context(S3())
        lab.variables |= s3.variables()
        levels = []
        for history in (0, *size.history):
            say(f"growth: filling {history:,} applications of {size.days} days")
            levels.append(prepare(lab, stack.enter_context(lab.database()), history, size))
        return measured(lab, levels, size, say)


def _that_fits(size: Size, say: Callable[[str], None]) -> Size:
    """The size, with as much less of its longest history as the disk for temporary files needs."""
    free = shutil.disk_usage(gettempdir()).free
    *shorter, most = size.history
    while most and _BYTES_A_ROW * (sum(shorter) + most) > free:
        most //= 2
    if most < max(size.history):
        gigabytes = f"{free / 1e9:.0f} GB free in {gettempdir()}"
        say(f"growth: {most:,} applications for {max(size.history):,}: {gigabytes}")
    return replace(size, history=(*shorter, most))


def prepare(lab: Lab, url: str, history: int, size: Size) -> Level:
    """A database with a history: drained, archived, with a baseline of drift, and then filled."""
    level = Level(history, lab.topic(builtin_loans(), min(LOANS, size.events)), url)
    lab.run("drain", level.kafka, url, session_seconds=900, idle_seconds=1)
    lab.run("archive", level.kafka, url)
    lab.run("drift", level.kafka, url, rows=WINDOW)
    warehouse = Warehouse(warehouse_settings(url))
    span = warehouse_settings(url).partition_span
    spans = size.days if span == "day" else round(size.days / DAYS_A_MONTH)
    fill(warehouse.connect, history, span, spans, size.recent)
    with warehouse.session() as connection:
        level.bytes_per_row = _bytes_per_row(connection)
    return level


def _bytes_per_row(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute(
        "SELECT sum(pg_total_relation_size(relid))"
        " / (SELECT sum(scored) FROM stream_offsets)::float8"
        " FROM pg_partition_tree('scored_applications') WHERE isleaf"
    ).fetchone()
    return float(row[0]) if row else 0.0


def measured(lab: Lab, levels: list[Level], size: Size, say: Callable[[str], None]) -> Section:
    """Measure everything in each database, in turns, so that a noisy minute hits all of them."""
    for number in range(size.rounds):
        for level in (*levels[number % len(levels) :], *levels[: number % len(levels)]):
            say(f"growth: round {number + 1} of {size.rounds}, {level.history:,} applications")
            _round(lab, level, size)
    return _section(levels, size)


def _round(lab: Lab, level: Level, size: Size) -> None:
    producer.produce(level.kafka, builtin_loans(), max_events=size.events, loop=True)

    def run(name: str, **options: Any) -> dict[str, Any]:
        return lab.run(name, level.kafka, level.url, **options)

    drained = run("drain", session_seconds=900, idle_seconds=1)
    if drained["events"] != size.events:
        raise BenchmarkFailed(f"{drained['events']:,} of {size.events:,} events were drained")
    stream = {"rate": 100, "seconds": size.seconds, "session_seconds": 900, "idle_seconds": 2}
    pages = run("pages", rounds=1)
    more = {name for name in pages if any(of in name for of in MORE)}
    for name, figure in (
        ("drain", drained["events"] / drained["seconds"]),
        ("check", 1000 * run("check_new")["seconds"]),
        ("archive", run("archive")["whole_seconds"]),
        ("drift", run("drift", rows=WINDOW)["seconds"]),
        ("scrape", run("scrapes", count=20)["milliseconds"]),
        ("commit", run("paced", **stream)["milliseconds"]),
        ("pages", {name: found["first_ms"] for name, found in pages.items() if name not in more}),
        ("more", {name: pages[name]["first_ms"] for name in more}),
    ):
        level.found[name].append(figure)


def _figure(found: list[Any]) -> float:
    """Of all rounds together."""
    if isinstance(found[0], list):
        return float(np.percentile(np.concatenate(found), 95))
    if isinstance(found[0], dict):
        return max(statistics.median(of[page] for of in found) for page in found[0])
    return float(statistics.median(found))


def _section(levels: list[Level], size: Size) -> Section:
    grid = table(
        f"Growth: median of {size.rounds}, by applications of {size.days} days before",
        *(f"{level.history:,}" for level in levels),
    )
    figures = {
        name: {level.history: _figure(level.found[name]) for level in levels} for name in NAMES
    }
    for name, label in NAMES.items():
        grid.add_row(label, *(f"{figure:,.4g}" for figure in figures[name].values()))
    none, *filled = levels
    bars = []
    for level in filled:
        for name, label in NAMES.items():
            share = 100 * figures[name][level.history] / figures[name][none.history]
            is_rate = name == "drain"
            if name == "more":
                worst = figures[name][level.history]
                bars.append(
                    Bar(f"{label}, of {level.history:,}", worst, FIRST_PAINT_MS, "ms", True)
                )
                continue
            limit = DRAIN_PERCENT if is_rate else FLAT_PERCENT
            what = f"{label.rpartition(',')[0]}, with {level.history:,}, in % of none"
            bars.append(Bar(what, share, limit, "%", at_most=not is_rate))
    grid.caption = ", ".join(
        f"{level.bytes_per_row:,.0f} bytes a row with indexes" for level in levels[-1:]
    )
    results = {
        str(level.history): {"found": level.found, "bytes_per_row": level.bytes_per_row}
        for level in levels
    }
    return Section("growth", {"levels": results}, grid, bars)
