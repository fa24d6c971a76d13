"""Weeks of history in seconds, for a demo that has something to show: loans that come, change for
a while and are as before, a second policy, outcomes, and reviews.

The pipeline really does all of it: it scores, reports drift and trains models. Then each time in
the database is moved to the moment that it stands for.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.shifts import parse_shift, shifted
from credit_risk_dagster.pipelines.drain import Bound, drain
from credit_risk_dagster.pipelines.drift import freeze_baseline, report_drift
from credit_risk_dagster.pipelines.loans import Row
from credit_risk_dagster.pipelines.outcomes import OutcomesLater
from credit_risk_dagster.pipelines.producer import produce
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    DrainSettings,
    DriftSettings,
    KafkaSettings,
    WarehouseSettings,
)
from resources.kafka.broker import Broker
from resources.postgres.cases import Cases, Wanted
from resources.postgres.connection import Warehouse
from resources.postgres.policies import decide_policy, submit_policy
from resources.postgres.sums import sum_up

EVENTS: Final = 7_000
SPAN: Final = timedelta(weeks=6)
SLICES: Final = 14
FIRST_POLICY = DEFAULT_POLICY.with_name("lendingclub-v1.yaml")
# In these slices applicants have more debt and less income.
_CHANGED = range(8, 11)
_CHANGES = ("dti=+5", "annual_inc=x0.85", "revol_util=+6")
_BASELINE_AFTER, _SECOND_POLICY_AFTER = 3, 6
_BATCHES = 40  # of a slice
_AUTHOR, _APPROVER = "m.okafor", "j.lindqvist"
# What reviewers found, in turn.
_FOUND = (
    ("confirmed", "debt_burden", "Debts are as stated; the limit was lowered."),
    ("false_positive", "income_verified", "The employer confirmed the income."),
    ("confirmed", "delinquency", "Two payments were late in spring."),
    ("false_positive", "debt_settled", "The card was paid off; the letter is on file."),
    ("override_down", "compensating_factors", "Long employment, and savings for a year."),
    ("escalated", "senior_approval", "Above my limit."),
)
_BROKEN: tuple[Row, ...] = (
    {"id": "1", "loan_amnt": 9_000},
    {"id": "2", "loan_amnt": 9_000, "annual_inc": 60_000, "int_rate": "high"},
    {"id": "3", "loan_amnt": "n/a"},
)
_log = logging.getLogger(__name__)

_ROLLUPS = ("risk_by_minute", "risk_by_hour", "segments_by_hour", "segments_progress")
# When each batch was committed, and when it stands for: the batches of a session share its slice.
_MOMENTS = """
WITH numbered AS (
    SELECT committed_at, min(committed_at) OVER session AS began,
        row_number() OVER (session ORDER BY committed_at) AS n, count(*) OVER session AS of
    FROM batches WINDOW session AS (PARTITION BY run_id)
)
SELECT committed_at,
    now() - %s + %s * (dense_rank() OVER (ORDER BY began) - 1 + n / of::float8)
FROM numbered ORDER BY committed_at
"""
# As far before or after the row's first time as they were.
_OF_THE_ROW = ("recorded_at", "event_time", "observed_at", "due_at")


def is_empty(settings: WarehouseSettings) -> bool:
    """Whether nothing was ever scored here."""
    with Warehouse(settings).session("demo") as connection:
        return connection.execute("SELECT FROM batches LIMIT 1").fetchone() is None


def backfill(
    kafka: KafkaSettings, settings: WarehouseSettings, loans: Iterable[Row], events: int = EVENTS
) -> int:
    """Fill an empty platform whose Dagster does not run yet; returns how many events were sent.

    Args:
        kafka, settings: its empty topic, and its migrated and empty database, as superuser.
        loans: of which it takes about so many.
        events: how many, as good as.
    """
    warehouse, sent = Warehouse(settings), 0
    outcomes = OutcomesLater(islice(loans, events), warehouse)
    told = iter(outcomes)
    for number, share in enumerate(_shares(events)):
        sent += _slice(kafka, warehouse, number, told, share)
        if number == _BASELINE_AFTER:
            freeze_baseline(
                *(warehouse, DriftSettings(), kafka.topic, load_policy(FIRST_POLICY)),
                rows=max(100, events // 5),
            )
        if number == _SECOND_POLICY_AFTER:
            _second_policy(warehouse)
        if number > _BASELINE_AFTER:
            window = DriftSettings(window_rows=max(100, 2 * share), min_rows=max(100, share // 2))
            report_drift(
                *(warehouse, window, kafka.topic, load_policy(DEFAULT_POLICY)), run_id=_run_id()
            )
        if number < SLICES - 1:
            _review(warehouse)
    outcomes.flush()
    with warehouse.connect("history") as connection, connection.transaction():
        _move_apart(connection)
    return sent


def _shares(events: int) -> Iterator[int]:
    """Applications of each slice: a few more each week."""
    weights = np.linspace(0.8, 1.2, SLICES) / SLICES
    yield from (round(events * weight) for weight in weights)


def _slice(
    kafka: KafkaSettings, warehouse: Warehouse, number: int, loans: Iterator[Row], share: int
) -> int:
    """Send the applications of a slice, and drain them in a session; how many were sent."""
    taken: Iterator[Row] = islice(loans, share)
    if number in _CHANGED:
        taken = shifted(taken, [parse_shift(change) for change in _CHANGES])
    sent = produce(kafka, chain(taken, _BROKEN[: number % 4])).sent
    broker = Broker(kafka)
    drain(
        *(broker, warehouse, load_policy(FIRST_POLICY)),
        DrainSettings(lanes=1, max_batch_events=max(1, share // _BATCHES)),
        run_id=_run_id(),
        bounds=[Bound(p, first, end) for p, (first, end) in broker.inspect().offsets.items()],
        log=_log,
    )
    return sent


def _run_id() -> str:
    return str(uuid.uuid4())


def _second_policy(warehouse: Warehouse) -> None:
    """The life of a policy that people change: submitted by one, approved by another."""
    policy = load_policy(DEFAULT_POLICY)
    with warehouse.session("history") as connection:
        policy_id = submit_policy(
            connection, policy, _AUTHOR, "Joint applications are decided on both borrowers", {}
        )
        decide_policy(connection, policy_id, "approve", _APPROVER, "As discussed in the committee")
        decide_policy(connection, policy_id, "activate", _APPROVER, "From the next batch on")


def _review(warehouse: Warehouse) -> None:
    """Two people work on the cases until a few are left."""
    with warehouse.session("history") as connection:
        cases = Cases(connection)
        for at, case in enumerate(cases.page(Wanted(state="open"), limit=200)):
            who = (_AUTHOR, _APPROVER)[at % 2]
            disposition, reason, note = _FOUND[(case.case_id + at) % len(_FOUND)]
            version = cases.act(case.case_id, case.version, "start", who)
            if at % 12:
                cases.act(
                    *(case.case_id, version, "close", who),
                    disposition=disposition,
                    reason_code=reason,
                    note=note,
                )


# --- time -----------------------------------------------------------------------------------------


def _move_apart(connection: psycopg.Connection[Any]) -> None:
    """Move each time to the moment that it stands for; the rollups follow from the rows.

    The batches of a slice are spread evenly over it, and what happened between two batches
    happened between the moments of the two.
    """
    connection.execute("SELECT make_partitions('month', now() - %s)", (SPAN,))
    connection.execute("SET LOCAL session_replication_role = replica")  # records that stay, too
    rows = connection.execute(_MOMENTS, (SPAN, SPAN / SLICES)).fetchall()
    real, target = (np.array([at.timestamp() for at in times]) for times in zip(*rows, strict=True))
    for table, names in _times(connection):
        own = [name for name in names if name not in _OF_THE_ROW]
        with_it = [name for name in names if name in _OF_THE_ROW]
        for name in own:
            _move(connection, table, name, with_it, real, target)
            with_it = []
    connection.execute("DELETE FROM risk_by_minute")
    connection.execute(
        "INSERT INTO risk_by_minute"
        " SELECT date_trunc('minute', scored_at), source_id, risk_tier, count(*), sum(loan_amnt)"
        " FROM scored_applications GROUP BY 1, 2, 3 UNION ALL"
        " SELECT date_trunc('minute', rejected_at), source_id, 'Rejected', count(*), 0"
        " FROM rejected_events GROUP BY 1, 2"
    )
    sum_up(connection)
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
    query = sql.SQL(
        "SELECT DISTINCT {name} FROM {table} WHERE {name} IS NOT NULL AND isfinite({name})"
    ).format(**names)
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
