"""Minutes are summed up by hour, too: all time is read as hours.

A year is two million rows of risk_by_minute, and 35,000 hours. As in 0009 the sums change in the
transaction of the batch. Row by row, in the order of the statement: whoever takes minutes by their
key takes hours by theirs, so that no two transactions can wait in a circle.
"""

from alembic import op

revision = "0035"
down_revision = "0034"

STATEMENTS = r"""
CREATE TABLE risk_by_hour (
    hour         timestamptz NOT NULL,
    source_id    integer NOT NULL,
    risk_tier    text NOT NULL,
    applications bigint NOT NULL,
    loan_amnt    double precision NOT NULL,
    PRIMARY KEY (hour, source_id, risk_tier)
) WITH (fillfactor = 50);
COMMENT ON TABLE risk_by_hour IS 'Sums of risk_by_minute by hour (UTC)';

CREATE FUNCTION sum_up_hours() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM risk_by_hour;
        RETURN NULL;
    END IF;
    INSERT INTO risk_by_hour AS t
    SELECT date_trunc('hour', minute, 'UTC'), source_id, risk_tier, sum(applications),
        sum(loan_amnt)
    FROM (VALUES
        (old.minute, old.source_id, old.risk_tier, -old.applications, -old.loan_amnt),
        (new.minute, new.source_id, new.risk_tier, new.applications, new.loan_amnt)
    ) AS change (minute, source_id, risk_tier, applications, loan_amnt)
    WHERE minute IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (hour, source_id, risk_tier) DO UPDATE
    SET applications = t.applications + excluded.applications,
        loan_amnt = t.loan_amnt + excluded.loan_amnt;
    RETURN NULL;
END $$;
CREATE TRIGGER risk_by_minute_sum_up AFTER INSERT OR UPDATE OR DELETE ON risk_by_minute
    FOR EACH ROW EXECUTE FUNCTION sum_up_hours();
CREATE TRIGGER risk_by_minute_none AFTER TRUNCATE ON risk_by_minute
    FOR EACH STATEMENT EXECUTE FUNCTION sum_up_hours();

INSERT INTO risk_by_hour
SELECT date_trunc('hour', minute, 'UTC'), source_id, risk_tier, sum(applications), sum(loan_amnt)
FROM risk_by_minute GROUP BY 1, 2, 3;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION sum_up_hours SET search_path = %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION sum_up_hours FROM PUBLIC;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
