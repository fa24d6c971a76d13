"""A real Prometheus with the project's configuration, which scrapes a running platform's API."""

from urllib.parse import urlsplit

import yaml

from credit_risk_dagster.settings import PROJECT_ROOT
from infra.embedded.servers import Server, free_port
from tests.platform.running import HOST, Platform

_FOLDER = PROJECT_ROOT / "infra" / "prometheus"
_EVERY = "3s"


def start_prometheus(binary: str, platform: Platform) -> Server:
    """Start it beside the platform, with which it ends, unless it runs there already.

    Its scrapes and rules come every few seconds, so that a short run has enough of them; there is
    no Alertmanager.
    """
    if running := platform.stack.servers.get("prometheus"):
        return running
    folder = platform.stack.state / "prometheus"
    folder.mkdir()
    config = yaml.safe_load((_FOLDER / "prometheus.yml").read_text())
    config["global"] |= dict.fromkeys(
        ("scrape_interval", "scrape_timeout", "evaluation_interval"), _EVERY
    )
    config["rule_files"] = [str(_FOLDER / name) for name in config["rule_files"]]
    del config["alerting"]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [urlsplit(platform.services.api_url).netloc]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
    ]
    return platform.stack.serve(
        "prometheus", command, port, ready_path="/-/ready", environment=platform.environment
    )
