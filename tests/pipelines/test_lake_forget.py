"""Forgetting in the lake: no object has the applicant, every other row is there, all adds up."""

import io
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from credit_risk_dagster.domain.loans import events_of, pattern
from credit_risk_dagster.pipelines.archive_check import verify_lake
from credit_risk_dagster.pipelines.forget import ForgetIncomplete
from credit_risk_dagster.pipelines.lake_history import tables
from credit_risk_dagster.pipelines.lake_maintenance import maintain
from credit_risk_dagster.settings import LakeSettings
from infra.embedded.servers import S3
from resources.lake import Lake
from resources.postgres.archive import ArchiveLedger
from resources.postgres.connection import Warehouse
from tests.pipelines.test_archive_migration import drained, put
from tests.pipelines.test_forget import LOAN, LOG, asked
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

OTHERS = [(0, 0), (0, 2), (0, 4), (0, 5)]


def everything_stored(pipeline: Pipeline) -> str:
    """Every row of every Parquet object of the bucket, the table's or not, and the logs."""
    found = []
    for key in pipeline.lake.sizes(""):
        content = io.BytesIO()
        pipeline.lake.get(key, content)
        readable = key.endswith(".parquet") and "_delta_log" not in key
        found.append(str(pq.read_table(content).to_pylist() if readable else content.getvalue()))
    return "".join(found)


def keep_up(pipeline: Pipeline) -> None:
    maintain(pipeline.warehouse, pipeline.lake, pipeline.kafka.topic, timedelta(days=7), log=LOG)


def assert_forgotten(pipeline: Pipeline, left: list[tuple[int, int]] = OTHERS) -> None:
    assert str(LOAN) not in everything_stored(pipeline)
    assert pipeline.offsets() == left
    assert pipeline.offsets("decisions") == left
    assert pipeline.account().problems == []
    assert verify_lake(pipeline.warehouse, pipeline.lake, pipeline.kafka.topic).broken == []
    assert pipeline.query("SELECT FROM forgettings WHERE lake_at IS NULL") == []
    assert pipeline.unreconciled() == 0


@pytest.fixture
def archived(pipeline: Pipeline) -> Pipeline:
    """Three files of one partition: two scored events of the loan, and a rejected one, which only
    its bytes say; each with its decision."""
    broken = b'{"id": 127000001, "loan_am'
    first: list[bytes | None] = [good_event(5), good_event(LOAN), b"junk"]
    pipeline.send_and_drain([*first, broken, good_event(6), good_event(7), good_event(LOAN)])
    pipeline.archive(max_object_events=3)
    return pipeline


def test_no_object_has_the_applicant(archived: Pipeline) -> None:
    looked = asked(archived, dry_run=True)
    assert looked
    assert looked.lake_rows == 3
    assert len(archived.offsets()) == 7
    done = asked(archived)
    assert done
    assert (done.scored, done.rejected, done.lake_rows) == (2, 1, 6)
    assert_forgotten(archived)
    assert asked(archived) is None
    archived.send_and_drain([good_event(8)])
    archived.archive()
    assert_forgotten(archived, [*OTHERS, (0, 7)])


def test_merged_files_and_what_they_replaced_are_looked_into(archived: Pipeline) -> None:
    keep_up(archived)
    assert len(archived.files()) == 1
    done = asked(archived)
    assert done
    assert done.lake_rows == 6
    assert_forgotten(archived)
    keep_up(archived)
    assert_forgotten(archived)


def test_who_is_in_the_lake_alone_is_found(archived: Pipeline) -> None:
    """Retention dropped what Postgres had."""
    archived.query("DELETE FROM scored_applications RETURNING 1")
    archived.query("DELETE FROM rejected_events RETURNING 1")
    done = asked(archived)
    assert done
    assert (done.scored, done.rejected, done.lake_rows) == (0, 0, 6)
    assert str(LOAN) not in everything_stored(archived)
    assert archived.account().problems == []


def test_what_is_forgotten_first_is_not_archived(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(LOAN), good_event(5), good_event(LOAN), good_event(LOAN)])
    pipeline.send_and_drain([good_event(LOAN)], 1)
    assert asked(pipeline)
    report = pipeline.archive()
    assert (report.rows, report.lost) == (1, [])
    assert_forgotten(pipeline, [(0, 1)])
    pipeline.send_and_drain([good_event(6)])
    pipeline.archive()
    assert_forgotten(pipeline, [(0, 1), (0, 4)])


def test_a_restored_backup_forgets_again(archived: Pipeline) -> None:
    """Postgres has the applicant again, and nothing of the forgetting; the lake knows of it."""
    assert asked(archived)
    with archived.warehouse.session() as connection:
        for table in ("forgotten_offsets", "forgettings"):
            connection.execute(f"DELETE FROM {table}".encode())
        connection.execute(
            "UPDATE stream_offsets SET scored = scored + 2, rejected = rejected + 1, forgotten = 0"
            " WHERE partition = 0"
        )
        connection.execute(
            "INSERT INTO scored_applications SELECT (jsonb_populate_record(s, jsonb_build_object("
            "'offset', n, 'loan_id', '127000001'))).* FROM scored_applications s, (VALUES (1), (6))"
            ' AS v (n) WHERE s."offset" = 0'
        )
        connection.execute(
            "INSERT INTO rejected_events SELECT (jsonb_populate_record(r, jsonb_build_object("
            "'offset', 3, 'value', '\\x313237303030303031'))).* FROM rejected_events r"
            ' WHERE "offset" = 2'
        )
    archived.archive()
    assert_forgotten(archived)
    assert asked(archived) is None


def test_while_another_run_archives_that_one_does_it(
    archived: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the schema of that one: what both write is the table."""
    monkeypatch.setattr("credit_risk_dagster.pipelines.forget._PATIENCE_SECONDS", 0)
    beside = archived.warehouse._settings.model_copy(update={"db_schema": "beside"})
    uri = tables(archived.lake, archived.kafka.topic)["raw_events"].uri
    with Warehouse(beside).connect() as connection:
        # Postgres ends the connection of the run before a moment after the run has closed it.
        wait_until(lambda: ArchiveLedger(connection).try_lock(uri), 10, "the run before lets go")
        assert archived.archive().busy
        done = asked(archived)
        assert done
        assert done.lake_rows is None
        assert len(archived.offsets()) == 7
        assert archived.account().problems == []
    archived.archive()
    assert_forgotten(archived)
    assert archived.query("SELECT lake_rows FROM forgettings") == [{"lake_rows": 6}]


def test_without_the_lake_postgres_forgets_and_says_what_is_left(
    archived: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = archived.lake
    with S3() as server:
        url = server.endpoint_url
    archived.lake = Lake(LakeSettings(AWS_ENDPOINT_URL_S3=url, S3_MAX_ATTEMPTS=1))
    with pytest.raises(ForgetIncomplete, match=r"2 scored rows.* are gone.*does not answer"):
        asked(archived)
    assert str(LOAN) not in str(archived.query("SELECT loan_id FROM scored_applications"))
    archived.lake = there
    assert asked(archived)
    assert_forgotten(archived)


def test_the_objects_of_the_layout_before_go_too(pipeline: Pipeline) -> None:
    """Those that are the table's files, and those of which the table has a copy."""
    drained(pipeline, 20)
    put(pipeline, 0, range(20))
    put(pipeline, 1, range(20), f"{pipeline.kafka.topic}@0-beside")
    assert asked(pipeline, "5")  # before they are the table's
    pipeline.archive()
    assert '"id": 5,' not in everything_stored(pipeline)
    left = [(partition, at) for partition in (0, 1) for at in range(20) if at != 5]
    assert pipeline.offsets() == left
    assert asked(pipeline, "6")
    assert '"id": 6,' not in everything_stored(pipeline)
    assert pipeline.offsets() == [place for place in left if place[1] != 6]
    assert pipeline.account().problems == []


@pytest.mark.parametrize("loan_id", ["127000001", "127000000", "A-7", "0", "0042"])
def test_whatever_carries_a_loan_is_looked_at(loan_id: str) -> None:
    ways = [
        f'{{"id": {form}}}'.encode()
        for form in (
            *(f'"{loan_id}"', f'" {loan_id}.0 "', f"{loan_id}", f"{loan_id}.0", f"{loan_id}e0"),
            *('"1.27000001e8"', '"1.27E8"', '"1.27000000e+08"', "1.27000001E8", "1.27e8"),
            f'"{"".join(f"{chr(92)}u{ord(c):04x}" for c in loan_id)}"',
        )
    ]
    ways += [f"\ufeff junk {loan_id}.".encode(), loan_id.encode(), f" {loan_id}.0".encode()]
    keys: list[bytes | None] = [None] * len(ways)
    carrying = {*events_of(loan_id, ways, keys), *events_of(loan_id, keys, ways)}
    assert len(carrying) >= 4
    looked = pc.match_substring_regex(pa.array(ways), pattern(loan_id)).to_pylist()
    assert all(looked[at] for at in carrying)
