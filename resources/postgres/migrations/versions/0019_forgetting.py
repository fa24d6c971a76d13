"""What goes on purpose leaves a record: a forgotten applicant, old reviews, offsets given up.

Why offsets, and not a hash of the loan's id: an id has nine digits, so a hash of it is the id to
whoever has the key, and every event of the stream would have to be hashed to be recognised. An
offset says of nobody who it was once the topic's own retention has passed it, and is what the count
of every offset, a later archive run and a rebuild need. Why functions with the owner's rights: the
role that may forget must not be able to delete without the record of it.
"""

from alembic import op

revision = "0019"
down_revision = "0018"

STATEMENTS = r"""
ALTER TABLE stream_offsets ADD COLUMN forgotten bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN stream_offsets.forgotten IS
    'Offsets whose scored or rejected row was deleted because its applicant was forgotten';
ALTER TABLE stream_offsets DROP CONSTRAINT every_offset_is_accounted_for;
ALTER TABLE stream_offsets ADD CONSTRAINT every_offset_is_accounted_for
    CHECK (next_offset - first_offset = scored + rejected + gaps + lost + forgotten);

CREATE TABLE forgettings (
    forgetting_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    forgotten_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    forgotten_by  text NOT NULL CHECK (length(forgotten_by) BETWEEN 1 AND 200),
    why           text NOT NULL CHECK (length(why) BETWEEN 1 AND 2000),
    db_role       text NOT NULL DEFAULT session_user,
    scored        bigint NOT NULL DEFAULT 0,
    rejected      bigint NOT NULL DEFAULT 0,
    reviews       bigint NOT NULL DEFAULT 0,
    mentions      bigint NOT NULL DEFAULT 0,
    lake_rows     bigint,
    lake_at       timestamptz
);
COMMENT ON TABLE forgettings IS
    'When who had an applicant forgotten, and how many rows went; never whose they were';
COMMENT ON COLUMN forgettings.mentions IS
    'Reviews of other applications whose note named the loan: the name was blotted out';
COMMENT ON COLUMN forgettings.lake_rows IS 'Rows that were deleted from the tables of the lake';
COMMENT ON COLUMN forgettings.lake_at IS
    'When the lake had no byte of it any more; NULL: still to be done';

CREATE TABLE forgotten_offsets (
    source_id     integer NOT NULL REFERENCES sources,
    partition     integer NOT NULL,
    "offset"      bigint  NOT NULL,
    forgetting_id bigint  NOT NULL REFERENCES forgettings,
    counted       boolean NOT NULL,
    PRIMARY KEY (source_id, partition, "offset")
);
CREATE INDEX forgotten_offsets_by_forgetting ON forgotten_offsets (forgetting_id);
COMMENT ON TABLE forgotten_offsets IS
    'Offsets of forgotten applicants: never archived, and never brought back by a rebuild';
COMMENT ON COLUMN forgotten_offsets.counted IS
    'In stream_offsets.forgotten; false where retention had dropped the row before';

-- Deletes what Postgres has of a loan: its scored rows, and whatever has those coordinates, as
-- rejected events are found by their bytes, which is not SQL's to do. Returns the record of it.
CREATE FUNCTION forget_loan(loan text, sources integer[], partitions integer[], offsets bigint[],
                            by_whom text, reason text)
RETURNS forgettings LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
    done forgettings;
    word text := '(?<!\w)' || regexp_replace(loan, '(\W)', '\\\1', 'g') || '(?!\w)';
BEGIN
    -- What a batch and a re-drive write first: they wait for this, and it for them, in no circle.
    LOCK TABLE stream_offsets IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO forgettings (forgotten_by, why) VALUES (by_whom, reason) RETURNING * INTO done;

    WITH gone AS (
        DELETE FROM scored_applications WHERE loan_id = loan
        RETURNING source_id, partition, "offset"
    ), named AS (
        DELETE FROM scored_applications s
        USING unnest(sources, partitions, offsets) AS n (source_id, partition, at)
        WHERE s.source_id = n.source_id AND s.partition = n.partition AND s."offset" = n.at
            AND s.loan_id IS DISTINCT FROM loan
        RETURNING s.source_id, s.partition, s."offset"
    ), counted AS (
        INSERT INTO forgotten_offsets AS f (source_id, partition, "offset", forgetting_id, counted)
        SELECT DISTINCT a.*, done.forgetting_id, true
        FROM (SELECT * FROM gone UNION ALL SELECT * FROM named) AS a
        ON CONFLICT (source_id, partition, "offset") DO UPDATE SET counted = true
            WHERE NOT f.counted
        RETURNING source_id, partition
    ), moved AS (
        UPDATE stream_offsets o SET scored = o.scored - c.n, forgotten = o.forgotten + c.n
        FROM (SELECT source_id, partition, count(*) AS n FROM counted GROUP BY 1, 2) AS c
        WHERE o.source_id = c.source_id AND o.partition = c.partition
    )
    SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM named) INTO done.scored;

    WITH gone AS (
        DELETE FROM rejected_events r
        USING unnest(sources, partitions, offsets) AS n (source_id, partition, at)
        WHERE r.source_id = n.source_id AND r.partition = n.partition AND r."offset" = n.at
        RETURNING r.source_id, r.partition, r."offset"
    ), counted AS (
        INSERT INTO forgotten_offsets AS f (source_id, partition, "offset", forgetting_id, counted)
        SELECT DISTINCT a.*, done.forgetting_id, true FROM gone AS a
        ON CONFLICT (source_id, partition, "offset") DO UPDATE SET counted = true
            WHERE NOT f.counted
        RETURNING source_id, partition
    ), moved AS (
        UPDATE stream_offsets o SET rejected = o.rejected - c.n, forgotten = o.forgotten + c.n
        FROM (SELECT source_id, partition, count(*) AS n FROM counted GROUP BY 1, 2) AS c
        WHERE o.source_id = c.source_id AND o.partition = c.partition
    )
    SELECT count(*) FROM gone INTO done.rejected;

    INSERT INTO forgotten_offsets (source_id, partition, "offset", forgetting_id, counted)
    SELECT DISTINCT n.*, done.forgetting_id, false FROM unnest(sources, partitions, offsets) AS n
    ON CONFLICT DO NOTHING;

    DELETE FROM application_reviews r WHERE r.loan_id = loan OR EXISTS (
        SELECT FROM forgotten_offsets f WHERE f.forgetting_id = done.forgetting_id
            AND f.source_id = r.source_id AND f.partition = r.partition AND f."offset" = r."offset"
    );
    GET DIAGNOSTICS done.reviews = ROW_COUNT;
    IF length(loan) >= 4 THEN  -- a shorter one is a number like any other
        UPDATE application_reviews
        SET note = left(regexp_replace(note, word, '[forgotten]', 'g'), 2000) WHERE note ~ word;
        GET DIAGNOSTICS done.mentions = ROW_COUNT;
    END IF;

    UPDATE forgettings SET scored = done.scored, rejected = done.rejected, reviews = done.reviews,
        mentions = done.mentions
    WHERE forgetting_id = done.forgetting_id;
    RETURN done;
END $$;

-- Reviews have a retention of their own: whoever calls this cannot take those of today along.
CREATE FUNCTION delete_old_reviews(keep_days integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM application_reviews
    WHERE reviewed_at < now() - make_interval(days => greatest(keep_days, 1));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

CREATE TABLE abandoned_offsets (
    source_id    integer NOT NULL REFERENCES sources,
    partition    integer NOT NULL,
    first_offset bigint  NOT NULL,
    next_offset  bigint  NOT NULL CHECK (next_offset > first_offset),
    abandoned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    abandoned_by text NOT NULL CHECK (length(abandoned_by) BETWEEN 1 AND 200),
    why          text NOT NULL CHECK (length(why) BETWEEN 1 AND 2000),
    db_role      text NOT NULL DEFAULT session_user,
    PRIMARY KEY (source_id, partition, first_offset)
);
COMMENT ON TABLE abandoned_offsets IS
    'Committed offsets that the lake will not get any more, and who answers for it: retention may '
    'drop their rows';

-- As in 0014, but what was given up by name is answered for.
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
    SELECT r.source_id, r.partition, r.scored, r.rejected, r.offsets <@ (
        SELECT coalesce(range_agg(int8range(a.first_offset, a.next_offset)), '{}') FROM (
            SELECT first_offset, next_offset FROM archive_objects a
            WHERE a.source_id = r.source_id AND a.partition = r.partition AND a.lost = 0
                AND (a.key IS NULL OR a.verified_at IS NOT NULL)
            UNION ALL
            SELECT first_offset, next_offset FROM abandoned_offsets b
            WHERE b.source_id = r.source_id AND b.partition = r.partition
        ) AS a WHERE int8range(a.first_offset, a.next_offset) && r.offsets
    )
    FROM ranges r ORDER BY 1, 2
$$;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['forget_loan', 'delete_old_reviews', 'period_contents'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
