"""`python -m infra.grafana`: write the dashboards as Grafana reads them (`make grafana`)."""

from infra.grafana.files import DASHBOARDS, generated

if __name__ == "__main__":
    DASHBOARDS.mkdir(exist_ok=True)
    for name, content in generated().items():
        (DASHBOARDS / name).write_text(content)
