"""What rollups count, in the words that everything else has."""

from alembic import op

revision = "0029"
down_revision = "0028"

STATEMENTS = """
COMMENT ON COLUMN risk_by_minute.applications IS
    'Decisions (Rejected: events); a loan that is decided again counts again';
COMMENT ON COLUMN segments_by_hour.applications IS
    'Decisions; a loan that is decided again counts again';
COMMENT ON COLUMN segments_by_hour.loan_amnt IS 'Of each decision, USD';
COMMENT ON COLUMN shadow_by_minute.applications IS
    'Decisions; a loan that is decided again counts again';
COMMENT ON COLUMN cases.loan_amnt IS 'Of the newest Watchlist decision; a case is of one loan';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
