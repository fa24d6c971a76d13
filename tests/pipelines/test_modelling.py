"""Models in Postgres, and the active one on the stream: real servers."""

import threading
from contextlib import suppress
from typing import Any

import numpy as np
import psycopg
import pytest

from credit_risk_dagster.domain.features import CLASSIC_FEATURES, select_features
from credit_risk_dagster.domain.model.benchmark import PRICE, RULES, WITHOUT_PRICE
from credit_risk_dagster.domain.model.design import design
from credit_risk_dagster.domain.model.sample import SampleTooSmall
from credit_risk_dagster.domain.model.training import pd_of
from credit_risk_dagster.domain.pd import ModelUnreadable
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.modelling import ActivationRefused, Modelling, Stored
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.postgres.connection import WarehouseUnavailable
from resources.postgres.models import ModelMissing, ModelStore, StoredModel
from tests.domain.model.samples import OUTCOME, streamed_sample
from tests.pipelines.approvals import approved
from tests.pipelines.models import CHALLENGERS, KINDS, loans
from tests.pipelines.test_rebuild import run as rebuild
from tests.pipelines.test_rebuild import tables
from tests.platform.pipeline import Pipeline

PD = "SELECT loan_id, pd, model_id, pd_reasons, risk_tier FROM scored_applications ORDER BY loan_id"


def scorer(pipeline: Pipeline, model_id: int | None = None) -> Any:
    with pipeline.warehouse.session() as connection:
        return ModelStore(connection).scorer(model_id)


def activate(pipeline: Pipeline, model_id: int) -> StoredModel:
    """Let a model score that somebody approved, if there is one."""
    with pipeline.warehouse.session() as connection, suppress(psycopg.errors.CheckViolation):
        approved(connection, "model", model_id)
    return modelling.activate(pipeline.warehouse, model_id, "a test")


# --- what is stored -----------------------------------------------------------------------------


def test_models_and_benchmark_are_stored_whole(
    pipeline: Pipeline, trained: Modelling, stored: Stored
) -> None:
    with pipeline.warehouse.session() as connection:
        models = {model.kind: model for model in ModelStore(connection).models()}
    assert models.keys() == set(KINDS) == stored.models.keys()
    logistic = models["logistic"]
    assert (logistic.rows, logistic.bads, logistic.sample) == (9_943, 177, "builtin")
    assert logistic.features == list(CLASSIC_FEATURES)
    assert logistic.outcome == OUTCOME.version
    assert logistic.metrics["auc"] == pytest.approx(0.685, abs=0.005)
    assert not logistic.active
    assert logistic.can_score
    assert not any(models[kind].can_score for kind in CHALLENGERS)
    rows = {row["subject"]: row for row in pipeline.query("SELECT * FROM model_benchmarks")}
    assert rows.keys() == {RULES, *models, PRICE, WITHOUT_PRICE}
    assert rows["logistic"]["against_price"]["low"] < 0
    assert logistic.purpose == "benchmark"
    for subject in trained.benchmark.subjects:
        row = rows[subject.name]
        assert row["model_id"] == stored.models.get(subject.name)
        assert (row["auc"], row["ks"]) == (subject.evaluation.auc, subject.evaluation.ks)
        assert row["verdict"] == trained.benchmark.verdict
        assert len(row["gains"]) == 10
    assert rows[RULES]["brier"] is None
    assert rows[RULES]["comparison"] is None
    assert [row["tier"] for row in rows[RULES]["tiers"]] == ["Low", "Elevated", "Watchlist"]
    assert rows["logistic"]["comparison"]["rules"]["recall"] == pytest.approx(5 / 177)
    assert rows["logistic"]["out_of_time"]["month"] == "2018-03"
    curves = pipeline.query(
        "SELECT subject, curve, count(*) AS points FROM model_curves GROUP BY 1, 2"
    )
    found = {(row["subject"], row["curve"]): row["points"] for row in curves}
    assert found[RULES, "roc"] == 4
    assert found["logistic", "calibration"] == 10
    assert found["logistic", "scores_bad"] == 40
    assert (RULES, "calibration") not in found


def test_the_same_training_is_the_same_model(
    pipeline: Pipeline, trained: Modelling, stored: Stored
) -> None:
    again = modelling.store(pipeline.warehouse, trained, "another run")
    assert again.models == stored.models
    assert again.benchmark_id > stored.benchmark_id


def test_the_scored_table_is_the_sample_that_its_events_are(pipeline: Pipeline) -> None:
    """What is read back from Postgres is what cleaning made of the same loans; a loan that was
    sent twice counts once, with the outcome that came last."""
    pipeline.send(loans(10_000))
    pipeline.send([b'{"id": 1}', b"junk"])
    pipeline.send(loans(100))
    pipeline.drain()
    policy = load_policy(DEFAULT_POLICY)
    sample = modelling.load_sample("scored", OUTCOME, policy, pipeline.warehouse, 100_000)
    builtin = modelling.load_sample("builtin", OUTCOME, policy, None, 100_000)
    assert sample.content_hash == builtin.content_hash == streamed_sample().content_hash
    assert sample.by_month() == builtin.by_month()
    newest = modelling.load_sample("scored", OUTCOME, policy, pipeline.warehouse, 6_000)
    assert len(newest) == 6_000


def test_an_empty_table_is_no_sample(pipeline: Pipeline) -> None:
    policy = load_policy(DEFAULT_POLICY)
    with pytest.raises(SampleTooSmall, match="sample scored has 0 bad and 0 good loans"):
        modelling.load_sample("scored", OUTCOME, policy, pipeline.warehouse, 1_000)


# --- the active model ---------------------------------------------------------------------------


def test_the_stream_has_the_pd_of_the_active_model(
    pipeline: Pipeline, activatable: Modelling, ready: int
) -> None:
    """Equal to what training says of the same loans."""
    pipeline.send(loans(50))
    assert pipeline.drain().model is None
    assert {row["pd"] for row in pipeline.query(PD)} == {None}

    model = activate(pipeline, ready)
    assert model.active
    pipeline.send([*loans(500)[50:], b"junk"])
    report = pipeline.drain()
    assert (report.model, report.model_error) == (model.version, None)
    rows = [row for row in pipeline.query(PD) if row["pd"] is not None]
    assert len(rows) == report.scored
    assert {row["model_id"] for row in rows} == {ready}
    assert all(len(row["pd_reasons"]) <= 4 for row in rows)
    assert sum(bool(row["pd_reasons"]) for row in rows) > 100
    ids = {row["loan_id"]: row["pd"] for row in rows}
    sample = streamed_sample()
    frame = design(sample.rows, select_features(CLASSIC_FEATURES))
    pds = pd_of(activatable.trained[0].estimator, frame)
    expected = dict(zip(sample.rows["loan_id"].to_pylist(), pds, strict=True))
    assert len(ids.keys() & expected.keys()) > 400
    for loan_id in ids.keys() & expected.keys():
        assert abs(ids[loan_id] - expected[loan_id]) < 1e-9

    with pipeline.warehouse.session() as connection:
        assert ModelStore(connection).deactivate("a test") == ready
    pipeline.send(loans(20))
    assert pipeline.drain().model is None


@pytest.mark.parametrize(
    "damage",
    [
        """'{}'::jsonb""",
        """'[1, 2]'::jsonb""",
        "jsonb_set(coefficients, '{terms,0,feature}', '\"nothing\"')",
        "jsonb_set(coefficients, '{terms,0,type}', '\"category\"')",
        "jsonb_set(coefficients, '{intercept}', '\"high\"')",
        "NULL",
    ],
)
def test_a_damaged_model_costs_nothing_but_the_pd(
    pipeline: Pipeline, ready: int, damage: Any
) -> None:
    activate(pipeline, ready)
    with pipeline.warehouse.connect() as connection:
        connection.execute(
            f"UPDATE models SET coefficients = {damage} WHERE model_id = %s", (ready,)
        )
    pipeline.send([*loans(30), b"junk"])
    report = pipeline.drain()
    assert (report.scored, report.rejected) == (30, 1)
    assert report.model_error
    assert {row["pd"] for row in pipeline.query(PD)} == {None}
    assert pipeline.unreconciled() == 0


def test_models_that_cannot_be_read_cost_nothing_but_the_pd(pipeline: Pipeline) -> None:
    with pipeline.warehouse.connect() as connection:
        connection.execute("ALTER TABLE models RENAME TO elsewhere")
    pipeline.send(loans(10))
    report = pipeline.drain()
    assert report.scored == 10
    assert 'the models cannot be read: relation "models" does not exist' in str(report.model_error)


def test_rejected_events_get_the_pd_when_they_are_scored_after_all(
    pipeline: Pipeline, ready: int
) -> None:
    pipeline.send(loans(5))
    pipeline.drain()
    pipeline.query(
        "WITH gone AS (DELETE FROM scored_applications RETURNING *), counted AS ("
        " UPDATE stream_offsets SET scored = 0, rejected = 5 WHERE scored = 5 RETURNING 1)"
        ' INSERT INTO rejected_events (source_id, partition, "offset", batch_id, recorded_at,'
        ' reason, value) SELECT source_id, partition, "offset", batch_id, recorded_at,'
        " 'invalid_json', convert_to(json_build_object('id', loan_id, 'loan_amnt', loan_amnt,"
        " 'annual_inc', annual_inc, 'dti', dti, 'int_rate', int_rate, 'earliest_cr_line',"
        " 'Jan-2000', 'issue_d', 'Jan-2018')::text, 'UTF8') FROM gone RETURNING 1"
    )
    activate(pipeline, ready)
    report = redrive(pipeline.warehouse, load_policy(DEFAULT_POLICY), run_id="redrive")
    assert report.moved.total() == 5
    assert all(row["pd"] > 0 for row in pipeline.query(PD))


def test_a_rebuild_with_the_same_model_equals_the_live_rows(
    pipeline: Pipeline, warehouse_settings: WarehouseSettings, ready: int
) -> None:
    activate(pipeline, ready)
    pipeline.send([*loans(2_000), b"junk"])
    pipeline.drain()
    pipeline.archive(max_object_events=600)
    model = modelling.chosen_model(pipeline.warehouse, "active")
    report = rebuild(pipeline, warehouse_settings, model=model)
    assert model
    assert report.model == model.version
    live, again = (tables(warehouse_settings, schema) for schema in ("credit_risk", "rebuilt"))
    assert again == live
    assert all(row["pd"] is not None and row["model_id"] == ready for row in live["scored"])


def test_a_model_is_chosen_by_name_or_id(pipeline: Pipeline, stored: Stored) -> None:
    model_id = stored.models["logistic"]
    assert modelling.chosen_model(pipeline.warehouse, "none") is None
    assert modelling.chosen_model(pipeline.warehouse, "active") is None
    by_id = modelling.chosen_model(pipeline.warehouse, str(model_id))
    assert by_id
    assert by_id.model_id == model_id
    with pytest.raises(ModelMissing, match="model 999 is none that can score"):
        modelling.chosen_model(pipeline.warehouse, "999")
    with pytest.raises(modelling.PlatformError, match="'best' is no model"):
        modelling.chosen_model(pipeline.warehouse, "best")


# --- activation ---------------------------------------------------------------------------------


def test_only_one_model_is_active(pipeline: Pipeline, activatable: Modelling, ready: int) -> None:
    first = ready
    other = Modelling(**{**vars(activatable), "seed": 1})
    second = modelling.store(pipeline.warehouse, other, "run").models["logistic"]
    assert first != second
    threads = [
        threading.Thread(target=activate, args=(pipeline, model_id))
        for model_id in (first, second) * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = pipeline.query("SELECT subject_id, effective_to FROM activations ORDER BY 1")
    assert [row["subject_id"] for row in rows] == [first] * 4 + [second] * 4
    assert [row["effective_to"] for row in rows].count(None) == 1
    assert scorer(pipeline).model_id in (first, second)


def test_a_role_that_may_only_read_cannot_activate(pipeline: Pipeline, stored: Stored) -> None:
    def activate_as_reader() -> None:
        with pipeline.warehouse.session() as connection:
            connection.execute("SET ROLE pg_read_all_data")
            ModelStore(connection).activate(stored.models["logistic"], "mine")

    with pytest.raises(WarehouseUnavailable, match="refuses that to the role of DATABASE_URL"):
        activate_as_reader()


def test_the_gate_of_activation(pipeline: Pipeline, stored: Stored, ready: int) -> None:
    def refused(model_id: int) -> str:
        with pytest.raises(ActivationRefused) as error:
            activate(pipeline, model_id)
        assert scorer(pipeline) is None
        return str(error.value)

    assert "is a challenger (gradient_boosting) and cannot score the stream" in refused(
        stored.models["gradient_boosting"]
    )
    assert "it expects 72.5 bad and 49 were" in refused(stored.models["logistic"])
    with pytest.raises(ModelMissing, match="there is no model 999"):
        activate(pipeline, 999)
    with pipeline.warehouse.connect() as connection:
        change = "UPDATE model_benchmarks SET {} WHERE model_id = %s"
        chance = "out_of_time = jsonb_set(out_of_time, '{auc_low}', '0.48')"
        connection.execute(change.format(chance), (ready,))
        assert "could be chance (interval from 0.480)" in refused(ready)
        turned = "coefficients = jsonb_set(coefficients, '{terms,2,weight}', '-0.01')"
        connection.execute(f"UPDATE models SET {turned} WHERE model_id = %s", (ready,))
        assert "dti moves its PD against what the field expects" in refused(ready)
        connection.execute("DELETE FROM model_benchmarks WHERE model_id = %s", (ready,))
        assert refused(ready) == f"model {ready} stays out: it has no benchmark"
        connection.execute("UPDATE models SET coefficients = '{}' WHERE model_id = %s", (ready,))
    with pytest.raises(ModelUnreadable):
        activate(pipeline, ready)


def test_the_densities_and_curves_are_within_their_axes(pipeline: Pipeline, stored: Stored) -> None:
    rows = pipeline.query(
        "SELECT x, y FROM model_curves WHERE benchmark_id = %(id)s AND curve IN ('roc', 'gains')",
        id=stored.benchmark_id,
    )
    points = np.array([(row["x"], row["y"]) for row in rows])
    assert points.min() == 0
    assert points.max() == 1
