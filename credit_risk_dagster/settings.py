"""All configuration, typed, from the environment (and a `.env` file in the working directory).

Nothing else in the project reads the environment. `.env.example` lists every variable.
"""

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, FilePath, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from credit_risk_dagster.base_settings import (
    Cron,
    GroupOfSettings,
    SecretUrl,
    Topic,
    Url,
    check_certificates,
    clipped,
)
from credit_risk_dagster.decision_settings import DecisionSettings
from credit_risk_dagster.domain.features import CLASSIC_FEATURES, Purpose
from credit_risk_dagster.domain.rights import Right, has_right, parse_rights

if TYPE_CHECKING:
    from credit_risk_dagster.domain.policy import Policy

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DEFAULT_POLICY = Path(__file__).parent / "domain" / "policies" / "lendingclub-v2.yaml"


class KafkaSettings(GroupOfSettings):
    """Where the broker is and how to sign in (variables `KAFKA_*`)."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_")

    bootstrap_servers: str = Field("127.0.0.1:9092", description="host:port[,host:port...]")
    topic: Topic = Field("loan_applications", description="topic that carries the applications")
    partitions: int = Field(4, ge=1, description="partitions when this project creates the topic")
    replication_factor: int = Field(1, ge=1, description="replicas when this project creates it")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="transport security"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="required by the SASL protocols"
    )
    sasl_username: str | None = Field(None, description="SASL user")
    sasl_password: SecretStr | None = Field(None, description="SASL password")
    ssl_cafile: FilePath | None = Field(None, description="CA bundle that signs the brokers (PEM)")
    ssl_certfile: FilePath | None = Field(
        None, description="client certificate for mutual TLS (PEM)"
    )
    ssl_keyfile: FilePath | None = Field(None, description="key of the client certificate (PEM)")
    ssl_check_hostname: bool = Field(True, description="certificate must name the broker's host")
    timeout_ms: int = Field(
        5_000, ge=500, le=3_600_000, description="how long a broker may take to answer"
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers_have_ports(cls, value: str) -> str:
        for server in value.split(","):
            match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/,]+):([0-9]{1,5})", server)
            if not match or not 0 < int(match[2]) < 2**16:
                raise ValueError(f"{clipped(server)} is not host:port (or [IPv6 address]:port)")
        return value

    @model_validator(mode="after")
    def _client_may_sign_in(self) -> "KafkaSettings":
        if self.security_protocol.startswith("SASL") and not (
            self.sasl_mechanism and self.sasl_username and self.sasl_password
        ):
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL={self.security_protocol} needs KAFKA_SASL_MECHANISM, "
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            )
        if self.security_protocol.endswith("SSL"):
            check_certificates("KAFKA_SSL_", self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)
        return self

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments that every kafka-python client takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": self.timeout_ms,
            "client_id": "credit-risk",
        }
        if self.security_protocol.startswith("SASL"):
            assert self.sasl_password is not None  # noqa: S101 (validated above)
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password.get_secret_value(),
            }
        if self.security_protocol.endswith("SSL"):
            options |= {
                "ssl_cafile": self.ssl_cafile and str(self.ssl_cafile),
                "ssl_certfile": self.ssl_certfile and str(self.ssl_certfile),
                "ssl_keyfile": self.ssl_keyfile and str(self.ssl_keyfile),
                "ssl_check_hostname": self.ssl_check_hostname,
            }
        return options


class WarehouseSettings(GroupOfSettings):
    """Where Postgres is."""

    database_url: SecretStr = Field(
        SecretStr("postgresql://127.0.0.1:5432/credit_risk"),
        alias="DATABASE_URL",
        description="postgresql://user:password@host:port/database",
    )
    dashboard_database_url: SecretStr | None = Field(
        None,
        alias="DASHBOARD_DATABASE_URL",
        description="the same database for the dashboard, as a user who may only read; "
        "empty means DATABASE_URL",
    )
    db_schema: str = Field(
        "credit_risk",
        alias="CREDIT_RISK_SCHEMA",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="schema of the platform's tables",
    )
    partition_span: Literal["day", "month"] = Field(
        "month",
        alias="CREDIT_RISK_PARTITION_SPAN",
        description="what a time partition of the big tables covers from now on: month or day",
    )

    def of_dashboard(self) -> "WarehouseSettings":
        """The same with the dashboard's user."""
        url = self.dashboard_database_url or self.database_url
        return self.model_copy(update={"database_url": url})


class LakeSettings(GroupOfSettings):
    """Where the archive is; credentials and region come from the usual `AWS_*` variables."""

    bucket: str = Field("credit-risk", alias="S3_BUCKET", description="bucket of the archive")
    endpoint_url: Url = Field(
        None, alias="AWS_ENDPOINT_URL_S3", description="S3-compatible endpoint; empty means AWS"
    )
    create_bucket: bool = Field(
        False, alias="S3_CREATE_BUCKET", description="create the bucket when it is missing"
    )
    encryption: Literal["AES256", "aws:kms"] | None = Field(
        None,
        alias="S3_SERVER_SIDE_ENCRYPTION",
        description="AES256 or aws:kms; empty means what the bucket does by default",
    )
    kms_key_id: str | None = Field(
        None, alias="S3_KMS_KEY_ID", description="key of aws:kms; empty means the account's own"
    )
    max_attempts: int = Field(
        5, ge=1, alias="S3_MAX_ATTEMPTS", description="tries of a request, with growing pauses"
    )
    timeout_seconds: float = Field(
        30, gt=0, le=3_600, alias="S3_TIMEOUT_SECONDS", description="how long one answer may take"
    )

    def impatient(self) -> "LakeSettings":
        """The same for what somebody waits for: one try."""
        seconds = min(self.timeout_seconds, 10)
        return self.model_copy(update={"max_attempts": 1, "timeout_seconds": seconds})

    @property
    def connect_seconds(self) -> float:
        """How long a connection may take to be there."""
        return min(self.timeout_seconds, 10)

    @model_validator(mode="after")
    def _key_is_used(self) -> "LakeSettings":
        if self.kms_key_id and self.encryption != "aws:kms":
            raise ValueError("S3_KMS_KEY_ID needs S3_SERVER_SIDE_ENCRYPTION=aws:kms")
        return self


class ArchiveSettings(GroupOfSettings):
    """How raw events are archived (variables `CREDIT_RISK_ARCHIVE_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_ARCHIVE_")

    cron: Cron = Field("*/5 * * * *", description="when a run archives (cron, UTC)")
    max_object_events: int = Field(250_000, ge=1, description="most events in one object")
    max_object_bytes: int = Field(64 * 2**20, ge=2**20, description="most bytes of one object")
    maintenance_cron: Cron = Field("37 2 * * *", description="when files become few (cron, UTC)")
    keep_days: int = Field(7, ge=1, le=3_650, description="days that older versions are readable")
    verify_bytes_per_day: int = Field(10 * 2**30, ge=0, description="most bytes verified in a day")


class RetentionSettings(GroupOfSettings):
    """What is kept for how long (variables `CREDIT_RISK_RETENTION_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_RETENTION_")

    days: int | None = Field(
        None,
        ge=0,
        description="days after its end that a time partition stays in Postgres; empty keeps all",
    )
    review_days: int | None = Field(
        None, ge=1, description="days that reviews and closed cases stay; empty keeps all"
    )
    outcome_days: int | None = Field(None, ge=1, description="days outcomes stay; empty keeps all")
    shadow_days: int = Field(30, ge=1, description="days that what shadows said stays")
    run_days: int = Field(
        30, ge=0, description="days that Dagster remembers a finished run; 0 keeps all"
    )


class DriftSettings(GroupOfSettings):
    """How drift is measured (variables `CREDIT_RISK_DRIFT_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_DRIFT_")

    cron: Cron = Field("*/30 * * * *", description="when a run reports drift (cron, UTC)")
    window_rows: int = Field(
        5_000, ge=1, description="newest applications that are compared with the baseline"
    )
    window_hours: float | None = Field(
        None, gt=0, le=87_600, description="or those scored in so many hours; empty goes by number"
    )
    min_rows: int = Field(500, ge=1, description="with fewer applications, no drift is claimed")
    psi_moderate: float = Field(0.10, gt=0, description="PSI from which drift is moderate")
    psi_significant: float = Field(0.25, gt=0, description="PSI above which drift is significant")
    baseline_rows: int = Field(
        5_000, ge=100, le=100_000, description="first applications that make the baseline"
    )
    baseline_csv: Path | None = Field(
        None, description="LendingClub CSV whose loans make the baseline instead"
    )
    baseline_skip_bad: bool = Field(
        False, description="leave out the damaged rows of that CSV, and count them"
    )

    def with_csv(self, csv: Path | None, *, skip_bad: bool) -> "DriftSettings":
        """The same with a baseline of that CSV, if one is given, and without its damaged rows."""
        given = {"baseline_csv": csv, "baseline_skip_bad": skip_bad}
        return self.model_copy(update={name: value for name, value in given.items() if value})

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> "DriftSettings":
        if self.psi_moderate >= self.psi_significant:
            raise ValueError(
                f"CREDIT_RISK_DRIFT_PSI_MODERATE={self.psi_moderate} must be below "
                f"CREDIT_RISK_DRIFT_PSI_SIGNIFICANT={self.psi_significant}"
            )
        return self


class ModelSettings(GroupOfSettings):
    """What models are trained on (variables `CREDIT_RISK_MODEL_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_MODEL_")

    cron: Cron = Field("30 5 * * *", description="when a run trains and benchmarks (cron, UTC)")
    sample: str = Field(
        "scored", description="scored (the table), builtin (10,000 loans), or a LendingClub CSV"
    )
    outcome: str = Field("early_delinquency", description="its name, or a YAML file of one")
    features: str = Field(
        ",".join(CLASSIC_FEATURES), description="columns that a model uses, comma-separated"
    )
    purpose: Purpose = Field(
        "benchmark", description="benchmark, or decision: without the lender's own rate and grade"
    )
    skip_bad: bool = Field(False, description="leave out damaged rows of a CSV, and count them")
    classes_file: Path | None = Field(
        None, description="CSV of protected classes, or of their probabilities, for fair lending"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of folds and draws")
    max_rows: int = Field(1_000_000, ge=1_000, description="most rows of a sample, the newest")

    @property
    def feature_names(self) -> list[str]:
        return [name.strip() for name in self.features.split(",") if name.strip()]


class StreamSettings(GroupOfSettings):
    """How the stream itself is watched (variables `CREDIT_RISK_STREAM_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_STREAM_")

    cron: Cron = Field("*/10 * * * *", description="when a run checks the stream (cron, UTC)")
    silent_minutes: float = Field(
        10, gt=0, description="minutes of backlog without a scored application that are a failure"
    )
    sample_events: int = Field(
        1_000, ge=100, le=20_000, description="newest events whose columns are looked at"
    )


class DrainSettings(DecisionSettings):
    """How a drain run works (variables `CREDIT_RISK_*`)."""

    lanes: int = Field(1, ge=1, le=64, description="concurrent runs the partitions are dealt over")
    session_seconds: float = Field(600, ge=0, description="how long a run stays; 0: for one batch")
    run_start_seconds: float = Field(
        8, gt=0, description="how long a run may take to start; its successor is requested so early"
    )
    idle_seconds: float | None = Field(
        None, ge=0, description="a run without events ends after this; unset: it stays and waits"
    )
    max_batch_events: int = Field(15_000, ge=1, description="most events in one transaction")
    max_batch_bytes: int = Field(
        16 * 2**20, ge=2**16, description="bytes of events after which a batch is closed"
    )
    poll_interval_ms: int = Field(40, ge=1, description="least time from a batch to the next")
    policy_file: Path = Field(
        DEFAULT_POLICY,
        description="credit policy (YAML): the first one, and one to try that was never activated",
    )


CLIENT = r"[A-Za-z0-9._-]{1,64}"  # name of a client of the API


class ApiSettings(GroupOfSettings):
    """How the API serves (variables `CREDIT_RISK_API_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_API_")

    host: str = Field(
        "127.0.0.1", description="address to listen on; beyond loopback, keys are due"
    )
    port: int = Field(8000, ge=1, le=65_535, description="port to listen on")
    operations_port: int = Field(
        0, ge=0, le=65_535, description="port of /metrics and /ready alone; 0: beside the rest"
    )
    keys: str = Field(
        "",
        repr=False,
        description="client:hash[,client:hash...], as `credit-risk api-key new` prints them",
    )
    rate_limit: str = Field("600/minute", description="requests of one client")
    max_body_bytes: int = Field(2**20, ge=2**10, description="largest request")
    max_events: int = Field(1_000, ge=1, description="most applications scored by one request")
    max_in_flight: int = Field(
        256, ge=1, description="submitted applications that may wait for the broker at once"
    )

    @property
    def hashes(self) -> dict[str, bytes]:
        """SHA-256 of each client's key, by client."""
        pairs = (entry.split(":") for entry in self.keys.split(",") if entry)
        return {client: bytes.fromhex(digest) for client, digest in pairs}

    @field_validator("keys")
    @classmethod
    def _keys_are_hashes(cls, value: str) -> str:
        entries = [entry.strip() for entry in value.split(",") if entry.strip()]
        for number, entry in enumerate(entries, 1):
            if not re.fullmatch(CLIENT + r":[0-9a-f]{64}", entry):
                raise ValueError(
                    f"entry {number} is not client:hash; `credit-risk api-key new` makes one"
                )
        clients = [entry.split(":")[0] for entry in entries]
        if len(set(clients)) < len(clients):
            raise ValueError("a client has two keys; name them apart, as in app-2026 and app-2027")
        return ",".join(entries)

    @field_validator("rate_limit")
    @classmethod
    def _rate_is_one(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9][0-9]{0,8}/(second|minute|hour)", value):
            raise ValueError("is not like 600/minute (or /second, /hour)")
        return value

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> "ApiSettings":
        if not self.keys and not is_loopback(self.host):
            raise ValueError(
                f"CREDIT_RISK_API_HOST={self.host} can be reached from other machines, so it needs "
                "CREDIT_RISK_API_KEYS: `credit-risk api-key new` makes one"
            )
        return self


class LogSettings(GroupOfSettings):
    """How processes log (variables `CREDIT_RISK_LOG_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG (also each batch), INFO, WARNING or ERROR"
    )
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="json, text, or auto: text on a terminal and else json"
    )


class AlertSettings(GroupOfSettings):
    """Where failures are told (variables `CREDIT_RISK_ALERT_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_ALERT_")

    webhook_url: SecretUrl = Field(
        None, description="failed runs are posted there as JSON; the address is a secret"
    )
    timeout_seconds: float = Field(5, gt=0, le=30, description="how long the webhook may take")
    runbook_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="where docs/runbook.md can be read, for the links in alerts",
    )


class DashboardSettings(GroupOfSettings):
    """Where the dashboard's links lead (variables `CREDIT_RISK_*`)."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_")

    dagster_url: str = Field(
        "http://127.0.0.1:3000", pattern=r"^https?://\S+$", description="Dagster's UI"
    )
    dagster_internal_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="the same, where the dashboard's own server finds it; empty means there",
    )
    grafana_url: str | None = Field(
        None, pattern=r"^https?://\S+$", description="Grafana; empty means that there is none"
    )
    dashboard_sign_in: Literal["own", "proxy"] = Field(
        "own",
        description="who signs people in beyond loopback: the dashboard, by [auth] in "
        ".streamlit/secrets.toml, without which it shows nothing there; or a proxy before it",
    )


class AccessSettings(GroupOfSettings):
    """Who may do what."""

    roles: str = Field(
        "",
        alias="CREDIT_RISK_ROLES",
        description="right: name name; right: ..., of submit, approve, see, review, export, by "
        "database role, client, address or group, * for anybody; empty lets anybody do all",
    )

    @field_validator("roles")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        parse_rights(value)
        return value

    def may(self, right: Right, names: Iterable[str]) -> bool:
        """Whether somebody has a right, by any of the names that they go by."""
        return has_right(parse_rights(self.roles), right, names)


GROUPS: tuple[type[GroupOfSettings], ...] = (
    *(KafkaSettings, WarehouseSettings, LakeSettings, ArchiveSettings, RetentionSettings),
    *(DriftSettings, ModelSettings, StreamSettings, DrainSettings, ApiSettings, LogSettings),
    *(AlertSettings, DashboardSettings, AccessSettings),
)


class Settings:
    """Every group of settings, each read from the environment when first used, or as given."""

    def __init__(self, **groups: "GroupOfSettings | Policy") -> None:
        vars(self).update(groups)

    kafka = cached_property(lambda _: KafkaSettings())
    warehouse = cached_property(lambda _: WarehouseSettings())
    lake = cached_property(lambda _: LakeSettings())
    archive = cached_property(lambda _: ArchiveSettings())
    retention = cached_property(lambda _: RetentionSettings())
    drift = cached_property(lambda _: DriftSettings())
    model = cached_property(lambda _: ModelSettings())
    stream = cached_property(lambda _: StreamSettings())
    drain = cached_property(lambda _: DrainSettings())
    api = cached_property(lambda _: ApiSettings())
    alert = cached_property(lambda _: AlertSettings())

    @cached_property
    def policy(self) -> "Policy":
        """The credit policy of CREDIT_RISK_POLICY_FILE.

        Raises:
            PolicyError: it cannot be read, or is none.
        """
        from credit_risk_dagster.domain.policy import load_policy

        return load_policy(self.drain.policy_file)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
