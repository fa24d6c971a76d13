"""The statistical model: versions, benchmarks, curves, and its PD on the stream."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = """
SELECT 1;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
