"""A policy beside the decisions of then, over the lake's raw events."""

import logging
from collections.abc import Iterator
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from credit_risk_dagster.domain.lake_rows import SourceKey
from credit_risk_dagster.domain.model.outcome import load_outcome
from credit_risk_dagster.domain.policy import TIERS, Policy, load_policy
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.pipelines.rebuild_compare import HistoryComparison, compare_history
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from tests.pipelines.test_rebuild import days_ago, run
from tests.platform.pipeline import Pipeline, good_event

NOONS = days_ago(3, 2, 1)
DAYS = [noon.date() for noon in NOONS]


class Stored:
    """What Postgres has of the decisions, in any order, as the lake hands them out."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def of(self, source: SourceKey, day: date) -> Iterator[pa.RecordBatch]:
        for table, tier in (("scored_applications", "risk_tier"), ("rejected_events", "NULL")):
            rows = self._pipeline.query(
                f'SELECT partition, "offset", {tier} AS risk_tier FROM {table}'
                ' WHERE mod("offset", 10) <> 7 ORDER BY random()'
            )
            yield pa.RecordBatch.from_pydict(
                {
                    "partition": pa.array([row["partition"] for row in rows], pa.int32()),
                    "offset": pa.array([row["offset"] for row in rows], pa.int64()),
                    "risk_tier": pa.array([row["risk_tier"] for row in rows], pa.string()),
                }
            )


@pytest.fixture
def history(pipeline: Pipeline) -> Pipeline:
    """Three days with 27 applications and three that cannot be scored; every tenth has no decision
    in the lake."""
    for noon in NOONS:
        pipeline.send([b"junk" if i == 4 else good_event(i) for i in range(10)], at=noon)
    pipeline.drain()
    pipeline.archive()
    return pipeline


def compared(pipeline: Pipeline, policy: Policy, since: date | None = None) -> HistoryComparison:
    return compare_history(
        RawEvents(pipeline.lake, pipeline.kafka.topic),
        Stored(pipeline),
        policy,
        load_outcome("early_delinquency"),
        since=since,
        log=logging.getLogger("test"),
    )


def test_the_policy_of_then_moves_nobody(history: Pipeline) -> None:
    found = compared(history, load_policy(DEFAULT_POLICY))
    moves = found.compared.moves
    assert (moves.sum(), np.trace(moves)) == (24, 24)
    assert (found.rejected, found.undecided) == (3, 3)
    assert found.days == set(DAYS)
    assert compared(history, load_policy(DEFAULT_POLICY), since=DAYS[1]).compared.applications == 16


def test_another_policy_is_compared_and_nothing_is_written(
    history: Pipeline, warehouse_settings: WarehouseSettings
) -> None:
    lenient = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
    strict = load_policy(DEFAULT_POLICY)
    before = history.stored()
    for policy in (strict, lenient):
        found = compared(history, policy)
        told = found.told()
        tiers = run(history, warehouse_settings, policy, into=f"again_{policy.name[-1]}").tiers
        now = dict.fromkeys(TIERS, 0)
        for move in told["moves"]:
            now[move["now"]] += move["applications"]
        # Of 27, three are not compared; all of them are the same application.
        assert {tier: n * 27 / 24 for tier, n in now.items()} == {t: tiers[t] for t in TIERS}
        assert sum(move["amount"] for move in told["moves"]) == 24 * 10_000
    assert history.stored() == before
