"""The dashboard: reviews, who may read, and the rollup by segment."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = """
CREATE TABLE application_reviews (
    review_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id   integer NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint  NOT NULL,
    loan_id     text,
    reviewer    text NOT NULL CHECK (length(reviewer) BETWEEN 1 AND 200),
    note        text NOT NULL CHECK (length(note) BETWEEN 1 AND 2000),
    reviewed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    db_role     text NOT NULL
);
CREATE INDEX application_reviews_by_application
    ON application_reviews (source_id, partition, "offset");
COMMENT ON TABLE application_reviews IS
    'Who looked at which application, when, and what they noted; rows are never changed';
COMMENT ON COLUMN application_reviews.db_role IS 'Role of the session that recorded it';

-- The only thing that a reader can write.
CREATE FUNCTION review_application(
    source_id integer, partition integer, "offset" bigint, reviewer text, note text
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    review bigint;
BEGIN
    INSERT INTO application_reviews (source_id, partition, "offset", loan_id, reviewer, note,
                                     db_role)
    SELECT s.source_id, s.partition, s."offset", s.loan_id, btrim($4), btrim($5), session_user
    FROM scored_applications s
    WHERE s.source_id = $1 AND s.partition = $2 AND s."offset" = $3
    ORDER BY s.scored_at DESC LIMIT 1
    RETURNING review_id INTO review;
    IF review IS NULL THEN
        RAISE EXCEPTION 'no application has source %, partition % and offset %', $1, $2, $3
            USING ERRCODE = 'no_data_found';
    END IF;
    RETURN review;
END $$;

-- Lets a role read everything but the bytes of rejected events (they hold personal data), and
-- review. Safe to call again; after a migration it has to be, for the new tables.
CREATE FUNCTION grant_reader(reader name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    object text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), reader);
    -- Not the partitions: they are read through their tables.
    FOR object IN
        SELECT relname FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')
            AND NOT relispartition AND relname NOT IN ('rejected_events', 'alembic_version')
    LOOP
        EXECUTE format('GRANT SELECT ON %I TO %I', object, reader);
    END LOOP;
    EXECUTE format(
        'GRANT SELECT (source_id, partition, "offset", rejected_at, batch_id, recorded_at, reason)'
        ' ON rejected_events TO %I', reader
    );
    EXECUTE format('GRANT EXECUTE ON FUNCTION review_application TO %I', reader);
END $$;
COMMENT ON FUNCTION grant_reader IS
    'Whoever may execute review_application was granted by this; a migration grants them again';

-- A BRIN index knows nothing of the pages that were written since the last vacuum, and so reads all
-- of them for a minute's rows. The rows of a batch have one time: this index keeps it once.
DROP INDEX scored_applications_by_time;
CREATE INDEX scored_applications_by_time ON scored_applications (scored_at);

-- The Watchlist is counted, filtered and sorted in the index alone.
DROP INDEX scored_applications_watchlist;
CREATE INDEX scored_applications_watchlist ON scored_applications (scored_at DESC)
    INCLUDE (source_id, partition, "offset", loan_amnt, dti, int_rate, revol_util, pd, term_months,
             purpose, grade, addr_state, reasons)
    WHERE risk_tier = 'Watchlist';

-- What the dashboard splits applications by. '' and 0 stand for unknown.
CREATE VIEW application_segments AS
SELECT scored_at, risk_tier, loan_amnt,
    coalesce(purpose, '') AS purpose,
    coalesce(grade, '') AS grade,
    coalesce(addr_state, '') AS addr_state,
    CASE WHEN term_months IN (36, 60) THEN term_months ELSE 0 END::smallint AS term_months,
    (ARRAY[0, 5000, 10000, 15000, 25000])[
        1 + width_bucket(loan_amnt, ARRAY[5000, 10000, 15000, 25000]::float8[])
    ] AS amount_from
FROM scored_applications;
COMMENT ON COLUMN application_segments.amount_from IS 'Lower end of the band of loan_amnt, USD';

CREATE TABLE segments (
    segment_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    purpose     text     NOT NULL,
    grade       text     NOT NULL,
    addr_state  text     NOT NULL,
    term_months smallint NOT NULL,
    amount_from integer  NOT NULL,
    UNIQUE (purpose, grade, addr_state, term_months, amount_from)
);
COMMENT ON TABLE segments IS 'Combinations of what application_segments splits by';

CREATE TABLE segments_by_hour (
    hour           timestamptz NOT NULL,
    segment_id     integer NOT NULL,
    applications   integer NOT NULL,
    elevated       integer NOT NULL,
    watchlist      integer NOT NULL,
    loan_amnt      double precision NOT NULL,
    watchlist_amnt double precision NOT NULL,
    PRIMARY KEY (hour, segment_id)
) WITH (fillfactor = 80);
COMMENT ON TABLE segments_by_hour IS
    'Rollup of scored_applications by hour (UTC) of scoring; hours before merged_to are merged to '
    'their day. Later rows than rolled_up_to (segments_progress) are not in it yet';

CREATE TABLE segments_progress (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    rolled_up_to timestamptz NOT NULL,
    merged_to    timestamptz NOT NULL
);
INSERT INTO segments_progress (rolled_up_to, merged_to) VALUES ('-infinity', '-infinity');

-- Adds what was scored since the last time to segments_by_hour; returns how many applications.
-- Outside of the scoring transaction, which it must not slow down; exactly once, by rolled_up_to.
CREATE FUNCTION roll_up_segments(keep_hours interval DEFAULT '8 days') RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz;
    until timestamptz;
    days  timestamptz;
    added bigint;
BEGIN
    SELECT rolled_up_to, merged_to INTO since, days FROM segments_progress FOR UPDATE;
    -- Rows carry the time at which their transaction began. One that is open may still add some.
    SELECT least(clock_timestamp() - interval '10 seconds', min(xact_start)) INTO until
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
    IF until <= since THEN
        RETURN 0;
    END IF;

    WITH slice AS MATERIALIZED (
        SELECT date_trunc('hour', scored_at, 'UTC') AS hour,
            purpose, grade, addr_state, term_months, amount_from,
            count(*)::int AS applications,
            (count(*) FILTER (WHERE risk_tier = 'Elevated'))::int AS elevated,
            (count(*) FILTER (WHERE risk_tier = 'Watchlist'))::int AS watchlist,
            sum(loan_amnt) AS loan_amnt,
            coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0) AS watchlist_amnt
        FROM application_segments WHERE scored_at >= since AND scored_at < until
        GROUP BY 1, 2, 3, 4, 5, 6
    ), new AS (
        INSERT INTO segments (purpose, grade, addr_state, term_months, amount_from)
        SELECT DISTINCT purpose, grade, addr_state, term_months, amount_from FROM slice
        EXCEPT SELECT purpose, grade, addr_state, term_months, amount_from FROM segments
        RETURNING *
    ), known AS (
        SELECT * FROM segments UNION ALL SELECT * FROM new
    ), written AS (
        INSERT INTO segments_by_hour AS total
        SELECT hour, segment_id, applications, elevated, watchlist, loan_amnt, watchlist_amnt
        FROM slice JOIN known USING (purpose, grade, addr_state, term_months, amount_from)
        ON CONFLICT (hour, segment_id) DO UPDATE
        SET applications = total.applications + excluded.applications,
            elevated = total.elevated + excluded.elevated,
            watchlist = total.watchlist + excluded.watchlist,
            loan_amnt = total.loan_amnt + excluded.loan_amnt,
            watchlist_amnt = total.watchlist_amnt + excluded.watchlist_amnt
    )
    SELECT coalesce(sum(applications), 0) INTO added FROM slice;

    IF date_trunc('day', until - keep_hours, 'UTC') > days THEN
        WITH moved AS (
            DELETE FROM segments_by_hour
            WHERE hour >= days AND hour < date_trunc('day', until - keep_hours, 'UTC')
                AND hour <> date_trunc('day', hour, 'UTC')
            RETURNING *
        )
        INSERT INTO segments_by_hour AS total
        SELECT date_trunc('day', hour, 'UTC'), segment_id, sum(applications), sum(elevated),
            sum(watchlist), sum(loan_amnt), sum(watchlist_amnt)
        FROM moved GROUP BY 1, 2
        ON CONFLICT (hour, segment_id) DO UPDATE
        SET applications = total.applications + excluded.applications,
            elevated = total.elevated + excluded.elevated,
            watchlist = total.watchlist + excluded.watchlist,
            loan_amnt = total.loan_amnt + excluded.loan_amnt,
            watchlist_amnt = total.watchlist_amnt + excluded.watchlist_amnt;
        days := date_trunc('day', until - keep_hours, 'UTC');
    END IF;
    UPDATE segments_progress SET rolled_up_to = until, merged_to = days;
    RETURN added;
END $$;

-- A function with its owner's rights must not find a caller's temporary table first, and is for
-- those who are granted it.
DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['review_application', 'ensure_partitions', 'grant_reader',
                                   'roll_up_segments'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;

SELECT roll_up_segments();
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
