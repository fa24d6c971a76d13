"""The history that a first demo begins with: true to the tables' own rules, and dated back."""

from datetime import timedelta

import pytest

from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import WarehouseSettings
from infra.embedded import history
from infra.embedded.history import SLICES, SPAN, backfill, is_empty
from resources.kafka.topics import ensure_topic
from resources.postgres.reconciliation import reconcile
from resources.postgres.sums import wrong_sums
from tests.platform.pipeline import Pipeline


@pytest.mark.slow
def test_six_weeks_of_history(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_BATCHES", 8)  # not one for each event
    settings = warehouse_settings
    assert is_empty(settings)
    ensure_topic(pipeline.kafka)
    sent = backfill(pipeline.kafka, settings, iter(builtin_loans()), 700)
    assert not is_empty(settings)
    with pipeline.warehouse.session() as connection:
        (source,) = pipeline.query("SELECT source_id FROM sources")
        partitions = reconcile(connection, source["source_id"])
        assert wrong_sums(connection) == []
    assert sum(p["scored"] + p["rejected"] for p in partitions) == sent
    assert not any(p["difference"] for p in partitions)
    (found,) = pipeline.query("""
        SELECT (SELECT min(scored_at) FROM scored_applications) - now() AS first,
            (SELECT max(scored_at) FROM scored_applications) - now() AS last,
            (SELECT count(DISTINCT policy_id) FROM scored_applications) AS policies,
            (SELECT count(*) FROM loan_outcomes) AS outcomes,
            (SELECT count(*) FROM drift_reports) AS reports,
            (SELECT count(*) FROM cases WHERE state = 'closed') AS closed,
            (SELECT sum(applications) FROM risk_by_minute) AS rolled_up,
            (SELECT count(*) FROM cases WHERE closed_at < opened_at OR due_at < opened_at) AS odd,
            (SELECT count(*) FROM cases WHERE due_at - opened_at <> interval '72 hours') AS due
    """)
    assert abs(-found["first"] - SPAN) < timedelta(days=1)
    assert -SPAN / SLICES < found["last"] <= timedelta(0)
    assert found["policies"] == 2
    assert found["reports"] >= 8
    assert min(found["outcomes"], found["closed"]) > 0
    assert found["rolled_up"] == sent
    assert (found["odd"], found["due"]) == (0, 0)
