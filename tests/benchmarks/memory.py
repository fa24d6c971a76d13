"""Peak memory of a drain run's process, and that it does not depend on how much there is to do."""

from collections.abc import Callable, Iterator

from credit_risk_dagster.domain.decoding import Event
from credit_risk_dagster.pipelines.loans import Row, builtin_loans
from tests.benchmarks.lab import BenchmarkFailed, OpenLab
from tests.benchmarks.report import Bar, Section, table

FULL = (50_000, 1_000_000)
QUICK = (50_000, 200_000)
SMALLEST = (200, 400)


def measure(open_lab: OpenLab, sizes: tuple[int, int], say: Callable[[str], None]) -> Section:
    """Execute the job once over few and once over many events, all of them there beforehand."""
    runs = []
    for events in sizes:
        # Servers of its own for each: the broker keeps what it has in memory.
        with open_lab() as lab, lab.database() as url:
            say(f"memory: producing {events:,} events")
            kafka = lab.topic(list(_small_loans()), events)
            say(f"memory: a drain run over {events:,} events")
            run = lab.run("job", kafka, url, session_seconds=1500, idle_seconds=1)
        if run["events"] != events:
            raise BenchmarkFailed(f"the run processed {run['events']:,} of {events:,} events")
        runs.append(run)
    grid = table("Memory of a drain run", "peak MB", "before it drains, MB", "micro-batches")
    for run in runs:
        grid.add_row(
            f"{run['events']:,} events",
            *(f"{run['peak_mb']:.0f}", f"{run['before_mb']:.0f}", f"{run['batches']:,}"),
        )
    peaks = [run["peak_mb"] for run in runs]
    difference = 100 * (max(peaks) / min(peaks) - 1)
    bars = [
        Bar("peak memory of a drain run", max(peaks), 400, "MB", at_most=True),
        Bar(f"its difference, {sizes[0]:,} and {sizes[1]:,} events", difference, 10, "%", True),
    ]
    note = "1 MB is 10^6 bytes; peak is the kernel's VmHWM of the process, Dagster included"
    return Section(
        "memory", {"runs": runs, "difference_percent": difference, "note": note}, grid, bars
    )


def _small_loans() -> Iterator[Row]:
    """Only the columns that are used: the broker has to keep a million events in memory."""
    for row in builtin_loans():
        yield {name: row[name] for name in Event.__struct_fields__ if name in row}
