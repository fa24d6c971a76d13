"""Every benchmark works: once, in its smallest size, at which the figures mean nothing."""

import io
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY
from infra.embedded.servers import Broker, Postgres
from tests.benchmarks import __main__ as command
from tests.benchmarks import lanes, row_at_a_time
from tests.benchmarks.__main__ import Name, measure
from tests.benchmarks.lab import BenchmarkFailed, Lab, open_broker
from tests.benchmarks.report import Bar, Section, bars_table, exit_code, table

# What a section has to tell: the rows of its table, and its bars.
TOLD: dict[Name, tuple[list[str], list[str]]] = {
    **{
        name: (
            [
                *("a  bare kafka-python poll", "b  poll + COPY of ready rows", "c  the drain"),
                *(
                    f"     {stage}"
                    for stage in ("fetch", "decode", "clean + score", "copy", "commit")
                ),
                "d  row at a time, pandas",
            ],
            [
                f"{name}: the drain, in % of poll + COPY (c / b)",
                f"{name}: the drain, in times of row at a time (c / d)",
            ],
        )
        for name in (Name.THROUGHPUT, Name.WIDE)
    },
    Name.DISTANCE: (
        ["0 ms", "0.1 ms", "2.5 ms", "12 ms"],
        ["the drain over 12 ms, in % of it over none"],
    ),
    Name.EXPERIMENTS: (
        ["the drain", "the same with two shadows", "the same with a split of 50 %"],
        ["two shadows, cost in throughput"],
    ),
    Name.LANES: (
        [*lanes.ARMS, *lanes.INDEXES],
        [
            "two lanes, in % of one",
            "waits for locks of 4 lanes, in % of time",
            "waits for locks of 4 lanes, batches of 500, in % of time",
        ],
    ),
    Name.MEMORY: (
        ["200 events", "400 events"],
        ["peak memory of a drain run", "its difference, 200 and 400 events"],
    ),
    Name.ARCHIVE: (
        [
            *("the drain", "poll + write Parquet + put_object", "the archive"),
            *("its decisions, after the events", "the rebuild"),
            *(
                f"zstd {level}, row groups of {size} MiB"
                for level in (1, 3, 6, 9)
                for size in (1, 4, 32)
            ),
        ],
        [
            "archiving, in % of poll + write Parquet + put_object",
            "peak memory of archiving",
            "the rebuild, in % of the drain",
        ],
    ),
    Name.LAKE: (
        ["4 commits before", "8 commits before"],
        [
            "a run after 8 commits, in % of after 4",
            "objects that the runs of an hour put",
            "files kept of a day of raw events",
        ],
    ),
    Name.DRIFT: (
        ["300 applications", "900 applications", "300, and its HTML"],
        [
            *("report of 300 rows", "its peak memory, without HTML", "peak memory of 900 rows"),
            "time a row, 900 to 300 rows",
        ],
    ),
    Name.MODEL: (
        [
            *("drain of 500 events", "the same with PD and reasons", "reading 4,000 loans"),
            *("training logistic", "training gradient boosting"),
            *(["training scorecard"] if find_spec("optbinning") else []),
            *("benchmark tables", "peak memory"),
        ],
        [
            *("PD on the stream, cost in throughput", "training on 4,000 rows"),
            "benchmark tables, 4,000 rows",
        ],
    ),
    Name.METRICS: (
        ["without history", "1,000 applications", "the same, 20 at once"],
        ["scrape, p95 with history"],
    ),
    Name.POLICY: (
        [
            *("clean and score by lendingclub-v2", "of that, the policy"),
            *("four comparisons and their bands, by hand", "20 rules on 20 columns"),
        ],
        [
            "scoring by the default policy, in % of comparisons by hand",
            "a table of many rules, an event",
        ],
    ),
    Name.ONCE: (
        [
            *("deduplicate=off, without cases", "deduplicate=off", "deduplicate=key"),
            "deduplicate=content",
        ],
        [
            "knowing repeated content, cost in processor time",
            "opening cases, cost in processor time",
        ],
    ),
    Name.GROWTH: (
        [
            *("drain, events/s", "event to commit, p95, ms", "check after a run, ms"),
            *("archive run, s", "drift report, s", "scrape, p95, ms"),
            "dashboard, slowest page of 24 hours, ms",
            "dashboard, slowest page of more, ms",
        ],
        [
            *(
                f"{what}, with 4,000, in % of none"
                for what in (
                    *("drain", "event to commit, p95", "check after a run", "archive run"),
                    *("drift report", "scrape, p95", "dashboard, slowest page of 24 hours"),
                )
            ),
            "dashboard, slowest page of more, ms, of 4,000",
        ],
    ),
    Name.LATENCY: (
        [
            *("100 events/s", "first event after idle", "a run's start"),
            "first event of a fresh platform",
        ],
        [
            *(f"{figure} at 100 events/s" for figure in ("p50", "p95", "p99", "max")),
            "first event after idle, worst of 1",
            "a run from request to commit, worst of 1",
            "first event of a fresh platform",
            *("a lane without events: of a core", "a lane without events: memory"),
            "Dagster with its lane, at one event a second: of a core",
            "Dagster with its lane, at one event a second: memory",
        ],
    ),
}


@pytest.mark.parametrize("name", [name for name in Name if name is not Name.LATENCY])
def test_a_section_tells_every_figure(
    name: Name, postgres: Postgres, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells_every_figure(name, postgres, broker, monkeypatch)


@pytest.mark.usefixtures("alone")  # it runs Dagster
def test_the_latency_is_told_with_every_figure(
    postgres: Postgres, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells_every_figure(Name.LATENCY, postgres, broker, monkeypatch)


def tells_every_figure(
    name: Name, postgres: Postgres, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_DRIFT_BASELINE_ROWS", "100")
    monkeypatch.setenv("CREDIT_RISK_IDLE_SECONDS", "3")
    shared = cache(lambda: Lab(postgres, broker))
    section = measure(name, "SMALLEST", lambda _: None, lambda: nullcontext(shared()))
    rows, bars = TOLD[name]
    names, *columns = ([str(cell) for cell in column.cells] for column in section.table.columns)
    assert [row.partition(" (")[0] for row in names] == rows
    for row, figures in zip(rows, zip(*columns, strict=True), strict=True):
        assert any(re.search(r"\d", figure) for figure in figures), row
        assert "nan" not in figures, row
    assert [bar.name for bar in section.bars] == bars
    assert json.loads(json.dumps(section.results))


def text(*tables: Table) -> str:
    """The tables as they are printed."""
    console = Console(file=io.StringIO(), width=200)
    console.print(*tables)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(printed, str)
    return printed


def test_a_broker_that_there_is_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_BROKER", "redpanda")
    wrong = "BENCH_BROKER is 'redpanda': set it to embedded or kafka"
    with pytest.raises(BenchmarkFailed, match=wrong), open_broker(tmp_path):
        pass


def test_a_narrow_terminal_cuts_no_figure_off() -> None:
    grid = table("A table", "events/s", "of poll and COPY, in the same run")
    grid.add_row("a long name of what was measured, and how", "71,234", "65,400")
    console = Console(file=io.StringIO(), width=40)
    console.print(grid)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "71,234" in printed
    assert "65,400" in printed
    assert "…" not in printed


FAST = Bar("latency", 200, 200, "ms", at_most=True)
SLOW = Bar("rate", 59, 60, "%", at_most=False)


def section(*bars: Bar) -> Section:
    grid = table("A table", "figure")
    grid.add_row("a row", "42")
    return Section("name", {"figure": 42}, grid, [*bars])


@pytest.mark.parametrize(("bars", "code"), [([FAST], 0), ([FAST, SLOW], 1)])
def test_the_command_prints_the_table_and_the_bars_and_fails_when_one_is_missed(
    bars: list[Bar], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(name: Name, size: str, _: object) -> Section:
        asked.append((name, size))
        return section(*bars)

    monkeypatch.setattr(command, "measure", measured)
    file = tmp_path / "report.json"
    done = CliRunner().invoke(command.app, ["--quick", "--only", "drift", "--json", str(file)])
    assert (done.exit_code, asked) == (code, [(Name.DRIFT, "QUICK")])
    for part in ("A table", "a row", "42", *(bar.name for bar in bars)):
        assert part in done.output
    assert ("missed" in done.output) == bool(code)
    report = json.loads(file.read_text())
    assert report["sections"] == {"name": {"figure": 42}}
    assert [bar["met"] for bar in report["bars"]] == [bar.met for bar in bars]
    CliRunner().invoke(command.app, [])
    assert asked[1:] == [(name, "FULL") for name in Name]


@pytest.mark.slow
def test_the_usual_design_makes_the_rows_of_the_platform() -> None:
    event_time = "2018-03-05T10:00:00.123456+00:00"
    values = [
        msgspec.json.encode({**row, "event_time": event_time})
        for row in builtin_loans()[:350]
        if row["application_type"] == "Individual"  # it knows of no others
    ]
    rows = [row_at_a_time.process(json.loads(value)) for value in values]
    policy = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
    assessment = assess(decode(values), policy)
    expected: list[dict[str, object] | None] = [None] * len(values)
    for at, row in zip(assessment.scored_at, assessment.scored.to_pylist(), strict=True):
        made = {name: row[name] for name in rows[at] or ()}
        expected[at] = {**made, "issue_d": row["issue_d"].isoformat()}
    assert [row and {**row, "issue_d": f"{row['issue_d']:%Y-%m-%d}"} for row in rows] == expected


def test_a_bar_is_met_at_its_limit() -> None:
    assert FAST.met
    assert not replace(FAST, measured=201).met
    assert not SLOW.met
    assert replace(SLOW, measured=60).met
    assert [exit_code([section(FAST)]), exit_code([section(FAST), section(SLOW)])] == [0, 1]
    *_, fast, slow, _ = text(bars_table([section(FAST), section(SLOW)])).splitlines()
    assert [word for word in fast.split() if word not in "│"] == [
        *("latency", "200", "ms", "≤", "200", "ms", "met")
    ]
    assert [word for word in slow.split() if word not in "│"] == [
        *("rate", "59", "%", "≥", "60", "%", "missed")
    ]
