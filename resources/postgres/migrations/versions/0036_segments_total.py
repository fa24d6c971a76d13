"""Segments of all time are kept as sums: their days were all read, four thousand segments each.

Sums change in the transaction of the rollup, which takes turns with itself and with whoever takes
it back (0015), and waits for nobody else.
"""

from alembic import op

revision = "0036"
down_revision = "0035"

STATEMENTS = r"""
CREATE TABLE segments_total (
    segment_id     integer PRIMARY KEY,
    applications   bigint NOT NULL,
    elevated       bigint NOT NULL,
    watchlist      bigint NOT NULL,
    loan_amnt      double precision NOT NULL,
    watchlist_amnt double precision NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE segments_total IS 'Sums of segments_by_hour by segment, over all time';

CREATE FUNCTION total_segments() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM segments_total;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        INSERT INTO segments_total AS t
        SELECT segment_id, sum(applications), sum(elevated), sum(watchlist), sum(loan_amnt),
            sum(watchlist_amnt)
        FROM added GROUP BY segment_id
        ON CONFLICT (segment_id) DO UPDATE SET
            applications = t.applications + excluded.applications,
            elevated = t.elevated + excluded.elevated,
            watchlist = t.watchlist + excluded.watchlist,
            loan_amnt = t.loan_amnt + excluded.loan_amnt,
            watchlist_amnt = t.watchlist_amnt + excluded.watchlist_amnt;
    END IF;
    IF TG_OP IN ('DELETE', 'UPDATE') THEN
        UPDATE segments_total t SET
            applications = t.applications - r.applications,
            elevated = t.elevated - r.elevated,
            watchlist = t.watchlist - r.watchlist,
            loan_amnt = t.loan_amnt - r.loan_amnt,
            watchlist_amnt = t.watchlist_amnt - r.watchlist_amnt
        FROM (
            SELECT segment_id, sum(applications) AS applications, sum(elevated) AS elevated,
                sum(watchlist) AS watchlist, sum(loan_amnt) AS loan_amnt,
                sum(watchlist_amnt) AS watchlist_amnt
            FROM removed GROUP BY segment_id
        ) AS r WHERE t.segment_id = r.segment_id;
        DELETE FROM segments_total WHERE applications = 0;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER segments_added AFTER INSERT ON segments_by_hour REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION total_segments();
CREATE TRIGGER segments_changed AFTER UPDATE ON segments_by_hour
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION total_segments();
CREATE TRIGGER segments_removed AFTER DELETE ON segments_by_hour REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION total_segments();
CREATE TRIGGER segments_none AFTER TRUNCATE ON segments_by_hour
    FOR EACH STATEMENT EXECUTE FUNCTION total_segments();

INSERT INTO segments_total
SELECT segment_id, sum(applications), sum(elevated), sum(watchlist), sum(loan_amnt),
    sum(watchlist_amnt)
FROM segments_by_hour GROUP BY segment_id;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION total_segments SET search_path = %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION total_segments FROM PUBLIC;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
