"""No credential of the environment is in what Dagster keeps and shows of runs, or in a log."""

import logging
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._serdes import serialize_value

from credit_risk_dagster.definitions import defs
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.webhook import webhook

SECRET = "swordfish"  # in each credential, with what it is of
JOBS = sorted(
    (job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")),
    key=lambda name: name != "score_applications",  # first: the others have something to do
)
AWAY = {
    "DATABASE_URL": f"postgresql://risk:{SECRET}-database@127.0.0.1:1/credit_risk",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "S3_MAX_ATTEMPTS": "1",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "PLAIN",
    "KAFKA_SASL_USERNAME": "risk",
    "KAFKA_SASL_PASSWORD": f"{SECRET}-kafka",
    "KAFKA_TIMEOUT_MS": "500",
    "CREDIT_RISK_ALERT_WEBHOOK_URL": f"http://risk:{SECRET}-user@127.0.0.1:1/{SECRET}-webhook",
}


@pytest.fixture
def hook(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers that are there, each with a credential, which they do not look at."""
    url = servers["DATABASE_URL"]
    with webhook() as told:
        for name, value in {
            "DATABASE_URL": f"{url}{'&' if '?' in url else '?'}password={SECRET}-database",
            "AWS_SECRET_ACCESS_KEY": f"{SECRET}-s3",
            "AWS_SESSION_TOKEN": f"{SECRET}-token",
            "CREDIT_RISK_ALERT_WEBHOOK_URL": f"{told.url}/{SECRET}-webhook",
            "CREDIT_RISK_SESSION_SECONDS": "0",
        }.items():
            monkeypatch.setenv(name, value)
        yield


def test_no_run_tells_a_credential(
    hook: None,
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of jobs that do their work, and of the same with every server away."""
    caplog.set_level(logging.INFO)
    pipeline.send([good_event(loan) for loan in range(20)])

    def launch() -> tuple[int, int]:
        done = failed = 0
        for name in JOBS:
            job = defs.resolve_job_def(name)
            try:
                result = job.execute_in_process(instance=instance, raise_on_error=False)
            except dg.DagsterInvalidConfigError:  # it asks for something: who, which
                continue
            done += result.success
            failed += not result.success
        return done, failed

    done, failed = launch()
    assert done >= 10, failed
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    done, failed = launch()
    assert failed >= 10, done
    runs = instance.get_runs()
    told = [serialize_value(run) for run in runs]
    told += [serialize_value(entry) for run in runs for entry in instance.all_logs(run.run_id)]
    assert sum("ASSET_MATERIALIZATION" in entry for entry in told) >= 5
    told += [
        *caplog.messages,
        *(str(vars(record)) for record in caplog.records),
        *capfd.readouterr(),
    ]
    assert [text[:2000] for text in told if SECRET in text] == []
