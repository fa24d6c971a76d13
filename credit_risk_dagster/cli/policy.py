"""`credit-risk policy ...`: is a policy right, what is different, why it decides as it does.

And its life: submitted, approved by somebody else, active."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from credit_risk_dagster.cli.console import out, print_json
from credit_risk_dagster.cli.options import Json, Why, warehouse_session
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DEFAULT_POLICY

if TYPE_CHECKING:
    from resources.postgres.approvals import Approval

app = typer.Typer(
    help="Credit policies: check, compare, explain; submit, approve, activate.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Credit policy (YAML).")]
Stored = Annotated[
    str,
    typer.Argument(metavar="POLICY", help="Id, version or name: see `credit-risk policy ls`."),
]


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


# --- its life -------------------------------------------------------------------------------------


@app.command()
def submit(
    file: File,
    why: Why,
    evidence: Annotated[
        Path | None,
        typer.Option(help="Figures that speak for it (JSON), as of `rebuild --compare --json`."),
    ] = None,
) -> None:
    """Store a policy, for somebody else to approve."""
    from credit_risk_dagster.domain.policy import load_policy
    from credit_risk_dagster.pipelines import policies

    policy, figures = load_policy(file), _figures(evidence)
    with warehouse_session("policy") as connection:
        given = policies.submit(connection, policy, why, figures)
    _say(f"{policy.version} is policy {given.subject_id}, submitted by {given.who}: somebody else")
    _say(f"approves it by `credit-risk policy approve {given.subject_id}`")


@app.command()
def approve(policy: Stored, why: Why) -> None:
    """Approve a policy that somebody else submitted."""
    from credit_risk_dagster.pipelines import policies

    with warehouse_session("policy") as connection:
        life = policies.chosen(connection, policy)
        given = policies.approve(connection, "policy", life.stored.policy_id, why)
    _say(f"policy {life.stored.origin} is approved by {given.who}")


@app.command()
def activate(
    policy: Stored,
    why: Why,
    at: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            help="From when on (UTC, unless it says otherwise); default now.",
        ),
    ] = None,
) -> None:
    """Let an approved policy decide; sessions that run take it up within five seconds."""
    from credit_risk_dagster.pipelines import policies

    moment = at and (at if at.tzinfo else at.replace(tzinfo=UTC))
    with warehouse_session("policy") as connection:
        life = policies.chosen(connection, policy)
        _say_active(policies.activate(connection, life.stored.policy_id, why, moment))


@app.command()
def rollback(why: Why) -> None:
    """Let the policy decide again that did before the active one."""
    from credit_risk_dagster.pipelines import policies

    with warehouse_session("policy") as connection:
        _say_active(policies.roll_back(connection, why))


@app.command()
def retire(policy: Stored, why: Why) -> None:
    """Call off what is still to come of a policy's activations."""
    from credit_risk_dagster.pipelines import policies

    with warehouse_session("policy") as connection:
        life = policies.chosen(connection, policy)
        policies.retire(connection, life.stored.policy_id, why)
    _say(f"policy {life.stored.origin} will not decide from a moment that is still to come")


@app.command("ls")
def ls(json_: Json = False) -> None:
    """List the policies that were submitted or decided, the newest first."""
    from credit_risk_dagster.pipelines import policies

    with warehouse_session("policy") as connection:
        found = policies.lives(connection)
    if json_:
        print_json([life.told() for life in found])
        return
    table = Table("id", "policy", "state", "since", "by", "why")
    for life in found:
        last = life.approvals[-1] if life.approvals else None
        table.add_row(
            *(str(life.stored.policy_id), life.stored.version, life.state),
            *((f"{last.effective_from:%Y-%m-%d %H:%M:%S}", last.who, last.why) if last else ()),
        )
    out.print(table)


@app.command()
def show(policy: Stored, json_: Json = False) -> None:
    """Show a policy's whole document, who decided what about it, and when it was active."""
    from credit_risk_dagster.domain.policy import parse_policy
    from credit_risk_dagster.pipelines import policies

    with warehouse_session("policy") as connection:
        life = policies.chosen(connection, policy)
    if json_:
        print_json(life.told())
        return
    _say(f"policy {life.stored.origin}: {life.state}")
    for given in life.approvals:
        _say(f"  {given.decided_at:%Y-%m-%d %H:%M:%S} {given.action} by {given.who}: {given.why}")
    for active in life.activations:
        until = f"to {active.effective_to:%Y-%m-%d %H:%M:%S}" if active.effective_to else "on"
        _say(f"  active from {active.effective_from:%Y-%m-%d %H:%M:%S} {until}")
    _say(parse_policy(life.stored.document, life.stored.origin).yaml)


def _say_active(given: "Approval") -> None:
    _say(
        f"policy {given.subject_id} decides from {given.effective_from:%Y-%m-%d %H:%M:%S %Z} on, "
        f"activated by {given.who}"
    )


def _figures(evidence: Path | None) -> dict[str, Any] | None:
    import msgspec

    if evidence is None:
        return None
    try:
        return msgspec.json.decode(evidence.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise PlatformError(f"cannot read {evidence}: {error}") from error


# --- what is printed ------------------------------------------------------------------------------


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
