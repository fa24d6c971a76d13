"""Every command, while one thing is broken: it does without, or says in one line which it is."""

import shlex

import psycopg
import pytest

from infra.embedded.servers import HOST, Postgres, free_port
from tests.cli.test_main import COMMANDS, EVERY
from tests.platform.commands import Run
from tests.platform.pipeline import Pipeline, good_event

# With the arguments that each needs; those that serve, or ask nobody, are left out.
CALLS = """
archive run
lake verify
baseline freeze
baseline ls
baseline approve 1 --why seen
baseline activate 1
baseline accept-columns
migrate
grant-reader nobody
forget 9 --by ada --why request-1
cases open
rebuild --into again
lake query 'SELECT 1'
lake ls
lake history
lake compact
lost ls
lost acknowledge --by ada
lost abandon --by ada --why gone
model benchmark --sample scored
model train --sample scored
model ls
model vintages
model document 1
model approve 1 --why seen
model activate 1
model deactivate
model export 1
reconciliation ls
reconciliation count
reconciliation clear --by ada --why seen
outcomes load tests/interop/outcomes.csv
inventory
rejected ls
rejected show 0 0
rejected redrive
policy submit credit_risk_dagster/domain/policies/lendingclub-v1.yaml --why fewer-losses
policy approve 1 --why seen
policy activate 1 --why seen
policy rollback --why seen
policy retire 1 --why seen
policy ls
policy show 1
experiment submit 1 --share 10 --why cautious
experiment approve 1 --why seen
experiment start 1 --why seen
experiment stop 1 --why seen
experiment ls
produce --max 1
status
topic create
topic reset --yes
topic new-epoch
"""
NO_SERVER = (
    *("api", "demo", "up", "score", "lake get", "model fairness"),
    *(f"policy {command}" for command in ("check", "diff", "explain", "schema")),
)


def test_no_command_is_left_out() -> None:
    named = [" ".join(command) for command, is_group in EVERY if not is_group]
    called = [line.split(" -")[0] for line in CALLS.strip().splitlines()]
    left = [n for n in named if not any(c == n or c.startswith(f"{n} ") for c in called)]
    assert [name for name in left if not name.startswith(NO_SERVER)] == []
    assert COMMANDS


def breaks(what: str, postgres: Postgres, database: str) -> dict[str, str]:
    nowhere = f"{HOST}:{free_port()}"
    if what == "no right":
        with psycopg.connect(postgres.uri(database), autocommit=True) as admin:
            admin.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN")
    return {
        "Postgres is down": {"DATABASE_URL": f"postgresql://u:hush@{nowhere}/x"},
        "no such role": {"DATABASE_URL": postgres.uri(database, "nobody")},
        "no such database": {"DATABASE_URL": postgres.uri("nowhere")},
        "no right": {"DATABASE_URL": postgres.uri(database, "stranger")},
        "no schema": {"CREDIT_RISK_SCHEMA": "nowhere"},
        "the broker is down": {"KAFKA_BOOTSTRAP_SERVERS": nowhere, "KAFKA_TIMEOUT_MS": "500"},
        "no topic": {"KAFKA_TOPIC": "nowhere"},
        "S3 is down": {"AWS_ENDPOINT_URL_S3": f"http://{nowhere}", "S3_MAX_ATTEMPTS": "1"},
        "no bucket": {"S3_BUCKET": "nowhere"},
        "no key": {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    }[what]


@pytest.mark.long
@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(
    "what",
    [
        *("Postgres is down", "no such role", "no such database", "no right", "no schema"),
        *("the broker is down", "no topic", "S3 is down", "no bucket", "no key"),
    ],
)
def test_a_command_says_in_one_line_what_is_broken(
    what: str, pipeline: Pipeline, postgres: Postgres, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pipeline.warehouse.connect() as connection:
        database = connection.info.dbname
    for name, value in breaks(what, postgres, database).items():
        monkeypatch.setenv(name, value)
    pipeline.send_and_drain([good_event(9), b"junk"])
    told: list[tuple[str, int, list[str]]] = []
    for call in CALLS.strip().splitlines():
        if what == "no schema" and call.startswith(("migrate", "rebuild")):
            continue  # they make it
        result = run(*shlex.split(call))
        assert "hush" not in result.err, call
        if result.code:
            told.append((call, result.code, result.err.splitlines()))
    assert told, "nobody needs it"
    wrong = [
        (call, code, lines)
        for call, code, lines in told
        if code != 1 or len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 500
    ]
    assert wrong == []
