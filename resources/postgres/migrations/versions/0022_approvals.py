"""Who submitted, approved and activated what: policies, models and baselines. Rows are only added.

Why a trigger, and not only code: that nobody approves what is their own has to hold for whoever
reaches the table. Why `who` is nobody's to write: it is the name by which the session signed in;
the dashboard, which signs people in itself, has a function that names them and can only submit.
"""

from alembic import op

revision = "0022"
down_revision = "0021"

STATEMENTS = r"""
CREATE TABLE approvals (
    approval_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           text NOT NULL CHECK (kind IN ('policy', 'model', 'baseline')),
    subject_id     integer NOT NULL,
    action         text NOT NULL CHECK (action IN ('submit', 'approve', 'activate', 'retire')),
    who            text NOT NULL DEFAULT session_user CHECK (length(btrim(who)) BETWEEN 1 AND 200),
    decided_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    effective_from timestamptz NOT NULL DEFAULT clock_timestamp(),
    why            text NOT NULL CHECK (length(btrim(why)) BETWEEN 1 AND 2000),
    evidence       jsonb,
    db_role        text NOT NULL DEFAULT session_user
);
CREATE INDEX approvals_by_subject ON approvals (kind, subject_id, decided_at);
COMMENT ON TABLE approvals IS
    'Who decided what about a policy, a model or a baseline, and when; rows are never changed';
COMMENT ON COLUMN approvals.subject_id IS 'policy_id, model_id or baseline_id, by kind';
COMMENT ON COLUMN approvals.who IS
    'The role that signed in to the database, or whom the dashboard signed in';
COMMENT ON COLUMN approvals.effective_from IS 'From when an activation or a retirement holds';
COMMENT ON COLUMN approvals.evidence IS
    'Figures of then: of the Policy lab, of rebuild --compare, or a model''s metrics';
COMMENT ON COLUMN approvals.db_role IS 'Role of the session that recorded it';

-- What was active from when to when. A retired subject's activations that are still to come are
-- none; a model may be followed by none, a policy and a baseline by another one only.
CREATE VIEW activations AS
SELECT kind, subject_id, approval_id, who, why, effective_from, effective_to
FROM (
    SELECT a.*, lead(effective_from) OVER (
        PARTITION BY kind ORDER BY effective_from, decided_at, approval_id) AS effective_to
    FROM approvals a
    WHERE (action = 'activate' OR action = 'retire' AND kind = 'model') AND NOT EXISTS (
        SELECT FROM approvals r
        WHERE r.kind = a.kind AND r.subject_id = a.subject_id AND r.action = 'retire'
            AND r.decided_at > a.decided_at AND r.effective_from <= a.effective_from
    )
) AS changes
WHERE action = 'activate' AND effective_from IS DISTINCT FROM effective_to;
COMMENT ON VIEW activations IS 'Which policy, model and baseline was active from when to when';

-- What is known of before. Nobody recorded who; what was active once may be so again.
INSERT INTO approvals (kind, subject_id, action, who, decided_at, effective_from, why)
SELECT 'policy', policy_id, 'activate', 'unknown', since, since, 'It decided before approvals'
FROM (
    SELECT policy_id, committed_at AS since, lag(policy_id) OVER (ORDER BY batch_id) AS before
    FROM batches
) AS used WHERE policy_id IS DISTINCT FROM before ORDER BY since;
INSERT INTO approvals (kind, subject_id, action, who, decided_at, effective_from, why)
SELECT kind, subject_id, action, 'unknown', at, at, 'Recorded before approvals'
FROM (
    SELECT 'model' AS kind, model_id AS subject_id, 'submit' AS action, created_at AS at
    FROM models
    UNION ALL SELECT 'model', model_id, 'activate', activated_at FROM models
    UNION ALL SELECT 'model', model_id, 'retire', retired_at FROM models
    UNION ALL SELECT 'baseline', baseline_id, 'submit', created_at FROM drift_baselines
    UNION ALL SELECT 'baseline', baseline_id, 'activate', activated_at FROM drift_baselines
) AS known WHERE at IS NOT NULL ORDER BY at, action = 'activate';

-- One person may be known by an address and by the name of a role.
CREATE FUNCTION is_same_person(one text, other text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT lower(split_part(btrim(one), '@', 1)) = lower(split_part(btrim(other), '@', 1))
$$;

CREATE FUNCTION approval_is_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    subject text := NEW.kind || ' ' || NEW.subject_id;
    there   boolean;
    refused text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.approvals', 0));
    NEW.who := btrim(NEW.who);
    NEW.db_role := session_user;
    NEW.decided_at := clock_timestamp();
    NEW.effective_from := greatest(NEW.effective_from, NEW.decided_at);
    IF NEW.kind = 'policy' THEN
        there := EXISTS (SELECT FROM policies WHERE policy_id = NEW.subject_id);
    ELSIF NEW.kind = 'model' THEN
        there := EXISTS (SELECT FROM models WHERE model_id = NEW.subject_id);
    ELSE
        there := EXISTS (SELECT FROM drift_baselines WHERE baseline_id = NEW.subject_id);
    END IF;
    IF NOT there THEN
        refused := format('there is no %s', subject);
    ELSIF NEW.action = 'approve' AND NOT EXISTS (
        SELECT FROM approvals
        WHERE kind = NEW.kind AND subject_id = NEW.subject_id AND action = 'submit'
    ) THEN
        refused := format('%s was never submitted', subject);
    ELSIF NEW.action = 'approve' AND EXISTS (
        SELECT FROM approvals
        WHERE kind = NEW.kind AND subject_id = NEW.subject_id AND action = 'submit'
            AND is_same_person(who, NEW.who)
    ) THEN
        refused := format('%s submitted %s and cannot approve it: somebody else has to',
                          NEW.who, subject);
    -- The first policy and the first baseline: something has to decide, and to be compared with.
    ELSIF NEW.action = 'activate' AND NOT EXISTS (
        SELECT FROM approvals
        WHERE kind = NEW.kind AND subject_id = NEW.subject_id AND action IN ('approve', 'activate')
    ) AND (NEW.kind = 'model' OR EXISTS (
        SELECT FROM approvals WHERE kind = NEW.kind AND action = 'activate'
    )) THEN
        refused := format('%s is not approved: somebody other than its author has to', subject);
    ELSIF NEW.action = 'retire' AND (NEW.kind <> 'model') = EXISTS (
        SELECT FROM activations
        WHERE kind = NEW.kind AND subject_id = NEW.subject_id
            AND effective_from <= NEW.effective_from
            AND (effective_to IS NULL OR effective_to > NEW.effective_from)
    ) THEN
        refused := format(CASE NEW.kind WHEN 'model' THEN '%s is not active'
                          ELSE '%s is active, and one always is: activate another' END, subject);
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION '%', refused USING ERRCODE = 'check_violation', TABLE = 'approvals';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER approval_is_in_order BEFORE INSERT ON approvals
    FOR EACH ROW EXECUTE FUNCTION approval_is_in_order();

CREATE FUNCTION records_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME
        USING ERRCODE = 'check_violation', TABLE = TG_TABLE_NAME;
END $$;
CREATE TRIGGER records_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON approvals
    FOR EACH STATEMENT EXECUTE FUNCTION records_stay();
CREATE TRIGGER records_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON policies
    FOR EACH STATEMENT EXECUTE FUNCTION records_stay();

-- Who trains a model, or freezes a baseline, is its author.
CREATE FUNCTION submit_what_was_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'models' THEN
        INSERT INTO approvals (kind, subject_id, action, why, evidence)
        VALUES ('model', NEW.model_id, 'submit', left('Trained by run ' || NEW.run_id, 2000),
                NEW.metrics);
    ELSE
        INSERT INTO approvals (kind, subject_id, action, why)
        VALUES ('baseline', NEW.baseline_id, 'submit', left('Frozen: ' || NEW.origin, 2000));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER submit_what_was_made AFTER INSERT ON models
    FOR EACH ROW EXECUTE FUNCTION submit_what_was_made();
CREATE TRIGGER submit_what_was_made AFTER INSERT ON drift_baselines
    FOR EACH ROW EXECUTE FUNCTION submit_what_was_made();

COMMENT ON TABLE policies IS
    'Every credit policy that was submitted or scored an application, as it was';
COMMENT ON COLUMN policies.first_used_at IS 'When it was first seen';
COMMENT ON COLUMN models.activated_at IS 'Of the version before: see approvals';
COMMENT ON COLUMN models.retired_at IS 'Of the version before: see approvals';
COMMENT ON COLUMN drift_baselines.activated_at IS 'Of the version before: see approvals';
COMMENT ON COLUMN drift_baselines.retired_at IS 'Of the version before: see approvals';

-- The dashboard submits for whom it signed in, and can do no more than that.
CREATE FUNCTION submit_policy(
    policy_name text, hash text, content text, person text, reason text, figures jsonb
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    found integer;
BEGIN
    INSERT INTO policies (name, content_hash, document) VALUES ($1, $2, $3)
    ON CONFLICT (name, content_hash) DO NOTHING;
    SELECT policy_id INTO found FROM policies WHERE name = $1 AND content_hash = $2;
    INSERT INTO approvals (kind, subject_id, action, who, why, evidence)
    VALUES ('policy', found, 'submit', coalesce(nullif(btrim($4), ''), session_user), $5, $6);
    RETURN found;
END $$;

-- As in 0016, but submitting is a reader's, too.
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
    EXECUTE format('GRANT EXECUTE ON FUNCTION submit_policy TO %I', reader);
END $$;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['approval_is_in_order', 'records_stay', 'submit_what_was_made',
                                   'submit_policy', 'grant_reader'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
    END LOOP;
    EXECUTE 'REVOKE ALL ON FUNCTION submit_policy, grant_reader FROM PUBLIC';
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
