"""What became of a loan is no application: a table of its own, to which rows are only added.

A correction is another row for the same loan, time and source: the last one counts, the first one
stays. The same row twice is none. An application that carries loan_status, as those of old topics
do, tells of its loan at its own time; the view has both.
"""

from alembic import op

revision = "0021"
down_revision = "0020"

STATEMENTS = r"""
CREATE TABLE loan_outcomes (
    outcome_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    loan_id       text NOT NULL CHECK (loan_id <> ''),
    observed_at   timestamptz NOT NULL,
    status        text,
    days_past_due integer CHECK (days_past_due >= 0),
    balance       double precision,
    recovered     double precision,
    source        text NOT NULL CHECK (length(source) BETWEEN 1 AND 200),
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(status, days_past_due, balance, recovered) > 0)
);
-- Nulls of an index differ from each other: each is said by a value that the column never has.
CREATE UNIQUE INDEX loan_outcomes_once ON loan_outcomes (
    loan_id, observed_at, source, coalesce(status, ''), coalesce(days_past_due, -1),
    coalesce(balance, 'NaN'), coalesce(recovered, 'NaN')
);
CREATE INDEX loan_outcomes_by_receipt ON loan_outcomes USING brin (received_at);
COMMENT ON TABLE loan_outcomes IS
    'What was observed of loans after the decision; rows are only added, and a correction is the '
    'newer row of the same loan and time';
COMMENT ON COLUMN loan_outcomes.observed_at IS 'When it was so, and not when it was told';
COMMENT ON COLUMN loan_outcomes.balance IS 'Principal outstanding, USD';
COMMENT ON COLUMN loan_outcomes.recovered IS 'Recovered after the charge-off so far, USD';
COMMENT ON COLUMN loan_outcomes.source IS 'Who told it: a system, a file, a client of the API';

CREATE VIEW known_outcomes AS
    SELECT * FROM (
        SELECT DISTINCT ON (loan_id, observed_at)
            loan_id, observed_at, status, days_past_due, balance, recovered, source
        FROM loan_outcomes ORDER BY loan_id, observed_at, outcome_id DESC
    ) AS told
    UNION ALL
    SELECT coalesce(loan_id, source_id || '/' || partition || '/' || "offset"),
        coalesce(event_time, recorded_at), loan_status, NULL, NULL, NULL, 'application'
    FROM scored_applications WHERE loan_status IS NOT NULL;
COMMENT ON VIEW known_outcomes IS
    'loan_outcomes with corrections, and the status that applications of old topics carry';

ALTER TABLE forgettings ADD COLUMN outcomes bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN forgettings.outcomes IS 'Rows of loan_outcomes that were deleted';

-- As in 0019, and the loan's outcomes.
CREATE OR REPLACE FUNCTION forget_loan(loan text, sources integer[], partitions integer[],
                                       offsets bigint[], by_whom text, reason text)
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
    DELETE FROM loan_outcomes WHERE loan_id = loan;
    GET DIAGNOSTICS done.outcomes = ROW_COUNT;
    IF length(loan) >= 4 THEN  -- a shorter one is a number like any other
        UPDATE application_reviews
        SET note = left(regexp_replace(note, word, '[forgotten]', 'g'), 2000) WHERE note ~ word;
        GET DIAGNOSTICS done.mentions = ROW_COUNT;
    END IF;

    UPDATE forgettings SET scored = done.scored, rejected = done.rejected, reviews = done.reviews,
        mentions = done.mentions, outcomes = done.outcomes
    WHERE forgetting_id = done.forgetting_id;
    RETURN done;
END $$;

-- As delete_old_reviews.
CREATE FUNCTION delete_old_outcomes(keep_days integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM loan_outcomes
    WHERE received_at < now() - make_interval(days => greatest(keep_days, 1));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

ALTER TABLE model_benchmarks ADD COLUMN left_out jsonb;
COMMENT ON COLUMN model_benchmarks.left_out IS
    'Loans of the sample without an outcome, by why: the status, or that they are too young';

CREATE TABLE risk_reports (
    report_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id     text NOT NULL,
    about      text NOT NULL,
    document   jsonb NOT NULL
);
CREATE INDEX risk_reports_newest ON risk_reports (kind, report_id DESC);
COMMENT ON TABLE risk_reports IS
    'What runs computed of outcomes and of a model, each as a document: vintages, ...';
COMMENT ON COLUMN risk_reports.about IS 'The sample, model or outcome that it is of';

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['forget_loan', 'delete_old_outcomes'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
