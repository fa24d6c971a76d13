"""A case for each loan on the Watchlist: opened by who decides, and changed by one at a time."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from credit_risk_dagster.domain.cases import AGES
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.settings import DEFAULT_POLICY
from resources.postgres.cases import CaseChanged, CaseMissing, CaseRefused, Cases, Wanted
from resources.postgres.forgetting import Forgettings
from resources.postgres.metrics import _CASES
from tests.pipelines.test_rebuild import run as rebuild
from tests.platform.commands import Run
from tests.platform.pipeline import Pipeline, good_event

LOW = good_event(9).replace(b'"dti": 35.5', b'"dti": 5.5').replace(b"81.2%", b"1%")
NO_ID = good_event(1).replace(b'"id": 1, ', b"")


def cases(pipeline: Pipeline) -> list[dict[str, Any]]:
    return pipeline.query("SELECT * FROM cases ORDER BY case_id")


def act(pipeline: Pipeline, case_id: int, version: int, action: str, who: str, **what: Any) -> int:
    with pipeline.warehouse.session() as connection:
        return Cases(connection).act(case_id, version, action, who, **what)


def close(pipeline: Pipeline, case_id: int = 1, version: int = 1, who: str = "ada") -> int:
    what = {"disposition": "confirmed", "reason_code": "debt_burden"}
    return act(pipeline, case_id, version, "close", who, **what)


def test_a_loan_on_the_watchlist_opens_a_case_and_joins_it(pipeline: Pipeline) -> None:
    pipeline.send([good_event(1), LOW, good_event(2), good_event(1)])
    pipeline.send([NO_ID, NO_ID], partition=1, key=None)  # type: ignore[arg-type]
    pipeline.drain(case_sla_hours=24)
    first, second, *nameless = sorted(cases(pipeline), key=lambda case: case["loan_id"] or "3")
    assert (first["loan_id"], first["decisions"], first["state"]) == ("1", 2, "open")
    assert (first["due_at"] - first["opened_at"]).total_seconds() == 86_400
    assert first["priority"] == 10_000 * 0.2
    assert first["reasons"] == ["DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0"]
    assert (second["loan_id"], second["decisions"]) == ("2", 1)
    assert [case["loan_id"] for case in nameless] == [None, None]
    pipeline.send_and_drain([good_event(2).replace(b'"loan_amnt": 10000', b'"loan_amnt": 20000')])
    (again,) = (case for case in cases(pipeline) if case["loan_id"] == "2")
    assert (again["decisions"], again["priority"], again["version"]) == (2, 4_000, 1)
    assert again["opened_at"] == second["opened_at"] < again["decided_at"]
    close(pipeline, first["case_id"])
    pipeline.send_and_drain([good_event(1)])
    assert [case["state"] for case in cases(pipeline) if case["loan_id"] == "1"] == [
        "closed",
        "open",
    ]


def test_a_redrive_opens_cases_and_a_rebuild_none(
    pipeline: Pipeline, warehouse_settings: Any
) -> None:
    pipeline.send_and_drain([b'{"id": 1}'])
    assert cases(pipeline) == []
    pipeline.query("UPDATE rejected_events SET value = %(event)s RETURNING 1", event=good_event(1))
    redrive(pipeline.warehouse, load_policy(DEFAULT_POLICY), run_id="again")
    assert [case["loan_id"] for case in cases(pipeline)] == ["1"]
    pipeline.send_and_drain([good_event(2)])
    pipeline.archive()
    rebuild(pipeline, warehouse_settings)
    assert pipeline.query("SELECT FROM rebuilt.cases") == []


def test_two_lanes_share_a_loans_case(pipeline: Pipeline) -> None:
    for partition in (0, 1):
        pipeline.send([good_event(n) for n in range(200)][:: 1 - 2 * partition], partition)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda lane: pipeline.drain(lanes=2, lane=lane), range(2)))
    assert [case["decisions"] for case in cases(pipeline)] == [2] * 200


def test_two_reviewers_cannot_close_one_case(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(1)])
    with ThreadPoolExecutor(2) as pool:
        tried = [pool.submit(close, pipeline, who=who) for who in ("ada", "bo")]
    errors = [future.exception() for future in tried]
    assert {type(error) for error in errors} == {CaseChanged, type(None)}
    winner = "ada" if errors[0] is None else "bo"
    (said,) = filter(None, errors)
    assert f"case 1 was changed by {winner} at " in str(said)
    assert "UTC and is closed now: look at it again" in str(said)
    assert cases(pipeline)[0]["closed_by"] == winner


def test_a_case_and_its_history(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(1), good_event(2)])
    version = act(pipeline, 1, 1, "assign", "ada", assignee=" bo ")
    version = act(pipeline, 1, version, "start", "bo")
    version = act(pipeline, 1, version, "note", "cy", note="<b>called</b>")
    version = close(pipeline, 1, version, "bo")
    with pytest.raises(CaseRefused, match="case 1 is closed"):
        act(pipeline, 1, version, "start", "ada")
    with pytest.raises(CaseRefused, match="reopen of case 1 needs a note"):
        act(pipeline, 1, version, "reopen", "ada", note=" ")
    pipeline.send_and_drain([good_event(1)])
    with pytest.raises(CaseRefused, match="another case that is open"):
        act(pipeline, 1, version, "reopen", "ada", note="why not")
    close(pipeline, 3)
    act(pipeline, 1, version, "reopen", "ada", note="new papers")
    with pipeline.warehouse.session() as connection:
        history = Cases(connection).history(1)
        case = Cases(connection).one(1)
        queue = Cases(connection).page(Wanted(state="open"), limit=10)
        after = Cases(connection).page(Wanted(state="open"), limit=1, after=queue[0].case_id)
        nobodys = Cases(connection).page(Wanted(assignee="", loan_id="2"), limit=10)
        with pytest.raises(CaseMissing, match="there is no case 99"):
            Cases(connection).one(99)
    assert [(e.action, e.who, e.state, e.version) for e in history] == [
        ("assign", "ada", "open", 2),
        ("start", "bo", "in_review", 3),
        ("note", "cy", "in_review", 4),
        ("close", "bo", "closed", 5),
        ("reopen", "ada", "open", 6),
    ]
    assert (case.assignee, case.disposition, case.closed_at) == (None, None, None)
    # As long as at first, also when it was open for a month meanwhile, and nobody's from now on.
    pipeline.query(
        "UPDATE cases SET opened_at = opened_at - interval '30 days' WHERE case_id = 1 RETURNING 1"
    )
    version = close(pipeline, 1, case.version)
    act(pipeline, 1, version, "reopen", "ada", note="again")
    (waits,) = pipeline.query(
        "SELECT round(extract(epoch FROM due_at - now()) / 3600) AS hours FROM cases"
        " WHERE case_id = 1"
    )
    assert waits == {"hours": 72}
    with pipeline.warehouse.session() as connection:
        oldest = connection.execute(_CASES, {"edges": list(AGES)}).fetchall()
    assert min(row[-1] for row in oldest if not row[1]) > time.time() - 3600
    assert {c.case_id for c in queue} == {1, 2}
    assert after == queue[1:]
    assert [c.case_id for c in nobodys] == [2]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"disposition": "right", "reason_code": "other"}, "is closed as one of confirmed, "),
        ({"disposition": "escalated"}, "escalated has one of the reasons fraud_suspected, "),
        ({"disposition": "confirmed", "reason_code": "legal"}, "has one of the reasons debt_"),
    ],
)
def test_dispositions_are_coded(pipeline: Pipeline, what: dict[str, str], said: str) -> None:
    pipeline.send_and_drain([good_event(1)])
    with pytest.raises(CaseRefused, match=said):
        act(pipeline, 1, 1, "close", "ada", **what)
    with pytest.raises(CaseMissing, match="there is no case 2"):
        close(pipeline, 2)
    assert cases(pipeline)[0]["version"] == 1


def test_a_loan_that_is_forgotten_takes_its_cases(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(12345), good_event(2)])
    act(pipeline, 1, 1, "note", "ada", note="12345 called")
    act(pipeline, 2, 1, "note", "ada", note="see 12345, and 123456")
    with pipeline.warehouse.session() as connection:
        done = Forgettings(connection).forget("12345", [], "dpo", "asked")
    assert done
    assert (done.scored, done.reviews, done.mentions) == (1, 1, 1)
    assert [case["loan_id"] for case in cases(pipeline)] == ["2"]
    assert pipeline.query("SELECT note FROM case_events") == [
        {"note": "see [forgotten], and 123456"}
    ]
    assert pipeline.unreconciled() == 0


@pytest.mark.usefixtures("servers")
def test_what_was_flagged_before_there_were_cases_gets_one(pipeline: Pipeline, run: Run) -> None:
    pipeline.send([NO_ID], key=None)  # type: ignore[arg-type]
    pipeline.send_and_drain([good_event(1), good_event(2), LOW])
    pipeline.send_and_drain([good_event(1)])
    pipeline.query("WITH gone AS (DELETE FROM cases RETURNING 1) SELECT FROM gone")
    pipeline.send_and_drain([good_event(2)])
    (open_one,) = cases(pipeline)
    assert run("cases", "open", "--since", "2099-01-01").out == "0 cases opened\n"
    assert run("cases", "open").out == "2 cases opened\n"
    found = {case["loan_id"]: case for case in cases(pipeline)}
    assert {loan: case["decisions"] for loan, case in found.items()} == {"1": 2, "2": 1, None: 1}
    assert found["2"] == open_one
    assert found["1"]["reasons"] == ["DELINQ_2YRS>0", "DTI>=30", "REVOL_UTIL>=80"]
    assert found["1"]["decided_at"] < found["1"]["opened_at"] < found["1"]["due_at"]
    close(pipeline, found["1"]["case_id"])
    assert run("cases", "open").out == "0 cases opened\n"
    pipeline.send_and_drain([good_event(1)])  # joins none that is closed
    assert len(cases(pipeline)) == 4


@pytest.mark.usefixtures("servers")
def test_of_several_days_the_newest_decision_opens_and_done_work_stays_done(
    pipeline: Pipeline, run: Run
) -> None:
    for amount, days in ((5_000, 4), (20_000, 0)):
        event = good_event(1).replace(b'"loan_amnt": 10000', b'"loan_amnt": %d' % amount)
        pipeline.send_and_drain([event])
        pipeline.query(
            "UPDATE scored_applications SET scored_at = scored_at - %(days)s * interval '1 day'"
            " WHERE loan_amnt = %(amount)s RETURNING 1",
            days=days,
            amount=amount,
        )
    pipeline.query("WITH gone AS (DELETE FROM cases RETURNING 1) SELECT FROM gone")
    assert run("cases", "open").out == "1 case opened\n"
    (case,) = cases(pipeline)
    assert (case["loan_amnt"], case["priority"]) == (20_000, 4_000)
    close(pipeline, case["case_id"])
    assert run("cases", "open").out == "0 cases opened\n"


def test_reviews_of_before_are_in_the_history_of_a_case(pipeline: Pipeline) -> None:
    pipeline.send([NO_ID], key=None)  # type: ignore[arg-type]
    pipeline.send_and_drain([good_event(1), LOW])
    (key, low, nameless) = pipeline.query(
        'SELECT source_id, partition, "offset", loan_id FROM scored_applications ORDER BY loan_id'
    )
    gone = key | {"offset": 99, "loan_id": "gone"}
    close(pipeline, next(c["case_id"] for c in cases(pipeline) if c["loan_id"] is None))
    for number, review in enumerate((key, key, low, nameless, gone)):
        pipeline.query(
            'WITH r AS (INSERT INTO application_reviews (source_id, partition, "offset", loan_id,'
            " reviewer, note, reviewed_at, db_role) VALUES (%(source_id)s, %(partition)s,"
            " %(offset)s, %(loan_id)s, %(who)s, 'a note', now() - interval '3 days', 'reader')"
            " RETURNING application_reviews) SELECT review_of_a_case(r.application_reviews) FROM r",
            **review,
            who=f"r{number}",
        )
    events = pipeline.query(
        "SELECT coalesce(loan_id, '-') AS loan, who, action, e.state, e.assignee, e.version,"
        " db_role FROM case_events e JOIN cases USING (case_id) WHERE who LIKE 'r_'"
        " ORDER BY event_id"
    )
    assert [(*event.values(),) for event in events] == [
        ("1", "r0", "start", "in_review", "r0", 2, "reader"),
        ("1", "r1", "note", "in_review", "r0", 3, "reader"),
        ("9", "r2", "start", "in_review", "r2", 2, "reader"),
        ("-", "r3", "note", "closed", "ada", 3, "reader"),
        ("gone", "r4", "start", "in_review", "r4", 2, "reader"),
    ]
    assert [case["loan_amnt"] for case in cases(pipeline)] == [10_000, 10_000, 10_000, 0]
