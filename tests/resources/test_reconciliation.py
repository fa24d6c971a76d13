"""The alarm of exactly-once: it counts what anybody committed, and forgets nothing."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from credit_risk_dagster.cli.main import app
from credit_risk_dagster.settings import PROJECT_ROOT
from resources.postgres import reconciliation
from resources.postgres.reconciliation import Checked, FindingUnknown, Reconciliation, reconcile
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

LOSE = 'DELETE FROM scored_applications WHERE partition = 0 AND "offset" = %s'
DOUBLE = (
    "INSERT INTO scored_applications SELECT (jsonb_populate_record(s, jsonb_build_object("
    "'scored_at', s.scored_at + interval '1 microsecond'))).* FROM scored_applications s"
    ' WHERE partition = 0 AND "offset" = %s'
)
# A run without end that drains as a Dagster run does.
RUN = """
import logging
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.drain import drain
from credit_risk_dagster.settings import DEFAULT_POLICY, Settings
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse
s = Settings()
drain(Broker(s.kafka), Warehouse(s.warehouse), load_policy(DEFAULT_POLICY), s.drain,
      run_id="killed", log=logging.getLogger())
"""


@pytest.fixture
def connection(pipeline: Pipeline) -> Iterator[psycopg.Connection[Any]]:
    with pipeline.warehouse.session() as connection:
        yield connection


def found(checked: Checked) -> list[tuple[str, int, int, int]]:
    return [(f.kind, f.partition, f.first_offset, f.offsets) for f in checked.open]


def test_what_a_killed_run_committed_is_counted_by_the_next_check(
    pipeline: Pipeline, connection: psycopg.Connection[Any], environment: dict[str, str]
) -> None:
    pipeline.send([good_event(i) for i in range(10)])
    run = subprocess.Popen([sys.executable, "-c", RUN], env=environment, cwd=PROJECT_ROOT)
    try:
        wait_until(lambda: pipeline.query("SELECT FROM batches"), 60, "the run commits")
    finally:
        run.kill()
        run.wait()
    connection.execute(LOSE, [3])
    # The next run is right, and so is the one after it.
    pipeline.send_and_drain([good_event(1)], partition=1)
    assert found(Reconciliation(connection).check_new("next")) == [("missing", 0, 3, 1)]
    pipeline.send_and_drain([good_event(1)], partition=2)
    later = Reconciliation(connection).check_new("the one after")
    assert [(c.partition, c.first_offset, c.next_offset) for _, c in later.counted] == [(2, 0, 1)]
    assert found(later) == [("missing", 0, 3, 1)]
    assert later.open[0].found_by == "next"


def test_what_is_lost_and_what_is_doubled_do_not_cancel_out(
    pipeline: Pipeline, connection: psycopg.Connection[Any]
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)] + [b"junk"])
    for offset in (2, 3):
        connection.execute(LOSE, [offset])
    for offset in (5, 7):
        connection.execute(DOUBLE, [offset])
    connection.execute(  # an offset that is in two tables, and one that has a row and is a gap
        "INSERT INTO rejected_events SELECT (jsonb_populate_record(r, '{\"offset\": 9}')).*"
        " FROM rejected_events r"
    )
    connection.execute(
        "INSERT INTO offset_gaps (source_id, partition, first_offset, next_offset, batch_id,"
        " reason) SELECT source_id, 0, 8, 9, 0, 'a hand' FROM sources"
    )
    assert found(Reconciliation(connection).check_new("a")) == [
        *(("missing", 0, 2, 2), ("doubled", 0, 5, 1), ("doubled", 0, 7, 3))
    ]
    (row,) = (row for row in reconcile(connection, 1) if row["partition"] == 0)
    assert row["difference"] == 6


def test_a_check_counts_what_is_new_once_and_in_bounds(
    pipeline: Pipeline, connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "SLICE_OFFSETS", 3)
    checks = Reconciliation(connection)
    assert (checks.check_new("nothing").offsets, checks.check_new("nothing").left) == (0, 0)
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    first = checks.check_new("a", most=4)
    assert (first.offsets, first.left) == (4, 6)
    connection.execute(LOSE, [1])  # counted already: for the count of everything
    assert (checks.check_new("b").offsets, checks.check_new("c").offsets) == (6, 0)
    assert checks.open() == []
    assert found(checks.check_everything()) == [("missing", 0, 1, 1)]
    assert found(checks.check_everything()) == [("missing", 0, 1, 1)]  # found once


def test_a_row_may_be_of_long_before_the_last_count(
    pipeline: Pipeline, connection: psycopg.Connection[Any]
) -> None:
    checks = Reconciliation(connection)
    checks.check_new("a")
    pipeline.send_and_drain([good_event(1), good_event(2), b"junk"])
    for table, at in (("scored_applications", "scored_at"), ("rejected_events", "rejected_at")):
        connection.execute(f"UPDATE {table} SET {at} = {at} - interval '5 days'")
    connection.execute(LOSE, [0])
    assert found(checks.check_new("b")) == [("missing", 0, 0, 1)]


def test_a_finding_is_cleared_by_name_and_not_by_being_right(
    pipeline: Pipeline, connection: psycopg.Connection[Any]
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    kept = pipeline.query('SELECT * FROM scored_applications WHERE "offset" = 4')[0]
    restore = "INSERT INTO scored_applications SELECT (jsonb_populate_record(s, %s)).* FROM"
    restore += ' scored_applications s WHERE "offset" = 5'
    changed = psycopg.types.json.Jsonb({"offset": 4, "loan_id": kept["loan_id"]})
    checks = Reconciliation(connection)
    connection.execute(LOSE, [4])
    (finding,) = checks.check_new("a").open
    connection.execute(restore, [changed])
    assert checks.check_everything().open == [finding]  # right again, and still to be explained
    assert checks.clear(finding.finding_id, "Ada", "restored from the archive") == 0
    assert checks.check_everything().open == []
    with pytest.raises(FindingUnknown, match="no finding 1 is open"):
        checks.clear(finding.finding_id, "Bob", "again")
    connection.execute(LOSE, [4])  # it is another incident
    (again,) = checks.check_everything().open
    assert checks.clear(again.finding_id, "Ada", "the applicant asked to be forgotten") == 1
    assert checks.check_everything().open == []  # accepted
    connection.execute(LOSE, [5])
    assert found(checks.check_everything()) == [("missing", 0, 5, 1)]
    assert [
        (row["cleared_by"], row["still_wrong"])
        for row in pipeline.query("SELECT * FROM reconciliation_findings ORDER BY finding_id")
    ] == [("Ada", 0), ("Ada", 1), (None, None)]


def test_what_retention_dropped_is_accounted_for(
    pipeline: Pipeline, connection: psycopg.Connection[Any]
) -> None:
    checks = Reconciliation(connection)
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    checks.check_new("a")
    pipeline.send_and_drain([good_event(i) for i in range(10, 20)])
    # The first twelve go: of two of them nobody has counted yet.
    connection.execute('DELETE FROM scored_applications WHERE "offset" < 12')
    connection.execute(
        "INSERT INTO dropped_rows (source_id, partition, month, scored, rejected)"
        " VALUES (1, 0, '2020-01-01', 12, 0)"
    )
    connection.execute("UPDATE reconciled_offsets SET checked_at = now() - interval '2 days'")
    checked = checks.check_new("b")  # which of them went is not recorded, so this is not for it
    assert (checked.counted, checked.left, checked.open) == ([], 10, [])
    everything = checks.check_everything()
    assert (everything.offsets, everything.open) == (20, [])
    assert checks.check_new("c").left == 0
    connection.execute(LOSE, [15])
    assert found(checks.check_everything()) == [("missing", 0, 0, 1)]
    assert found(checks.check_everything()) == [("missing", 0, 0, 1)]


def test_a_redrive_and_a_new_epoch_are_right(
    pipeline: Pipeline, connection: psycopg.Connection[Any]
) -> None:
    pipeline.send_and_drain([b"junk", good_event(1)])
    checks = Reconciliation(connection)
    with connection.transaction():  # as a re-drive moves it, after the drain and before the check
        connection.execute("UPDATE stream_offsets SET scored = 2, rejected = 0 WHERE partition = 0")
        connection.execute("DELETE FROM rejected_events")
        connection.execute(
            "INSERT INTO scored_applications SELECT (jsonb_populate_record(s, "
            "'{\"offset\": 0}')).* FROM scored_applications s"
        )
    assert checks.check_new("a").open == []
    connection.execute(LOSE, [1])  # of the old epoch, after the new one began
    connection.execute(
        "INSERT INTO sources (cluster_id, topic, topic_id, epoch)"
        " SELECT cluster_id, topic, topic_id, 1 FROM sources"
    )
    pipeline.drain()
    assert {c.partition for _, c in checks.check_new("b").counted} == {0}
    assert found(checks.check_everything()) == [("missing", 0, 1, 1)]


def test_the_command_line_lists_counts_and_clears(
    pipeline: Pipeline,
    connection: psycopg.Connection[Any],
    servers: dict[str, str],
) -> None:
    run: Callable[..., Any] = lambda *words: CliRunner().invoke(app, ["reconciliation", *words])  # noqa: E731
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    connection.execute(LOSE, [4])
    assert run("ls").stdout == "no finding is open\n"
    counted = run("count").stdout
    assert "10 offsets counted" in counted
    assert "finding 1: 1 missing in source 1 partition 0, offset 4; found at" in counted
    assert run("clear", "1").exit_code == 2
    assert "--by and --why" in str(run("clear", "1", "--by", " ", "--why", "x").exception)
    cleared = run("clear", "1", "--by", "Ada", "--why", "asked to be forgotten").stdout
    assert cleared == (
        "finding 1 is cleared by Ada: 1 of its offsets is still wrong, and accepted\n"
    )
    assert run("ls").stdout == "no finding is open\n"
    for offset in (5, 7):
        connection.execute(LOSE, [offset])
    assert "10 offsets counted" in run("count").stdout
    assert "or all of them by --all" in str(run("clear", "--by", "Ada", "--why", "x").exception)
    cleared = run("clear", "--all", "--by", "Ada", "--why", "a hand").stdout
    assert cleared.count("is cleared by Ada") == 2


def test_it_reads_by_the_primary_keys(
    pipeline: Pipeline, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    connection.execute("SET enable_seqscan = off")
    which = {"source_id": 1, "partition": 0, "first": 100, "next": 200, "since": None}
    plan = "\n".join(
        str(row[0])
        for row in connection.execute(b"EXPLAIN " + reconciliation._COUNT.encode(), which)
    )
    assert "Seq Scan" not in plan
    assert plan.count("_pkey") >= 6
