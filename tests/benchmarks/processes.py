"""What is measured, each in a process of its own: `python -m tests.benchmarks.processes NAME JSON`.

A process reads the topic and writes the database that its environment names, and prints what it
measured as one line of JSON. Start of the interpreter, imports and connecting are not measured.
"""

import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import patch

import msgspec
import numpy as np
import pgpq
import psutil
import psycopg
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from psycopg import sql

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.pd import CategoryTerm, Coefficients, NumberTerm
from credit_risk_dagster.domain.policy import load_policy, validate_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines import policies
from credit_risk_dagster.pipelines.drain import drain as run_drain
from credit_risk_dagster.pipelines.interpreter import tuned_interpreter
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    ArchiveSettings,
    DrainSettings,
    DriftSettings,
    KafkaSettings,
    LakeSettings,
    WarehouseSettings,
)
from resources.kafka.broker import Broker
from resources.kafka.reader import Reader
from resources.lake import Lake
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.lost import LostEvents
from resources.postgres.metrics import MetricsLedger
from resources.postgres.micro_batch import Ledger
from resources.postgres.models import ModelStore, NewModel
from resources.postgres.policies import register_policy
from resources.postgres.reconciliation import Reconciliation

Measured = dict[str, Any]


def poll(events: int) -> Measured:
    """(a) Receive the events, and nothing else."""
    with _consumer() as consumer:
        started = time.time()
        seen = sum(len(records) for polled in _batches(consumer, events) for _, records in polled)
        return {"events": seen, "seconds": time.time() - started}


def prepare(events: int, folder: str) -> Measured:
    """Write the rows that the drain makes of the events, as one Arrow file for each partition."""
    policy = load_policy(DrainSettings().policy_file)
    parts: dict[int, list[pa.RecordBatch]] = {}
    with _consumer() as consumer:
        for polled in _batches(consumer, events):
            for partition, records in polled:
                assessment = assess(decode([record.value for record in records]), policy)
                scored = [records[at] for at in assessment.scored_at]
                rows = len(scored)
                micros = pa.array([record.timestamp * 1000 for record in scored], pa.int64())
                columns = {
                    "source_id": pa.array([1] * rows, pa.int32()),
                    "partition": pa.array([partition] * rows, pa.int32()),
                    "offset": pa.array([record.offset for record in scored], pa.int64()),
                    "batch_id": pa.array([1] * rows, pa.int64()),
                    "recorded_at": micros.cast(pa.timestamp("us", "UTC")),
                    "policy_id": pa.array([1] * rows, pa.int32()),
                }
                columns |= {
                    name: assessment.scored[name] for name in assessment.scored.schema.names
                }
                parts.setdefault(partition, []).append(pa.RecordBatch.from_pydict(columns))
    for partition, batches in parts.items():
        with pa.ipc.new_file(Path(folder) / f"{partition}.arrow", batches[0].schema) as file:
            file.write_table(pa.Table.from_batches(batches))
    return {"rows": sum(batch.num_rows for batches in parts.values() for batch in batches)}


def copy(events: int, folder: str) -> Measured:
    """(b) Receive the events, and COPY the rows that were made of them before: what no drain that
    works in this order can be faster than. Transactions are as large as the drain's."""
    ready = {}
    for file in Path(folder).glob("*.arrow"):
        with pa.ipc.open_file(file) as reader:
            ready[int(file.stem)] = reader.read_all()
    offsets = {partition: rows["offset"].to_numpy() for partition, rows in ready.items()}
    written = 0
    with _consumer() as consumer, Warehouse(WarehouseSettings()).connect() as connection:
        started = time.time()
        for polled in _batches(consumer, events):
            slices = []
            for partition, records in polled:
                first, last = records[0].offset, records[-1].offset
                low, high = offsets[partition].searchsorted([first, last + 1])
                slices.append(ready[partition].slice(low, high - low))
            written += _copy(connection, pa.concat_tables(slices))
        return {"events": events, "rows": written, "seconds": time.time() - started}


def _copy(connection: psycopg.Connection[Any], rows: pa.Table) -> int:
    """COPY rows in one transaction."""
    (batch,) = rows.combine_chunks().to_batches()
    encoder = pgpq.ArrowToPostgresBinaryEncoder(batch.schema)
    statement = sql.SQL("COPY scored_applications ({}) FROM STDIN (FORMAT binary)").format(
        sql.SQL(", ").join(map(sql.Identifier, batch.schema.names))
    )
    with connection.transaction(), connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())
    return int(batch.num_rows)


def drain(
    model: bool = False, experiments: str = "", cases: bool = True, lane: int = 0
) -> Measured:
    """(c) The drain as a run executes it: from its first fetch to its last commit. The wait of
    `idle_seconds` that ends a session is after that, and taking the lane is before it.

    With `model`, a logistic regression of the seven classic features is active; `experiments` are
    two `shadows`, or a `split`. Without `cases`, none is opened.
    """
    # A run has all of these modules, for the garbage collector to walk through.
    from credit_risk_dagster import definitions  # noqa: F401

    settings = DrainSettings()
    warehouse = Warehouse(WarehouseSettings())
    if model:
        _activate_a_model(warehouse)
    if experiments:
        _start(warehouse, experiments)
    fetch, fetched_at, own = Reader.fetch_and, [], []

    def timed_fetch(reader: Reader, *how: Any) -> Any:
        fetched_at.append(time.time())
        own.append(time.process_time())
        return fetch(reader, *how)

    busy = _processor_seconds(warehouse)
    within = DrainSettings.case_within if cases else None
    with (
        patch.object(Reader, "fetch_and", timed_fetch),
        patch.object(DrainSettings, "case_within", within),
    ):
        report = run_drain(
            Broker(KafkaSettings()),
            warehouse,
            load_policy(settings.policy_file),
            settings,
            run_id="benchmark",
            lane=lane,
            log=logging.getLogger("benchmark"),
        )
    return {
        "events": report.scored + report.rejected,
        "rows": report.scored,
        "with_pd": _with_pd(warehouse),
        **_said(warehouse),
        "batches": report.batches,
        "began": fetched_at[0],
        "ended": (ended := _last_commit(warehouse)),
        "seconds": ended - fetched_at[0],
        "own_processor_seconds": time.process_time() - own[0],
        "busy_seconds": report.busy_seconds,
        "processor_seconds": _processor_seconds(warehouse) - busy,
    }


def _processor_seconds(warehouse: Warehouse) -> float:
    """Of this process, and of Postgres with all that it started, which may have ended."""
    with warehouse.session() as connection:
        server = psutil.Process(connection.info.backend_pid).parent()
        assert server
        own = server.cpu_times()
        seconds = own.user + own.system + own.children_user + own.children_system
        for process in server.children():
            with suppress(psutil.NoSuchProcess):
                seconds += sum(process.cpu_times()[:2])
    return time.process_time() + seconds


def _activate_a_model(warehouse: Warehouse) -> None:
    """A model like that of the built-in loans, without training one."""
    from tests.pipelines.approvals import approved  # it decides: memory of who else is measured

    weights = {
        "loan_amnt": (1.2e-5, 16_300.0),
        "int_rate": (0.115, 12.4),
        "dti": (-0.008, 18.8),
        "revol_util": (-0.006, 40.3),
        "credit_history_years": (0.001, 16.3),
        "delinq_2yrs": (-0.003, 0.2),
        "inq_last_6mths": (0.19, 0.6),
    }
    terms: list[NumberTerm | CategoryTerm] = [
        NumberTerm(name, weight, reference, 0.0, 0.1)
        for name, (weight, reference) in weights.items()
    ]
    new = NewModel(
        kind="logistic",
        version="logistic@benchmark",
        run_id="benchmark",
        outcome="benchmark",
        purpose="benchmark",
        features=list(weights),
        sample="benchmark",
        sample_hash="",
        seed=0,
        rows=0,
        bads=0,
        code_version="",
        metrics={},
        artifact=b"",
        coefficients=Coefficients(-4.2, terms),
    )
    with warehouse.session() as connection:
        store = ModelStore(connection)
        store.activate(approved(connection, "model", store.add_model(new)), "a benchmark")


def _start(warehouse: Warehouse, experiments: str) -> None:
    """The policy before, and the active one with another threshold, as candidates."""
    from tests.pipelines.approvals import approved, started

    active = load_policy(DEFAULT_POLICY)
    content = active.table.content() | {"name": "stricter", "examples": []}
    content["conditions"]["high-dti"] = {"dti": ">= 25"}
    before = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
    with warehouse.session() as connection:
        policies.activate(connection, register_policy(connection, active), "the first")
        for candidate in (before, validate_policy(content, "of the benchmark")):
            found = approved(connection, "policy", register_policy(connection, candidate))
            if experiments == "split":
                started(connection, policy_id=found, share=50)
                return
            started(connection, policy_id=found)


def _said(warehouse: Warehouse) -> Measured:
    """What the shadows saw, and of how many they differ."""
    with warehouse.session() as connection:
        (row,) = fetch_all(
            connection,
            "SELECT (SELECT coalesce(sum(applications), 0)::bigint FROM shadow_by_minute) AS"
            " beside, (SELECT count(*) FROM shadow_differences) AS differing",
        )
    return row


def _with_pd(warehouse: Warehouse) -> int:
    with warehouse.session() as connection:
        (counted,) = fetch_all(connection, "SELECT count(pd) AS rows FROM scored_applications")
    return int(counted["rows"])


def scored_loans(rows: int) -> Measured:
    """Fill scored_applications with the built-in loans, over and over under other ids."""
    from credit_risk_dagster.pipelines.loans import builtin_loans

    policy = load_policy(DrainSettings().policy_file)
    values: list[bytes | None] = [msgspec.json.encode(row) for row in builtin_loans()]
    scored = assess(decode(values), policy).scored
    written = 0
    with Warehouse(WarehouseSettings()).connect() as connection:
        while written < rows:
            count = min(len(scored), rows - written)
            offsets = np.arange(written, written + count)
            columns = {name: scored[name].slice(0, count) for name in scored.schema.names}
            columns |= {
                "source_id": pa.repeat(pa.scalar(1, pa.int32()), count),
                "partition": pa.repeat(pa.scalar(0, pa.int32()), count),
                "offset": pa.array(offsets),
                "batch_id": pa.repeat(pa.scalar(1, pa.int64()), count),
                "recorded_at": pa.repeat(pa.scalar(0, pa.timestamp("us", "UTC")), count),
                "policy_id": pa.repeat(pa.scalar(1, pa.int32()), count),
                "loan_id": pa.array(offsets.astype(str)),
            }
            written += _copy(connection, pa.table(columns))
    return {"rows": written}


def check_new() -> Measured:
    """What a run of the drain does after it: count what it committed, and what is stored of all."""
    warehouse = Warehouse(WarehouseSettings())
    with warehouse.session() as connection:
        started = time.time()
        Ledger(connection).stored()
        LostEvents(connection).unacknowledged()
        checked = Reconciliation(connection).check_new("benchmark")
        seconds = time.time() - started
    if checked.open or checked.left:
        raise RuntimeError(f"{checked.left} offsets are not counted, or wrong: {checked.open}")
    return {"offsets": checked.offsets, "seconds": seconds}


def scrapes(count: int) -> Measured:
    """What the warehouse has to say to a scrape of /metrics."""
    settings = WarehouseSettings()
    with Warehouse(settings).session("metrics") as connection:
        ledger = MetricsLedger(connection, KafkaSettings().topic)
        milliseconds = []
        for _ in range(1 + count):
            started = time.perf_counter()
            ledger.read()
            milliseconds.append(1000 * (time.perf_counter() - started))
    # The first one asks for the sizes of all files, which is done once a minute.
    return {"first_ms": milliseconds[0], "milliseconds": milliseconds[1:]}


def pages(rounds: int) -> Measured:
    """Every query of the dashboard."""
    os.environ["DASHBOARD_DATABASE_URL"] = os.environ["DATABASE_URL"]
    logging.disable(logging.WARNING)  # Streamlit's, that no server runs
    from tests.benchmarks import dashboard

    return dashboard.measure(rounds, show_plans=False).results


def paced(rate: int, seconds: float) -> Measured:
    """The latency of the drain alone, from an event to its commit, while so many a second come."""
    from credit_risk_dagster.pipelines.loans import builtin_loans
    from credit_risk_dagster.pipelines.producer import produce

    settings, warehouse = DrainSettings(), Warehouse(WarehouseSettings())
    since = time.time()
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(
            *(produce, KafkaSettings(), builtin_loans()),
            rate=rate,
            max_events=round(rate * seconds),
            loop=True,
        )
        run_drain(
            Broker(KafkaSettings()),
            warehouse,
            load_policy(settings.policy_file),
            settings,
            run_id="benchmark",
            log=logging.getLogger("benchmark"),
        )
        sent.result()
    with warehouse.session() as connection:
        rows = fetch_all(
            connection,
            "SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - event_time)::float8"
            " AS ms FROM scored_applications WHERE scored_at >= to_timestamp(%(since)s)"
            " AND event_time >= to_timestamp(%(since)s)",
            {"since": since},
        )
    return {"milliseconds": [row["ms"] for row in rows]}


def train(rows: int) -> Measured:
    """Train every kind of model on the scored applications, and measure them, as a run does."""
    from credit_risk_dagster.domain.features import CLASSIC_FEATURES, select_features
    from credit_risk_dagster.domain.model import training
    from credit_risk_dagster.domain.model.benchmark import benchmark
    from credit_risk_dagster.domain.model.outcome import load_outcome
    from credit_risk_dagster.pipelines import modelling

    policy = load_policy(DrainSettings().policy_file)
    features = select_features(CLASSIC_FEATURES)
    before, started = _peak_mb(), time.time()
    sample = modelling.load_sample(
        "scored", load_outcome("early_delinquency"), policy, Warehouse(WarehouseSettings()), rows
    )
    read_seconds = time.time() - started
    modelling.check_features(sample, features)
    trained, seconds = [], {}
    for kind in training.kinds():
        started = time.time()
        trained.append(training.train(kind, sample, features, 0))
        seconds[kind.name] = time.time() - started
    trained_mb, started = _peak_mb(), time.time()
    benchmark(sample, policy, trained, features, 0)
    return {
        "loans": len(sample),
        "read_seconds": read_seconds,
        "train_seconds": seconds,
        "benchmark_seconds": time.time() - started,
        "before_mb": before,
        "trained_mb": trained_mb,
        "peak_mb": _peak_mb(),
    }


def _last_commit(warehouse: Warehouse) -> float:
    """When Postgres committed the newest batch (Unix time)."""
    with warehouse.session() as connection:
        (last,) = fetch_all(
            connection,
            "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 AS at"
            " FROM batches",
        )
    return float(last["at"])


def archive() -> Measured:
    """Archive the whole topic, as the archive's run does it."""
    from credit_risk_dagster.pipelines import archive as archiving

    lake = Lake(LakeSettings())
    lake.check_access()  # as in the loop that it is compared with: the client is there
    before, started = _peak_mb(), time.time()
    report = archiving.archive(
        Broker(KafkaSettings()),
        Warehouse(WarehouseSettings()),
        lake,
        ArchiveSettings(),
        run_id="benchmark",
        log=logging.getLogger("benchmark"),
    )
    return {
        "events": report.rows,
        "seconds": report.seconds,
        "objects": len(report.objects),
        "bytes": report.bytes,
        "value_bytes": report.value_bytes,
        "decisions": report.decisions.rows,
        "decision_seconds": report.decisions.seconds,
        "whole_seconds": time.time() - started,
        "before_mb": before,
        "peak_mb": _peak_mb(),
    }


def bare_archive() -> Measured:
    """Poll, write Parquet, put_object: nothing is recorded, nothing checked. The archive's
    object size; all of an object is in memory."""
    import pyarrow.parquet as pq

    from resources.parquet_files import COMPRESSION_LEVEL

    numbers = {
        "partition": pa.int32(),
        "offset": pa.int64(),
        "timestamp": pa.timestamp("ms", "UTC"),
    }
    schema = pa.schema([*numbers.items(), ("key", pa.binary()), ("value", pa.binary())])
    settings, lake = KafkaSettings(), Lake(LakeSettings())
    lake.check_access()  # the bucket is there
    size = events = 0
    started = time.time()
    with _consumer() as consumer:
        ends = consumer.end_offsets(list(consumer.assignment()))
        for tp, end in ends.items():
            consumer.assign([tp])
            consumer.seek(tp, 0)
            first = position = 0
            while position < end:
                file = io.BytesIO()
                with pq.ParquetWriter(
                    file, schema, compression="zstd", compression_level=COMPRESSION_LEVEL
                ) as writer:
                    while position < end and position - first < ArchiveSettings().max_object_events:
                        for records in consumer.poll(timeout_ms=1000, max_records=10_000).values():
                            columns = {
                                "partition": [tp.partition] * len(records),
                                "offset": [record.offset for record in records],
                                "timestamp": [record.timestamp for record in records],
                                "key": [record.key for record in records],
                                "value": [record.value for record in records],
                            }
                            writer.write_table(pa.table(columns, schema=schema))
                            position = records[-1].offset + 1
                lake._client.put_object(
                    Bucket=LakeSettings().bucket,
                    Key=f"bare/{settings.topic}/{tp.partition}/{first}.parquet",
                    Body=file.getvalue(),
                )
                size += file.tell()
                events += position - first
                first = position
    return {"events": events, "seconds": time.time() - started, "bytes": size}


def rebuild() -> Measured:
    """Score the whole archive into a fresh schema; like (c), from the first read to the last
    commit."""
    from credit_risk_dagster.pipelines.rebuild import rebuild

    settings = WarehouseSettings()
    target = WarehouseSettings(
        DATABASE_URL=settings.database_url, CREDIT_RISK_SCHEMA="credit_risk_rebuilt"
    )
    get, got_at = Lake.get, []

    def timed_get(lake: Lake, key: str, into: BinaryIO) -> Any:
        got_at.append(time.time())
        return get(lake, key, into)

    with patch.object(Lake, "get", timed_get):
        report = rebuild(
            settings,
            RawEvents(Lake(LakeSettings()), KafkaSettings().topic),
            load_policy(DrainSettings().policy_file),
            into=target.db_schema,
            run_id="benchmark",
            log=logging.getLogger("benchmark"),
        )
    return {
        "events": report.scored + report.rejected,
        "seconds": _last_commit(Warehouse(target)) - got_at[0],
    }


def row_at_a_time(events: int) -> Measured:
    """(d) The usual design."""
    from tests.benchmarks import row_at_a_time

    return row_at_a_time.consume(events)


def multiply_scored(rows: int) -> Measured:
    """Make so many scored applications of those that are there, over the last hour, and the rollup
    of them. Incomes differ from copy to copy, so that they have as many values as real ones."""
    copied = (
        "source_id, partition, batch_id, policy_id, recorded_at, event_time, loan_id, loan_amnt,"
        " dti, int_rate, revol_util, delinq_2yrs, inq_last_6mths, credit_history_years,"
        " emp_length_yrs, term_months, issue_d, purpose, grade, addr_state, home_ownership,"
        " loan_status, dti_band, util_band, rate_band, early_warning, risk_tier, reasons"
    )
    with Warehouse(WarehouseSettings()).connect() as connection:
        connection.execute("CREATE TEMP TABLE loan AS SELECT * FROM scored_applications")
        connection.execute("DELETE FROM scored_applications")
        connection.execute(
            f'INSERT INTO scored_applications (scored_at, "offset", annual_inc, {copied})'
            " SELECT now() - interval '1 hour' * (1 - k::float8 / %(rows)s), k,"
            f" round(annual_inc::numeric * (1 + k %% 1000 / 1e5), 2), {copied}"
            " FROM generate_series(1, %(rows)s) k JOIN"
            " (SELECT row_number() OVER () AS number, * FROM loan) numbered"
            " ON number = 1 + k %% (SELECT count(*) FROM loan)",
            {"rows": rows},
        )
        connection.execute("DELETE FROM risk_by_minute")
        connection.execute(
            "INSERT INTO risk_by_minute SELECT date_trunc('minute', scored_at), source_id,"
            " risk_tier, count(*), sum(loan_amnt) FROM scored_applications GROUP BY 1, 2, 3"
        )
        connection.execute("VACUUM ANALYZE scored_applications")
    return {"rows": rows}


def drift(rows: int, html: bool = False) -> Measured:
    """A drift report of the newest rows as its run makes it: plots included, HTML if asked for."""
    # A run has all of these modules.
    from credit_risk_dagster import definitions  # noqa: F401
    from credit_risk_dagster.pipelines.drift import report_drift
    from credit_risk_dagster.pipelines.evidently_report import publish_html
    from dashboard.charts.pictures import distributions, drift_of_features

    warehouse = Warehouse(WarehouseSettings())
    before = _peak_mb()
    started = time.time()
    report = report_drift(
        warehouse,
        DriftSettings(),
        KafkaSettings().topic,
        load_policy(DrainSettings().policy_file),
        run_id="benchmark",
        last_rows=rows,
    )
    drift_of_features(report), distributions(report)
    measured: Measured = {
        "rows": report.window.rows,
        "seconds": time.time() - started,
        "before_mb": before,
    }
    if html:
        started = time.time()
        publish_html(report, warehouse, Lake(LakeSettings()), logging.getLogger("benchmark"))
        measured["html_seconds"] = time.time() - started
        if report.html_key is None:
            raise RuntimeError(report.html_problem)
    return measured | {"peak_mb": _peak_mb()}


def job() -> Measured:
    """The memory of a run: the job, executed in this process as a run's own process does it."""
    import dagster as dg

    from credit_risk_dagster.definitions import defs

    before = _peak_mb()
    started = time.time()
    with dg.DagsterInstance.ephemeral() as instance:
        defs.get_job_def("score_applications").execute_in_process(instance=instance)
    seconds = time.time() - started
    peak = _peak_mb()
    with Warehouse(WarehouseSettings()).session() as connection:
        (done,) = fetch_all(
            connection,
            "SELECT sum(scored + rejected)::int AS events, count(*) AS batches FROM batches",
        )
    return {**done, "peak_mb": peak, "before_mb": before, "seconds": seconds}


def _peak_mb() -> float:
    """The most memory that this process ever had, in millions of bytes.

    Not `ru_maxrss`: that begins with the memory of the process that started this one.
    """
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) * 1024 / 1e6


@contextmanager
def _consumer() -> Iterator[KafkaConsumer]:
    """kafka-python as it comes, with the drain's options, at the beginning of the topic; and with
    the drain's garbage collection, without which (b) is a tenth slower and no fair limit."""
    settings, limits = KafkaSettings(), DrainSettings()
    beginnings = {
        TopicPartition(settings.topic, partition): first
        for partition, (first, _) in Broker(settings).inspect().offsets.items()
    }
    consumer = KafkaConsumer(
        **settings.client_options(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
        metrics_enabled=False,
        fetch_max_bytes=limits.max_batch_bytes,
        max_partition_fetch_bytes=min(limits.max_batch_bytes, 4 * 2**20),
    )
    consumer.assign(list(beginnings))
    for partition, first in beginnings.items():
        consumer.seek(partition, first)
    with closing(consumer), tuned_interpreter():
        yield consumer


def _batches(consumer: KafkaConsumer, events: int) -> Iterator[list[tuple[int, list[Any]]]]:
    """Receive so many events, in batches of the drain's size: partitions and their records."""
    size = DrainSettings().max_batch_events
    while events > 0:
        batch: list[tuple[int, list[Any]]] = []
        room = min(size, events)
        while room > 0:
            for tp, records in consumer.poll(timeout_ms=1000, max_records=room).items():
                batch.append((tp.partition, records))
                room -= len(records)
                events -= len(records)
        yield batch


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
