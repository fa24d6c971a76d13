"""Settings come from the environment, and `.env.example` tells all of them."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from credit_risk_dagster.base_settings import SettingInvalid
from credit_risk_dagster.settings import (
    PROJECT_ROOT,
    AccessSettings,
    AlertSettings,
    ApiSettings,
    ArchiveSettings,
    DashboardSettings,
    DrainSettings,
    DriftSettings,
    KafkaSettings,
    LakeSettings,
    LogSettings,
    ModelSettings,
    RetentionSettings,
    StreamSettings,
    WarehouseSettings,
)
from tests.interop.certificates import Certificates

EXAMPLE = PROJECT_ROOT / ".env.example"
GROUPS = (
    KafkaSettings,
    WarehouseSettings,
    LakeSettings,
    ArchiveSettings,
    RetentionSettings,
    DriftSettings,
    ModelSettings,
    StreamSettings,
    DrainSettings,
    ApiSettings,
    LogSettings,
    AlertSettings,
    DashboardSettings,
    AccessSettings,
)


def variables(group: type[BaseSettings]) -> dict[str, str | None]:
    """The group's variables with their descriptions."""
    prefix = group.model_config.get("env_prefix", "")
    return {
        field.alias or f"{prefix}{name}".upper(): field.description
        for name, field in group.model_fields.items()
    }


def test_the_example_lists_every_variable_with_its_description() -> None:
    listed = re.findall(r"^# (.+)\n([A-Z0-9_]+)=", EXAMPLE.read_text(), re.MULTILINE)
    expected = [
        (description, name) for group in GROUPS for name, description in variables(group).items()
    ]
    assert listed == expected


@pytest.mark.parametrize("group", GROUPS)
def test_the_example_says_the_defaults(group: type[BaseSettings]) -> None:
    assert group(_env_file=EXAMPLE) == group(_env_file=None)


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("KAFKA_TOPIC=from_file\nKAFKA_PARTITIONS=8\nDATABASE_URL=postgresql://file/x\n")
    monkeypatch.setenv("KAFKA_TOPIC", "from_environment")
    settings = KafkaSettings(_env_file=file)
    assert (settings.topic, settings.partitions) == ("from_environment", 8)
    warehouse = WarehouseSettings(_env_file=file)
    assert warehouse.database_url.get_secret_value() == "postgresql://file/x"


def test_tests_do_not_see_the_developers_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("KAFKA_TOPIC=production\n")
    monkeypatch.chdir(tmp_path)
    assert KafkaSettings().topic == "loan_applications"


def test_sasl_without_a_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "user")
    with pytest.raises(SettingInvalid, match="KAFKA_SECURITY_PROTOCOL=SASL_SSL needs"):
        KafkaSettings()


def test_security_settings_reach_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cafile = Certificates(tmp_path).ca
    for name, value in {
        "KAFKA_BOOTSTRAP_SERVERS": "one:9093,two:9093",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "user",
        "KAFKA_SASL_PASSWORD": "secret",
        "KAFKA_SSL_CAFILE": str(cafile),
    }.items():
        monkeypatch.setenv(name, value)
    settings = KafkaSettings()
    options = settings.client_options()
    assert options["bootstrap_servers"] == ["one:9093", "two:9093"]
    assert options["sasl_plain_password"] == "secret"
    assert options["ssl_cafile"] == str(cafile)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"cafile": "client_key"}, "KAFKA_SSL_CAFILE: .*client.key has no certificate of an auth"),
        ({"certfile": "client"}, "KAFKA_SSL_CERTFILE: .*client.pem and its key .in the same file"),
        ({"certfile": "client", "keyfile": "server"}, "server.pem. are no pair in PEM.*mismatch"),
        ({"certfile": "client_key", "keyfile": "client_key"}, "KAFKA_SSL_CERTFILE: .* are no pair"),
        ({"certfile": "client", "keyfile": "encrypted"}, "CERTFILE.*without a password"),
        ({"keyfile": "client_key"}, "KAFKA_SSL_KEYFILE is set, and KAFKA_SSL_CERTFILE, whose key"),
    ],
)
def test_certificates_that_cannot_be_used(files: dict[str, str], said: str, tmp_path: Path) -> None:
    known = Certificates(tmp_path)
    chosen = {f"ssl_{name}": getattr(known, of) for name, of in files.items()}
    KafkaSettings(**chosen)  # without TLS nobody reads them
    with pytest.raises(SettingInvalid, match=said) as refused:
        KafkaSettings(**chosen, security_protocol="SSL")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("group", "variable", "value"),
    [
        (KafkaSettings, "KAFKA_PARTITIONS", "0"),
        (KafkaSettings, "KAFKA_SECURITY_PROTOCOL", "TLS"),
        (KafkaSettings, "KAFKA_BOOTSTRAP_SERVERS", "broker"),
        (KafkaSettings, "KAFKA_BOOTSTRAP_SERVERS", "broker:9092, other:kafka"),
        (KafkaSettings, "KAFKA_TOPIC", "loan applications"),
        (KafkaSettings, "KAFKA_TOPIC", "x" * 250),
        (KafkaSettings, "KAFKA_TOPIC", ".."),
        (KafkaSettings, "KAFKA_TOPIC", "_delta_log"),
        (KafkaSettings, "KAFKA_SSL_CAFILE", "/no/such/file"),
        (WarehouseSettings, "CREDIT_RISK_SCHEMA", 'x"; DROP SCHEMA public'),
        (LakeSettings, "S3_KMS_KEY_ID", "a-key-without-encryption"),
        (ArchiveSettings, "CREDIT_RISK_ARCHIVE_MAX_OBJECT_BYTES", "1000"),
        (DrainSettings, "CREDIT_RISK_LANES", "many"),
        (DrainSettings, "CREDIT_RISK_SESSION_SECONDS", "-1"),
    ],
)
def test_a_wrong_value_is_refused_and_not_repeated(
    group: type[BaseSettings], variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group()  # what is refused is this value, and nothing else
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingInvalid) as refused:
        group()
    assert "input_value" not in str(refused.value)
