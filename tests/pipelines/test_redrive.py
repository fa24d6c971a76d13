"""Rejected events, scored again after a fix."""

import threading

import pytest

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.redrive import RedriveReport, UnknownReason, redrive
from credit_risk_dagster.settings import DEFAULT_POLICY
from resources.postgres.rejected import RedriveRaced, RejectedEvents
from tests.platform.pipeline import Pipeline, good_event


def run(pipeline: Pipeline, **which: object) -> RedriveReport:
    return redrive(
        pipeline.warehouse,
        load_policy(DEFAULT_POLICY),
        run_id="redrive-1",
        **which,  # type: ignore[arg-type]
    )


def reject_scored(pipeline: Pipeline, offsets: list[int]) -> None:
    """Make scored rows rejected ones, as if by code that could not read them then."""
    pipeline.query(
        "WITH gone AS (DELETE FROM scored_applications WHERE partition = 0"
        ' AND "offset" = ANY (%(offsets)s) RETURNING *), back AS (INSERT INTO rejected_events'
        ' (source_id, partition, "offset", batch_id, recorded_at, rejected_at, reason, key, value)'
        ' SELECT source_id, partition, "offset", batch_id, recorded_at, scored_at,'
        " 'invalid_value:int_rate', 'key', convert_to(replace(%(value)s, '%%d', loan_id), 'UTF8')"
        " FROM gone)"
        " UPDATE stream_offsets SET scored = scored - n, rejected = rejected + n"
        " FROM (SELECT count(*) AS n FROM gone) c WHERE partition = 0 RETURNING 1",
        offsets=offsets,
        value=good_event(1).decode().replace('"id": 1,', '"id": %d,'),
    )
    pipeline.query(
        "INSERT INTO risk_by_minute SELECT minute, source_id, 'Rejected', %(n)s, 0"
        " FROM risk_by_minute WHERE risk_tier = 'Watchlist' ON CONFLICT (minute, source_id,"
        " risk_tier) DO UPDATE SET applications = risk_by_minute.applications + %(n)s RETURNING 1",
        n=len(offsets),
    )


def test_a_redriven_event_moves_and_everything_still_adds_up(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([*(good_event(i) for i in range(10)), b"junk", b"{}"])
    before = pipeline.query('SELECT * FROM scored_applications ORDER BY "offset"')
    reject_scored(pipeline, [2, 5])
    assert pipeline.unreconciled() == 0
    report = run(pipeline)
    assert (report.examined, report.moved) == (4, {"invalid_value:int_rate": 2})
    assert pipeline.unreconciled() == 0
    stored = pipeline.stored()
    assert stored["scored_applications"] == [(0, i) for i in range(10)]
    assert stored["rejected_events"] == [(0, 10), (0, 11)]
    (offsets,) = pipeline.query("SELECT scored, rejected FROM stream_offsets WHERE partition = 0")
    assert (offsets["scored"], offsets["rejected"]) == (10, 2)
    after = pipeline.query('SELECT * FROM scored_applications ORDER BY "offset"')
    for old, new in zip(before, after, strict=True):
        assert {**old, "scored_at": None} == {**new, "scored_at": None}
    audit = pipeline.query('SELECT * FROM redriven_events ORDER BY "offset"')
    assert [(a["offset"], a["reason"], a["run_id"]) for a in audit] == [
        (2, "invalid_value:int_rate", "redrive-1"),
        (5, "invalid_value:int_rate", "redrive-1"),
    ]
    rollup = pipeline.query(
        "SELECT sum(applications) AS n FROM risk_by_minute WHERE risk_tier = 'Rejected'"
    )
    assert rollup == [{"n": 2}]
    assert run(pipeline).moved.total() == 0


def test_only_what_is_asked_for_is_tried(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([*(good_event(i) for i in range(6)), b"junk"])
    reject_scored(pipeline, [1, 2, 3])
    assert run(pipeline, reason="invalid_json").examined == 1
    assert run(pipeline, partition=0, offset=2).moved.total() == 1
    assert run(pipeline, partition=1).examined == 0
    assert run(pipeline, reason="invalid_value:int_rate").moved.total() == 2
    with pytest.raises(UnknownReason, match=r"no event is rejected as nonsense; there are: tomb"):
        run(pipeline, reason="nonsense")


def test_two_redrives_do_not_meet(pipeline: Pipeline) -> None:
    with pipeline.warehouse.session() as other:
        RejectedEvents(other).lock_redrive()
        with pytest.raises(RedriveRaced, match="another run re-drives rejected events"):
            run(pipeline)


def test_a_redrive_waits_for_one_that_is_just_over(pipeline: Pipeline) -> None:
    with pipeline.warehouse.session() as other:
        RejectedEvents(other).lock_redrive()
        over = threading.Timer(0.3, other.close)
        over.start()
        assert run(pipeline).examined == 0
        over.join()


def test_the_archive_still_adds_up_after_a_redrive(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    reject_scored(pipeline, [3])
    pipeline.archive()
    run(pipeline)
    assert pipeline.account().problems == []
