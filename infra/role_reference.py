"""`make docs`: docs/roles.md, which role may do what with which table."""

from credit_risk_dagster.settings import PROJECT_ROOT
from resources.postgres.roles import API, APP, RIGHTS, ROUTINES, WITHHELD

FILE = PROJECT_ROOT / "docs" / "roles.md"
READER = "credit_risk_reader"
_HIDDEN = {READER: {"models": ["artifact"], "rejected_events": ["key", "value"]}, **WITHHELD}
_HEAD = f"""\
# Roles

What each role of [infra/postgres/roles.sql](../infra/postgres/roles.sql) may do with each table.
`credit-risk migrate` grants it, to the roles that are there, and takes all else. A test holds
this page against the database, and does the work of a day as `{APP}` and `{API}`.

- What is a record (batches, decisions, gaps, policies, models, and what was approved, re-driven,
  dropped, reviewed or acknowledged) none of them can change; of findings, only whether they hold.
- Time partitions are nobody's: they are read and written through their tables.
- Functions with the owner's rights do what a role may not do itself, and decide what is right.
  `{READER}` may execute `act_on_case`, `record_export` and `submit_policy` (other readers none),
  `{API}`
  {", ".join(f"`{name}`" for name in ROUTINES[API])} (for whose key it knows), and `{APP}`
  {", ".join(f"`{name}`" for name in ROUTINES[APP])}.

This page is written by `make docs`.

| table or view | `{APP}` | `{API}` | `{READER}` |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = (
        f"| `{t}` | {' | '.join(cell(role, t) for role in (APP, API, READER))} |\n"
        for t in sorted(RIGHTS[APP])
    )
    return _HEAD + "".join(rows)


def cell(role: str, table: str) -> str:
    """What a role may do with a table."""
    if role == READER:
        rights = "" if table == "alembic_version" else "SELECT"
    else:
        rights = RIGHTS[role].get(table, "")
    hidden = ", ".join(_HIDDEN.get(role, {}).get(table, []))
    return f"{rights} without {hidden}" if hidden else rights


def main() -> None:
    FILE.write_text(page(), encoding="utf-8")
    print(f"{FILE.relative_to(PROJECT_ROOT)} is written")  # noqa: T201


if __name__ == "__main__":
    main()
