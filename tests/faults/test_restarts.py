"""The servers hang, crash and come back, while events flow."""

import threading
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError

import psutil
import pytest

from resources.kafka.topics import ensure_topic
from tests.platform.running import PATIENCE_SECONDS, Platform
from tests.platform.slot import Slot
from tests.platform.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)

OUTAGE_SECONDS = 10.0


def outage() -> None:
    """Let the clients wait for a server that is away."""
    threading.Event().wait(OUTAGE_SECONDS)


def test_postgres_crashes(platform: Platform) -> None:
    postgres = platform.stack.postgres
    with platform.streaming(rate=200):
        platform.wait_for_commits(platform.committed() + 500)
        postgres.stop("immediate")  # for longer than a run can wait
        outage()
        postgres.start()
        platform.wait_for_commits(platform.committed() + 500)
    platform.wait_for_everything()

    def ticks() -> list[dict[str, Any]] | None:
        with suppress(HTTPError):  # of a connection from before, of which the webserver keeps some
            return platform.ticks()
        return None

    wait_until(ticks, PATIENCE_SECONDS, "Dagster's UI is back")


def test_the_broker_hangs_and_is_replaced(platform: Platform, slot: Slot) -> None:
    broker = platform.stack.broker
    unreachable = f"Kafka broker at {broker.bootstrap_servers} does not answer"
    with platform.streaming(rate=200):
        platform.wait_for_commits(platform.committed() + 500)
        process = psutil.Process(broker.pid)
        process.suspend()
        try:
            outage()
            wait_until(
                lambda: unreachable in platform.why_not(),
                PATIENCE_SECONDS,
                "a tick says that the broker does not answer",
            )
        finally:
            process.resume()
        platform.wait_for_commits(platform.committed() + 500)
    platform.wait_for_everything()

    # Another cluster appears at the same address, while the last events of the first one are read.
    platform.send(500)
    first_loans = platform.sent
    broker.kill()
    broker.start(cluster_id="another")
    ensure_topic(platform.kafka)
    with platform.streaming(rate=200):
        second = wait_until(
            lambda: sources(platform).get("another"), PATIENCE_SECONDS, "the new cluster is read"
        )
    second_loans = list(range(first_loans, platform.sent))
    wait_until(
        lambda: len(platform.loans(second)) >= len(second_loans),
        PATIENCE_SECONDS,
        "everything of the new cluster is committed",
    )
    assert platform.loans(second) == second_loans

    # What was not read of the first one is gone with it; the rest is still there, once.
    (first,) = set(sources(platform).values()) - {second}
    committed = platform.loans(first)
    assert committed == sorted(set(committed))
    assert set(committed) <= set(range(first_loans))
    assert len(committed) >= first_loans - 500
    assert platform.pipeline.unreconciled() == 0
    slot.clear()  # what is left of the first cluster is no platform for others


def sources(platform: Platform) -> dict[str, int]:
    """The id of each cluster's source."""
    rows = platform.pipeline.query("SELECT cluster_id, source_id FROM sources")
    return {row["cluster_id"]: row["source_id"] for row in rows}
