"""The audit of rejected events that were scored after all."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = """
CREATE TABLE redriven_events (
    source_id   integer NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint  NOT NULL,
    reason      text NOT NULL,
    rejected_at timestamptz NOT NULL,
    redriven_at timestamptz NOT NULL DEFAULT now(),
    policy_id   integer NOT NULL,
    run_id      text NOT NULL,
    PRIMARY KEY (source_id, partition, "offset")
);
COMMENT ON TABLE redriven_events IS
    'Events that were rejected, for that reason at that time, and scored later by this run';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
