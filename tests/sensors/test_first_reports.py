"""When the first report of each kind is requested, and that it is requested once."""

from datetime import UTC, datetime

import dagster as dg
import psycopg

from credit_risk_dagster.domain.outcomes import Observation
from credit_risk_dagster.settings import DriftSettings, Settings, WarehouseSettings
from resources.postgres.connection import Warehouse
from resources.postgres.outcomes import Outcomes
from resources.postgres.risk_reports import add_report
from sensors.first_reports import BENCHMARK, DRIFT, ENOUGH_OUTCOMES, PORTFOLIO, first_reports


def test_each_first_report_is_requested_once(
    warehouse_settings: WarehouseSettings, instance: dg.DagsterInstance
) -> None:
    warehouse = Warehouse(warehouse_settings)
    settings = Settings(drift=DriftSettings(baseline_rows=100))
    cursor = None

    def tick() -> list[str | None]:
        nonlocal cursor
        with dg.build_sensor_context(instance, cursor=cursor) as context:
            found = first_reports(context, settings=settings, warehouse=warehouse)
        if isinstance(found, dg.SkipReason):
            return []
        cursor = found.cursor
        return [request.job_name for request in found.run_requests or ()]

    assert tick() == []
    with warehouse.connect() as connection:
        _score(connection, 99)
        assert tick() == []
        _score(connection, 100)
        assert tick() == [DRIFT]
        assert tick() == []
        _add_outcomes(connection, ENOUGH_OUTCOMES)
        assert tick() == [BENCHMARK]
        assert tick() == []  # there were too few bad ones: once more when there are twice as many
        _add_outcomes(connection, 2 * ENOUGH_OUTCOMES)
        assert tick() == [BENCHMARK]
        connection.execute(_BENCHMARK)
        assert tick() == [PORTFOLIO]
        assert tick() == []
        add_report(connection, "portfolio", "p", {}, "run")
    assert tick() == []


def _score(connection: psycopg.Connection[object], scored: int) -> None:
    connection.execute(
        "INSERT INTO sources (cluster_id, topic) VALUES ('c', 't') ON CONFLICT DO NOTHING"
    )
    connection.execute(
        "INSERT INTO stream_offsets (source_id, partition, first_offset, next_offset, scored)"
        " SELECT source_id, 0, 0, %(scored)s, %(scored)s FROM sources"
        " ON CONFLICT (source_id, partition) DO UPDATE SET next_offset = %(scored)s,"
        " scored = %(scored)s",
        {"scored": scored},
    )


def _add_outcomes(connection: psycopg.Connection[object], until: int) -> None:
    at = datetime(2018, 6, 1, tzinfo=UTC)
    Outcomes(connection).add(
        Observation(str(n), at, "Current", None, None, None, "test") for n in range(until)
    )


_BENCHMARK = """
INSERT INTO model_benchmarks (benchmark_id, subject, created_at, run_id, outcome, sample,
    sample_hash, policy, rows, bads, verdict, auc, auc_low, auc_high, gini, ks, gains)
VALUES (1, 'rules', now(), 'r', 'o', 's', 'h', 'p', 9, 1, 'v', 0.5, 0.4, 0.6, 0, 0, '[]')
"""
