"""A policy beside the decisions of then, over the lake's raw events."""

import json
import logging
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from credit_risk_dagster.cli.lake import app
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.domain.policy import TIERS, Policy, load_policy
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.pipelines.outcomes import load_outcomes
from credit_risk_dagster.pipelines.rebuild_compare import HistoryComparison, compare_history
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.postgres.outcomes import Outcomes
from tests.domain.model.samples import OUTCOME
from tests.pipelines.test_rebuild import days_ago, run
from tests.pipelines.test_redrive import reject_scored
from tests.pipelines.test_redrive import run as redrive
from tests.platform.pipeline import Pipeline, good_event

NOONS = days_ago(3, 2, 1)
DAYS = [noon.date() for noon in NOONS]


@pytest.fixture
def history(pipeline: Pipeline) -> Pipeline:
    """Three days with 27 applications and three that cannot be scored."""
    for noon in NOONS:
        pipeline.send([b"junk" if i == 4 else good_event(i) for i in range(10)], at=noon)
    pipeline.drain()
    pipeline.archive()
    return pipeline


def compared(
    pipeline: Pipeline,
    policy: Policy,
    since: date | None = None,
    at: int | datetime | None = None,
    observed: pa.Table | None = None,
    outcome: Outcome = OUTCOME,
) -> HistoryComparison:
    return compare_history(
        RawEvents(pipeline.lake, pipeline.kafka.topic, at),
        policy,
        outcome,
        observed,
        since=since,
        log=logging.getLogger("test"),
    )


def test_the_policy_of_then_moves_nobody(history: Pipeline) -> None:
    found = compared(history, load_policy(DEFAULT_POLICY))
    moves = found.compared.moves
    assert (moves.sum(), np.trace(moves)) == (27, 27)
    assert (found.rejected, found.undecided) == (3, 0)
    assert found.days == set(DAYS)
    assert compared(history, load_policy(DEFAULT_POLICY), since=DAYS[1]).compared.applications == 18


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
        assert now == {tier: tiers[tier] for tier in TIERS}
        assert sum(move["amount"] for move in told["moves"]) == 27 * 10_000
    assert history.stored() == before


def test_as_of_then_it_goes_by_what_was_decided_then(pipeline: Pipeline) -> None:
    """And by no decision of after that, as a re-drive's."""
    pipeline.send_and_drain([good_event(i) for i in range(4)])
    reject_scored(pipeline, [1])
    pipeline.archive()
    version = RawEvents(pipeline.lake, pipeline.kafka.topic).version
    then = datetime.now(UTC)
    redrive(pipeline)
    assert pipeline.archive().decisions.rows == 1

    def scored(at: int | datetime | None) -> tuple[int, int]:
        found = compared(pipeline, load_policy(DEFAULT_POLICY), at=at)
        assert found.undecided == 0
        return found.compared.applications, found.newly_scored

    assert [scored(at) for at in (None, version, then)] == [(4, 0), (3, 1), (3, 1)]


def test_how_loans_went_comes_from_outcomes_and_each_loan_counts_once(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """No application carries it any more: without a look at the outcomes no bad rate was known."""
    pipeline.send_and_drain([good_event(at) for at in [*range(20), *range(5)]])
    pipeline.archive()
    file = tmp_path / "outcomes.csv"
    bad = "Late (31-120 days)"
    lines = [f"{at},2018-06-30,{bad if at < 4 else 'Current'}" for at in range(16)]
    file.write_text("\n".join(["loan_id,observed_at,status", *lines]))
    load_outcomes(pipeline.warehouse, str(file))
    with pipeline.warehouse.session() as connection, connection.transaction():
        observed = Outcomes(connection).observed()
    policy = load_policy(DEFAULT_POLICY)
    found = compared(pipeline, policy, observed=observed)
    assert (found.compared.applications, found.compared.known, found.compared.bads) == (25, 16, 4)
    tiers = {(t["tier"], t["when"]): t for t in found.told()["tiers"]}
    watchlist = tiers["Watchlist", "then"]
    assert (watchlist["known_outcomes"], watchlist["bads"], watchlist["bad_rate"]) == (16, 4, 0.25)
    assert watchlist["bad_rate_low"] < 0.25 < watchlist["bad_rate_high"]
    assert tiers["Low", "now"]["bad_rate"] is None
    # At a horizon, by the date of the first application and the newest observation of all; who was
    # first seen bad after it is not known.
    months = Outcome(name="x", horizon_months=3, bad=[bad], good=["Current"])
    assert compared(pipeline, policy, observed=observed, outcome=months).compared.known == 12
    later = months.model_copy(update={"horizon_months": 6})
    assert compared(pipeline, policy, observed=observed, outcome=later).compared.known == 0
    assert compared(pipeline, policy).compared.known == 0


@pytest.mark.usefixtures("servers")
def test_the_command(history: Pipeline) -> None:
    asked = ["rebuild", "--topic", history.kafka.topic, "--compare", str(DEFAULT_POLICY)]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["days"], told["applications"], told["rejected"]) == (3, 27, 3)
    shown = CliRunner().invoke(app, asked).stdout
    assert "Watchlist" in shown
    assert "bad_rate" in shown
    refused = CliRunner().invoke(app, [*asked, "--into", "again"])
    assert "either --into" in str(refused.exception)
