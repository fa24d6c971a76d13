"""A drift report has the share of the last 24 hours, too, in which a day hides less."""

from alembic import op

revision = "0025"
down_revision = "0024"

STATEMENTS = """
ALTER TABLE drift_reports
    ADD COLUMN day_rows bigint,
    ADD COLUMN day_share float8,
    ADD COLUMN day_lower_limit float8,
    ADD COLUMN day_upper_limit float8;
COMMENT ON COLUMN drift_reports.day_rows IS
    'Applications of the 24 hours until the window ended; NULL in reports from before';
COMMENT ON COLUMN drift_reports.day_share IS 'Of them, share on the Watchlist';
COMMENT ON COLUMN drift_reports.day_lower_limit IS
    'Control limits of day_share, by the days before';
COMMENT ON COLUMN drift_reports.watchlist_lower_limit IS
    'Control limits by the days before, or by the baseline';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
