"""Each application once: which events came before, and which keys the API was given."""

from alembic import op

revision = "0024"
down_revision = "0023"

STATEMENTS = """
CREATE TABLE seen_events (
    seen_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyed   boolean NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    newest  timestamptz NOT NULL,
    events  integer NOT NULL CHECK (events > 0),
    claims  bytea   NOT NULL
);
-- Digests: compressing them is in vain.
ALTER TABLE seen_events ALTER COLUMN claims SET STORAGE EXTERNAL;
COMMENT ON TABLE seen_events IS
    'By which an event is known that was sent before, for as long as CREDIT_RISK_DEDUPLICATE_DAYS '
    'say: a row is of a batch, or of many';
COMMENT ON COLUMN seen_events.keyed IS 'Whether they are known by an Idempotency-Key, or by bytes';
COMMENT ON COLUMN seen_events.newest IS 'The newest time that one of the records has';
COMMENT ON COLUMN seen_events.claims IS
    '36 bytes for each event: a digest of 16, offset of 8, time (s), source and partition of 4';

CREATE TABLE idempotency_keys (
    client         text  NOT NULL,
    key_digest     bytea NOT NULL,
    body_digest    bytea NOT NULL,
    first_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    busy_until     timestamptz,
    topic          text,
    partition      integer,
    "offset"       bigint,
    PRIMARY KEY (client, key_digest)
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (first_at);
COMMENT ON TABLE idempotency_keys IS
    'Idempotency-Keys that clients of the API sent, with what was answered; digests are SHA-256';
COMMENT ON COLUMN idempotency_keys.busy_until IS
    'Until when a request with it counts as under way, if nothing is heard of it';
COMMENT ON COLUMN idempotency_keys."offset" IS 'Where the event is; null until the broker said so';

ALTER TABLE rejected_events ADD COLUMN first_source_id integer, ADD COLUMN first_partition integer,
    ADD COLUMN first_offset bigint;
COMMENT ON COLUMN rejected_events.first_offset IS
    'Of a duplicate_submission: the offset of the event that it repeats';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
