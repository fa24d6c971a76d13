"""Drift: baselines, reports and their features."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = """
CREATE TABLE drift_baselines (
    baseline_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    activated_at timestamptz,
    retired_at   timestamptz,
    source_id    integer REFERENCES sources,
    origin       text NOT NULL,
    rows         bigint NOT NULL CHECK (rows > 0),
    rejected     bigint NOT NULL CHECK (rejected >= 0),
    tiers        text[] NOT NULL,
    tier_counts  bigint[] NOT NULL,
    content_hash text NOT NULL UNIQUE,
    stream_columns jsonb
);
CREATE UNIQUE INDEX one_baseline_is_active ON drift_baselines ((true))
    WHERE activated_at IS NOT NULL AND retired_at IS NULL;
COMMENT ON TABLE drift_baselines IS
    'The populations that drift is measured from, frozen; at most one is active';
COMMENT ON COLUMN drift_baselines.source_id IS 'Whose applications these are; NULL: of a CSV file';
COMMENT ON COLUMN drift_baselines.rejected IS 'Events that could not be scored beside these rows';
COMMENT ON COLUMN drift_baselines.stream_columns IS
    'Columns of the raw events and their JSON types in a sample; NULL until it is first looked at';

CREATE TABLE drift_baseline_features (
    baseline_id  integer NOT NULL REFERENCES drift_baselines ON DELETE CASCADE,
    feature      text NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('number', 'category')),
    edges        float8[] NOT NULL DEFAULT '{}',
    categories   text[] NOT NULL DEFAULT '{}',
    shares       float8[] NOT NULL,
    counts       bigint[] NOT NULL,
    support      float8[] NOT NULL DEFAULT '{}',
    support_counts bigint[] NOT NULL DEFAULT '{}',
    mean         float8,
    median       float8,
    PRIMARY KEY (baseline_id, feature)
);
COMMENT ON COLUMN drift_baseline_features.shares IS
    'Numbers: of the bins below, between and from the edges (edges[i-1] <= x < edges[i]), then of '
    'missing values. Categories: of each of categories, then of all others';
COMMENT ON COLUMN drift_baseline_features.support IS
    'Numbers: distinct values, ascending; support_counts has the rows below, at, between and above '
    'them in turn, for Kolmogorov-Smirnov';

CREATE TABLE drift_reports (
    report_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    baseline_id     integer NOT NULL REFERENCES drift_baselines,
    source_id       integer NOT NULL REFERENCES sources,
    created_at      timestamptz NOT NULL DEFAULT now(),
    window_start    timestamptz NOT NULL,
    window_end      timestamptz NOT NULL,
    rows            bigint NOT NULL,
    rejected        bigint NOT NULL,
    run_id          text NOT NULL,
    verdict         text NOT NULL
        CHECK (verdict IN ('stable', 'moderate', 'significant', 'too_few_rows')),
    tier_shares     float8[] NOT NULL,
    tier_psi        float8,
    tier_psi_floor  float8,
    tier_verdict    text NOT NULL,
    watchlist_share float8,
    watchlist_low   float8,
    watchlist_high  float8,
    watchlist_lower_limit float8,
    watchlist_upper_limit float8,
    reject_share    float8,
    reject_upper_limit float8,
    html_key        text,
    UNIQUE (source_id, baseline_id, window_end, window_start, rows)
);
CREATE INDEX drift_reports_by_time ON drift_reports (created_at DESC);
COMMENT ON COLUMN drift_reports.window_end IS 'scored_at of the newest row, or the end asked for';
COMMENT ON COLUMN drift_reports.watchlist_low IS '95 % confidence interval of the share (Wilson)';
COMMENT ON COLUMN drift_reports.watchlist_lower_limit IS
    'Control limits from the baseline: three standard errors of the difference';

CREATE TABLE drift_features (
    report_id       bigint NOT NULL REFERENCES drift_reports ON DELETE CASCADE,
    feature         text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('number', 'category')),
    psi             float8,
    psi_floor       float8,
    psi_limit       float8,
    ks              float8,
    ks_p            float8,
    chi2            float8,
    chi2_p          float8,
    mean            float8,
    reference_mean  float8,
    median          float8,
    reference_median float8,
    missing_share   float8,
    reference_missing_share float8,
    verdict         text NOT NULL
        CHECK (verdict IN ('stable', 'moderate', 'significant', 'too_few_rows')),
    shares          float8[] NOT NULL,
    PRIMARY KEY (report_id, feature)
);
COMMENT ON COLUMN drift_features.psi_floor IS
    'What PSI is on average in a window of this size without any drift';
COMMENT ON COLUMN drift_features.psi_limit IS
    'What PSI exceeds in one of a thousand windows of this size without any drift';
COMMENT ON COLUMN drift_features.shares IS 'In the order of drift_baseline_features.shares';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
