"""`credit-risk migrate`."""

import os
import re
import subprocess

import psycopg
import pytest

from credit_risk_dagster.settings import (
    PROJECT_ROOT,
)
from tests.platform.commands import CREDIT_RISK, Run


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
