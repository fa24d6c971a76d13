"""Two days of history in some minutes: loans that come and go with the day, and then change.

The pipeline really does all of it: it scores, reports drift and trains models. How long
an hour takes depends on the machine; afterwards each time in the database is moved to the hour that
it stands for.
"""

import logging
import math
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.shifts import parse_shift, shifted
from credit_risk_dagster.pipelines.drain import drain
from credit_risk_dagster.pipelines.drift import report_drift
from credit_risk_dagster.pipelines.loans import Row, builtin_loans, endless
from credit_risk_dagster.pipelines.outcomes import OutcomesLater
from credit_risk_dagster.pipelines.producer import produce
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    PROJECT_ROOT,
    DrainSettings,
    DriftSettings,
    KafkaSettings,
    WarehouseSettings,
)
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import connected_runs
from tests.malformed import event, without
from tests.platform.pipeline import send
from tests.platform.waiting import wait_until

PATIENCE_SECONDS = 120.0
SPAN = timedelta(hours=48)
SLICES = 24
_LOANS = 12_000
# From this slice on, applicants have more debt and less income.
_CHANGE_FROM = 17
_CHANGES = ("dti=+5", "annual_inc=x0.85", "revol_util=+6")
# After which slice something else happens.
_COMMANDS: Mapping[int, tuple[str, ...]] = {
    5: ("baseline freeze --rows 2000",),
    7: ("model train --sample builtin --seed 1",),
    16: ("model train --sample builtin",),
}
_REPORTS_FROM = 5
_MALFORMED: tuple[bytes, ...] = (b"not JSON", without("dti"), event(int_rate="high"))
_RATE = 300.0
_DRAIN = DrainSettings(max_batch_events=20, poll_interval_ms=50, idle_seconds=4)
_DRIFT = DriftSettings(window_rows=2_000)
_ROLLUPS = ("risk_by_minute", "segments_by_hour", "segments_progress")
# When each batch was committed, and when it stands for: the batches of a session share its slice.
_HOURS = """
WITH numbered AS (
    SELECT committed_at, run_id, min(committed_at) OVER session AS began,
        row_number() OVER (session ORDER BY committed_at) AS n, count(*) OVER session AS of
    FROM batches WINDOW session AS (PARTITION BY run_id)
)
SELECT committed_at,
    now() - %s + %s * (dense_rank() OVER (ORDER BY began) - 1 + n / of::float8)
FROM numbered ORDER BY committed_at
"""
_REVIEWS = """
SELECT act_on_case(case_id, version, action, who, NULL, disposition, reason_code, note)
FROM (
    SELECT case_id, version, row_number() OVER (ORDER BY priority DESC) AS n FROM cases
) AS c JOIN (
    SELECT 1 AS n, 'start' AS action, 'M. Okafor' AS who, NULL AS disposition, NULL AS reason_code,
        'Asked the employer for the income of the last two years.' AS note
    UNION ALL SELECT 4, 'start', 'J. Lindqvist', NULL, NULL, 'Asked for statements of the cards.'
    UNION ALL SELECT n, 'close', (ARRAY['M. Okafor', 'J. Lindqvist', 'R. Sato'])[1 + n % 3],
        (ARRAY['confirmed', 'confirmed', 'false_positive', 'override_down', 'confirmed',
               'escalated', 'false_positive'])[1 + n % 7], 'other', NULL
    FROM generate_series(6, 75) AS n
) AS r USING (n)
"""
# As far before the row's own time as they were.
_OF_THE_EVENT = ("recorded_at", "event_time", "observed_at")


def make_history(
    kafka: KafkaSettings, settings: WarehouseSettings, environment: Mapping[str, str]
) -> None:
    """Fill an empty platform whose Dagster does not run yet.

    Args:
        kafka, settings: its empty topic, and its migrated and empty database.
        environment: of the command line.
    """
    warehouse, policy = Warehouse(settings), load_policy(DEFAULT_POLICY)
    loans = iter(OutcomesLater(endless(builtin_loans()), warehouse))
    changed = shifted(loans, [parse_shift(change) for change in _CHANGES])
    with ThreadPoolExecutor(1, "drain") as pool, warehouse.session() as watch:
        for number in range(SLICES):
            run_id = str(uuid.uuid4())
            draining = pool.submit(
                drain,
                *(Broker(kafka), warehouse, policy, _DRAIN),
                run_id=run_id,
                log=logging.getLogger("history"),
            )
            wait_until(
                partial(connected_runs, watch, [run_id]), PATIENCE_SECONDS, "the drain is there"
            )
            _send(kafka, number, changed if number >= _CHANGE_FROM else loans)
            draining.result()
            for command in _COMMANDS.get(number, ()):
                _run(environment, command)
            if number >= _REPORTS_FROM:
                report_drift(warehouse, _DRIFT, kafka.topic, policy, run_id=str(uuid.uuid4()))
    with warehouse.connect("history") as connection:
        with connection.transaction():
            _move_apart(connection)
        connection.execute(_REVIEWS)


def _send(kafka: KafkaSettings, number: int, loans: Iterable[Row]) -> None:
    """The events of a slice, of two days with a quiet night and a busy afternoon each."""
    share = (1 - 0.75 * math.cos(4 * math.pi * number / SLICES)) / SLICES
    send(kafka, _MALFORMED[: 1 + number % 3], partition=number % kafka.partitions)
    produce(kafka, islice(loans, round(_LOANS * share)), rate=_RATE)


def _run(environment: Mapping[str, str], command: str) -> None:
    words = [sys.executable, "-m", "credit_risk_dagster.cli.main", *command.split()]
    subprocess.run(words, env=environment, cwd=PROJECT_ROOT, check=True, capture_output=True)


def _move_apart(connection: psycopg.Connection[Any]) -> None:
    """Move each time to the hour that it stands for; the rollups follow from the rows.

    The batches of a slice are spread evenly over its hours, and what happened between two batches
    happened between the hours of the two.
    """
    connection.execute("SET LOCAL session_replication_role = replica")  # records that stay, too
    rows = connection.execute(_HOURS, (SPAN, SPAN / SLICES)).fetchall()
    real, target = (np.array([at.timestamp() for at in times]) for times in zip(*rows, strict=True))
    for table, names in _times(connection):
        own = [name for name in names if name not in _OF_THE_EVENT]
        for name in own:
            _move(connection, table, name, [n for n in names if n not in own], real, target)
    connection.execute("DELETE FROM risk_by_minute")
    connection.execute(
        "INSERT INTO risk_by_minute"
        " SELECT date_trunc('minute', scored_at), source_id, risk_tier, count(*), sum(loan_amnt)"
        " FROM scored_applications GROUP BY 1, 2, 3 UNION ALL"
        " SELECT date_trunc('minute', rejected_at), source_id, 'Rejected', count(*), 0"
        " FROM rejected_events GROUP BY 1, 2"
    )
    connection.execute("UPDATE cases SET due_at = opened_at + interval '72 hours'")
    connection.execute("UPDATE segments_progress SET rolled_up_to = '-infinity'")


def _times(connection: psycopg.Connection[Any]) -> list[tuple[str, list[str]]]:
    """Each table's columns that are times, but the rollups'."""
    return connection.execute(
        "SELECT relname, array_agg(attname::text ORDER BY attnum) FROM pg_class"
        " JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition AND atttypid = 'timestamptz'::regtype AND attnum > 0"
        " AND NOT attisdropped AND relname <> ALL (%s) GROUP BY 1",
        (list(_ROLLUPS),),
    ).fetchall()


def _move(
    connection: psycopg.Connection[Any],
    table: str,
    name: str,
    with_it: list[str],
    real: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
) -> None:
    """Move a column's times, and those of `with_it` as far as the row's own."""
    names = {"table": sql.Identifier(table), "name": sql.Identifier(name)}
    query = sql.SQL("SELECT DISTINCT {name} FROM {table} WHERE {name} IS NOT NULL").format(**names)
    old = [at for (at,) in connection.execute(query)]
    moved = np.interp([at.timestamp() for at in old], real, target)
    connection.execute("CREATE TEMPORARY TABLE moved (old timestamptz, new timestamptz)")
    with connection.cursor().copy("COPY moved FROM STDIN") as copy:
        for row in zip(old, (datetime.fromtimestamp(at, UTC) for at in moved), strict=True):
            copy.write_row(row)
    columns = [
        sql.SQL("{0} = {0} - (old - new)").format(sql.Identifier(column))
        for column in (name, *with_it)
    ]
    connection.execute(
        sql.SQL("UPDATE {table} SET {columns} FROM moved WHERE {name} = old").format(
            columns=sql.SQL(", ").join(columns), **names
        )
    )
    connection.execute("DROP TABLE moved")
