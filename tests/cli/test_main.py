"""The command line: every command, and what it says when something is wrong.

In this process where that is the same; the demo and the embedded servers as processes of their own.
"""

import fcntl
import gzip
import hashlib
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
import typer.main
from pydantic import SecretStr

from credit_risk_dagster.cli import main as cli
from credit_risk_dagster.cli.stream import SCORE_CHUNK_EVENTS
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    PROJECT_ROOT,
    ApiSettings,
    KafkaSettings,
    WarehouseSettings,
)
from infra.embedded.servers import HOST, Broker, Postgres, free_port
from resources.kafka.broker import Broker as Topic
from resources.kafka.errors import TopicMissing
from resources.postgres.connection import Warehouse, fetch_all
from resources.postgres.reconciliation import reconcile
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.processes import processes_of
from tests.platform.waiting import wait_until

CREDIT_RISK = [str(Path(sys.executable).with_name("credit-risk"))]


def commands(found: Any, *path: str) -> Iterator[tuple[list[str], bool]]:
    """Every command of the application by its words, and whether it is a group of commands."""
    inner = getattr(found, "commands", {})
    yield [*path], bool(inner)
    for name, command in inner.items():
        yield from commands(command, *path, name)


EVERY = list(commands(typer.main.get_command(cli.app)))
COMMANDS = [command for command, _ in EVERY]
GROUPS = [command for command, is_group in EVERY if is_group]


@dataclass(frozen=True)
class Result:
    """What a command did: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `credit-risk` in this process, as its entry point does."""

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["credit-risk", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        captured = capsys.readouterr()
        return Result(code or 0, captured.out, captured.err)

    return run


def error(message: str) -> Result:
    """A failure that says one line and nothing else."""
    return Result(1, "", f"error: {message}\n")


def one_line(result: Result) -> str:
    """The only line of a failure."""
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# --- the API ------------------------------------------------------------------------------------


def test_a_new_key_and_its_hash(run: Run) -> None:
    result = run("api-key", "new", "loan-origination")
    key, entry = result.out.splitlines()
    assert (result.code, key[:4]) == (0, "crk_")
    assert entry == f"loan-origination:{hashlib.sha256(key.encode()).hexdigest()}"
    assert ApiSettings(keys=entry).hashes == {
        "loan-origination": hashlib.sha256(key.encode()).digest()
    }
    assert run("api-key", "new", "loan-origination").out != result.out
    assert "'two words' is not" in one_line(run("api-key", "new", "two words"))


def test_the_api_says_where_it_cannot_listen(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = one_line(run("api", "--port", port))
    assert wrong.startswith(f"cannot listen on 127.0.0.1:{port} (CREDIT_RISK_API_HOST, ")
    assert "in use" in wrong


def test_the_api_does_not_start_open_to_others(run: Run) -> None:
    assert run("api", "--host", "0.0.0.0") == error(
        "CREDIT_RISK_API_HOST=0.0.0.0 can be reached from other machines, so it needs "
        "CREDIT_RISK_API_KEYS: `credit-risk api-key new` makes one"
    )


# --- help and usage -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_tells_everything(command: list[str], run: Run) -> None:
    found: Any = typer.main.get_command(cli.app)
    for name in command:
        found = found.commands[name]
    result = run(*command, "--help")
    assert (result.code, result.err) == (0, "")
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.out).split())
    for paragraph in found.help.split("\n\n"):
        assert " ".join(paragraph.replace("`", "").split()) in shown.replace("`", "")
    for parameter in found.params:
        assert parameter.help or parameter.name == "help"
        assert all(option in shown for option in parameter.opts if option.startswith("--"))
    for name in getattr(found, "commands", ()):
        assert name in shown


def test_help_answers_at_once() -> None:
    """None of the slow libraries is imported before a command needs it."""
    slow = "'dagster', 'pandas', 'pyarrow', 'kafka', 'psycopg', 'streamlit', 'sklearn', 'boto3'"
    code = (
        "import sys, credit_risk_dagster.cli.main;"
        f" print([n for n in ({slow}) if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=PROJECT_ROOT)
    assert answer.stdout.decode().strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_a_usage_error(command: list[str], run: Run) -> None:
    result = run(*command, "--bogus")
    assert (result.code, result.out) == (2, "")
    assert "No such option: --bogus" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "No such command 'dance'"),
        (["topic", "dance"], "No such command 'dance'"),
        (["score"], "Missing argument 'FILE'"),
        (["produce", "--rate", "-1"], "Invalid value for '--rate'"),
        (["produce", "--rate", "nan"], "Invalid value for '--rate'"),
        (["produce", "--rate", "inf"], "Invalid value for '--rate'"),
        (["produce", "--max", "0"], "Invalid value for '--max'"),
        (["demo", "--events", "0"], "Invalid value for '--events'"),
        (["demo", "--rate", "fast"], "Invalid value for '--rate'"),
        (["demo", "--state-dir", __file__], "Invalid value for '--state-dir'"),
        (["up", "--state-dir", __file__], "Invalid value for '--state-dir'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_says_what_is_wrong(arguments: list[str], message: str, run: Run) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


@pytest.mark.parametrize("command", GROUPS, ids=" ".join)
def test_without_a_command_it_shows_the_commands(command: list[str], run: Run) -> None:
    result = run(*command)
    assert result.code == 2
    shown = (result.out + result.err).partition("Commands")[2].split()
    inner = {name[-1] for name in COMMANDS if name and name[:-1] == command}
    assert inner <= set(shown)


# --- settings -----------------------------------------------------------------------------------

NO_URL = (
    "DATABASE_URL is not like postgresql://user:password@host:port/database (in user and "
    "password, write % @ / : as %25 %40 %2F %3A)"
)


@pytest.mark.parametrize(
    ("variables", "command", "message"),
    [
        (
            {"KAFKA_PARTITIONS": "several"},
            "status",
            "KAFKA_PARTITIONS: Input should be a valid integer, unable to parse string as an "
            "integer, not 'several'",
        ),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "one:9092,two"},
            "produce",
            "KAFKA_BOOTSTRAP_SERVERS: 'two' is not host:port (or [IPv6 address]:port)",
        ),
        (
            {"KAFKA_TOPIC": "loan applications"},
            "produce",
            "KAFKA_TOPIC: String should match pattern '^[A-Za-z0-9._-]{1,249}$', "
            "not 'loan applications'",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
            "status",
            "KAFKA_SECURITY_PROTOCOL=SASL_SSL needs KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and "
            "KAFKA_SASL_PASSWORD",
        ),
        (
            {"KAFKA_SSL_CAFILE": "/no/such.pem"},
            "status",
            "KAFKA_SSL_CAFILE: Path does not point to a file, not '/no/such.pem'",
        ),
        (
            {"CREDIT_RISK_SCHEMA": "Not-A-Name"},
            "migrate",
            "CREDIT_RISK_SCHEMA: String should match pattern '^[a-z_][a-z0-9_]{0,62}$', "
            "not 'Not-A-Name'",
        ),
        *(
            ({"DATABASE_URL": url}, "migrate", NO_URL)
            for url in (
                "credit_risk",
                "mysql://me:s3cret@db/loans",
                "postgresql://me:s3cret@db:port/loans",
                "postgresql://me:s3/cret@db/loans",
                "postgresql://me:1234/5@db/loans",
                "postgresql://me:s3@cret@db/loans",
                "postgresql://me:s3%cret@db/loans",
            )
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else None,
)
def test_a_wrong_setting_is_named(
    variables: dict[str, str],
    command: str,
    message: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run(command) == error(message)


def test_every_wrong_setting_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PARTITIONS", "0")
    monkeypatch.setenv("KAFKA_TIMEOUT_MS", "soon")
    lines = run("status").err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["error", "KAFKA_PARTITIONS"],
        ["error", "KAFKA_TIMEOUT_MS"],
    ]


# --- servers that do not answer -----------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nobody listens, as that of the broker."""
    address = f"{HOST}:{free_port()}"
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", address)
    monkeypatch.setenv("KAFKA_TIMEOUT_MS", "500")
    return address


@pytest.mark.parametrize("command", ["produce", "status"])
def test_a_broker_that_is_down_is_named(command: str, nowhere: str, run: Run) -> None:
    line = one_line(run(command))
    assert line.startswith(f"Kafka broker at {nowhere} does not answer: ")


@pytest.mark.parametrize("command", ["reset --yes", "new-epoch"])
@pytest.mark.usefixtures("servers")
def test_a_broker_that_is_down_has_no_topic_to_start_over_with(
    command: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{HOST}:{free_port()}"
    monkeypatch.setenv("KAFKA_TIMEOUT_MS", "500")
    line = one_line(run("topic", *command.split(), "--bootstrap", address))
    assert line.startswith(f"Kafka broker at {address} does not answer: ")


def test_a_broker_that_answers_no_tls_handshake_is_given_up(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((HOST, 0)) as silent:
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"{HOST}:{silent.getsockname()[1]}")
        monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
        monkeypatch.setenv("KAFKA_TIMEOUT_MS", "500")
        assert "does not answer" in one_line(run("status"))


def test_a_database_that_is_down_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:s3cret@{HOST}:{port}/loans")
    line = one_line(run("migrate"))
    assert line.startswith(f"Postgres at {HOST}:{port}/loans does not answer: ")
    assert "s3cret" not in line


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("command", ["status", "topic new-epoch", "topic reset --yes"])
def test_commands_that_need_the_database_say_that_it_is_down(
    command: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{HOST}:{port}/loans")
    line = one_line(run(*command.split()))
    assert line.startswith(f"Postgres at {HOST}:{port}/loans does not answer: ")


def test_a_missing_database_is_named(
    postgres: Postgres, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.uri("nobody_made_it"))
    assert 'database "nobody_made_it" does not exist' in one_line(run("migrate"))


def test_a_wrong_password_is_not_repeated(
    postgres: Postgres, database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    rules = postgres.data_dir / "pg_hba.conf"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
        before = rules.read_text()
        try:
            rules.write_text(f"local {name} {name} scram-sha-256\n{before}")
            connection.execute("SELECT pg_reload_conf()")
            url = postgres.uri(f"{name}").replace("postgres@", f"{name}:wr0ng@")
            monkeypatch.setenv("DATABASE_URL", url)

            def line() -> str | None:
                result = run("migrate")
                return result.err if "authentication" in result.err else None

            # The server reads its rules again in its own time.
            message = wait_until(line, 10, "the password is asked for")
        finally:
            rules.write_text(before)
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"DROP ROLE {name}")
    assert message is not None
    assert f'password authentication failed for user "{name}"' in message
    assert message.count("\n") == 1
    assert "wr0ng" not in message


# --- migrate ------------------------------------------------------------------------------------


def test_migrate_makes_the_tables_and_does_nothing_the_second_time(
    database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CREDIT_RISK_SCHEMA", "another")
    first = run("migrate")
    assert (first.code, first.err) == (0, "")
    assert re.fullmatch(r"schema another is at version \d{4}\n", first.out)
    assert run("migrate") == first
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM another.batches").fetchone() == (0,)


def test_migrations_at_the_same_time_are_safe(database_url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": database_url}
    processes = [
        subprocess.Popen(
            [*CREDIT_RISK, "migrate"],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    (answer,) = set(answers)
    assert answer.startswith("schema credit_risk is at version ")


# --- produce ------------------------------------------------------------------------------------


def ends(settings: KafkaSettings) -> int:
    """How many events the topic has."""
    return sum(end for _, end in Topic(settings).inspect().offsets.values())


@pytest.mark.usefixtures("servers")
def test_produce_sends_the_built_in_loans(kafka_settings: KafkaSettings, run: Run) -> None:
    result = run("produce", "--rate", 0)
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(
        rf"10,000 events in topic {kafka_settings.topic}, [0-9,]+ a second\n", result.out
    )
    assert ends(kafka_settings) == 10_000


@pytest.mark.usefixtures("servers")
def test_produce_creates_the_topic_and_keeps_the_rate(
    kafka_settings: KafkaSettings, broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"{HOST}:{free_port()}")  # the option wins
    topic = f"{kafka_settings.topic}_new"
    options = ("--bootstrap", broker.bootstrap_servers, "--topic", topic)
    result = run("produce", "--max", 20, "--rate", 40, *options)
    assert re.fullmatch(rf"20 events in topic {topic}, \d+ a second\n", result.out)
    assert int(result.out.split()[-3]) <= 43
    created = kafka_settings.model_copy(update={"topic": topic})
    assert len(Topic(created).inspect().offsets) == kafka_settings.partitions
    assert ends(created) == 20


CSV = """id,loan_amnt,annual_inc,dti,int_rate,earliest_cr_line
1,5000,40000,12.5,13.56%,Sep-03
2,6000,50000,,10.00%,Aug-1999
3,7000,60000,33.1,9.99%,Jan-2010
"""


@pytest.mark.usefixtures("servers")
def test_produce_streams_a_csv(kafka_settings: KafkaSettings, tmp_path: Path, run: Run) -> None:
    plain, packed = tmp_path / "loans.csv", tmp_path / "loans.csv.gz"
    plain.write_text(CSV)
    packed.write_bytes(gzip.compress(CSV.encode()))
    assert run("produce", "--csv", plain, "--rate", 0).out.startswith("3 events in topic")
    assert run("produce", "--csv", packed, "--max", 2).out.startswith("2 events in topic")
    looped = run("produce", "--csv", packed, "--loop", "--max", 10, "--rate", 0)
    assert looped.out.startswith("10 events in topic")
    assert ends(kafka_settings) == 15


@pytest.mark.usefixtures("servers")
def test_produce_says_what_is_wrong_with_a_csv(
    kafka_settings: KafkaSettings, tmp_path: Path, run: Run
) -> None:
    missing, other = tmp_path / "none [1].csv", tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    broken, empty = tmp_path / "broken.csv", tmp_path / "empty.csv"
    broken.write_text(CSV + "4,too,few\n")
    empty.touch()
    assert run("produce", "--csv", missing) == error(f"{missing}: no such file")
    assert one_line(run("produce", "--csv", other)).startswith(
        f"{other}: not a LendingClub CSV, it has no column loan_amnt"
    )
    assert run("produce", "--csv", empty) == error(f"{empty}: it is empty")
    assert ends(kafka_settings) == 0
    assert run("produce", "--csv", broken, "--rate", 0) == error(
        f"{broken}: line 5 has 3 fields, the header has 6, in '4,too,few': correct it, or leave "
        "out such rows with --skip-bad (events sent before it: 3)"
    )
    assert ends(kafka_settings) == 3  # what was before it is sent


# --- status -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("servers")
def test_status_shows_what_is_committed_and_what_is_not(pipeline: Pipeline, run: Run) -> None:
    pipeline.send([good_event(1), good_event(2), b"junk"], partition=1)
    before = json.loads(run("status", "--json").out)
    assert before["epoch"] is None
    assert before["partitions"][1]["lag"] == 3
    pipeline.drain()
    pipeline.send([good_event(3)] * 5, partition=1)

    result = run("status", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    cluster_id = pipeline.broker.inspect().cluster_id
    counts = ("scored", "rejected", "gaps", "lost", "forgotten")
    zeros = dict.fromkeys(("first", "committed", "end", "lag", *counts), 0)
    nothing = {**zeros, "open_transaction": None}
    assert found == {
        "cluster_id": cluster_id,
        "topic": pipeline.kafka.topic,
        "epoch": 0,
        "lost_unacknowledged": 0,
        "timestamps_by": "producer",  # the embedded broker knows no other
        "partitions": [
            {"partition": 0, **nothing},
            {
                "partition": 1,
                "first": 0,
                "committed": 3,
                "end": 8,
                "lag": 5,
                "open_transaction": None,
                "scored": 2,
                "rejected": 1,
                "gaps": 0,
                "lost": 0,
                "forgotten": 0,
            },
            {"partition": 2, **nothing},
            {"partition": 3, **nothing},
        ],
    }
    table = run("status")
    assert (table.code, table.err) == (0, "")
    assert pipeline.kafka.topic in table.out
    assert "latency is measured from the producers' clocks" in table.out
    rows = [re.findall(r"[\w-]+", line) for line in table.out.splitlines()]
    assert ["partition", "first", "committed", "end", "lag", *counts[:-1]] in rows
    assert ["1", "0", "3", "8", "5", "2", "1", "0", "0"] in rows


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("command", [["status"], ["topic", "new-epoch"]], ids=" ".join)
def test_a_missing_topic_is_named(
    command: list[str], pipeline: Pipeline, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_TOPIC", "nobody_made_it")
    cluster_id = pipeline.broker.inspect().cluster_id
    assert run(*command) == error(
        f"topic nobody_made_it does not exist on cluster {cluster_id}: "
        "`credit-risk produce` or `credit-risk topic reset` creates it"
    )


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("command", ["status", "topic new-epoch", "topic reset --yes"])
def test_a_database_that_is_not_migrated_is_named(
    command: str,
    pipeline: Pipeline,
    database_url: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline.send([good_event(1)])
    monkeypatch.setenv("DATABASE_URL", database_url)
    line = one_line(run(*command.split()))
    assert line.startswith("schema credit_risk in Postgres at ")
    assert line.endswith(" is not migrated: run `credit-risk migrate`")
    assert ends(pipeline.kafka) == 1  # also after `topic reset`


# --- topic --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("servers")
def test_topic_reset_asks_before_it_deletes(pipeline: Pipeline, run: Run) -> None:
    pipeline.send([good_event(1)])
    for answer in (b"n\n", b"\n", b""):
        refused = run("topic", "reset", stdin=answer)
        assert refused.code == 1
        assert f"Delete topic {pipeline.kafka.topic} on" in refused.out
        assert "Aborted" in refused.err
    assert ends(pipeline.kafka) == 1
    agreed = run("topic", "reset", stdin=b"y\n")
    assert agreed.code == 0
    assert ends(pipeline.kafka) == 0


@pytest.mark.usefixtures("servers")
def test_topic_reset_starts_over(pipeline: Pipeline, run: Run) -> None:
    pipeline.send([good_event(i) for i in range(3)])
    pipeline.drain()
    topic, cluster_id = pipeline.kafka.topic, pipeline.broker.inspect().cluster_id
    done = run("topic", "reset", "--yes")  # on stderr is what was archived
    assert (done.code, done.out) == (
        0,
        f"topic {topic} is empty, with 4 partitions\ntopic {topic} on cluster {cluster_id}: "
        "epoch 1\n",
    )
    pipeline.send([good_event(i) for i in range(2)])
    pipeline.drain()
    found = json.loads(run("status", "--json").out)
    assert (found["epoch"], found["partitions"][0]["scored"]) == (1, 2)
    assert len(pipeline.stored()["scored_applications"]) == 5  # what was scored stays


# --- score --------------------------------------------------------------------------------------

LINES = [
    good_event(7),
    b"not json",
    b"",
    b"[1, 2]",
    b'{"id": 8}',
    b'{"id": 9, "loan_amnt": NaN}',
    b"\x00\xff",
    b"[" * 5_000,
    b'{"id": 10, "dti": "' + b"9" * 100_000 + b'"}',
    good_event(11),
]


def check_answers(output: str, lines: list[bytes]) -> list[dict[str, Any]]:
    """One answer for each line, in order."""
    answers = [json.loads(line) for line in output.splitlines()]
    assert len(answers) == len(lines)
    for line, answer in zip(lines, answers, strict=True):
        expected = "scored" if line.startswith(b'{"id": ') and b"annual_inc" in line else "rejected"
        assert answer["outcome"] == expected
        assert (answer["reject_reason"] is None) == (expected == "scored")
    return answers


def test_score_answers_every_line_in_order(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "applications.jsonl"
    file.write_bytes(b"\n".join(LINES))  # no newline at the end
    result = run("score", file)
    assert (result.code, result.err) == (0, "")
    first, *_, last = check_answers(result.out, LINES)
    assert list(first) == [
        *("loan_id", "outcome", "risk_tier", "recommendation", "early_warning", "reasons"),
        *("figures", "dti_band", "util_band", "rate_band", "policy", "reject_reason", "features"),
    ]
    assert (first["loan_id"], first["risk_tier"], first["early_warning"]) == (
        "7",
        "Watchlist",
        True,
    )
    assert first["reasons"] == ["DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0"]
    assert first["policy"].startswith("lendingclub-v2@")
    assert first["features"]["dti"] == 35.5
    assert last["loan_id"] == "11"

    assert run("score", "-", stdin=b"\r\n".join(LINES) + b"\r\n") == result


def test_score_of_nothing_is_nothing(tmp_path: Path, run: Run) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert run("score", empty) == run("score", "-") == Result(0, "", "")


def test_score_keeps_the_order_of_many_lines(run: Run) -> None:
    lines = [good_event(i) if i % 3 else b"junk" for i in range(2 * SCORE_CHUNK_EVENTS + 7)]
    answers = check_answers(run("score", "-", stdin=b"\n".join(lines)).out, lines)
    scored = [answer["loan_id"] for answer in answers if answer["outcome"] == "scored"]
    assert scored == [str(i) for i in range(len(lines)) if i % 3]


def test_score_by_another_policy(tmp_path: Path, run: Run) -> None:
    text = DEFAULT_POLICY.read_text()
    strict = tmp_path / "strict.yaml"
    strict.write_text(text.replace("name: lendingclub-v2", "name: strict"))
    answer = json.loads(run("score", "-", "--policy", strict, stdin=good_event(1)).out)
    assert answer["policy"].startswith("strict@")


def test_score_says_what_is_wrong_with_its_files(tmp_path: Path, run: Run) -> None:
    missing, policy = tmp_path / "none [x].jsonl", tmp_path / "policy.yaml"
    assert run("score", missing) == error(f"cannot read {missing}: no such file")
    assert run("score", tmp_path) == error(
        f"cannot read {tmp_path}: this is a directory: name a file in it"
    )

    no_policy = one_line(run("score", "-", "--policy", policy))
    assert no_policy.startswith(f"policy {policy} cannot be read: ")
    policy.write_text("name: [")
    assert one_line(run("score", "-", "--policy", policy)).startswith(
        f"policy {policy} is not YAML"
    )
    policy.write_text(DEFAULT_POLICY.read_text().replace("tier: Elevated", "x: 1"))
    wrong = one_line(run("score", "-", "--policy", policy))
    assert wrong.startswith(f"policy {policy} is not valid: ")
    assert "rules.4.x" in wrong


def test_a_reader_that_has_seen_enough_ends_score_quietly(tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_bytes(good_event(1) + b"\n")
    file.write_bytes(file.read_bytes() * 50_000)
    with subprocess.Popen(
        [*CREDIT_RISK, "score", str(file)],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


# --- the embedded servers -----------------------------------------------------------------------


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory with what shells and terminals take for something else.

    Not in tmp_path: every start of pytest takes that away from other users, and root's Postgres
    runs as one.
    """
    with TemporaryDirectory(prefix="it's [a] ") as folder:
        yield Path(folder) / "state"


class Program:
    """`credit-risk` as a process, with a pipe or a terminal for its output."""

    def __init__(self, *arguments: object, cwd: Path, terminal: bool = False) -> None:
        self._written = b""
        self._ours, theirs = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            [*CREDIT_RISK, *map(str, arguments)],
            cwd=cwd,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0) if terminal else None,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the end of a terminal
            while data := os.read(self._ours, 65_536):
                self._written += data

    @property
    def output(self) -> str:
        """What it wrote until now, to stdout and stderr."""
        return self._written.decode(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type on the terminal."""
        os.write(self._ours, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Wait until the output matches."""

        def found() -> bool:
            ended = self.process.poll() is not None
            matches = re.search(pattern, self.output) is not None
            assert matches or not ended, self.output
            return matches

        wait_until(found, 120, f"output that matches {pattern!r}")

    def end(self, *numbers: signal.Signals) -> int:
        """Send signals, if any, and wait for the end; the exit code."""
        for number in numbers:
            self.process.send_signal(number)
        code = self.process.wait(300)
        self._reader.join()
        os.close(self._ours)
        return code


@contextmanager
def program(state: Path, *arguments: object, terminal: bool = False) -> Iterator[Program]:
    """`credit-risk ... --state-dir` of the state; nothing of it is left, even when a test fails."""
    started = Program(*arguments, "--state-dir", state, cwd=state.parent, terminal=terminal)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.end(signal.SIGTERM)
        left = processes_of(state)
        for process in left:
            process.kill()
    assert left == []
    assert "Traceback" not in started.output


@pytest.mark.usefixtures("own_servers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_up_serves_until_a_signal(number: signal.Signals, state: Path) -> None:
    with program(state, "up") as up:
        up.wait_for("Ctrl-C here stops")
        exports = "\n".join(line for line in up.output.splitlines() if line.startswith("export "))
        # As a shell understands them.
        shell = subprocess.run(
            ["sh", "-c", f"{exports}\nenv"], capture_output=True, text=True, check=True, env={}
        )
        variables = dict(line.split("=", 1) for line in shell.stdout.splitlines() if "=" in line)
        assert Path(variables["DAGSTER_HOME"]) == state / "dagster_home"
        with psycopg.connect(variables["DATABASE_URL"]) as connection:
            assert connection.info.dbname == "credit_risk"
        settings = KafkaSettings(bootstrap_servers=variables["KAFKA_BOOTSTRAP_SERVERS"])
        with pytest.raises(TopicMissing, match="topic loan_applications does not exist"):
            Topic(settings).inspect()
        assert up.end(number) == 0
    assert up.output.endswith("\nStopping\n")


@pytest.mark.usefixtures("own_servers")
def test_a_second_stack_on_the_same_state_is_refused(state: Path) -> None:
    with program(state, "up") as up:
        up.wait_for("Ctrl-C here stops")
        second = Program("up", "--state-dir", state, cwd=state.parent)
        assert second.end() == 1
        assert second.output == (
            f"error: the embedded stack in {state} is in use by process {up.process.pid}: stop "
            "that one first\n"
        )


def committed_by_source(state: Path) -> list[tuple[int, int]]:
    """Offsets committed, and rows stored, of each source that the stopped demo left, by age."""
    with Postgres(state / "postgres") as postgres:
        settings = WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri("credit_risk")))
        with Warehouse(settings).session() as connection:
            sources = fetch_all(connection, "SELECT source_id FROM sources ORDER BY created_at")
            counted = [reconcile(connection, source["source_id"]) for source in sources]
    return [
        (
            sum(p["next_offset"] - p["first_offset"] for p in partitions),
            sum(p["scored"] + p["rejected"] + p["gaps"] for p in partitions),
        )
        for partitions in counted
    ]


@pytest.mark.usefixtures("alone")
@pytest.mark.timeout(1200)
def test_demo_streams_sums_up_and_continues(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_RISK_LANES", "2")
    summary_file = tmp_path / "summary.json"
    with program(
        state, "demo", "--events", 300, "--rate", 200, "--exit", "--json", summary_file
    ) as demo:
        assert demo.end() == 0, demo.output
    summary = json.loads(summary_file.read_bytes())
    assert (summary["sent"], summary["gaps"], summary["reconciled"]) == (300, 0, True)
    assert summary["scored"] + summary["rejected"] == 300
    assert sum(summary["tiers"].values()) == summary["scored"]
    assert sum(summary["reject_reasons"].values()) == summary["rejected"]
    assert sum(p["next_offset"] for p in summary["partitions"]) == 300
    assert 0 < summary["events_per_second"] <= 205
    assert 0 < summary["latency_p50_ms"] <= summary["latency_p95_ms"]
    for text in ("Dagster    http", "Dashboard  http", "every offset accounted for", "Watchlist"):
        assert text in demo.output
    assert str(state) in demo.output

    # Again on the same database, and on a terminal, where it serves on until it is stopped.
    with program(state, "demo", "--events", 20, "--rate", 20, terminal=True) as demo:
        demo.wait_for("Streaming on")
        demo.wait_for("sent 3[0-9]")
        assert demo.end(signal.SIGTERM) == 0
    assert demo.output.endswith("\nStopping\n")
    first, second = committed_by_source(state)
    assert first == (300, 300)
    assert second[0] == second[1] > 0
    with (
        Postgres(state / "postgres") as postgres,
        psycopg.connect(postgres.uri("credit_risk")) as connection,
    ):
        lanes = connection.execute(
            "SELECT DISTINCT lane, unnest(partitions) % 2 FROM credit_risk.batches"
        ).fetchall()
        assert sorted(lanes) == [(0, 0), (1, 1)]


@pytest.mark.usefixtures("alone")
def test_impatience_leaves_nothing_behind(state: Path) -> None:
    with program(state, "demo", terminal=True) as demo:
        demo.wait_for("starting Dagster")
        demo.type("\x03\x03")  # Ctrl-C
        assert demo.end(signal.SIGTERM) != 0


@pytest.mark.parametrize("file", ["none/summary.json", "."])
def test_demo_says_at_once_that_it_cannot_write_the_summary(
    file: str, state: Path, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / file
    assert run("demo", "--json", path, "--state-dir", state) == error(f"cannot write {path}")
    assert not state.exists()


@pytest.mark.parametrize("name", ["none.csv", "other.csv"])
def test_demo_says_at_once_that_a_csv_is_not_there(
    name: str, state: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "other.csv").write_text("a,b\n")
    line = one_line(run("demo", "--csv", tmp_path / name, "--state-dir", state))
    assert line.startswith(f"{tmp_path / name}: ")
    assert not state.exists()
