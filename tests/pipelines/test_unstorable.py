"""Records that cannot be stored: each leaves by itself, and no lane stops."""

import json
import time
from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import psycopg
import pytest
from hypothesis import strategies as st

from credit_risk_dagster.domain.decoding import REASONS, UNSTORABLE, decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.record_time import NO_TIME, record_times
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import DEFAULT_POLICY
from resources.kafka.reader import Fetch, OffsetRange
from resources.postgres import micro_batch, unstorable
from resources.postgres.micro_batch import Ledger, StageSeconds
from resources.postgres.policies import register_policy
from resources.postgres.rejected import RejectedEvents
from resources.postgres.sources import Source, Sources
from resources.postgres.unstorable import BatchRefused
from tests.platform.pipeline import Pipeline, good_event, send_at

NOW_MS = time.time_ns() // 10**6
ABSURD = [
    0,
    1,
    NOW_MS // 1000,  # seconds
    NOW_MS * 1000,  # microseconds
    NOW_MS * 10**6,  # nanoseconds
    253402300800000,  # the year 10000
    253402300799999,  # 9999
    32503680000000,  # 3000
    2**63 - 1,
]


def test_absurd_timestamps_stop_nothing(pipeline: Pipeline) -> None:
    records = [(good_event(1), None)]
    for milliseconds in ABSURD:
        records += [(good_event(2), milliseconds), (b"junk", milliseconds)]
    send_at(pipeline.kafka, [*records, (good_event(3), None)])
    report = pipeline.drain()
    assert (report.scored, report.rejected) == (2 + len(ABSURD), len(ABSURD))
    assert sum(report.latency_buckets) == 2  # those are no latency
    assert report.latency(99) < 60
    scored = pipeline.query('SELECT recorded_at AS at FROM scored_applications ORDER BY "offset"')
    rejected = pipeline.query("SELECT recorded_at AS at FROM rejected_events")
    assert [row["at"].year == 1970 for row in scored] == [False, *[True] * len(ABSURD), False]
    assert {row["at"].year for row in rejected} == {1970}
    assert pipeline.unreconciled() == 0
    # The archive keeps the records, and says that they have no time.
    assert pipeline.archive().rows == len(records) + 1
    times = [row["timestamp"] is None for row in pipeline.rows()]
    assert times == [False, *[True] * 2 * len(ABSURD), False]
    assert pipeline.account().problems == []


def test_times_beyond_every_type_are_none() -> None:
    written = [None, -1, -(2**63), 2**63, 2**80, NOW_MS]
    assert record_times(written).tolist() == [NO_TIME] * 5 + [NOW_MS]
    assert record_times([NOW_MS, 0]).tolist() == [NOW_MS, NO_TIME]
    assert record_times([]).tolist() == []


def test_the_age_of_what_waits_is_not_an_absurd_one(pipeline: Pipeline) -> None:
    send_at(pipeline.kafka, [(good_event(1), 0)])
    with pipeline.broker.watch() as watch:
        assert watch.timestamps({0: (0, 1)}) == {}


def refuse(pipeline: Pipeline, statement: str) -> None:
    with pipeline.warehouse.connect() as connection:
        connection.execute(statement)  # type: ignore[call-overload]


CHECK = "ALTER TABLE {} ADD CONSTRAINT {} CHECK ({})"
ODD_IDS = CHECK.format("scored_applications", "even", "loan_id::int %% 10 <> 7").replace("%%", "%")


def test_the_record_that_is_refused_is_rejected_with_its_bytes(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(pipeline, ODD_IDS)
    values = [good_event(i) for i in range(40)]
    pipeline.send([*values, b"junk"])
    pipeline.send(values[:8], partition=2)
    report = pipeline.drain("run-1")
    assert (report.scored, report.rejected) == (43, 6)
    assert report.reasons == {"unstorable:constraint": 5, "invalid_json": 1}
    assert report.ranges == {0: (0, 41), 2: (0, 8)}
    rows = pipeline.query(
        'SELECT partition, "offset", reason, key, value FROM rejected_events'
        ' ORDER BY partition, "offset"'
    )
    assert [(r["partition"], r["offset"]) for r in rows] == [
        *((0, 7), (0, 17), (0, 27), (0, 37), (0, 40), (2, 7)),
    ]
    assert [r["value"] for r in rows[:4]] == [good_event(i) for i in (7, 17, 27, 37)]
    assert {r["key"] for r in rows} == {b"key"}
    assert pipeline.unreconciled() == 0
    (batch,) = pipeline.query("SELECT * FROM batches")  # still one batch
    assert (batch["scored"], batch["rejected"]) == (43, 6)
    assert batch["reject_reasons"] == {"unstorable:constraint": 5, "invalid_json": 1}
    assert batch["low"] + batch["elevated"] + batch["watchlist"] == 43
    told = [r for r in caplog.records if r.message == "record cannot be stored"]
    assert len(told) == 5
    assert "even" in told[0].__dict__["names"]
    assert not any("68407" in str(r.__dict__) or '"id"' in str(r.__dict__) for r in told)


def test_every_record_of_a_batch_may_be_refused(pipeline: Pipeline) -> None:
    refuse(pipeline, CHECK.format("scored_applications", "none", "loan_amnt < 0"))
    pipeline.send([good_event(i) for i in range(30)])
    report = pipeline.drain()
    assert (report.scored, report.reasons) == (0, {"unstorable:constraint": 30})
    assert pipeline.unreconciled() == 0


@pytest.mark.parametrize("every", [1, 2, 50])
def test_a_refused_record_costs_a_statement_or_two(
    pipeline: Pipeline, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres names the row, so nobody looks for it; and rows are made once for all."""
    refuse(pipeline, CHECK.format("scored_applications", "divides", f"loan_id::int % {every} <> 0"))
    copied: list[int] = []
    copy, make = unstorable.copy_batch, micro_batch.scored_rows

    def copy_and_count(connection: Any, table: Any, rows: Any) -> None:
        copied.append(len(rows))
        copy(connection, table, rows)

    made: list[Any] = []
    monkeypatch.setattr(unstorable, "copy_batch", copy_and_count)
    monkeypatch.setattr(micro_batch, "scored_rows", lambda *of: made.append(of) or make(*of))
    pipeline.send([good_event(i) for i in range(500)])
    report = pipeline.drain()
    assert report.reasons == {"unstorable:constraint": 500 // every}
    assert report.scored == 500 - 500 // every
    assert len(copied) <= 4 * 500 // every + 20
    assert sum(copied) <= 6 * 500
    assert len(made) <= 3  # for the batch, to look, and for what is left
    assert pipeline.unreconciled() == 0


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE INDEX ON scored_applications ((loan_amnt::int2))", "data"),
        ("ALTER TABLE scored_applications ALTER purpose SET NOT NULL", "constraint"),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'not %', new.loan_id; END $$; CREATE TRIGGER no BEFORE INSERT ON"
            " scored_applications FOR EACH ROW WHEN (new.purpose IS NULL) EXECUTE FUNCTION no()",
            "constraint",
        ),
        ("CREATE INDEX ON scored_applications (repeat(md5(loan_id), 1 + (purpose IS NULL)::int"
         " * 10000))", "limit"),
    ],
    ids=["a number out of range", "a missing value", "a trigger", "an index that is too wide"],
)  # fmt: skip
def test_what_postgres_can_refuse(pipeline: Pipeline, statement: str, reason: str) -> None:
    refuse(pipeline, statement)
    bad = good_event(2).replace(b'"car"', b"null").replace(b"10000", b"99999")
    small = [good_event(i).replace(b"10000", b"9000") for i in range(3)]
    pipeline.send([*small, bad, *small])
    report = pipeline.drain()
    assert (report.scored, report.reasons) == (6, {f"unstorable:{reason}": 1})
    assert pipeline.stored()["rejected_events"] == [(0, 3)]
    assert pipeline.unreconciled() == 0


def test_rows_that_do_not_fit_together_are_told_apart(pipeline: Pipeline) -> None:
    """None of them is refused alone."""
    for (leaf,) in pipeline.warehouse.connect().execute(
        "SELECT relid::regclass::text FROM pg_partition_tree('scored_applications') WHERE isleaf"
    ):
        refuse(pipeline, f"CREATE UNIQUE INDEX ON {leaf} (loan_id)")
    pipeline.send([good_event(i % 5) for i in range(12)])
    report = pipeline.drain()
    assert (report.scored, report.reasons) == (5, {"unstorable:constraint": 7})
    assert pipeline.stored()["scored_applications"] == [(0, offset) for offset in range(5)]
    assert pipeline.unreconciled() == 0


def test_bytes_that_cannot_be_kept_leave_their_offset_and_reason(pipeline: Pipeline) -> None:
    refuse(pipeline, CHECK.format("rejected_events", "small", "octet_length(value) < 1000"))
    pipeline.send([good_event(1), b"x" * 5_000, b"junk", None, good_event(2)])
    report = pipeline.drain()
    assert (report.scored, report.rejected) == (2, 3)
    rows = pipeline.query('SELECT reason, key, value FROM rejected_events ORDER BY "offset"')
    assert [(r["reason"], r["key"], r["value"]) for r in rows] == [
        ("unstorable:constraint", None, None),
        ("invalid_json", b"key", b"junk"),
        ("tombstone", b"key", None),
    ]
    assert pipeline.unreconciled() == 0


def test_a_table_that_takes_nothing_is_no_records_fault(pipeline: Pipeline) -> None:
    """The partition for today is missing: nothing is rejected for it, and no offset moves."""
    pipeline.send([good_event(1)])
    pipeline.drain()
    pipeline.send([good_event(2)])
    with pipeline.warehouse.connect() as connection:
        for (leaf,) in connection.execute(
            "SELECT relid::regclass::text FROM pg_partition_tree('scored_applications')"
            " WHERE isleaf"
        ).fetchall():
            connection.execute(f"ALTER TABLE scored_applications DETACH PARTITION {leaf}")
        source = pipeline.source()
        policy = load_policy(DEFAULT_POLICY)
        fetch = fetch_of([good_event(2)], first=1)
        assessment = assess(decode(fetch.values), policy)
        policy_id = register_policy(connection, policy)
        seconds = StageSeconds(0, 0, 0, None)
        with pytest.raises(BatchRefused, match="no partition of relation") as raised:
            Ledger(connection).commit(
                *(source.source_id, policy_id, "run", 0, fetch, assessment, seconds)
            )
    assert "\n" not in str(raised.value)
    assert pipeline.query("SELECT * FROM rejected_events") == []


def test_a_batch_that_no_record_explains_is_refused_in_one_line(pipeline: Pipeline) -> None:
    refuse(pipeline, CHECK.format("batches", "nothing", "run_id <> 'run-1'"))
    pipeline.send([good_event(1)])
    with pytest.raises(BatchRefused, match="none of its records alone: 23514 CheckViolation bat"):
        pipeline.drain("run-1")
    assert pipeline.drain("run-2").scored == 1


# --- the re-drive ---------------------------------------------------------------------------------


def redriven(pipeline: Pipeline) -> Any:
    return redrive(pipeline.warehouse, load_policy(DEFAULT_POLICY), run_id="redrive-1")


def test_a_redrive_moves_what_is_not_refused_any_more(pipeline: Pipeline) -> None:
    refuse(pipeline, ODD_IDS)
    pipeline.send([good_event(i) for i in range(20)])
    assert pipeline.drain().reasons == {"unstorable:constraint": 2}
    report = redriven(pipeline)
    assert (report.examined, report.moved.total()) == (2, 0)
    refuse(pipeline, "ALTER TABLE scored_applications DROP CONSTRAINT even")
    refuse(
        pipeline,
        CHECK.format("scored_applications", "even", "loan_id::int <> 17"),
    )
    report = redriven(pipeline)
    assert (report.examined, report.moved) == (2, {"unstorable:constraint": 1})
    assert pipeline.stored()["rejected_events"] == [(0, 17)]
    assert pipeline.unreconciled() == 0


def test_a_page_of_rejected_events_is_bounded_in_bytes(pipeline: Pipeline) -> None:
    sizes = [10, 400_000, 400_000, 400_000, 10, 10]
    pipeline.send_and_drain([b"x" * size for size in sizes])
    with pipeline.warehouse.session() as connection:
        events = RejectedEvents(connection)
        pages, after = [], (-1, -1, -1)
        while page := events.page(after=after, max_bytes=500_000):
            pages.append([event.offset for event in page])
            after = page[-1].coordinates
        assert pages == [[0, 1, 2], [3, 4, 5]]
        assert [event.offset for event in events.each()] == [0, 1, 2, 3, 4, 5]
    assert redriven(pipeline).examined == 6


# --- whatever is in an event ----------------------------------------------------------------------

_FIELDS = (
    *("id", "loan_amnt", "annual_inc", "dti", "int_rate", "revol_util", "delinq_2yrs"),
    *("earliest_cr_line", "issue_d", "event_time", "emp_length", "term", "purpose", "addr_state"),
)
_NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=80),
    st.sampled_from(
        [
            *("\x00", "a\x00b", "\ud800", "\udfff x", "NaN", "Infinity", "-Infinity", "1e999"),
            *("9" * 60, "-9223372036854775809", "1e308", "0.1e-400", "9999-12-31T23:59:59Z"),
            *("0001-01-01T00:00:00Z", "10000-01-01", "-0001-01-01", "2018-02-30", "Feb-0000"),
            *("2018-01-01T00:00:00+14:00", "2100-01-01T00:00:00-12:00", "1900-01-01T00:00+14:00"),
            *(2**31, 2**53 + 1, 2**63, -(2**63), 10**400, 1e-320, -0.0),
        ]
    ),
)


def fetch_of(values: Sequence[bytes | None], first: int = 0, keys: Any = None) -> Fetch:
    count = len(values)
    return Fetch(
        ranges=[OffsetRange(0, first, first + count)],
        partitions=np.zeros(count, np.int32),
        offsets=np.arange(first, first + count),
        timestamps=np.full(count, NOW_MS),
        keys=keys or [None] * count,
        values=list(values),
    )


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest) -> Any:
    """One warehouse for all examples: a migrated database, a source and a policy in it."""
    postgres = request.getfixturevalue("postgres")
    template = request.getfixturevalue("_template")
    postgres.create_database("unstorable", template)
    with psycopg.connect(postgres.uri("unstorable"), autocommit=True) as connection:
        connection.execute("SET search_path = credit_risk; SET timezone = 'UTC'")
        policy = load_policy(DEFAULT_POLICY)
        connection.execute("INSERT INTO sources (cluster_id, topic) VALUES ('c', 't')")
        (source,) = Sources(connection).all()
        yield connection, source, policy, register_policy(connection, policy)
    postgres.drop_database("unstorable")


@hypothesis.given(
    changes=st.lists(
        st.dictionaries(st.sampled_from(_FIELDS), _NASTY, max_size=4), min_size=1, max_size=6
    ),
    raw=st.lists(st.binary(max_size=60) | st.none(), max_size=3),
    keys=st.lists(st.binary(max_size=40) | st.none(), min_size=9, max_size=9),
)
def test_nothing_that_an_event_can_hold_stops_a_lane(
    opened: tuple[psycopg.Connection[Any], Source, Any, int],
    changes: list[dict[str, Any]],
    raw: list[bytes | None],
    keys: list[bytes | None],
) -> None:
    """Decoded, scored and committed into a real Postgres: each offset ends in one place, and, as
    the tables are made, none of them is unstorable."""
    connection, source, policy, policy_id = opened
    books = Ledger(connection)
    events: list[bytes | None] = [
        json.dumps(json.loads(good_event(i)) | change).encode() for i, change in enumerate(changes)
    ]
    values = [good_event(99), *events, *raw, good_event(100)]
    first = books.start_partitions(source.source_id, {0: 0})[0]
    fetch = fetch_of(values, first, (keys * 2)[: len(values)])
    assessment = assess(decode(fetch.values, fetch.keys), policy)
    committed = books.commit(
        *(source.source_id, policy_id, "run", 0, fetch, assessment, StageSeconds(0, 0, 0, None))
    )
    stored = committed.assessment
    assert len(stored.scored_at) + len(stored.rejected_at) == len(values)
    assert not {REASONS[code] for code in stored.reasons} & {*UNSTORABLE}
    (progress,) = books.progress(source.source_id)
    assert progress.next_offset == first + len(values)
