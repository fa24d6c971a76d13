"""`credit-risk topic`: what cannot be undone is refused, or asks first."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka import KafkaAdminClient

from resources.postgres.lanes import lock_partitions
from resources.postgres.sources import Sources
from tests.platform.commands import Run, error, one_line
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until

pytestmark = pytest.mark.usefixtures("servers")
ABANDON = ("--abandon", "--by", "Ada", "--why", "gone")
GIVEN_UP = "SELECT source_id, partition, first_offset, next_offset, why FROM abandoned_offsets"


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
    assert (forced.code, forced.out) == (
        0,
        "its 103 events are scored from now on; what was scored stays\n"
        f"topic {pipeline.kafka.topic} on cluster {cluster_id}: epoch 1\n",
    )
    assert pipeline.drain().scored == 103
    assert pipeline.offsets() == [(0, offset) for offset in range(103)]  # of the epoch before


def test_a_topic_of_which_nothing_is_committed_needs_no_epoch(pipeline: Pipeline, run: Run) -> None:
    line = one_line(run("topic", "new-epoch", "--force"))
    assert "was ever committed: the next run begins with its first offset" in line
    assert epochs(pipeline) == []


def test_a_new_epoch_reads_a_truncated_topic_anew_once(pipeline: Pipeline, run: Run) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(4)])
    truncate(pipeline)
    line = run("topic", "new-epoch").err.splitlines()[-1]  # after what was archived first
    assert "11 committed offsets of topic" in line
    assert "cannot be archived now, first 0 of partition 0: " in line
    assert epochs(pipeline) == [0]
    result = run("topic", "new-epoch", *ABANDON)
    assert result.code == 0
    assert result.out.endswith(": epoch 1\n")
    assert "11 committed offsets are in no archive, and given up by Ada" in result.out
    assert pipeline.query(GIVEN_UP) == [
        {"source_id": 1, "partition": 0, "first_offset": 0, "next_offset": 11, "why": "gone"}
    ]
    assert pipeline.drain().scored == 4
    assert "a new epoch would score its 4 events again" in one_line(run("topic", "new-epoch"))
    assert epochs(pipeline) == [0, 1]


def test_a_new_epoch_waits_for_the_run_that_drains(
    pipeline: Pipeline, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.postgres.lanes.HANDOVER_SECONDS", 0.1)
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
            wait_until(pipeline.somebody_waits, 20, "a run that waits for the lane")
            sources.new_epoch(pipeline.broker.inspect())
        report = waiting.result(30)
    assert report.ended == "a new epoch began while the run waited; the next run drains that"
    assert report.ranges == {}
    assert pipeline.drain().ranges == {0: (0, 10)}
    assert pipeline.unreconciled() == 0


def test_a_reset_says_what_goes_with_the_topic(pipeline: Pipeline, run: Run) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(4)])
    pipeline.send([good_event(i) for i in range(3)])
    topic = pipeline.kafka.topic
    asked = run("topic", "reset", stdin=b"n\n")
    assert (
        f"Delete topic {topic} on {pipeline.kafka.bootstrap_servers} with all its events, "
        "3 of them not scored?" in " ".join(asked.out.split())
    )
    assert pipeline.broker.inspect().end(0) == 7
    done = run("topic", "reset", "--yes")
    assert done.out.startswith(
        f"topic {topic} is empty, with 4 partitions; 3 of its events were not scored\n"
    )
    assert epochs(pipeline) == [0, 1]


def test_a_reset_archives_what_is_committed_first(pipeline: Pipeline, run: Run) -> None:
    """Or a month of the epoch before could never be dropped, and nobody would know."""
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    assert run("topic", "reset", "--yes").code == 0
    assert pipeline.offsets() == [(0, offset) for offset in range(10)]
    assert (epochs(pipeline), pipeline.query(GIVEN_UP)) == ([0, 1], [])
    pipeline.send_and_drain([good_event(1)])
    pipeline.archive()
    assert pipeline.account().problems == []


@pytest.mark.parametrize("asked", [["reset", "--yes"], ["new-epoch", "--force"]], ids=" ".join)
def test_what_cannot_be_archived_is_not_left_behind(
    pipeline: Pipeline, run: Run, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    monkeypatch.setenv("S3_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    line = one_line(run("topic", *asked))
    assert "10 committed offsets of topic" in line
    assert "does not answer" in line
    assert pipeline.broker.inspect().end(0) == 10
    assert epochs(pipeline) == [0]
    done = run("topic", *asked, *ABANDON)
    assert done.code == 0
    assert "10 committed offsets are in no archive, and given up by Ada" in done.out
    assert epochs(pipeline) == [0, 1]
    assert [row["next_offset"] for row in pipeline.query(GIVEN_UP)] == [10]


def test_a_topic_that_was_deleted_by_hand_is_reset_only_by_name(
    pipeline: Pipeline, run: Run
) -> None:
    pipeline.send_and_drain([good_event(i) for i in range(4)])
    admin = KafkaAdminClient(**pipeline.kafka.client_options())
    admin.delete_topics([pipeline.kafka.topic])
    admin.close()
    wait_until(lambda: "does not exist" in run("status").err, 20, "the topic is gone")
    assert "4 committed offsets of topic" in one_line(run("topic", "reset", "--yes"))
    assert epochs(pipeline) == [0]
    assert run("topic", "reset", "--yes", *ABANDON).code == 0
    assert epochs(pipeline) == [0, 1]
    assert [row["next_offset"] for row in pipeline.query(GIVEN_UP)] == [4]


def test_whoever_gives_up_says_who_and_why(run: Run) -> None:
    for command in (["reset", "--yes"], ["new-epoch"]):
        assert "--by has 0 characters" in one_line(run("topic", *command, "--abandon"))
        assert "--why has 0 characters" in one_line(
            run("topic", *command, "--abandon", "--by", "Ada")
        )
        assert "they need --abandon" in one_line(run("topic", *command, "--by", "Ada"))


def test_a_tail_that_an_older_source_left_is_told_until_it_is_given_up(
    pipeline: Pipeline, run: Run
) -> None:
    """As versions before left it: of an epoch, or of another cluster with that topic."""
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    with pipeline.warehouse.session() as connection:
        Sources(connection).new_epoch(pipeline.broker.inspect())
    pipeline.drain()
    pipeline.archive()
    (problem,) = pipeline.account().problems
    assert problem.startswith("source 1 (epoch 0 of ")
    assert "10 of offsets 0 to 9 were never archived: `credit-risk lost abandon`" in problem
    asked = ("lost", "abandon", "--by", "Ada", "--why", "gone")
    assert "10 of offsets 0 to 9" in run(*asked, "--dry-run").out
    assert pipeline.account().problems != []
    assert run(*asked).out.endswith("given up by Ada\n")
    assert pipeline.account().problems == []
    assert run(*asked).out == "nothing waits to be given up\n"


def test_topic_reset_asks_before_it_deletes(pipeline: Pipeline, run: Run) -> None:
    pipeline.send([good_event(1)])
    for answer in (b"n\n", b"\n", b""):
        refused = run("topic", "reset", stdin=answer)
        assert refused.code == 1
        assert f"Delete topic {pipeline.kafka.topic} on" in refused.out
        assert "Aborted" in refused.err
    assert pipeline.broker.inspect().end(0) == 1
    agreed = run("topic", "reset", stdin=b"y\n")
    assert agreed.code == 0
    assert pipeline.broker.inspect().end(0) == 0


def test_topic_reset_starts_over(pipeline: Pipeline, run: Run) -> None:
    pipeline.send([good_event(i) for i in range(3)])
    pipeline.drain()
    topic, cluster_id = pipeline.kafka.topic, pipeline.broker.inspect().cluster_id
    done = run("topic", "reset", "--yes")  # on stderr is what was archived
    assert (done.code, done.out) == (
        0,
        f"topic {topic} is empty, with 4 partitions\ntopic {topic} on cluster {cluster_id}: "
        "epoch 1\n",
    )
    pipeline.send([good_event(i) for i in range(2)])
    pipeline.drain()
    found = json.loads(run("status", "--json").out)
    assert (found["epoch"], found["partitions"][0]["scored"]) == (1, 2)
    assert len(pipeline.stored()["scored_applications"]) == 5  # what was scored stays
