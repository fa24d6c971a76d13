"""How far the pipeline is behind, and which of the servers does not let the dashboard know."""

from collections.abc import Callable

import pytest

from dashboard.parts import lag
from dashboard.parts.lag import Lag, consumer_lag
from infra.embedded.servers import HOST, free_port
from tests.platform.pipeline import Pipeline, good_event


@pytest.fixture
def look(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lag]:
    """Ask as a page does that nobody opened before."""
    monkeypatch.setattr(lag, "TIMEOUT_MS", 5_000)

    def ask(**variables: str) -> Lag:
        lag._memory.clear()
        consumer_lag.clear()
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            found: Lag = consumer_lag()
        return found

    return ask


def test_what_waits_is_counted(look: Callable[..., Lag], pipeline: Pipeline) -> None:
    pipeline.send([good_event(1), good_event(2)], partition=1)
    found = look()
    assert (found.events, found.by_partition[1], found.words) == (2, 2, "in 4 partitions")
    assert found.waited_seconds is None
    consumer_lag.clear()
    again = consumer_lag()  # nothing moved since: the oldest is asked for
    assert again.events == 2
    assert again.waited_seconds is not None
    assert 0 <= again.waited_seconds < 60


def test_each_error_is_called_what_it_is(
    look: Callable[..., Lag], pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(1)])
    nobody = f"{HOST}:{free_port()}"
    assert look(KAFKA_TOPIC="nowhere").words == "the topic does not exist"
    assert look(DATABASE_URL=f"postgresql://{nobody}/x").words == "Postgres does not answer"
    pipeline.query(
        "WITH other AS (UPDATE sources SET topic_id = 'another' RETURNING 1) SELECT FROM other"
    )
    replaced = look()
    assert replaced.words == "the topic was recreated or cut short: nothing is scored"
    assert replaced.events is None
    assert consumer_lag() == replaced  # for half a minute nobody asks again
    monkeypatch.setattr(lag, "TIMEOUT_MS", 200)
    away = look(KAFKA_BOOTSTRAP_SERVERS=nobody)
    assert away.words.startswith("the broker did not answer within ")
