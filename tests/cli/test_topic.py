"""`credit-risk topic`: what cannot be undone is refused, or asks first."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from resources.postgres.lanes import lock_partitions
from resources.postgres.sources import Sources
from tests.cli.test_main import Result, Run, error, one_line, run
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

__all__ = ["run"]
pytestmark = pytest.mark.usefixtures("servers")


def epochs(pipeline: Pipeline) -> list[int]:
    return [row["epoch"] for row in pipeline.query("SELECT epoch FROM sources ORDER BY epoch")]


def truncate(pipeline: Pipeline) -> None:
    """As if more had been committed than the topic has now."""
    pipeline.query(
        "UPDATE stream_offsets SET next_offset = next_offset + 7, scored = scored + 7"
        " WHERE partition = 0 RETURNING 1"
    )


def test_a_new_epoch_of_a_healthy_topic_is_refused(pipeline: Pipeline, run: Run) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(100)])
    pipeline.send([good_event(i) for i in range(3)])
    cluster_id = pipeline.broker.inspect().cluster_id
    refused = error(
        f"topic {pipeline.kafka.topic} on cluster {cluster_id} is the one of which 100 offsets are "
        "committed: a new epoch would score its 103 events again. Nothing was changed; --force "
        "does it all the same"
    )
    assert [run("topic", "new-epoch") for _ in range(2)] == [refused] * 2
    assert epochs(pipeline) == [0]
    assert pipeline.drain().scored == 3
    forced = run("topic", "new-epoch", "--force")
    assert forced == Result(
        0,
        "its 103 events are scored from now on; what was scored stays\n"
        f"topic {pipeline.kafka.topic} on cluster {cluster_id}: epoch 1\n",
        "",
    )
    assert pipeline.drain().scored == 103


def test_a_topic_of_which_nothing_is_committed_needs_no_epoch(pipeline: Pipeline, run: Run) -> None:
    line = one_line(run("topic", "new-epoch", "--force"))
    assert "was ever committed: the next run begins with its first offset" in line
    assert epochs(pipeline) == []


def test_a_new_epoch_reads_a_truncated_topic_anew_once(pipeline: Pipeline, run: Run) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(4)])
    truncate(pipeline)
    result = run("topic", "new-epoch")
    assert result.code == 0
    assert result.out.endswith(": epoch 1\n")
    assert pipeline.drain().scored == 4
    assert "a new epoch would score its 4 events again" in one_line(run("topic", "new-epoch"))
    assert epochs(pipeline) == [0, 1]


def test_a_new_epoch_waits_for_the_run_that_drains(
    pipeline: Pipeline, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("credit_risk_dagster.pipelines.epochs.HANDOVER_SECONDS", 0.1)
    monkeypatch.setenv("CREDIT_RISK_SESSION_SECONDS", "0.3")
    pipeline.send_and_drain([good_event(1)])
    with pipeline.warehouse.session("holder") as holder:
        (source,) = Sources(holder).all()
        lock_partitions(holder, source.source_id, [0], 1)
        for command in (["new-epoch", "--force"], ["reset", "--yes"]):
            assert "another run held partition 0" in one_line(run("topic", *command))
    assert epochs(pipeline) == [0]
    assert pipeline.broker.inspect().end(0) == 1


def test_a_run_that_waited_while_an_epoch_began_commits_nothing_to_the_old_one(
    pipeline: Pipeline,
) -> None:
    """Or the events would be in both."""
    pipeline.send_and_drain([good_event(i) for i in range(5)])
    with ThreadPoolExecutor(1) as pool:
        with pipeline.warehouse.session("holder") as holder:
            sources = Sources(holder)
            (source,) = sources.all()
            lock_partitions(holder, source.source_id, range(4), 1)
            pipeline.send([good_event(i) for i in range(5)])
            waiting = pool.submit(pipeline.drain)
            wait_until(lambda: pipeline.query(_WAITS), 20, "a run that waits for the lane")
            sources.new_epoch(pipeline.broker.inspect())
        report = waiting.result(30)
    assert report.ended == "a new epoch began while the run waited; the next run drains that"
    assert report.ranges == {}
    assert pipeline.drain().ranges == {0: (0, 10)}
    assert pipeline.unreconciled() == 0


_WAITS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_a_reset_says_what_goes_with_the_topic(pipeline: Pipeline, run: Run) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(4)])
    pipeline.send([good_event(i) for i in range(3)])
    topic = pipeline.kafka.topic
    asked = run("topic", "reset", stdin=b"n\n")
    assert (
        f"Delete topic {topic} on {pipeline.kafka.bootstrap_servers} with all its events, "
        "3 of them not scored, 4 of them not archived?" in " ".join(asked.out.split())
    )
    assert pipeline.broker.inspect().end(0) == 7
    done = run("topic", "reset", "--yes")
    assert done.out.startswith(
        f"topic {topic} is empty, with 4 partitions; 3 of its events were not scored\n"
    )
    assert epochs(pipeline) == [0, 1]
