"""Each application once, however often it is sent, and whoever gets it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines.epochs import start_epoch
from credit_risk_dagster.pipelines.redrive import UnknownReason, redrive
from credit_risk_dagster.settings import DEFAULT_POLICY, DrainSettings
from resources.postgres.repeats import Repeats
from tests.pipelines.test_rebuild import run as rebuild
from tests.platform.pipeline import Pipeline, good_event


def headers(key: bytes, client: bytes = b"app") -> list[tuple[str, bytes]]:
    return [("Idempotency-Key", key), ("Idempotency-Client", client)]


def send(pipeline: Pipeline, event: bytes, partition: int, *of: tuple[str, bytes]) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(**pipeline.kafka.client_options())
    producer.send(pipeline.kafka.topic, event, b"1", list(of), partition=partition).get(10)
    producer.close()


def repeats(pipeline: Pipeline) -> list[tuple[int, ...]]:
    """Places of the repeated events, and of the event that each repeats."""
    return [
        tuple(row.values())
        for row in pipeline.query(
            'SELECT partition, "offset", first_partition, first_offset FROM rejected_events'
            " WHERE reason = 'duplicate_submission' ORDER BY 1, 2"
        )
    ]


def test_the_first_of_a_key_is_decided_and_the_rest_name_it(pipeline: Pipeline) -> None:
    for key, client in ((b"a", b"x"), (b"a", b"x"), (b"a", b"y"), (b"b", b"x")):
        send(pipeline, good_event(1), 1, *headers(key, client))
    send(pipeline, good_event(1), 1)  # without a key: another application, by default
    first = pipeline.drain()
    send(pipeline, good_event(2), 0, *headers(b"a", b"x"))  # another body and partition, later
    second = pipeline.drain()
    assert (first.scored, first.reasons) == (4, {"duplicate_submission": 1})
    assert (second.scored, second.reasons) == (0, {"duplicate_submission": 1})
    assert repeats(pipeline) == [(0, 0, 1, 0), (1, 1, 1, 0)]
    assert pipeline.unreconciled() == 0


def test_by_content_the_same_loan_and_bytes_are_one(pipeline: Pipeline) -> None:
    without_id = good_event(1).replace(b'"id": 1, ', b"")
    pipeline.send([good_event(1), good_event(2), good_event(1), b"junk", b"junk", None, None])
    pipeline.send([good_event(1) + b" ", without_id], partition=1)
    pipeline.send([without_id], partition=2, key=b"other")
    pipeline.send([without_id], partition=3)
    report = pipeline.drain(deduplicate="content")
    assert report.reasons == {"duplicate_submission": 3, "invalid_json": 1, "tombstone": 2}
    assert repeats(pipeline) == [(0, 2, 0, 0), (0, 4, 0, 3), (3, 0, 1, 1)]
    assert pipeline.unreconciled() == 0
    pipeline.send([good_event(2)], partition=3)
    assert pipeline.drain(deduplicate="off").scored == 1


def test_of_two_lanes_at_once_one_wins(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have the same keys in hand before either claims them."""
    for partition in (0, 1):
        for number in range(20):
            send(pipeline, good_event(number), partition, *headers(b"%d" % number))
    both, reject = threading.Barrier(2), Repeats.reject

    def together(self: Repeats, *batch: Any) -> Any:
        both.wait(20)
        return reject(self, *batch)

    monkeypatch.setattr(Repeats, "reject", together)
    limits = {"lanes": 2, "max_batch_events": 20, "session_seconds": 0}
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda lane: pipeline.drain(lane=lane, **limits), range(2)))
    assert sorted(report.scored for report in reports) == [0, 20]
    assert sorted(report.rejected for report in reports) == [0, 20]
    assert {(p, at, 1 - p, at) for p, at, *_ in repeats(pipeline)} == set(repeats(pipeline))
    assert pipeline.unreconciled() == 0


def test_who_dies_between_claim_and_commit_has_claimed_for_its_offset(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(pipeline, good_event(1), 0, *headers(b"a"))
    with monkeypatch.context() as patch:
        patch.setattr("resources.postgres.micro_batch.Ledger._commit", _killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.drain(lanes=4)
    send(pipeline, good_event(1), 1, *headers(b"a"))
    assert pipeline.drain(lanes=4, lane=1).reasons == {"duplicate_submission": 1}
    assert pipeline.drain(lanes=4).scored == 1
    assert repeats(pipeline) == [(1, 0, 0, 0)]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_expired_is_new_and_the_table_stays_small(pipeline: Pipeline) -> None:
    now = datetime.now(UTC)
    for age in (9, 8, 1):  # days: two are within seven days of each other, but not the last one
        pipeline.send([good_event(1)], at=now - timedelta(days=age))
    report = pipeline.drain(deduplicate="content", max_batch_events=1)
    assert (report.scored, report.rejected) == (2, 1)
    pipeline.send([good_event(n) for n in range(2, 30)])
    pipeline.drain(deduplicate="content", max_batch_events=1)
    with pipeline.warehouse.session() as connection:
        Repeats(connection, DrainSettings(deduplicate="content", deduplicate_events=10))
        assert _events(pipeline) == 10
        connection.execute("UPDATE seen_events SET seen_at = now() - interval '8 days'")
        Repeats(connection, DrainSettings())
    assert _events(pipeline) == 0


def test_many_small_rows_become_one(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.postgres.repeats._SMALL_ROWS", 5)
    pipeline.send([good_event(n) for n in range(10)])
    pipeline.drain(deduplicate="content", max_batch_events=1)
    pipeline.send([good_event(n) for n in range(10)])
    assert pipeline.drain(deduplicate="content").reasons == {"duplicate_submission": 10}
    assert pipeline.query("SELECT events FROM seen_events") == [{"events": 10}]


def _events(pipeline: Pipeline) -> int:
    (row,) = pipeline.query("SELECT coalesce(sum(events), 0) AS n FROM seen_events")
    return int(row["n"])


def test_a_redrive_leaves_repeats_where_they_are(pipeline: Pipeline) -> None:
    send(pipeline, b'{"id": 1}', 0, *headers(b"a"))
    send(pipeline, b'{"id": 1}', 0, *headers(b"a"))
    pipeline.drain()
    pipeline.query(
        "UPDATE rejected_events SET value = convert_to(%(e)s, 'UTF8') RETURNING 1",
        e=good_event(1).decode(),
    )
    policy = load_policy(DEFAULT_POLICY)
    report = redrive(pipeline.warehouse, policy, run_id="again")
    assert (report.examined, report.moved.total()) == (1, 1)
    assert repeats(pipeline) == [(0, 1, 0, 0)]
    with pytest.raises(UnknownReason, match="is no mistake"):
        redrive(pipeline.warehouse, policy, run_id="again", reason="duplicate_submission")


def test_a_rebuild_decides_the_same(pipeline: Pipeline, warehouse_settings: Any) -> None:
    for partition in (0, 1):
        send(pipeline, good_event(1), partition, *headers(b"a"))
        send(pipeline, good_event(2), partition)
    drain = DrainSettings(deduplicate="content")
    pipeline.drain(deduplicate="content")
    pipeline.archive()
    report = rebuild(pipeline, warehouse_settings, drain=drain)
    assert (report.scored, report.rejected) == (2, 2)
    assert rebuild(pipeline, warehouse_settings, drain=drain).known == 4
    (of_both,) = pipeline.query(
        'SELECT (SELECT array_agg((partition, "offset", first_offset) ORDER BY 1)::text'
        ' FROM rejected_events) = (SELECT array_agg((partition, "offset", first_offset)'
        " ORDER BY 1)::text FROM rebuilt.rejected_events) AS same"
    )
    assert of_both["same"]


def test_an_epoch_by_force_decides_again(pipeline: Pipeline) -> None:
    send(pipeline, good_event(1), 0, *headers(b"a"))
    send(pipeline, good_event(1), 0, *headers(b"a"))
    assert pipeline.drain().scored == 1
    start_epoch(pipeline.broker, pipeline.warehouse, pipeline.lake, 1, force=True)
    again = pipeline.drain()
    assert (again.scored, again.reasons) == (1, {"duplicate_submission": 1})


def test_what_is_remembered_has_an_end(pipeline: Pipeline) -> None:
    """By number also with keys; and without looking at repeats, what was remembered goes, too."""
    for number in range(4):
        send(pipeline, good_event(number), 0, *headers(b"%d" % number))
        pipeline.drain()
    remembered = "SELECT coalesce(sum(events), 0) AS events FROM seen_events"
    with pipeline.warehouse.session() as connection:
        Repeats(connection, DrainSettings(deduplicate_events=2))
        assert connection.execute(remembered).fetchone() == (2,)
        connection.execute("UPDATE seen_events SET seen_at = now() - interval '8 days'")
        Repeats(connection, DrainSettings(deduplicate="off"))
        assert connection.execute(remembered).fetchone() == (0,)
