"""What was ever done to cases is counted, and a note of before is forgotten once.

Rows of cases and case_events go by retention and with who is forgotten; what counts them must not
fall, and must not read all of them.
"""

from alembic import op

revision = "0032"
down_revision = "0031"

STATEMENTS = r"""
-- By partition, each of which one lane drains: so no lane waits for another's transaction.
CREATE TABLE case_totals (
    action    text    NOT NULL,
    source_id integer NOT NULL,
    partition integer NOT NULL,
    times     bigint  NOT NULL,
    PRIMARY KEY (action, source_id, partition)
);
COMMENT ON TABLE case_totals IS
    'What was ever done to cases: open, and the actions of case_events; sums that never fall';
COMMENT ON COLUMN case_totals.source_id IS
    'With partition, of the decision that opened the case';

CREATE FUNCTION count_opened_cases() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO case_totals AS t
    SELECT 'open', source_id, partition, count(*) FROM added GROUP BY source_id, partition
    ORDER BY source_id, partition
    ON CONFLICT (action, source_id, partition) DO UPDATE SET times = t.times + excluded.times;
    RETURN NULL;
END $$;
CREATE TRIGGER count_opened AFTER INSERT ON cases REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_opened_cases();

CREATE FUNCTION count_case_events() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO case_totals AS t
    SELECT action, source_id, partition, count(*) FROM added JOIN cases USING (case_id)
    GROUP BY action, source_id, partition ORDER BY action, source_id, partition
    ON CONFLICT (action, source_id, partition) DO UPDATE SET times = t.times + excluded.times;
    RETURN NULL;
END $$;
CREATE TRIGGER count_events AFTER INSERT ON case_events REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_case_events();

INSERT INTO case_totals
SELECT 'open', source_id, partition, count(*) FROM cases GROUP BY source_id, partition
UNION ALL
SELECT action, source_id, partition, count(*) FROM case_events JOIN cases USING (case_id)
GROUP BY action, source_id, partition;

-- A review is in the history of its loan's case, too, and counted there: so its own row goes first.
-- Then as in 0026.
CREATE OR REPLACE FUNCTION forget_loan(
    loan text, sources integer[], partitions integer[], offsets bigint[], by_whom text, reason text
) RETURNS forgettings LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '5s' AS $$
DECLARE
    done forgettings;
    more bigint;
    word text := '(?<!\w)' || regexp_replace(loan, '(\W)', '\\\1', 'g') || '(?!\w)';
BEGIN
    LOCK TABLE stream_offsets IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM application_reviews r
    WHERE (r.loan_id = loan OR EXISTS (
            SELECT FROM unnest(sources, partitions, offsets) AS n (source_id, partition, at)
            WHERE (n.source_id, n.partition, n.at) = (r.source_id, r.partition, r."offset")))
        AND EXISTS (SELECT FROM case_events e
                    WHERE (e.at, e.who, e.note) = (r.reviewed_at, r.reviewer, r.note));
    IF length(loan) >= 4 THEN
        UPDATE application_reviews r
        SET note = left(regexp_replace(r.note, word, '[forgotten]', 'g'), 2000)
        WHERE r.note ~ word AND EXISTS (
            SELECT FROM case_events e
            WHERE (e.at, e.who, e.note) = (r.reviewed_at, r.reviewer, r.note));
    END IF;
    SELECT * INTO done FROM forget_decisions($1, $2, $3, $4, $5, $6);
    DELETE FROM cases c WHERE c.loan_id = loan OR EXISTS (
        SELECT FROM forgotten_offsets f WHERE f.forgetting_id = done.forgetting_id
            AND (f.source_id, f.partition, f."offset") = (c.source_id, c.partition, c."offset"));
    GET DIAGNOSTICS more = ROW_COUNT;
    done.reviews := done.reviews + more;
    IF length(loan) >= 4 THEN
        UPDATE case_events e
        SET note = left(regexp_replace(e.note, word, '[forgotten]', 'g'), 2000) WHERE e.note ~ word;
        GET DIAGNOSTICS more = ROW_COUNT;
        done.mentions := done.mentions + more;
    END IF;
    UPDATE forgettings f SET reviews = done.reviews, mentions = done.mentions
    WHERE f.forgetting_id = done.forgetting_id;
    RETURN done;
END $$;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['count_opened_cases', 'count_case_events', 'forget_loan'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
