"""`credit-risk experiment ...`."""

import json

import psycopg
import pytest

from infra.embedded.servers import Postgres
from tests.pipelines.approvals import approved, stored_policy
from tests.platform.commands import Run, one_line
from tests.platform.pipeline import Pipeline, good_event


@pytest.mark.usefixtures("servers")
def test_an_experiment_from_its_submission_to_its_end(
    pipeline: Pipeline, postgres: Postgres, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send_and_drain([good_event(1)])
    with pipeline.warehouse.session() as connection:
        approved(connection, "policy", stored_policy(connection, "second"))
    split = ("experiment", "submit", "second", "--share", 90)
    assert "(split, 90 % to second@" in run(*split, "--why", "fewer losses").out
    shadow = run("experiment", "submit", 2, "--why", "beside").out
    assert "experiment 2 (shadow of second@" in shadow
    assert "is submitted by postgres: somebody else" in shadow
    own = one_line(run("experiment", "approve", 1, "--why", "mine"))
    assert own == "postgres submitted experiment 1 and cannot approve it: somebody else has to"
    with psycopg.connect(postgres.uri("postgres"), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS cy; CREATE ROLE cy LOGIN SUPERUSER")
    with pipeline.warehouse.connect() as connection:
        monkeypatch.setenv("DATABASE_URL", postgres.uri(connection.info.dbname, "cy"))
    for experiment in (1, 2):
        for step in ("approve", "start"):
            assert "by cy" in run("experiment", step, experiment, "--why", "agreed").out
    pipeline.send_and_drain([good_event(number) for number in range(100)])
    arms = pipeline.query(
        "SELECT arm, count(*) AS n FROM scored_applications GROUP BY 1 ORDER BY 1"
    )
    assert [row["arm"] for row in arms] == ["second/challenger", "second/champion", None]
    assert "is stopped by cy" in run("experiment", "stop", 1, "--why", "seen enough").out
    listed = json.loads(run("experiment", "ls", "--json").out)
    assert [(one["share"], one["state"]) for one in listed] == [(None, "running"), (90, "stopped")]
    assert [given["action"] for given in listed[1]["approvals"]] == [
        *("submit", "approve", "activate", "retire"),
    ]
    assert "stopped" in run("experiment", "ls").out
    for wrong, said in (
        (("submit", "--why", "x"), "give either a policy or a model, the challenger"),
        (("submit", 2, "--salt", "a", "--why", "x"), "a shadow decides no share"),
        (("submit", "--model", 7, "--why", "x"), "model 7 is none that can score"),
        (("start", 9, "--why", "x"), "there is no experiment 9"),
        (("stop", 1, "--why", "x"), "experiment 1 is not active"),
    ):
        assert said in one_line(run("experiment", *wrong))
    bad = run(*split, "--salt", "a b", "--why", "x")
    assert "--salt" in one_line(bad)
