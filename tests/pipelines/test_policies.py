"""The life of a policy, and which one decides on the stream: real Postgres and broker."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from credit_risk_dagster.domain.policy import Policy, PolicyError, load_policy
from credit_risk_dagster.pipelines import experiments, modelling, policies
from credit_risk_dagster.pipelines.drain import DrainReport, drain
from credit_risk_dagster.settings import DEFAULT_POLICY, DrainSettings
from resources.postgres.approvals import Approvals, NotInOrder
from resources.postgres.lanes import is_awaited, lock_partitions
from resources.postgres.sources import Sources
from tests.pipelines.approvals import DEFAULT, approved, named, started, stored_policy
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

WITHIN_SECONDS = 5.0
USED = """
SELECT name FROM batches JOIN policies USING (policy_id) WHERE scored > 0 ORDER BY batch_id DESC
"""


@contextmanager
def flowing(pipeline: Pipeline) -> Iterator["Future[DrainReport]"]:
    """One session of the drain, and a stream into it until the end of the block."""
    stop = threading.Event()

    def send() -> None:
        for number in count(0, 5):
            pipeline.send([good_event(number + at) for at in range(5)])
            if stop.wait(0.1):
                return

    with ThreadPoolExecutor(2) as threads:
        sending = threads.submit(send)
        session = threads.submit(pipeline.drain, "one run", idle_seconds=1.0)
        try:
            yield session
        finally:
            stop.set()
        sending.result()
        session.result()


def used(pipeline: Pipeline) -> str | None:
    """The policy of the newest batch."""
    rows = pipeline.query(USED)
    return rows[0]["name"] if rows else None


def newest(pipeline: Pipeline) -> dict[str, bool]:
    """Whether the rows of the newest batch have arms, and differences beside: a minute's."""
    (row,) = pipeline.query(
        "SELECT (SELECT bool_or(arm IS NOT NULL) FROM scored_applications"
        " WHERE batch_id = (SELECT max(batch_id) FROM batches WHERE scored > 0)) AS dealt,"
        " EXISTS (SELECT FROM shadow_by_minute) AS beside"
    )
    return row


def starts(connection: Any, pipeline: Pipeline, expected: dict[str, bool], **given: Any) -> int:
    """Start an experiment and wait until the session has taken it up; its id."""
    begun = time.monotonic()
    found = started(connection, **given)
    what = {"beside": False, **expected}
    wait_until(lambda: newest(pipeline) == what, 30, "it runs", every=0.05)
    assert time.monotonic() - begun < WITHIN_SECONDS
    return found


def test_an_activation_takes_effect_in_a_running_session(pipeline: Pipeline, ready: int) -> None:
    with pipeline.warehouse.session() as connection, flowing(pipeline) as session:
        wait_until(lambda: used(pipeline) == DEFAULT.name, 30, "the first policy decides")
        second = approved(connection, "policy", stored_policy(connection, "second"))
        approved(connection, "model", ready)

        def within(name: str) -> None:
            since = time.monotonic()
            wait_until(lambda: used(pipeline) == name, 30, f"{name} decides", every=0.05)
            assert time.monotonic() - since < WITHIN_SECONDS

        policies.activate(connection, second, "agreed")
        within("second")
        modelling.activate(pipeline.warehouse, ready, "agreed")
        policies.roll_back(connection, "too many are flagged")
        within(DEFAULT.name)
        soon = datetime.now(UTC) + timedelta(seconds=1)
        policies.activate(connection, second, "again", soon)
        within("second")
        # A challenger that is the champion, too: the rows below name one policy each.
        split = starts(connection, pipeline, {"dealt": True}, policy_id=second, share=50)
        starts(connection, pipeline, {"dealt": True, "beside": True}, policy_id=second)
        experiments.stop(connection, split, "seen")
        wait_until(lambda: newest(pipeline) == {"dealt": False, "beside": True}, 5, "no arms")
        assert not session.done()
    report = session.result()
    short = DEFAULT.version
    assert report.policy == ", ".join([short, named("second").version] * 2)
    assert report.model
    assert pipeline.query("SELECT DISTINCT run_id FROM batches") == [{"run_id": "one run"}]
    rows = pipeline.query(
        "SELECT s.policy_id = b.policy_id AS same, bool_or(pd IS NOT NULL) AS pd, count(*) AS n"
        " FROM scored_applications s JOIN batches b USING (batch_id) GROUP BY 1"
    )
    assert [(row["same"], row["pd"]) for row in rows] == [(True, True)]
    assert rows[0]["n"] == report.scored
    # A row that was scored after an activation, but for the seconds that it may take, names it.
    late = pipeline.query(
        "SELECT count(*) AS n FROM scored_applications s LEFT JOIN activations a ON kind ="
        " 'policy' AND subject_id = policy_id AND scored_at >= effective_from"
        " AND (effective_to IS NULL OR scored_at < effective_to + interval '5 s')"
        " WHERE subject_id IS NULL"
    )
    assert late == [{"n": 0}]
    assert pipeline.unreconciled() == 0


def test_what_is_activated_while_a_successor_waits_decides_its_first_event(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credit_risk_dagster.pipelines.deciders.LOOK_AGAIN_SECONDS", 0.0)
    pipeline.send([good_event(1)])
    pipeline.drain()
    with pipeline.warehouse.session("holder") as holder, ThreadPoolExecutor(1) as threads:
        (source,) = Sources(holder).all()
        lock_partitions(holder, source.source_id, [0], 1)
        waiting = threads.submit(pipeline.drain)
        wait_until(lambda: is_awaited(holder, source.source_id, [0]), 30, "it waits")
        second = approved(holder, "policy", stored_policy(holder, "second"))
        policies.activate(holder, second, "agreed")
        pipeline.send([good_event(2)])
        holder.execute("SELECT pg_advisory_unlock_all()")
        report = waiting.result()
    assert (used(pipeline), report.scored) == ("second", 1)
    assert report.policy == named("second").version


def test_a_policy_that_cannot_be_loaded_activates_nothing(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.send_and_drain([good_event(1)])
    with pipeline.warehouse.session() as connection:
        (row,) = connection.execute(
            "INSERT INTO policies (name, content_hash, document)"
            " VALUES ('bad', 'x', '{\"rules\": 1}') RETURNING policy_id"
        ).fetchall()
        bad = approved(connection, "policy", row[0])
        with pytest.raises(PolicyError, match=r"policy 2 \(bad@x\) is not valid: name: is missing"):
            policies.activate(connection, bad, "agreed")
        Approvals(connection, "policy").record(bad, "activate", "by hand")
    with caplog.at_level(logging.WARNING):
        pipeline.send_and_drain([good_event(2)])
    assert used(pipeline) == DEFAULT.name
    assert "the active policy cannot be loaded, the one before goes on: policy 2" in caplog.text


def drained(pipeline: Pipeline, policy: Policy) -> DrainReport:
    pipeline.send([good_event(1)])
    return drain(
        pipeline.broker,
        pipeline.warehouse,
        policy,
        DrainSettings(idle_seconds=0.3, poll_interval_ms=50),
        run_id="run",
        log=logging.getLogger("test"),
    )


def test_the_file_is_the_first_policy_and_one_to_try(pipeline: Pipeline) -> None:
    v1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
    assert drained(pipeline, v1).policy_note == ""
    (first,) = pipeline.query("SELECT * FROM approvals")
    assert (first["action"], first["why"]) == ("activate", "The first policy of an empty database")
    assert drained(pipeline, DEFAULT).policy == v1.version  # the built-in one goes before none
    tried = drained(pipeline, named("tried"))
    assert tried.policy == named("tried").version
    assert "CREDIT_RISK_POLICY_FILE (tried@" in tried.policy_note
    assert f"the active policy is 1 ({v1.version})" in tried.policy_note
    with pipeline.warehouse.session() as connection:
        third = approved(connection, "policy", stored_policy(connection, "third"))
        policies.activate(connection, third, "agreed")
        assert [life.state for life in policies.lives(connection)] == ["active", "used", "retired"]
    assert drained(pipeline, v1).policy == named("third").version


def test_what_is_not_in_order(pipeline: Pipeline) -> None:
    pipeline.send_and_drain([good_event(1)])
    with pipeline.warehouse.session() as connection:
        with pytest.raises(NotInOrder, match="nothing to go back to"):
            policies.roll_back(connection, "why")
        given = policies.submit(connection, named("second"), "fewer losses")
        with pytest.raises(NotInOrder, match="postgres submitted policy 2 and cannot approve it"):
            policies.approve(connection, "policy", given.subject_id, "mine")
        with pytest.raises(NotInOrder, match="say why"):
            policies.submit(connection, named("third"), " ")
        with pytest.raises(NotInOrder, match="2020-01-01 00:00:00 UTC is over"):
            policies.activate(connection, 1, "x", datetime(2020, 1, 1, tzinfo=UTC))
        assert policies.chosen(connection, "second").stored.policy_id == given.subject_id
        with pytest.raises(policies.PlatformError, match="there is no policy 'fourth'"):
            policies.chosen(connection, "fourth")


def test_a_right_is_a_roles(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDIT_RISK_ROLES", "submit: ada; approve: bo")
    with (
        pipeline.warehouse.session() as connection,
        pytest.raises(policies.NotPermitted, match="role postgres may not submit"),
    ):
        policies.submit(connection, named("second"), "fewer losses")
    monkeypatch.setenv("CREDIT_RISK_ROLES", "submit: pg_read_all_data")  # of which it is a member
    with pipeline.warehouse.session() as connection:
        policies.submit(connection, named("second"), "fewer losses")
