"""What both tables of the lake have, as a mirror; and retention goes by that, never by a check.

archive_objects.verified_at is of the version before, for as long as that may run.
"""

from alembic import op

revision = "0020"
down_revision = "0019"

STATEMENTS = r"""
CREATE TABLE lake_progress (
    source_id  integer NOT NULL,
    partition  integer NOT NULL,
    raw_events bigint,
    decisions  bigint,
    redriven   timestamptz,
    PRIMARY KEY (source_id, partition),
    FOREIGN KEY (source_id, partition) REFERENCES stream_offsets
);
COMMENT ON TABLE lake_progress IS
    'The next offset of the lake''s two tables, as they last said themselves: a mirror, never '
    'believed against them';
COMMENT ON COLUMN lake_progress.redriven IS
    'Up to when decisions of re-driven events are in the table';

CREATE TABLE lake_verifications (
    key         text PRIMARY KEY,
    bytes       bigint NOT NULL,
    verified_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE lake_verifications IS
    'When a file of the lake was last read back and was what was stored; nothing depends on it';

CREATE INDEX redriven_events_by_time ON redriven_events (source_id, redriven_at);

-- As in 0019, but what makes it safe is that both tables of the lake have it by their own progress.
-- What of the raw events was lost to them has to be given up by name; decisions never need be.
CREATE OR REPLACE FUNCTION period_contents(starts timestamptz, ends timestamptz)
RETURNS TABLE (source_id integer, partition integer, scored bigint, rejected bigint, safe boolean)
    LANGUAGE sql STABLE AS $$
    WITH held AS (
        SELECT s.source_id, s.partition, s."offset" AS at, 1 AS scored, 0 AS rejected
        FROM scored_applications s WHERE scored_at >= $1 AND scored_at < $2
        UNION ALL
        SELECT r.source_id, r.partition, r."offset", 0, 1
        FROM rejected_events r WHERE rejected_at >= $1 AND rejected_at < $2
    ), ranges AS (
        SELECT h.source_id, h.partition, int8range(min(at), max(at), '[]') AS offsets,
            sum(h.scored)::bigint AS scored, sum(h.rejected)::bigint AS rejected
        FROM held h GROUP BY 1, 2
    )
    SELECT r.source_id, r.partition, r.scored, r.rejected, coalesce(
        r.offsets <@ (int8multirange(int8range(NULL, coalesce(l.raw_events, 0)))
            - lost.ranges + given_up.ranges)
        AND upper(r.offsets) <= l.decisions
        AND NOT EXISTS (SELECT FROM redriven_events e
            WHERE e.source_id = r.source_id AND e.partition = r.partition
                AND e.redriven_at >= $1 AND e.redriven_at < $2
                AND e.redriven_at > coalesce(l.redriven, '-infinity')),
        false)
    FROM ranges r LEFT JOIN lake_progress l USING (source_id, partition)
    CROSS JOIN LATERAL (
        SELECT coalesce(range_agg(int8range(a.first_offset, a.next_offset)), '{}') AS ranges
        FROM archive_objects a
        WHERE a.source_id = r.source_id AND a.partition = r.partition AND a.lost > 0
    ) AS lost
    CROSS JOIN LATERAL (
        SELECT coalesce(range_agg(int8range(b.first_offset, b.next_offset)), '{}') AS ranges
        FROM abandoned_offsets b WHERE b.source_id = r.source_id AND b.partition = r.partition
    ) AS given_up
    ORDER BY 1, 2
$$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION period_contents SET search_path = %I, pg_temp',
                   current_schema());
    EXECUTE 'REVOKE ALL ON FUNCTION period_contents FROM PUBLIC';
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
