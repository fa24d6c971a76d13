"""Whose income and DTI decided on an application, both borrowers' figures, and what is recommended.

Of an individual's application all of them but its type and the recommendation are NULL.
"""

from alembic import op

revision = "0018"
down_revision = "0017"

STATEMENTS = """
ALTER TABLE scored_applications
    ADD COLUMN application_type   text,
    ADD COLUMN figures            text,
    ADD COLUMN annual_inc_primary double precision,
    ADD COLUMN dti_primary        double precision,
    ADD COLUMN annual_inc_joint   double precision,
    ADD COLUMN dti_joint          double precision,
    ADD COLUMN recommendation     text;
COMMENT ON COLUMN scored_applications.annual_inc IS 'The income that decided, USD: see figures';
COMMENT ON COLUMN scored_applications.dti IS 'The DTI that decided, percent: see figures';
COMMENT ON COLUMN scored_applications.application_type IS 'individual, joint or direct_pay';
COMMENT ON COLUMN scored_applications.figures IS
    'Whose income and DTI decided on a joint application: primary (the first borrower''s, as the
policy says), combined, mixed (one combined figure was missing) or fallback (both were)';
COMMENT ON COLUMN scored_applications.annual_inc_primary IS
    'Of a joint application, the first borrower''s own income, USD';
COMMENT ON COLUMN scored_applications.dti_primary IS
    'Of a joint application, the first borrower''s own DTI, percent';
COMMENT ON COLUMN scored_applications.annual_inc_joint IS 'Both borrowers'' income, USD';
COMMENT ON COLUMN scored_applications.dti_joint IS 'Both borrowers'' DTI, percent';
COMMENT ON COLUMN scored_applications.recommendation IS
    'What the policy recommends beside the tier: approve, refer (to a person) or decline';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
