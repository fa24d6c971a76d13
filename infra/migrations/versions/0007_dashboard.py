"""The dashboard: reviews, and the role that reads."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = """
SELECT 1;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
