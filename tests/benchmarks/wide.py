"""Events a second, as `throughput`, of events like LendingClub's own: all of their 151 columns."""

import itertools
import json
from collections.abc import Callable

from credit_risk_dagster.pipelines.loans import Row, builtin_loans
from credit_risk_dagster.settings import PROJECT_ROOT
from tests.benchmarks import throughput
from tests.benchmarks.lab import OpenLab
from tests.benchmarks.report import Section
from tests.benchmarks.throughput import Size

_RAW = PROJECT_ROOT / "tests" / "data" / "lendingclub_raw_sample.jsonl"

FULL = Size(events=100_000, row_events=2_000, rounds=5)
QUICK = Size(events=60_000, row_events=250, rounds=3)
SMALLEST = Size(events=500, row_events=20, rounds=1)


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Measure what `throughput` does, with wide events."""
    return throughput.measure_loans("wide", wide_loans(), open_lab, size, say)


def wide_loans() -> tuple[Row, ...]:
    """The built-in loans, each with the columns that it lacks of a real row."""
    rows = itertools.cycle([json.loads(line) for line in _RAW.read_text().splitlines()])
    return tuple(row | loan for row, loan in zip(rows, builtin_loans(), strict=False))
