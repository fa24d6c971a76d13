"""`credit-risk policy ...`."""

import json
from pathlib import Path

import psycopg
import pytest

from credit_risk_dagster.settings import DEFAULT_POLICY
from infra.embedded.servers import Postgres
from tests.malformed import event
from tests.pipelines.approvals import DEFAULT, named
from tests.platform.commands import Run, one_line
from tests.platform.pipeline import Pipeline, good_event

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


@pytest.mark.usefixtures("servers")
def test_a_policy_from_its_submission_to_its_end(
    pipeline: Pipeline,
    postgres: Postgres,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, evidence = tmp_path / "second.yaml", tmp_path / "evidence.json"
    file.write_text(named("second").yaml)
    evidence.write_text('{"applications": 18}')
    pipeline.send_and_drain([good_event(1)])
    submitted = run("policy", "submit", file, "--why", "fewer losses", "--evidence", evidence)
    assert f"{named('second').version} is policy 2, submitted by postgres" in submitted.out
    own = one_line(run("policy", "approve", 2, "--why", "mine"))
    assert own == "postgres submitted policy 2 and cannot approve it: somebody else has to"
    early = one_line(run("policy", "activate", "second", "--why", "now"))
    assert early == "policy 2 is not approved: somebody other than its author has to"

    with psycopg.connect(postgres.uri("postgres"), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS bo; CREATE ROLE bo LOGIN SUPERUSER")
    with pipeline.warehouse.connect() as connection:
        monkeypatch.setenv("DATABASE_URL", postgres.uri(connection.info.dbname, "bo"))
    assert "is approved by bo" in run("policy", "approve", "second", "--why", "checked").out
    over = run("policy", "activate", 2, "--why", "late", "--at", "2020-01-01")
    assert one_line(over).startswith("2020-01-01 00:00:00 UTC is over")
    later = run("policy", "activate", 2, "--why", "then", "--at", "2090-01-01T06:30")
    assert "policy 2 decides from 2090-01-01 06:30:00 UTC on, activated by bo" in later.out
    assert "will not decide" in run("policy", "retire", 2, "--why", "not yet").out
    assert "activated by bo" in run("policy", "activate", 2, "--why", "now").out
    pipeline.send_and_drain([good_event(2)])
    assert "policy 1 decides" in run("policy", "rollback", "--why", "too many").out
    pipeline.send_and_drain([good_event(3)])
    used = pipeline.query("SELECT policy_id FROM batches WHERE scored > 0 ORDER BY batch_id")
    assert [row["policy_id"] for row in used] == [1, 2, 1]

    listed = json.loads(run("policy", "ls", "--json").out)
    assert [(p["version"], p["state"]) for p in listed] == [
        (named("second").version, "retired"),
        (DEFAULT.version, "active"),
    ]
    assert [(a["action"], a["who"]) for a in listed[0]["approvals"]] == [
        *(("submit", "postgres"), ("approve", "bo"), ("activate", "bo"), ("retire", "bo")),
        ("activate", "bo"),
    ]
    assert listed[0]["approvals"][0]["evidence"] == {"applications": 18}
    assert len(listed[1]["activations"]) == 2
    assert "retired" in run("policy", "ls").out
    shown = run("policy", "show", 2).out
    assert "approve by bo: checked" in shown
    assert "name: second" in shown
    assert one_line(run("policy", "show", 9)).startswith("there is no policy '9'")
    monkeypatch.setenv("CREDIT_RISK_POLICY_FILE", str(file))
    assert "is policy 3" in run("policy", "submit", tried(tmp_path), "--why", "x").out
    monkeypatch.setenv("CREDIT_RISK_POLICY_FILE", str(tried(tmp_path)))
    assert (
        f"policy {named('tried').version} decides: CREDIT_RISK_POLICY_FILE "
        f"({named('tried').version}) decides, and was never activated: the active policy is 1"
    ) in run("status").out


def tried(folder: Path) -> Path:
    """A file with a policy that nobody activated."""
    file = folder / "tried.yaml"
    file.write_text(named("tried").yaml)
    return file
