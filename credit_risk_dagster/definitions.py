"""The Dagster code location: everything that Dagster knows of the platform."""

import dagster as dg

from assets_src.scoring import loan_applications, score_applications, score_stream
from resources.configurable import BrokerResource, WarehouseResource
from sensors.offsets import loan_applications_offsets

defs = dg.Definitions(
    assets=[loan_applications, score_stream],
    jobs=[score_applications],
    sensors=[loan_applications_offsets],
    resources={"broker": BrokerResource(), "warehouse": WarehouseResource()},
)
