"""What the demo says when nothing is scored, and what it does about the demo before."""

import io
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from credit_risk_dagster.pipelines.archive_check import check_archive
from credit_risk_dagster.pipelines.producer import Produced
from infra.embedded import demo
from infra.embedded.stack import Stack
from resources.postgres.abandoned import AbandonedOffsets
from resources.postgres.sources import Sources
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until


def test_events_that_nobody_scores_are_told_and_end_only_who_does_not_wait(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo on a terminal ended because its machine was busy for 90 s."""
    monkeypatch.setattr(demo, "_STALL_SECONDS", 0.0)
    monkeypatch.setattr(demo, "_REFRESH_SECONDS", 0.05)
    pipeline.send([good_event(1)])
    sent: Future[Produced] = Future()
    sent.set_result(Produced(1, 1, 0.1))
    said = io.StringIO()
    console = Console(file=said, force_terminal=False)
    with pipeline.warehouse.session("demo") as connection, ThreadPoolExecutor(1) as pool:
        source = Sources(connection).register(pipeline.broker.inspect())
        impatient = demo._View(console, connection, source, patient=False)
        impatient.sent = 1
        with pytest.raises(demo.NothingHappens, match="1 event was sent and not scored"):
            impatient.follow(sent, 1)
        patient = demo._View(console, connection, source, patient=True)
        patient.sent = 1
        following = pool.submit(patient.follow, sent, 1)
        wait_until(lambda: "warning: 1 event was sent" in said.getvalue(), 20, "a warning")
        pipeline.drain()
        following.result(20)
        patient.say_farewell(pipeline.warehouse, Stack(tmp_path), 7_000)
    assert "sent 1   scored 1   rejected 0   waiting 0" in said.getvalue()
    assert "7,001 applications of this demo" in said.getvalue()


def test_the_archive_does_not_wait_for_the_topic_of_an_earlier_demo(pipeline: Pipeline) -> None:
    """Each demo has a new broker, and on its second start `archive_complete` failed for the first
    one's topic."""
    pipeline.send_and_drain([good_event(i) for i in range(10)])
    pipeline.query("UPDATE sources SET cluster_id = 'of an earlier demo' RETURNING 1")
    with pipeline.warehouse.session("demo") as connection:
        Sources(connection).register(pipeline.broker.inspect())
        (tail,) = AbandonedOffsets(connection).waiting()
        assert tail.events == 10
        newest = demo.new_source(connection, pipeline.kafka)
        assert AbandonedOffsets(connection).waiting() == []
        assert check_archive(pipeline.warehouse, pipeline.lake, newest).problems == []
    (given_up,) = pipeline.query("SELECT source_id, abandoned_by, why FROM abandoned_offsets")
    assert (given_up["source_id"], given_up["abandoned_by"]) == (tail.source_id, "demo")
    assert "in memory" in given_up["why"]
