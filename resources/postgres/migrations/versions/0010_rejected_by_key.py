"""Rejected events by the loan id in their key, for a loan's history."""

from alembic import op

revision = "0010"
down_revision = "0009"

# A hash, because a key can be of any length, and a B-tree refuses the row when it is long.
STATEMENTS = """
CREATE INDEX rejected_events_by_key ON rejected_events USING hash (key);
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
