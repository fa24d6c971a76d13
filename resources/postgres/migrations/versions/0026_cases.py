"""Cases: what is to be looked at, by whom and until when, and what was found.

A case changes only by `act_on_case`, which writes its history: so no role needs the right to change
either, and whoever acts on what somebody else changed meanwhile is told.
"""

from alembic import op

revision = "0026"
down_revision = "0025"

STATEMENTS = r"""
CREATE TABLE cases (
    case_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    loan_id     text,
    source_id   integer NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint  NOT NULL,
    opened_at   timestamptz NOT NULL DEFAULT now(),
    due_at      timestamptz NOT NULL,
    decided_at  timestamptz NOT NULL DEFAULT now(),
    decisions   integer NOT NULL DEFAULT 1,
    loan_amnt   double precision NOT NULL,
    pd          double precision,
    priority    double precision NOT NULL,
    reasons     text[]  NOT NULL,
    policy_id   integer NOT NULL,
    state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'in_review', 'closed')),
    assignee    text CHECK (length(assignee) BETWEEN 1 AND 200),
    disposition text CHECK (disposition IN ('confirmed', 'false_positive', 'override_up',
                                            'override_down', 'escalated')),
    reason_code text,
    version     integer NOT NULL DEFAULT 1,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    closed_at   timestamptz,
    closed_by   text,
    CHECK ((state = 'closed') = (num_nonnulls(disposition, reason_code, closed_at, closed_by) = 4)),
    CHECK (state = 'closed' OR num_nonnulls(disposition, reason_code, closed_at, closed_by) = 0)
);
-- A loan that is decided again joins the case that is open.
CREATE UNIQUE INDEX cases_one_open ON cases (loan_id) WHERE state <> 'closed';
CREATE INDEX cases_queue ON cases (priority DESC, case_id DESC) WHERE state <> 'closed';
CREATE INDEX cases_closed ON cases (closed_at) WHERE state = 'closed';
CREATE INDEX cases_closed_by_loan ON cases (loan_id) WHERE state = 'closed';
COMMENT ON TABLE cases IS
    'What became of each loan on the Watchlist; changed by act_on_case alone. source_id, partition '
    'and offset are of the decision that opened it';
COMMENT ON COLUMN cases.due_at IS 'Until when it should be closed: CREDIT_RISK_CASE_SLA_HOURS';
COMMENT ON COLUMN cases.decided_at IS 'The newest Watchlist decision that joined it';
COMMENT ON COLUMN cases.decisions IS 'Watchlist decisions that joined it';
COMMENT ON COLUMN cases.priority IS
    'USD that may be lost: loan_amnt times pd, of the newest decision; without a pd, times 0.2';
COMMENT ON COLUMN cases.reasons IS 'Of every Watchlist decision that joined it';

CREATE TABLE case_events (
    event_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id     bigint NOT NULL REFERENCES cases ON DELETE CASCADE,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    who         text NOT NULL CHECK (length(btrim(who)) BETWEEN 1 AND 200),
    action      text NOT NULL CHECK (action IN ('assign', 'start', 'note', 'close', 'reopen')),
    version     integer NOT NULL,
    state       text NOT NULL,
    assignee    text,
    disposition text,
    reason_code text,
    note        text CHECK (length(btrim(note)) BETWEEN 1 AND 2000),
    db_role     text NOT NULL DEFAULT session_user
);
CREATE INDEX case_events_by_case ON case_events (case_id);
CREATE INDEX case_events_by_time ON case_events (at);
COMMENT ON TABLE case_events IS
    'Who did what to which case, and as what it was left; rows are never changed';
COMMENT ON COLUMN case_events.db_role IS 'Role of the session that recorded it';

CREATE FUNCTION act_on_case(
    case_id bigint, version integer, action text, person text, assignee text, disposition text,
    reason_code text, note text
) RETURNS cases LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    found   cases;
    last    record;
    refused text;
BEGIN
    SELECT * INTO found FROM cases c WHERE c.case_id = $1 FOR UPDATE;
    IF found.case_id IS NULL THEN
        RAISE EXCEPTION 'there is no case %', $1 USING ERRCODE = 'no_data_found';
    END IF;
    IF found.version <> $2 THEN
        SELECT e.who, e.at INTO last FROM case_events e WHERE e.case_id = $1
        ORDER BY e.event_id DESC LIMIT 1;
        RAISE EXCEPTION 'case % was changed by % at % and is % now: look at it again', $1,
            coalesce(last.who, 'somebody'),
            to_char(coalesce(last.at, found.changed_at) AT TIME ZONE 'UTC', 'HH24:MI:SS "UTC"'),
            replace(found.state, '_', ' ')
            USING ERRCODE = 'object_in_use';
    END IF;
    IF (found.state = 'closed') <> ($3 = 'reopen') THEN
        refused := format('case %s is %s', $1, replace(found.state, '_', ' '));
    ELSIF $3 IN ('note', 'reopen') AND coalesce(btrim($8), '') = '' THEN
        refused := format('%s of case %s needs a note', $3, $1);
    ELSIF $3 NOT IN ('assign', 'start', 'note', 'close', 'reopen') THEN
        refused := format('a case is not to be %s', $3);
    ELSIF $3 = 'close' AND num_nonnulls($6, $7) < 2 THEN
        refused := format('case %s is closed with a disposition and a reason', $1);
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION '%', refused USING ERRCODE = 'check_violation';
    END IF;
    found.assignee := CASE $3 WHEN 'assign' THEN nullif(btrim($5), '')
        WHEN 'start' THEN btrim($4) ELSE coalesce(found.assignee, btrim($4)) END;
    found.state := CASE $3 WHEN 'start' THEN 'in_review' WHEN 'close' THEN 'closed'
        WHEN 'reopen' THEN 'open' ELSE found.state END;
    BEGIN
        UPDATE cases c SET version = c.version + 1, changed_at = clock_timestamp(),
            state = found.state, assignee = CASE $3 WHEN 'note' THEN c.assignee
                WHEN 'reopen' THEN NULL ELSE found.assignee END,
            disposition = CASE $3 WHEN 'close' THEN $6 END,
            reason_code = CASE $3 WHEN 'close' THEN $7 END,
            closed_at = CASE $3 WHEN 'close' THEN clock_timestamp() END,
            closed_by = CASE $3 WHEN 'close' THEN btrim($4) END,
            due_at = CASE $3 WHEN 'reopen' THEN clock_timestamp() + (c.due_at - coalesce(
                         (SELECT max(e.at) FROM case_events e
                          WHERE e.case_id = $1 AND e.action = 'reopen'), c.opened_at))
                     ELSE c.due_at END
        WHERE c.case_id = $1 RETURNING * INTO found;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION 'the loan of case % has another case that is open', $1
            USING ERRCODE = 'check_violation';
    END;
    INSERT INTO case_events (case_id, who, action, version, state, assignee, disposition,
                             reason_code, note)
    VALUES ($1, btrim($4), $3, found.version, found.state, found.assignee, found.disposition,
            found.reason_code, nullif(btrim($8), ''));
    RETURN found;
END $$;

CREATE FUNCTION delete_old_cases(keep_days integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM cases WHERE state = 'closed'
        AND closed_at < now() - make_interval(days => greatest(keep_days, 1));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Forgetting takes the loan's cases, and its id in the notes on others.
ALTER FUNCTION forget_loan RENAME TO forget_decisions;
CREATE FUNCTION forget_loan(loan text, sources integer[], partitions integer[], offsets bigint[],
                            by_whom text, reason text)
RETURNS forgettings LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '5s' AS $$
DECLARE
    done forgettings;
    more bigint;
    word text := '(?<!\w)' || regexp_replace(loan, '(\W)', '\\\1', 'g') || '(?!\w)';
BEGIN
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
COMMENT ON COLUMN forgettings.reviews IS 'Reviews and cases that were deleted';

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['act_on_case', 'delete_old_cases', 'forget_loan'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %I FROM PUBLIC', routine);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
