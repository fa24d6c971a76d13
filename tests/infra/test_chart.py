"""Dagster's chart with our values, rendered by Helm, where both are: HELM_CHART_OF_DAGSTER is its
folder (`helm pull dagster --repo https://dagster-io.github.io/helm --version 1.13.27 --untar`).
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config_schema
from dagster_aws.s3 import S3ComputeLogManager

from tests.infra.test_kubernetes import MANIFESTS, VALUES, VERSION, accepted, settings

RELEASE, NAMESPACE = "dagster", "credit-risk"


def chart() -> Path:
    """The chart's folder; without it, or without Helm, the test is skipped."""
    folder = Path(os.environ.get("HELM_CHART_OF_DAGSTER", "/nowhere"))
    if not (shutil.which("helm") and (folder / "Chart.yaml").exists()):
        pytest.skip("needs helm, and Dagster's chart in HELM_CHART_OF_DAGSTER")
    return folder


def local(schema: Any) -> Any:
    """The schema without what it takes from the internet: Kubernetes' own, by which the rendered
    manifests are validated."""
    if isinstance(schema, list):
        return [local(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    elsewhere = str(schema.get("$ref", "")).startswith("https://")
    return {} if elsewhere else {key: local(value) for key, value in schema.items()}


def unknown(values: Any, schema: Any, root: Any, defaults: Any, path: str) -> Iterator[str]:
    """The keys that neither the chart's schema nor its own values have."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    kinds = [schema, *schema.get("anyOf", [])]
    if isinstance(values, list):
        items = next((kind["items"] for kind in kinds if "items" in kind), {})
        for item in values:
            yield from unknown(item, items, root, {}, path)
    elif isinstance(values, dict) and any(kind.get("properties") for kind in kinds):
        defaults = defaults if isinstance(defaults, dict) else {}
        named = {k: v for kind in kinds for k, v in kind.get("properties", {}).items()}
        for key, value in values.items():
            if key not in {**named, **defaults}:
                yield f"{path}.{key}"
            yield from unknown(value, named.get(key, {}), root, defaults.get(key), f"{path}.{key}")


def helm(*words: str) -> str:
    """What `helm template` prints of the chart, which holds the values against its schemas."""
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(chart(), Path(folder) / "dagster"))
        for schema in copy.rglob("values.schema.json"):
            schema.write_text(json.dumps(local(json.loads(schema.read_text()))))
        done = subprocess.run(
            [
                *("helm", "template", RELEASE, copy, "--namespace", NAMESPACE),
                *("--values", MANIFESTS / "dagster-values.yaml", *words),
            ],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def rendered() -> list[dict[str, Any]]:
    return [manifest for manifest in yaml.safe_load_all(helm()) if manifest]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod of each workload."""
    for manifest in rendered():
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def file(name: str) -> Any:
    """A YAML file of the rendered ConfigMaps."""
    (text,) = (
        m["data"][name]
        for m in rendered()
        if m["kind"] == "ConfigMap" and name in (m.get("data") or {})
    )
    return yaml.safe_load(text)


def test_the_chart_renders_what_kubernetes_knows() -> None:
    for manifest in rendered():
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    assert {name for name, _ in pods()} == {
        "dagster-daemon",
        "dagster-dagster-webserver",
        "dagster-dagster-user-deployments-credit-risk",
    }


def test_the_chart_knows_every_value() -> None:
    schema = local(json.loads((chart() / "values.schema.json").read_text()))
    defaults = yaml.safe_load((chart() / "values.yaml").read_text())

    def found(values: Any) -> list[str]:
        return list(unknown(values, schema, schema, defaults, ""))

    assert found(VALUES) == []
    wrong = {"dagsterDaemon": {"logformat": "json", "logFormat": "json"}}
    assert found(wrong) == [".dagsterDaemon.logformat"]


def test_every_container_is_of_our_user_and_without_capabilities() -> None:
    for name, pod in pods():
        assert pod["securityContext"]["runAsUser"] == 10001, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        (container,) = pod["containers"]
        assert container["image"].endswith("credit-risk-platform-runs:0.1.0"), name
        assert container["resources"]["limits"]["memory"], name


def test_probes_ask_where_somebody_listens() -> None:
    by_name = {name: pod["containers"][0] for name, pod in pods()}
    (webserver,) = (pod for name, pod in by_name.items() if name.endswith("webserver"))
    (port,) = webserver["ports"]
    assert webserver["readinessProbe"]["httpGet"]["port"] in (port["containerPort"], port["name"])
    (code,) = (pod for name, pod in by_name.items() if name.endswith("credit-risk"))
    assert code["readinessProbe"]["exec"]["command"][:2] == ["python", "infra/health.py"]
    for name in by_name:
        written = json.dumps(by_name[name])
        assert ("--log-format" in written) == ("json" in written), name
        assert "--log-format" in written, name


def test_runs_have_what_the_launcher_says_and_nothing_of_the_code_server() -> None:
    (code,) = (pod["containers"][0] for name, pod in pods() if name.endswith("credit-risk"))
    assert not [e["name"] for e in code["env"] if e["name"].endswith("CONTAINER_CONTEXT")]
    others = file("dagster.yaml")["run_launcher"]["config"]["run_k8s_config"]
    assert "resources" not in others["container_config"]


def test_the_webserver_can_read_what_runs_print() -> None:
    (pod,) = (pod for name, pod in pods() if name.endswith("webserver"))
    names = {ref["name"] for source in pod["containers"][0]["envFrom"] for ref in source.values()}
    assert {"credit-risk-settings", "dagster-compute-logs"} <= names


def test_the_webserver_is_where_the_platform_looks_for_it() -> None:
    services = {
        f"http://{m['metadata']['name']}:{port['port']}"
        for m in rendered()
        if m["kind"] == "Service"
        for port in m["spec"]["ports"]
    }
    assert settings()["CREDIT_RISK_DAGSTER_INTERNAL_URL"] in services


def test_the_instance_is_what_dagster_accepts() -> None:
    from dagster_k8s import K8sRunLauncher

    instance = file("dagster.yaml")
    accepted(dagster_instance_config_schema(), instance)
    accepted(K8sRunLauncher.config_type(), instance["run_launcher"]["config"])
    accepted(S3ComputeLogManager.config_type(), instance["compute_logs"]["config"])
    assert instance["run_launcher"]["config"]["resources"]["limits"] == {"memory": "1536Mi"}


def test_the_workspace_names_the_code_server_as_one_machine_does() -> None:
    (server,) = file("workspace.yaml")["load_from"]
    assert server["grpc_server"]["location_name"] == "credit_risk"
    services = {m["metadata"]["name"] for m in rendered() if m["kind"] == "Service"}
    assert server["grpc_server"]["host"] in services


def test_dagsters_migration_is_a_job_apart() -> None:
    (job,) = yaml.safe_load_all(
        helm("--set", "migrate.enabled=true", "--show-only", "templates/job-instance-migrate.yaml")
    )
    kubernetes_validate.validate(job, VERSION, strict=True)
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["instance", "migrate"]
    # A Job cannot be changed, so that one of the release would refuse the next image.
    assert not [m for m in rendered() if m["kind"] == "Job"]
