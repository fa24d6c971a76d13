"""`make docs`: docs/configuration.md from the settings' classes, which say everything in it."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from credit_risk_dagster import settings
from credit_risk_dagster.settings import PROJECT_ROOT

FILE = PROJECT_ROOT / "docs" / "configuration.md"
_HEAD = """\
# Configuration

Every setting is a variable of the environment, or a line of `.env` in the working directory; the
environment wins, and an empty value means the default. [.env.example](../.env.example) is a file to
copy. A wrong value stops a command with one line that names the variable. Secrets come from the
environment only, and are never logged.

Containers get theirs from [infra/docker-compose.yml](../infra/docker-compose.yml) and from
`infra/settings.env`, pods from the ConfigMap and the Secrets of [infra/k8s](../infra/k8s).

This page is written by `make docs`.
"""
_OTHERS = """\
## Read by others

| variable | for |
|---|---|
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION` | the S3 client, unless a \
profile or the machine's role provides them |
| `DAGSTER_HOME` | folder of `dagster.yaml`, a copy of [infra/dagster.yaml](../infra/dagster.yaml) |
| `DAGSTER_POSTGRES_URL` | Dagster's own database |
| `DAGSTER_CODE_SERVER_HOST`, `DAGSTER_CODE_SERVER_PORT` | where \
[infra/workspace.yaml](../infra/workspace.yaml) finds the code server |
"""


def groups() -> list[type[BaseSettings]]:
    """The groups of settings, in the order of settings.py."""
    return [
        value
        for value in vars(settings).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.__module__ == settings.__name__
        and value.model_fields
    ]


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *map(_section, groups()), _OTHERS])


def _section(group: type[BaseSettings]) -> str:
    title, _, rest = (group.__doc__ or "").strip().partition("\n\n")
    prefix = group.model_config.get("env_prefix") or ""
    rows = [
        f"| `{field.alias or f'{prefix}{name}'.upper()}` | {_kind(field)} | {_default(field)} "
        f"| {_cell(field.description or '')} |"
        for name, field in group.model_fields.items()
    ]
    text = " ".join(title.split()).rstrip(".").replace(f" (variables `{prefix}*`)", "")
    more = [" ".join(rest.split()), ""] if rest else []
    table = ["| variable | value | default | |", "|---|---|---|---|", *rows, ""]
    return "\n".join([f"## {text}", "", *more, *table])


def _kind(field: FieldInfo) -> str:
    """The type in words, with its limits."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(option for option in get_args(kind) if option is not NoneType)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    names = {bool: "true or false", int: "integer", float: "number", SecretStr: "secret"}
    words = names.get(kind, "text" if kind is str else "file" if "Path" in str(kind) else str(kind))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    return ", ".join([words, *limits])


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or value == "":
        return ""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Path):
        value = value.name
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    FILE.write_text(page(), encoding="utf-8")
    print(f"{FILE.relative_to(PROJECT_ROOT)} is written")  # noqa: T201


if __name__ == "__main__":
    main()
