"""The archive: what is on S3, and what is about to be."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = """
CREATE TABLE archive_objects (
    source_id    integer NOT NULL,
    partition    integer NOT NULL,
    first_offset bigint  NOT NULL,
    next_offset  bigint  NOT NULL CHECK (next_offset > first_offset),
    rows         bigint  NOT NULL,
    lost         bigint  NOT NULL,
    dt           date,
    key          text UNIQUE,
    bytes        bigint,
    sha256       text,
    archived_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_at  timestamptz,
    PRIMARY KEY (source_id, partition, first_offset),
    UNIQUE (source_id, partition, next_offset),
    FOREIGN KEY (source_id, partition) REFERENCES stream_offsets,
    CHECK (num_nulls(dt, key, bytes, sha256) = CASE WHEN rows = 0 THEN 4 ELSE 0 END)
);
CREATE INDEX archive_objects_by_day ON archive_objects (dt);
COMMENT ON TABLE archive_objects IS
    'Offset ranges that are archived, written when their object is on S3; without rows, no object';
COMMENT ON COLUMN archive_objects.lost IS
    'Committed events of the range that the broker no longer had when it was archived';
COMMENT ON COLUMN archive_objects.dt IS 'Day (UTC) of the first event by its broker timestamp';
COMMENT ON COLUMN archive_objects.sha256 IS 'Of the object''s bytes, hexadecimal';
COMMENT ON COLUMN archive_objects.verified_at IS 'When its checksum was last computed and equal';

CREATE TABLE archive_plans (
    source_id    integer NOT NULL,
    partition    integer NOT NULL,
    first_offset bigint  NOT NULL,
    next_offset  bigint  NOT NULL CHECK (next_offset > first_offset),
    rows         bigint  NOT NULL,
    dt           date    NOT NULL,
    key          text    NOT NULL,
    bytes        bigint  NOT NULL,
    sha256       text    NOT NULL,
    planned_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source_id, partition),
    FOREIGN KEY (source_id, partition) REFERENCES stream_offsets
);
COMMENT ON TABLE archive_plans IS
    'The upload in progress of each partition; after a crash the next run finishes the same object';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
