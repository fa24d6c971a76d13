"""`credit-risk policy ...`."""

import json
from pathlib import Path

from credit_risk_dagster.settings import DEFAULT_POLICY
from tests.malformed import event
from tests.platform.commands import Run, one_line

V1 = DEFAULT_POLICY.with_name("lendingclub-v1.yaml")


def test_a_policy_is_checked(tmp_path: Path, run: Run) -> None:
    right = run("policy", "check", V1)
    assert (right.code, right.out) == (0, f"{V1}: nothing is wrong, nothing is odd\n")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(DEFAULT_POLICY.read_text().replace("tier: Elevated", "tier: High"))
    found = run("policy", "check", wrong)
    assert found.code == 1
    assert found.out.startswith(f"{wrong}: line 41: error: rules.4.tier: Input should be 'Low'")
    assert one_line(run("policy", "check", tmp_path / "none.yaml")).startswith("policy ")
    sample = tmp_path / "sample.jsonl"
    sample.write_bytes(event(annual_inc=0) + b"\n" + event(revol_util=90) + b"\n")
    odd = run("policy", "check", DEFAULT_POLICY, "--sample", sample)
    assert odd.code == 0
    assert "none of the 2 applications of the sample fires it" in odd.out


def test_two_policies_are_compared(run: Run) -> None:
    said = run("policy", "diff", V1, DEFAULT_POLICY)
    assert said.code == 0
    assert "joint applications are decided by: primary → combined" in said.out
    assert run("policy", "diff", V1, V1).out == "they decide the same\n"


def test_a_decision_is_explained(run: Run) -> None:
    said = run("policy", "explain", stdin=event())
    assert said.out.startswith("Watchlist by lendingclub-v2@")
    assert "  high-dti fired: delinq_2yrs is 1 (Moderate), dti is 35.5 (High)" in said.out
    assert "  income-of-zero did not fire: annual_inc is 60000, dti is 35.5 (High)" in said.out
    told = json.loads(run("policy", "explain", V1, "--json", stdin=event(dti=10)).out)
    assert told["policy"] == "lendingclub-v1@5a36f4be38d1"
    assert [rule["fired"] for rule in told["rules"]] == [False, True, True, False, True]
    assert run("policy", "explain", stdin=event(dti=None)).out == (
        "rejected: missing_required:dti\n"
    )


def test_the_schema_knows_every_column(run: Run) -> None:
    schema = json.loads(run("policy", "schema").out)
    condition = schema["$defs"]["Condition"]["properties"]
    assert {"all", "any", "not", "holds", "dti", "band(dti)", "purpose", "pd"} <= condition.keys()
    assert condition["dti"]["description"]
    assert set(schema["required"]) == {"name", "bands", "rules"}
