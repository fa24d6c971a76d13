"""Logs: their form, what they tell of a session and of a request, and what they never tell."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from credit_risk_dagster import logs
from credit_risk_dagster.api.bodies import EXAMPLE
from credit_risk_dagster.settings import LogSettings
from tests.api.conftest import StartApi, start_api
from tests.api.test_decisions import JSON
from tests.platform.pipeline import Pipeline, good_event

__all__ = ["start_api"]

# In columns that hold personal data, in wrong values of columns that are used, and in no JSON.
PERSONAL = "Nurse-at-St-Mary"
PERSONAL_EVENTS = [
    json.dumps({**EXAMPLE, "id": 1, "emp_title": PERSONAL, "desc": PERSONAL, "url": PERSONAL}),
    json.dumps({**EXAMPLE, "id": 2, "zip_code": PERSONAL, "title": PERSONAL}),
    json.dumps({**EXAMPLE, "id": 3, "dti": PERSONAL}),
    json.dumps({**EXAMPLE, "id": 4, "purpose": [PERSONAL], "addr_state": PERSONAL}),
    json.dumps({**EXAMPLE, "id": PERSONAL * 10}),
    json.dumps([PERSONAL]),
    f'{{"emp_title": "{PERSONAL}"',
]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What this process logs, at its most talkative."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logs.configure(LogSettings(level="DEBUG"))
    root.setLevel(logging.DEBUG)  # the libraries as well
    monkeypatch.setattr(logging.getLogger("httpx2"), "disabled", True)  # the test's own client
    yield stream
    root.handlers[:], level = before
    root.setLevel(level)
    for package in logs.PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


def entries(stream: io.StringIO, message: str) -> list[dict[str, Any]]:
    """The entries with this message."""
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [entry for entry in lines if entry["event"] == message]


# --- form ---------------------------------------------------------------------------------------

PROGRAM = """
import logging
from credit_risk_dagster import logs
from credit_risk_dagster.errors import PlatformError
logs.configure()
log = logging.getLogger("credit_risk_dagster.program")
log.debug("too much")
log.info("batch %d", 7, extra={"batch_id": 7})
def fail(value):
    float(value)
try:
    fail("nurse")
except ValueError as error:
    try:
        raise PlatformError("our own words") from error
    except PlatformError:
        log.exception("failed")
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("of a library")
"""


def run_program(**variables: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_an_entry_is_a_line_of_json() -> None:
    first, second, third = map(json.loads, run_program())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "credit_risk_dagster.program",
        "event": "batch 7",
        "batch_id": 7,
    }
    ours, cause = second["exception"]
    assert ours.endswith("PlatformError: our own words")
    assert "in fail" in cause  # where, and of which kind, without the value
    assert cause.endswith("\nValueError")
    assert "nurse" not in json.dumps(second)
    assert (third["level"], third["event"]) == ("warning", "of a library")


def test_it_can_be_text_and_more_or_less() -> None:
    lines = run_program(CREDIT_RISK_LOG_FORMAT="text", CREDIT_RISK_LOG_LEVEL="DEBUG")
    assert "too much" in lines[0]
    assert "batch 7" in lines[1]
    assert "batch_id=7" in lines[1]
    assert "PlatformError: our own words" in lines
    assert "ValueError" in lines
    assert not any(line.startswith("{") or "nurse" in line for line in lines)
    lines = run_program(CREDIT_RISK_LOG_LEVEL="ERROR")
    assert [json.loads(line)["event"] for line in lines] == ["failed", "of a library"]


DAGSTERS = """
import warnings
import dagster as dg
from dagster._core.definitions.instigation_logger import InstigationLogger
from dagster._utils.log import configure_loggers
configure_loggers(log_level="INFO")  # as its code server does, which has no other format
from credit_risk_dagster import logs
logs.configure(in_dagster=True)

@dg.op
def work(context):
    context.log.info("working - hard")
    dg.get_dagster_logger("library").warning("of a library")
    warnings.warn("outdated")

@dg.op
def fail():
    raise ValueError("no\\nway")

@dg.job
def day():
    work()
    fail()

with dg.DagsterInstance.ephemeral() as instance:
    day.execute_in_process(instance=instance, raise_on_error=False)
    InstigationLogger(None, instance, "repository", "offsets").info("nobody drains")
"""


def test_dagsters_runs_and_ticks_have_the_same_form() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DAGSTERS], env={}, capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    names = {"event", "level", "logger", "timestamp"}
    assert all(names <= entry.keys() for entry in told)
    assert not [entry for entry in told if entry["level"] == "debug"]  # each step of each run
    of = {entry["event"]: entry for entry in told}
    work = of["working - hard"]
    assert work.keys() == names | {"job", "run_id", "step"}
    assert (work["job"], work["step"], work["level"]) == ("day", "work", "info")
    assert of["of a library"]["run_id"] == work["run_id"]
    tick = of["nobody drains"]
    assert tick.keys() == names | {"tick_of"}
    assert tick["tick_of"] == "offsets"
    (failed,) = (e for e in told if e["event"].startswith('Execution of step "fail" failed.'))
    assert failed["level"] == "error"
    assert "ValueError: no\nway" in failed["event"]  # in one line, for a line is an entry
    assert any("outdated" in entry["event"] for entry in told)


# --- what they tell -----------------------------------------------------------------------------


def test_a_session_tells_run_batches_and_offsets(logged: io.StringIO, pipeline: Pipeline) -> None:
    for first in (0, 3):
        pipeline.send([good_event(first + n) for n in range(3)], partition=1)
        pipeline.send([b"{"], partition=2)
        pipeline.drain(f"run-{first}")
    started, _ = entries(logged, "session started")
    assert (started["run_id"], started["lane"]) == ("run-0", 0)
    assert (started["topic"], started["partitions"]) == (pipeline.kafka.topic, [0, 1, 2, 3])
    ended = entries(logged, "session ended")
    assert [(e["run_id"], e["scored"], e["rejected"]) for e in ended] == [
        ("run-0", 3, 1),
        ("run-3", 3, 1),
    ]
    assert [e["offsets"] for e in ended] == [
        {"1": [0, 3], "2": [0, 1]},
        {"1": [3, 6], "2": [1, 2]},
    ]
    batches = pipeline.query("SELECT batch_id, run_id FROM batches ORDER BY batch_id")
    committed = entries(logged, "batch committed")
    assert [(e["batch_id"], e["run_id"]) for e in committed] == [
        (batch["batch_id"], batch["run_id"]) for batch in batches
    ]
    for session in ended:
        ids = [e["batch_id"] for e in committed if e["run_id"] == session["run_id"]]
        assert session["batch_ids"] == [min(ids), max(ids)]


def test_a_request_tells_its_id_route_and_client(logged: io.StringIO, start_api: StartApi) -> None:
    client = start_api()
    client.get("/applications/loan-12345", headers={"X-Request-ID": "the-id"})
    client.get("/applications/loan-12345?limit=0")
    client.get("/nothing/loan-12345")
    found, wrong, nothing = (
        entry for entry in entries_of_requests(logged) if entry["route"] != "/health"
    )
    assert found.pop("ms") > 0
    assert {
        name: found[name] for name in ("request_id", "method", "route", "status", "client")
    } == {
        "request_id": "the-id",
        "method": "GET",
        "route": "/applications/{loan_id}",
        "status": 404,
        "client": "loopback",
    }
    assert (wrong["status"], nothing["status"], nothing["route"]) == (422, 404, "")
    # A number alone may be in a time.
    assert "loan-12345" not in logged.getvalue()


def entries_of_requests(stream: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [entry for entry in lines if "route" in entry]


# --- what they never tell -----------------------------------------------------------------------


def test_no_personal_data_of_the_stream(
    logged: io.StringIO, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.send([event.encode() for event in PERSONAL_EVENTS])
    report = pipeline.drain()
    assert (report.scored, report.rejected) == (2, 5)
    assert entries(logged, "batch committed")
    assert PERSONAL not in logged.getvalue()
    assert PERSONAL not in caplog.text


class Broken:
    """Fails as code of ours could, with a value in its error."""

    def ask(self) -> None:
        float(PERSONAL)


def test_no_personal_data_of_requests(
    logged: io.StringIO, start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start_api(CREDIT_RISK_API_MAX_EVENTS=2)
    statuses = set()
    for path in ("/applications", "/score"):
        for body in [*PERSONAL_EVENTS, f"[{','.join(PERSONAL_EVENTS[:3])}]"]:
            answer = client.post(path, content=body, headers=JSON)
            statuses.add(answer.status_code)
            answer = client.post(path, content=body)
            statuses.add(answer.status_code)
    for path in (f"/applications/{PERSONAL}", f"/watchlist?cursor={PERSONAL}"):
        statuses.add(client.get(path).status_code)
    # An error of ours, while it has an application in its hands.
    application: Any = client.app
    monkeypatch.setattr(application.state, "deciders", Broken())
    answer = client.post(
        "/score", content=PERSONAL_EVENTS[0], headers={"Content-Type": "application/json"}
    )
    statuses.add(answer.status_code)
    assert statuses == {200, 202, 400, 404, 413, 415, 422, 500}
    assert entries(logged, "a request failed")
    assert PERSONAL not in logged.getvalue()
