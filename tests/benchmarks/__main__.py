"""The command line of the benchmarks: `python -m tests.benchmarks --help`."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.markup import escape

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import PROJECT_ROOT
from tests.benchmarks import (
    archive,
    distance,
    drift,
    experiments,
    growth,
    lake,
    lanes,
    latency,
    memory,
    metrics,
    model,
    once,
    policy,
    throughput,
    wide,
)
from tests.benchmarks.lab import OpenLab, broker_name, drain_settings, open_lab
from tests.benchmarks.report import Section, bars_table, exit_code

out = Console()
err = Console(stderr=True)


class Name(StrEnum):
    """The sections."""

    THROUGHPUT = "throughput"
    WIDE = "wide"
    LANES = "lanes"
    DISTANCE = "distance"
    MEMORY = "memory"
    ARCHIVE = "archive"
    LAKE = "lake"
    DRIFT = "drift"
    MODEL = "model"
    METRICS = "metrics"
    POLICY = "policy"
    EXPERIMENTS = "experiments"
    ONCE = "once"
    GROWTH = "growth"
    LATENCY = "latency"


_SECTIONS = {
    Name.THROUGHPUT: throughput,
    Name.WIDE: wide,
    Name.LANES: lanes,
    Name.DISTANCE: distance,
    Name.MEMORY: memory,
    Name.ARCHIVE: archive,
    Name.LAKE: lake,
    Name.DRIFT: drift,
    Name.MODEL: model,
    Name.METRICS: metrics,
    Name.POLICY: policy,
    Name.EXPERIMENTS: experiments,
    Name.ONCE: once,
    Name.GROWTH: growth,
    Name.LATENCY: latency,
}


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything, in a third of the time.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything that was measured to this file.")
    ] = None,
    only: Annotated[Name | None, typer.Option(help="Measure only this.")] = None,
) -> None:
    """Measure the platform on servers that this starts itself, and compare with its bars.

    THROUGHPUT: events a second of a bare poll, of poll + COPY of ready-made rows, of the drain, and
    of a row-at-a-time pandas consumer; and where the drain's time goes.

    WIDE: the same with events of LendingClub's 151 columns, 4.5 KB each.

    LANES: two and four drains side by side, what they wait for each other, and the seconds of
    processors that a million events cost the drain, Postgres and the broker.

    DISTANCE: the drain with a Postgres that is 0.1, 2.5 and 12 ms away.

    MEMORY: the peak of a drain run over few and over many events.

    ARCHIVE: copying to S3 against a bare loop that does only that, its memory and compression; and
    the rebuild from there against the drain.

    LAKE: a run that archives one event after 20,000 commits and after 20, and how few files the
    upkeep leaves.

    DRIFT: the time and memory of a drift report over 100,000 and over 1,000,000 applications.

    MODEL: what the PD costs the drain, the memory of training, the time of the benchmark tables.

    METRICS: a scrape of /metrics, without history and with ten million scored applications.

    POLICY: scoring by the default policy against comparisons by hand, and a table of 200 rules.

    EXPERIMENTS: what two shadows cost the drain, and what a split does.

    ONCE: the drain with and without cases, and knowing events that are sent again, in turns.

    GROWTH: the drain, its commits and checks, the archive, drift, a scrape and the dashboard, with
    and without months of history, of up to fifty million applications (18 GB).

    LATENCY: from event to commit at 10, 100 and 1,000 events a second, through Dagster's daemon and
    the sensor, with handovers from run to run; and of the first event after an idle spell.

    With BENCH_BROKER=kafka the broker is Apache Kafka, which needs Java and Maven, and not the
    embedded one.

    Nothing else should run on the machine meanwhile. The drain has its default settings, and those
    that CREDIT_RISK_... variables change. Exits with 1 when a bar is missed.
    """
    if json_file:
        json_file.touch()  # better refused now than after a quarter of an hour
    broker_name()  # and a name that is none
    started_at, started = datetime.now(UTC), time.monotonic()
    load = os.getloadavg()[0]
    sections = []
    with out.status("", refresh_per_second=2) as status:

        def say(text: str) -> None:
            if out.is_terminal:
                status.update(text)
            else:
                out.print(text)

        for name in Name if only is None else [only]:
            section = measure(name, "QUICK" if quick else "FULL", say)
            sections.append(section)
            out.print(section.table)
    out.print(bars_table(sections))
    if json_file:
        report = {
            "benchmark": "credit-risk platform",
            "quick": quick,
            "started_at": started_at.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "revision": _revision(),
            "broker": broker_name(),
            "machine": {**_machine(), "load_average_before": load},
            "drain_settings": drain_settings().model_dump(mode="json"),
            "sections": {section.name: section.results for section in sections},
            "bars": [bar.to_json() for section in sections for bar in section.bars],
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    raise typer.Exit(exit_code(sections))


def measure(
    name: Name, size: str, say: Callable[[str], None], open_lab: OpenLab = open_lab
) -> Section:
    """Measure a section in one of its sizes: FULL, QUICK, or SMALLEST, whose figures say nothing
    but that it works."""
    section = _SECTIONS[name]
    found: Section = section.measure(open_lab, getattr(section, size), say)
    return found


def _forget_other_servers() -> None:
    """Remove the variables that say where the user's own servers are."""
    for name in list(os.environ):
        if name.startswith(("KAFKA_", "DATABASE_URL", "S3_", "AWS_", "DAGSTER_", "PG")):
            del os.environ[name]


def _machine() -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _revision() -> str | None:
    """The commit that is measured, where this is a git checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    # What a shell starts in the background ignores Ctrl-C, by which Dagster ends its servers.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, _interrupt)
    _forget_other_servers()
    try:
        app()
    except PlatformError as error:
        err.print("[red]error:[/red]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(1)
