"""Checking, comparing and explaining policies."""

import json
from typing import Any

import pytest

from credit_risk_dagster.domain.pd import Coefficients, NumberTerm, PdModel
from credit_risk_dagster.domain.policy import PolicyError, load_policy, parse_policy
from credit_risk_dagster.domain.policy_check import check
from credit_risk_dagster.domain.policy_diff import differences
from credit_risk_dagster.domain.policy_explain import explain
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.settings import DEFAULT_POLICY, PROJECT_ROOT
from tests.malformed import event

V1, V1_TABLE, V2 = (
    DEFAULT_POLICY.with_name(f"lendingclub-{name}.yaml") for name in ("v1", "v1-table", "v2")
)
HEAD = """\
name: any
bands: {dti: [20, 30, 40], revol_util: [30, 60, 80], int_rate: [10, 15, 20]}
"""


def found(text: str, loans: list[bytes] | None = None) -> list[str]:
    return [str(each) for each in check(text, None if loans is None else lambda: loans)]


def rules(*conditions: str, first: bool = True) -> str:
    """A policy with a rule a line from line 5 on, each with another tier than the one before."""
    tiers = ("Low", "Elevated", "Watchlist")
    lines = [
        f"  - {{id: r{at}, when: {condition}, tier: {tiers[at % 3]}, words: x}}"
        for at, condition in enumerate(conditions)
    ]
    policy = "first" if first else "collect"
    return HEAD + f"hit_policy: {policy}\nrules:\n" + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def loans() -> list[bytes]:
    return [json.dumps(loan).encode() for loan in builtin_loans()]


def test_the_policies_that_come_along_are_right(loans: list[bytes]) -> None:
    assert found(V1.read_text(), loans) == found(V1_TABLE.read_text(), loans) == []
    (never,) = found(V2.read_text(), loans)  # no loan that was granted had an income of 0
    assert "warning: rules.5.when: none of the 10,000 applications of the sample" in never
    assert found(V2.read_text(), [event(annual_inc=0), event(inq_last_6mths=3)]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            V2.read_text().replace("  high-dti: {dti:", "  high-dti: {dtl:"),
            "line 12: error: conditions.high-dti.dtl: is no field of a policy, correct its name",
        ),
        (
            V2.read_text().replace("[20, 30, 40]", "[20, 40, 30]"),
            "line 6: error: bands.dti: band edges must ascend, got [20.0, 40.0, 30.0]",
        ),
        (
            V1.read_text().replace("dti_at_least: 30", "dti_at_least: lots"),
            "line 8: error: early_warning.dti_at_least: Input should be a valid number",
        ),
        (
            rules('{dti: "> 1"}', "{dti: most}"),
            "line 6: error: rules.1.when.dti: 'most' is no number",
        ),
        (
            rules('{dti: "> 1"}', "{grade: c}"),
            "line 6: error: rules.1.when.grade: grade is never 'c'",
        ),
        (
            rules('{all: [{dti: "< 20"}, {dti: "> 30"}]}'),
            "line 5: warning: rules.0.when: no application can ever fire it",
        ),
        (
            rules('{dti: ">= 10"}', '{dti: "[20..30]", purpose: car}'),
            "line 6: warning: rules.1.when: is never reached: whoever fires it fires one of r0",
        ),
        (
            rules('{dti: "< 20"}', '{dti: ">= 20"}', "{dti: 25}"),
            "line 7: warning: rules.2.when: is never reached: whoever fires it fires one of r0, r1",
        ),
        (
            rules('{dti: "> 20"}', '{dti: "< 21"}'),
            "line 6: warning: rules.1.when: overlaps with rule r0, which decides where both fire",
        ),
        (
            rules("{purpose: car}", "{grade: A}"),
            "line 6: warning: rules.1.when: overlaps with rule r0, which decides where both fire",
        ),
        (
            rules('{loan_amnt: "> annual_inc"}', '{loan_amnt: "> 0.5 * annual_inc"}'),
            "line 6: warning: rules.1.when: overlaps with rule r0",
        ),
        (
            rules('{dti: "[0..20]"}', '{dti: "[25..30]"}', first=False),
            "line 6: warning: rules.1.when: dti 20 to 25 is in none of r0, r1, close the gap",
        ),
        (
            rules("{dti: 1}", first=False).replace("rules:", "conditions: {x: {dti: 1}}\nrules:"),
            "line 4: warning: conditions.x: no rule names it, remove it",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_a_fix(text: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in found(text)), found(text)


@pytest.mark.parametrize(
    "text",
    [
        rules('{dti: "< 20"}', '{dti: "[20..30)"}', '{dti: ">= 30"}'),
        rules("{band(dti): Low}", "{band(dti): Moderate}", '{band(dti): ">= High"}'),
        rules("{purpose: car}", "{purpose: not(car)}", "{purpose: missing}"),
        rules('{dti: "> 20", grade: A}', '{dti: "> 20", grade: "not(A)"}'),
        rules('{loan_amnt: "> annual_inc"}', '{loan_amnt: "<= annual_inc"}'),
        rules('{issue_d: "< 2018-02"}', '{issue_d: ">= 2018-02"}'),
        rules('{dti: "> 20"}', '{dti: "< 21"}', first=False),
    ],
)
def test_what_is_right_is_not_complained_of(text: str) -> None:
    assert found(text) == []


def test_a_rule_that_no_application_of_the_sample_fires(loans: list[bytes]) -> None:
    text = rules("{purpose: spaceship}", "{addr_state: CA}", '{pd: "> 0.9"}', first=False)
    (line,) = found(text, loans)
    assert line.startswith(
        "line 5: warning: rules.0.when: none of the 10,000 applications of the s"
    )


def test_the_policy_that_the_documentation_teaches_is_right(loans: list[bytes]) -> None:
    page = (PROJECT_ROOT / "docs" / "policy.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    assert found(text, loans) == []
    (line, *_) = found(text.replace("dti: 35", "dti: 25"))
    assert f"`{line}`" in " ".join(page.split())


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(PolicyError, match="is not YAML"):
        check("name: [")
    assert found("") == ["line 1: error: document: must be a mapping of fields to values"]


def test_two_hundred_rules_are_checked_in_seconds() -> None:
    text = rules(*(f'{{dti: "[{at}..{at + 1})", grade: A}}' for at in range(60)))
    assert found(text) == []


# --- differences ----------------------------------------------------------------------------------


def test_differences_are_said_in_words() -> None:
    before, after = load_policy(V1), load_policy(V2)
    said = differences(before, after)
    assert said[0] == "joint applications are decided by: primary → combined"
    assert "bands of delinq_2yrs are new" in said
    assert "rule asking, missing: ignore → review" in said
    assert any(line.startswith("rule income-of-zero is new: ") for line in said)
    text = V2.read_text().partition("examples")[0]
    for old, new, words in (
        ('">= 30"', '">= 28"', "condition high-dti, dti: >= 30 → >= 28"),
        ("[20, 30, 40]", "[20, 31, 40]", "dti is Moderate up to: 30 → 31"),
        ("tier: Elevated", "tier: Watchlist", "rule elevated, tier: Elevated → Watchlist"),
        ("joint: combined", "hit_policy: first", "hit policy: collect → first"),
    ):
        assert differences(after, parse_policy(text.replace(old, new, 1), "x")) == [words]
    assert differences(after, parse_policy(text, "without examples")) == []


# --- explanations ---------------------------------------------------------------------------------


def test_every_rule_is_explained() -> None:
    told = explain(
        event(delinq_2yrs=None, inq_last_6mths=0, dti=35, revol_util=50), load_policy(V2)
    )
    by_id: dict[str, dict[str, Any]] = {rule["id"]: rule for rule in told["rules"]}
    assert (told["risk_tier"], told["recommendation"]) == ("Elevated", "refer")
    assert by_id["high-dti"]["fired"] is None
    assert by_id["high-dti"]["counts_as_fired"] is False
    assert by_id["high-dti"]["inputs"] == {"delinq_2yrs": None, "dti": 35.0, "inq_last_6mths": 0.0}
    assert by_id["high-dti"]["bands"]["dti"] == "High"
    assert by_id["high-utilization"]["fired"] is False
    assert by_id["elevated"]["fired"] is True
    assert explain(event(dti=None), load_policy(V2))["rules"] == []


def test_the_models_probability_decides_and_is_explained() -> None:
    policy = parse_policy(
        rules('{pd: "> 0.5"}', '{dti: "> 1000"}', first=False).replace(
            "tier: Low", "tier: Watchlist"
        ),
        "x",
    )
    terms = [NumberTerm("dti", 1.0, 20.0, 0.0, 0.0)]
    model = PdModel(1, "test@1", Coefficients(0.0, terms))  # type: ignore[arg-type]
    for dti, tier in ((10, "Low"), (30, "Watchlist")):
        told = explain(event(dti=dti), policy, model)
        assert told["risk_tier"] == tier
        assert told["rules"][0]["inputs"]["pd"] == pytest.approx(told["pd"])
    told = explain(event(dti=30), policy)
    assert (told["risk_tier"], told["recommendation"]) == ("Low", "refer")
    assert told["reasons"] == ["MISSING:PD"]
