"""The drain and a Postgres that is not on the same machine: events a second, by its distance."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from credit_risk_dagster.pipelines.loans import builtin_loans
from tests.benchmarks.lab import OpenLab
from tests.benchmarks.report import Bar, Section, table
from tests.platform.far_away import far_away

MILLISECONDS = (0.0, 0.1, 2.5, 12.0)


@dataclass(frozen=True)
class Size:
    """Events that are drained over each distance, in turns, and how often."""

    events: int
    rounds: int


FULL = Size(events=300_000, rounds=3)
QUICK = Size(events=100_000, rounds=3)
SMALLEST = Size(events=500, rounds=1)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Drain the same events over each distance; all of them cross the same proxy."""
    rates: dict[float, list[float]] = {distance: [] for distance in MILLISECONDS}
    with open_lab() as lab:
        say(f"distance: producing {size.events:,} events")
        kafka = lab.topic(builtin_loans(), size.events)
        for number in range(size.rounds):
            for distance in MILLISECONDS:
                say(f"distance: round {number + 1} of {size.rounds}, {distance:g} ms")
                with lab.database() as url, far_away(url, distance / 1000) as there:
                    run = lab.run("drain", kafka, there.url, session_seconds=900, idle_seconds=1)
                    rates[distance].append(run["events"] / run["seconds"])
    grid = table(
        f"Distance: {size.events:,} events, median of {size.rounds}", "events/s", "of 0 ms"
    )
    median = {distance: statistics.median(found) for distance, found in rates.items()}
    for distance, rate in median.items():
        grid.add_row(f"{distance:g} ms", f"{rate:,.0f}", f"{100 * rate / median[0.0]:.0f} %")
    farthest = MILLISECONDS[-1]
    bars = [
        Bar(
            f"the drain over {farthest:g} ms, in % of it over none",
            *(100 * median[farthest] / median[0.0], 80, "%"),
            at_most=False,
        )
    ]
    results = {"events_per_second": {f"{distance:g} ms": r for distance, r in rates.items()}}
    return Section("distance", results, grid, bars)
