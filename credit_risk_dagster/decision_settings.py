"""Settings of what a decision leads to: that it is made once, who looks at it, and what all
together may be."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from credit_risk_dagster.base_settings import Cron, GroupOfSettings
from credit_risk_dagster.domain.repeats import Deduplicate

DEFAULT_LIMITS = Path(__file__).parent / "domain" / "limits.yaml"


class DecisionSettings(GroupOfSettings):
    """Those of `DrainSettings` that are about what comes of decisions."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_RISK_")

    deduplicate: Deduplicate = Field(
        "key",
        description="an application that was sent again is decided once: by its Idempotency-Key "
        "(key), and without one by loan and bytes (content), or not at all (off)",
    )
    deduplicate_days: float = Field(
        7, gt=0, le=366, description="for how many days an application that came is remembered"
    )
    deduplicate_events: int = Field(
        2_000_000, ge=1, description="most events that are, the newest; a run has 50 bytes each"
    )
    case_sla_hours: float = Field(
        72, gt=0, le=8_784, description="hours until a case of the Watchlist is due"
    )
    review_cron: Cron = Field("0 6 * * 1", description="when a run reports reviews (cron, UTC)")

    limits_file: Path = Field(
        DEFAULT_LIMITS, description="appetite and concentration limits (YAML)"
    )

    @property
    def case_within(self) -> timedelta:
        """For how long a case may be open."""
        return timedelta(hours=self.case_sla_hours)
