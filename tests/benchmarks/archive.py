"""The archive's figures: `python -m tests.benchmarks.archive [events]`.

Archiving against a bare loop of poll, write Parquet and put_object over the same events; the peak
memory of the archiving process; the rebuild against the drain; and what compression levels and
row groups do to the size. Each is measured in a process of its own, on servers that this starts.
"""

import io
import json
import logging
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from credit_risk_dagster import producer
from credit_risk_dagster.archive import archive
from credit_risk_dagster.domain.archive import COLUMNS, to_arrow
from credit_risk_dagster.domain.events import Event
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.drain import drain
from credit_risk_dagster.rebuild import rebuild
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    ArchiveSettings,
    DrainSettings,
    KafkaSettings,
    LakeSettings,
    WarehouseSettings,
)
from infra.embedded.stack import S3, Postgres
from infra.embedded.stack import Broker as BrokerServer
from resources.broker import Broker, open_client
from resources.lake import Lake
from resources.warehouse import Warehouse, migrate

_LOG = logging.getLogger("benchmark")
_OBJECT_EVENTS = ArchiveSettings.model_fields["max_object_events"].default


def run_drain() -> dict[str, Any]:
    """Score the whole topic."""
    started = time.perf_counter()
    report = drain(
        Broker(KafkaSettings()),
        Warehouse(WarehouseSettings()),
        load_policy(DEFAULT_POLICY),
        DrainSettings(session_seconds=3600, idle_seconds=1),
        run_id="benchmark",
        log=_LOG,
    )
    return _result(report.scored + report.rejected, time.perf_counter() - started - 1)


def run_archive() -> dict[str, Any]:
    """Archive the whole topic."""
    started = time.perf_counter()
    report = archive(
        Broker(KafkaSettings()),
        Warehouse(WarehouseSettings()),
        Lake(LakeSettings()),
        ArchiveSettings(),
        run_id="benchmark",
        log=_LOG,
    )
    return _result(
        report.rows,
        time.perf_counter() - started,
        value_bytes=report.value_bytes,
        bytes=report.bytes,
        objects=len(report.objects),
    )


def run_bare() -> dict[str, Any]:
    """Poll, write Parquet, put_object: nothing recorded, nothing checked."""
    import boto3
    from kafka import KafkaConsumer, TopicPartition

    settings = KafkaSettings()
    started = time.perf_counter()
    s3 = boto3.client("s3")
    ends = {p: end for p, (_, end) in Broker(settings).inspect().offsets.items()}
    events = value_bytes = size = 0
    with open_client(KafkaConsumer, settings, enable_auto_commit=False) as consumer:
        for partition, end in ends.items():
            tp = TopicPartition(settings.topic, partition)
            consumer.assign([tp])
            consumer.seek(tp, 0)
            while consumer.position(tp) < end:
                file = io.BytesIO()
                first = rows = consumer.position(tp)
                with pq.ParquetWriter(file, COLUMNS, compression="zstd") as writer:
                    while rows < end and rows - first < _OBJECT_EVENTS:
                        for records in consumer.poll(1000, max_records=20_000).values():
                            table = pa.table(
                                {
                                    "partition": [partition] * len(records),
                                    "offset": [r.offset for r in records],
                                    "timestamp": [r.timestamp for r in records],
                                    "key": [r.key for r in records],
                                    "value": [r.value for r in records],
                                },
                                schema=COLUMNS,
                            )
                            writer.write_table(table)
                            value_bytes += sum(len(r.value) for r in records)
                            rows = records[-1].offset + 1
                s3.put_object(
                    Bucket=LakeSettings().bucket,
                    Key=f"bare/{partition}/{first}.parquet",
                    Body=file.getvalue(),
                )
                events += rows - first
                size += file.tell()
    return _result(events, time.perf_counter() - started, value_bytes=value_bytes, bytes=size)


def run_rebuild() -> dict[str, Any]:
    """Score the whole archive into a fresh schema."""
    started = time.perf_counter()
    report = rebuild(
        WarehouseSettings(),
        Lake(LakeSettings()),
        load_policy(DEFAULT_POLICY),
        into="rebuilt",
        run_id="benchmark",
        log=_LOG,
    )
    return _result(report.scored + report.rejected, time.perf_counter() - started)


def _result(events: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "events": events,
        "seconds": round(seconds, 2),
        "events_per_second": round(events / seconds),
        "peak_mb": _peak_mb(),
        **({"mb_per_second": round(more["value_bytes"] / seconds / 1e6, 1)} if more else {}),
        **more,
    }


def _peak_mb() -> int:
    """Peak resident memory of this process so far, 10^6 bytes."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(peak.split()[1]) * 1024 / 1e6)


def compression() -> list[dict[str, Any]]:
    """Bytes and seconds of writing the same 50,000 events in several ways."""
    loans = islice(producer.endless(producer.builtin_loans()), 50_000)
    values = [json.dumps(loan).encode() for loan in loans]
    import numpy as np

    count = len(values)
    batch = to_arrow(
        0, np.arange(count), np.full(count, 1_700_000_000_000), [b"127000001"] * count, values
    )
    table = pa.Table.from_batches([batch])
    raw = sum(map(len, values))
    found = []
    for level in (1, 3, 6, 9):
        for group_mib in (1, 8, 32):
            rows = max(1, group_mib * 2**20 * count // raw)
            file = io.BytesIO()
            started = time.perf_counter()
            pq.write_table(
                table,
                file,
                row_group_size=rows,
                compression="zstd",
                compression_level=level,
                use_dictionary=["partition"],
                write_statistics=["partition", "offset", "timestamp"],
            )
            seconds = time.perf_counter() - started
            found.append(
                {
                    "level": level,
                    "row group (MiB)": group_mib,
                    "ratio": round(raw / file.tell(), 2),
                    "MB/s": round(raw / seconds / 1e6),
                }
            )
    return found


def main(events: int) -> None:
    """Measure, and print what was found as JSON lines."""
    for line in compression():
        print(json.dumps(line), flush=True)
    with (
        TemporaryDirectory(prefix="credit-risk-") as folder,
        Postgres(Path(folder)) as postgres,
        BrokerServer() as broker,
        S3() as s3,
    ):
        postgres.create_database("benchmark")
        os.environ |= {
            **s3.variables(),
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "KAFKA_TOPIC": "loans",
            "DATABASE_URL": postgres.uri("benchmark"),
        }
        migrate(WarehouseSettings())
        # Only the columns that are used: the broker has to keep all of it in memory.
        loans = [
            {name: row[name] for name in Event.__struct_fields__ if name in row}
            for row in producer.builtin_loans()
        ]
        producer.ensure_topic(KafkaSettings())
        producer.produce(KafkaSettings(), loans, max_events=events, loop=True)
        found: dict[str, dict[str, Any]] = {}
        for name in ("run_drain", "run_bare", "run_archive", "run_rebuild"):
            process = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.archive", name],
                capture_output=True,
                text=True,
                check=True,
            )
            found[name] = json.loads(process.stdout)
            print(name, json.dumps(found[name]), flush=True)
    speed = {name: result["events_per_second"] for name, result in found.items()}
    size = found["run_archive"]
    for bar, value, bound in (
        ("archive / bare loop, %", 100 * speed["run_archive"] / speed["run_bare"], ">= 80"),
        ("peak memory of archiving, MB", size["peak_mb"], "<= 300"),
        ("rebuild / drain, %", 100 * speed["run_rebuild"] / speed["run_drain"], ">= 100"),
        ("compression ratio", size["value_bytes"] / size["bytes"], ""),
    ):
        print(f"{bar}: {value:.1f} {bound}", flush=True)


if __name__ == "__main__":
    argument = sys.argv[1] if len(sys.argv) > 1 else "1000000"
    if argument.isdigit():
        main(int(argument))
    else:
        before = _peak_mb()
        print(json.dumps({"before_mb": before, **globals()[argument]()}))
