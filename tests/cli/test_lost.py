"""`credit-risk lost`: what the broker removed, and who knows of it."""

import json
from dataclasses import replace

import pytest

from tests.platform.commands import Run, error
from tests.platform.pipeline import Pipeline, good_event


@pytest.mark.usefixtures("servers")
def test_lost_events_are_listed_until_somebody_acknowledges_them(
    pipeline: Pipeline, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("lost", "acknowledge", "--by", "ada").out == (
        "no lost event waits to be acknowledged\n"
    )
    pipeline.send_and_drain([good_event(i) for i in range(3)])
    pipeline.send([good_event(i) for i in range(9)])
    state = pipeline.broker.inspect()
    moved = replace(state, offsets={**state.offsets, 0: (8, 12)})
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.broker, "inspect", lambda *_: moved)
        pipeline.drain()

    assert json.loads(run("status", "--json").out)["lost_unacknowledged"] == 5
    assert "5 events are lost, and nobody acknowledged it: `credit-risk lost ls`" in (
        run("status").out
    )
    (gone,) = json.loads(run("lost", "ls", "--json").out)
    assert (gone["first_offset"], gone["next_offset"], gone["events"]) == (3, 8, 5)
    assert gone["acknowledged_by"] is None
    assert run("lost", "acknowledge", "--by", "  ") == error(
        "--by has 2 characters: it needs 1 to 200"
    )

    result = run("lost", "acknowledge", "--by", "ada", "--note", "sent again by the shop")
    assert result.code == 0
    assert "5 lost events acknowledged by ada" in result.out
    (known,) = json.loads(run("lost", "ls", "--json").out)
    assert (known["acknowledged_by"], known["note"]) == ("ada", "sent again by the shop")
    assert known["acknowledged_at"]
    found = json.loads(run("status", "--json").out)
    assert (found["lost_unacknowledged"], found["partitions"][0]["lost"]) == (0, 5)
    # What is acknowledged stays as it is.
    assert "no lost event" in run("lost", "acknowledge", "--by", "grace").out
    (again,) = json.loads(run("lost", "ls", "--json").out)
    assert again == known
