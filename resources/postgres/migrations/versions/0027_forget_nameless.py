"""A scored application without a loan's id is forgotten by its place, too."""

from alembic import op

revision = "0027"
down_revision = "0026"

# `forget_decisions` of 0021 leaves out, of what has one of the places, the loan's own rows, which
# it deleted before: and, where no loan was named, those that name none.
STATEMENTS = """
DO $$
BEGIN
    EXECUTE replace(pg_get_functiondef('forget_decisions'::regproc),
        's.loan_id IS DISTINCT FROM loan', '(s.loan_id = loan) IS NOT TRUE');
END $$;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
