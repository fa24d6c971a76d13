"""The figures of reviews, and their report: counted in Postgres, put on S3, told to a webhook."""

import io
import re
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from credit_risk_dagster.domain.model.outcome import load_outcome
from credit_risk_dagster.domain.outcomes import Observation
from credit_risk_dagster.pipelines.reviews import TurnedOut, review_figures, turned_out
from resources.postgres.outcomes import Outcomes
from tests.assets_src.test_drift import metadata, run_job
from tests.pipelines.test_cases import act
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.webhook import webhook

pytestmark = pytest.mark.usefixtures("servers")


def reviewed(pipeline: Pipeline) -> None:
    """Eight cases: 1 to 4 closed and with outcomes, 4 opened again, 6 overdue, 7 a week old."""
    pipeline.send_and_drain([good_event(number) for number in range(1, 9)])
    for case_id, disposition, reason in (
        (1, "confirmed", "debt_burden"),
        (2, "false_positive", "data_error"),
        (3, "override_down", "new_information"),
        (4, "escalated", "legal"),
    ):
        what = {"disposition": disposition, "reason_code": reason}
        act(pipeline, case_id, 1, "close", "<ada>", **what)
    act(pipeline, 4, 2, "reopen", "bo", note="again")
    act(pipeline, 5, 1, "start", "bo")
    pipeline.query(
        "UPDATE cases SET due_at = now() - interval '1 hour' WHERE case_id = 6 RETURNING 1"
    )
    pipeline.query(
        "UPDATE cases SET opened_at = now() - interval '8 days' WHERE case_id = 7 RETURNING 1"
    )
    when = datetime(2018, 6, 1, tzinfo=UTC)
    with pipeline.warehouse.session() as connection:
        Outcomes(connection).add(
            Observation(str(loan), when, status, None, None, None, "test")
            for loan, status in ((1, "Charged Off"), (2, "Current"), (3, "Current"))
        )


def test_what_is_counted(pipeline: Pipeline) -> None:
    reviewed(pipeline)
    outcome = load_outcome("early_delinquency")
    now = datetime.now(UTC)
    with pipeline.warehouse.session() as connection:
        found = review_figures(connection, since=now - timedelta(days=2), zone="UTC")
        today = review_figures(connection, since=now, closed_since=now.date())
        later = review_figures(connection, since=now, closed_since=now.date() + timedelta(days=2))
        loans = turned_out(connection, outcome)
    every, *rules = found.precisions
    assert (every.rule, every.right, every.wrong, every.undecided) == ("", 1, 2, 0)
    assert {(p.rule, p.right, p.wrong) for p in rules} == {
        ("DTI>=30", 1, 2),
        ("REVOL_UTIL>=80", 1, 2),
        ("DELINQ_2YRS>0", 1, 2),
    }
    assert [age.cases for age in found.ages] == [4, 0, 0, 1]
    assert [age.unassigned for age in found.ages] == [3, 0, 0, 1]
    assert (found.open, found.overdue) == (5, 1)
    assert [(day.opened, day.reopened, day.closed) for day in found.days][-1] == (7, 1, 4)
    assert len(found.days) == 3
    assert [(o.of, o.closed, o.down) for o in found.by_reviewer] == [("<ada>", 3, 1)]
    assert today.precisions == found.precisions
    assert later.precisions == []
    assert [(r.of, r.loans, r.bads) for r in loans.bad_rates[:2]] == [
        ("not overridden", 2, 1),
        ("overridden", 1, 0),
    ]
    assert loans.without_outcome == 0


def test_the_report_is_a_page_and_a_message(
    pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = run_job(instance, "report_reviews")
    assert empty.success
    assert "none is closed yet" in metadata(empty, "review_report")["summary"].value
    reviewed(pipeline)
    with webhook() as hook:
        monkeypatch.setenv("CREDIT_RISK_ALERT_WEBHOOK_URL", hook.url)
        done = run_job(instance, "report_reviews")
    found = metadata(done, "review_report")
    key = str(found["page"].value)
    assert re.fullmatch(r"reports/reviews/dt=\d{4}-\d\d-\d\d/[\dT.-]+Z\.html", key)
    html = io.BytesIO()
    pipeline.lake.get(key, html)
    page = html.getvalue().decode()
    assert "<td>&lt;ada&gt;</td><td>3</td>" in page
    assert "33.3 % (95 %: 6.1 to 79.2)" in page
    assert "too few to tell" in page
    assert not re.search(r"(src|href)=.?http", page)
    (report,) = pipeline.query(
        "SELECT document FROM risk_reports WHERE kind = 'reviews' ORDER BY report_id DESC LIMIT 1"
    )
    with pipeline.warehouse.session() as connection:
        loans = turned_out(connection, load_outcome("early_delinquency"))
    assert repr(TurnedOut.of(report["document"])) == repr(loans)  # NaN is in it, too
    of_before = TurnedOut.of({"bad_rates": report["document"]["bad_rates"]})
    assert of_before.bad_rates[0] == loans.bad_rates[0]
    (told,) = hook.posts
    assert told["kind"] == "review_report"
    assert told["text"].endswith(f"Page: {key}")
    assert "7 cases opened, 4 closed; 5 wait, 1 of them overdue" in told["text"]
    assert (found["webhook"].value, found["open"].value) == ("told", 5)


def test_what_takes_no_page_or_message_is_noted(
    pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_BUCKET", "no-such-bucket")
    with webhook(400) as hook:
        monkeypatch.setenv("CREDIT_RISK_ALERT_WEBHOOK_URL", hook.url)
        done = run_job(instance, "report_reviews")
    assert done.success
    found = metadata(done, "review_report")
    assert str(found["page"].value).startswith("none: ")
    assert "answers 400" in str(found["webhook"].value)
    assert len(hook.posts) == 1
