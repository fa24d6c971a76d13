"""Alembic environment: migrates the schema named on the connection, one process at a time.

Run by `resources.postgres.migrate.migrate`, which hands the connection over: no alembic.ini.
"""

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]

with connection.begin():
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"{schema}.migrations"},
    )
    # IF NOT EXISTS asks for the right to create even when it is there.
    if not connection.scalar(
        text("SELECT true FROM pg_namespace WHERE nspname = :name"), {"name": schema}
    ):
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))
    connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
    # Whoever comes after a change that waits for a lock waits for it, too.
    connection.execute(text("SET LOCAL lock_timeout TO '10s'"))
    context.configure(connection=connection, version_table_schema=schema)
    context.run_migrations()
