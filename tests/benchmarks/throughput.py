"""Events a second: the drain beside the least and the usual that can be done with the events."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from credit_risk_dagster.pipelines.loans import Row, builtin_loans
from tests.benchmarks.lab import BenchmarkFailed, Lab, OpenLab
from tests.benchmarks.report import Bar, Section, table

NAMES = {
    "a": "bare kafka-python poll",
    "b": "poll + COPY of ready rows",
    "c": "the drain",
    "d": "row at a time, pandas",
}
STAGES = {
    "fetch": "fetch",
    "decode": "decode",
    "score": "clean + score",
    "write": "copy",
    "commit": "commit",
}


@dataclass(frozen=True)
class Size:
    """How much to measure.

    Attributes:
        events: for (a), (b) and (c).
        row_events: for (d), which is hundreds of times slower.
        rounds: how often; (a), (b), (c), (d) take turns, so that a noisy minute hits all of them.
    """

    events: int
    row_events: int
    rounds: int


FULL = Size(events=300_000, row_events=2_000, rounds=5)
QUICK = Size(events=60_000, row_events=250, rounds=3)
SMALLEST = Size(events=500, row_events=20, rounds=1)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Measure all four, and compare."""
    return measure_loans("throughput", builtin_loans(), open_lab, size, say)


def measure_loans(
    name: str, loans: Iterable[Row], open_lab: OpenLab, size: Size, say: Callable[[str], None]
) -> Section:
    """As `measure`, with other loans, as the section of that name."""
    with open_lab() as lab:
        return _measure(name, loans, lab, size, say)


def _measure(
    section: str, loans: Iterable[Row], lab: Lab, size: Size, say: Callable[[str], None]
) -> Section:
    say(f"{section}: producing {size.events:,} events")
    kafka = lab.topic(loans, size.events)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    with TemporaryDirectory(prefix="credit-risk-bench-") as folder:
        rows = lab.run("prepare", kafka, events=size.events, folder=folder)["rows"]
        for number in range(1, size.rounds + 1):

            def turn(name: str, process: str, number: int = number, **options: Any) -> None:
                say(f"{section}: round {number} of {size.rounds}, {NAMES[name]}")
                with lab.database() as url:
                    runs[name].append(lab.run(process, kafka, url, **options))

            turn("a", "poll", events=size.events)
            turn("b", "copy", events=size.events, folder=folder)
            turn("c", "drain", session_seconds=900, idle_seconds=1)
            turn("d", "row_at_a_time", events=size.row_events)
    for name, expected in (("b", rows), ("c", rows)):
        if any(run["rows"] != expected for run in runs[name]):
            raise BenchmarkFailed(f"{NAMES[name]} did not write the {expected:,} rows")
    return _section(section, size, runs)


def _section(section: str, size: Size, runs: dict[str, list[dict[str, Any]]]) -> Section:
    rates = {name: [run["events"] / run["seconds"] for run in runs[name]] for name in NAMES}
    median = {name: statistics.median(found) for name, found in rates.items()}
    micros = {
        stage: 1e6 * statistics.median(r["busy_seconds"][stage] / r["events"] for r in runs["c"])
        for stage in STAGES
    }
    work = sum(micros.values())
    grid = table(
        f"{section.capitalize()}: {size.events:,} events, median of {size.rounds}",
        *("events/s", "lowest", "highest", "µs each", "share"),
    )
    for name, label in NAMES.items():
        grid.add_row(
            f"{name}  {label}",
            *(f"{rate:,.0f}" for rate in (median[name], min(rates[name]), max(rates[name]))),
            f"{1e6 / median[name]:,.1f}",
        )
        if name == "c":
            for stage, stage_label in STAGES.items():
                share = f"{100 * micros[stage] / work:.0f} %"
                grid.add_row(f"     {stage_label}", "", "", "", f"{micros[stage]:.1f}", share)
    grid.caption = "copy and commit run beside the other stages"
    to_b, to_d = median["c"] / median["b"], median["c"] / median["d"]
    results = {
        "events": size.events,
        "row_at_a_time_events": size.row_events,
        "rounds": size.rounds,
        "contenders": {
            name: {
                "name": label,
                "events_per_second_median": median[name],
                "events_per_second": rates[name],
            }
            for name, label in NAMES.items()
        },
        "drain_to_copy_ratio": to_b,
        "drain_to_row_at_a_time_ratio": to_d,
        "drain_microseconds_per_event_by_stage": micros,
        "drain_share_of_work_by_stage": {stage: spent / work for stage, spent in micros.items()},
        "drain_batches": runs["c"][0]["batches"],
        "note": "the drain from its first fetch to its last commit; write and commit are done by a "
        "second thread beside the other stages, so shares are of work, not of time",
    }
    bars = [
        Bar(
            f"{section}: the drain, in % of poll + COPY (c / b)", 100 * to_b, 85, "%", at_most=False
        ),
        Bar(
            f"{section}: the drain, in times of row at a time (c / d)",
            to_d,
            100,
            "x",
            at_most=False,
        ),
    ]
    return Section(section, results, grid, bars)
