"""Drift: baselines, reports and their features."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = """
SELECT 1;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
