"""Whatever somebody sets or hands over: an answer, or one line that names it, and no traceback."""

import codecs
import gzip
import json
import os
from pathlib import Path

import pytest

from credit_risk_dagster.base_settings import GroupOfSettings, SettingInvalid
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import GROUPS, KafkaSettings, LakeSettings, WarehouseSettings
from infra.embedded.servers import HOST, free_port
from resources.lake import Lake, LakeRefused
from resources.postgres.connection import Warehouse
from tests.platform.commands import Run, one_line

SECRET = "s3cret"
VALUES = (
    *("", "   ", "abc", "-1", "0", "1.5", "1e400", "nan", "x" * 5_000, "ünïcode ☃", "a\nb"),
    *("'quo\"ted'", "/tmp", "localhost:9001", "http://", "http://host:99999", "http://[::1"),
    *("::1:9092", "[::1:9092", "a:0", "a:99999", "a:1,,a:1", ",", "true", "yes", "{}", "[]"),
    *("*/99 * * * *", "* * * *", "61 * * * *", "5-1 * * * *", "* * * foo *", "%s%d", "\udcff"),
    *(f"postgresql://u:{SECRET}@h:99999/x", f"http://u:{SECRET}@ h", f"{SECRET}:{SECRET}"),
)
FIELDS = [(group, name) for group in GROUPS for name in group.model_fields]


@pytest.mark.parametrize(
    ("group", "name"), FIELDS, ids=[group.variable(name) for group, name in FIELDS]
)
def test_a_setting_is_taken_or_named(
    group: type[GroupOfSettings], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = group.variable(name)
    secret = "Secret" in str(group.model_fields[name].annotation) or variable.endswith("_KEYS")
    for value in VALUES:
        monkeypatch.setenv(variable, value)
        try:
            group()
        except SettingInvalid as error:
            group.at_load()  # as code is loaded with
            (line,) = str(error).splitlines()
            assert variable in line
            assert not secret or SECRET not in line
            assert len(line) < 400
            if not (secret or "needs" in line or "://" in value or "," in value or len(value) > 60):
                assert value in line or repr(value) in line


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DASHBOARD_DATABASE_URL"])
def test_an_address_of_postgres(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in VALUES:
        monkeypatch.setenv(variable, value)
        try:
            _ = Warehouse(WarehouseSettings().of_dashboard()).location
        except PlatformError as error:
            (line,) = str(error).splitlines()
            assert "DATABASE_URL" in line
            assert SECRET not in line


@pytest.mark.parametrize(
    "variable",
    [
        *("S3_BUCKET", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"),
        *("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_an_address_of_s3(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`AWS_ENDPOINT_URL_S3=localhost:9001`, as people know it from the console of their store."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv("S3_MAX_ATTEMPTS", "1")
    if not variable.startswith("AWS_ENDPOINT_URL"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{HOST}:{free_port()}")
    for value in ("   ", "abc", "a\nb", "/tmp", "localhost:9001", "http://[::1", "\udcff"):
        monkeypatch.setenv(variable, value)
        try:
            Lake(LakeSettings()).storage_options()  # makes the client, and asks nobody
        except PlatformError as error:
            (line,) = str(error).splitlines()
            assert "SECRET" not in variable or value not in line


def test_the_endpoint_that_lacks_its_scheme(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "localhost:9001")
    with pytest.raises(SettingInvalid) as refused:
        LakeSettings()
    assert str(refused.value) == (
        "AWS_ENDPOINT_URL_S3: 'localhost:9001' has no http:// or https:// before it"
    )
    assert one_line(run("lake", "ls")) == str(refused.value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9001")  # the SDK's own, of every service
    with pytest.raises(LakeRefused, match=r"localhost:9001: write http.* in AWS_ENDPOINT_URL,"):
        Lake(LakeSettings()).check_access()


@pytest.mark.parametrize("command", ["status", "produce", "topic create", "topic new-epoch"])
def test_an_address_of_the_broker(command: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_TIMEOUT_MS", "500")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{HOST}:{free_port()}/x")
    accepted = 0
    for value in filter(None, VALUES):
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", value)
        try:
            KafkaSettings()
        except SettingInvalid as error:
            said = str(error)
        else:
            said, accepted = "", accepted + 1
        if said:
            assert one_line(run(*command.split())) == said
            continue
        if accepted < 3:
            one_line(run(*command.split()))


@pytest.mark.parametrize("command", ["migrate", "model ls", "rejected ls", "status"])
@pytest.mark.parametrize("variable", ["DATABASE_URL", "CREDIT_RISK_SCHEMA"])
def test_commands_that_ask_postgres(
    command: str, variable: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_TIMEOUT_MS", "500")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"{HOST}:{free_port()}")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{HOST}:{free_port()}/x")
    for value in ("abc", "x" * 5_000, "a\nb", "\udcff", f"postgresql://u:{SECRET}@h:99999/x"):
        monkeypatch.setenv(variable, value)
        assert SECRET not in one_line(run(*command.split()))


def test_a_variable_that_is_nearly_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--help").err == ""
    monkeypatch.setenv("CREDIT_RISK_LANE", "4")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVER", "x:1")
    monkeypatch.setenv("KAFKA_HEAP_OPTS", "-Xmx1g")  # somebody else's
    result = run("--help")
    assert (result.code, result.err.splitlines()) == (
        0,
        [
            "warning: CREDIT_RISK_LANE is no setting, CREDIT_RISK_LANES is one: correct its name",
            "warning: KAFKA_BOOTSTRAP_SERVER is no setting, KAFKA_BOOTSTRAP_SERVERS is one: "
            "correct its name",
        ],
    )


@pytest.mark.parametrize("value", ["0 5 * * *", "*/5,30 0-6/2 1 JAN-mar mon-fri", "0 0 * * 7"])
def test_cron_expressions(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDIT_RISK_ARCHIVE_CRON", value)
    (archive,) = (group for group in GROUPS if group.__name__ == "ArchiveSettings")
    assert getattr(archive(), "cron") == value  # noqa: B009


# --- files --------------------------------------------------------------------------------------

BYTES = {
    "nothing": b"",
    "noise": bytes(range(256)) * 40,
    "zeros": bytes(5_000),
    "a list": b"[1, 2]",
    "a scalar": b"7",
    "deep": b"[" * 100_000,
    "aliases": b"a: &a [x]\nb: *a\n",
    "utf-16": '{"id": "1"}\n'.encode("utf-16"),
    "latin-1": "name: Zoë".encode("latin-1"),
    "gzip": gzip.compress(b"{}"),
    "a date": b"name: 2026-13-45",
    "tabs": b"name:\n\t- x",
}


@pytest.mark.parametrize("what", BYTES)
@pytest.mark.parametrize("option", ["--policy", "--model"])
def test_a_file_that_is_no_policy_or_model(
    option: str, what: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(BYTES[what])
    assert str(file) in one_line(run("score", "-", option, file))


@pytest.mark.parametrize("option", ["--policy", "--model"])
@pytest.mark.parametrize("path", ["/tmp", "/nowhere/x", "x" * 5_000, "a\nb"])
def test_a_path_that_is_none(option: str, path: str, run: Run) -> None:
    one_line(run("score", "-", option, path))


@pytest.mark.parametrize("command", [["score"], ["produce", "--csv"], ["demo", "--csv"]])
@pytest.mark.parametrize("path", ["/nowhere/x", "/tmp", "x" * 5_000, "a\nb"])
def test_a_file_that_is_none(command: list[str], path: str, run: Run) -> None:
    assert "Traceback" not in one_line(run(*command, path))


@pytest.mark.parametrize("sample", ["/nowhere/x.csv", "/tmp", "x" * 5_000, "a\nb", ""])
@pytest.mark.parametrize("option", ["--sample", "--outcome", "--features"])
def test_what_a_model_is_made_of(option: str, sample: str, run: Run) -> None:
    one_line(run("model", "benchmark", "--sample", "builtin", option, sample))


EVENT = (
    '{"id":"1","loan_amnt":5000,"annual_inc":40000,"dti":12.5,"int_rate":13.56,'
    '"earliest_cr_line":"Sep-2003","issue_d":"Jan-2018","emp_title":"Zoë"}'
)


@pytest.mark.parametrize(
    "content",
    [
        EVENT.encode(),
        codecs.BOM_UTF8 + EVENT.encode(),
        EVENT.encode("utf-16"),
        EVENT.encode("utf-16-le"),
        gzip.compress(EVENT.encode()),
    ],
    ids=["plain", "BOM", "UTF-16", "UTF-16 without BOM", "gzip"],
)
def test_score_reads_lines_as_people_have_them(content: bytes, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(content)
    (answer,) = run("score", file).out.splitlines()
    assert json.loads(answer)["outcome"] == "scored"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        os.rename("events.jsonl", "events")
        assert run("score", "events").out.splitlines() == [answer]
