"""The rollup by segment waits for those who write applications, not for whoever reads.

It adds the rows up to a time, and a row's time is when its transaction began; so it must know that
no transaction of before can still add one. Until now it waited for every open transaction of the
database: behind a dump it stood for hours. Two things make it enough to look at those that hold a
writer's lock on `scored_applications`. What is to be counted is closed first, in a sequence, whose
value everybody sees at once. And whoever writes looks at it, once its lock is taken: a transaction
that was not seen, because it took its lock later, finds itself too late, and takes the rollup back
to the hour that it writes in, which is then counted again.
"""

from alembic import op

revision = "0015"
down_revision = "0014"

STATEMENTS = """
CREATE SEQUENCE segments_closed_to;
COMMENT ON SEQUENCE segments_closed_to IS
    'Microseconds since 1970 up to which segments_by_hour may count; visible at once, unlike a row';

CREATE FUNCTION close_segments(until timestamptz) RETURNS void
    LANGUAGE sql SECURITY DEFINER AS $$
    SELECT setval('segments_closed_to',
                  greatest(last_value, (extract(epoch FROM until) * 1000000)::bigint))
    FROM segments_closed_to WHERE until > to_timestamp(1)
$$;

-- When the oldest transaction began that writes applications; NULL without one.
CREATE FUNCTION first_writer() RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_stat_clear_snapshot();
    RETURN (
        -- Of other roles' transactions only a monitor may know the time: then none is counted.
        SELECT min(coalesce(a.xact_start, '-infinity'))
        FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
        WHERE l.relation = 'scored_applications'::regclass
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                           'AccessExclusiveLock')
            AND l.pid IS DISTINCT FROM pg_backend_pid()
    );
END $$;

-- Before a transaction's applications are written, and after it has its lock.
CREATE FUNCTION reopen_segments() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    begins timestamptz := date_trunc('hour', now(), 'UTC');
BEGIN
    IF now() < (SELECT to_timestamp(last_value / 1000000.0) FROM segments_closed_to) THEN
        -- Behind the rollup that is at work, if one is.
        SELECT CASE WHEN begins < merged_to THEN date_trunc('day', begins, 'UTC') ELSE begins END
        INTO begins FROM segments_progress FOR UPDATE;
        DELETE FROM segments_by_hour WHERE hour >= begins;
        UPDATE segments_progress SET rolled_up_to = least(rolled_up_to, begins),
            merged_to = least(merged_to, begins);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER scored_applications_reopen_segments BEFORE INSERT ON scored_applications
    FOR EACH STATEMENT EXECUTE FUNCTION reopen_segments();

-- Adds what was scored since the last time and before that moment; returns how many applications.
-- Exactly once, by rolled_up_to.
CREATE FUNCTION roll_up_segments_until(moment timestamptz, keep_hours interval) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz;
    until timestamptz;
    days  timestamptz;
    added bigint;
BEGIN
    SELECT rolled_up_to, merged_to INTO since, days FROM segments_progress FOR UPDATE;
    until := least(moment, first_writer());
    PERFORM close_segments(until);
    until := least(until, first_writer());  -- who had a lock before it was closed
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

CREATE OR REPLACE FUNCTION roll_up_segments(keep_hours interval DEFAULT '8 days') RETURNS bigint
    LANGUAGE sql AS $$
    SELECT roll_up_segments_until(clock_timestamp() - interval '10 seconds', keep_hours)
$$;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['close_segments', 'first_writer', 'reopen_segments',
                                   'roll_up_segments_until', 'roll_up_segments'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
