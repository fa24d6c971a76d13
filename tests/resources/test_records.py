"""Records are taken apart as the client itself does it."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer.fetch import FetchResponse
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from resources.kafka.client import _Records

TP = TopicPartition("loans", 3)
TEXT = st.none() | st.binary(max_size=300)
RECORD = st.tuples(
    st.integers(0, 2**40), TEXT, TEXT, st.lists(st.tuples(st.text(max_size=5), TEXT), max_size=3)
)
LONG = 2**31
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_ATTRIBUTES = struct.Struct(">h")


def batch(
    records: list[Any],
    first: int = 0,
    codec: int = NONE,
    is_transactional: bool = False,
    producer: int = -1,
    attributes: int = 0,
) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, is_transactional, producer, 0, 0, 2**30)
    for at, record in enumerate(records):
        builder.append(at, *record)
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, first)
    if attributes:
        at = DefaultRecordBatch.ATTRIBUTES_OFFSET
        struct.pack_into(">h", made, at, attributes | _ATTRIBUTES.unpack_from(made, at)[0])
    return bytes(made)


def taken(kind: type[Any], answer: bytes, n: int, **options: Any) -> list[Any]:
    """What it gives, so many at a time, with where it goes on after each, up to an error."""
    records = kind(options.pop("at", 0), TP, MemoryRecords(answer), check_crcs=False, **options)
    found: list[Any] = []
    while records:
        try:
            some = records.take(n)
        except CorruptRecordError:
            return [*found, "corrupt", records.next_fetch_offset]
        found += [some, records.next_fetch_offset, records.leader_epoch]
    return [*found, records.records_read, records.bytes_read]


def both(answer: bytes, n: int = 7, **options: Any) -> list[Any]:
    ours = taken(_Records, answer, n, **options)
    assert ours == taken(Fetcher.PartitionRecords, answer, n, **options)
    return ours


@given(
    batches=st.lists(st.lists(RECORD, min_size=1, max_size=9), max_size=3),
    codec=st.sampled_from([NONE, GZIP, SNAPPY, LZ4, ZSTD]),
    n=st.integers(1, 5),
    at=st.integers(0, 12),
    attributes=st.sampled_from([0, DefaultRecordBatch.TIMESTAMP_TYPE_MASK]),
)
def test_whatever_is_in_them(
    batches: list[Any], codec: int, n: int, at: int, attributes: int
) -> None:
    both(
        b"".join(batch(b, 10 * i, codec, attributes=attributes) for i, b in enumerate(batches)),
        n,
        at=at,
    )


@given(
    records=st.lists(RECORD, min_size=1, max_size=5),
    where=st.integers(0, 10**6),
    byte=st.integers(0, 127),
)
def test_what_is_damaged_is_so_for_both(records: list[Any], where: int, byte: int) -> None:
    made = bytearray(batch(records))
    header = DefaultRecordBatch.HEADER_STRUCT.size
    made[header + where % (len(made) - header)] = byte
    try:
        both(bytes(made))
    except UnicodeDecodeError:  # of the client's own: ours says that the record is corrupt
        assert "corrupt" in taken(_Records, bytes(made), 7)


def test_a_damaged_batch_fails_its_checksum() -> None:
    made = bytearray(batch([(0, b"k", b"value", [])]))
    made[-2] ^= 1
    records = _Records(0, TP, MemoryRecords(bytes(made)))
    with pytest.raises(CorruptRecordError, match=r"offset 0 of .*loans.*checksum"):
        records.take()


def test_lengths_and_times_of_any_size() -> None:
    both(batch([(LONG, b"k", b"v" * 70_000, []), (0, None, None, [("h", b"x" * 9_000)])]))


@pytest.mark.parametrize("magic", [0, 1])
def test_the_formats_of_before(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, NONE, 2**20)
    for at, value in enumerate([b"a", None, b"ccc"]):
        builder.append(at, 5 if magic else None, b"key", value)
    both(bytes(builder.build()), 2)


def test_aborted_transactions_and_markers_are_left_out() -> None:
    row = [(0, b"k", b"v", [])] * 2
    aborted, other = 7, 8
    marker = [(0, struct.pack(">hh", 0, 0), b"\0" * 6, [])]
    control = DefaultRecordBatch.CONTROL_MASK
    answer = b"".join(
        [
            batch(row, 0, is_transactional=True, producer=aborted),
            batch(row, 2, is_transactional=True, producer=other),
            batch(marker, 4, is_transactional=True, producer=aborted, attributes=control),
            batch(row, 5, is_transactional=True, producer=aborted),
            batch(row, 7),
        ]
    )
    transactions = FetchResponse.FetchableTopicResponse.PartitionData.AbortedTransaction
    options = {
        "isolation_level": IsolationLevel.READ_COMMITTED,
        "aborted_transactions": [transactions(producer_id=aborted, first_offset=0)],
    }
    found = both(answer, 99, **options)
    assert [record.offset for record in found[0]] == [2, 3, 5, 6, 7, 8]
