"""What Dagster knows of the platform."""

import json
import re
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import dagster as dg
import yaml

from assets_src.common import kept_fresh
from credit_risk_dagster.definitions import defs
from credit_risk_dagster.settings import PROJECT_ROOT

SNAPSHOT = Path(__file__).with_name("asset_graph.json")
HEAVY = ("sklearn", "evidently", "streamlit", "boto3", "dagster_aws", "alembic", "altair")


def asset_graph() -> dict[str, dict[str, object]]:
    """The graph as people see it: asset to its neighbours, group, kinds, owners, checks."""
    graph = defs.resolve_asset_graph()
    checks: dict[str, list[str]] = {}
    for check in graph.asset_check_keys:
        checks.setdefault(check.asset_key.to_user_string(), []).append(check.name)
    nodes = ((key.to_user_string(), graph.get(key)) for key in graph.get_all_asset_keys())
    return {
        name: {
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
            "checks": sorted(checks.get(name, [])),
        }
        for name, node in sorted(nodes)
    }


def test_asset_graph_is_as_recorded() -> None:
    """Changed on purpose? Then: python -m tests.test_definitions"""
    assert asset_graph() == json.loads(SNAPSHOT.read_text())


def test_every_asset_and_check_explains_itself() -> None:
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
    graph = defs.resolve_asset_graph()
    for check in graph.asset_check_keys:
        assert graph.get_check_spec(check).description, check


# Fresh only when something is wrong, when somebody asks, or by design never again; and the topic,
# which is observed.
NOT_KEPT_FRESH = {
    *("rejected_events", "rebuilt_applications", "drift_baseline", "loan_applications"),
}


def test_what_a_schedule_or_the_stream_keeps_fresh_has_a_deadline() -> None:
    policies = {s.key.to_user_string(): s.freshness_policy for s in defs.resolve_all_asset_specs()}
    assert {name for name, policy in policies.items() if policy is None} == NOT_KEPT_FRESH
    assert policies["raw_event_archive"] == dg.FreshnessPolicy.time_window(
        warn_window=timedelta(hours=1), fail_window=timedelta(days=1)
    )
    daily = dg.FreshnessPolicy.time_window(
        warn_window=timedelta(days=2), fail_window=timedelta(days=3)
    )
    assert policies["model_benchmark"] == kept_fresh("30 5 * * *") == daily


def test_tables_are_described_as_the_migrations_make_them() -> None:
    versions = sorted((PROJECT_ROOT / "resources/postgres/migrations/versions").glob("0*.py"))
    migrations = "".join(file.read_text() for file in versions)
    for name in ("scored_applications", "rejected_events"):
        body = migrations.split(f"CREATE TABLE {name} (")[1].split("PRIMARY KEY")[0]
        created = [line.split()[0].strip('"') for line in body.strip().splitlines() if line.strip()]
        for change in re.findall(rf"ALTER TABLE {name}\s[^;]+;", migrations):
            created += re.findall(r"ADD COLUMN (\w+)", change)
        (spec,) = (s for s in defs.resolve_all_asset_specs() if s.key == dg.AssetKey(name))
        schema = spec.metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema)
        assert sorted(column.name for column in schema.columns) == sorted(created)


def test_the_code_location_imports_nothing_heavy() -> None:
    """Whatever it imports, every run imports before it can work."""
    program = (
        "import sys; import credit_risk_dagster.definitions;"
        f"print([m for m in {(*HEAVY, 'pandas')!r} if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_dagster_dev_finds_the_workspace() -> None:
    """A [tool.dagster] or [tool.dg] table in pyproject.toml would make it ignore the file."""
    (location,) = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == "credit_risk_dagster.definitions"
    pyproject = (PROJECT_ROOT / "pyproject.toml").read_text()
    assert "[tool.dagster" not in pyproject
    assert "[tool.dg" not in pyproject
    # The command `dg`, whose `dg check defs` is part of `make lint`, loads the same.
    project = tomllib.loads((PROJECT_ROOT / "dg.toml").read_text())["project"]
    assert project["code_location_target_module"] == location["python_module"]["module_name"]
    assert project["code_location_name"] == location["python_module"]["location_name"]


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(asset_graph(), indent=2) + "\n")
