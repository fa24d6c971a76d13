"""The dashboards' files: generated from the code."""

from pathlib import Path

DASHBOARDS = Path(__file__).parent / "dashboards"


def generated() -> dict[str, str]:
    """File name to content of every dashboard."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    from infra.grafana.pipeline_health import pipeline_health
    from infra.grafana.risk import risk

    built = [pipeline_health().build(), risk().build()]
    for dashboard in built:
        for number, panel in enumerate(dashboard.panels or [], 1):
            panel.id_val = number
    return {
        f"{dashboard.uid}.json": JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"
        for dashboard in built
    }
