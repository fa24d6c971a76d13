"""Forgetting an applicant: every row and byte goes, the count of every offset holds."""

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import psycopg
import pytest

from assets_src.forget import forget_applicant
from credit_risk_dagster.domain.outcomes import Observation
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.forget import ForgetRefused, forget, forget_at
from credit_risk_dagster.pipelines.lake_history import RawEvents
from credit_risk_dagster.pipelines.rebuild import rebuild
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import DEFAULT_POLICY, Settings
from resources.configurable import resources
from resources.postgres.connection import Warehouse
from resources.postgres.forgetting import Forgetting
from resources.postgres.metrics import MetricsLedger
from resources.postgres.outcomes import Outcomes
from resources.postgres.reconciliation import Reconciliation
from tests.platform.commands import Run, one_line
from tests.platform.pipeline import Pipeline, good_event

LOAN = 127000001
LOG = logging.getLogger("test")


def asked(pipeline: Pipeline, loan_id: str = str(LOAN), **options: Any) -> Forgetting | None:
    named = {"by": "Ada", "why": "request 31", "log": LOG}
    return forget(pipeline.warehouse, pipeline.lake, loan_id, **named, **options)


def everything(pipeline: Pipeline) -> str:
    """Every row of every table as text, bytes too."""
    tables = pipeline.query(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE relkind IN ('r', 'p')"
        " AND NOT relispartition AND relnamespace = current_schema()::regnamespace"
    )
    assert len(tables) > 25
    rows = [
        row["t"]
        for table in tables
        for row in pipeline.query(f"SELECT to_jsonb(t) AS t FROM {table['name']} AS t")
    ]
    text = json.dumps(rows)
    return text + "".join(
        bytes.fromhex(part.split('"')[0]).decode("utf-8", "replace")
        for part in text.split("\\\\x")[1:]
    )


def review(pipeline: Pipeline, offset: int, note: str) -> None:
    pipeline.query(
        "SELECT review_application(1, 0, %(offset)s, 'Bo', %(note)s)", offset=offset, note=note
    )


@pytest.fixture
def stored(pipeline: Pipeline) -> Pipeline:
    """Two scored rows of the loan, four rejected events that carry it, and some of others."""
    other = good_event(LOAN + 1)
    pipeline.send(
        [
            *(good_event(LOAN), other, good_event(LOAN)),
            b'{"id": " 127000001.0", "loan_amnt": "lots"}',
            b'{"loan": {"id": 127000001}}',
            b'{"id": 127000001, "loan_am',
            *(b'{"id": 1270000011}', b"junk 5127000001", b'{"id": 5, "loan_amnt": 127000001}'),
        ]
    )
    pipeline.send([b"junk", other], key=b"127000001")  # a key is no id where there is one
    pipeline.drain()
    day = datetime(2019, 3, 31, tzinfo=UTC)
    with pipeline.warehouse.session() as connection:
        Outcomes(connection).add(
            Observation(str(loan), day, status, None, None, None, "servicing")
            for loan, status in ((LOAN, "Current"), (LOAN, "Default"), (LOAN + 1, "Current"))
        )
    review(pipeline, 0, "called them")
    review(pipeline, 1, "lives with 127000001, not with 1270000011")
    assert pipeline.unreconciled() == 0
    return pipeline


def test_every_row_goes_and_every_offset_is_accounted_for(stored: Pipeline) -> None:
    assert str(LOAN) in everything(stored)
    with stored.warehouse.session() as connection:
        checks = Reconciliation(connection)
        assert checks.check_new("before").open == []
        done = asked(stored)
        assert done
        # A note as it was made before there were cases is in the history of the case, too: once.
        assert (done.scored, done.rejected, done.reviews, done.mentions) == (2, 4, 1, 1)
        assert done.outcomes == 2
        assert checks.check_everything().open == []
    assert stored.stored() == {
        "scored_applications": [(0, 1), (0, 10)],
        "rejected_events": [(0, 6), (0, 7), (0, 8)],
    }
    (progress,) = stored.query("SELECT * FROM stream_offsets WHERE partition = 0")
    assert (progress["scored"], progress["rejected"], progress["forgotten"]) == (2, 3, 6)
    (kept,) = stored.query("SELECT * FROM application_reviews")
    assert kept["note"] == "lives with [forgotten], not with 1270000011"
    whole = everything(stored).replace("5127000001", "").replace("1270000011", "")
    whole = whole.replace('"loan_amnt\\": 127000001', "").replace('"loan_amnt": 127000001', "")
    assert "127000001" not in whole
    assert stored.query("SELECT loan_id FROM loan_outcomes") == [{"loan_id": str(LOAN + 1)}]
    (record,) = stored.query("SELECT * FROM forgettings")
    assert (record["forgotten_by"], record["why"]) == ("Ada", "request 31")
    assert (record["scored"], record["rejected"], record["reviews"]) == (2, 4, 1)
    # What only counts stays: what was decided then was decided.
    (counted,) = stored.query("SELECT sum(applications)::int AS n FROM risk_by_minute")
    assert counted["n"] == 11
    with stored.warehouse.session() as connection:
        totals = MetricsLedger(connection, stored.kafka.topic).read().totals
    assert (totals["scored"], totals["rejected"], totals["forgotten"]) == (4, 7, 6)
    assert totals["redriven"] == 0


def test_again_it_finds_nothing_and_the_stream_goes_on(stored: Pipeline) -> None:
    assert asked(stored, dry_run=True) is not None
    assert stored.query("SELECT FROM forgettings") == []
    assert len(stored.stored()["scored_applications"]) == 4
    assert asked(stored) is not None
    assert asked(stored) is None
    assert asked(stored, "no such loan") is None
    assert len(stored.query("SELECT FROM forgettings")) == 1
    stored.send_and_drain([good_event(LOAN)])  # who applies again is an applicant again
    assert stored.unreconciled() == 0
    again = asked(stored, " 127000001.0 ")
    assert again
    assert (again.scored, again.rejected) == (1, 0)
    assert stored.unreconciled() == 0


def test_what_was_redriven_doubled_or_dropped_still_adds_up(stored: Pipeline) -> None:
    with stored.warehouse.session() as connection:
        connection.execute(
            'UPDATE rejected_events SET value = %s WHERE "offset" = 3', [good_event(LOAN)]
        )
        redrive(stored.warehouse, load_policy(DEFAULT_POLICY), run_id="again", offset=3)
        connection.execute(
            "INSERT INTO scored_applications SELECT (jsonb_populate_record(s, jsonb_build_object("
            "'scored_at', s.scored_at + interval '1 microsecond'))).* FROM scored_applications s"
            ' WHERE "offset" = 2'
        )
        assert asked(stored)
        assert Reconciliation(connection).check_everything().open == []
        totals = MetricsLedger(connection, stored.kafka.topic).read().totals
    assert totals["redriven"] == 1
    assert stored.unreconciled() == 0


def test_a_lost_row_stays_a_finding(stored: Pipeline) -> None:
    with stored.warehouse.session() as connection:
        connection.execute('DELETE FROM scored_applications WHERE "offset" = 2')
        assert asked(stored)
        (finding,) = Reconciliation(connection).check_everything().open
    assert (finding.kind, finding.first_offset) == ("missing", 2)


def test_a_rebuild_brings_nobody_back(stored: Pipeline) -> None:
    """Neither into another schema, nor into one in which somebody was forgotten."""
    stored.archive()
    assert asked(stored)
    settings = stored.warehouse._settings
    target = settings.model_copy(update={"db_schema": "again"})

    def rebuilt() -> list[tuple[int, int]]:
        rebuild(
            *(settings, RawEvents(stored.lake, stored.kafka.topic), load_policy(DEFAULT_POLICY)),
            into="again",
            run_id="again",
            log=LOG,
        )
        found = replace(stored, warehouse=Warehouse(target))
        assert found.unreconciled() == 0
        return sorted(p for places in found.stored().values() for p in places)

    left = [(0, 1), (0, 6), (0, 7), (0, 8), (0, 10)]
    assert rebuilt() == left
    there = Warehouse(target)
    assert forget(there, stored.lake, "5", by="Ada", why="request 32", log=LOG)
    assert rebuilt() == [place for place in left if place != (0, 8)]


@pytest.mark.parametrize(
    ("loan_id", "by", "why", "says"),
    [
        (" ", "Ada", "request 31", "is empty or no id"),
        (str(LOAN), "", "request 31", "--by has 0 characters"),
        (str(LOAN), "Ada", " ", "--why has 0 characters"),
        (str(LOAN), "Ada", "loan 127000001 asked", "--why has the loan's id in it"),
        (f"{LOAN}.0", "127000001", "asked", "--by has the loan's id in it"),
    ],
)
def test_what_cannot_be_asked(stored: Pipeline, loan_id: str, by: str, why: str, says: str) -> None:
    with pytest.raises(ForgetRefused, match=says):
        forget(stored.warehouse, stored.lake, loan_id, by=by, why=why, log=LOG)
    assert stored.query("SELECT FROM forgettings") == []


@pytest.mark.usefixtures("servers")
def test_the_command(stored: Pipeline, run: Run) -> None:
    asked = ("forget", "-", "--by", "Ada", "--why", "request 31")
    found = "2 scored rows, 4 rejected events, 1 review, 1 mention in other notes, "
    found += "2 outcomes"
    looked = run(*asked, "--dry-run", stdin=b"127000001\n")
    assert (looked.code, looked.out) == (0, f"{found} would go\n")
    done = run(*asked, stdin=b"127000001\n")
    assert (done.code, done.out[: len(found) + 9]) == (0, f"{found} are gone")
    assert str(LOAN) not in done.out + done.err
    assert run(*asked, stdin=b"127000001\n").out == "nothing is stored of the loan\n"
    assert "is empty or no id" in one_line(run(*asked))


def test_the_job_is_not_told_the_loan(stored: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    given = resources(
        lambda: Settings(warehouse=stored.warehouse._settings, lake=stored.lake._settings)
    )

    def launch(offset: int) -> None:
        asked = {"source_id": 1, "partition": 0, "offset": offset, "by": "Ada", "why": "request 31"}
        with dg.DagsterInstance.ephemeral() as instance:
            done = forget_applicant.execute_in_process(
                instance=instance,
                resources=given,
                run_config={"ops": {"forget_application": {"config": asked}}},
            )
            assert done.success
            assert str(LOAN) not in str(instance.all_logs(done.run_id))

    launch(3)  # a rejected event of the loan
    assert stored.query("SELECT scored, rejected FROM forgettings") == [
        {"scored": 2, "rejected": 4}
    ]
    for offset in (3, 999):  # again, and of nobody
        launch(offset)
    assert len(stored.query("SELECT FROM forgettings")) == 1
    launch(9)  # an event that names no loan, with a key that does: one that was
    assert stored.unreconciled() == 0


def test_who_has_no_id_is_forgotten_by_the_place(pipeline: Pipeline) -> None:
    nameless = good_event(LOAN).replace(b'"id": 127000001, ', b"")
    pipeline.send([nameless, nameless], key=b"")
    pipeline.drain()
    pipeline.archive()
    done = forget_at(*(pipeline.warehouse, pipeline.lake, (1, 0, 1)), by="Ada", why="31", log=LOG)
    assert done
    assert (done.scored, done.lake_rows) == (1, 2)
    assert pipeline.stored()["scored_applications"] == pipeline.offsets() == [(0, 0)]
    assert pipeline.unreconciled() == 0


def test_a_drain_and_a_forgetting_at_once_meet_in_no_circle(stored: Pipeline) -> None:
    with stored.warehouse.connect(autocommit=False) as batch:
        batch.execute("UPDATE stream_offsets SET end_offset = 1 WHERE partition = 0")
        with stored.warehouse.connect() as other, pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT forget_loan('1', '{}', '{}', '{}', 'Ada', 'x')")
    assert asked(stored) is not None
