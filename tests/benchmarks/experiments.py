"""Experiments: what two shadows cost the drain, and what a split does."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from credit_risk_dagster.pipelines.loans import builtin_loans
from tests.benchmarks.lab import BenchmarkFailed, Lab, OpenLab
from tests.benchmarks.report import Bar, Section, table

NAMES = {
    "": "the drain",
    "shadows": "the same with two shadows",
    "split": "the same with a split of 50 %",
}


@dataclass(frozen=True)
class Size:
    """How many events the drain scores, with and without, in turns; and how often."""

    events: int
    rounds: int


FULL = Size(events=300_000, rounds=7)
QUICK = Size(events=100_000, rounds=5)
SMALLEST = Size(events=500, rounds=1)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Drain with no candidate, with two shadows, and with a split."""
    with open_lab() as lab:
        return _measure(lab, size, say)


def _measure(lab: Lab, size: Size, say: Callable[[str], None]) -> Section:
    say(f"experiments: producing {size.events:,} events")
    kafka = lab.topic(builtin_loans(), size.events)
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    differing = 0
    for number in range(1, size.rounds + 1):
        for name, words in NAMES.items():
            say(f"experiments: round {number} of {size.rounds}, {words}")
            with lab.database() as url:
                run = lab.run(
                    "drain", kafka, url, experiments=name, session_seconds=900, idle_seconds=1
                )
            if name == "shadows":
                if run["beside"] != 2 * run["events"]:
                    raise BenchmarkFailed(f"shadows saw {run['beside']:,} of {run['events']:,}")
                differing = run["differing"]
            rates[name].append(run["events"] / run["seconds"])
    return _section(size, rates, differing)


def _section(size: Size, rates: dict[str, list[float]], differing: int) -> Section:
    grid = table(
        f"Experiments: {size.events:,} events, median of {size.rounds}", "events/s", "cost"
    )
    results: dict[str, object] = {"differing_rows": differing}
    costs = {}
    for name, words in NAMES.items():
        # Neighbours in time, so that a noisy minute hits both.
        pairs = zip(rates[""], rates[name], strict=True)
        costs[name] = statistics.median(100 * (1 - with_ / without) for without, with_ in pairs)
        grid.add_row(
            words, f"{statistics.median(rates[name]):,.0f}", f"{costs[name]:.1f} %" if name else ""
        )
        results[f"events_per_second_{name or 'without'}"] = rates[name]
    results["cost_percent"] = costs
    grid.caption = f"the shadows differ on {differing:,} applications"
    bars = [Bar("two shadows, cost in throughput", costs["shadows"], 10, "%", at_most=True)]
    return Section("experiments", results, grid, bars)
