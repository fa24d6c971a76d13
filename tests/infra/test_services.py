"""Every container's command, as the compose file has it, at work on the embedded servers."""

import json
import re
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import dagster as dg
import psutil
import psycopg
import pytest

from infra import health
from infra.embedded.servers import HOST, Server
from tests.platform.compose import Composed
from tests.platform.running import PATIENCE_SECONDS
from tests.platform.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)

EVENTS = 2_000


def test_events_pass_through_the_services(composed: Composed) -> None:
    composed.send(EVENTS)
    composed.wait_for_commits(EVENTS)
    composed.check_exactly_once()
    for name in composed.servers:
        composed.wait_until_healthy(name)
    check_api(composed)
    # Nothing of Dagster's home but its storage needs to be writable. (It makes two folders for its
    # telemetry, also when that is off, and does not mind when it cannot.)
    written = {path for path in composed.dagster_home.rglob("*") if path.is_file()}
    assert {path.relative_to(composed.dagster_home).parts[0] for path in written} <= {
        "dagster.yaml",
        "storage",
    }


def check_api(composed: Composed) -> None:
    """It reaches everything that it needs, with its own role, and counts what was scored."""
    api = f"http://{HOST}:{composed.servers['api'].port}"
    with urlopen(f"{api}/ready", timeout=60) as answer:
        ready = json.load(answer)
    assert ready["status"] == "ready", ready
    with urlopen(f"{api}/metrics", timeout=60) as answer:
        metrics = answer.read().decode()
    scored = re.findall(r"^credit_risk_events_total\{.*?\} ([0-9.e+]+)", metrics, re.MULTILINE)
    assert sum(map(float, scored)) == EVENTS
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{api}/watchlist", timeout=60)
    key = {"X-API-Key": composed.secrets["CREDIT_RISK_API_KEY"]}
    with urlopen(Request(f"{api}/watchlist", headers=key), timeout=60) as answer:
        assert json.load(answer)


def test_the_producer_sends_loans(composed: Composed) -> None:
    producer = composed.composed["producer"]
    producer.environment["KAFKA_TOPIC"] = "another_topic"
    printed = composed.run(producer, "--rate", "0", "--max", "50")
    assert "50 events in topic another_topic" in printed


def test_a_reload_and_restarts_of_the_code_server_lose_no_batch(composed: Composed) -> None:
    composed.wait_until_idle()
    with composed.streaming(rate=100):
        composed.wait_for_commits(composed.committed() + 100)
        run = composed.working_run()

        # A reload asks the code server for its definitions again; the run goes on.
        composed.client().reload_repository_location("credit_risk")
        composed.wait_for_commits(composed.committed() + 100)
        assert composed.working_run() == run

        # As `docker compose up` with a new image does; and as a machine that fails does. The run
        # dies with its container.
        for end in (Server.stop, Server.kill):
            end(composed.servers["dagster-code"])
            composed.start_service("dagster-code")
            composed.wait_for_commits(composed.committed() + 100)
            assert composed.working_run() != run
            run = composed.working_run()
    composed.wait_for_commits(composed.sent)
    composed.check_exactly_once()


def test_only_a_run_that_died_is_retried(composed: Composed) -> None:
    client = composed.client()

    def status(run_id: str) -> dg.DagsterRunStatus:
        return composed.instance.get_runs(dg.RunsFilter(run_ids=[run_id]))[0].status

    def wait_for(run_id: str, wanted: dg.DagsterRunStatus) -> None:
        wait_until(
            lambda: status(run_id) is wanted,
            PATIENCE_SECONDS,
            f"run {run_id} ends as {wanted.value}",
            every=0.2,
        )

    def retries(run_id: str) -> list[dg.DagsterRun]:
        of_this_run = dg.RunsFilter(tags={"dagster/parent_run_id": run_id})
        return list(composed.instance.get_runs(of_this_run))

    wrong = client.submit_job_execution(
        "score_applications", run_config={"ops": {"score_stream": {"config": {"lane": 7}}}}
    )
    wait_for(wrong, dg.DagsterRunStatus.FAILURE)

    # A run that is killed while it waits for S3.
    wait_for(client.submit_job_execution("archive_raw_events"), dg.DagsterRunStatus.SUCCESS)
    composed.send(200)
    composed.wait_for_commits(composed.sent)
    s3 = psutil.Process(composed.stack.s3.pid)
    s3.suspend()
    try:
        killed = client.submit_job_execution("archive_raw_events")
        wait_until(
            lambda: composed.pipeline.query(
                "SELECT FROM pg_stat_activity WHERE application_name LIKE %(name)s",
                name=f"%archive {killed}%",
            ),
            PATIENCE_SECONDS,
            "the run asks S3",
        )
        composed.run_process(killed).kill()
        wait_until(
            lambda: retries(killed), PATIENCE_SECONDS, "the killed run is tried again", every=0.2
        )
    finally:
        s3.resume()
    (retry,) = retries(killed)
    wait_for(retry.run_id, dg.DagsterRunStatus.SUCCESS)
    (archived,) = composed.pipeline.query("SELECT sum(rows)::int AS rows FROM archive_objects")
    assert archived["rows"] == composed.sent

    # The daemon has looked at the other one before.
    assert retries(wrong) == []


def test_the_instance_is_what_production_needs(composed: Composed) -> None:
    instance = composed.instance
    assert type(instance.run_storage).__name__ == "PostgresRunStorage"
    assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
    assert type(instance.schedule_storage).__name__ == "PostgresScheduleStorage"
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_runtime_seconds == 6 * 3600
    assert instance.run_retries_enabled
    assert sorted(instance.get_required_daemon_types()) == list(health.DAEMONS)
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.get_settings("sensors")["use_threads"]
    assert instance.get_settings("retention")["sensor"]["purge_after_days"]["skipped"] == 1


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("credit_risk_app", "ALTER TABLE stream_offsets ADD COLUMN x int"),
        ("credit_risk_app", "DROP TABLE offset_gaps"),
        ("credit_risk_app", "CREATE TABLE x ()"),
        ("credit_risk_app", "CREATE ROLE x"),
        ("credit_risk_api", "DELETE FROM scored_applications"),
        ("credit_risk_reader", "SELECT value FROM rejected_events"),
        ("credit_risk_reader", "DELETE FROM scored_applications"),
        ("credit_risk_reader", "UPDATE stream_offsets SET next_offset = 0"),
        ("credit_risk_reader", "SELECT drop_month('2020-01-01')"),
        ("credit_risk_reader", "CREATE SCHEMA x"),
    ],
)
def test_roles_can_do_no_more_than_they_must(composed: Composed, role: str, statement: str) -> None:
    uri = composed.stack.postgres.uri("credit_risk").replace("postgres@", f"{role}@", 1)
    # Not by what a role could change for itself.
    options = "-c search_path=credit_risk -c default_transaction_read_only=off"
    with psycopg.connect(uri, options=options) as connection:
        connection.execute("SELECT count(*) FROM scored_applications")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("role", "database"),
    [("credit_risk_app", "dagster"), ("credit_risk_api", "dagster"), ("dagster", "credit_risk")],
)
def test_roles_stay_in_their_database(composed: Composed, role: str, database: str) -> None:
    uri = composed.stack.postgres.uri(database).replace("postgres@", f"{role}@", 1)
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(uri)
