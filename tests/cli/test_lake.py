"""`credit-risk lake`: what the terminal shows of the tables."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

from credit_risk_dagster.cli.lake import app
from credit_risk_dagster.errors import PlatformError
from resources.lake import Lake
from tests.pipelines.test_lake_history import TOPIC, lake

__all__ = ["lake"]
Run = Callable[..., str]


@pytest.fixture
def run(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the tables; what it printed, or the line that it ended with."""
    monkeypatch.setenv("COLUMNS", "250")

    def invoke(*arguments: str, topic: str = TOPIC) -> str:
        done = CliRunner().invoke(app, ["lake", *arguments, "--topic", topic])
        if isinstance(done.exception, PlatformError):
            return str(done.exception)
        assert done.exit_code == 0, done.output
        return done.stdout

    return invoke


def test_ls_and_history(run: Run) -> None:
    days = json.loads(run("ls", "--json"))
    assert [row["rows"] for row in days] == [5, 4, 4, 4, 2]
    assert [row["files"] for row in days] == [2, 1, 1, 1, 1]
    assert days[0]["day"] in run("ls")
    one = json.loads(run("ls", "--json", "--since", days[1]["day"], "--until", days[1]["day"]))
    assert one == [days[1]]
    files = json.loads(run("ls", "--files", "--json"))
    assert len(files) == 6
    assert all(file["key"].startswith(f"raw_events/{TOPIC}/day=") for file in files)
    assert [row["version"] for row in json.loads(run("history", "--json"))] == [2, 1, 0]
    assert "no table yet" in run("ls", topic="elsewhere")


def test_query(run: Run) -> None:
    sql = 'SELECT value, "offset" FROM raw_events WHERE partition = 0 ORDER BY "offset"'
    assert json.loads(run("query", sql, "--json"))[1] == {"value": "value 1", "offset": 1}
    assert "value 15" in run("query", sql)
    assert "value 2" not in run("query", sql, "--limit", "2")
    assert json.loads(run("query", "SELECT count(*) AS n FROM raw_events", "--json", "--at", "1"))[
        0
    ] == {"n": 16}
    assert "No field named nothing" in run("query", "SELECT nothing FROM raw_events")
    for at in ("noon", "", "-1", "9" * 30):
        assert f"at {at!r}: neither a version of the table" in run("query", sql, "--at", at)
    assert "not known as of 99: its log has the versions 0 to 2" in run("query", sql, "--at", "99")
    assert "no table yet" in run("query", sql, "--at", "2020-01-01")
    assert json.loads(run("query", "SELECT now() AS at", "--json"))[0]["at"] > "2026"


def test_get(run: Run, tmp_path: Path) -> None:
    assert run("get", str(tmp_path)).startswith("raw_events: 9 files in ")
    assert DeltaTable(tmp_path / "raw_events" / TOPIC).to_pyarrow_table().num_rows == 19
    (file := tmp_path / "file").touch()
    assert f"raw_events cannot be copied, {file}" in run("get", str(file))


@pytest.mark.usefixtures("servers")
def test_compact(run: Run) -> None:
    table, *_ = json.loads(run("compact", "--json"))
    assert (table["table"], table["before"], table["rows"], table["refused"]) == (
        *("raw_events", 6, 19, 0),
    )
    assert "raw_events" in run("compact")
