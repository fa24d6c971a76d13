"""The checks of the stream, and the command line of baselines and shifts, on real servers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import msgspec
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from credit_risk_dagster.cli.main import app
from credit_risk_dagster.definitions import defs
from credit_risk_dagster.domain.drift.baseline import freeze
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.stream_health import Backlog, measure_backlog, newest_events
from resources.postgres.baselines import Baselines
from tests.domain.drift.populations import score
from tests.pipelines.approvals import approved
from tests.platform.pipeline import Pipeline, good_event

pytestmark = pytest.mark.usefixtures("servers")

LOANS = builtin_loans()


@pytest.fixture
def instance(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    monkeypatch.setenv("CREDIT_RISK_STREAM_SAMPLE_EVENTS", "200")
    return instance


def check(instance: dg.DagsterInstance, name: str) -> dg.AssetCheckEvaluation:
    result = defs.resolve_job_def("check_stream").execute_in_process(
        instance=instance, raise_on_error=False
    )
    assert result.success
    return next(e for e in result.get_asset_check_evaluations() if e.check_name == name)


def loans(first: int, following: int, drop: str = "", **changes: object) -> list[bytes]:
    return [
        msgspec.json.encode({k: v for k, v in ({**loan, **changes}).items() if k != drop})
        for loan in LOANS[first:following]
    ]


@dataclass
class Answer:
    """What a command printed; `error` is what the command line would make one line of."""

    stdout: str
    error: str


@pytest.fixture
def credit_risk(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Answer]:
    """Run a command in this process: ten of them in processes of their own take half a minute."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> Answer:
        done = CliRunner().invoke(app, arguments)
        error = done.exception
        if error is not None and not isinstance(error, PlatformError):
            raise error
        return Answer(done.stdout, str(error or ""))

    return run


Command = Callable[..., Answer]


# --- backlog --------------------------------------------------------------------------------------


def test_a_backlog_is_stale_when_it_waits_and_nothing_is_scored() -> None:
    assert not Backlog(0, None, 9999).is_stale(600)
    assert not Backlog(5, 1, 9999).is_stale(600)  # it has just come, after a quiet time
    assert not Backlog(5_000_000, 9999, 1).is_stale(600)  # an old backlog is being worked off
    assert Backlog(5, 601, 601).is_stale(600)
    assert Backlog(5, 601, None).is_stale(600)  # nothing ever was scored
    assert not Backlog(5, 1, None).is_stale(600)
    assert Backlog(5, None, 601).is_stale(600)  # the events cannot be read


def test_a_backlog_fails_and_recovers(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert check(instance, "backlog_is_scored").passed  # an empty topic
    monkeypatch.setenv("CREDIT_RISK_STREAM_SILENT_MINUTES", "0.000001")
    pipeline.send([good_event(i) for i in range(5)], partition=2)
    found = check(instance, "backlog_is_scored")
    assert not found.passed
    assert found.description
    assert found.description.startswith("5 events wait, the oldest for 0.")
    assert "nothing was scored yet" in found.description
    pipeline.drain()
    assert check(instance, "backlog_is_scored").passed
    pipeline.send([good_event(9)], partition=1)
    measured = measure_backlog(pipeline.broker, pipeline.warehouse)
    assert measured.events == 1
    assert measured.waited_seconds is not None
    assert measured.silent_seconds is not None
    assert measured.waited_seconds < measured.silent_seconds < 300
    assert not check(instance, "backlog_is_scored").passed
    monkeypatch.setenv("CREDIT_RISK_STREAM_SILENT_MINUTES", "10")
    assert check(instance, "backlog_is_scored").passed


def test_a_broker_that_is_away_fails_the_checks_in_one_line(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("KAFKA_TIMEOUT_MS", "500")
    for name in ("backlog_is_scored", "schema_change"):
        found = check(instance, name)
        assert not found.passed
        assert (found.description or "").startswith("Kafka broker at 127.0.0.1:9 does not answer")


# --- schema ---------------------------------------------------------------------------------------


def test_the_newest_events_are_read_evenly(pipeline: Pipeline) -> None:
    assert newest_events(pipeline.broker, 100) == []
    pipeline.send([b"%d" % i for i in range(300)], partition=0)
    pipeline.send([b"few %d" % i for i in range(5)], partition=3)
    found = newest_events(pipeline.broker, 100)
    assert sorted(found) == sorted(
        [b"%d" % i for i in range(250, 300)] + [b"few %d" % i for i in range(5)]
    )


def test_a_column_that_changes_fails_the_check_until_it_is_accepted(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    credit_risk: Command,
) -> None:
    assert check(instance, "schema_change").description == "only 0 events to look at"
    pipeline.send_and_drain(loans(0, 200))
    assert check(instance, "schema_change").description == (
        "there is no baseline yet to compare with"
    )
    frozen = credit_risk("baseline", "freeze", "--rows", "150")
    assert not frozen.error
    assert "recorded the columns" in (check(instance, "schema_change").description or "")
    pipeline.send(loans(200, 400))
    same = check(instance, "schema_change")
    assert (same.passed, same.description) == (True, "as baseline 1 recorded")

    pipeline.send(loans(400, 600, drop="sub_grade", channel="web"))
    other = check(instance, "schema_change")
    assert not other.passed
    assert other.severity is dg.AssetCheckSeverity.WARN
    assert other.description == "channel is new (string); sub_grade has disappeared"

    pipeline.send(loans(600, 800, dti="18.01"))
    used = check(instance, "schema_change")
    assert used.severity is dg.AssetCheckSeverity.ERROR
    assert used.description == "dti is string, it was number"
    assert "18.01" not in str(used.metadata)

    accepted = credit_risk("baseline", "accept-columns")
    assert "for baseline 1" in accepted.stdout, accepted.error
    assert "recorded the columns" in (check(instance, "schema_change").description or "")
    assert check(instance, "schema_change").description == "as baseline 1 recorded"


# --- the command line -----------------------------------------------------------------------------


def test_baselines_are_frozen_listed_and_activated(
    pipeline: Pipeline,
    credit_risk: Command,
    tmp_path: Path,
) -> None:
    assert "No baseline yet" in credit_risk("baseline", "ls").stdout
    refused = credit_risk("baseline", "freeze")
    assert "nothing of topic" in refused.error
    pipeline.send_and_drain(loans(0, 300))
    few = credit_risk("baseline", "freeze")
    assert "a baseline of 5,000 needs more" in few.error
    first = credit_risk("baseline", "freeze", "--rows", "200")
    assert first.stdout.startswith("baseline 1: 200 applications, the first 200 scored"), first
    again = credit_risk("baseline", "freeze", "--rows", "200")
    assert again.stdout.startswith("baseline 1, which has exactly these counts: 200")

    csv = tmp_path / "loans.csv"
    names = list(LOANS[0])
    lines = [",".join(names)] + [
        ",".join("" if loan[n] is None else f'"{loan[n]}"' for n in names) for loan in LOANS[:400]
    ]
    csv.write_text("\n".join(lines) + "\n")
    kept = credit_risk("baseline", "freeze", "--csv", str(csv), "--name", "2018", "--no-activate")
    assert "the loans of loans.csv" in kept.stdout, kept.error
    assert "from now on" not in kept.stdout
    listed = credit_risk("baseline", "ls").stdout
    assert "2018" in listed
    with pipeline.warehouse.session() as connection:
        baselines = Baselines(connection)
        old, new = baselines.all()
        assert (old.active, new.active) == (True, False)
        assert new.rows + new.rejected == 400
        table = score(LOANS[:400]).drop_columns("pd")  # no model is active
        table = table.append_column("pd", pa.nulls(len(table), pa.float64()))
        same = freeze(table, rejected=new.rejected, origin="the stream")
        assert new.content_hash == same.content_hash
        assert (new.source_id, old.source_id) == (None, pipeline.source().source_id)
    assert "baseline 2 is not approved" in credit_risk("baseline", "activate", "2").error
    own = credit_risk("baseline", "approve", "2", "--why", "it is of this year")
    assert "postgres submitted baseline 2 and cannot approve it" in own.error
    with pipeline.warehouse.session() as connection:
        approved(connection, "baseline", 2)
    assert "2018" in credit_risk("baseline", "activate", "2").stdout
    with pipeline.warehouse.session() as connection:
        active = Baselines(connection).active()
        assert active
        assert active.baseline_id == 2
    unknown = credit_risk("baseline", "activate", "77")
    assert "there is no baseline 77" in unknown.error
    absent = credit_risk("baseline", "freeze", "--csv", "/nowhere.csv")
    assert "/nowhere.csv: no such file" in absent.error


def test_produce_shifts_the_replay(
    pipeline: Pipeline,
    credit_risk: Command,
) -> None:
    run = credit_risk(
        *("produce", "--rate", "0", "--max", "150", "--after", "100", "--loop"),
        *("--shift", "dti=+8", "--shift", "purpose:small_business=x3"),
    )
    assert not run.error
    sent = {row["id"]: row for row in map(msgspec.json.decode, newest_events(pipeline.broker, 400))}
    for number, loan in enumerate(LOANS[:140]):
        if loan["dti"] is not None and loan["id"] in sent:
            added = 8 if number >= 100 else 0
            assert sent[loan["id"]]["dti"] == pytest.approx(loan["dti"] + added)
    refused = credit_risk("produce", "--shift", "dti=8")
    assert "shift 'dti=8' is not like dti=+8" in refused.error
