"""The manifests, by the schemas of Kubernetes, and the chart's values, by Dagster's own.

Kubernetes' client has 800 modules: they are imported where they are needed, not where tests are
collected.
"""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster import DagsterInstance
from dagster._config import process_config, resolve_to_config_type
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.test_utils import instance_for_test
from dagster_aws.s3 import S3ComputeLogManager

from credit_risk_dagster.api.app import create_app
from credit_risk_dagster.settings import PROJECT_ROOT, Settings
from dashboard.parts.orchestration import LOCATION
from tests.platform.compose import INFRA, secrets, services
from tests.platform.tools import program
from tests.test_settings import GROUPS, variables

VERSION = "1.36"
MANIFESTS = INFRA / "k8s"
VALUES: dict[str, Any] = yaml.safe_load((MANIFESTS / "dagster-values.yaml").read_text())
# Of a custom resource, so no schema is in Kubernetes.
CUSTOM = {"ServiceMonitor"}


@cache
def manifests() -> list[dict[str, Any]]:
    """What `kubectl apply -k infra/k8s` would apply."""
    return [
        document
        for folder in (MANIFESTS, MANIFESTS / "monitoring")
        for document in yaml.safe_load_all(kustomize(folder))
        if document
    ]


def kustomize(folder: Path) -> str:
    command = [program("kubectl", "kubernetes-client"), "kustomize", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def settings() -> dict[str, str]:
    """Of the ConfigMap that the chart's pods read."""
    (found,) = [m for m in manifests() if m["metadata"]["name"] == "credit-risk-settings"]
    return dict(found["data"])


def containers() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container of each workload."""
    return [
        (f"{m['kind']} {m['metadata']['name']}", m["spec"]["template"]["spec"], container)
        for m in manifests()
        if m["kind"] in ("Deployment", "Job")
        for container in m["spec"]["template"]["spec"]["containers"]
    ]


def test_manifests_are_what_kubernetes_knows() -> None:
    found = manifests()
    assert len(found) >= 10
    for manifest in found:
        assert manifest["metadata"].get("namespace", manifest["kind"]) in (
            "credit-risk",
            "Namespace",
        )
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_wrong_manifest_would_be_refused() -> None:
    (api, *_) = [m for m in manifests() if m["kind"] == "Deployment"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            api | {"spec": {**api["spec"], "replica": 2}}, VERSION, strict=True
        )


def test_pods_can_do_no_more_than_they_must() -> None:
    from kubernetes.utils import parse_quantity

    for name, pod, container in containers():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert container["image"].endswith(":0.1.0"), name
        resources = container["resources"]
        assert parse_quantity(resources["requests"]["memory"]) <= parse_quantity(
            resources["limits"]["memory"]
        ), name


def test_pods_run_the_commands_that_are_tested() -> None:
    """Those of the compose file, which tests/infra/test_services.py runs."""
    tested = {name: service.command for name, service in services(secrets()).items()}

    def words(command: list[str]) -> list[str]:
        return " ".join(command).replace("=", " ").split()

    found = {name: words(container["command"]) for name, _, container in containers()}
    assert found == {
        "Job credit-risk-migrate": words(tested["migrate"]),
        "Job credit-risk-topic": words(tested["topic"]),
        "Deployment credit-risk-api": words(tested["api"]),
        "Deployment credit-risk-dashboard": words(tested["dashboard"]),
    }
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    assert code["dagsterApiGrpcArgs"] == tested["dagster-code"][7:]


def test_selectors_find_their_pods() -> None:
    pods = [
        m["spec"]["template"]["metadata"]["labels"]
        for m in manifests()
        if "template" in m.get("spec", {})
    ]
    pods += [VALUES["runLauncher"]["config"]["k8sRunLauncher"]["labels"]]
    pods += [{"component": "dagster-webserver"}]  # the chart's
    services_ = [m for m in manifests() if m["kind"] == "Service"]
    for manifest in manifests():
        spec = manifest.get("spec", {})
        selector = spec.get("selector", {})
        wanted = selector.get("matchLabels", selector)
        if manifest["kind"] == "ServiceMonitor":
            found = [s["metadata"]["labels"] for s in services_]
        else:
            found = pods
        if wanted:
            assert any(wanted.items() <= labels.items() for labels in found), manifest["metadata"]


def test_the_code_location_has_its_name_everywhere() -> None:
    (server,) = VALUES["dagsterWebserver"]["workspace"]["servers"]
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    assert (server["host"], server["port"]) == (code["name"], code["port"])
    one_machine = yaml.safe_load((INFRA / "workspace.yaml").read_text())["load_from"][0]
    assert server["name"] == one_machine["grpc_server"]["location_name"] == LOCATION


def test_settings_are_the_platforms() -> None:
    known = {name for group in GROUPS for name in variables(group)} | {"AWS_DEFAULT_REGION"}
    values = settings()
    assert set(values) <= known
    for group in GROUPS:
        names = variables(group)
        given = {name: value for name, value in values.items() if name in names}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            # What the secrets add.
            patch.setenv("KAFKA_SASL_USERNAME", "user")
            patch.setenv("KAFKA_SASL_PASSWORD", "password")
            group()


def snake_case(value: Any) -> Any:
    """The chart's templates write Dagster's configuration so."""
    if isinstance(value, dict):
        return {
            re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): snake_case(v) for key, v in value.items()
        }
    return [snake_case(item) for item in value] if isinstance(value, list) else value


def accepted(schema: Any, config: dict[str, Any]) -> None:
    result = process_config(resolve_to_config_type(schema), config)
    assert result.success, [error.message for error in result.errors or []]


_NAMED = ("envConfigMaps", "envSecrets")  # the chart takes {name: ...}


def launcher_config() -> dict[str, Any]:
    """The run launcher's configuration, as the chart's template writes it into dagster.yaml."""
    launcher = dict(VALUES["runLauncher"]["config"]["k8sRunLauncher"])
    run, labels = launcher.pop("runK8sConfig"), launcher.pop("labels")
    names = {key: [named["name"] for named in launcher.pop(key)] for key in _NAMED}
    return {
        **snake_case({**launcher, **names}),
        "labels": labels,
        "run_k8s_config": {
            "container_config": run["containerConfig"],
            "pod_spec_config": run["podSpecConfig"],
            "job_spec_config": run["jobSpecConfig"],
        },
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "dagster_home": VALUES["global"]["dagsterHome"],
    }


def test_a_run_is_a_job_that_kubernetes_knows() -> None:
    from dagster_k8s.job import (
        DagsterK8sJobConfig,
        UserDefinedDagsterK8sConfig,
        construct_dagster_k8s_job,
    )
    from kubernetes.client import ApiClient

    config = launcher_config()
    run = UserDefinedDagsterK8sConfig.from_dict(config.pop("run_k8s_config"))
    del config["load_incluster_config"]
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(job_image="registry.example.com/credit-risk-platform:0.1.0", **config),
        args=["dagster", "api", "execute_run"],
        job_name="dagster-run-1",
        user_defined_k8s_config=run,
    )
    manifest = ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(manifest, VERSION, strict=True)
    pod = manifest["spec"]["template"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "1536Mi"}
    # Nothing of the code server's, whose memory is too small for training, is put over that.
    (code,) = VALUES["dagster-user-deployments"]["deployments"]
    assert code["includeConfigInLaunchedRuns"] == {"enabled": False}
    of_the_code = {
        "config_map_ref": [m["name"] for m in code["envConfigMaps"]],
        "secret_ref": [m["name"] for m in code["envSecrets"]],
    }
    from_ = pod["spec"]["containers"][0]["envFrom"]
    given = {
        "config_map_ref": [e["configMapRef"]["name"] for e in from_ if "configMapRef" in e],
        "secret_ref": [e["secretRef"]["name"] for e in from_ if "secretRef" in e],
    }
    assert given == of_the_code
    # A budget of pods that belong to no controller is a number of them: a node with the last of
    # them could never be drained.
    for budget in [m for m in manifests() if m["kind"] == "PodDisruptionBudget"]:
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert not wanted.items() <= pod["metadata"]["labels"].items()


def test_what_scales_by_itself_has_no_number() -> None:
    deployments = {m["metadata"]["name"]: m for m in manifests() if m["kind"] == "Deployment"}
    scaled = [m for m in manifests() if m["kind"] == "HorizontalPodAutoscaler"]
    assert scaled
    for autoscaler in scaled:
        name = autoscaler["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in deployments[name]["spec"]


def test_what_others_find_done_is_applied_alone() -> None:
    first = [
        m
        for m in manifests()
        if m["metadata"].get("labels", {}).get("credit-risk/step") == "prepare"
    ]
    assert {m["kind"] for m in first} == {"Namespace", "ConfigMap", "Job"}
    assert {m["metadata"]["name"] for m in manifests() if m["kind"] == "Job"} <= {
        m["metadata"]["name"] for m in first
    }


def test_the_webservers_port_needs_no_privilege_and_is_where_it_is_looked_for() -> None:
    port = VALUES["dagsterWebserver"]["service"]["port"]
    assert port >= 1024
    assert settings()["CREDIT_RISK_DAGSTER_INTERNAL_URL"].endswith(f":{port}")
    assert VALUES["dagsterWebserver"]["readinessProbe"]["httpGet"]["port"] == port


def test_only_what_asks_who_is_there_is_published() -> None:
    (ingress,) = [m for m in manifests() if m["kind"] == "Ingress"]
    published = {
        path["backend"]["service"]["name"]
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert published == {"credit-risk-api", "credit-risk-dashboard"}
    (api, _) = ingress["spec"]["rules"]
    paths = {path["path"] for path in api["http"]["paths"]}
    documented = {f"/{path.split('/')[1]}" for path in create_app(Settings()).openapi()["paths"]}
    assert paths == documented - {"/metrics", "/ready", "/health", "/"} | {"/docs", "/openapi.json"}
    assert {host for tls in ingress["spec"]["tls"] for host in tls["hosts"]} == {
        rule["host"] for rule in ingress["spec"]["rules"]
    }


def test_the_charts_values_are_what_dagster_accepts() -> None:
    from dagster_k8s import K8sRunLauncher

    accepted(K8sRunLauncher.config_type(), launcher_config())
    daemon = VALUES["dagsterDaemon"]
    queue = dict(daemon["runCoordinator"]["config"]["queuedRunCoordinator"])
    limits = queue.pop("tagConcurrencyLimits")  # as they are
    queue = {**snake_case(queue), "tag_concurrency_limits": limits}
    accepted(QueuedRunCoordinator.config_type(), queue)
    logs = VALUES["computeLogManager"]["config"]["s3ComputeLogManager"]
    accepted(S3ComputeLogManager.config_type(), snake_case(logs))


def test_the_charts_values_mean_what_dagster_yaml_says() -> None:
    one_machine = yaml.safe_load((INFRA / "dagster.yaml").read_text())
    daemon = VALUES["dagsterDaemon"]
    assert snake_case(daemon["runRetries"]) == one_machine["run_retries"]
    assert snake_case(daemon["sensors"]) == one_machine["sensors"]
    assert snake_case(daemon["schedules"]) == one_machine["schedules"]
    with instance_for_test(
        {
            "run_monitoring": snake_case(daemon["runMonitoring"]),
            "run_retries": snake_case(daemon["runRetries"]),
            "retention": {
                name: {"purge_after_days": VALUES["retention"][name]["purgeAfterDays"]}
                for name in ("sensor", "schedule")
            },
            **VALUES["additionalInstanceConfig"],
        }
    ) as instance:
        assert isinstance(instance, DagsterInstance)
        assert instance.run_monitoring_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure


def test_two_runs_of_a_lane_at_most() -> None:
    queue = VALUES["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    (limit,) = queue["tagConcurrencyLimits"]
    assert limit["limit"] == 2
    assert queue["maxConcurrentRuns"] >= 2 * int(settings()["CREDIT_RISK_LANES"]) + 8


def test_versions_are_those_of_the_image() -> None:
    lock = (PROJECT_ROOT / "requirements.lock").read_text()
    dagster = re.search(r"^dagster==([0-9.]+)", lock, re.MULTILINE)
    assert dagster
    chart = (MANIFESTS / "dagster-values.yaml").read_text()
    assert f"--version {dagster[1]} " in chart
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    assert f'tag: "{project["version"]}"' in chart
