"""Upgrade and rollback: the order that docs/deployment.md tells, on a real Postgres and broker."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import PROJECT_ROOT, KafkaSettings, WarehouseSettings
from resources.postgres.connection import NotMigrated, Warehouse
from resources.postgres.migrate import migrate
from resources.postgres.migrations import SCHEMA_VERSION
from tests.platform.pipeline import Pipeline, good_event

pytestmark = pytest.mark.slow

VERSIONS = sorted(
    path.name[:4]
    for path in (PROJECT_ROOT / "resources/postgres/migrations/versions").glob("[0-9]*.py")
)
PREVIOUS = VERSIONS[-2]


@pytest.fixture
def settings(database_url: str) -> WarehouseSettings:
    """An empty database."""
    return WarehouseSettings(DATABASE_URL=SecretStr(database_url))


@pytest.fixture
def pipeline(kafka_settings: KafkaSettings, settings: WarehouseSettings) -> Pipeline:
    """A topic, and the tables as the version before left them, up to offset 400 of partition 0."""
    migrate(settings, PREVIOUS)
    found = Pipeline(kafka_settings, Warehouse(settings))
    found.send([good_event(number) for number in range(500)])
    topic = found.broker.inspect()
    with found.warehouse.connect() as connection:
        connection.execute(
            "INSERT INTO sources (cluster_id, topic, topic_id) VALUES (%s, %s, %s)",
            (topic.cluster_id, topic.topic, topic.topic_id),
        )
        connection.execute(
            "INSERT INTO stream_offsets (source_id, partition, first_offset, next_offset, gaps)"
            " SELECT source_id, 0, 0, 400, 400 FROM sources"
        )
        connection.execute(
            "INSERT INTO offset_gaps (source_id, partition, first_offset, next_offset, batch_id,"
            " reason) SELECT source_id, 0, 0, 400, 0, 'of the version before' FROM sources"
        )
    return found


def test_new_code_waits_for_the_migration_and_loses_no_offset(
    pipeline: Pipeline, settings: WarehouseSettings
) -> None:
    # New containers before the migration: stopped clearly, and nothing moves.
    needs = f"is at version {PREVIOUS} and this code needs {SCHEMA_VERSION}: run `credit-risk mig"
    with pytest.raises(NotMigrated, match=needs):
        pipeline.drain()
    with pipeline.warehouse.connect() as connection:
        (offset,) = connection.execute("SELECT next_offset FROM stream_offsets").fetchall()
        assert offset == (400,)

    # The documented order: migrate, then the new containers.
    assert migrate(settings) == SCHEMA_VERSION
    report = pipeline.drain()
    assert report.ranges == {0: (400, 500)}
    assert report.scored == 100
    assert pipeline.stored()["scored_applications"] == [(0, offset) for offset in range(400, 500)]
    assert pipeline.unreconciled() == 0


def test_the_code_before_goes_on_with_the_new_schema(
    pipeline: Pipeline, settings: WarehouseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was there before the migration, for whoever still runs, or is rolled back to.
    migrate(settings)
    monkeypatch.setattr("resources.postgres.connection.SCHEMA_VERSION", PREVIOUS)
    assert pipeline.drain().scored == 100
    assert pipeline.unreconciled() == 0


def test_reviews_of_before_are_in_the_history_of_their_cases(
    kafka_settings: KafkaSettings,
    settings: WarehouseSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A filled database of 0027: some cases, and reviews by the function of then."""
    migrate(settings, "0027")
    found = Pipeline(kafka_settings, Warehouse(settings))
    with monkeypatch.context() as then, found.warehouse.connect() as owner:
        then.setattr("resources.postgres.connection.SCHEMA_VERSION", "0027")
        found.send_and_drain([good_event(loan) for loan in (1, 2, 3, 1)])
        owner.execute("DELETE FROM cases WHERE loan_id IN ('1', '2')")  # decided before 0026
        owner.execute("DROP ROLE IF EXISTS old_desk")
        owner.execute("CREATE ROLE old_desk")
        owner.execute("SELECT grant_reader('old_desk')")
        owner.execute("SET SESSION AUTHORIZATION old_desk")
        for offset, who, note in ((0, "Ada", "called"), (1, "Bo", "no answer"), (3, "Ada", "paid")):
            owner.execute("SELECT review_application(1, 0, %s, %s, %s)", (offset, who, note))
        owner.execute("RESET SESSION AUTHORIZATION")
        written = owner.execute(
            "SELECT reviewed_at, reviewer, note, db_role FROM application_reviews"
            " ORDER BY review_id"
        ).fetchall()

    assert migrate(settings) == SCHEMA_VERSION
    cases = found.query("SELECT loan_id, state, assignee, decisions, version FROM cases ORDER BY 1")
    assert [tuple(case.values()) for case in cases] == [
        ("1", "in_review", "Ada", 2, 3),
        ("2", "in_review", "Bo", 1, 2),
        ("3", "open", None, 1, 1),
    ]
    history = found.query(
        "SELECT loan_id, action, at, who, note, db_role FROM case_events JOIN cases USING (case_id)"
        " ORDER BY event_id"
    )
    assert [(event["loan_id"], event["action"]) for event in history] == [
        ("1", "start"),
        ("2", "start"),
        ("1", "note"),
    ]
    assert [tuple(event.values())[2:] for event in history] == written
    totals = {row["action"]: row["times"] for row in found.query("SELECT * FROM case_totals")}
    assert totals == {"open": 3, "start": 2, "note": 1}
    with found.warehouse.connect() as owner:
        owner.execute("SET SESSION AUTHORIZATION old_desk")
        assert owner.execute("SELECT count(*) FROM case_events").fetchone() == (3,)
        # It only reads from now on, unless it is granted to act.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute("SELECT review_application(1, 0, 2, 'Cy', 'a note')")
        owner.execute("RESET SESSION AUTHORIZATION")
        owner.execute("SELECT grant_reviewer('old_desk')")
        owner.execute("SET SESSION AUTHORIZATION old_desk")
        owner.execute("SELECT review_application(1, 0, 2, 'Cy', 'a note')")
        owner.execute("RESET SESSION AUTHORIZATION")
        owner.execute("DROP OWNED BY old_desk")
        owner.execute("DROP ROLE old_desk")
    found.send_and_drain([good_event(3), good_event(4)])
    (case,) = found.query("SELECT state, assignee, decisions FROM cases WHERE loan_id = '3'")
    assert case == {"state": "in_review", "assignee": "Cy", "decisions": 2}
    assert found.unreconciled() == 0


@pytest.fixture(scope="module")
def snapshots(request: pytest.FixtureRequest) -> Iterator[Callable[[str], dict[str, Any]]]:
    """What the tables and functions of a version of the schema promise, by version."""
    postgres = request.getfixturevalue("postgres")
    postgres.create_database("every_version")
    settings = WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri("every_version")))
    found: dict[str, dict[str, Any]] = {}
    for version in VERSIONS:
        migrate(settings, version)
        with Warehouse(settings).connect() as connection:
            found[version] = {name: _rows(connection, query) for name, query in _PROMISES.items()}
    yield found.__getitem__
    postgres.drop_database("every_version")


@pytest.mark.parametrize(("before", "after"), list(pairwise(VERSIONS)))
def test_each_migration_only_adds(
    before: str, after: str, snapshots: Callable[[str], dict[str, Any]]
) -> None:
    """A rolling upgrade runs the code of the version before on the tables of the new one."""
    old, new = snapshots(before), snapshots(after)
    for promise in ("columns", "functions"):
        for name, type_ in old[promise].items():
            assert new[promise].get(name) == type_, f"{after} changes {promise[:-1]} {name}"
    tables = {table for table, _ in old["columns"]}
    for (table, column), _ in new["columns"].items() - old["columns"].items():
        if table in tables:
            assert (table, column) not in new["required"], (
                f"{after} adds column {table}.{column}, which the code before {after} does not "
                "write: give it a default, or let it be NULL"
            )
    assert {
        constraint: definition
        for constraint, definition in new["constraints"].items()
        if constraint[0] in tables and constraint not in old["constraints"]
    } == {}, f"{after} adds a constraint to a table that the code before it writes"


def _rows(connection: psycopg.Connection[Any], query: str) -> dict[Any, Any]:
    return {tuple(key): value for *key, value in connection.execute(query.encode()).fetchall()}


# Not the time partitions, which are made by themselves. A constraint on a new column alone holds
# for rows without it as its default or NULL says, so those count only by column.
_PROMISES = {
    "columns": """
        SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns
        JOIN pg_class ON oid = (table_schema || '.' || table_name)::regclass
        WHERE table_schema = current_schema() AND NOT relispartition""",
    "required": """
        SELECT table_name::text, column_name::text, true FROM information_schema.columns
        WHERE table_schema = current_schema() AND is_nullable = 'NO' AND column_default IS NULL
            AND is_identity = 'NO' AND is_generated = 'NEVER'""",
    "functions": """
        SELECT proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
            pg_get_function_result(p.oid)
        FROM pg_proc p WHERE pronamespace = current_schema()::regnamespace
            AND prorettype <> 'trigger'::regtype""",
    "constraints": """
        SELECT r.relname::text, c.conname::text, pg_get_constraintdef(c.oid)
        FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid
        WHERE c.connamespace = current_schema()::regnamespace AND NOT r.relispartition
            AND c.contype IN ('c', 'f', 'x')""",
}
