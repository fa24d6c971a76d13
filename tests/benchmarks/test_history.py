"""The history that growth is measured with is one that the platform itself could have made."""

import pytest

from resources.postgres.partitions import Span
from resources.postgres.reconciliation import Reconciliation
from tests.benchmarks.history import fill
from tests.platform.pipeline import Pipeline, good_event

EACH, SPANS, RECENT = 800, 5, 400


@pytest.mark.parametrize("span", ["day", "month"])
def test_a_history_is_whole_and_agrees_with_its_rollups(pipeline: Pipeline, span: Span) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)], 1)
    (first,) = pipeline.query("SELECT min(starts) AS began FROM time_partitions")
    fill(pipeline.warehouse.connect, EACH * SPANS, span, SPANS, RECENT)
    with pipeline.warehouse.session() as connection:
        checked = Reconciliation(connection).check_everything()
    assert (checked.open, checked.left) == ([], 0)
    events = EACH * SPANS + RECENT
    (found,) = pipeline.query(
        'SELECT (SELECT count(*) FROM scored_applications WHERE "offset" < 0) AS scored,'
        " (SELECT count(*) FROM rejected_events) AS rejected,"
        " (SELECT count(DISTINCT loan_id) FROM scored_applications) AS loans,"
        " (SELECT sum(scored + rejected) FROM batches) AS batches,"
        " (SELECT sum(applications) FROM risk_by_minute) AS minutes,"
        " (SELECT sum(applications) FROM segments_by_hour) AS segments,"
        " (SELECT count(*) > 0 FROM cases WHERE state = 'closed') AS cases,"
        " (SELECT count(*) FROM time_partitions WHERE parent = 'scored_applications'"
        " AND ends <= %(began)s) AS spans",
        **first,
    )
    assert found == {
        "scored": events * 99 // 100,
        "rejected": events // 100,
        "loans": events * 99 // 100 + 10,
        "batches": events + 10,
        "minutes": events + 10,
        "segments": events * 99 // 100 + 10,
        "cases": True,
        "spans": SPANS,
    }
