"""Time partitions of a day or a month, made ahead and without stopping anybody; and what is dropped
is archived and verified, whoever asks.

Why CREATE and ATTACH: `CREATE TABLE ... PARTITION OF` takes ACCESS EXCLUSIVE on the parent. Behind
a dump, which reads for hours, it waited, and every reader waited behind it. ATTACH waits for
neither readers nor writers. Why the condition of retention is in the function: the role that drops
must not be able to drop anything else.
"""

from alembic import op

revision = "0014"
down_revision = "0013"

STATEMENTS = r"""
CREATE VIEW time_partitions AS
SELECT p.relname::text AS parent, c.relname::text AS name,
    bounds[1]::timestamptz AS starts, bounds[2]::timestamptz AS ends
FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid,
    LATERAL regexp_match(
        pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\) TO \(''([^'']+)''\)') AS bounds
WHERE i.inhparent IN ('scored_applications'::regclass, 'rejected_events'::regclass,
                      'batches'::regclass)
    AND bounds IS NOT NULL;
COMMENT ON VIEW time_partitions IS
    'The partitions by time of the big tables: rows from starts up to and without ends';

-- Makes partitions of that span (day or month) from the end of those that there are until a week or
-- a month after the moment; returns how many. Safe to call at any time, by any number of callers.
-- Nobody who reads or writes waits for it, and it waits for two seconds at most.
CREATE FUNCTION make_partitions(span text, moment timestamptz DEFAULT now()) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' SET timezone = 'UTC' AS $$
DECLARE
    step   interval := CASE span WHEN 'day' THEN interval '1 day'
                                 WHEN 'month' THEN interval '1 month' END;
    until  timestamptz := moment + CASE span WHEN 'day' THEN interval '7 days' ELSE step END;
    parent_name text;
    child  text;
    at     timestamptz;
    next   timestamptz;
    locked boolean := false;
    made   integer := 0;
BEGIN
    IF step IS NULL THEN
        RAISE EXCEPTION 'a time partition is of a day or a month, not of a %', span
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOREACH parent_name IN ARRAY ARRAY['scored_applications', 'rejected_events', 'batches'] LOOP
        -- The first ones begin with the span before: a transaction may have begun there.
        SELECT greatest(date_trunc(span, moment) - CASE WHEN count(*) = 0 THEN step ELSE '0' END,
                        max(ends) FILTER (WHERE ends <= moment))
        INTO at FROM time_partitions WHERE parent = parent_name;
        WHILE at <= until LOOP
            SELECT ends INTO next FROM time_partitions
            WHERE parent = parent_name AND starts <= at AND at < ends;
            IF FOUND THEN
                at := next;
            ELSIF NOT locked THEN  -- then look again
                PERFORM pg_advisory_xact_lock(
                    hashtextextended(current_schema() || '.ensure_partitions', 0));
                locked := true;
            ELSE
                SELECT least(date_trunc(span, at) + step, min(starts)) INTO next
                FROM time_partitions WHERE parent = parent_name AND starts > at;
                child := parent_name || to_char(at, CASE
                    WHEN span = 'month' AND at = date_trunc('month', at) THEN '_YYYY_MM'
                    ELSE '_YYYY_MM_DD' END);
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS'
                    ' INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING COMMENTS)',
                    child, parent_name);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                    parent_name, child, at, next);
                at := next;
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- For the code before: it looks, and makes what is missing.
CREATE OR REPLACE FUNCTION ensure_partitions() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF (SELECT count(*) < 3 FROM time_partitions WHERE starts <= now() AND now() < ends) THEN
        PERFORM make_partitions('month');
    END IF;
END $$;

ALTER TABLE dropped_rows ADD COLUMN ends timestamptz;
COMMENT ON COLUMN dropped_rows.month IS 'First day of the time partition, which may be of a day';
COMMENT ON COLUMN dropped_rows.ends IS 'Its end; NULL: a month later';

-- What a period holds, by source and partition, and whether it is safe to drop: every event is
-- archived, none was lost to the archive, and all checksums were verified.
CREATE FUNCTION period_contents(starts timestamptz, ends timestamptz)
RETURNS TABLE (source_id integer, partition integer, scored bigint, rejected bigint, safe boolean)
    LANGUAGE sql STABLE AS $$
    WITH held AS (
        SELECT s.source_id, s.partition, s."offset" AS at, 1 AS scored, 0 AS rejected
        FROM scored_applications s WHERE scored_at >= $1 AND scored_at < $2
        UNION ALL
        SELECT r.source_id, r.partition, r."offset", 0, 1
        FROM rejected_events r WHERE rejected_at >= $1 AND rejected_at < $2
    ), ranges AS (
        SELECT h.source_id, h.partition, min(at) AS first, max(at) AS last,
            sum(h.scored)::bigint AS scored, sum(h.rejected)::bigint AS rejected
        FROM held h GROUP BY 1, 2
    )
    SELECT r.source_id, r.partition, r.scored, r.rejected, EXISTS (
        SELECT FROM archive_objects a
        WHERE a.source_id = r.source_id AND a.partition = r.partition
            AND a.first_offset <= r.last AND a.next_offset > r.first
        HAVING min(a.first_offset) <= r.first AND max(a.next_offset) > r.last
            AND bool_and(a.lost = 0 AND (a.key IS NULL OR a.verified_at IS NOT NULL))
            AND sum(a.next_offset - a.first_offset) = max(a.next_offset) - min(a.first_offset)
    )
    FROM ranges r ORDER BY 1, 2
$$;

-- Drops a period's partitions and records how many rows they had, if all of it is safe; returns
-- what it holds in any case.
CREATE FUNCTION drop_period(starts timestamptz, ends timestamptz)
RETURNS TABLE (source_id integer, partition integer, scored bigint, rejected bigint, safe boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' SET timezone = 'UTC' AS $$
#variable_conflict use_column
DECLARE
    children text[];
    child    text;
    contents jsonb;
BEGIN
    SELECT coalesce(array_agg(t.name ORDER BY t.name), '{}') INTO children
    FROM time_partitions t WHERE t.starts = $1 AND t.ends = $2;
    FOREACH child IN ARRAY children LOOP
        EXECUTE format('LOCK TABLE %I IN SHARE MODE', child);  -- counted, and then not changed
    END LOOP;
    SELECT coalesce(jsonb_agg(c), '[]') INTO contents FROM period_contents($1, $2) c;
    RETURN QUERY SELECT * FROM jsonb_to_recordset(contents)
        AS c (source_id int, partition int, scored bigint, rejected bigint, safe boolean);
    IF NOT contents @> '[{"safe": false}]' THEN
        INSERT INTO dropped_rows AS d (source_id, partition, month, ends, scored, rejected)
        SELECT c.source_id, c.partition, $1::date, $2, c.scored, c.rejected
        FROM jsonb_to_recordset(contents)
            AS c (source_id int, partition int, scored bigint, rejected bigint)
        ON CONFLICT (source_id, partition, month) DO UPDATE
        SET scored = d.scored + excluded.scored, rejected = d.rejected + excluded.rejected,
            ends = excluded.ends, dropped_at = now();
        FOREACH child IN ARRAY children LOOP
            EXECUTE format('DROP TABLE %I', child);
        END LOOP;
    END IF;
END $$;

-- For the code before, which recorded itself what it dropped: only what is safe.
CREATE OR REPLACE FUNCTION drop_month(month date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    begins timestamptz := month::timestamp AT TIME ZONE 'UTC';
    child  text;
BEGIN
    IF EXISTS (SELECT FROM period_contents(begins, begins + interval '1 month') WHERE NOT safe) THEN
        RAISE EXCEPTION '% is not archived and verified', to_char(month, 'YYYY-MM')
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    FOR child IN
        SELECT t.name FROM time_partitions t
        WHERE t.starts = begins AND t.ends = begins + interval '1 month'
    LOOP
        EXECUTE format('DROP TABLE %I', child);
    END LOOP;
END $$;

-- Those of a database that nothing was written to yet are made anew, of the span that it is
-- configured with.
DO $$
DECLARE
    child text;
BEGIN
    IF NOT EXISTS (SELECT FROM stream_offsets) THEN
        FOR child IN SELECT t.name FROM time_partitions t LOOP
            EXECUTE format('DROP TABLE %I', child);
        END LOOP;
    END IF;
END $$;

-- As in 0007: with the owner's rights, never a caller's temporary table first.
DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['make_partitions', 'ensure_partitions', 'period_contents',
                                   'drop_period', 'drop_month'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
