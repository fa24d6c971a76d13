"""The API: `create_app` makes it from the settings, `credit-risk api` serves it."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, nullcontext
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import REGISTRY, CollectorRegistry

from credit_risk_dagster.api import (
    cases,
    decisions,
    operations,
    outcomes,
    policies,
    problems,
    reports,
)
from credit_risk_dagster.api.guards import Admission
from credit_risk_dagster.api.health import PATIENCE_SECONDS, Health
from credit_risk_dagster.api.metrics.collector import PlatformCollector
from credit_risk_dagster.api.question import Question
from credit_risk_dagster.api.requests import RequestLog
from credit_risk_dagster.domain.arms import Split
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.pipelines.experiments import running
from credit_risk_dagster.pipelines.policies import deciding
from credit_risk_dagster.settings import Settings
from resources.kafka.publisher import Publisher
from resources.lake import Lake
from resources.postgres.applications import Applications
from resources.postgres.connection import WarehouseReader
from resources.postgres.models import ModelStore

_CONNECTIONS = 8

DESCRIPTION = """\
Submit loan applications to the stream, score them on the spot, read what was decided, and tell how
the loans went. Policies are submitted, approved and activated by clients, each by its key.

Every error is a problem (RFC 9457), and every answer has an `X-Request-ID`, which is in the log.
"""


# What is activated is used by the stream within so long.
FRESH_SECONDS = 5.0


def create_app(settings: Settings | None = None, registry: CollectorRegistry = REGISTRY) -> FastAPI:
    """The application.

    Args:
        settings: where the servers are, and the limits; read from the environment by default.
        registry: what `/metrics` shows.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            warehouse = WarehouseReader(settings.warehouse, _CONNECTIONS, PATIENCE_SECONDS)
            app.state.warehouse = warehouse
            app.state.lake = Lake(settings.lake.impatient())
            app.state.applications = Applications(stack.enter_context(warehouse))

            def active() -> tuple[Policy, PdModel | None, Split | None]:
                with warehouse.session() as connection:
                    policy = deciding(connection, settings.policy).policy
                    split = running(connection).split
                    return policy, ModelStore(connection).scorer(), split

            app.state.deciders = Question(
                "the active policy and model",
                lambda: nullcontext(active),
                timeout=1.0,
                fresh_for=FRESH_SECONDS,
            )
            stack.callback(app.state.deciders.close)
            app.state.publisher = Publisher(settings.kafka, settings.api.max_in_flight)
            stack.callback(app.state.publisher.close)
            app.state.health = Health(settings, warehouse)
            stack.callback(app.state.health.close)
            collector = PlatformCollector(settings)
            stack.callback(collector.close)
            registry.register(collector)
            stack.callback(registry.unregister, collector)
            app.state.admission = Admission(settings.api)
            yield

    app = FastAPIOffline(
        redoc_url=None,
        title="Credit risk",
        summary="Loan applications: submit, score, decisions, watchlist, outcomes",
        description=DESCRIPTION,
        version=version("credit-risk-platform"),
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.registry = registry
    app.state.policy = settings.policy
    problems.install(app)
    app.add_middleware(RequestLog)
    for routes in (decisions, cases, outcomes, policies, operations, reports):
        app.include_router(routes.router)
    return app
