"""The charts of a policy against another one."""

import altair as alt

from credit_risk_dagster.domain.policy import TIERS
from dashboard.charts.theme import NEUTRAL, TIER_COLOURS
from dashboard.charts.vocabulary import (
    WORST_FIRST,
    bar_text,
    chart,
    legend,
    percent,
    rows,
    tier_colour,
    tips,
)

ACTIVE, CANDIDATE = "Active", "Candidate"
MOVES = ("Safer", "Stays", "Riskier")


@chart
def tiers() -> alt.LayerChart:
    """Share of each tier under both policies; rows have `policy`, `tier`, `applications`, `share`
    and `text`."""
    base = rows().encode(
        x=alt.X(
            "share:Q",
            title="Share of applications",
            axis=percent(values=[0, 0.25, 0.5, 0.75, 1]),
            scale=alt.Scale(domain=[0, 1.4]),  # room for the labels
        ),
        y=alt.Y("tier:N", title="Risk tier", sort=list(WORST_FIRST)),
        yOffset=alt.YOffset("policy:N", sort=[ACTIVE, CANDIDATE]),
        tooltip=tips(
            ("policy:N", "Policy"),
            ("tier:N", "Tier"),
            ("applications:Q", "Applications", ","),
            ("share:Q", "Share", ".2%"),
        ),
    )
    faded = alt.Scale(domain=[ACTIVE, CANDIDATE], range=[0.5, 1])
    bars = base.mark_bar().encode(
        color=tier_colour(legend=None), opacity=alt.Opacity("policy:N", scale=faded, legend=None)
    )
    return bars + bar_text(base, "share:Q")


@chart
def moves() -> alt.LayerChart:
    """Applications by tier under both policies; rows have `active`, `candidate`, `move`,
    `applications` and `amount`."""
    base = rows().encode(
        x=alt.X(
            "candidate:N",
            title="Tier under the candidate",
            sort=list(TIERS),
            axis=alt.Axis(labelAngle=0),
        ),
        y=alt.Y("active:N", title="Tier under the active policy", sort=list(WORST_FIRST)),
        tooltip=tips(
            ("active:N", "Active"),
            ("candidate:N", "Candidate"),
            ("applications:Q", "Applications", ","),
            ("amount:Q", "Amount applied for, USD", ",.0f"),
        ),
    )
    colours = [TIER_COLOURS[TIERS[0]], NEUTRAL, TIER_COLOURS[TIERS[-1]]]
    cells = base.mark_rect(opacity=0.35, cornerRadius=3).encode(
        color=alt.Color(
            "move:N", scale=alt.Scale(domain=list(MOVES), range=colours), legend=legend()
        )
    )
    labels = base.mark_text(fontSize=14).encode(text=alt.Text("applications:Q", format=","))
    return cells + labels
