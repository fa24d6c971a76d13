"""Each application once, and each Watchlist decision a case: what both cost the drain.

In processor time of the run and of Postgres, which others on the machine disturb less than a rate.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from credit_risk_dagster.pipelines.loans import builtin_loans
from tests.benchmarks.lab import BenchmarkFailed, Lab, OpenLab
from tests.benchmarks.report import Bar, Section, table

WITHOUT = "off, without cases"
WAYS: dict[str, dict[str, Any]] = {
    WITHOUT: {"deduplicate": "off", "cases": False},
    "off": {"deduplicate": "off"},
    "key": {"deduplicate": "key"},
    "content": {"deduplicate": "content"},
}


@dataclass(frozen=True)
class Size:
    """Events that are drained in each way, in turns, and how often."""

    events: int
    rounds: int


FULL = Size(events=300_000, rounds=7)
QUICK = Size(events=100_000, rounds=5)
SMALLEST = Size(events=500, rounds=1)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Drain the same events, of which none repeats another, in each way."""
    with open_lab() as lab:
        return _measure(lab, size, say)


def _measure(lab: Lab, size: Size, say: Callable[[str], None]) -> Section:
    say(f"once: producing {size.events:,} events")
    kafka = lab.topic(builtin_loans(), size.events)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    micros: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(size.rounds):
        # Neighbours in time, so that a noisy minute hits all; and none is always the first.
        ways, at = list(WAYS), number % len(WAYS)
        for way in (*ways[at:], *ways[:at]):
            say(f"once: round {number + 1} of {size.rounds}, {way}")
            with lab.database() as url:
                run = lab.run("drain", kafka, url, **WAYS[way], session_seconds=900, idle_seconds=1)
            if run["rows"] != size.events:
                raise BenchmarkFailed(f"{size.events - run['rows']:,} events count as repeated")
            rates[way].append(run["events"] / run["seconds"])
            micros[way].append(1e6 * run["processor_seconds"] / run["events"])
    grid = table(f"Each once: {size.events:,} events", "events/s", "µs each", "cost")
    least = {way: min(found) for way, found in micros.items()}
    for way in WAYS:
        grid.add_row(
            f"deduplicate={way}",
            f"{statistics.median(rates[way]):,.0f}",
            f"{least[way]:.2f}",
            f"{100 * (least[way] / least['off'] - 1):+.1f} %",
        )
    grid.caption = f"µs of processors, of the run and of Postgres: the least of {size.rounds}"
    content = 100 * (least["content"] / least["off"] - 1)
    cases = 100 * (least["off"] / least[WITHOUT] - 1)
    bars = [
        Bar("knowing repeated content, cost in processor time", content, 5, "%", at_most=True),
        Bar("opening cases, cost in processor time", cases, 2, "%", at_most=True),
    ]
    results = {"events_per_second": rates, "processor_microseconds_per_event": micros}
    return Section("once", results, grid, bars)
