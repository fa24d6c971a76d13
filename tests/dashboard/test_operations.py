"""The Operations page as a viewer meets it."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import psycopg
import pytest

from dashboard.data import operations as queries
from dashboard.parts import orchestration
from tests.dashboard.conftest import LOW, REJECTED, WATCHLIST, Commit, figures, open_view, words
from tests.platform.waiting import wait_until


@pytest.fixture(autouse=True)
def _no_dagster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", "http://127.0.0.1:1")


def test_an_empty_database_says_what_will_appear(warehouse: psycopg.Connection[Any]) -> None:
    page = open_view("operations")
    assert not page.exception
    assert "Nothing was committed yet" in page.info[0].value
    assert "Dagster at http://127.0.0.1:1 does not answer" in page.warning[0].value


def test_batches_partitions_and_rejected_events_are_shown(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW, WATCHLIST, REJECTED)
    warehouse.execute("UPDATE risk_by_minute SET minute = minute - interval '2 minutes'")
    warehouse.execute("UPDATE batches SET committed_at = committed_at - interval '2 minutes'")
    commit(LOW, REJECTED)
    page = open_view("operations")
    assert not page.exception
    found = figures(page)
    assert found["Rejected events"] == "2"
    assert found["Not archived yet"] == "5"
    assert found["Lag, events"] == "–"
    tables = [table.value for table in page.dataframe]
    partitions, archive, reasons, rejected, batches = tables
    assert partitions[["next_offset", "scored", "rejected", "gaps"]].to_numpy().tolist() == [
        [5, 3, 2, 0]
    ]
    assert archive["pending"].tolist() == [5]
    assert reasons[["reason", "events"]].to_numpy().tolist() == [["missing_required:loan_amnt", 2]]
    assert rejected["offset"].tolist() == [4, 2]
    assert batches["scored"].tolist() == [1, 2]
    assert all(url.endswith("/runs/run") for url in batches["run"])
    assert "/locations/credit_risk/jobs/redrive_rejected/playground" in words(page)
    assert len(page.get("vega_lite_chart")) == 2


def test_a_quiet_half_hour_says_so(warehouse: psycopg.Connection[Any], commit: Commit) -> None:
    commit(LOW)
    warehouse.execute("UPDATE batches SET committed_at = committed_at - interval '2 hours'")
    page = open_view("operations")
    assert not page.exception
    assert "No event was committed in the last 30 minutes" in page.info[0].value
    assert not page.get("vega_lite_chart")


def test_the_first_minute_of_a_stream_is_no_quiet_half_hour(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    wait_until(lambda: time.time() % 60 < 45, 20, "a minute that goes on for a while", every=0.2)
    commit(LOW)
    page = open_view("operations")
    assert not page.exception
    assert "The first events of 30 minutes came in this one" in page.info[0].value


def test_minutes_without_events_are_there(commit: Commit) -> None:
    commit(LOW, REJECTED)
    minutes = queries.operations("UTC").minutes
    assert len(minutes) == queries.MINUTES
    assert minutes[["scored", "rejected"]].sum().tolist() == [1, 1]
    assert minutes["p50"].notna().sum() == 1
    assert minutes["p50"].max() == pytest.approx(0.2, abs=0.2)


class _Elsewhere(BaseHTTPRequestHandler):
    """A web server that is not Dagster's."""

    answer: ClassVar[dict[str, Any]] = {"errors": ["no such thing"]}
    after_seconds: ClassVar[float] = 0.0

    def do_POST(self) -> None:
        threading.Event().wait(self.after_seconds)
        body = json.dumps(self.answer).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_server_in_dagsters_place_is_named(
    elsewhere: str, warehouse: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", elsewhere)
    with pytest.raises(orchestration.DagsterUnavailable, match=elsewhere):
        orchestration.state("UTC")


def test_a_slow_dagster_is_waited_for(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On half a machine it took nearly three seconds, and the page said that it does not answer."""
    monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", elsewhere)
    monkeypatch.setattr(_Elsewhere, "answer", {"data": {"assetNodes": []}})
    monkeypatch.setattr(_Elsewhere, "after_seconds", 3.0)
    assert orchestration.checks("UTC").empty


def test_dagster_that_does_not_answer_is_left_alone_for_a_while(
    warehouse: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cost each refresh of each viewer two seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes calls, and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("CREDIT_RISK_DAGSTER_URL", address)
        monkeypatch.setattr(orchestration, "ANSWER_SECONDS", 0.2)
        with pytest.raises(orchestration.DagsterUnavailable, match="Timeout"):
            orchestration.state("UTC")
        monkeypatch.setattr(orchestration, "ANSWER_SECONDS", 60.0)
        for ask in (orchestration.state, orchestration.checks):
            with pytest.raises(orchestration.DagsterUnavailable, match="again within 30 s"):
                ask("UTC")


def test_what_an_earlier_topic_took_along_is_not_pending(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW, LOW)
    warehouse.execute("UPDATE sources SET cluster_id = 'gone'")
    commit(LOW)
    page = open_view("operations")
    (pending,) = (m for m in page.metric if m.label == "Not archived yet")
    assert pending.value == "1"
    assert pending.proto.delta_description == "committed events; 2 went with earlier topics"
    (archive,) = (t.value for t in page.dataframe if "pending" in t.value)
    assert archive["pending"].tolist() == [1, 0]
    assert archive["gone"].tolist() == [0, 2]


def test_grafana_is_linked_where_there_is_one(
    warehouse: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_GRAFANA_URL", "http://grafana.example:3000")
    assert orchestration.grafana_url() == "http://grafana.example:3000"
    monkeypatch.delenv("CREDIT_RISK_GRAFANA_URL")
    assert orchestration.grafana_url() is None
