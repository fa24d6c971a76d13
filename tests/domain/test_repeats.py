"""By which two records are the same application."""

import numpy as np

from credit_risk_dagster.domain.repeats import are_keyed, marks


def same(one: object, other: object) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def test_without_keys_there_is_nothing_to_do() -> None:
    assert marks("key", [b"1"], [b"{}"], [None]) is None
    assert marks("key", [b"1"], [b"{}"], [[("traceparent", b"00")]]) is None
    assert marks("off", [b"1"], [b"{}"], [[("Idempotency-Key", b"a")]]) is None


def test_a_key_counts_with_who_chose_it_and_whatever_the_body() -> None:
    headers = [
        [("idempotency-key", b"a")],
        [("Idempotency-Key", b"a"), ("x", None)],
        [("Idempotency-Key", b"a"), ("Idempotency-Client", b"b")],
        [("Idempotency-Key", b""), ("Idempotency-Client", b"b")],
        [("Idempotency-Key", None)],
        [],
    ]
    found = marks("content", [b"1"] * 6, [b'{"id": %d}' % n for n in range(6)], headers)
    assert found is not None
    assert are_keyed(found).tolist() == [True, True, True, False, False, False]
    assert same(found[0], found[1])
    assert len(np.unique(found, axis=0)) == 5


def test_content_is_loan_and_bytes() -> None:
    values = [b'{"id":1}', b'{"id":1}', b'{"id":1} ', b"{}", b"{}", b"{}", b"{}", b"", None]
    keys = [b"1", b"2", b"1", b"1", b"1", b"2", None, b"1", b"1"]
    found = marks("content", keys, values, [None] * 9)
    assert found is not None
    assert same(found[0], found[1])
    assert same(found[3], found[4])
    assert not found[6:].any()
    assert len(np.unique(found[:6], axis=0)) == 4
