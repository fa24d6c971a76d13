"""Time and memory of a drift report, and how both grow with the window."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from credit_risk_dagster.pipelines.loans import builtin_loans
from infra.embedded.servers import S3
from tests.benchmarks.lab import BenchmarkFailed, Lab, OpenLab
from tests.benchmarks.report import Bar, Section, table


@dataclass(frozen=True)
class Size:
    """The smaller window, which has the bars, the larger one, how often each is reported, and of
    how many loans they are made."""

    fewer: int
    rows: int
    rounds: int
    loans: int = 10_000


FULL = Size(fewer=100_000, rows=1_000_000, rounds=3)
QUICK = Size(fewer=100_000, rows=300_000, rounds=1)
SMALLEST = Size(fewer=300, rows=900, rounds=1, loans=200)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Report windows of 100,000 rows and of the most, each in a process of its own, without and
    with the HTML."""
    with open_lab() as lab, S3() as s3:
        lab.variables |= s3.variables()
        return _measure(lab, size, say)


def _measure(lab: Lab, size: Size, say: Callable[[str], None]) -> Section:
    say(f"drift: {size.loans:,} real loans, scored")
    kafka = lab.topic(builtin_loans(), size.loans)
    windows = (size.fewer, size.rows)
    runs: dict[int, list[dict[str, Any]]] = {rows: [] for rows in windows}
    with lab.database() as url:
        lab.run("drain", kafka, url, session_seconds=900, idle_seconds=1)
        say(f"drift: {size.rows:,} scored applications made of them")
        lab.run("multiply_scored", kafka, url, rows=size.rows)
        for _ in range(size.rounds):
            for rows in windows:
                say(f"drift: a report of {rows:,} applications")
                runs[rows].append(lab.run("drift", kafka, url, rows=rows))
        say("drift: its HTML")
        html = lab.run("drift", kafka, url, rows=size.fewer, html=True)
    if any(run["rows"] != rows for rows, found in runs.items() for run in found):
        raise BenchmarkFailed(f"a report did not have its rows: {runs}")
    best = {rows: min(found, key=lambda run: run["seconds"]) for rows, found in runs.items()}
    peak = {rows: max(run["peak_mb"] for run in found) for rows, found in runs.items()}
    grid = table(f"Drift report: best of {size.rounds}", "seconds", "peak MB", "before it, MB")
    for name, run in (
        *((f"{rows:,} applications", run) for rows, run in best.items()),
        (f"{size.fewer:,}, and its HTML ({html['html_seconds']:.1f} s more)", html),
    ):
        grid.add_row(name, *(f"{run[k]:,.3g}" for k in ("seconds", "peak_mb", "before_mb")))
    growth = best[size.rows]["seconds"] / best[size.fewer]["seconds"] / (size.rows / size.fewer)
    bars = [
        Bar(f"report of {size.fewer:,} rows", best[size.fewer]["seconds"], 5, "s", at_most=True),
        Bar("its peak memory, without HTML", peak[size.fewer], 600, "MB", at_most=True),
        Bar(f"peak memory of {size.rows:,} rows", peak[size.rows], 600, "MB", at_most=True),
        Bar(f"time a row, {size.rows:,} to {size.fewer:,} rows", growth, 1.2, "x", at_most=True),
    ]
    results = {"runs": {str(rows): found for rows, found in runs.items()}, "html": html}
    return Section("drift", results, grid, bars)
