"""Decision tables: what conditions mean, what rules give, and what is refused."""

import operator
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from credit_risk_dagster.domain.decision import decide
from credit_risk_dagster.domain.decision_table import DecisionTable
from credit_risk_dagster.domain.policy import (
    BANDS,
    PolicyError,
    Thresholds,
    load_policy,
    parse_policy,
    validate_policy,
)
from credit_risk_dagster.domain.policy_diff import differences
from credit_risk_dagster.domain.unary import BadTest, parse_test
from credit_risk_dagster.settings import DEFAULT_POLICY

V1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
V1_TABLE = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1-table.yaml"))
V2 = load_policy(DEFAULT_POLICY)
BANDS_OF = {"dti": [20, 30, 40], "revol_util": [30, 60, 80], "int_rate": [10, 15, 20]}
MISSING = None


def table(*rules: dict[str, Any], **fields: Any) -> DecisionTable:
    """A policy of these rules; what a rule leaves out is filled in."""
    rows = [
        {"id": f"rule-{at}", "words": "Because", "tier": "Watchlist", **rule}
        for at, rule in enumerate(rules)
    ]
    found = validate_policy(
        {"name": "any", "bands": BANDS_OF, "rules": rows, **fields}, "of a test"
    )
    assert isinstance(found, DecisionTable)
    return found


def says(policy: DecisionTable, **given: Any) -> tuple[str, str | None, list[str]]:
    tier, outcome, reasons = policy.says(given)
    return tier, outcome, [*reasons]


def fires(condition: dict[str, Any], **given: Any) -> bool:
    return says(table({"when": condition, "missing": "ignore"}), **given)[0] == "Watchlist"


# --- tests of one input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "test", "true", "false"),
    [
        ("dti", ">= 30", [30, 31], [29.99, MISSING]),
        ("dti", "> 30", [30.01], [30, MISSING]),
        ("dti", "<30", [29.99, 0], [30, MISSING]),
        ("dti", "<= 30", [30], [30.01, MISSING]),
        ("dti", "!= 30", [29], [30, MISSING]),
        ("dti", 30, [30], [29, MISSING]),
        ("dti", "[20..30]", [20, 30], [19.99, 30.01, MISSING]),
        ("dti", "(20..30)", [20.01, 29.99], [20, 30, MISSING]),
        ("dti", "]20..30[", [20.01, 29.99], [20, 30, MISSING]),
        ("dti", "< 10, [20..30), 50", [9, 20, 50], [10, 30, 51, MISSING]),
        ("dti", "not(< 10, > 50)", [10, 50], [9, 51, MISSING]),
        ("dti", "missing", [MISSING, 999], [0]),
        ("dti", "known", [0], [MISSING]),
        ("delinq_2yrs", [1, 2], [1, 2], [0, 3, MISSING]),
        ("band(dti)", ">= High", [30.01, 99], [30, MISSING]),
        ("band(dti)", "High, Very High", [30.01, 99], [30, MISSING]),
        ("band(dti)", ["Low", "Very High"], [20, 41], [21, 40, MISSING]),
        ("band(dti)", "not(Low)", [20.01], [20, MISSING]),
        ("band(dti)", "[Moderate..High]", [21, 40], [20, 41, MISSING]),
        ("grade", "A", ["A", "a"], ["B", MISSING]),
        ("grade", ["A", "B"], ["A", "B"], ["C", MISSING]),
        ("addr_state", "not(CA, NV)", ["NY"], ["CA", "NV", MISSING]),
        ("purpose", "missing", [MISSING, "n/a"], ["car"]),
        ("issue_d", "[2018-01..2018-03-31]", ["Jan-2018", "Mar-18"], ["Apr-2018", MISSING]),
        ("issue_d", "< 2018-02", ["Jan-2018"], ["Feb-2018", MISSING]),
    ],
)
def test_a_test_of_an_input(column: str, test: Any, true: list[Any], false: list[Any]) -> None:
    field = re.sub(r"band\((.*)\)", r"\1", column)
    for expected, values in ((True, true), (False, false)):
        for value in values:
            assert fires({column: test}, **{field: value}) is expected, (test, value)
    written = table({"when": {column: test}}).rules[0].when.node.text
    assert parse_test(column, written).text == written  # what is stored means the same


def test_a_column_is_compared_with_another() -> None:
    assert fires({"loan_amnt": "> 0.5 * annual_inc"}, loan_amnt=51, annual_inc=100)
    assert not fires({"loan_amnt": "> 0.5 * annual_inc"}, loan_amnt=50, annual_inc=100)
    assert not fires({"loan_amnt": "> annual_inc"}, loan_amnt=50, annual_inc=None)
    assert fires({"dti": "!= dti_joint"}, dti=50, dti_joint=40, application_type="Individual")
    assert not fires({"dti": "!= dti_joint"}, dti=50)


def test_the_models_probability_is_an_input() -> None:
    assert fires({"pd": "> 0.2"}, pd=0.21)
    assert not fires({"pd": "> 0.2"})


# --- conditions -----------------------------------------------------------------------------------

FIELDS = {
    "dti": (0, 20, 25, 40, None),
    "revol_util": (0, 30, 70, None),
    "delinq_2yrs": (0, 1, None),
}
RELATIONS = {"<": operator.lt, ">=": operator.ge, "=": operator.eq}


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    def test(field: str) -> st.SearchStrategy[dict[str, Any]]:
        values = [value for value in FIELDS[field] if value is not None]
        return st.builds(
            lambda relation, value: {field: f"{relation} {value}"},
            st.sampled_from([*RELATIONS]),
            st.sampled_from(values),
        )

    def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        parts = st.lists(inner, min_size=1, max_size=3)
        return st.one_of(
            parts.map(lambda found: {"all": found}),
            parts.map(lambda found: {"any": found}),
            inner.map(lambda found: {"not": found}),
        )

    return st.recursive(st.sampled_from([*FIELDS]).flatmap(test), grown, max_leaves=6)


def truth(condition: dict[str, Any], row: dict[str, float | None]) -> bool | None:
    """Kleene's logic, one application at a time; None is unknown."""
    ((key, part),) = condition.items()
    if key == "not":
        inner = truth(part, row)
        return None if inner is None else not inner
    if key in ("all", "any"):
        found = [truth(each, row) for each in part]
        decisive = key == "any"
        return decisive if decisive in found else None if None in found else not decisive
    relation, value = part.split()
    given = row[key]
    return None if given is None else RELATIONS[relation](given, float(value))


@given(conditions(), st.fixed_dictionaries({f: st.sampled_from(v) for f, v in FIELDS.items()}))
def test_conditions_have_three_values(
    condition: dict[str, Any], row: dict[str, float | None]
) -> None:
    found = truth(condition, row)
    low = {f: edges[0] for f, edges in BANDS_OF.items()}
    filled = {f: low.get(f) if value is None else value for f, value in row.items()}
    for missing, expected in (
        ("ignore", ("Watchlist" if found else "Low", None)),
        ("fires", ("Low" if found is False else "Watchlist", None)),
        (
            "review",
            (
                "Watchlist" if truth(condition, filled) else "Low",
                "refer" if found is None else None,
            ),
        ),
    ):
        policy = table({"when": condition, "missing": missing})
        assert says(policy, **row)[:2] == expected
        if missing == "review":
            named = (
                {f"MISSING:{f.upper()}" for f in row if row[f] is None} if found is None else set()
            )
            assert set(says(policy, **row)[2]) <= named
            assert bool(says(policy, **row)[2]) is (found is None)


def test_tests_beside_each_other_must_all_be_true() -> None:
    both = {"dti": ">= 30", "grade": "A", "any": [{"delinq_2yrs": 1}, {"inq_last_6mths": 1}]}
    assert fires(both, dti=30, grade="A", delinq_2yrs=1)
    assert not fires(both, dti=30, grade="B", delinq_2yrs=1)
    assert not fires(both, dti=30, grade="A", delinq_2yrs=2)


# --- rules ----------------------------------------------------------------------------------------


def test_collect_takes_the_worst_and_first_the_first() -> None:
    rules: list[dict[str, Any]] = [
        {"when": {"dti": ">= 20"}, "tier": "Elevated", "outcome": "approve", "reason": "A"},
        {"when": {"dti": ">= 30"}, "tier": "Watchlist", "outcome": "decline", "reason": "B"},
        {"when": {"dti": ">= 30"}, "tier": None, "outcome": "refer", "reason": "C"},
    ]
    collect, first = table(*rules), table(*rules, hit_policy="first")
    assert says(collect, dti=35) == ("Watchlist", "decline", ["A", "B", "C"])
    assert says(first, dti=35) == ("Elevated", "approve", ["A"])
    assert says(collect, dti=10) == says(first, dti=10) == ("Low", None, [])
    assert says(table(*rules, default="Elevated"), dti=10)[0] == "Elevated"
    outcome_first = table(rules[2], rules[1], hit_policy="first", default="Elevated")
    assert says(outcome_first, dti=35) == ("Elevated", "refer", ["C"])


def test_a_reason_that_two_rules_give_is_given_once() -> None:
    policy = table({"when": {"dti": 1}, "reason": "A"}, {"when": {"dti": [1, 2]}, "reason": "A"})
    assert says(policy, dti=1)[2] == says(policy, dti=2)[2] == ["A"]
    assert says(policy, dti=3)[2] == []


def test_a_first_rule_that_is_open_refers_and_lets_the_next_decide() -> None:
    rules = ({"when": {"delinq_2yrs": "> 0"}}, {"when": {"dti": "> 10"}, "tier": "Elevated"})
    policy = table(*rules, hit_policy="first")
    assert says(policy, dti=20) == ("Elevated", "refer", ["MISSING:DELINQ_2YRS"])
    policy = table(*rules[::-1], hit_policy="first")
    assert says(policy, dti=20) == ("Elevated", None, [])


def test_a_batch_is_decided_as_each_application_alone() -> None:
    random = np.random.default_rng(7)
    count = 500
    columns: dict[str, Any] = {
        name: np.where(random.random(count) < 0.2, np.nan, random.integers(0, high, count))
        for name, high in (("dti", 60), ("revol_util", 120), ("int_rate", 30), ("annual_inc", 3))
    }
    columns |= {
        name: np.where(random.random(count) < 0.2, np.nan, random.integers(0, 4, count))
        for name in ("delinq_2yrs", "inq_last_6mths")
    }
    whole = decide(V2.program, columns)
    reasons = whole.reasons().to_pylist()
    for at in range(count):
        alone = decide(V2.program, {name: values[at : at + 1] for name, values in columns.items()})
        assert (alone.tier[0], alone.outcome[0]) == (whole.tier[at], whole.outcome[at])
        assert alone.reasons().to_pylist() == [reasons[at]]


# --- the two forms --------------------------------------------------------------------------------


def generated(count: int, seed: int = 3) -> dict[str, Any]:
    """Applications of every kind: on edges and between, and missing."""
    random = np.random.default_rng(seed)

    def numbers(edges: tuple[float, ...], highest: float) -> Any:
        near = np.array([e for edge in edges for e in (edge, np.nextafter(edge, 1e9), edge - 0.01)])
        values = np.where(
            random.random(count) < 0.5,
            random.choice(near, count),
            random.uniform(0, highest, count),
        )
        return np.where(random.random(count) < 0.1, np.nan, values)

    return {
        "dti": numbers((20, 30, 40), 100),
        "revol_util": numbers((30, 60, 80), 150),
        "int_rate": numbers((10, 15, 20), 35),
        "delinq_2yrs": numbers((0, 1, 2), 3).round(),
        "inq_last_6mths": numbers((0, 1, 2), 4).round(),
    }


def old_engine(policy: Thresholds, c: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Tiers, bits of reasons and DTI bands as they were computed before there were tables."""
    rule = policy.early_warning
    fired = (
        c["dti"] >= rule.dti_at_least,
        c["revol_util"] >= rule.revol_util_at_least,
        c["delinq_2yrs"] > rule.delinq_2yrs_above,
        c["inq_last_6mths"] >= rule.inq_last_6mths_at_least,
    )
    warning = (fired[0] | fired[1]) & (fired[2] | fired[3])
    bits = sum((flag.astype(np.int8) << bit) for bit, flag in enumerate(fired))

    def bands(values: Any, edges: Any) -> Any:
        return np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))

    dti, util = bands(c["dti"], policy.bands.dti), bands(c["revol_util"], policy.bands.revol_util)
    elevated = np.maximum(dti, util) >= BANDS.index(policy.elevated_from)
    return np.where(warning, 2, np.where(elevated, 1, 0)), np.where(warning, bits, 0), dti


def test_the_first_version_means_the_same_in_both_forms_on_a_million_applications() -> None:
    assert isinstance(V1, Thresholds)
    applications = generated(1_000_000)
    tiers, bits, dti = old_engine(V1, applications)
    assert np.bincount(tiers).min() > 100_000
    for policy in (V1, V1_TABLE):
        found = decide(policy.program, applications)
        assert (found.tier == tiers).all()
        assert (found.outcome == -1).all()
        assert (found.bands["dti"] == dti).all()
        codes = ("DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0", "INQ_LAST_6MTHS>=2")
        assert tuple(found.fired) == codes == policy.reason_codes
        for bit, fired in enumerate(found.fired.values()):
            assert (fired == (bits >> bit & 1).astype(bool)).all()


def test_the_first_version_keeps_its_hash() -> None:
    assert V1.version == "lendingclub-v1@5a36f4be38d1"
    assert differences(V1, V1_TABLE) == [
        f"rule {row.id}, words: {row.words} → {other.words}"
        for row, other in zip(V1.table.rules, V1_TABLE.table.rules, strict=True)
        if row.words != other.words
    ]


def test_a_table_is_the_same_after_it_was_written() -> None:
    for policy in (V1.table, V1_TABLE, V2):
        for text in (policy.yaml, policy.document):
            assert parse_policy(text, "written") == policy
            assert parse_policy(text, "written").content_hash == policy.content_hash
    spaced = DEFAULT_POLICY.read_text().replace('">= 30"', '" >=30 "')
    assert parse_policy(spaced, "spaced").content_hash == V2.content_hash
    changed = DEFAULT_POLICY.read_text().replace('">= 30"', '">= 30.5"').partition("examples")[0]
    assert parse_policy(changed, "changed").content_hash != V2.content_hash


def test_a_copy_decides_by_its_own_rules() -> None:
    policy = table({"when": {"dti": "> 10"}})
    assert says(policy, dti=20)[0] == "Watchlist"
    copy = policy.model_copy(update={"rules": table({"when": {"dti": "> 30"}}).rules})
    assert says(copy, dti=20)[0] == "Low"


# --- examples -------------------------------------------------------------------------------------


def test_examples_are_checked_when_a_policy_is_loaded() -> None:
    rule = {"when": {"dti": ">= 30"}, "reason": "DTI>=30"}
    given = {"dti": "35%", "emp_length": "10+ years"}
    table(rule, examples=[{"given": given, "tier": "Watchlist", "reasons": ["DTI>=30"]}])
    table(rule, examples=[{"given": {"pd": 0.5, "dti": 1}, "tier": "Low", "reasons": []}])
    for example, message in (
        (
            {"given": given, "tier": "Low"},
            "examples.0.tier: the policy says Watchlist, the example",
        ),
        (
            {"given": given, "tier": "Watchlist", "reasons": []},
            "examples.0.reasons: the policy says",
        ),
        (
            {"given": {}, "tier": "Low", "outcome": None},
            "examples.0.outcome: the policy says refer",
        ),
        (
            {"given": {"dtl": 3}, "tier": "Low"},
            "examples.0.given: dtl is no column of an applicati",
        ),
        (
            {"given": {"dti": "x"}, "tier": "Low"},
            "examples.0.given: invalid_value:dti, write a val",
        ),
        ({"given": {"pd": "x"}, "tier": "Low"}, "examples.0.given: pd must be a number"),
    ):
        with pytest.raises(PolicyError, match=re.escape(message)):
            table(rule, examples=[example])


# --- what is refused ------------------------------------------------------------------------------

TEXT = DEFAULT_POLICY.read_text().partition("examples:")[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: lendingclub-v2", "", "name: is missing, add it"),
        ("joint: combined", "joint: both", "joint: Input should be 'combined' or 'primary'"),
        ("  dti: [20, 30, 40] ", "", "bands.dti: is missing, add it"),
        ("[20, 30, 40]", "[20, 40, 30]", "bands.dti: band edges must ascend, got [20.0, 40.0, 30"),
        ("[20, 30, 40]", "[20, 30]", "bands.dti.2: is missing, add it"),
        ("delinq_2yrs: [0", "delinq: [0", "bands.delinq: is no number of an application, correct"),
        ('{dti: ">= 30"}', '{dtl: ">= 30"}', "conditions.high-dti.dtl: is no field of a policy"),
        ('{dti: ">= 30"}', '{dti: "above 30"}', "conditions.high-dti.dti: 'above 30' is no number"),
        (
            '{dti: ">= 30"}',
            "{dti: yes}",
            "conditions.high-dti.dti: YAML reads this as true or false",
        ),
        ('{dti: ">= 30"}', "{}", "conditions.high-dti: tests nothing, write an input and its test"),
        ('{dti: ">= 30"}', "{grade: c}", "conditions.high-dti.grade: grade is never 'c', write C"),
        ('{dti: ">= 30"}', "{any: []}", "conditions.high-dti.any: "),
        (
            '{dti: ">= 30"}',
            '{band(pd): "High"}',
            "high-dti.band(pd): pd has no bands, add its edges",
        ),
        ("[{holds: delinquent}", "[{holds: behaviour}", "behaviour: needs itself, name other"),
        (
            "[stress, asking]",
            "[stres, asking]",
            "rules.3.when.holds.0: there is no condition 'stres'",
        ),
        ("id: asking", "id: delinquent", "rules.3.id: delinquent is the id of another rule, too"),
        ("    tier: Elevated\n", "", "rules.4: gives nothing, add a tier or an outcome"),
        ("outcome: refer", "outcome: phone", "rules.5.outcome: Input should be 'approve', 'refer'"),
        ("tier: Elevated", "tier: High", "rules.4.tier: Input should be 'Low', 'Elevated' or"),
        ("reason: DTI>=30", "reason: High DTI", "rules.0.reason: String should match pattern"),
        (
            "words: Debt",
            "missing: skip\n    words: Debt",
            "rules.0.missing: Input should be 'ignore',",
        ),
        ("words: 80 % of the revolving credit is used", "", "rules.1.words: is missing, add it"),
    ],
)
def test_a_table_that_is_not_valid(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(PolicyError, match=re.escape(message)) as error:
        parse_policy(TEXT.replace(old, new, 1), "theirs.yaml")
    assert "\n" not in str(error.value)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    wrong = TEXT.replace('">= 30"', '"lots"').replace("tier: Elevated", "tier: High")
    with pytest.raises(PolicyError) as error:
        parse_policy(wrong, "theirs.yaml")
    assert "conditions.high-dti.dti" in str(error.value)
    assert "rules.4.tier" in str(error.value)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        *(
            ("dti", text)
            for text in ("", ",", "30,", "> ", ">> 3", "1..2", "[1..2", "[30..20]", "inf")
        ),
        *(("dti", text) for text in ("nan", "1_0", "> dti", "2 * ", "x * annual_inc", "> purpose")),
        *(("dti", text) for text in ("not(", "known, 3", ">= 30 and < 40", "__import__('os')")),
        *(("grade", text) for text in ("H", "> A", "[A..C]", "nan", "A;B", "")),
        *(("issue_d", text) for text in ("soon", "> 2018-13")),
        *(("band(dti)", text) for text in ("High risk", "2", ">= high")),
        *(("figures", text) for text in ("both",)),
    ],
)
def test_a_test_that_cannot_be_read(column: str, text: str) -> None:
    with pytest.raises(BadTest):
        parse_test(column, text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_stored_as_they_were_written(number: float) -> None:
    text = parse_test("dti", f">= {number!r}").text
    ((comparison,),) = parse_test("dti", text).either
    assert comparison.operand == number
