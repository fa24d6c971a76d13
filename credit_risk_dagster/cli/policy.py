"""`credit-risk policy ...`: is a policy right, what is different, and why it decides as it does."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from credit_risk_dagster.cli.console import out, print_json
from credit_risk_dagster.cli.options import Json
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DEFAULT_POLICY

app = typer.Typer(help="Credit policies: check, compare, explain.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Credit policy (YAML).")]


@app.command()
def check(
    file: File = DEFAULT_POLICY,
    sample: Annotated[
        Path | None,
        typer.Option(help="JSON lines of applications, in place of the 10,000 built-in loans."),
    ] = None,
) -> None:
    """Name line, field and fix of everything that is wrong or odd; an error exits with 1."""
    from credit_risk_dagster.domain.documents import read_text
    from credit_risk_dagster.domain.policy import PolicyError
    from credit_risk_dagster.domain.policy_check import check as findings

    found = findings(read_text(file, "policy", PolicyError), partial(_events, sample))
    for each in found:
        _say(f"{file}: {each}")
    if any(each.error for each in found):
        raise typer.Exit(1)
    if not found:
        _say(f"{file}: nothing is wrong, nothing is odd")


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="Credit policy (YAML).")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Say in words what policy B has otherwise than policy A."""
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.domain.policy_diff import differences

    for line in differences(load_policy(before), load_policy(after)) or ["they decide the same"]:
        _say(line)


@app.command()
def explain(
    file: File = DEFAULT_POLICY,
    model: Annotated[
        Path | None, typer.Option(help="Model (JSON of `credit-risk model export`), for the PD.")
    ] = None,
    json_: Json = False,
) -> None:
    """Show every rule for an event (JSON, from stdin): what it read, and whether it fired."""
    from credit_risk_dagster.domain.pd import load_model_file
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.domain.policy_explain import explain as explained

    estimator = load_model_file(model) if model else None
    found = explained(sys.stdin.buffer.read(), load_policy(file), estimator)
    if json_:
        print_json(found)
        return
    if found["outcome"] == "rejected":
        _say(f"rejected: {found['reject_reason']}")
        return
    _say(f"{found['risk_tier']} by {found['policy']}" + _beside(found))
    for rule in found["rules"]:
        _say(_rule(rule))


@app.command()
def schema() -> None:
    """Print the JSON schema of a policy, by which editors complete and check it."""
    from credit_risk_dagster.domain.decision_table import DecisionTable

    print_json(DecisionTable.model_json_schema(by_alias=True))


def _events(sample: Path | None) -> Sequence[bytes | None]:
    import msgspec

    from credit_risk_dagster.pipelines.loans import builtin_loans
    from credit_risk_dagster.pipelines.text_files import Unreadable, utf8_lines

    if sample is None:
        return [msgspec.json.encode(loan) for loan in builtin_loans()]
    try:
        return list(utf8_lines(sample))
    except Unreadable as error:
        raise PlatformError(f"cannot read {sample}: {error}") from error


def _beside(found: dict[str, Any]) -> str:
    said = [f"recommends to {found['recommendation']}"] if found["recommendation"] else []
    said += [f"reasons {', '.join(found['reasons'])}"] if found["reasons"] else []
    said += [f"figures {found['figures']}"] if found["figures"] else []
    return "".join(f"; {each}" for each in said)


def _rule(rule: dict[str, Any]) -> str:
    state = {True: "fired", False: "did not fire", None: "is open"}[rule["fired"]]
    if rule["fired"] is None:
        taken = "it counts as fired" if rule["counts_as_fired"] else "it does not count as fired"
        state += f" (missing: {rule['missing']}, so {taken})"
    bands = {name: f" ({band})" for name, band in rule["bands"].items() if band}
    read = ", ".join(
        f"{name} {_written(value)}{bands.get(name, '')}" for name, value in rule["inputs"].items()
    )
    return f"  {rule['id']} {state}: {read}. {rule['words']}."


def _written(value: float | str | None) -> str:
    if value is None:
        return "is missing"
    return f"is {value:g}" if isinstance(value, float) else f"is {value}"


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
