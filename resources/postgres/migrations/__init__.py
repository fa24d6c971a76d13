"""The versions of the schema; `resources.postgres.migrate` runs them."""

from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
# The newest migration, by its file's name: to ask Alembic would import it in every run.
SCHEMA_VERSION = max(path.name[:4] for path in (SCRIPTS / "versions").glob("[0-9]*.py"))
