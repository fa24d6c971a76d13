"""What each role may do with each table: the matrix, and a day's work within it."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from credit_risk_dagster.domain.outcomes import Observation
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import experiments
from credit_risk_dagster.pipelines.archive_check import verify_lake
from credit_risk_dagster.pipelines.deciders import Deciders
from credit_risk_dagster.pipelines.drift import report_drift
from credit_risk_dagster.pipelines.forget import forget
from credit_risk_dagster.pipelines.policies import activate, approve, submit
from credit_risk_dagster.pipelines.redrive import redrive
from credit_risk_dagster.pipelines.retention import drop_old_periods
from credit_risk_dagster.pipelines.stream_health import compare_schema
from credit_risk_dagster.settings import (
    DEFAULT_POLICY,
    DriftSettings,
    LakeSettings,
    WarehouseSettings,
)
from infra.embedded.servers import Postgres
from infra.role_reference import FILE, READER, page
from resources.lake import Lake
from resources.postgres.applications import Applications
from resources.postgres.approvals import Approvals, NotInOrder
from resources.postgres.connection import Warehouse, WarehouseReader
from resources.postgres.idempotency import IdempotencyKeys
from resources.postgres.lost import LostEvents
from resources.postgres.metrics import MetricsLedger
from resources.postgres.migrate import migrate
from resources.postgres.models import ModelStore
from resources.postgres.outcomes import Added, Outcomes
from resources.postgres.policies import decide_policy, register_policy, submit_policy
from resources.postgres.readers import grant_reader
from resources.postgres.reconciliation import Reconciliation
from resources.postgres.roles import API, APP
from resources.postgres.segments import roll_up_segments
from resources.postgres.shadow import delete_old_opinions
from tests.infra.conftest import create_roles
from tests.pipelines.approvals import named
from tests.platform.pipeline import Pipeline, good_event

pytestmark = pytest.mark.usefixtures("own_servers")
OWNER = "credit_risk_owner"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Postgres with the roles of roles.sql, migrated by the owner."""
    with TemporaryDirectory(prefix="credit-risk-") as folder, Postgres(Path(folder)) as server:
        create_roles(server)
        migrate(settings_of(server, OWNER))
        grant_reader(settings_of(server, OWNER), READER, acts=True)
        create_roles(server)  # and again, as for a new password
        yield server


def settings_of(server: Postgres, role: str) -> WarehouseSettings:
    return WarehouseSettings(DATABASE_URL=SecretStr(server.uri("credit_risk", role)))


@pytest.fixture
def owner(server: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with Warehouse(settings_of(server, OWNER)).connect() as connection:
        yield connection


def matrix(connection: psycopg.Connection[Any]) -> dict[tuple[str, str], str]:
    """What the database itself says that a role may do with a table, as the page says it."""
    rows = connection.execute(
        """
        WITH granted AS (
            SELECT c.oid, relname, grantee, privilege_type AS right, NULL AS attname, 0 AS attnum
            FROM pg_class c, aclexplode(relacl)
            WHERE relnamespace = 'credit_risk'::regnamespace AND relkind IN ('r', 'p', 'v')
            UNION ALL
            SELECT c.oid, relname, grantee, privilege_type, attname, attnum
            FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid, aclexplode(attacl)
            WHERE relnamespace = 'credit_risk'::regnamespace
        )
        SELECT pg_get_userbyid(grantee), relname, g.right,
            array_remove(array_agg(attname::text ORDER BY g.attnum), NULL),
            (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute a
                WHERE a.attrelid = g.oid AND attnum > 0 AND NOT attisdropped)
        FROM granted g WHERE grantee <> (SELECT oid FROM pg_roles WHERE rolname = %(owner)s)
        GROUP BY g.oid, 1, 2, 3
        ORDER BY 1, 2, array_position('{SELECT,INSERT,UPDATE,DELETE}', g.right)
        """,
        {"owner": OWNER},
    )
    found: dict[tuple[str, str], list[str]] = {}
    for role, table, right, columns, every in rows:
        hidden = [name for name in every if name not in columns]
        if right == "SELECT" and columns:
            right += f" without {', '.join(hidden)}"
        elif columns:
            right += f" ({', '.join(columns)})"
        found.setdefault((role, table), []).append(right)
    return {key: ", ".join(rights) for key, rights in found.items()}


def written() -> dict[tuple[str, str], str]:
    """The same from the page."""
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in FILE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and "---" not in line
    ]
    (_, *roles), *tables = rows
    return {
        (role, table): cell
        for table, *cells in tables
        for role, cell in zip(roles, cells, strict=True)
        if cell
    }


def test_the_page_is_what_the_database_says(owner: psycopg.Connection[Any]) -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "make docs"

    def sorted_columns(rights: str) -> str:
        head, bracket, columns = rights.partition("UPDATE (")
        inside, _, rest = columns.partition(")")
        return head + bracket + ", ".join(sorted(inside.split(", "))) + rest

    def comparable(rights: dict[tuple[str, str], str]) -> dict[tuple[str, str], str]:
        return {key: sorted_columns(text) for key, text in rights.items()}

    assert comparable(matrix(owner)) == comparable(written())


def test_functions_with_the_owners_rights_are_for_few_and_find_their_own_tables(
    owner: psycopg.Connection[Any],
) -> None:
    rows = owner.execute(
        "SELECT proname, array_to_string(proconfig, ';'), array_to_string(proacl, ';')"
        " FROM pg_proc WHERE pronamespace = 'credit_risk'::regnamespace AND prosecdef"
    ).fetchall()
    assert len(rows) >= 8
    for name, settings, rights in rows:
        assert "search_path=credit_risk, pg_temp" in settings, name
        assert not any(right.startswith("=") for right in rights.split(";")), name


AUDIT = (
    *("approvals", "policies", "experiments", "application_reviews", "redriven_events"),
    *("case_events", "exports"),
    *("lost_acknowledgements", "abandoned_offsets", "forgotten_offsets", "dropped_rows"),
)


@pytest.mark.parametrize("role", [APP, API, READER])
def test_no_role_changes_what_is_for_the_audit(owner: psycopg.Connection[Any], role: str) -> None:
    """By no right of a table or of a column, and by none that it could give itself."""
    rows = owner.execute(
        """
        SELECT relname, verb FROM pg_class, unnest(%(verbs)s::text[]) AS v (verb)
        WHERE oid = ANY (SELECT t::regclass FROM unnest(%(tables)s::text[]) AS t)
            AND (has_table_privilege(%(role)s, oid, verb)
                OR verb = 'UPDATE' AND has_any_column_privilege(%(role)s, oid, verb)
                OR pg_has_role(%(role)s, relowner, 'MEMBER'))
        """,
        {"role": role, "tables": list(AUDIT), "verbs": ["UPDATE", "DELETE", "TRUNCATE"]},
    ).fetchall()
    assert rows == []
    (count,) = owner.execute(
        "SELECT count(*) FROM pg_class WHERE relname = ANY (%(tables)s)"
        " AND relnamespace = 'credit_risk'::regnamespace",
        {"tables": list(AUDIT)},
    ).fetchone() or (0,)
    assert count == len(AUDIT)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (APP, "ALTER TABLE stream_offsets ADD COLUMN x int"),
        (APP, "CREATE TABLE x ()"),
        (APP, "DELETE FROM scored_applications"),
        (APP, "UPDATE scored_applications SET risk_tier = 'Low'"),
        (APP, "UPDATE redriven_events SET run_id = ''"),
        (APP, "DELETE FROM dropped_rows"),
        (APP, "DELETE FROM forgettings"),
        (APP, "UPDATE forgettings SET forgotten_by = ''"),
        (APP, "DELETE FROM forgotten_offsets"),
        (APP, "UPDATE abandoned_offsets SET why = ''"),
        (API, "SELECT forget_loan('1', '{}', '{}', '{}', '', '')"),
        (READER, "SELECT delete_old_reviews(1)"),
        (API, "SELECT delete_old_outcomes(1)"),
        (API, "SELECT status FROM loan_outcomes"),
        (APP, "UPDATE loan_outcomes SET status = ''"),
        (APP, "DELETE FROM loan_outcomes"),
        (APP, "INSERT INTO dropped_rows VALUES (1, 0, now(), 1, 1)"),
        (APP, "UPDATE policies SET document = ''"),
        (APP, "DELETE FROM policies"),
        (APP, "UPDATE approvals SET why = ''"),
        (APP, "DELETE FROM approvals"),
        (APP, "TRUNCATE approvals"),
        (
            APP,
            "INSERT INTO approvals (kind, subject_id, action, why, who) VALUES"
            " ('policy', 1, 'submit', 'x', 'ada')",
        ),
        (APP, "UPDATE models SET activated_at = now()"),
        (APP, "UPDATE application_reviews SET note = ''"),
        *((role, "UPDATE case_events SET note = ''") for role in (APP, API, READER)),
        *((role, "DELETE FROM case_events") for role in (APP, API, READER)),
        *((role, "UPDATE cases SET state = 'open'") for role in (APP, API, READER)),
        (API, "INSERT INTO case_events DEFAULT VALUES"),
        (APP, "SELECT act_on_case(1, 1, 'start', 'ada', NULL, NULL, NULL, NULL)"),
        (API, "SELECT delete_old_cases(1)"),
        (APP, "SELECT record_export('ada', 'cases', 1)"),
        (API, "SELECT record_export('ada', 'cases', 1)"),
        (READER, "INSERT INTO exports (who, what, rows) VALUES ('a', 'b', 1)"),
        (READER, "SELECT open_earlier_cases(now(), now(), '1 hour')"),
        (READER, "SELECT grant_reviewer('credit_risk_reader')"),
        (APP, "DELETE FROM redriven_events"),
        (
            API,
            "INSERT INTO approvals (kind, subject_id, action, why) VALUES"
            " ('policy', 1, 'submit', 'x')",
        ),
        (APP, "SELECT submit_policy('a', 'b', 'c', 'd', 'e', NULL)"),
        (APP, "SELECT decide_policy(1, 'approve', 'ada', 'x', NULL)"),
        (READER, "SELECT decide_policy(1, 'approve', 'ada', 'x', NULL)"),
        (
            READER,
            "INSERT INTO approvals (kind, subject_id, action, why) VALUES"
            " ('policy', 1, 'approve', 'x')",
        ),
        (READER, "INSERT INTO policies (name, content_hash, document) VALUES ('', '', '')"),
        (APP, "DELETE FROM application_reviews"),
        (APP, "INSERT INTO application_reviews DEFAULT VALUES"),
        (APP, "UPDATE lost_acknowledgements SET note = ''"),
        (APP, "DELETE FROM reconciliation_findings"),
        (APP, "UPDATE reconciliation_findings SET offsets = 1"),
        (APP, "UPDATE models SET artifact = ''"),
        (APP, "UPDATE ledger_totals SET scored = 0"),
        (APP, "TRUNCATE batches"),
        (APP, "SELECT grant_reader('credit_risk_app')"),
        (API, "SELECT value FROM rejected_events"),
        (API, "SELECT artifact FROM models"),
        (API, "SELECT * FROM application_reviews"),
        (API, "SELECT make_partitions('month')"),
        (API, "DELETE FROM scored_applications"),
        (READER, "SELECT key FROM rejected_events"),
        (READER, "SELECT artifact FROM models"),
        (READER, "SELECT drop_period(now(), now())"),
        (READER, "CREATE SCHEMA x"),
    ],
)
def test_what_a_role_may_not_do(server: Postgres, role: str, statement: str) -> None:
    # Not by what a role could change for itself.
    options = "-c search_path=credit_risk -c default_transaction_read_only=off"
    with (
        psycopg.connect(server.uri("credit_risk", role), options=options) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_nobody_reaches_a_partition(server: Postgres, owner: psycopg.Connection[Any]) -> None:
    names = owner.execute("SELECT name FROM time_partitions").fetchall()
    assert len(names) >= 9
    for role in (APP, API, READER):
        for (name,) in names:
            row = owner.execute(
                "SELECT has_table_privilege(%s, %s, 'SELECT'), has_any_column_privilege(%s, %s,"
                " 'SELECT')",
                (role, name, role, name),
            ).fetchone()
            assert row == (False, False)


def test_approvals_are_by_who_signed_in(server: Postgres) -> None:
    """A person's own role, the dashboard's for whom it signed in, and nobody for themselves."""
    with psycopg.connect(server.uri("postgres"), autocommit=True) as admin:
        for person in ("ada", "bo"):
            admin.execute(f"CREATE ROLE {person} LOGIN IN ROLE {APP}".encode())
        admin.execute("GRANT CONNECT ON DATABASE credit_risk TO ada, bo")

    def session(role: str) -> AbstractContextManager[psycopg.Connection[Any]]:
        return Warehouse(settings_of(server, role)).session()

    with session(APP) as app:
        first = register_policy(app, named("the-first"))
        Approvals(app, "policy").record(first, "activate", "the first one")
    with session(READER) as desk:
        ours = submit_policy(desk, named("by-desk"), " ada@bank.example ", "fewer losses", {"n": 1})
    with session("ada") as ada:
        with pytest.raises(NotInOrder, match="ada submitted policy 2 and cannot approve it"):
            approve(ada, "policy", ours, "mine")
        own = submit(ada, named("by-ada"), "fewer losses").subject_id
        with pytest.raises(NotInOrder, match="is not approved"):
            activate(ada, own, "now")
    with session("bo") as bo:
        for policy_id in (ours, own):
            assert approve(bo, "policy", policy_id, "checked").who == "bo"
        assert activate(bo, ours, "agreed").db_role == "bo"
        (submitted,) = (a for a in Approvals(bo, "policy").all() if a.evidence)
    assert (submitted.who, submitted.db_role) == ("ada@bank.example", READER)


@pytest.fixture
def as_app(pipeline: Pipeline, server: Postgres, lake_settings: LakeSettings) -> Pipeline:
    """The pipeline as credit_risk_app."""
    return Pipeline(
        pipeline.kafka, Warehouse(settings_of(server, APP)), lambda: Lake(lake_settings)
    )


def experiment(as_app: Pipeline, owner: psycopg.Connection[Any], **given: Any) -> None:
    """Start an experiment as app, which the owner approves."""
    with as_app.warehouse.session() as connection:
        found = experiments.submit(connection, "a test", **given).subject_id
        owner.execute(
            "INSERT INTO approvals (kind, subject_id, action, why)"
            " VALUES ('experiment', %s, 'approve', 'a test')",
            (found,),
        )
        experiments.start(connection, found, "a test")


def test_a_days_work(as_app: Pipeline, server: Postgres, owner: psycopg.Connection[Any]) -> None:
    """What runs and commands do, as app; what is read, as API."""
    log, policy = logging.getLogger("test"), load_policy(DEFAULT_POLICY)
    with as_app.warehouse.session() as connection:
        first = Deciders(connection, policy).policy_id
    v1 = load_policy(DEFAULT_POLICY.with_name("lendingclub-v1.yaml"))
    with as_app.warehouse.session() as connection:
        experiment(as_app, owner, policy_id=register_policy(connection, v1))
    experiment(as_app, owner, policy_id=first, share=50)
    report = as_app.send_and_drain([*map(good_event, range(100)), b"junk", None])
    assert (len(report.experiments), report.problems) == (2, [])
    (dealt,) = as_app.query("SELECT count(DISTINCT arm) AS arms FROM scored_applications")
    assert dealt == {"arms": 2}
    with as_app.warehouse.session() as connection:
        assert delete_old_opinions(connection, 30) == 0
    as_app.archive()
    verify_lake(as_app.warehouse, as_app.lake, as_app.kafka.topic)
    assert as_app.account().problems == []
    redrive(as_app.warehouse, policy, run_id="again")
    drift = DriftSettings(baseline_rows=100, window_rows=100, min_rows=50)
    for _ in range(2):
        report_drift(as_app.warehouse, drift, as_app.kafka.topic, policy, run_id="drift")
    compare_schema(as_app.broker, as_app.warehouse, 100)
    with as_app.warehouse.session() as connection:
        roll_up_segments(connection)
        as_app.warehouse.make_partitions(connection)
        ModelStore(connection).deactivate("a test")
        assert Reconciliation(connection).check_new("run").open == []
        assert Reconciliation(connection).check_everything().open == []
        assert LostEvents(connection).acknowledge("Ada", None) == []
    assert as_app.unreconciled() == 0
    told = Observation("98", datetime.now(UTC), "Current", 0, None, None, "servicing")
    for role in (APP, API):
        with Warehouse(settings_of(server, role)).session() as connection:
            assert Outcomes(connection).add([replace(told, source=role)]) == Added(1, 0)
            assert Outcomes(connection).add([replace(told, source=role)]) == Added(0, 1)
    with as_app.warehouse.session() as connection, connection.transaction():
        assert len(Outcomes(connection).loans(10).keys) == 1
    assert forget(as_app.warehouse, as_app.lake, "98", by="Ada", why="request 31", log=log)

    api = settings_of(server, API)
    with WarehouseReader(api, 1, 60) as pool, Warehouse(api).session() as connection:
        assert MetricsLedger(connection, as_app.kafka.topic).read().totals["scored"] == 100
        assert Applications(pool).history("98", limit=10)[0] == []
        assert len(Applications(pool).history("7", limit=10)[0]) == 1
        assert len(Applications(pool).watchlist(limit=5)[0]) == 5
        assert ModelStore(connection).active_scorer() == (None, None)
        assert len(experiments.running(connection).shadows) == 1
        keys = IdempotencyKeys(connection)
        key = ("desk-app", b"key", b"body", timedelta(days=1), timedelta(seconds=9))
        assert keys.begin(*key) is None
        keys.end("desk-app", b"key", ("topic", 0, 7))
        assert keys.begin(*key) == ("topic", 0, 7)
        connection.execute("SET default_transaction_read_only = off")
        ours = submit_policy(connection, named("by-api"), "desk-app", "fewer losses", {})
        with pytest.raises(NotInOrder, match="desk-app submitted"):
            decide_policy(connection, ours, "approve", "desk-app", "mine")
        decide_policy(connection, ours, "approve", "risk-app", "checked")

    later = datetime.now(UTC) + timedelta(days=70)
    dropped = drop_old_periods(as_app.warehouse, 30, now=later, log=log).dropped
    assert sum(dropped.values()) == 101
    assert as_app.unreconciled() == 0
