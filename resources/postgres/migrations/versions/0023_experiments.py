"""Candidates on live traffic: a split, where a challenger decides a share of the loans, and
shadows, which decide beside and change nothing. Started and stopped by approvals, as policies are.

Why an experiment takes effect at once and is not planned: of splits one runs at a time, and one
that is called off must not end another. Why differences have no loan's id: what is forgotten is
found by its place.
"""

from alembic import op

revision = "0023"
down_revision = "0022"

STATEMENTS = r"""
CREATE TABLE experiments (
    experiment_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    policy_id     integer,
    model_id      integer,
    share         smallint CHECK (share BETWEEN 1 AND 99),
    salt          text CHECK (salt ~ '^[A-Za-z0-9._-]{1,64}$'),
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(policy_id, model_id) = 1),
    CHECK ((share IS NULL) = (salt IS NULL)),
    CHECK (share IS NULL OR policy_id IS NOT NULL)
);
COMMENT ON TABLE experiments IS
    'Candidates on live traffic: splits, and shadows; who started and stopped them is in approvals';
COMMENT ON COLUMN experiments.policy_id IS 'The challenger; of a shadow it may be a model instead';
COMMENT ON COLUMN experiments.share IS 'Percent of the loans that a split''s challenger decides; '
    'NULL: a shadow, which decides none';
COMMENT ON COLUMN experiments.salt IS 'Deals the loans to the arms of a split, and names them';

-- The arms of a salt mean the same for ever.
CREATE FUNCTION experiment_is_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.approvals', 0));
    IF NOT EXISTS (SELECT FROM policies WHERE policy_id = NEW.policy_id
                   UNION ALL SELECT FROM models WHERE model_id = NEW.model_id) THEN
        RAISE EXCEPTION 'there is no such challenger'
            USING ERRCODE = 'check_violation', TABLE = 'experiments';
    ELSIF EXISTS (SELECT FROM experiments
               WHERE salt = NEW.salt AND policy_id IS DISTINCT FROM NEW.policy_id) THEN
        RAISE EXCEPTION 'salt % has another challenger: name another salt', NEW.salt
            USING ERRCODE = 'check_violation', TABLE = 'experiments';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER experiment_is_in_order BEFORE INSERT ON experiments
    FOR EACH ROW EXECUTE FUNCTION experiment_is_in_order();
CREATE TRIGGER records_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON experiments
    FOR EACH STATEMENT EXECUTE FUNCTION records_stay();

ALTER TABLE approvals DROP CONSTRAINT approvals_kind_check, ADD CONSTRAINT approvals_kind_check
    CHECK (kind IN ('policy', 'model', 'baseline', 'experiment'));
COMMENT ON TABLE approvals IS 'Who decided what about a policy, a model, a baseline or an '
    'experiment, and when; rows are never changed';
COMMENT ON COLUMN approvals.subject_id IS
    'policy_id, model_id, baseline_id or experiment_id, by kind';

-- As in 0022, and experiments: one split at a time, and any number of shadows.
CREATE OR REPLACE VIEW activations AS
SELECT kind, subject_id, approval_id, who, why, effective_from, effective_to
FROM (
    SELECT a.*, lead(effective_from) OVER (
        PARTITION BY kind, CASE WHEN e.share IS NULL THEN e.experiment_id END
        ORDER BY effective_from, decided_at, approval_id) AS effective_to
    FROM approvals a
    LEFT JOIN experiments e ON kind = 'experiment' AND e.experiment_id = subject_id
    WHERE (action = 'activate' OR action = 'retire' AND kind IN ('model', 'experiment'))
        AND NOT EXISTS (
            SELECT FROM approvals r
            WHERE r.kind = a.kind AND r.subject_id = a.subject_id AND r.action = 'retire'
                AND r.decided_at > a.decided_at AND r.effective_from <= a.effective_from
        )
) AS changes
WHERE action = 'activate' AND effective_from IS DISTINCT FROM effective_to;
COMMENT ON VIEW activations IS
    'Which policy, model, baseline and experiment was active from when to when';

CREATE OR REPLACE FUNCTION approval_is_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    subject text := NEW.kind || ' ' || NEW.subject_id;
    there   boolean;
    split   integer;
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
    ELSIF NEW.kind = 'experiment' THEN
        there := EXISTS (SELECT FROM experiments WHERE experiment_id = NEW.subject_id);
        split := (SELECT policy_id FROM experiments
                  WHERE experiment_id = NEW.subject_id AND share IS NOT NULL);
        NEW.effective_from := NEW.decided_at;
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
    ) AND (NEW.kind IN ('model', 'experiment') OR EXISTS (
        SELECT FROM approvals WHERE kind = NEW.kind AND action = 'activate'
    )) THEN
        refused := format('%s is not approved: somebody other than its author has to', subject);
    -- A split's challenger decides, so it is approved itself. A shadow's is not yet.
    ELSIF NEW.action = 'activate' AND split IS NOT NULL AND NOT EXISTS (
        SELECT FROM approvals
        WHERE kind = 'policy' AND subject_id = split AND action IN ('approve', 'activate')
    ) THEN
        refused := format('%s lets policy %s decide, which is not approved: somebody other than '
                          'its author has to', subject, split);
    ELSIF NEW.action = 'retire' AND (NEW.kind IN ('policy', 'baseline')) = EXISTS (
        SELECT FROM activations
        WHERE kind = NEW.kind AND subject_id = NEW.subject_id
            AND effective_from <= NEW.effective_from
            AND (effective_to IS NULL OR effective_to > NEW.effective_from)
    ) THEN
        refused := format(CASE WHEN NEW.kind IN ('policy', 'baseline')
                          THEN '%s is active, and one always is: activate another'
                          ELSE '%s is not active' END, subject);
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION '%', refused USING ERRCODE = 'check_violation', TABLE = 'approvals';
    END IF;
    RETURN NEW;
END $$;

ALTER TABLE scored_applications ADD COLUMN arm text;
COMMENT ON COLUMN scored_applications.arm IS 'Arm of the split that ran: its salt, and champion or '
    'challenger; NULL: none ran, or the application has no loan id to be dealt by';

CREATE TABLE shadow_by_minute (
    minute        timestamptz NOT NULL,
    experiment_id integer NOT NULL,
    source_id     integer NOT NULL,
    decided       text NOT NULL,
    candidate     text NOT NULL,
    applications  bigint NOT NULL,
    loan_amnt     double precision NOT NULL,
    decided_pd    double precision,
    candidate_pd  double precision,
    PRIMARY KEY (experiment_id, minute, source_id, decided, candidate)
);
COMMENT ON TABLE shadow_by_minute IS
    'What a shadow said beside what was decided: applications by both, for each minute';
COMMENT ON COLUMN shadow_by_minute.decided IS
    'Tier, or Rejected; of a shadow that is a model, the band of the active model''s PD';
COMMENT ON COLUMN shadow_by_minute.candidate IS
    'The same by the shadow; Failed: it could not say, and its error is in the run''s log';
COMMENT ON COLUMN shadow_by_minute.loan_amnt IS 'USD, of those that were scored';
COMMENT ON COLUMN shadow_by_minute.decided_pd IS 'Sum of the active model''s PDs, beside a model';
COMMENT ON COLUMN shadow_by_minute.candidate_pd IS 'Sum of the shadow''s PDs, of a model';

CREATE TABLE shadow_differences (
    experiment_id integer NOT NULL,
    source_id     integer NOT NULL,
    partition     integer NOT NULL,
    "offset"      bigint NOT NULL,
    decided_at    timestamptz NOT NULL DEFAULT now(),
    decided       text NOT NULL,
    candidate     text NOT NULL,
    recommendation text,
    reasons       text[],
    decided_pd    double precision,
    candidate_pd  double precision,
    PRIMARY KEY (source_id, partition, "offset", experiment_id)
);
CREATE INDEX shadow_differences_newest ON shadow_differences (experiment_id, decided_at DESC);
COMMENT ON TABLE shadow_differences IS
    'Applications of which a shadow said otherwise than what was decided';
COMMENT ON COLUMN shadow_differences.recommendation IS 'The shadow''s, beside the tier';
COMMENT ON COLUMN shadow_differences.reasons IS 'The shadow''s, in its order';

-- What is forgotten is forgotten here, too.
CREATE FUNCTION forget_differences() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM shadow_differences d USING gone g
    WHERE d.source_id = g.source_id AND d.partition = g.partition AND d."offset" = g."offset";
    RETURN NULL;
END $$;
CREATE TRIGGER forget_differences AFTER INSERT ON forgotten_offsets
    REFERENCING NEW TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION forget_differences();

-- As submit_policy: the API decides for whom it knows by a key, and db_role says that it did.
CREATE FUNCTION decide_policy(policy integer, act text, person text, reason text, at timestamptz)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    decided bigint;
BEGIN
    INSERT INTO approvals (kind, subject_id, action, who, why, effective_from)
    VALUES ('policy', $1, $2, $3, $4, coalesce($5, clock_timestamp()))
    RETURNING approval_id INTO decided;
    RETURN decided;
END $$;

DO $$
DECLARE
    routine text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['approval_is_in_order', 'experiment_is_in_order',
                                   'forget_differences', 'decide_policy'] LOOP
        EXECUTE format('ALTER FUNCTION %I SET search_path = %I, pg_temp',
                       routine, current_schema());
    END LOOP;
    EXECUTE 'REVOKE ALL ON FUNCTION decide_policy FROM PUBLIC';
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
