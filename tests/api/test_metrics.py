"""The metrics say what is in the warehouse, the broker and Dagster, in any state of those."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from queue import SimpleQueue

import dagster as dg
import numpy as np
import pytest
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    TickData,
    TickStatus,
)
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from credit_risk_dagster.api.app import create_app
from credit_risk_dagster.api.metrics.ledger import STAGES
from credit_risk_dagster.api.question import Question, Told, Unanswered
from credit_risk_dagster.domain.latency import BOUNDS_SECONDS, STAGE_BOUNDS_SECONDS, histogram
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import DEFAULT_POLICY
from infra.embedded.servers import Broker as BrokerServer
from infra.embedded.servers import free_port
from resources.postgres.reconciliation import Reconciliation
from sensors.alerts import last_evaluation
from tests.conftest import create_topic
from tests.malformed import without
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: TestClient) -> Samples:
    """Every sample of the platform's, by name without prefix, and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name.removeprefix("credit_risk_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name.startswith("credit_risk_")
    }


def of(samples: Samples, name: str, /, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def counters(samples: Samples) -> Samples:
    """Everything that must never fall."""
    kinds = ("_total", "_count", "_sum", "_bucket")
    return {key: value for key, value in samples.items() if key[0].endswith(kinds)}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is given twice, and none is late, however slow the machine is."""
    monkeypatch.setattr("credit_risk_dagster.api.metrics.collector.TIMEOUT_SECONDS", 30.0)
    monkeypatch.setattr("credit_risk_dagster.api.metrics.collector.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("credit_risk_dagster.api.metrics.collector.DAGSTER_FRESH_SECONDS", 0.0)


@pytest.fixture
def client(fresh: None, client: TestClient) -> TestClient:
    """The API, every scrape of which asks anew."""
    return client


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@contextmanager
def api(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Iterator[TestClient]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with TestClient(create_app(), client=("127.0.0.1", 50_000)) as client:
        yield client


def test_before_the_first_event_everything_is_zero(client: TestClient) -> None:
    found = scrape(client)
    for name in ("warehouse", "broker", "dagster"):
        assert of(found, f"{name}_up") == 1
    for outcome in ("scored", "rejected", "gap"):
        assert of(found, "events_total", outcome=outcome) == 0
    assert of(found, "event_to_commit_seconds_count") == 0
    assert of(found, "lag_events", partition="3") == 0


def test_counters_are_what_the_tables_hold_and_never_fall(
    client: TestClient, pipeline: Pipeline
) -> None:
    pipeline.send([good_event(1), b"no JSON", without("dti")], partition=0)
    pipeline.send([good_event(2)], partition=1)
    before: Samples = {}

    def check() -> Samples:
        nonlocal before
        found = scrape(client)
        fallen = {k: v for k, v in counters(before).items() if found[k] < v}
        assert not fallen
        before = found
        return found

    check()
    for lane in (0, 1):
        pipeline.drain(lane=lane, lanes=2)
        check()
    found = check()
    assert of(found, "events_total", outcome="scored") == 2
    assert of(found, "events_total", outcome="rejected") == 2
    assert of(found, "decisions_total", tier="Watchlist") == 2
    assert of(found, "decisions_total", tier="Low") == 0
    (loans,) = pipeline.query("SELECT count(*) AS n FROM cases")
    assert of(found, "cases", state="open") == loans["n"] > 0
    assert of(found, "cases", state="in_review") == of(found, "cases_overdue") == 0
    since = of(found, "cases_unassigned_since_timestamp_seconds")
    assert abs(since - time.time()) < 300
    assert of(found, "cases_by_age", age="up to 1 day") == loans["n"]
    assert of(found, "cases_by_age", age="3 to 7 days") == 0
    pipeline.query(
        "UPDATE cases SET opened_at = opened_at - interval '5 days'"
        " WHERE case_id = (SELECT min(case_id) FROM cases) RETURNING case_id"
    )
    older = check()
    assert of(older, "cases_by_age", age="up to 1 day") == loans["n"] - 1
    assert of(older, "cases_by_age", age="3 to 7 days") == 1
    pipeline.query(
        "SELECT act_on_case(min(case_id), 1, 'close', 'ada', NULL, 'confirmed', 'other', NULL)"
        " FROM cases"
    )
    reviewed = check()
    assert of(reviewed, "cases_closed", disposition="confirmed") == 1
    assert of(reviewed, "case_precision", rule="all", bound="value") == 1
    assert 0 < of(reviewed, "case_precision", rule="DTI>=30", bound="low") < 1
    assert of(reviewed, "case_actions_total", action="open") == loans["n"]
    assert of(reviewed, "case_actions_total", action="close") == 1
    assert of(reviewed, "case_overrides", rule="all", direction="none") == 1
    assert of(found, "rejects_total", reason="invalid_json") == 1
    assert of(found, "rejects_total", reason="missing_required:dti") == 1
    assert of(found, "unstorable_events_total") == 0
    pipeline.query(
        "INSERT INTO reject_totals VALUES (0, 'unstorable:data', 2) RETURNING 1",
    )
    assert of(check(), "unstorable_events_total") == 2
    assert of(found, "committed_offset", partition="0") == 3
    assert of(found, "end_offset", partition="0") == 3
    assert of(found, "archive_lag_events", partition="0") == 3
    assert 0 < of(found, "archive_lag_seconds", partition="0") < 300
    assert of(found, "archive_lag_seconds", partition="3") == 0
    assert abs(of(found, "last_commit_timestamp_seconds") - time.time()) < 300
    assert of(found, "event_to_commit_seconds_count") == 4
    assert of(found, "table_bytes", table="scored_applications") > 0

    (batches,) = pipeline.query("SELECT count(*) AS n, sum(latency_sum_s) AS s FROM batches")
    assert of(found, "batches_total") == batches["n"]
    assert of(found, "event_to_commit_seconds_sum") == pytest.approx(batches["s"])

    # Neither redriving nor retention takes anything away.
    redrive(pipeline.warehouse, load_policy(DEFAULT_POLICY), run_id="redrive")
    pipeline.query("WITH gone AS (DELETE FROM batches RETURNING 1) SELECT count(*) FROM gone")
    again = check()
    assert of(again, "batches_total") == batches["n"]


def test_redriven_events_are_counted_apart(client: TestClient, pipeline: Pipeline) -> None:
    pipeline.send([good_event(1), b"no JSON"])
    pipeline.drain()
    # As if the event could be scored after a fix.
    pipeline.query(
        "WITH fixed AS (UPDATE rejected_events SET value = %(value)s RETURNING 1)"
        " SELECT count(*) FROM fixed",
        value=good_event(2),
    )
    assert redrive(pipeline.warehouse, load_policy(DEFAULT_POLICY), run_id="r").moved.total() == 1
    found = scrape(client)
    assert of(found, "redriven_events_total") == 1
    assert of(found, "events_total", outcome="rejected") == 1
    assert of(found, "events_total", outcome="scored") == 1


def test_histograms_are_the_sum_of_the_ledger(client: TestClient, pipeline: Pipeline) -> None:
    for number in range(3):
        pipeline.send([good_event(number), good_event(100 + number)])
        pipeline.drain()
    batches = pipeline.query(
        "SELECT latency_buckets, fetch_ms, decode_ms, score_ms, copy_ms, commit_ms FROM batches"
    )
    found = scrape(client)
    expected = np.cumsum(np.sum([row["latency_buckets"] for row in batches], axis=0))
    edges = [*map(str, BOUNDS_SECONDS), "+Inf"]
    assert [of(found, "event_to_commit_seconds_bucket", le=le) for le in edges] == list(expected)
    for stage in STAGES:
        durations = [row[f"{stage}_ms"] for row in batches]
        seconds = np.array([ms for ms in durations if ms is not None], np.float64) / 1000
        name = "batch_stage_duration_seconds"
        cumulative = [
            of(found, f"{name}_bucket", stage=stage, le=le)
            for le in [*map(str, STAGE_BOUNDS_SECONDS), "+Inf"]
        ]
        counts = histogram(seconds, STAGE_BOUNDS_SECONDS)
        assert cumulative == list(np.cumsum(counts))
        assert of(found, f"{name}_sum", stage=stage) == pytest.approx(seconds.sum(), rel=1e-4)


def test_a_new_process_and_the_backfill_tell_the_same(
    client: TestClient, pipeline: Pipeline
) -> None:
    """What the trigger adds up is what the migration adds up from the batches that are there."""
    for lane in (0, 1):
        pipeline.send([good_event(lane), b"{"], partition=lane)
        pipeline.drain(lane=lane, lanes=2)
    kept = "SELECT * FROM ledger_totals ORDER BY lane"
    rejects = "SELECT * FROM reject_totals ORDER BY lane, reason"
    totals, reasons = pipeline.query(kept), pipeline.query(rejects)
    assert len(totals) == 2
    statements = migration_statements()
    backfill = [s for s in statements if s.lstrip().startswith("INSERT INTO")]
    assert len(backfill) == 2
    with pipeline.warehouse.connect() as connection:
        connection.execute("TRUNCATE ledger_totals, reject_totals")
        for statement in backfill:
            connection.execute(statement.encode())
    for before, after in zip(totals, pipeline.query(kept), strict=True):
        assert after.pop("stage_sum_ms") == pytest.approx(before.pop("stage_sum_ms"), rel=1e-5)
        assert after.pop("latency_sum_s") == pytest.approx(before.pop("latency_sum_s"))
        assert after == before
    assert pipeline.query(rejects) == reasons


def migration_statements() -> list[str]:
    import importlib

    module = importlib.import_module("resources.postgres.migrations.versions.0009_metrics")
    # The function's body has semicolons of its own.
    text: str = module.STATEMENTS.split("CREATE FUNCTION add_to_totals")[0]
    return text.split(";\n")


def test_lag_is_what_waits_in_the_broker(client: TestClient, pipeline: Pipeline) -> None:
    pipeline.send([good_event(1)], partition=2)
    pipeline.drain()
    pipeline.send([good_event(2), good_event(3)], partition=2)
    sent = time.time()
    time.sleep(0.2)  # what is measured is time
    found = scrape(client)
    assert of(found, "lag_events", partition="2") == 2
    assert 0.1 < of(found, "lag_seconds", partition="2") < time.time() - sent + 5
    assert of(found, "lag_events", partition="0") == of(found, "lag_seconds", partition="0") == 0
    pipeline.drain()
    found = scrape(client)
    assert of(found, "lag_events", partition="2") == of(found, "lag_seconds", partition="2") == 0


def test_reconciliation_shows_what_nobody_has_cleared(
    client: TestClient, pipeline: Pipeline
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    found = scrape(client)
    assert of(found, "reconciliation_lag_offsets") == 5
    assert of(found, "reconciliation_difference_offsets") == 0
    with pipeline.warehouse.session() as connection:
        checks = Reconciliation(connection)
        connection.execute('DELETE FROM scored_applications WHERE "offset" = 3')
        (finding,) = checks.check_new("a").open
        pipeline.send_and_drain([good_event(1)], partition=1)
        checks.check_new("b")  # another lane's, which is right
        found = scrape(client)
        assert of(found, "reconciliation_difference_offsets") == 1
        assert of(found, "reconciliation_lag_offsets") == 0
        checks.clear(finding.finding_id, "Ada", "a test")
        checks.check_everything()
    found = scrape(client)
    assert of(found, "reconciliation_difference_offsets") == 0
    for scope in ("new", "all"):
        assert abs(of(found, "reconciliation_timestamp_seconds", scope=scope) - time.time()) < 300


def test_replicas_and_restarts_tell_the_same(
    client: TestClient,
    pipeline: Pipeline,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline.send([good_event(1), b"{"])
    pipeline.drain()
    told = counters(scrape(client))
    with api(monkeypatch, environment) as another:
        assert counters(scrape(another)) == told


def test_the_newest_drift_report_and_benchmark(client: TestClient, pipeline: Pipeline) -> None:
    pipeline.send([good_event(1)])
    pipeline.drain()
    with pipeline.warehouse.connect() as connection:
        connection.execute(_REPORTS)
    found = scrape(client)
    assert of(found, "drift_level") == 2
    assert of(found, "tier_psi") == 0.3
    assert of(found, "psi", feature="dti") == 0.4
    assert of(found, "feature_drift_level", feature="dti") == 2
    # Too few rows for a verdict: none is told.
    assert of(found, "psi", feature="grade") == 0.01
    assert ("feature_drift_level", frozenset({"feature": "grade"}.items())) not in found
    assert abs(of(found, "drift_report_timestamp_seconds") - time.time()) < 300
    assert of(found, "model_auc", subject="logistic") == 0.7
    assert of(found, "model_auc_low", subject="rules") == 0.4
    assert ("model_brier", frozenset({"subject": "rules"}.items())) not in found
    assert abs(of(found, "model_benchmark_timestamp_seconds") - time.time()) < 300
    assert of(found, "limit_level", limit="largest_state") == 2
    assert of(found, "limit_ratio", limit="largest_state") == 0.5
    assert of(found, "limit_threshold_ratio", limit="largest_state", level="red") == 0.25
    assert of(found, "limit_level", limit="watchlist_share") == 0
    # Without a model there is no expected loss, and it is not within its limit.
    assert ("limit_level", frozenset({"limit": "expected_loss"}.items())) not in found
    assert abs(of(found, "portfolio_report_timestamp_seconds") - time.time()) < 300
    assert of(found, "case_bad_rate", cases="not overridden", bound="high") == 0.3
    assert of(found, "case_outcome_loans", cases="overridden") == 29
    # Too few loans for a rate: none is told.
    too_few = frozenset({"cases": "overridden", "bound": "value"}.items())
    assert ("case_bad_rate", too_few) not in found
    assert abs(of(found, "review_report_timestamp_seconds") - time.time()) < 300


def test_work_on_cases_is_counted_for_ever_and_overrides_by_who_and_why(
    client: TestClient, pipeline: Pipeline
) -> None:
    loans = list(range(1, 24))
    pipeline.send_and_drain([good_event(loan) for loan in loans])
    pipeline.send_and_drain([good_event(1)])  # joins the case that is open
    pipeline.query(
        "SELECT act_on_case(case_id, 1, 'close', 'r' || least(case_id, 22), NULL,"
        " CASE WHEN case_id > 21 THEN 'override_down' ELSE 'confirmed' END, 'other', NULL)"
        " FROM cases"
    )
    before = scrape(client)
    assert of(before, "case_actions_total", action="open") == 23
    assert of(before, "case_overrides", rule="all", direction="down") == 2
    assert of(before, "case_overrides", rule="DTI>=30", direction="none") == 21
    people = {
        dict(labels)["reviewer"] for name, labels in before if name == "case_overrides_by_reviewer"
    }
    assert len(people) == 21
    assert of(before, "case_overrides_by_reviewer", reviewer="r22", direction="down") == 2
    assert of(before, "case_overrides_by_reviewer", reviewer="others", direction="none") == 2
    # What retention and forgetting take was done all the same.
    pipeline.query("WITH gone AS (DELETE FROM cases RETURNING 1) SELECT FROM gone")
    after = scrape(client)
    assert counters(after) == counters(before)


# Each has an older one, which must not be told.
_REPORTS = """
INSERT INTO risk_reports (kind, about, document, run_id, created_at) VALUES
    ('portfolio', 'p', '{"limits": {"largest_state": {"of": "CA", "value": 0.9}}}', 'r',
        now() - interval '1 day'),
    ('portfolio', 'p', '{"limits": {"largest_state": {"of": "CA", "value": 0.5},
        "watchlist_share": {"value": 0.01}, "expected_loss": {"value": null}}}', 'r', now()),
    ('reviews', 'o', '{"bad_rates": []}', 'r', now() - interval '1 day'),
    ('reviews', 'o', '{"bad_rates": [
        {"of": "not overridden", "loans": 30, "bads": 6,
            "share": {"value": 0.2, "low": 0.1, "high": 0.3}},
        {"of": "overridden", "loans": 29, "bads": 0,
            "share": {"value": 0, "low": 0, "high": 0.1}}]}', 'r', now());
INSERT INTO drift_baselines (name, origin, rows, rejected, tiers, tier_counts, content_hash)
VALUES ('base', 'test', 1, 0, '{Low}', '{1}', 'hash');
INSERT INTO drift_reports (baseline_id, source_id, created_at, window_start, window_end, rows,
    rejected, run_id, verdict, tier_shares, tier_psi, tier_verdict)
SELECT baseline_id, s.source_id, at, at, at, n, 0, 'run', verdict, '{1}', psi, verdict
FROM drift_baselines, (SELECT source_id FROM sources) AS s, (VALUES
    (now() - interval '1 day', 10, 'stable', 0.1), (now(), 11, 'significant', 0.3)
) AS r (at, n, verdict, psi);
INSERT INTO drift_features (report_id, feature, kind, psi, verdict, shares)
SELECT report_id, feature, 'number', psi, v, '{1}' FROM drift_reports, (VALUES
    ('significant', 'dti', 0.4, 'significant'), ('significant', 'grade', 0.01, 'too_few_rows'),
    ('stable', 'purpose', 0.0, 'stable')
) AS f (report, feature, psi, v) WHERE verdict = report;
INSERT INTO model_benchmarks (benchmark_id, subject, created_at, run_id, outcome, sample,
    sample_hash, policy, rows, bads, verdict, auc, auc_low, auc_high, gini, ks, brier, gains)
VALUES (1, 'logistic', now() - interval '1 day', 'r', 'o', 's', 'h', 'p', 9, 1, 'v', 0.9, 0.8, 1,
        0.8, 0.5, 0.1, '[]'),
    (2, 'logistic', now(), 'r', 'o', 's', 'h', 'p', 9, 1, 'v', 0.7, 0.6, 0.8, 0.4, 0.3, 0.1, '[]'),
    (2, 'rules', now(), 'r', 'o', 's', 'h', 'p', 9, 1, 'v', 0.5, 0.4, 0.6, 0, 0, NULL, '[]')
"""


# --- servers that do not answer -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dead", "hanging"])
@pytest.mark.parametrize("name", ["warehouse", "broker", "dagster"])
def test_a_server_that_does_not_answer_is_a_zero(
    name: str,
    kind: str,
    fresh: None,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("credit_risk_dagster.api.metrics.collector.TIMEOUT_SECONDS", 1.0)
    with silent_server() as hanging:
        port = hanging if kind == "hanging" else free_port()
        variable, value = {
            "warehouse": ("DATABASE_URL", f"postgresql://127.0.0.1:{port}/x"),
            "broker": ("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{port}"),
            "dagster": ("DAGSTER_POSTGRES_URL", f"postgresql://127.0.0.1:{port}/x"),
        }[name]
        with api(monkeypatch, environment | {variable: value}) as client:
            # The first scrape opens connections, which takes its time on a busy machine.
            found = wait_until(
                lambda: others_are_up(scrape(client), name), 30, f"all but the {name} are up"
            )
            assert of(found, f"{name}_up") == 0
            assert others_are_up(scrape(client), name)


def others_are_up(found: Samples, name: str) -> Samples | None:
    """The samples, if the servers but one answered and what they tell is there."""
    tell = {
        "warehouse": "batches_total",
        "broker": "end_offset",
        "dagster": "dagster_oldest_queued_run_seconds",
    }
    names = {key[0] for key in found}
    up = all(
        of(found, f"{other}_up") == 1 and metric in names
        for other, metric in tell.items()
        if other != name
    )
    assert tell[name] not in names
    return found if up else None


def test_lag_is_known_while_the_broker_is_away(
    pipeline: Pipeline, environment: dict[str, str], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain saw where the topic ends; an API that never reached the broker tells it."""
    pipeline.send([good_event(i) for i in range(10)], partition=2)
    pipeline.drain(max_batch_events=4, session_seconds=0)
    away = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
    monkeypatch.setattr("credit_risk_dagster.api.metrics.collector.PATIENCE_SECONDS", 0.5)
    with api(monkeypatch, environment | away) as client:
        found = scrape(client)
        assert of(found, "broker_up") == 0
        assert of(found, "end_offset", partition="2") == 10
        assert of(found, "lag_events", partition="2") == 6
        waited = of(found, "lag_seconds", partition="2")
        assert 0 < waited <= of(found, "end_offset_age_seconds", partition="2") + 1
        pipeline.drain()
        found = scrape(client)
        assert (
            of(found, "lag_events", partition="2") == of(found, "lag_seconds", partition="2") == 0
        )


def test_what_was_told_stays_while_a_server_is_away(
    pipeline: Pipeline, environment: dict[str, str], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No alert loses its data just when something is wrong."""
    monkeypatch.setattr("credit_risk_dagster.api.metrics.collector.PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr("credit_risk_dagster.api.question.DOWN_AFTER_SECONDS", 0.0)
    pipeline.send_and_drain([good_event(i) for i in range(3)])
    with BrokerServer() as server:
        kafka = pipeline.kafka.model_copy(update={"bootstrap_servers": server.bootstrap_servers})
        create_topic(kafka)
        away = Pipeline(kafka, pipeline.warehouse)
        away.send_and_drain([good_event(1)])
        away.send([good_event(2)])
        own = {"KAFKA_BOOTSTRAP_SERVERS": server.bootstrap_servers}
        with api(monkeypatch, environment | own) as client:
            before = wait_until(lambda: all_up(scrape(client)), 30, "every server is up")
            assert of(before, "lag_events", partition="0") == 1
            server.stop()
            after = wait_until(
                lambda: (found := scrape(client)) and not of(found, "broker_up") and found,
                60,
                "the broker is down",
            )
    assert {name for name, _ in before} <= {name for name, _ in after}
    assert of(after, "lag_events", partition="0") == 1
    assert of(after, "lag_seconds", partition="0") > of(before, "lag_seconds", partition="0")
    assert of(after, "end_offset_age_seconds", partition="0") > 0.5
    assert of(after, "answer_age_seconds", server="broker") > 0.5


def all_up(found: Samples) -> Samples | None:
    up = all(of(found, f"{name}_up") for name in ("warehouse", "broker", "dagster"))
    return found if up else None


def test_a_topic_that_is_not_the_committed_one_is_told(
    client: TestClient, pipeline: Pipeline
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(3)])
    found = scrape(client)
    assert of(found, "topic_replaced") == of(found, "topic_missing") == 0
    # Cut short: the broker names an end before the committed offset, and again.
    with pipeline.warehouse.connect() as connection:
        connection.execute(
            "UPDATE stream_offsets SET next_offset = 9, gaps = 6 WHERE partition = 0"
        )
        assert of(scrape(client), "topic_replaced") == 0  # once is no proof
        found = scrape(client)
        assert of(found, "topic_replaced") == 1
        assert of(found, "lag_events", partition="0") == 0  # never negative
        connection.execute(
            "UPDATE stream_offsets SET next_offset = 3, gaps = 0 WHERE partition = 0"
        )
        assert of(scrape(client), "topic_replaced") == 0
        # Recreated: there is no doubt.
        connection.execute("UPDATE sources SET topic_id = 'another'")
        assert of(scrape(client), "topic_replaced") == 1


def test_a_topic_that_is_missing_is_no_broker_that_is_down(
    pipeline: Pipeline, environment: dict[str, str], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api(monkeypatch, environment | {"KAFKA_TOPIC": "nowhere"}) as client:
        found = wait_until(lambda: all_up(scrape(client)), 30, "every server is up")
    assert of(found, "topic_missing") == 1


def hanging_question(timeout: float) -> tuple[Question[str], threading.Event]:
    go_on = threading.Event()

    @contextmanager
    def connect() -> Iterator[Callable[[], str]]:
        def ask() -> str:
            go_on.wait()
            return "an answer"

        yield ask

    return Question("a server", connect, timeout=timeout), go_on


def test_only_the_first_who_ask_wait_for_a_server_that_hangs() -> None:
    question, go_on = hanging_question(1.0)
    started = time.monotonic()
    waiting = [question.ask() for _ in range(20)]
    for answer in waiting:
        with pytest.raises(Unanswered, match="no answer within 1 s"):
            answer()
    assert 1.0 <= time.monotonic() - started < 10
    started = time.monotonic()
    with pytest.raises(Unanswered):
        question.ask()()
    assert time.monotonic() - started < 0.8  # at once: it still hangs
    assert [thread.name for thread in threading.enumerate()].count("ask a server") == 1
    go_on.set()
    wait_until(lambda: answered_as(question, "an answer"), 5, "the server answers again")


def test_a_replaced_server_is_asked_anew_at_once() -> None:
    connections: list[list[str]] = []

    @contextmanager
    def connect() -> Iterator[Callable[[], str]]:
        answers = ["first", "second"]
        connections.append(answers)

        def ask() -> str:
            if not answers:
                raise ConnectionError("the server went away")
            return answers.pop(0)

        yield ask

    question = Question("a server", connect, timeout=5)
    assert [question.ask()() for _ in range(4)] == ["first", "second", "first", "second"]
    assert len(connections) == 2


def test_a_slow_server_is_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("credit_risk_dagster.api.question.DOWN_AFTER_SECONDS", 0.0)
    answers: SimpleQueue[str] = SimpleQueue()

    @contextmanager
    def connect() -> Iterator[Callable[[], str]]:
        def ask() -> str:
            answer = answers.get()
            if not answer:
                raise ConnectionError("the server went away")
            return answer

        yield ask

    question = Question("a server", connect, timeout=0.05)
    assert question.ask_for_the_last()() == Told(None, 0.0, up=False)  # it never answered
    answers.put("late")
    wait_until(lambda: question._newest and question._newest.done(), 5, "the late answer")
    for _ in range(3):  # the next one is late, too
        told = question.ask_for_the_last()()
        assert (told.answer, told.up) == ("late", True)
        assert abs(told.at - time.time()) < 300
    for failures in (1, 2, 3):
        for _ in range(
            2 if failures == 1 else 1
        ):  # of the connection that worked, and of a new one
            answers.put("")
        wait_until(lambda: question._newest and question._newest.done(), 5, "it fails")
        told = question._told()
        assert (told.answer, told.up) == ("late", failures < 3)
        question.ask_for_the_last()()
    answers.put("back")
    wait_until(lambda: question._newest and question._newest.done(), 5, "it answers again")
    assert question._told().up


def test_an_api_that_ends_asks_nobody_any_more(
    pipeline: Pipeline, environment: dict[str, str], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asking() -> set[threading.Thread]:
        names = ("ask ", "kafka-io")
        return {thread for thread in threading.enumerate() if thread.name.startswith(names)}

    before = asking()
    with api(monkeypatch, environment) as client:
        wait_until(lambda: all_up(scrape(client)), 30, "every server is up")
        assert client.get("/ready").status_code == 200
        assert asking() - before
    wait_until(lambda: not asking() - before, 10, "its connections are closed")


def answered_as(question: Question[str], answer: str) -> bool:
    try:
        return question.ask()() == answer
    except Unanswered:
        return False


def test_trouble_is_logged_when_it_begins_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    @contextmanager
    def connect() -> Iterator[Callable[[], str]]:
        if broken:
            raise ConnectionError("no such host")
        yield lambda: "an answer"

    question = Question("a server", connect, timeout=5)
    with caplog.at_level("INFO"):
        for _ in range(3):
            with pytest.raises(Unanswered, match="no such host"):
                question.ask()()
        broken = False
        assert question.ask()() == "an answer"
    assert [record.message for record in caplog.records] == [
        "a server does not answer: no such host",
        "a server answers again",
    ]


# --- Dagster ------------------------------------------------------------------------------------


def test_dagster_is_what_its_own_api_says(client: TestClient) -> None:
    """Reading Dagster's tables gives what Dagster says of them."""
    with dg.DagsterInstance.get() as instance:
        for job, status in (
            ("score_applications", dg.DagsterRunStatus.SUCCESS),
            ("score_applications", dg.DagsterRunStatus.SUCCESS),
            ("score_applications", dg.DagsterRunStatus.STARTED),
            ("archive_raw_events", dg.DagsterRunStatus.FAILURE),
            ("archive_raw_events", dg.DagsterRunStatus.NOT_STARTED),
        ):
            create_run_for_test(instance, job_name=job, status=status)
        now = time.time()
        instance.add_daemon_heartbeat(DaemonHeartbeat(now, "SENSOR", "id", []))
        state = add_sensor(instance, now)
        found = scrape(client)

        for job in ("score_applications", "archive_raw_events"):
            for status in dg.DagsterRunStatus:
                filters = dg.RunsFilter(job_name=job, statuses=[status])
                assert found.get(
                    ("dagster_runs", frozenset({"job_name": job, "status": status.value}.items())),
                    0,
                ) == instance.get_runs_count(filters)
        waiting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED])
        (record,) = instance.get_run_records(waiting)
        waited = datetime.now(UTC) - record.create_timestamp
        assert of(found, "dagster_oldest_queued_run_seconds") == pytest.approx(
            waited.total_seconds(), abs=10
        )
        assert of(
            found, "dagster_daemon_heartbeat_timestamp_seconds", daemon="SENSOR"
        ) == pytest.approx(now, abs=0.01)
        labels = {"name": "a_sensor", "kind": "sensor"}
        assert of(found, "dagster_last_tick_timestamp_seconds", **labels) == pytest.approx(
            now, abs=0.01
        )
        assert of(found, "dagster_last_tick_failed", **labels) == 1

        instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
        assert not any(name == "dagster_last_tick_failed" for name, _ in scrape(client))


def test_asset_checks_are_what_dagsters_own_api_says(client: TestClient) -> None:
    said = {
        "archive_complete": (False, "ERROR"),
        "schema_change": (False, "WARN"),
        "fit": (True, "ERROR"),
    }
    with dg.DagsterInstance.get() as instance:
        for asset in ("a", "b"):
            for check, (passed, severity) in said.items():
                for outcome in (not passed, passed):  # the last one counts
                    instance.report_runless_asset_event(
                        dg.AssetCheckEvaluation(
                            asset_key=dg.AssetKey(["one", asset]),
                            check_name=check,
                            passed=outcome,
                            severity=dg.AssetCheckSeverity(severity),
                        )
                    )
        found = scrape(client)
        failed = {
            (labels["asset"], labels["check"], labels["severity"])
            for (name, pairs), value in found.items()
            if name == "check_failed" and value and (labels := dict(pairs))
        }
        keys = [dg.AssetCheckKey(dg.AssetKey(["one", a]), c) for a in ("a", "b") for c in said]
        evaluations = [last_evaluation(instance, key) for key in keys]
    assert failed == {
        (e.asset_key.to_user_string(), e.check_name, e.severity.value.lower())
        for e in evaluations
        if e and not e.passed
    }
    assert len(failed) == 4
    assert of(found, "check_failed", asset="one/a", check="fit", severity="error") == 0
    at = of(found, "check_timestamp_seconds", asset="one/a", check="fit")
    assert abs(at - time.time()) < 300


def add_sensor(instance: dg.DagsterInstance, now: float) -> InstigatorState:
    """A sensor whose newest tick failed."""
    origin = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin()), "repository"),
        "a_sensor",
    )
    state = instance.add_instigator_state(
        InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
    )
    for at, status in ((now - 60, TickStatus.FAILURE), (now, TickStatus.FAILURE)):
        instance.create_tick(
            TickData(
                origin.get_id(),
                "a_sensor",
                InstigatorType.SENSOR,
                status,
                at,
                selector_id=state.selector_id,
                run_ids=[],
                error=SerializableErrorInfo("it broke", [], "ValueError"),
            )
        )
    return state
