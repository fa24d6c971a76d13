"""Where on S3 the archive of each source is."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = """
ALTER TABLE sources ADD COLUMN archive_folder text UNIQUE;
COMMENT ON COLUMN sources.archive_folder IS
    'Below raw_events/ on S3, chosen when the source is first archived: its topic, unless that has'
    ' the objects of another source';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
