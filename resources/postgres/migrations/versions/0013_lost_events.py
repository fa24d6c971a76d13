"""Lost events: offsets that the broker removed before they were read, a kind of their own."""

from alembic import op

revision = "0013"
down_revision = "0012"

# Until now they were gaps like any other. The code before this version still records them so, and
# everything adds up all the same.
STATEMENTS = """
ALTER TABLE stream_offsets ADD COLUMN lost bigint NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN lost bigint NOT NULL DEFAULT 0;
ALTER TABLE offset_gaps ADD COLUMN lost boolean NOT NULL DEFAULT false;
COMMENT ON TABLE offset_gaps IS
    'Committed offsets without an event: compaction, transaction markers, aborted transactions; '
    'and those of lost events';
COMMENT ON COLUMN offset_gaps.lost IS
    'The broker had events there, and removed them before they were read';

ALTER TABLE stream_offsets DROP CONSTRAINT every_offset_is_accounted_for;
UPDATE offset_gaps SET lost = true WHERE reason = 'removed by the broker''s retention';
UPDATE stream_offsets o SET gaps = o.gaps - l.events, lost = l.events
FROM (SELECT source_id, partition, sum(next_offset - first_offset)::bigint AS events
    FROM offset_gaps WHERE lost GROUP BY 1, 2) l
WHERE o.source_id = l.source_id AND o.partition = l.partition;
ALTER TABLE stream_offsets ADD CONSTRAINT every_offset_is_accounted_for
    CHECK (next_offset - first_offset = scored + rejected + gaps + lost);

CREATE TABLE lost_acknowledgements (
    source_id       integer NOT NULL,
    partition       integer NOT NULL,
    first_offset    bigint  NOT NULL,
    acknowledged_by text NOT NULL CHECK (length(acknowledged_by) BETWEEN 1 AND 200),
    note            text CHECK (length(note) BETWEEN 1 AND 2000),
    acknowledged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    db_role         text NOT NULL DEFAULT session_user,
    PRIMARY KEY (source_id, partition, first_offset),
    FOREIGN KEY (source_id, partition, first_offset) REFERENCES offset_gaps
);
COMMENT ON TABLE lost_acknowledgements IS
    'Who knows of which lost events, and since when; rows are never changed';

CREATE VIEW lost_events AS
SELECT g.source_id, s.cluster_id, s.topic, s.epoch, g.partition, g.first_offset, g.next_offset,
    g.next_offset - g.first_offset AS events, g.recorded_at AS found_at, g.batch_id, g.reason,
    a.acknowledged_at, a.acknowledged_by, a.note
FROM offset_gaps g JOIN sources s USING (source_id)
    LEFT JOIN lost_acknowledgements a USING (source_id, partition, first_offset)
WHERE g.lost;
COMMENT ON VIEW lost_events IS
    'Ranges of events that nobody scored; acknowledged_at is NULL until somebody says to know it';
CREATE INDEX offset_gaps_lost ON offset_gaps (source_id, partition, first_offset) WHERE lost;
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
