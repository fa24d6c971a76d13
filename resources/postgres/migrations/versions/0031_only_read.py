"""Whom 0022 let submit for anybody, or who acted once, only reads when granted that; and what looks
for cases by loan, event or time has an index.
"""

from alembic import op

revision = "0031"
down_revision = "0030"

STATEMENTS = """
-- grant_reviewer calls it, and gives these again.
DO $$
DECLARE
    last text := 'EXECUTE format(''GRANT EXECUTE ON FUNCTION review_application';
BEGIN
    EXECUTE replace(pg_get_functiondef('grant_reader'::regproc), last,
        'EXECUTE format(''REVOKE ALL ON FUNCTION act_on_case, record_export, submit_policy '
        'FROM %I'', reader);' || E'\\n    ' || last);
END $$;

-- Of a loan in any state: those of 0026 are of one state each.
CREATE INDEX cases_by_loan ON cases (loan_id);
DROP INDEX cases_closed_by_loan;
CREATE INDEX cases_by_event ON cases (source_id, partition, "offset");
CREATE INDEX cases_by_time ON cases (opened_at);

-- An id that was searched for may be of a loan that was forgotten.
UPDATE exports SET what = 'cases: one loan' WHERE what LIKE 'cases: loan\\_id %';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
