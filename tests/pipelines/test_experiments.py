"""Splits and shadows on the stream: real Postgres, broker and lake."""

import logging
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pytest

from credit_risk_dagster.domain import scoring
from credit_risk_dagster.domain.arms import challenged
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import experiments, modelling, policies
from credit_risk_dagster.pipelines.forget import forget
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.rebuild import rebuild
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.postgres.approvals import NotInOrder
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.policies import register_policy
from resources.postgres.shadow import delete_old_opinions
from tests.pipelines.approvals import approved, started, stored_policy
from tests.pipelines.test_redrive import reject_scored
from tests.platform.pipeline import Pipeline, good_event

DEFAULT = load_policy(DEFAULT_POLICY)
V1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
LOANS = [msgspec.json.encode(loan) for loan in builtin_loans()[:1_200]]
ARMS = 'SELECT "offset", loan_id, policy_id, arm FROM scored_applications ORDER BY "offset"'


@pytest.fixture
def second(pipeline: Pipeline) -> int:
    """The policy lendingclub-v1, approved, beside the active one, which is of an empty topic."""
    pipeline.send_and_drain([good_event(1)])
    with pipeline.warehouse.session() as connection:
        return approved(connection, "policy", register_policy(connection, V1))


def execute(pipeline: Pipeline, statement: str) -> None:
    with pipeline.warehouse.session() as connection:
        connection.execute(statement.encode())


def run(pipeline: Pipeline, **given: Any) -> int:
    """Start an experiment that others submitted and approved; its id."""
    with pipeline.warehouse.session() as connection:
        return started(connection, **given)


def test_a_loans_arm_is_the_same_on_the_stream_and_in_a_rebuild(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, second: int
) -> None:
    run(pipeline, policy_id=second, share=40, salt="autumn")
    shadow = run(pipeline, policy_id=second)
    report = pipeline.send_and_drain(LOANS)
    assert [words.split("(")[0] for words in report.experiments] == [
        "experiment 1 ",
        "experiment 2 ",
    ]
    assert report.problems == []
    rows = pipeline.query(ARMS)
    dealt = [row for row in rows if row["arm"]]
    assert len(dealt) > 1_100
    mine = challenged(pa.array([row["loan_id"] for row in dealt]), "autumn", 40)
    for row, challenger in zip(dealt, mine.tolist(), strict=True):
        assert (row["policy_id"] == second) is challenger, row
        assert row["arm"] == ("autumn/challenger" if challenger else "autumn/champion")
    pipeline.archive()
    told = {row["offset"]: row["arm"] for row in pipeline.rows("decisions")}
    assert {row["offset"]: row["arm"] for row in dealt}.items() <= told.items()
    before = said(pipeline)
    assert {row["experiment_id"] for row in before} == {shadow}
    for _ in range(2):  # the second one adds nothing
        rebuild(
            warehouse_settings,
            RawEvents(pipeline.lake, pipeline.kafka.topic, None),
            DEFAULT,
            into="rebuilt",
            run_id="rebuild",
            log=logging.getLogger("test"),
        )
    again = Warehouse(warehouse_settings.model_copy(update={"db_schema": "rebuilt"}))
    with again.session() as connection:
        rebuilt = {row["offset"]: row["arm"] for row in fetch_all(connection, ARMS)}
        assert fetch_all(connection, "SELECT * FROM shadow_by_minute") == []
    assert {row["offset"]: row["arm"] for row in dealt}.items() <= rebuilt.items()
    assert said(pipeline) == before
    assert pipeline.unreconciled() == 0


def said(pipeline: Pipeline) -> list[dict[str, Any]]:
    return pipeline.query(
        "SELECT experiment_id, decided, candidate, sum(applications)::int AS n,"
        " sum(decided_pd) AS decided_pd, sum(candidate_pd) AS candidate_pd"
        " FROM shadow_by_minute GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )


def test_a_shadow_is_what_its_policy_decides_beside(pipeline: Pipeline, second: int) -> None:
    shadow = run(pipeline, policy_id=second)
    assert pipeline.send_and_drain(LOANS).problems == []
    # The same loans, decided by the candidate itself.
    with pipeline.warehouse.session() as connection:
        experiments.stop(connection, shadow, "seen")
        policies.activate(connection, second, "to compare")
    pipeline.send_and_drain(LOANS)
    half = len(LOANS)
    tier = (
        'SELECT "offset" - 1 AS at, risk_tier AS tier FROM scored_applications WHERE "offset" > 0'
        " UNION ALL SELECT \"offset\" - 1, 'Rejected' FROM rejected_events ORDER BY at"
    )
    tiers = {row["at"]: row["tier"] for row in pipeline.query(tier)}
    pairs = [(tiers[at], tiers[at + half]) for at in range(half)]
    found = said(pipeline)
    assert {(row["decided"], row["candidate"]): row["n"] for row in found} == {
        pair: pairs.count(pair) for pair in set(pairs)
    }
    differing = pipeline.query(
        'SELECT "offset" - 1 AS at, decided, candidate, reasons, recommendation'
        " FROM shadow_differences"
    )
    moved = {at: pair for at, pair in enumerate(pairs) if pair[0] != pair[1]}
    assert moved
    assert {
        row["at"]: (row["decided"], row["candidate"])
        for row in differing
        if row["decided"] != row["candidate"]
    } == moved
    assert any(row["reasons"] for row in differing)


def test_a_model_as_a_shadow_gives_its_pd_beside_the_active_ones(
    pipeline: Pipeline, ready: int, second: int
) -> None:
    del second  # the topic and the policy
    run(pipeline, model_id=ready)
    report = pipeline.send_and_drain(LOANS[:300])
    assert report.problems == []
    without = said(pipeline)
    assert {row["decided"] for row in without} == {"No PD"}
    with pipeline.warehouse.session() as connection:
        approved(connection, "model", ready)
    modelling.activate(pipeline.warehouse, ready, "agreed")
    pipeline.send_and_drain(LOANS[:300])
    both = [row for row in said(pipeline) if row["decided"] != "No PD"]
    assert {row["candidate"] for row in both} == {row["candidate"] for row in without}
    assert all(row["decided"] == row["candidate"] for row in both)
    for row in both:
        assert row["decided_pd"] == pytest.approx(row["candidate_pd"])
    (differing,) = pipeline.query(
        "SELECT count(*) AS n, bool_and(decided_pd IS NULL AND candidate_pd > 0) AS told"
        " FROM shadow_differences"
    )
    assert differing == {"n": sum(row["n"] for row in without), "told": True}


def test_what_is_wrong_with_a_shadow_costs_its_own_results(pipeline: Pipeline, second: int) -> None:
    broken, well = run(pipeline, policy_id=second), run(pipeline, policy_id=second)
    execute(pipeline, f"ALTER TABLE shadow_by_minute ADD CHECK (experiment_id <> {broken})")
    report = pipeline.send_and_drain(LOANS[:200])
    assert report.scored + report.rejected == 200
    assert report.batches
    (problem,) = report.problems
    assert problem.startswith(f"experiment {broken}: CheckViolation")
    assert {row["experiment_id"] for row in said(pipeline)} == {well}
    # One that cannot be loaded any more does not run, and the session says so.
    execute(pipeline, "ALTER TABLE policies DISABLE TRIGGER records_stay")
    execute(pipeline, "UPDATE policies SET document = 'x' WHERE policy_id <> 1")
    with pipeline.warehouse.session() as connection:
        experiments.stop(connection, broken, "it is broken")
    report = pipeline.send_and_drain(LOANS[:10])
    assert report.experiments == ()
    assert f"experiment {well} does not run: policy 2" in report.policy_note
    assert report.scored + report.rejected == 10


def test_a_forgotten_applicants_differences_go_and_old_ones_too(
    pipeline: Pipeline, second: int
) -> None:
    run(pipeline, policy_id=second)
    pipeline.send_and_drain(LOANS)
    (first, *others) = pipeline.query(
        'SELECT loan_id, s."offset" FROM shadow_differences d JOIN scored_applications s'
        ' USING (source_id, partition, "offset") ORDER BY 2'
    )
    assert others
    log = logging.getLogger("test")
    forget(
        *(pipeline.warehouse, pipeline.lake, first["loan_id"]),
        by="ada",
        why="asked for it",
        log=log,
    )
    left = pipeline.query('SELECT "offset" FROM shadow_differences')
    assert first["offset"] not in {row["offset"] for row in left}
    execute(
        pipeline,
        "UPDATE shadow_differences SET decided_at = now() - interval '31 days'"
        f' WHERE "offset" = {others[0]["offset"]}',
    )
    execute(pipeline, "UPDATE shadow_by_minute SET minute = minute - interval '31 days'")
    with pipeline.warehouse.session() as connection:
        assert delete_old_opinions(connection, 30) > 1
    assert said(pipeline) == []
    assert len(pipeline.query("SELECT FROM shadow_differences")) == len(left) - 1


def test_a_redriven_event_gets_its_loans_arm(pipeline: Pipeline, second: int) -> None:
    run(pipeline, policy_id=second, share=99)
    pipeline.send_and_drain([good_event(at) for at in range(20)])
    before = pipeline.query(ARMS)
    reject_scored(pipeline, list(range(1, 21)))
    redrive(pipeline.warehouse, DEFAULT, run_id="again")
    assert pipeline.query(ARMS)[1:] == before[1:]
    assert {row["policy_id"] for row in before[1:]} >= {second}


def test_what_is_not_in_order(pipeline: Pipeline, second: int) -> None:
    with pipeline.warehouse.session() as connection:
        given = experiments.submit(connection, "try it", policy_id=second, share=10)
        assert experiments.life(connection, given.subject_id).experiment.salt == V1.name
        with pytest.raises(NotInOrder, match="experiment 1 is not approved: somebody other than"):
            experiments.start(connection, 1, "now")
        with pytest.raises(NotInOrder, match="submitted experiment 1 and cannot approve it"):
            experiments.approve(connection, 1, "mine")
        with pytest.raises(NotInOrder, match=f"salt {V1.name} has another challenger"):
            experiments.submit(connection, "other", policy_id=1, share=10, salt=V1.name)
        third = stored_policy(connection, "third")
        with pytest.raises(NotInOrder, match=f"lets policy {third} decide, which is not approved"):
            started(connection, policy_id=third, share=10)
        running = started(connection, policy_id=second, share=10)
        larger = started(connection, policy_id=second, share=20)  # in its place
        with pytest.raises(NotInOrder, match=f"experiment {running} is not active"):
            experiments.stop(connection, running, "over")
        beside = started(connection, policy_id=third)  # a shadow decides nothing
        states = {one.experiment.experiment_id: one.state for one in experiments.lives(connection)}
        assert (states[running], states[larger], states[beside]) == (
            *("stopped", "running"),
            "running",
        )
        experiments.stop(connection, larger, "seen enough")
        assert experiments.running(connection).split is None
        assert len(experiments.running(connection).shadows) == 1
        with pytest.raises(
            psycopg.errors.CheckViolation, match="rows of experiments are never changed"
        ):
            connection.execute("UPDATE experiments SET share = 99")


def test_a_challenger_that_raises_leaves_all_to_the_champion(
    pipeline: Pipeline, second: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pipeline, policy_id=second, share=50)
    shadow = run(pipeline, policy_id=second)
    decide = scoring.decide

    def of_default_only(program: Any, columns: Any) -> Any:
        if program.joint == "primary":  # lendingclub-v1
            raise ZeroDivisionError("a candidate's own fault")
        return decide(program, columns)

    monkeypatch.setattr(scoring, "decide", of_default_only)
    report = pipeline.send_and_drain(LOANS[:100])
    assert report.scored + report.rejected == 100
    split, beside = report.problems
    assert split.startswith(f"the split's challenger {V1.version} cannot decide: ZeroDivision")
    assert beside == (
        f"experiment {shadow}, {V1.version}: ZeroDivisionError: a candidate's own fault"
    )
    assert {(row["policy_id"], row["arm"]) for row in pipeline.query(ARMS)} == {(1, None)}
    assert {row["candidate"] for row in said(pipeline)} == {"Failed"}
    assert pipeline.query("SELECT FROM shadow_differences") == []
