"""What a long history costs: a run that archives after few and after many commits, and how many
objects the runs of an hour and of a day make, and their night leaves."""

import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np

from credit_risk_dagster.domain.lake_rows import RAW_EVENTS, SourceKey, raw_rows
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.raw_events import file_name
from credit_risk_dagster.pipelines import producer
from credit_risk_dagster.pipelines.archive_migration import ADOPTED
from credit_risk_dagster.pipelines.drain import drain
from credit_risk_dagster.pipelines.lake_history import tables
from credit_risk_dagster.pipelines.lake_maintenance import TARGET_BYTES, Upkeep, maintain_table
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import KafkaSettings, LakeSettings
from infra.embedded.servers import S3
from resources.kafka.broker import Broker
from resources.lake import Lake
from resources.lake_tables import DataFile, LakeTable, application
from resources.parquet_files import FileWriter
from resources.postgres.connection import Warehouse
from tests.benchmarks.lab import Lab, OpenLab, drain_settings, warehouse_settings
from tests.benchmarks.report import Bar, Section, table
from tests.platform.pipeline import LOG

RUNS_A_DAY = 288
_WRITERS = 8


@dataclass(frozen=True)
class Size:
    """How long the two histories are, in commits, and how often a run is measured."""

    few: int
    many: int
    runs: int


FULL = Size(few=20, many=20_000, runs=5)
QUICK = Size(few=20, many=2_000, runs=5)
SMALLEST = Size(few=4, many=8, runs=1)


@dataclass(frozen=True)
class Measured:
    """A history of so many commits, with the upkeep of each night.

    Attributes:
        seconds: of a run that archives an event, median; without what starting Python costs.
        peak_mb: its memory.
        an_hour, a_day: most objects that the runs of one put, of data and log.
        kept: files of the newest version, by day.
        log: most objects of the log that a night left.
        night_seconds: of the longest upkeep.
    """

    commits: int
    seconds: float
    peak_mb: float
    an_hour: float
    a_day: int
    kept: float
    log: int
    night_seconds: float


@dataclass(frozen=True)
class _History:
    """A topic whose table has so many commits, and of each day: runs, objects put, its night."""

    commits: int
    kafka: KafkaSettings
    url: str
    days: list[tuple[int, int, Upkeep]]


def measure(open_lab: OpenLab, size: Size, say: Callable[[str], None]) -> Section:
    """Archive single events after histories of two lengths, which were kept up. Their runs take
    turns, so that both have the same machine."""
    with open_lab() as lab, S3() as s3, _environment(s3.variables()), ExitStack() as stack:
        lab.variables |= s3.variables()
        lake = Lake(LakeSettings(_env_file=None))
        few, many = (
            _history(lab, lake, commits, stack.enter_context(lab.database()), say)
            for commits in (size.few, size.many)
        )
        runs: dict[int, list[dict[str, Any]]] = {few.commits: [], many.commits: []}
        for run in range(size.runs):
            for history in (few, many):
                say(f"lake: {history.commits:,} commits, run {run + 1} of {size.runs}")
                producer.produce(history.kafka, builtin_loans(), max_events=1)
                _drain(history.kafka, history.url)
                runs[history.commits].append(lab.run("archive", history.kafka, history.url))
    return _section(*(_measured(history, runs[history.commits]) for history in (few, many)))


def _history(lab: Lab, lake: Lake, commits: int, url: str, say: Callable[[str], None]) -> _History:
    say(f"lake: a history of {commits:,} commits")
    kafka = lab.topic(builtin_loans(), commits)
    _drain(kafka, url)
    days = list(_days(tables(lake, kafka.topic)["raw_events"], kafka))
    lab.run("archive", kafka, url)  # and Postgres mirrors all of it, once
    return _History(commits, kafka, url, days)


def _measured(history: _History, runs: Sequence[Mapping[str, Any]]) -> Measured:
    days = history.days
    return Measured(
        history.commits,
        statistics.median(run["whole_seconds"] for run in runs),
        max(run["peak_mb"] for run in runs),
        max(put / archived for archived, put, _ in days) * RUNS_A_DAY / 24,
        max(put for _, put, _ in days),
        days[-1][2].files / len(days),
        max(night.log_objects for _, _, night in days),
        max(night.seconds for _, _, night in days),
    )


def _drain(kafka: KafkaSettings, url: str) -> None:
    settings = drain_settings().model_copy(update={"idle_seconds": 0.3})
    policy = load_policy(settings.policy_file)
    warehouse = Warehouse(warehouse_settings(url))
    drain(Broker(kafka), warehouse, policy, settings, run_id="benchmark", log=LOG)


def _days(raw: LakeTable, kafka: KafkaSettings) -> Iterator[tuple[int, int, Upkeep]]:
    """Make the table what runs with an event each would have made it. Yields of each day: runs, the
    objects that they put, and its night, which removes what a night days later would.

    The log is written as the table's format has it, many entries at once: commits that wait for
    each other would take half an hour.
    """
    state = Broker(kafka).inspect()
    source = SourceKey(state.cluster_id, state.topic_id, 0)
    raw.create()
    raw.commit([], {ADOPTED: (None, 1)})
    places = sorted(
        (
            (partition, at)
            for partition, (first, end) in state.offsets.items()
            for at in range(first, end)
        ),
        key=lambda place: (place[1], place[0]),  # the partitions take turns
    )
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

    def one(version: int, place: tuple[int, int], moment: datetime) -> None:
        file, statistics = _uploaded(raw, source, *place, moment)
        _log(raw, version, file, statistics, {application(source, place[0]): place[1] + 1})

    with ThreadPoolExecutor(_WRITERS) as pool:
        for first in range(0, len(places), RUNS_A_DAY):
            today = places[first : first + RUNS_A_DAY]
            day = midnight - timedelta(days=math.ceil((len(places) - first) / RUNS_A_DAY))
            moments = [day + timedelta(days=run / RUNS_A_DAY) for run in range(len(today))]
            there = len(raw.lake.sizes(f"{raw.root}/"))
            list(pool.map(one, count(raw.create().version + 1), today, moments))
            put = len(raw.lake.sizes(f"{raw.root}/")) - there
            night = maintain_table("raw_events", raw, timedelta(0), target=TARGET_BYTES, log=LOG)
            yield len(today), put, night


def _uploaded(
    raw: LakeTable, source: SourceKey, partition: int, at: int, moment: datetime
) -> tuple[DataFile, str]:
    """A file of one event of that time."""
    millis = np.array([round(moment.timestamp() * 1000)])
    rows = raw_rows(
        *(np.array([partition], np.int32), np.array([at]), millis, [b"key"], [b"value"], millis),
        *(np.zeros(1, np.int64), [None]),
    )
    with FileWriter(moment.date(), RAW_EVENTS) as writer:
        writer.add(rows)
        return raw.upload(writer.finish(), source, file_name(source, partition, at, at + 1))


def _log(
    raw: LakeTable, version: int, file: DataFile, statistics: str, moved: Mapping[str, int]
) -> None:
    added = round(file.added_at.timestamp() * 1000)
    add = {"path": file.path, "partitionValues": file.values, "size": file.bytes,
           "modificationTime": added, "dataChange": True, "stats": statistics}  # fmt: skip
    actions: Iterable[dict[str, Any]] = (
        {"commitInfo": {"timestamp": added, "operation": "WRITE"}},
        {"add": add},
        *({"txn": {"appId": name, "version": at}} for name, at in moved.items()),
    )
    entry = "\n".join(json.dumps(action) for action in actions)
    raw.lake.put(f"{raw.root}/_delta_log/{version:020}.json", entry.encode(), "application/json")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Any:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _section(few: Measured, many: Measured) -> Section:
    grid = table(
        "Lake: a run that archives one event",
        *("s", "peak MB", "objects an hour", "a day", "files kept of a day", "log"),
    )
    for found in (few, many):
        grid.add_row(
            f"{found.commits:,} commits before ({found.commits / RUNS_A_DAY:,.1f} days)",
            *(f"{found.seconds:.2f}", f"{found.peak_mb:.0f}"),
            *(f"{found.an_hour:.0f}", f"{found.a_day:,}", f"{found.kept:.1f}", f"{found.log:,}"),
        )
    grid.caption = f"the upkeep of a night took {many.night_seconds:,.1f} s at most"
    bars = [
        Bar(
            f"a run after {many.commits:,} commits, in % of after {few.commits:,}",
            100 * many.seconds / few.seconds,
            120,
            "%",
            at_most=True,
        ),
        Bar("objects that the runs of an hour put", many.an_hour, 30, "", at_most=True),
        Bar("files kept of a day of raw events", many.kept, 10, "", at_most=True),
    ]
    return Section("lake", {"few": asdict(few), "many": asdict(many)}, grid, bars)
