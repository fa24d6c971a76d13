"""Which events are a loan's, whatever they are written like."""

import pytest

from credit_risk_dagster.domain.loans import events_of, loan_of, names, normal_id
from tests.platform.pipeline import good_event

SCORED = good_event(127000001)
NO_ID = SCORED.replace(b'"id": 127000001, ', b"")


@pytest.mark.parametrize(
    ("value", "key", "carries"),
    [
        (SCORED, None, True),
        (SCORED.replace(b"127000001", b'"127000001.0"'), b"other", True),
        (good_event(5), b"127000001", False),  # a key of something else: the id decides
        (NO_ID, b"127000001.0", True),
        (NO_ID, b"5", False),
        (NO_ID.replace(b"10000", b"127000001"), b"5", False),  # scored, with that amount
        (b'\xef\xbb\xbf{"id": 127000001, "dti": NaN}', None, True),
        (b'{"id": 5}', b"127000001", True),  # rejected, and its key has the id
        (b'{"loan": {"id": "127000001"}}', None, True),
        (b'{"id": 127000001, "loan_am', None, True),
        (b"\xff\x00 127000001 \xfe", None, True),
        (b"1270000012 5127000001", None, False),
        (None, b"127000001", True),
        (None, None, False),
        (b"", b"x127000001", False),
    ],
)
def test_an_event_carries_a_loan(value: bytes | None, key: bytes | None, carries: bool) -> None:
    assert events_of("127000001", [value, b"junk"], [key, None]) == [0] * carries


def test_an_id_is_as_the_platform_stores_it() -> None:
    assert [normal_id(t) for t in ("68407277", " 68407277.0\n", "A-7", "", " ", "\udcff")] == [
        *("68407277", "68407277", "A-7"),
        *(None, None, None),
    ]
    assert loan_of(b'{"id": 7.0}', b"8") == "7"
    assert loan_of(b"junk", b"8") == "8"
    found = [names("A-7", text) for text in ("of A-7.", "of A-77", "BA-7")]
    assert found == [True, False, False]
