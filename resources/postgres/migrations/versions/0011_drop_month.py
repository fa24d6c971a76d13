"""Retention for a role that owns no table."""

from alembic import op

revision = "0011"
down_revision = "0010"

STATEMENTS = """
-- Drops a month's time partitions. Which month may go is the caller's business: retention.
CREATE FUNCTION drop_month(month date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['scored_applications', 'rejected_events', 'batches'] LOOP
        EXECUTE format(
            'DROP TABLE IF EXISTS %I', format('%s_%s', parent, to_char(month, 'YYYY_MM'))
        );
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION drop_month FROM PUBLIC;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
