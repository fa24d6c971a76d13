"""Lanes: drains side by side, how long they wait for each other, and what processors do for it."""

import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from psycopg import sql

from credit_risk_dagster.domain.lanes import lane_of
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import is_awaited, lock_partitions
from resources.postgres.sources import Sources
from tests.benchmarks.lab import BenchmarkFailed, Lab, OpenLab, warehouse_settings
from tests.benchmarks.report import Bar, Section, table

# Lanes, and most events of a batch: with small ones, all of them update the rollup all the time.
ARMS: dict[str, tuple[int, int | None]] = {
    "1 lane": (1, None),
    "2 lanes": (2, None),
    "4 lanes": (4, None),
    "1 lane, batches of 500": (1, 500),
    "1 lane, batches of 500, without sums of hours": (1, 500),
    "4 lanes, batches of 500": (4, 500),
}
PARTITIONS = 8
WITHOUT_SUMS = "without sums of hours"
WHOSE = ("drain", "Postgres", "broker")
# Postgres alone, into which rows are copied that were made before; and what is in the definition of
# the indexes that it has not got then.
INDEXES = {
    "COPY of ready rows": "",
    "COPY, without the index of loans": "(loan_id)",
    "COPY, with the primary key alone": "(",
}

_SECONDARY = """
SELECT i.indexrelid::regclass::name, pg_get_indexdef(i.indexrelid) FROM pg_index i
WHERE i.indrelid = 'scored_applications'::regclass AND NOT i.indisprimary
"""
_WRITTEN = """
SELECT pg_current_wal_lsn() - %(since)s::pg_lsn,
    (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('scored_applications')
     WHERE isleaf)
"""

# A wait of over `deadlock_timeout`, which it is told when it is over; and what it was for.
_WAITED = re.compile(r"LOG:  process \d+ acquired \w+ on .* after ([\d.]+) ms")
_TABLE = re.compile(r'relation (?:"(?P<name>\w+)"|(?P<oid>\d+))')


@dataclass(frozen=True)
class Size:
    """Events that every number of lanes drains, in turns, and how often."""

    events: int
    rounds: int


FULL = Size(events=300_000, rounds=3)
QUICK = Size(events=60_000, rounds=3)
SMALLEST = Size(events=800, rounds=1)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Drain the same topic in each way, each time into an empty database."""
    with open_lab() as lab:
        say(f"lanes: producing {size.events:,} events")
        kafka = lab.topic(builtin_loans(), size.events, PARTITIONS)
        runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for number in range(1, size.rounds + 1):
            for arm, (lanes, most) in ARMS.items():
                say(f"lanes: round {number} of {size.rounds}, {arm}")
                batches = {"max_batch_events": most} if most else {}
                with lab.database() as url:
                    if WITHOUT_SUMS in arm:
                        _drop_sums(url)
                    runs[arm].append(_drain(lab, kafka, url, lanes, size.events, batches))
        copies: dict[str, list[dict[str, float]]] = {arm: [] for arm in INDEXES}
        with TemporaryDirectory(prefix="credit-risk-bench-") as folder:
            lab.run("prepare", kafka, events=size.events, folder=folder)
            for arm in (*INDEXES,) * size.rounds:
                say(f"lanes: {arm}")
                with lab.database() as url:
                    copies[arm].append(_copy(lab, kafka, url, arm, size.events, folder))
    return _section(size, runs, copies)


def _drop_sums(url: str) -> None:
    """The trigger that adds what a minute's row got to its hour's."""
    with closing(Warehouse(warehouse_settings(url)).connect("benchmark")) as connection:
        connection.execute("DROP TRIGGER risk_by_minute_sum_up ON risk_by_minute")


def _copy(
    lab: Lab, kafka: KafkaSettings, url: str, arm: str, events: int, folder: str
) -> dict[str, float]:
    """What the rows cost Postgres: seconds of processors, WAL, and their place with indexes."""
    with closing(Warehouse(warehouse_settings(url)).connect("benchmark")) as connection:
        for name, definition in connection.execute(_SECONDARY).fetchall():
            if INDEXES[arm] and INDEXES[arm] in definition:
                connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
        connection.execute("CHECKPOINT")
        (wal,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or ("",)
        before = lab.processor_seconds()["Postgres"]
        run = lab.run("copy", kafka, url, events=events, folder=folder)
        seconds = lab.processor_seconds()["Postgres"] - before
        (written, size) = connection.execute(_WRITTEN, {"since": wal}).fetchone() or (0, 0)
    rows = run["rows"]
    return {
        "rows_per_second": rows / run["seconds"],
        "processor_seconds_per_million": 1e6 * seconds / rows,
        "wal_bytes_per_row": float(written) / rows,
        "bytes_per_row": float(size) / rows,
    }


def _drain(
    lab: Lab,
    kafka: KafkaSettings,
    url: str,
    lanes: int,
    events: int,
    batches: dict[str, int],
) -> dict[str, Any]:
    """Let the lanes go at the same moment: as soon as all of them stand in line for theirs."""
    with (
        closing(Warehouse(warehouse_settings(url)).connect("benchmark")) as gate,
        ThreadPoolExecutor(lanes) as pool,
        lab.postgres_log() as log,
    ):
        name = gate.info.dbname
        gate.execute(f"ALTER DATABASE {name} SET log_lock_waits = on")
        gate.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '1ms'")
        source_id = Sources(gate).register(Broker(kafka).inspect()).source_id
        lock_partitions(gate, source_id, range(PARTITIONS), 1)
        session: dict[str, Any] = {"session_seconds": 900, "idle_seconds": 1, **batches}
        waiting = [
            pool.submit(partial(lab.run, "drain", kafka, url, lane=lane, lanes=lanes, **session))
            for lane in range(lanes)
        ]
        _await_all(gate, source_id, waiting)
        before = lab.processor_seconds()
        gate.execute("SELECT pg_advisory_unlock_all()")
        runs = [run.result() for run in waiting]
        after = lab.processor_seconds()
        tables = dict(gate.execute("SELECT oid::text, relname::text FROM pg_class").fetchall())
    done = sum(run["events"] for run in runs)
    if done != events:
        raise BenchmarkFailed(f"{lanes} lanes drained {done:,} of {events:,} events")
    used = {name: after[name] - before[name] for name in before}
    used["drain"] = sum(run["own_processor_seconds"] for run in runs)
    return {
        "seconds": max(run["ended"] for run in runs) - min(run["began"] for run in runs),
        "batches": sum(run["batches"] for run in runs),
        "processor_seconds_per_million": {who: 1e6 * used[who] / events for who in WHOSE},
        "lock_waits_ms": lock_waits(log, tables),
    }


def _await_all(
    gate: psycopg.Connection[Any], source_id: int, waiting: list[Future[dict[str, Any]]]
) -> None:
    lanes = len(waiting)
    for lane, run in enumerate(waiting):
        first = [partition for partition in range(PARTITIONS) if lane_of(partition, lanes) == lane]
        while not is_awaited(gate, source_id, first):
            if run.done():
                run.result()
                raise BenchmarkFailed(f"lane {lane} of {lanes} did not wait for its partitions")
            time.sleep(0.05)


def lock_waits(log: Iterable[str], tables: Mapping[str, str]) -> dict[str, list[float]]:
    """Milliseconds of each wait for a lock that Postgres logged, by the table that it was for.
    Those for lanes are none: it is how they begin.

    Args:
        tables: oid to name.
    """
    found: dict[str, list[float]] = {}
    waited = None
    for line in log:
        if started := _WAITED.search(line):
            waited = None if "advisory lock" in line else float(started[1])
        if waited is not None and (named := _TABLE.search(line)):
            name = named["name"] or tables.get(named["oid"], named["oid"])
            found.setdefault(name, []).append(waited)
            waited = None
    return found


def _section(
    size: Size,
    runs: dict[str, list[dict[str, Any]]],
    copies: dict[str, list[dict[str, float]]],
) -> Section:
    grid = table(
        f"Lanes: {size.events:,} events, median of {size.rounds}",
        *("events/s", "lock waits", "ms each", "% of time", *(f"{who}, s" for who in WHOSE)),
    )
    rates, shares, results = {}, {}, {}
    for arm, found in runs.items():
        lanes, _ = ARMS[arm]
        rates[arm] = statistics.median(size.events / run["seconds"] for run in found)
        waits = [ms for run in found for of in run["lock_waits_ms"].values() for ms in of]
        # Of the time that all lanes together had.
        shares[arm] = sum(waits) / 10 / lanes / sum(run["seconds"] for run in found)
        used = {
            who: statistics.median(run["processor_seconds_per_million"][who] for run in found)
            for who in WHOSE
        }
        grid.add_row(
            arm,
            *(f"{rates[arm]:,.0f}", f"{len(waits) / size.rounds:.1f}"),
            *(f"{statistics.fmean(waits or [0]):.1f}", f"{shares[arm]:.1f}"),
            *(f"{used[who]:.1f}" for who in WHOSE),
        )
        results[arm] = {
            "events_per_second": rates[arm],
            "lock_waits": len(waits) / size.rounds,
            "lock_wait_share_percent": shares[arm],
            "processor_seconds_per_million": used,
            "runs": found,
        }
    tables = sorted({t for found in runs.values() for run in found for t in run["lock_waits_ms"]})
    grid.caption = (
        "seconds of processors for a million events; waits of over 1 ms, "
        f"for {', '.join(tables) or 'nothing'}"
    )
    for arm, of_it in copies.items():
        median = {name: statistics.median(run[name] for run in of_it) for name in of_it[0]}
        seconds = f"{median['processor_seconds_per_million']:.1f}"
        grid.add_row(arm, f"{median['rows_per_second']:,.0f}", "", "", "", "", seconds, "")
        grid.caption += (
            f"; {arm}: {median['bytes_per_row']:,.0f} bytes a row,"
            f" {median['wal_bytes_per_row']:,.0f} of WAL"
        )
        results[arm] = median
    two = 100 * rates["2 lanes"] / rates["1 lane"]
    bars = [
        Bar("two lanes, in % of one", two, 120, "%", at_most=False),
        *(
            Bar(
                f"waits for locks of {arm}, in % of time",
                shares[arm],
                most,
                "%",
                at_most=True,
            )
            for arm, most in (("4 lanes", 2), ("4 lanes, batches of 500", 10))
        ),
    ]
    return Section("lanes", {"events": size.events, "arms": results}, grid, bars)
