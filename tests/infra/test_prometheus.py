"""Prometheus' and Alertmanager's configuration, checked by their own tools."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from credit_risk_dagster.settings import PROJECT_ROOT
from tests.platform.tools import program

FOLDER = PROJECT_ROOT / "infra" / "prometheus"
CASES = sorted((FOLDER / "tests").glob("*.yml"))
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule["alert"] for rule in RULES]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def promtool() -> str:
    return program("promtool", "prometheus")


def amtool() -> str:
    return program("amtool", "prometheus-alertmanager")


def test_the_configuration_and_its_rules_are_valid() -> None:
    run(promtool(), "check", "config", "--lint=all", "--lint-fatal", FOLDER / "prometheus.yml")


@pytest.mark.slow
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent_when_they_should(cases: Path) -> None:
    run(promtool(), "test", "rules", cases)


@cache
def _tested() -> list[dict[str, Any]]:
    return [
        case["alert_rule_test"][0]
        for path in CASES
        for case in yaml.safe_load(path.read_text())["tests"]
    ]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_both_cases(alert: str) -> None:
    outcomes = {bool(test["exp_alerts"]) for test in _tested() if test["alertname"] == alert}
    assert outcomes == {True, False}


@pytest.mark.parametrize("rule", RULES, ids=ALERTS)
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    base, anchor = annotations["runbook_url"].split("#")
    assert base == "{{ $externalLabels.runbook }}"  # an absolute address, of whoever runs it
    # As GitHub makes anchors of headings.
    runbook = (PROJECT_ROOT / "docs" / "runbook.md").read_text()
    headings = re.findall(r"^## (.+)$", runbook, re.MULTILINE)
    assert anchor in [re.sub(r"[^a-z0-9]+", "-", heading.lower()) for heading in headings]


def test_alerts_are_routed_by_severity() -> None:
    config = FOLDER / "alertmanager.yml"
    run(amtool(), "check-config", config)
    for severity, receiver in (("critical", "pager"), ("warning", "chat"), ("other", "chat")):
        command = ("config", "routes", "test", f"--config.file={config}", f"severity={severity}")
        assert run(amtool(), *command).strip() == receiver


def test_inhibitions_name_alerts_that_exist() -> None:
    rules = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]
    for rule in rules:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            if not matcher.startswith("alertname"):
                continue
            pattern = re.sub(r'^alertname =~? ?"?|"$', "", matcher)
            assert any(re.fullmatch(pattern, alert) for alert in ALERTS), matcher
