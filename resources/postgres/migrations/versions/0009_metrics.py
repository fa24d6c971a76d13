"""What metrics read: running totals of the ledger, and the outcome of the newest reconciliation.

Why totals, and not a sum that each reader keeps up to date for itself: batches of several lanes do
not become visible in the order of their ids, so "what is new since id n" misses some; retention
drops old batches, so a reader that restarts would begin with less, and a counter must never fall;
and each replica would do it again. Totals that change in the transaction of the batch itself are
exact, the same for every reader, and cost a scrape one row for each lane, at any history.

Why a trigger: whoever writes a batch (the drain, a rebuild, a benchmark that fills the table) is
counted. Why by lane: lanes do not wait for each other's rows, and there are few of them for ever.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = """
CREATE TABLE ledger_totals (
    lane            integer PRIMARY KEY,
    batches         bigint NOT NULL,
    scored          bigint NOT NULL,
    rejected        bigint NOT NULL,
    watchlist       bigint NOT NULL,
    elevated        bigint NOT NULL,
    low             bigint NOT NULL,
    value_bytes     bigint NOT NULL,
    latency_buckets bigint[] NOT NULL,
    latency_sum_s   double precision NOT NULL,
    stage_buckets   bigint[] NOT NULL,
    stage_sum_ms    double precision[] NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE ledger_totals IS
    'Sums over every batch that was ever committed, by lane; they outlive the batches themselves';
COMMENT ON COLUMN ledger_totals.stage_buckets IS
    'Batches by seconds of fetch, then those of decode, score, copy and commit, each with as many
buckets; bounds in domain/latency.py';

CREATE TABLE reject_totals (
    lane   integer NOT NULL,
    reason text NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (lane, reason)
) WITH (fillfactor = 50);
COMMENT ON TABLE reject_totals IS 'Rejected events by reason, over every batch ever committed';

CREATE TABLE reconciliations (
    source_id  integer PRIMARY KEY REFERENCES sources,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id     text NOT NULL,
    offsets    bigint NOT NULL,
    difference bigint NOT NULL
);
COMMENT ON TABLE reconciliations IS
    'The newest check of each source: how many offsets a run committed, and how many of them are
missing or doubled in the tables';

-- The histogram of one batch, stage by stage: a one in the bucket of its duration; none for NULL.
CREATE FUNCTION stage_histograms(ms real[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg((coalesce(bucket = hit, false))::int::bigint ORDER BY stage, bucket)
    FROM (VALUES ('{0.001,0.0025,0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10}'::float8[]))
            AS b (bounds),
        unnest(ms) WITH ORDINALITY AS s (duration, stage),
        LATERAL (SELECT CASE WHEN duration IS NOT NULL THEN count(*) END AS hit
            FROM unnest(bounds) AS bound WHERE bound < duration::float8 / 1000) AS h,
        generate_series(0, cardinality(bounds)) AS bucket
$$;

CREATE FUNCTION add_arrays(a anyarray, b anyarray) RETURNS anyarray
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT array_agg(x + y ORDER BY i) FROM unnest(a, b) WITH ORDINALITY AS _ (x, y, i)
$$;
CREATE AGGREGATE sum_arrays(anyarray) (sfunc = add_arrays, stype = anyarray);

INSERT INTO ledger_totals
SELECT lane, count(*), sum(scored), sum(rejected), sum(watchlist), sum(elevated), sum(low),
    sum(value_bytes), sum_arrays(latency_buckets::bigint[]), sum(latency_sum_s),
    sum_arrays(stage_histograms(ARRAY[fetch_ms, decode_ms, score_ms, copy_ms, commit_ms])),
    ARRAY[sum(fetch_ms), sum(decode_ms), sum(score_ms), sum(copy_ms),
        coalesce(sum(commit_ms), 0)]::float8[]
FROM batches GROUP BY lane;

INSERT INTO reject_totals
SELECT lane, reason, sum(events::bigint)
FROM batches, jsonb_each_text(reject_reasons) AS r (reason, events) GROUP BY lane, reason;

CREATE FUNCTION add_to_totals() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO ledger_totals AS t VALUES (
        new.lane, 1, new.scored, new.rejected, new.watchlist, new.elevated, new.low,
        new.value_bytes, new.latency_buckets, new.latency_sum_s,
        stage_histograms(ARRAY[
            new.fetch_ms, new.decode_ms, new.score_ms, new.copy_ms, new.commit_ms]),
        ARRAY[new.fetch_ms, new.decode_ms, new.score_ms, new.copy_ms, coalesce(new.commit_ms, 0)]
    )
    ON CONFLICT (lane) DO UPDATE SET
        batches = t.batches + 1,
        scored = t.scored + excluded.scored,
        rejected = t.rejected + excluded.rejected,
        watchlist = t.watchlist + excluded.watchlist,
        elevated = t.elevated + excluded.elevated,
        low = t.low + excluded.low,
        value_bytes = t.value_bytes + excluded.value_bytes,
        latency_buckets = add_arrays(t.latency_buckets, excluded.latency_buckets),
        latency_sum_s = t.latency_sum_s + excluded.latency_sum_s,
        stage_buckets = add_arrays(t.stage_buckets, excluded.stage_buckets),
        stage_sum_ms = add_arrays(t.stage_sum_ms, excluded.stage_sum_ms);
    IF new.rejected > 0 THEN
        INSERT INTO reject_totals AS t
        SELECT new.lane, reason, events::bigint
        FROM jsonb_each_text(new.reject_reasons) AS r (reason, events) ORDER BY reason
        ON CONFLICT (lane, reason) DO UPDATE SET events = t.events + excluded.events;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER batches_add_to_totals AFTER INSERT ON batches
    FOR EACH ROW EXECUTE FUNCTION add_to_totals();
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
