"""The archive beside a bare loop of the same work, and the rebuild beside the drain."""

import io
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from credit_risk_dagster.domain.decoding import Event
from credit_risk_dagster.domain.lake_rows import raw_rows
from credit_risk_dagster.pipelines.loans import Row, builtin_loans, endless
from infra.embedded.servers import S3
from resources.parquet_files import COMPRESSION_LEVEL
from tests.benchmarks.lab import BenchmarkFailed, OpenLab
from tests.benchmarks.report import Bar, Section, table

NAMES = {
    "drain": "the drain",
    "bare_archive": "poll + write Parquet + put_object",
    "archive": "the archive",
    "rebuild": "the rebuild",
}
LEVELS = (1, 3, 6, 9)
ROW_GROUPS_MIB = (1, 4, 32)


@dataclass(frozen=True)
class Size:
    """How many events to archive, how often, and with how many to compare compressions."""

    events: int
    rounds: int
    compressed: int


FULL = Size(events=1_000_000, rounds=3, compressed=50_000)
QUICK = Size(events=300_000, rounds=3, compressed=20_000)
SMALLEST = Size(events=500, rounds=1, compressed=100)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Drain a topic, archive it, and score the archive again; each in a process of its own."""
    say("archive: comparing compressions")
    compressions = list(_compressions(size.compressed))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    with open_lab() as lab:
        say(f"archive: producing {size.events:,} events")
        kafka = lab.topic(list(_small_loans()), size.events)
        for number in range(1, size.rounds + 1):
            with lab.database() as url, S3() as s3:  # a new one: the table knows what it has
                lab.variables |= s3.variables()
                for name, options in (
                    ("drain", {"session_seconds": 1500, "idle_seconds": 1}),
                    ("bare_archive", {}),
                    ("archive", {}),
                    ("rebuild", {}),
                ):
                    say(f"archive: round {number} of {size.rounds}, {NAMES[name]}")
                    run = lab.run(name, kafka, url, **options)
                    if run["events"] != size.events:
                        raise BenchmarkFailed(f"{NAMES[name]} did {run['events']:,} events")
                    runs[name].append(run)
    return _section(size, runs, compressions)


def _small_loans() -> Iterator[Row]:
    """Only the columns that are used: the broker has to keep a million events in memory."""
    for row in builtin_loans():
        yield {name: row[name] for name in Event.__struct_fields__ if name in row}


def _compressions(events: int) -> Iterator[dict[str, Any]]:
    """Ratio and speed of writing whole loans (all columns) in several ways."""
    values: list[bytes | None] = [
        msgspec.json.encode(loan) for loan in islice(endless(builtin_loans()), events)
    ]
    keys: list[bytes | None] = [b"127000001"] * events
    moments = np.full(events, 1_700_000_000_000)
    clocks, headers = np.zeros(events, np.int64), [None] * events
    columns = np.zeros(events, np.int32), np.arange(events), moments, keys, values, moments
    rows = pa.Table.from_batches([raw_rows(*columns, clocks, headers)])
    raw = sum(len(value or b"") for value in values)
    for level in LEVELS:
        for mib in ROW_GROUPS_MIB:
            file = io.BytesIO()
            started = time.perf_counter()
            pq.write_table(
                rows,
                file,
                row_group_size=max(1, mib * 2**20 * events // raw),
                compression="zstd",
                compression_level=level,
                use_dictionary=["partition"],
                write_statistics=["partition", "offset", "timestamp"],
            )
            yield {
                "level": level,
                "row_group_mib": mib,
                "ratio": raw / file.tell(),
                "mb_per_second": raw / (time.perf_counter() - started) / 1e6,
            }


def _section(
    size: Size, runs: dict[str, list[dict[str, Any]]], compressions: list[dict[str, Any]]
) -> Section:
    rates = {
        name: statistics.median(run["events"] / run["seconds"] for run in runs[name])
        for name in NAMES
    }
    archived = runs["archive"][0]
    bytes_each = archived["value_bytes"] / size.events
    grid = table(
        f"Archive: {size.events:,} events, median of {size.rounds}", "events/s", "MB/s", "peak MB"
    )
    peak = max(run["peak_mb"] for run in runs["archive"])
    decided = statistics.median(
        run["decisions"] / run["decision_seconds"] for run in runs["archive"]
    )
    for name, label in NAMES.items():
        megabytes = f"{rates[name] * bytes_each / 1e6:,.0f}"
        grid.add_row(
            label, f"{rates[name]:,.0f}", megabytes, f"{peak:.0f}" if name == "archive" else ""
        )
        if name == "archive":
            grid.add_row("its decisions, after the events", f"{decided:,.0f}")
    for found in compressions:
        grid.add_row(
            f"zstd {found['level']}, row groups of {found['row_group_mib']} MiB",
            "",
            f"{found['mb_per_second']:,.0f}",
            f"{found['ratio']:.1f} : 1",
        )
    ratio = archived["value_bytes"] / archived["bytes"]
    grid.caption = (
        f"{archived['objects']} objects, {archived['bytes'] / 1e6:,.0f} MB, compressed "
        f"{ratio:.1f} : 1 at level {COMPRESSION_LEVEL}; MB/s of event bytes"
    )
    results = {
        "events": size.events,
        "events_per_second_median": rates,
        "decisions_per_second_median": decided,
        "compression_ratio": ratio,
        "compressions": compressions,
        "runs": runs,
    }
    bars = [
        Bar(
            "archiving, in % of poll + write Parquet + put_object",
            100 * rates["archive"] / rates["bare_archive"],
            80,
            "%",
            at_most=False,
        ),
        Bar("peak memory of archiving", peak, 300, "MB", at_most=True),
        Bar("the rebuild, in % of the drain", 100 * rates["rebuild"] / rates["drain"], 100, "%",
            at_most=False),
    ]  # fmt: skip
    return Section("archive", results, grid, bars)
