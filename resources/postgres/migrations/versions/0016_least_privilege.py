"""Roles may do what their code does: totals are the database's to keep, and a reader has no use for
a model's file.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

STATEMENTS = """
-- As in 0007, but for the files of models.
CREATE OR REPLACE FUNCTION grant_reader(reader name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    object  text;
    columns text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.migrations', 0));
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), reader);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), reader);
    -- Not the partitions: they are read through their tables.
    FOR object IN
        SELECT relname FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')
            AND NOT relispartition
            AND relname NOT IN ('rejected_events', 'models', 'alembic_version')
    LOOP
        EXECUTE format('GRANT SELECT ON %I TO %I', object, reader);
    END LOOP;
    FOR object, columns IN
        SELECT attrelid::regclass::text, string_agg(quote_ident(attname), ', ')
        FROM pg_attribute
        WHERE attrelid IN ('rejected_events'::regclass, 'models'::regclass) AND attnum > 0
            AND NOT attisdropped AND attname NOT IN ('key', 'value', 'artifact')
        GROUP BY attrelid
    LOOP
        EXECUTE format('GRANT SELECT (%s) ON %s TO %I', columns, object, reader);
    END LOOP;
    EXECUTE format('GRANT EXECUTE ON FUNCTION review_application TO %I', reader);
END $$;

ALTER FUNCTION add_to_totals SECURITY DEFINER;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['grant_reader', 'add_to_totals'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
