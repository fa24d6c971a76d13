"""A real Prometheus with the project's configuration, which scrapes a running platform's API."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from credit_risk_dagster.settings import PROJECT_ROOT
from infra.embedded.servers import HOST, Server, free_port

_FOLDER = PROJECT_ROOT / "infra" / "prometheus"


@contextmanager
def run_prometheus(binary: str, api_url: str, folder: Path) -> Iterator[str]:
    """Start it in an empty folder; gives its address.

    Its scrapes and rules come every two seconds, so that a short run has enough of them; there is
    no Alertmanager.
    """
    config = yaml.safe_load((_FOLDER / "prometheus.yml").read_text())
    config["global"] |= {
        "scrape_interval": "2s",
        "scrape_timeout": "2s",
        "evaluation_interval": "2s",
    }
    config["rule_files"] = [str(_FOLDER / name) for name in config["rule_files"]]
    del config["alerting"]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [urlsplit(api_url).netloc]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
    ]
    with Server("Prometheus", command, port, ready_path="/-/ready", log=folder / "log"):
        yield f"http://{HOST}:{port}"
