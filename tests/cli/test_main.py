"""The command line: every command, and what it says when something is wrong."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer.main

from credit_risk_dagster.cli import main as cli
from credit_risk_dagster.settings import (
    PROJECT_ROOT,
)
from infra.embedded.servers import HOST, Postgres, free_port
from tests.platform.commands import Run, error, one_line
from tests.platform.pipeline import Pipeline, good_event
from tests.platform.waiting import wait_until


def commands(found: Any, *path: str) -> Iterator[tuple[list[str], bool]]:
    """Every command of the application by its words, and whether it is a group of commands."""
    inner = getattr(found, "commands", {})
    yield [*path], bool(inner)
    for name, command in inner.items():
        yield from commands(command, *path, name)


APPLICATION = typer.main.get_command(cli.app)
EVERY = list(commands(APPLICATION))
COMMANDS = [command for command, _ in EVERY]
GROUPS = [command for command, is_group in EVERY if is_group]


# --- help and usage -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_tells_everything(command: list[str], run: Run) -> None:
    found: Any = APPLICATION
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


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"credit-risk {version('credit-risk-platform')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_the_commands(shell: str) -> None:
    told = subprocess.run(
        [Path(sys.executable).parent / "credit-risk"],
        env={**os.environ, "_CREDIT_RISK_COMPLETE": f"complete_{shell}", "COMP_CWORD": "1"}
        | {"COMP_WORDS": "credit-risk pro", "_TYPER_COMPLETE_ARGS": "credit-risk pro"}
        | {"_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        capture_output=True,
        text=True,
    )
    assert "produce" in told.stdout
    assert "status" not in told.stdout


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
            "KAFKA_TOPIC: 'loan applications' is no name of a topic: 1 to 249 letters, digits, "
            "dots, - and _",
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


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("command", [["status"], ["topic", "new-epoch"]], ids=" ".join)
def test_a_missing_topic_is_named(
    command: list[str], pipeline: Pipeline, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_TOPIC", "nobody_made_it")
    cluster_id = pipeline.broker.inspect().cluster_id
    assert run(*command) == error(
        f"topic nobody_made_it does not exist on cluster {cluster_id}: "
        "`credit-risk topic create` creates it, and so does `credit-risk produce`"
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
    assert pipeline.broker.inspect().end(0) == 1  # also after `topic reset`
