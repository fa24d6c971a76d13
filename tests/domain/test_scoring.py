"""The credit policy: bands, early warning, tiers, reasons; and the files that define policies."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from credit_risk_dagster.domain.decision import decide
from credit_risk_dagster.domain.decoding import REASONS, decode
from credit_risk_dagster.domain.policy import (
    BANDS,
    TIERS,
    Policy,
    PolicyError,
    Thresholds,
    load_policy,
)
from credit_risk_dagster.domain.scoring import BAND_COLUMNS, FEATURES, answers, assess
from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.domain.test_cleaning import CLEANED, SAMPLE
from tests.malformed import event

V1 = DEFAULT_POLICY.with_name("lendingclub-v1.yaml")
INPUTS = ("dti", "revol_util", "int_rate", "delinq_2yrs", "inq_last_6mths")
CALM = {"dti": 10, "revol_util": 10, "int_rate": 5, "delinq_2yrs": 0, "inq_last_6mths": 0}


def score(policy: Policy, *rows: dict[str, float | None]) -> list[dict[str, Any]]:
    """Decisions on rows on top of the calm one; None is missing."""
    columns = {
        name: np.array([{**CALM, **row}[name] for row in rows], dtype=np.float64) for name in INPUTS
    }
    decisions = decide(policy.program, columns)
    reasons = decisions.reasons().to_pylist()
    bands = [*BANDS, None]
    return [
        {
            "risk_tier": TIERS[decisions.tier[i]],
            "early_warning": bool(decisions.early_warning[i]),
            "reasons": reasons[i],
            **{name: bands[decisions.bands[of][i]] for name, of in BAND_COLUMNS.items()},
        }
        for i in range(len(rows))
    ]


# --- bands --------------------------------------------------------------------------------------

EDGES = {
    "dti": ("dti_band", 20, 30, 40),
    "revol_util": ("util_band", 30, 60, 80),
    "int_rate": ("rate_band", 10, 15, 20),
}


@pytest.mark.parametrize("field", EDGES)
def test_upper_edges_are_inclusive(policy: Policy, field: str) -> None:
    name, *edges = EDGES[field]
    just_above = [math.nextafter(edge, math.inf) for edge in edges]
    just_below = [math.nextafter(edge, 0) for edge in edges]
    expected = [
        *((0, "Low"), (-0.0, "Low"), (5e-324, "Low"), (1e308, "Very High"), (None, None)),
        *zip(edges, BANDS[:3], strict=True),
        *zip(just_below, BANDS[:3], strict=True),
        *zip(just_above, BANDS[1:], strict=True),
    ]
    decisions = score(policy, *({field: value} for value, _ in expected))
    assert [decision[name] for decision in decisions] == [band for _, band in expected]


# --- tiers and reasons --------------------------------------------------------------------------

DTI, UTIL, DELINQ, INQ = "DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0", "INQ_LAST_6MTHS>=2"


@pytest.mark.parametrize(
    ("row", "tier", "reasons"),
    [
        ({}, "Low", []),
        # one band of DTI or utilization is High
        ({"dti": 30}, "Low", []),
        ({"dti": 30.01}, "Elevated", []),
        ({"dti": 45}, "Elevated", []),
        ({"revol_util": 60}, "Low", []),
        ({"revol_util": 60.01}, "Elevated", []),
        ({"revol_util": 80}, "Elevated", []),
        ({"revol_util": 300}, "Elevated", []),
        ({"int_rate": 30}, "Low", []),  # the rate has a band, and no say
        # stress or behaviour alone is no warning
        ({"delinq_2yrs": 9, "inq_last_6mths": 9}, "Low", []),
        ({"dti": 29.99, "delinq_2yrs": 1}, "Low", []),
        ({"revol_util": 79.99, "delinq_2yrs": 1}, "Elevated", []),
        ({"dti": 30, "inq_last_6mths": 1}, "Low", []),
        # both are
        ({"dti": 30, "delinq_2yrs": 1}, "Watchlist", [DTI, DELINQ]),
        ({"dti": 30, "inq_last_6mths": 2}, "Watchlist", [DTI, INQ]),
        ({"revol_util": 80, "delinq_2yrs": 1}, "Watchlist", [UTIL, DELINQ]),
        ({"revol_util": 80, "inq_last_6mths": 2}, "Watchlist", [UTIL, INQ]),
        ({"dti": 30, "revol_util": 80, "inq_last_6mths": 2}, "Watchlist", [DTI, UTIL, INQ]),
        ({"dti": 99, "delinq_2yrs": 1, "inq_last_6mths": 5}, "Watchlist", [DTI, DELINQ, INQ]),
        (
            {"dti": 30, "revol_util": 80, "delinq_2yrs": 1, "inq_last_6mths": 2},
            "Watchlist",
            [DTI, UTIL, DELINQ, INQ],
        ),
        # what is missing fires nothing
        ({"revol_util": None, "delinq_2yrs": 1}, "Low", []),
        ({"dti": 35, "delinq_2yrs": None, "inq_last_6mths": None}, "Elevated", []),
        ({"dti": 35, "delinq_2yrs": None, "inq_last_6mths": 2}, "Watchlist", [DTI, INQ]),
        ({"dti": 35, "revol_util": None, "delinq_2yrs": 1}, "Watchlist", [DTI, DELINQ]),
        (dict.fromkeys(("revol_util", "delinq_2yrs", "inq_last_6mths")), "Low", []),
    ],
)
def test_tiers_and_reasons(
    policy: Policy, row: dict[str, float | None], tier: str, reasons: list[str]
) -> None:
    (decision,) = score(policy, row)
    assert decision["risk_tier"] == tier
    assert decision["reasons"] == reasons
    assert decision["early_warning"] is (tier == "Watchlist")


def oracle(policy: Thresholds, row: dict[str, float | None]) -> dict[str, Any]:
    """The policy, one application at a time, in the words of its description."""

    def band(value: float | None, edges: tuple[float, float, float]) -> str | None:
        if value is None:
            return None
        for edge, name in zip(edges, BANDS, strict=False):
            if value <= edge:
                return name
        return BANDS[-1]

    rule = policy.early_warning
    reasons = []
    stress = behaviour = False
    if row["dti"] is not None and row["dti"] >= rule.dti_at_least:
        stress = True
        reasons.append(f"DTI>={rule.dti_at_least:g}")
    if row["revol_util"] is not None and row["revol_util"] >= rule.revol_util_at_least:
        stress = True
        reasons.append(f"REVOL_UTIL>={rule.revol_util_at_least:g}")
    if row["delinq_2yrs"] is not None and row["delinq_2yrs"] > rule.delinq_2yrs_above:
        behaviour = True
        reasons.append(f"DELINQ_2YRS>{rule.delinq_2yrs_above:g}")
    if row["inq_last_6mths"] is not None and row["inq_last_6mths"] >= rule.inq_last_6mths_at_least:
        behaviour = True
        reasons.append(f"INQ_LAST_6MTHS>={rule.inq_last_6mths_at_least:g}")

    dti_band = band(row["dti"], policy.bands.dti)
    util_band = band(row["revol_util"], policy.bands.revol_util)
    elevating = BANDS[BANDS.index(policy.elevated_from) :]
    if stress and behaviour:
        tier = "Watchlist"
    elif dti_band in elevating or util_band in elevating:
        tier = "Elevated"
    else:
        tier = "Low"
    return {
        "risk_tier": tier,
        "early_warning": stress and behaviour,
        "reasons": reasons if stress and behaviour else [],
        "dti_band": dti_band,
        "util_band": util_band,
        "rate_band": band(row["int_rate"], policy.bands.int_rate),
    }


def policies() -> st.SearchStrategy[Thresholds]:
    threshold = st.integers(0, 100).map(float)
    edges = st.lists(threshold, min_size=3, max_size=3, unique=True).map(sorted)
    count = st.integers(0, 2).map(float)
    rule = {
        "dti_at_least": threshold,
        "revol_util_at_least": threshold,
        "delinq_2yrs_above": count,
        "inq_last_6mths_at_least": count,
    }
    return st.fixed_dictionaries(
        {
            "name": st.just("any"),
            "bands": st.fixed_dictionaries({"dti": edges, "revol_util": edges, "int_rate": edges}),
            "early_warning": st.fixed_dictionaries(rule),
            "elevated_from": st.sampled_from(BANDS[1:]),
        }
    ).map(Thresholds.model_validate)


def rows() -> st.SearchStrategy[list[dict[str, float | None]]]:
    percent = st.integers(0, 100).map(float) | st.floats(0, 1000)
    count = st.integers(0, 3).map(float)
    return st.lists(
        st.fixed_dictionaries(
            {
                "dti": percent,
                "revol_util": st.none() | percent,
                "int_rate": percent,
                "delinq_2yrs": st.none() | count,
                "inq_last_6mths": st.none() | count,
            }
        ),
        min_size=1,
        max_size=30,
    )


@given(policy=st.just(load_policy(V1)) | policies(), rows=rows())
def test_decisions_are_those_of_the_description(
    policy: Thresholds, rows: list[dict[str, float | None]]
) -> None:
    assert score(policy, *rows) == [oracle(policy, row) for row in rows]


def test_decisions_on_the_sample(policy: Thresholds) -> None:
    """From the raw rows to the decisions, against the expected features and the oracle."""
    assert answers(SAMPLE, policy) == [
        {
            "loan_id": row["loan_id"],
            "outcome": "scored",
            **oracle(policy, row),
            "recommendation": None,
            "figures": "primary" if row["application_type"] == "joint" else None,
            "policy": policy.version,
            "reject_reason": None,
            "features": {name: row[name] for name in FEATURES},
        }
        for row in CLEANED
    ]


# --- assessments --------------------------------------------------------------------------------


def test_an_assessment_says_where_every_event_went(policy: Policy) -> None:
    values = [event(id=1), b"junk", event(id=3, revol_util=10), None, event(id=5, dti=-1)]
    assessment = assess(decode(values, [b"k"] * 5), policy)
    assert assessment.scored_at.tolist() == [0, 2]
    assert assessment.rejected_at.tolist() == [1, 3, 4]
    reasons = ["invalid_json", "tombstone", "missing_required:dti"]
    assert [REASONS[code] for code in assessment.reasons] == reasons
    assert assessment.loan_ids.to_pylist() == ["1", "k", "3", "k", "5"]
    assert assessment.scored["loan_id"].to_pylist() == ["1", "3"]
    assert assessment.scored["risk_tier"].to_pylist() == ["Watchlist", "Watchlist"]
    assert assessment.tier_counts() == {"Low": 0, "Elevated": 0, "Watchlist": 2}
    assert assessment.reason_counts() == dict.fromkeys(reasons, 1)


def test_an_empty_assessment_has_the_same_columns(policy: Policy) -> None:
    empty, full = assess(decode([]), policy), assess(decode([event()]), policy)
    assert empty.scored.schema == full.scored.schema
    assert empty.scored.num_rows == 0
    assert empty.tier_counts() == {"Low": 0, "Elevated": 0, "Watchlist": 0}
    assert empty.reason_counts() == {}
    assert answers([], policy) == []


def test_missing_optional_values_are_null(policy: Policy) -> None:
    required = ("loan_amnt", "annual_inc", "dti", "int_rate", "earliest_cr_line", "issue_d")
    row = {name: value for name, value in json.loads(event()).items() if name in required}
    (scored,) = assess(decode([json.dumps(row).encode()]), policy).scored.to_pylist()
    assert {name for name, value in scored.items() if value is None} == {
        *("loan_id", "event_time", "revol_util", "delinq_2yrs", "inq_last_6mths", "util_band"),
        *("emp_length_yrs", "term_months", "purpose", "grade", "addr_state", "home_ownership"),
        *("loan_status", "application_type", "figures", "recommendation"),
        *("annual_inc_primary", "annual_inc_joint", "dti_primary", "dti_joint"),
    }


def test_a_rejected_answer(policy: Policy) -> None:
    (answer,) = answers([event(dti=999)], policy)
    assert answer == {
        "loan_id": "68407277",
        "outcome": "rejected",
        **dict.fromkeys(("risk_tier", "recommendation", "early_warning", "reasons", "figures")),
        **dict.fromkeys(("dti_band", "util_band", "rate_band")),
        "policy": policy.version,
        "reject_reason": "missing_required:dti",
        "features": {},
    }


# --- the policy file ----------------------------------------------------------------------------

DEFAULT = V1.read_text()


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str | bytes], Policy]:
    """Load a policy from its text."""

    def load_text(text: str | bytes) -> Policy:
        path = tmp_path / "policy.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_policy(path)

    return load_text


def test_the_default_policy_is_the_documented_one(policy: Policy) -> None:
    assert policy.model_dump() == {
        "name": "lendingclub-v1",
        "bands": {
            "dti": (20, 30, 40),
            "revol_util": (30, 60, 80),
            "int_rate": (10, 15, 20),
        },
        "early_warning": {
            "dti_at_least": 30,
            "revol_util_at_least": 80,
            "delinq_2yrs_above": 0,
            "inq_last_6mths_at_least": 2,
        },
        "elevated_from": "High",
    }
    assert policy.reason_codes == (DTI, UTIL, DELINQ, INQ)
    # The hash of every row that was ever scored by it: a change makes it another policy.
    assert policy.version == "lendingclub-v1@5a36f4be38d1"


REWRITTEN = """
early_warning: {inq_last_6mths_at_least: 2.0, delinq_2yrs_above: 0, # in another order
                revol_util_at_least: 80.00, dti_at_least: 3.0e+1}
elevated_from: "High"
bands:
  int_rate:
    - 10
    - 15
    - 20
  revol_util: [30, 60, 80]
  dti: [20, 30.0, 40]
name: 'lendingclub-v1'
"""


def test_the_same_policy_in_other_words_has_the_same_hash(
    policy: Policy, load: Callable[[str], Policy]
) -> None:
    for text in (DEFAULT, f"# a comment\n\n{DEFAULT}\n", REWRITTEN, policy.document):
        assert load(text) == policy
        assert load(text).content_hash == policy.content_hash


def test_any_change_makes_another_hash(policy: Policy, load: Callable[[str], Policy]) -> None:
    changes = [
        ("lendingclub-v1", "lendingclub-v2"),
        *(("[20, 30, 40]", f"[{edges}]") for edges in ("21, 30, 40", "20, 31, 40", "20, 30, 41")),
        ("[30, 60, 80]", "[30, 60, 80.5]"),
        ("[10, 15, 20]", "[10, 15, 20.000001]"),
        ("dti_at_least: 30", "dti_at_least: 31"),
        ("revol_util_at_least: 80", "revol_util_at_least: 81"),
        ("delinq_2yrs_above: 0", "delinq_2yrs_above: 1"),
        ("inq_last_6mths_at_least: 2", "inq_last_6mths_at_least: 3"),
        ("elevated_from: High", "elevated_from: Very High"),
    ]
    hashes = {load(DEFAULT.replace(*change)).content_hash for change in changes}
    assert len(hashes - {policy.content_hash}) == len(changes)


@example(30.1234567)
@given(st.floats(0, 1e6, allow_subnormal=False).map(lambda value: round(value, 9)))
def test_reasons_name_the_threshold_as_it_is(threshold: float) -> None:
    policy = load_policy(V1)
    assert isinstance(policy, Thresholds)
    rule = policy.early_warning.model_copy(update={"dti_at_least": threshold})
    code = policy.model_copy(update={"early_warning": rule}).reason_codes[0]
    assert float(code.removeprefix("DTI>=")) == threshold


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: lendingclub-v1", "", "name: is missing, add it"),
        ("lendingclub-v1", "Lending Club", "name: String should match pattern"),
        ("lendingclub-v1", "-v1", "name: String should match pattern"),
        ("lendingclub-v1", "x" * 65, "name: String should match pattern"),
        ("lendingclub-v1", '"v1\\n"', "name: String should match pattern"),
        ("lendingclub-v1", "2026", "name: Input should be a valid string"),
        ("lendingclub-v1", "2026-01-31", "name: Input should be a valid string"),
        ("  dti: [20, 30, 40]", "", "bands.dti: is missing, add it"),
        ("[20, 30, 40]", "[20, 30]", "bands.dti.2: is missing, add it"),
        ("[20, 30, 40]", "[20, 30, 40, 50]", "bands.dti: must be a list of three numbers"),
        ("[20, 30, 40]", "20", "bands.dti: must be a list of three numbers"),
        ("[20, 30, 40]", "{low: 20}", "bands.dti: must be a list of three numbers"),
        ("[20, 30, 40]", "[20, 40, 30]", "bands.dti: band edges must ascend, got [20.0, 40.0, 30"),
        ("[30, 60, 80]", "[60, 60, 80]", "bands.revol_util: band edges must ascend"),
        ("[20, 30, 40]", "[-1, 30, 40]", "bands.dti.0: Input should be greater than or equal to 0"),
        ("[10, 15, 20]", "[10, 15, .nan]", "bands.int_rate.2: Input should be a finite number"),
        ("[10, 15, 20]", "[10, 15, .inf]", "bands.int_rate.2: Input should be a finite number"),
        ("[20, 30, 40]", '["20", 30, 40]', "bands.dti.0: Input should be a valid number"),
        ("[20, 30, 40]", "[20%, 30%, 40%]", "bands.dti.1: Input should be a valid number"),
        ("[20, 30, 40]", "[on, 30, 40]", "bands.dti.0: Input should be a valid number"),
        ("dti_at_least: 30", "", "early_warning.dti_at_least: is missing, add it"),
        ("dti_at_least: 30", "dti_at_least:", "dti_at_least: Input should be a valid number"),
        ("dti_at_least: 30", "dti_at_least: true", "dti_at_least: Input should be a valid number"),
        ("dti_at_least: 30", "dti_at_least: -30", "dti_at_least: Input should be greater than or"),
        ("dti_at_least: 30", "dti_at_least: .nan", "dti_at_least: Input should be a finite number"),
        (
            "dti_at_least: 30",
            "dti_at_leest: 30",
            "early_warning.dti_at_leest: is no field of a policy, correct its name or remove it",
        ),
        ("elevated_from: High", "elevated_from: Low", "elevated_from: Input should be 'Moderate',"),
        ("elevated_from: High", "elevated_from: high", "elevated_from: Input should be 'Moderate'"),
        ("name:", "owner: risk\nname:", "owner: is no field of a policy, correct its name or"),
        (DEFAULT, "", "document: must be a mapping of fields to values"),
        (DEFAULT, "- lendingclub-v1", "document: must be a mapping of fields to values"),
        ("early_warning:", "early_warning: 30\nrest:", "early_warning: must be a mapping"),
    ],
)
def test_a_policy_that_is_not_valid(
    load: Callable[[str], Policy], old: str, new: str, message: str
) -> None:
    assert old in DEFAULT
    with pytest.raises(PolicyError, match=re.escape(message)) as error:
        load(DEFAULT.replace(old, new))
    assert re.match(r"policy \S+/policy\.yaml is not valid: ", str(error.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML: while parsing .* line 1, column 8"),
        ("\tname: x", "is not YAML: while scanning .* line 1, column 1"),
        ("name: \0", "is not YAML: unacceptable character"),
        ("name: 2026-13-45", "is not YAML: month must be in 1..12"),
        ("? {a: b}\n: c", "is not YAML: .* unhashable key"),
        ("name: !!python/object:os.system x", "is not YAML: could not determine a constructor"),
        ("[" * 1_000, "is not YAML: maximum recursion depth exceeded"),
        (b"\xff\xfe", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_file_that_is_no_policy(
    load: Callable[[str | bytes], Policy], text: str | bytes, message: str
) -> None:
    with pytest.raises(PolicyError) as error:
        load(text)
    assert re.match(rf"policy \S+/policy\.yaml {message}", str(error.value), re.DOTALL)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(PolicyError, match=rf"^policy {re.escape(str(path))} cannot be read: "):
            load_policy(path)
