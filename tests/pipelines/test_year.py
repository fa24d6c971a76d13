"""A year of Dagster's runs leaves as much in its storage as a month does."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from assets_src.retention import delete_history
from credit_risk_dagster.settings import RetentionSettings

KEEP = timedelta(days=RetentionSettings().run_days)
BEGAN = datetime.now(UTC).replace(hour=6) - timedelta(days=365)
TABLES = ("runs", "run_tags", "event_logs", "asset_event_tags", "asset_check_executions")


@dg.asset(
    check_specs=[dg.AssetCheckSpec("count", asset="drained")],
)
def drained(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log_event(dg.AssetObservation("drained", metadata={"so far": 1}))
    return dg.MaterializeResult(
        tags={"lane": "0"}, check_results=[dg.AssetCheckResult(passed=True)]
    )


# What a run left, once more at another time: under another id, in the texts, too.
_AGAIN: Mapping[str, LiteralString] = {
    "runs": "run_body = replace(run_body, %(run)s::text, %(as)s::text), create_timestamp = %(at)s,"
    " update_timestamp = %(at)s",
    "run_tags": "",
    "event_logs": '"timestamp" = %(at)s, event = replace(event, %(run)s::text, %(as)s::text)',
    "asset_check_executions": "create_timestamp = %(at)s, evaluation_event_timestamp = %(at)s",
}


def copy_run(connection: psycopg.Connection, run_id: str, number: int, at: datetime) -> None:
    values = {"run": run_id, "as": f"{run_id[:-4]}n{number:03}", "at": at.replace(tzinfo=None)}
    for table, changed in _AGAIN.items():
        name = sql.Identifier(table)
        changes = f"id = nextval(pg_get_serial_sequence('{table}', 'id')), run_id = %(as)s::text"
        connection.execute(
            sql.SQL(
                "CREATE TEMP TABLE again AS SELECT * FROM {} WHERE run_id = %(run)s::text"
            ).format(name),
            values,
        )
        connection.execute(
            sql.SQL("UPDATE again SET ") + sql.SQL(", ".join(filter(None, [changes, changed]))),
            values,
        )
        connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM again").format(name))
        connection.execute("DROP TABLE again")
    connection.execute(
        "INSERT INTO asset_event_tags (asset_key, event_id, key, value, event_timestamp)"
        " SELECT asset_key, id, 'lane', '0', \"timestamp\" FROM event_logs"
        " WHERE run_id = %(as)s::text AND dagster_event_type = 'ASSET_MATERIALIZATION'",
        values,
    )
    # And what a sensor saw of the topic, in no run.
    connection.execute(
        'INSERT INTO event_logs (run_id, event, dagster_event_type, "timestamp", asset_key)'
        " SELECT '', event, dagster_event_type, %(at)s, asset_key FROM event_logs"
        " WHERE run_id = %(as)s::text AND dagster_event_type = 'ASSET_OBSERVATION'",
        values,
    )


def rows(connection: psycopg.Connection) -> Counter[str]:
    found = Counter[str]()
    for table in TABLES:
        (counted,) = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        ).fetchone() or (0,)
        found[table] = counted
    return found


@pytest.mark.slow
def test_a_year_leaves_what_a_month_does(servers: dict[str, str]) -> None:
    with (
        dg.DagsterInstance.get() as instance,
        psycopg.connect(servers["DAGSTER_POSTGRES_URL"], autocommit=True) as connection,
    ):
        run_id = dg.materialize([drained], instance=instance, tags={"lane": "0"}).run_id
        of_one = rows(connection)
        assert all(of_one.values())
        left, number = [], 0
        for day in range(0, 360, 2):
            copy_run(connection, run_id, number, BEGAN + timedelta(days=day))
            number += 1
            if day % 30 == 28:
                delete_history(instance, BEGAN + timedelta(days=day + 1) - KEEP)
                left.append(rows(connection))
        assert instance.get_run_by_id(f"{run_id[:-4]}n{number - 1:03}")
    first, *others = left
    assert others == [first] * 11
    assert first["runs"] == 1 + 15
