"""What retention dropped, so that everything still adds up."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = """
CREATE TABLE dropped_rows (
    source_id  integer NOT NULL,
    partition  integer NOT NULL,
    month      date    NOT NULL,
    scored     bigint  NOT NULL,
    rejected   bigint  NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, partition, month)
);
COMMENT ON TABLE dropped_rows IS
    'Rows of time partitions that retention dropped; their events are archived and verified';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
