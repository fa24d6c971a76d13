"""A review is what is done to a case: those of before are, too, and so is the Watchlist of before.

Whoever only reads does nothing else from here on; who acts for people at the dashboard is named by
grant_reviewer. Exports leave a row.
"""

from alembic import op

revision = "0028"
down_revision = "0027"

STATEMENTS = r"""
-- Opens cases of Watchlist decisions that have none, of before there were cases or of another
-- schema; returns how many. What was decided since the loan's case needs none.
CREATE FUNCTION open_earlier_cases(since timestamptz, until timestamptz, within interval)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    opened bigint;
BEGIN
    WITH flagged AS MATERIALIZED (
        SELECT s.*, coalesce(loan_id, source_id || '/' || partition || '/' || "offset") AS loan
        FROM scored_applications s
        WHERE risk_tier = 'Watchlist' AND scored_at >= $1 AND scored_at < $2
    ), why AS (
        SELECT loan, array_agg(DISTINCT reason ORDER BY reason) AS reasons
        FROM flagged, unnest(reasons) AS reason GROUP BY loan
    ), known AS MATERIALIZED (
        SELECT coalesce(loan_id, source_id || '/' || partition || '/' || "offset") AS loan,
            max(decided_at) AS decided_at FROM cases GROUP BY 1
    ), newest AS (
        SELECT DISTINCT ON (loan) f.*, count(*) OVER (PARTITION BY loan) AS times
        FROM flagged f LEFT JOIN known k USING (loan)
        WHERE k.decided_at IS NULL OR k.decided_at < f.scored_at
        ORDER BY loan, scored_at DESC, partition, "offset" DESC
    )
    INSERT INTO cases (loan_id, source_id, partition, "offset", due_at, decided_at, decisions,
                       loan_amnt, pd, priority, reasons, policy_id)
    SELECT loan_id, source_id, partition, "offset", now() + within, scored_at, times, loan_amnt, pd,
        loan_amnt * coalesce(pd, 0.2), coalesce(why.reasons, '{}'), policy_id
    FROM newest LEFT JOIN why USING (loan) ORDER BY loan
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS opened = ROW_COUNT;
    RETURN opened;
END $$;

-- Writes a review of before into the history of its loan's case, which is the reviewer's from then
-- on unless somebody has it. Where retention dropped the decision, its amount is not known: 0.
CREATE FUNCTION review_of_a_case(review application_reviews) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found cases;
    begun boolean;
BEGIN
    SELECT * INTO found FROM (
        SELECT * FROM cases WHERE loan_id = review.loan_id AND state <> 'closed'
        UNION ALL SELECT * FROM cases WHERE loan_id = review.loan_id AND state = 'closed'
        UNION ALL SELECT * FROM cases c WHERE review.loan_id IS NULL
            AND (c.source_id, c.partition, c."offset")
                = (review.source_id, review.partition, review."offset")
    ) AS of_loan ORDER BY state = 'closed', case_id DESC LIMIT 1;
    IF found.case_id IS NULL THEN
        INSERT INTO cases (loan_id, source_id, partition, "offset", opened_at, due_at, decided_at,
                           loan_amnt, pd, priority, reasons, policy_id)
        SELECT review.loan_id, review.source_id, review.partition, review."offset",
            review.reviewed_at, now() + interval '72 hours',
            coalesce(s.scored_at, review.reviewed_at), coalesce(s.loan_amnt, 0), s.pd,
            coalesce(s.loan_amnt * coalesce(s.pd, 0.2), 0), coalesce(s.reasons, '{}'),
            coalesce(s.policy_id, 0)
        FROM (SELECT) AS one LEFT JOIN LATERAL (
            SELECT * FROM scored_applications a
            WHERE (a.source_id, a.partition, a."offset")
                = (review.source_id, review.partition, review."offset")
            ORDER BY scored_at DESC LIMIT 1
        ) AS s ON true
        RETURNING * INTO found;
    END IF;
    begun := found.state = 'open';
    UPDATE cases c SET version = c.version + 1, changed_at = review.reviewed_at,
        state = CASE WHEN begun THEN 'in_review' ELSE c.state END,
        assignee = coalesce(c.assignee, btrim(review.reviewer))
    WHERE c.case_id = found.case_id RETURNING * INTO found;
    INSERT INTO case_events (case_id, at, who, action, version, state, assignee, disposition,
                             reason_code, note, db_role)
    VALUES (found.case_id, review.reviewed_at, review.reviewer,
            CASE WHEN begun THEN 'start' ELSE 'note' END, found.version, found.state,
            found.assignee, found.disposition, found.reason_code, review.note, review.db_role);
END $$;

CREATE TABLE exports (
    export_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    who       text   NOT NULL CHECK (length(btrim(who)) BETWEEN 1 AND 200),
    what      text   NOT NULL CHECK (length(btrim(what)) BETWEEN 1 AND 2000),
    rows      bigint NOT NULL CHECK (rows >= 0),
    db_role   text   NOT NULL DEFAULT session_user
);
COMMENT ON TABLE exports IS
    'Who took which rows out of the dashboard, and when; rows are never changed';
COMMENT ON COLUMN exports.what IS 'What was asked for: the filters in words';
COMMENT ON COLUMN exports.db_role IS 'Role of the session that recorded it';

CREATE FUNCTION record_export(person text, what text, exported bigint) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO exports (who, what, rows)
    VALUES (coalesce(nullif(btrim($1), ''), session_user), $2, $3) RETURNING export_id
$$;

-- As in 0007, for the dashboard of the version before: who may act on cases, and no other reader.
CREATE OR REPLACE FUNCTION review_application(
    source_id integer, partition integer, "offset" bigint, reviewer text, note text
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    review application_reviews;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_proc WHERE oid = 'act_on_case'::regproc
            AND has_function_privilege(session_user, oid, 'EXECUTE')
    ) THEN
        RAISE EXCEPTION 'role % only reads', session_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO application_reviews (source_id, partition, "offset", loan_id, reviewer, note,
                                     db_role)
    SELECT s.source_id, s.partition, s."offset", s.loan_id, btrim($4), btrim($5), session_user
    FROM scored_applications s
    WHERE s.source_id = $1 AND s.partition = $2 AND s."offset" = $3
    ORDER BY s.scored_at DESC LIMIT 1
    RETURNING * INTO review;
    IF review.review_id IS NULL THEN
        RAISE EXCEPTION 'no application has source %, partition % and offset %', $1, $2, $3
            USING ERRCODE = 'no_data_found';
    END IF;
    PERFORM review_of_a_case(review);
    RETURN review.review_id;
END $$;

-- As in 0022, without anything that acts.
CREATE OR REPLACE FUNCTION grant_reader(reader name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    object  text;
    columns text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.migrations', 0));
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), reader);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), reader);
    -- Not the partitions: they are read through their tables.
    FOR object IN
        SELECT relname FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')
            AND NOT relispartition
            AND relname NOT IN ('rejected_events', 'models', 'alembic_version')
    LOOP
        EXECUTE format('GRANT SELECT ON %I TO %I', object, reader);
    END LOOP;
    FOR object, columns IN
        SELECT attrelid::regclass::text, string_agg(quote_ident(attname), ', ')
        FROM pg_attribute
        WHERE attrelid IN ('rejected_events'::regclass, 'models'::regclass) AND attnum > 0
            AND NOT attisdropped AND attname NOT IN ('key', 'value', 'artifact')
        GROUP BY attrelid
    LOOP
        EXECUTE format('GRANT SELECT (%s) ON %s TO %I', columns, object, reader);
    END LOOP;
    EXECUTE format('GRANT EXECUTE ON FUNCTION review_application TO %I', reader);
END $$;

CREATE FUNCTION grant_reviewer(reviewer name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM grant_reader(reviewer);
    EXECUTE format('GRANT EXECUTE ON FUNCTION act_on_case, record_export, submit_policy TO %I',
                   reviewer);
END $$;
COMMENT ON FUNCTION grant_reviewer IS
    'Lets a role read, and act for the people whom the dashboard signs in; a migration grants it '
    'again to each reader that may execute act_on_case';

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['open_earlier_cases', 'review_of_a_case', 'record_export',
                                   'review_application', 'grant_reader', 'grant_reviewer'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;

-- The newest Watchlist decisions of before; `credit-risk cases open` does the rest.
SELECT open_earlier_cases(coalesce((
    SELECT scored_at FROM scored_applications WHERE risk_tier = 'Watchlist'
    ORDER BY scored_at DESC OFFSET 20000 LIMIT 1
), '-infinity'), 'infinity', interval '72 hours');
SELECT review_of_a_case(r) FROM (SELECT * FROM application_reviews ORDER BY review_id) AS r;
COMMENT ON TABLE application_reviews IS
    'Of the version before: what reviewers do is in case_events, these rows, too';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
