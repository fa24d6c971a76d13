"""The drain pays for each index of cases; the queue is sorted as fast without one of its own."""

from alembic import op

revision = "0030"
down_revision = "0029"

STATEMENTS = "DROP INDEX cases_queue"


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
