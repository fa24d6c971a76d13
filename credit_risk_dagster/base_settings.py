"""What every group of settings has in common: wrong values are told in one line each."""

import os
import re
import ssl
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self, cast
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from credit_risk_dagster.errors import PlatformError

_LONGEST_TEXT = 4_096  # as long as a path may be
_SHOWN = 60
_PREFIXES = ("CREDIT_RISK_", "KAFKA_", "S3_", "DASHBOARD_")


class SettingInvalid(PlatformError):
    """Settings that are wrong: a line for each, with its variable, and its value unless it is a
    secret."""


class GroupOfSettings(BaseSettings):
    """Settings that are read from the environment (and a `.env` file) together.

    Raises:
        SettingInvalid: some are wrong.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        allow_inf_nan=False,
        # A wrong secret must not be repeated in the error message about it.
        hide_input_in_errors=True,
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = [self._told(problem) for problem in error.errors()]
            raise SettingInvalid("\n".join(lines)) from None  # its own text may have a secret

    @classmethod
    def at_load(cls) -> Self:
        """For what code is loaded with: the defaults where the environment is wrong, so that it
        loads, and what runs says which setting it is."""
        try:
            return cls()
        except SettingInvalid:
            return cast(Self, cls.model_construct())

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        value = value.strip("\r\n")  # the end of the line that a secret was a file of
        field = cls.model_fields[info.field_name or ""]
        if len(value) > _LONGEST_TEXT and not _is_secret(field):
            raise ValueError(f"is longer than {_LONGEST_TEXT:,} characters")
        if not value.isprintable():
            raise ValueError("has a character in it that is none, or an end of a line")
        return value

    @classmethod
    def _told(cls, problem: ErrorDetails) -> str:
        said = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            return said
        place = str(problem["loc"][0])
        found = [(n, f) for n, f in cls.model_fields.items() if place in (n, f.alias)]
        if not found:
            return f"{place}: {said}"
        ((name, field),) = found
        value = problem["input"]
        shown = isinstance(value, str) and not _is_secret(field)
        if said.startswith(("is ", "has ")):
            said = f"{clipped(value) if shown else 'it'} {said}"
        elif shown and problem["type"] != "value_error":  # ours say it themselves
            said = f"{said}, not {clipped(value)}"
        return f"{cls.variable(name)}: {said}"

    @classmethod
    def variable(cls, name: str) -> str:
        """The environment's variable of a field."""
        alias = cls.model_fields[name].alias
        return alias or f"{cls.model_config.get('env_prefix', '')}{name}".upper()


def _is_secret(field: FieldInfo) -> bool:
    return not field.repr or SecretStr.__name__ in str(field.annotation)


def clipped(value: str) -> str:
    """A value for a message, without a password that an address may have in it."""
    value = re.sub(r"://[^@]*@", "://...@", value)
    return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")


def wrong(groups: Iterable[type[GroupOfSettings]]) -> list[str]:
    """What is wrong with the groups, a line each."""
    lines = []
    for group in groups:
        try:
            group()
        except SettingInvalid as error:
            lines += str(error).splitlines()
    return lines


def misspelt(groups: tuple[type[GroupOfSettings], ...]) -> list[str]:
    """What to say of variables that are none of the groups', and nearly one of them."""
    known = {group.variable(name) for group in groups for name in group.model_fields}
    lines = []
    for name in sorted({*os.environ, *dotenv_values(".env")} - known):
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix:
            rest = [other.removeprefix(prefix) for other in known if other.startswith(prefix)]
            for near in get_close_matches(name.removeprefix(prefix), rest, 1, 0.8):
                lines.append(f"{name} is no setting, {prefix}{near} is one: correct its name")
    return lines


def check_certificates(
    variables: str, cafile: Path | None, certfile: Path | None, keyfile: Path | None
) -> None:
    """See that TLS can be spoken with these files (PEM), or with those of the system.

    Args:
        variables: the beginning that the variables of the three have in common.

    Raises:
        ValueError: it cannot; the message names the variable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if cafile:
            context.load_verify_locations(cafile)
    except OSError as error:
        raise ValueError(
            f"{variables}CAFILE: {cafile} has no certificate of an authority in PEM ({error})"
        ) from error
    if keyfile and not certfile:
        raise ValueError(
            f"{variables}KEYFILE is set, and {variables}CERTFILE, whose key it is, not"
        )
    try:
        if certfile:
            context.load_cert_chain(certfile, keyfile, password=str)  # none: do not ask for one
    except OSError as error:
        raise ValueError(
            f"{variables}CERTFILE: {certfile} and its key ({keyfile or 'in the same file'}) are no "
            f"pair in PEM, without a password ({error})"
        ) from error


# --- kinds of values ----------------------------------------------------------------------------


def _url(value: str | None) -> str | None:
    if value is None:
        return None
    if "://" not in value:
        raise ValueError("has no http:// or https:// before it")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or " " in value:
        raise ValueError("is not like http://host:port or https://host")
    return value


def _secret_url(value: SecretStr | None) -> SecretStr | None:
    _url(value.get_secret_value() if value else None)
    return value


_CRON = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
_CRON_ITEM = re.compile(r"(\*|(?P<first>\w+)(-(?P<last>\w+))?)(/(?P<step>[1-9]\d*))?")


def _cron(value: str) -> str:
    fields = value.split()
    if len(fields) != len(_CRON):
        raise ValueError("is no cron expression: five fields, as */5 * * * *")
    for text, (name, lowest, highest) in zip(fields, _CRON, strict=True):
        names = {word: number for number, word in enumerate(_NAMES.get(name, []), lowest)}
        for item in text.lower().split(","):
            match = _CRON_ITEM.fullmatch(item)
            ends = [match[end] for end in ("first", "last") if match and match[end]]
            numbers = [names.get(end, int(end) if end.isdecimal() else -1) for end in ends]
            wrong = any(not lowest <= number <= highest for number in numbers)
            if not match or wrong or numbers != sorted(numbers):
                raise ValueError(f"is no cron expression: {name} is {lowest} to {highest}")
            if match["step"] and int(match["step"]) > highest:
                raise ValueError(f"is no cron expression: {name} is {lowest} to {highest}")
    return value


def _topic(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value) or value in (".", ".."):
        raise ValueError("is no name of a topic: 1 to 249 letters, digits, dots, - and _")
    if value == "_delta_log":  # readers would look for the topic's table one folder above it
        raise ValueError("is what the lake calls a table's log: give the topic another name")
    return value


Topic = Annotated[str, AfterValidator(_topic)]
Url = Annotated[str | None, AfterValidator(_url)]
SecretUrl = Annotated[SecretStr | None, AfterValidator(_secret_url)]
Cron = Annotated[str, AfterValidator(_cron)]
