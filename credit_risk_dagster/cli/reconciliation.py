"""`credit-risk reconciliation`: whether every committed offset is stored exactly once."""

from typing import TYPE_CHECKING, Annotated

import typer

from credit_risk_dagster.cli.console import out
from credit_risk_dagster.cli.options import warehouse_session
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resources.postgres.reconciliation import Finding

app = typer.Typer(
    help="Whether every committed offset is stored exactly once.", no_args_is_help=True
)


@app.command("ls")
def ls() -> None:
    """List the offsets that were found missing or doubled, and that nobody has cleared."""
    from resources.postgres.reconciliation import Reconciliation

    with warehouse_session() as connection:
        found = Reconciliation(connection).open()
    _show(found)


@app.command("count")
def count() -> None:
    """Count every stored row against the committed offsets now, as the daily job does."""
    from resources.postgres.reconciliation import Reconciliation

    with warehouse_session() as connection:
        checked = Reconciliation(connection).check_everything()
    out.print(f"{counted(checked.offsets, 'offset')} counted")
    _show(checked.open)


@app.command("clear")
def clear(
    by: Annotated[str, typer.Option(help="Who clears it: your name.")],
    why: Annotated[str, typer.Option(help="What it was, and what was done.")],
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="FINDING...", help="Numbers, as `ls` shows them.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every one that is open.")] = False,
) -> None:
    """Close findings, by name. Each is counted once more; what is still wrong is accepted."""
    from resources.postgres.reconciliation import Reconciliation

    if not (by.strip() and why.strip()):
        raise PlatformError("--by and --why say who clears the finding and what it was")
    if bool(numbers) == all_:
        raise PlatformError("name the findings by their numbers, or all of them by --all")
    with warehouse_session() as connection:
        findings = Reconciliation(connection)
        for number in numbers or [finding.finding_id for finding in findings.open()]:
            wrong = findings.clear(number, by.strip(), why.strip())
            now = "it is right now"
            if wrong:
                still = counted(wrong, "of its offsets is", "of its offsets are")
                now = f"{still} still wrong, and accepted"
            out.print(f"finding {number} is cleared by {by.strip()}: {now}", soft_wrap=True)


def _show(found: "Sequence[Finding]") -> None:
    if not found:
        out.print("no finding is open")
    for one in found:
        found_at = f"{one.found_at:%Y-%m-%d %H:%M:%S}"
        out.print(f"{one}; found at {found_at} UTC by {one.found_by}", soft_wrap=True)
