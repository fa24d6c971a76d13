"""Reconciliation that forgets nothing, and what the drain saw of the topic's ends.

Why progress of its own, and not the ranges of a run: a run that was killed after it committed never
counts its rows, and those are the likeliest to be wrong. Why a row for each finding, and not one
for each source: the next check of another lane, which is right, must not make it unseen.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

STATEMENTS = """
CREATE TABLE reconciled_offsets (
    source_id     integer NOT NULL,
    partition     integer NOT NULL,
    next_offset   bigint  NOT NULL,
    checked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    everything_at timestamptz,
    PRIMARY KEY (source_id, partition),
    FOREIGN KEY (source_id, partition) REFERENCES stream_offsets
) WITH (fillfactor = 50);
COMMENT ON TABLE reconciled_offsets IS
    'How far the stored rows were counted against the committed offsets, whoever committed them';
COMMENT ON COLUMN reconciled_offsets.everything_at IS
    'When the partition was last counted from its first offset on';

CREATE TABLE reconciliation_findings (
    finding_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id    integer NOT NULL REFERENCES sources,
    partition    integer NOT NULL,
    kind         text    NOT NULL CHECK (kind IN ('missing', 'doubled')),
    first_offset bigint  NOT NULL,
    next_offset  bigint  NOT NULL CHECK (next_offset > first_offset),
    offsets      bigint  NOT NULL CHECK (offsets > 0),
    found_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    found_by     text    NOT NULL,
    cleared_at   timestamptz,
    cleared_by   text,
    cleared_why  text,
    still_wrong  bigint,
    CHECK (cleared_at IS NULL OR (cleared_by <> '' AND cleared_why <> ''))
);
CREATE INDEX reconciliation_findings_open ON reconciliation_findings (source_id, partition)
    WHERE cleared_at IS NULL;
COMMENT ON TABLE reconciliation_findings IS
    'Offsets that are not stored exactly once; each stays open until somebody clears it by name';
COMMENT ON COLUMN reconciliation_findings.offsets IS
    'How many of the range: fewer than it holds when retention had dropped rows of it';
COMMENT ON COLUMN reconciliation_findings.still_wrong IS
    'How many of them were still missing or doubled when it was cleared: those are accepted';

-- What is there was counted by the code before; the first count of everything takes it all.
INSERT INTO reconciled_offsets (source_id, partition, next_offset)
SELECT source_id, partition, next_offset FROM stream_offsets;

ALTER TABLE stream_offsets ADD COLUMN end_offset bigint, ADD COLUMN end_seen_at timestamptz;
COMMENT ON COLUMN stream_offsets.end_offset IS
    'Where the topic ended when a drain last fetched from it (the high watermark)';
COMMENT ON COLUMN stream_offsets.end_seen_at IS 'When that was';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
