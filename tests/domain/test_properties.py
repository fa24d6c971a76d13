"""What holds for every batch, whatever is in it."""

import json
import math
from datetime import datetime
from itertools import pairwise
from typing import Any

import msgspec
import pgpq
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from credit_risk_dagster.domain.decoding import REASONS, Event, decode
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.domain.scoring import Assessment, answers, assess
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.malformed import CATALOGUE, GOOD, event

POLICY = load_policy(DEFAULT_POLICY)
REQUIRED = ("loan_amnt", "annual_inc", "dti", "int_rate", "credit_history_years")
Batch = list[bytes | None]

# --- what comes ---------------------------------------------------------------------------------

_CHARACTERS = st.characters(exclude_categories=()) | st.sampled_from("\0\n\ud800%,.-+\\\"' é٣")
_NUMBERS = (
    st.integers()
    | st.integers(-3, 101)
    | st.floats()
    | st.floats(0, 100)
    | st.sampled_from([2**53 + 1, 2**63, 2**64, 10**30, 10**64, -(10**64), 10**400, -1, 999, 0.5])
)
# Texts that are values of some column, or nearly.
_WORDS = st.sampled_from(
    [
        *("", " ", "n/a", "NaN", "None", "-", "null", "%", ".", "+", "e5", "NONE", "inf"),
        *("13.56%", " 14.07 %", "13,56", "1,234", "0,123", "1,234.5", "1e2", "1e999", "-1", "999"),
        *(" 36 months", "60", "36.0", "36.5", "10+ years", "< 1 year", "< 5 years", "1 year"),
        *("Sep-94", "Sep-1994", "3-Sep", "Sep-03", "Apr-18", "Apr-2018", "2003-09", "2003-13"),
        *("2003-09-01", "01/09/2003", "Jan-69", "Dec-68", "Jan-2101", "0003-09-01"),
        *("2026-02-14T10:00:38.241496+00:00", "2026-02-14T10:00:38Z", "2026-02-14 ", "0001-01-01"),
        *("9999-12-31T23:59:59-14:00", "2018-03-01T00:00:00+14:00", "10:00"),
        *("A", "g", "AA", "CA", "ß", "RENT", "car", "68407277.0", "x" * 64, "x" * 65),
    ]
)
_SCALARS = st.none() | st.booleans() | _NUMBERS | _WORDS | st.text(_CHARACTERS, max_size=70)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)
_COLUMNS = st.sampled_from([*Event.__struct_fields__, "desc"])
# In one column, values that are equal in Python and different in meaning.
_CONFUSABLE = st.sampled_from([1, 1.0, True, "1", "1.0", 0, 0.0, -0.0, False, "0", None, math.nan])


def _changed(changes: dict[str, Any], gone: set[str], ascii_only: bool) -> bytes:
    row = {name: value for name, value in {**GOOD, **changes}.items() if name not in gone}
    return json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _flipped(value: bytes, at: int, put: bytes) -> bytes:
    at %= len(value)
    return value[:at] + put + value[at + 1 :]


_EVENTS = st.builds(
    _changed,
    st.dictionaries(_COLUMNS, _VALUES | _CONFUSABLE, max_size=4),
    st.sets(_COLUMNS, max_size=2) | st.just(set()),
    st.booleans(),
)
_BROKEN = st.builds(_flipped, _EVENTS, st.integers(0, 10_000), st.binary(max_size=3))
_BYTES = st.none() | st.binary(max_size=50) | _VALUES.map(lambda value: json.dumps(value).encode())
_SMALL_CATALOGUE = [case.value for case in CATALOGUE if len(case.value or b"") < 2_000]
_BATCHES: st.SearchStrategy[Batch] = st.lists(
    _EVENTS | _BROKEN | _BYTES | st.sampled_from(_SMALL_CATALOGUE), min_size=1, max_size=8
)
_ONE_COLUMN: st.SearchStrategy[Batch] = _COLUMNS.flatmap(
    lambda column: st.lists(
        (_CONFUSABLE | _SCALARS).map(lambda value: _changed({column: value}, set(), True)),
        min_size=2,
        max_size=8,
    )
)


def exactly(value: Any) -> bytes:
    """As JSON, in which 1, 1.0 and true differ."""
    return msgspec.json.encode(value)


def rows(assessment: Assessment) -> list[dict[str, Any]]:
    scored: list[dict[str, Any]] = assessment.scored.to_pylist()
    return scored


# --- what holds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 25])  # few values are converted without Arrow
@given(values=_BATCHES | _ONE_COLUMN)
def test_one_by_one_equals_batch(times: int, values: Batch) -> None:
    batch = assess(decode(values * times), POLICY)
    singles = times * [assess(decode([value]), POLICY) for value in values]
    assert exactly(rows(batch)) == exactly([row for single in singles for row in rows(single)])
    assert batch.loan_ids.to_pylist() == [single.loan_ids[0].as_py() for single in singles]
    assert batch.tiers.tolist() == [tier for single in singles for tier in single.tiers.tolist()]
    reasons = [code for single in singles for code in single.reasons.tolist()]
    assert batch.reasons.tolist() == reasons


@given(_BATCHES, st.lists(st.none() | st.binary(max_size=70), min_size=8, max_size=8))
def test_keys_change_nothing_but_missing_ids(values: Batch, keys: list[bytes | None]) -> None:
    with_keys = assess(decode(values, keys[: len(values)]), POLICY)
    without = assess(decode(values), POLICY)
    assert with_keys.scored.drop_columns(["loan_id"]) == without.scored.drop_columns(["loan_id"])
    assert with_keys.reasons.tolist() == without.reasons.tolist()
    for own, other in zip(*(one.loan_ids.to_pylist() for one in (without, with_keys)), strict=True):
        assert own is None or own == other


@given(_BATCHES)
def test_every_position_is_scored_or_rejected_once(values: Batch) -> None:
    assessment = assess(decode(values), POLICY)
    positions = assessment.scored_at.tolist() + assessment.rejected_at.tolist()
    assert sorted(positions) == list(range(len(values)))
    for at in (assessment.scored_at.tolist(), assessment.rejected_at.tolist()):
        assert all(before < after for before, after in pairwise(at))
    assert assessment.scored.num_rows == len(assessment.scored_at) == len(assessment.tiers)
    assert len(assessment.reasons) == len(assessment.rejected_at)
    assert sum(assessment.tier_counts().values()) == len(assessment.scored_at)
    assert sum(assessment.reason_counts().values()) == len(assessment.rejected_at)
    assert assessment.reason_counts().keys() <= set(REASONS)
    assert len(assessment.loan_ids) == len(values)


@given(_BATCHES)
def test_scored_rows_fit_into_postgres(values: Batch) -> None:
    scored = assess(decode(values, [b"\xff\0"] * len(values)), POLICY).scored
    scored.validate(full=True)  # with it, that texts are UTF-8
    for row in scored.to_pylist():
        assert all(math.isfinite(row[name]) for name in REQUIRED)
        assert 0 <= row["dti"] <= 100
        assert 0 <= row["int_rate"] <= 100
        assert row["loan_amnt"] > 0
        assert row["annual_inc"] >= 0
        assert 0 <= row["credit_history_years"] <= 201
        for value in row.values():
            match value:
                case str():
                    assert "\0" not in value
                    assert value.isprintable()
                case float():
                    assert math.isfinite(value)
                case datetime():
                    assert 1900 <= value.year <= 2100
    assert copy_binary(scored)


def copy_binary(batch: pa.RecordBatch) -> bytes:
    """What COPY sends."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(batch.schema)
    sent: bytes = encoder.write_header() + encoder.write_batch(batch) + encoder.finish()
    return sent


@given(_BATCHES)
def test_answers_are_json_one_for_each_value_in_order(values: Batch) -> None:
    replies = answers(values, POLICY)
    assert len(replies) == len(values)
    json.dumps(replies, allow_nan=False).encode()
    lines = msgspec.json.Encoder().encode_lines(replies).splitlines()
    assert [json.loads(line) for line in lines] == replies
    outcomes = assess(decode(values), POLICY)
    scored = [at for at, reply in enumerate(replies) if reply["outcome"] == "scored"]
    assert scored == outcomes.scored_at.tolist()
    for reply in replies:
        rejected = reply["outcome"] == "rejected"
        assert rejected == (reply["reject_reason"] in REASONS) == (reply["features"] == {})
        assert rejected == (reply["risk_tier"] is None)


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(value: bytes) -> None:
    for whole in (value, b"{" + value, event()[:-1] + b"," + value + b"}", value + event()):
        (answer,) = answers([whole], POLICY)
        assert answer["outcome"] in ("scored", "rejected")


@given(st.dictionaries(st.text(_CHARACTERS, max_size=10), _VALUES, max_size=3))
def test_unused_columns_change_nothing(columns: dict[str, Any]) -> None:
    assume(not columns.keys() & GOOD.keys())
    assert answers([event(**columns)], POLICY) == answers([event()], POLICY)
