"""Submitting while the broker is slow, away, or other than it was."""

import asyncio
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from credit_risk_dagster.api.bodies import EXAMPLE
from credit_risk_dagster.settings import KafkaSettings
from infra.embedded.servers import HOST, Broker
from resources.kafka.errors import BrokerUnavailable, TopicMissing
from resources.kafka.publisher import Publisher, PublisherBusy
from resources.kafka.topics import ensure_topic, partitions_of
from tests.api.conftest import StartApi
from tests.api.test_decisions import problem
from tests.platform.pipeline import Pipeline
from tests.platform.waiting import wait_until


def test_many_at_once_get_a_place_each(start_api: StartApi, pipeline: Pipeline) -> None:
    client = start_api(CREDIT_RISK_API_RATE_LIMIT="1000000/second")
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda n: client.post("/applications", json={**EXAMPLE, "id": n}), range(300))
        )
    assert {answer.status_code for answer in answers} == {202}
    places = {(a.json()["partition"], a.json()["offset"]) for a in answers}
    assert len(places) == 300
    report = pipeline.drain()
    assert report.scored == 300
    assert pipeline.stored()["scored_applications"] == sorted(places)


def test_only_so_many_wait_for_the_broker(kafka_settings: KafkaSettings) -> None:
    """With room for two, of three at once one is refused, and that one was not sent."""
    publisher = Publisher(kafka_settings, 2)

    async def three() -> list[object]:
        sending = (publisher.publish(b"1", b"{}") for _ in range(3))
        return await asyncio.gather(*sending, return_exceptions=True)

    try:
        for _ in range(2):  # and there is room again afterwards
            outcomes = asyncio.run(three())
            assert [type(outcome).__name__ for outcome in outcomes] == [
                "Published",
                "Published",
                "PublisherBusy",
            ]
    finally:
        publisher.close()


def test_backpressure_is_a_503_that_says_when_to_come_back(
    start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start_api(CREDIT_RISK_API_MAX_IN_FLIGHT=1, KAFKA_TIMEOUT_MS=1_000)
    with Broker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers, timeout_ms=1_000)
        ensure_topic(settings)
        monkeypatch.setattr(client.app.state, "publisher", Publisher(settings, 1))  # type: ignore[attr-defined]
        assert client.post("/applications", json=EXAMPLE).status_code == 202
        broker.kill()
    # The broker is gone: the first one waits for it, and the second finds no room.
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.post("/applications", json=EXAMPLE), range(2)))
    details = sorted(problem(answer) for answer in answers)
    assert details == [
        (503, "BrokerUnavailable: try again later; the log says more"),
        (503, "too many at once: nothing was sent"),
    ]
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)


def test_a_topic_that_is_missing_is_not_created(kafka_settings: KafkaSettings) -> None:
    """Nor with the number of partitions that is the broker's default."""
    missing = kafka_settings.model_copy(
        update={"topic": kafka_settings.topic + "_missing", "timeout_ms": 1_000}
    )
    publisher = Publisher(missing, 10)
    try:
        with pytest.raises(TopicMissing, match="topic create"):
            asyncio.run(publisher.publish(b"1", b"{}"))
    finally:
        publisher.close()
    with pytest.raises(TopicMissing):
        partitions_of(missing)


@pytest.mark.usefixtures("own_servers")
def test_it_recovers_with_the_broker() -> None:
    """The broker is away at first, comes, and is restarted as an empty one."""
    broker = Broker(cluster_id=str(uuid.uuid4()))
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers, timeout_ms=500)
    publisher = Publisher(settings, 10)

    def published() -> int | None:
        try:
            return asyncio.run(publisher.publish(b"1", b"{}")).offset
        except (BrokerUnavailable, PublisherBusy):
            return None

    try:
        assert published() is None
        for _ in range(2):
            broker.start()
            ensure_topic(settings)
            wait_until(lambda: published() is not None, 20, "an event is published")
            broker.kill()
            assert published() is None
    finally:
        broker.kill()
        publisher.close()


def test_a_broker_that_hangs_stops_nobody_else() -> None:
    """While a submission waits for a server that never answers, the event loop goes on."""
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        publisher = Publisher(
            KafkaSettings(bootstrap_servers=f"{HOST}:{port}", timeout_ms=5_000), 10
        )

        async def turn_while_it_waits() -> None:
            sending = asyncio.ensure_future(publisher.publish(b"1", b"{}"))
            for _ in range(6):
                await asyncio.sleep(0.01)
                assert not sending.done()
            with pytest.raises(BrokerUnavailable):
                await sending

        try:
            asyncio.run(turn_while_it_waits())
        finally:
            publisher.close()
