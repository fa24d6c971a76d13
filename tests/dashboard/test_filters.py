"""A segment in words."""

from dashboard.data import segments
from dashboard.parts import filters


def test_a_band_of_amounts_has_its_limits() -> None:
    assert [filters.amount(start) for start in segments.AMOUNTS_FROM] == [
        "Below $5 K",
        "$5–10 K",
        "$10–15 K",
        "$15–25 K",
        "$25 K or more",
    ]


def test_a_segment_is_described_without_formulas() -> None:
    assert filters.describe(segments.EVERYTHING) == "All applications"
    chosen = segments.Segment(
        purpose=("debt_consolidation", ""),
        grade=("A", ""),
        addr_state=("TX",),
        term_months=(36, 0),
        amount_from=(5_000, 25_000),
    )
    assert filters.describe(chosen) == (
        r"Debt consolidation, –, grade A, grade –, TX, 36 months, –, \$5–10 K, \$25 K or more"
    )
