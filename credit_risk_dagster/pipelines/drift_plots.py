"""Pictures of a drift report for Dagster's UI: PNG, as Markdown that carries them inline."""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from credit_risk_dagster.domain.drift.baseline import Reference, bin_labels
from credit_risk_dagster.domain.drift.comparison import FeatureDrift

if TYPE_CHECKING:
    from credit_risk_dagster.pipelines.drift import DriftReport

_COLOURS = {
    "stable": "#4c78a8",
    "moderate": "#d98e04",
    "significant": "#b3261e",
    "too_few_rows": "#9aa0a6",
}
_REFERENCE = "#b8bec6"
_PANELS = 4


def psi_bars(report: "DriftReport") -> str:
    """PSI by feature, with the thresholds and what chance explains at this size."""
    found = sorted(report.drift.features, key=lambda feature: feature.psi or 0)
    figure = Figure(figsize=(8, 0.32 * len(found) + 1), dpi=90, layout="constrained")
    axes = figure.subplots()
    values = [feature.psi or 0 for feature in found]
    positions = np.arange(len(found))
    axes.barh(positions, values, color=[_COLOURS[feature.verdict] for feature in found])
    axes.scatter(
        [feature.psi_limit or 0 for feature in found],
        positions,
        marker="|",
        s=120,
        color="black",
        label="chance: 1 in 1,000",
        zorder=3,
    )
    for threshold, name in (
        (report.thresholds.moderate, "moderate"),
        (report.thresholds.significant, "significant"),
    ):
        axes.axvline(threshold, color=_COLOURS[name], linestyle="--", linewidth=1, label=name)
    axes.set_yticks(positions, [feature.feature for feature in found])
    axes.set_xlabel(f"PSI of {report.window.rows:,} applications")
    axes.set_xlim(0, max(1.3 * report.thresholds.significant, 1.05 * max(values, default=0)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return _markdown(figure, "PSI by feature")


def distributions(report: "DriftReport") -> str:
    """Shares by bin, baseline against window, of the features with the highest PSI."""
    references = {reference.feature: reference for reference in report.baseline.references}
    worst = sorted(report.drift.features, key=lambda feature: -(feature.psi or 0))[:_PANELS]
    figure = Figure(figsize=(9, 6), dpi=90, layout="constrained")
    for axes, feature in zip(figure.subplots(2, 2).flat, worst, strict=True):
        _panel(axes, references[feature.feature], feature)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=2,
        frameon=False,
    )
    return _markdown(figure, "baseline and window by bin")


def _panel(axes: Axes, reference: Reference, feature: FeatureDrift) -> None:
    labels = bin_labels(reference)
    shown = [at for at, _ in enumerate(labels) if reference.shares[at] or feature.shares[at]]
    positions = np.arange(len(shown))
    for offset, shares, colour, name in (
        (-0.2, reference.shares, _REFERENCE, "baseline"),
        (0.2, feature.shares, _COLOURS["stable"], "window"),
    ):
        axes.bar(positions + offset, 100 * shares[shown], 0.4, color=colour, label=name)
    axes.set_xticks(positions, _short([labels[at] for at in shown]), rotation=60, ha="right")
    axes.tick_params(labelsize=7)
    psi = "none" if feature.psi is None else f"{feature.psi:.3f}"
    verdict = feature.verdict.replace("_", " ")
    axes.set_title(f"{feature.feature}: PSI {psi}, {verdict}", fontsize=10)
    axes.set_ylabel("% of rows", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _short(labels: Sequence[str]) -> list[str]:
    return [label if len(label) <= 20 else label[:19] + "…" for label in labels]


def _markdown(figure: Figure, alt: str) -> str:
    drawn, png = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png")
    # The materialization keeps it for ever: 64 colours take a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(64).save(png, format="png", optimize=True)
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png.getvalue()).decode()})"
