"""Rows of the big tables are frozen by the first vacuum that sees them.

They are written once. By default a vacuum leaves them as they are until fifty million transactions
later, and after two hundred million each partition is read and written as a whole, all of it into
the WAL once more, partition after partition of months. The first vacuum has their pages in
memory. A partitioned table takes no such parameter, so each partition has it.
"""

from alembic import op

revision = "0033"
down_revision = "0032"

STATEMENTS = """
DO $$
DECLARE
    made text := 'INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING COMMENTS)';
    frozen text := ' WITH (autovacuum_freeze_min_age = 0)';
    defined text := pg_get_functiondef('make_partitions'::regproc);
    child text;
BEGIN
    IF position(made IN defined) = 0 THEN
        RAISE EXCEPTION 'make_partitions is not as 0014 made it';
    END IF;
    EXECUTE replace(defined, made, made || frozen);
    FOR child IN SELECT t.name FROM time_partitions t LOOP
        EXECUTE format('ALTER TABLE %I SET (autovacuum_freeze_min_age = 0)', child);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
