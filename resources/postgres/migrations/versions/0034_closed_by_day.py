"""What cases were closed as is counted by day, and work by day finds its cases by an index.

The figures of reviews, which a scrape has, too, read every case that was closed in a time, or ever.
Counts that change with the case are exact, the same for every reader, and as many as there are
days, reviewers and rules. They are of the cases that are there: one that is opened again, is
forgotten or goes by retention is taken from its day, and a count of none is no row, so that nobody
is named here who is not named in cases.

Why a row's trigger for an update, and a statement's for the others: the drain updates cases that
are not closed, which costs it nothing so; retention deletes many at once.
"""

from alembic import op

revision = "0034"
down_revision = "0033"

STATEMENTS = r"""
CREATE INDEX cases_opened ON cases (opened_at);

CREATE TABLE closed_by_day (
    day         date   NOT NULL,
    rule        text   NOT NULL,
    reviewer    text   NOT NULL,
    disposition text   NOT NULL,
    cases       bigint NOT NULL,
    PRIMARY KEY (day, rule, reviewer, disposition)
);
COMMENT ON TABLE closed_by_day IS
    'Cases that are closed, by the day (UTC) of that, as what, and by whom';
COMMENT ON COLUMN closed_by_day.rule IS
    'One of the case''s reasons, each of which has it; '''' has each case once';

-- In the order of the key, so that no two transactions can wait in a circle.
CREATE FUNCTION count_closed_case() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO closed_by_day AS t
    SELECT (closed_at AT TIME ZONE 'UTC')::date, rule, closed_by, disposition, sum(step)
    FROM (VALUES (old.state, old.closed_at, old.closed_by, old.disposition, old.reasons, -1),
                 (new.state, new.closed_at, new.closed_by, new.disposition, new.reasons, 1)
        ) AS c (state, closed_at, closed_by, disposition, reasons, step),
        unnest(array_prepend('', reasons)) AS rule
    WHERE state = 'closed' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (day, rule, reviewer, disposition) DO UPDATE SET cases = t.cases + excluded.cases;
    DELETE FROM closed_by_day
    WHERE day = (old.closed_at AT TIME ZONE 'UTC')::date AND cases = 0;
    RETURN NULL;
END $$;
CREATE TRIGGER count_closed AFTER UPDATE ON cases FOR EACH ROW
    WHEN (old.state = 'closed' OR new.state = 'closed') EXECUTE FUNCTION count_closed_case();

CREATE FUNCTION count_closed_cases() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM closed_by_day;
        RETURN NULL;
    END IF;
    IF NOT EXISTS (SELECT FROM changed WHERE state = 'closed') THEN
        RETURN NULL;
    END IF;
    INSERT INTO closed_by_day AS t
    SELECT (closed_at AT TIME ZONE 'UTC')::date, rule, closed_by, disposition,
        CASE TG_OP WHEN 'DELETE' THEN -count(*) ELSE count(*) END
    FROM changed, unnest(array_prepend('', reasons)) AS rule
    WHERE state = 'closed' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (day, rule, reviewer, disposition) DO UPDATE SET cases = t.cases + excluded.cases;
    DELETE FROM closed_by_day WHERE cases = 0;
    RETURN NULL;
END $$;
CREATE TRIGGER count_added_closed AFTER INSERT ON cases REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_closed_cases();
CREATE TRIGGER count_deleted_closed AFTER DELETE ON cases REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_closed_cases();
CREATE TRIGGER count_none_closed AFTER TRUNCATE ON cases
    FOR EACH STATEMENT EXECUTE FUNCTION count_closed_cases();

INSERT INTO closed_by_day
SELECT (closed_at AT TIME ZONE 'UTC')::date, rule, closed_by, disposition, count(*)
FROM cases, unnest(array_prepend('', reasons)) AS rule
WHERE state = 'closed' GROUP BY 1, 2, 3, 4;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['count_closed_case', 'count_closed_cases'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
