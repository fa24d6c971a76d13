"""The model: what its PD costs the drain, the memory of training, and the time of the benchmark."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from credit_risk_dagster.pipelines.loans import builtin_loans
from tests.benchmarks.lab import BenchmarkFailed, Lab, OpenLab
from tests.benchmarks.report import Bar, Section, table


@dataclass(frozen=True)
class Size:
    """How much to measure.

    Attributes:
        events: that the drain scores, with and without a model, in turns.
        rounds: how often.
        loans: scored applications with an outcome, to train on.
    """

    events: int
    rounds: int
    loans: int


FULL = Size(events=300_000, rounds=5, loans=1_000_000)
QUICK = Size(events=100_000, rounds=5, loans=100_000)
SMALLEST = Size(events=500, rounds=1, loans=4_000)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Drain with and without a model; then train and measure on scored applications."""
    with open_lab() as lab:
        return _measure(lab, size, say)


def _measure(lab: Lab, size: Size, say: Callable[[str], None]) -> Section:
    say(f"model: producing {size.events:,} events")
    kafka = lab.topic(builtin_loans(), size.events)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for number in range(1, size.rounds + 1):
        for with_model in (False, True):
            say(f"model: round {number} of {size.rounds}, {'with' if with_model else 'without'} PD")
            with lab.database() as url:
                run = lab.run(
                    "drain", kafka, url, model=with_model, session_seconds=900, idle_seconds=1
                )
            if with_model and run["with_pd"] != run["rows"]:
                raise BenchmarkFailed(f"{run['rows'] - run['with_pd']:,} rows have no PD")
            rates[with_model].append(run["events"] / run["seconds"])
    with lab.database() as url:
        say(f"model: {size.loans:,} scored applications")
        lab.run("scored_loans", kafka, url, rows=size.loans)
        say(f"model: training on {size.loans:,} loans")
        training = lab.run("train", kafka, url, rows=size.loans)
    return _section(size, rates, training)


def _section(size: Size, rates: dict[bool, list[float]], training: dict[str, Any]) -> Section:
    # Neighbours in time, so that a noisy minute hits both.
    costs = [100 * (1 - b / a) for a, b in zip(rates[False], rates[True], strict=True)]
    cost = statistics.median(costs)
    without, with_pd = (statistics.median(rates[key]) for key in (False, True))
    grid = table("The model", "", "")
    grid.add_row(f"drain of {size.events:,} events", f"{without:,.0f}", "events/s")
    grid.add_row("the same with PD and reasons", f"{with_pd:,.0f}", "events/s")
    grid.add_row(f"reading {training['loans']:,} loans", f"{training['read_seconds']:.1f}", "s")
    for kind, seconds in training["train_seconds"].items():
        grid.add_row(f"training {kind.replace('_', ' ')}", f"{seconds:.1f}", "s")
    grid.add_row("benchmark tables", f"{training['benchmark_seconds']:.1f}", "s")
    grid.add_row("peak memory", f"{training['peak_mb']:,.0f}", "MB")
    grid.caption = "training: five folds, out of time and the whole, in one thread"
    bars = [
        Bar("PD on the stream, cost in throughput", cost, 10, "%", at_most=True),
        Bar(f"training on {size.loans:,} rows", training["peak_mb"], 2_000, "MB", at_most=True),
        Bar(
            f"benchmark tables, {size.loans:,} rows",
            *(training["benchmark_seconds"], 60, "s"),
            at_most=True,
        ),
    ]
    results = {
        "events_per_second_without": rates[False],
        "events_per_second_with": rates[True],
        "cost_percent_by_round": costs,
        "training": training,
    }
    return Section("model", results, grid, bars)
