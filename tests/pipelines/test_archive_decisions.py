"""The lake's decisions, beside what Postgres has of them."""

import logging
from typing import Any

import msgspec
import pytest

from credit_risk_dagster.domain.lake_rows import DECISIONS
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.forget import forget
from credit_risk_dagster.settings import DEFAULT_POLICY
from resources.lake_tables import LakeMoved, LakeTable
from resources.postgres.decisions import Decisions
from resources.postgres.sources import Sources
from tests.pipelines.test_redrive import reject_scored
from tests.pipelines.test_redrive import run as redrive
from tests.platform.pipeline import GOOD, Pipeline, good_event


def told(row: dict[str, Any]) -> tuple[int, str, str | None, str | None]:
    return row["offset"], row["outcome"], row["reject_reason"], row["risk_tier"]


def decisions(pipeline: Pipeline) -> list[dict[str, Any]]:
    return sorted(pipeline.rows("decisions"), key=lambda row: (row["offset"], row["decided_at"]))


def event(**fields: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(GOOD % 1) | fields)


def test_each_decision_is_a_row_with_all_that_postgres_has_of_it(pipeline: Pipeline) -> None:
    joint = {"application_type": "Joint App", "annual_inc_joint": 90_000, "dti_joint": 12.5}
    pipeline.send_and_drain(
        [*map(good_event, range(4)), event(**joint), good_event(7), b"junk", None]
    )
    for offset, text in enumerate(['Zoë, "quoted"\r\n\\N', "NULL", " ", "\t"]):
        pipeline.query(
            "UPDATE scored_applications SET pd = 0.1::float8 + 0.2, grade = '', purpose = %(text)s,"
            " loan_id = %(text)s, pd_reasons = CASE \"offset\" WHEN 0 THEN '{}'"
            " WHEN 1 THEN ARRAY['a, b', '\"c\"'] END"
            ' WHERE "offset" = %(offset)s RETURNING 1',
            text=text,
            offset=offset,
        )
    assert pipeline.archive().decisions.rows == 8
    stored = {
        row["offset"]: row
        for row in pipeline.query(
            "SELECT s.*, name AS policy, content_hash AS policy_hash, scored_at AS decided_at,"
            " NULL AS model, NULL AS arm, NULL AS reject_reason, 'scored' AS outcome"
            " FROM scored_applications s JOIN policies USING (policy_id)"
        )
    }
    found = decisions(pipeline)
    for row in found[:6]:
        expected = stored[row["offset"]]
        assert row == {name: expected[name] for name in DECISIONS.names}
    policy = load_policy(DEFAULT_POLICY)
    nothing = dict.fromkeys(DECISIONS.names)
    for row, why in zip(found[6:], ("invalid_json", "tombstone"), strict=True):
        (rejected,) = pipeline.query(
            'SELECT * FROM rejected_events WHERE "offset" = %(offset)s', offset=row["offset"]
        )
        assert row == nothing | {
            **{name: rejected[name] for name in ("partition", "offset", "recorded_at")},
            "decided_at": rejected["rejected_at"],
            "outcome": "rejected",
            "reject_reason": why,
            "policy": policy.name,
            "policy_hash": policy.content_hash,
        }


@pytest.mark.parametrize("archived", ["before", "after"])
def test_a_redriven_event_has_both_decisions_whenever_it_is_archived(
    pipeline: Pipeline, archived: str
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(6)])
    reject_scored(pipeline, [1, 4])
    if archived == "before":
        pipeline.archive()
    redrive(pipeline)
    for _ in range(3):
        pipeline.archive()
    found = decisions(pipeline)
    rejected, scored = ("rejected", "invalid_value:int_rate", None), ("scored", None, "Watchlist")
    assert list(map(told, found)) == [
        *((0, *scored), (1, *rejected), (1, *scored), (2, *scored)),
        *((3, *scored), (4, *rejected), (4, *scored), (5, *scored)),
    ]
    assert all(row["policy"] for row in found)
    # What is re-driven later comes later.
    reject_scored(pipeline, [2])
    pipeline.query("DELETE FROM redriven_events RETURNING 1")  # as a restored backup has it
    pipeline.send_and_drain([good_event(9)])
    redrive(pipeline)
    assert pipeline.archive().decisions.rows == 2
    assert [told(row)[0] for row in decisions(pipeline)] == [0, 1, 1, 2, 2, 3, 4, 4, 5, 6]


def test_many_redrives_are_read_in_parts(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(6)])
    for offset in (3, 1, 5):
        reject_scored(pipeline, [offset])
        redrive(pipeline)
    monkeypatch.setattr("resources.postgres.decisions._REDRIVEN_AT_ONCE", 1)
    assert pipeline.archive().decisions.rows == 9
    with pipeline.warehouse.session() as connection:
        first = Decisions(connection, 1).redriven(None)
        assert first
        assert first[0]["offset"].to_pylist() == [3]


def test_rows_that_left_before_are_told_once(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a run whose second commit another one came before."""
    whole, tries = LakeTable.commit, []

    def beaten(table: LakeTable, *args: Any, **options: Any) -> None:
        if table.root.startswith("decisions/") and len(tries) < 2:
            tries.append(1)
            if len(tries) == 2:
                raise LakeMoved("another run archived first")
        whole(table, *args, **options)

    monkeypatch.setattr(LakeTable, "commit", beaten)
    where = "credit_risk_dagster.pipelines.archive_decisions"
    monkeypatch.setattr(f"{where}._OFFSETS_AT_ONCE", 4)
    monkeypatch.setattr(f"{where}._BYTES_A_COMMIT", 1)
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    log = logging.getLogger("test")
    assert forget(pipeline.warehouse, pipeline.lake, "4", by="Ada", why="request 31", log=log)
    pipeline.query('DELETE FROM scored_applications WHERE "offset" < 3 RETURNING 1')
    report = pipeline.archive().decisions
    assert (report.rows, report.gone) == (6, 4)
    report = pipeline.archive().decisions
    assert (report.rows, report.gone) == (0, 0)
    assert [row["offset"] for row in decisions(pipeline)] == [3, 5, 6, 7, 8, 9]


def test_an_epoch_that_is_over_leaves_no_decision_behind(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    with pipeline.warehouse.session() as connection:
        Sources(connection).new_epoch(pipeline.broker.inspect())
    pipeline.send_and_drain([b"junk"])
    report = pipeline.archive()
    assert (report.rows, report.decisions.rows) == (6, 11)
    outcomes = [row["outcome"] for row in pipeline.rows("decisions")]
    assert sorted(outcomes) == ["rejected"] + ["scored"] * 10


def test_a_long_backlog_is_committed_in_parts(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for partition in (0, 1):
        pipeline.send([good_event(i) for i in range(100)], partition)
    pipeline.drain()
    where = "credit_risk_dagster.pipelines.archive_decisions"
    monkeypatch.setattr(f"{where}._OFFSETS_AT_ONCE", 30)
    monkeypatch.setattr(f"{where}._BYTES_A_COMMIT", 1)
    assert pipeline.archive().decisions.rows == 200
    assert len(pipeline.files("decisions")) == 8
    assert pipeline.offsets("decisions") == [(p, i) for p in (0, 1) for i in range(100)]
