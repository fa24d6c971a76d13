"""The benchmark as pictures, for the metadata of a materialization."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from credit_risk_dagster.domain.model.benchmark import RULES, Benchmark, Subject
from credit_risk_dagster.domain.model.training import Effect

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = {
    RULES: "#d55e00",
    "logistic": "#0072b2",
    "gradient_boosting": "#009e73",
    "scorecard": "#cc79a7",
}
_GREY = "#666666"


def roc(found: Benchmark) -> str:
    """ROC curves of all subjects, as Markdown; so are the others."""
    figure, axes = _axes("False positive rate", "True positive rate", "ROC, out of fold")
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    for subject in found.subjects:
        x, y = subject.evaluation.curves["roc"]
        e = subject.evaluation
        interval = f"{e.auc:.3f} ({e.auc_low:.3f} to {e.auc_high:.3f})"
        axes.plot(x, y, color=COLOURS[subject.name], label=f"{_name(subject)}, AUC {interval}")
    axes.legend(loc="lower right", frameon=False)
    return _markdown(figure, "ROC curves")


def gains(found: Benchmark) -> str:
    """Share of the bad loans among the riskiest loans."""
    figure, axes = _axes("Share of loans, the riskiest first", "Share of bad loans", "Gains")
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
    for subject in found.subjects:
        axes.plot(
            *subject.evaluation.curves["gains"], color=COLOURS[subject.name], label=_name(subject)
        )
    axes.legend(loc="lower right", frameon=False)
    return _markdown(figure, "Gains")


def calibration(found: Benchmark) -> str:
    """Bad rate against mean PD by tenths of the PD, with the intervals of the baseline's."""
    figure, axes = _axes("Mean PD", "Bad rate", "Calibration by tenths of the PD")
    highest = 0.0
    for at, subject in enumerate(_models(found)):
        calibrated = subject.evaluation.calibration
        assert calibrated is not None  # noqa: S101 (a model's is there)
        x, y = subject.evaluation.curves["calibration"]
        slope = f"{_name(subject)}, slope {calibrated['slope']:.2f}"
        axes.plot(x, y, "o-", color=COLOURS[subject.name], markersize=4, label=slope)
        if at == 0:
            low, high = (
                np.array([row[end] for row in calibrated["bins"]]) for end in ("low", "high")
            )
            axes.vlines(x, low, high, color=COLOURS[subject.name], alpha=0.4)
        highest = max(highest, float(x.max()), float(y.max()))
    axes.plot([0, highest], [0, highest], color=_GREY, linestyle=":", linewidth=1)
    axes.legend(loc="upper left", frameon=False)
    return _markdown(figure, "Calibration")


def scores(found: Benchmark) -> str:
    """The baseline's PD of good and of bad loans."""
    subject = _models(found)[0]
    figure, axes = _axes("PD", "Density", f"PD by outcome, {_name(subject)}")
    for curve, colour, label in (
        ("scores_good", COLOURS["logistic"], "good loans"),
        ("scores_bad", COLOURS[RULES], "bad loans"),
    ):
        x, y = subject.evaluation.curves[curve]
        axes.fill_between(x, y, step="mid", color=colour, alpha=0.35, label=label)
    axes.legend(frameon=False)
    return _markdown(figure, "PD by outcome")


def forest(effects: Sequence[Effect]) -> str:
    """The baseline's coefficients: odds ratios with intervals."""
    figure = Figure(figsize=(6.4, 1.6 + 0.28 * len(effects)), layout="constrained")
    axes = figure.subplots()
    heights = np.arange(len(effects))[::-1]
    axes.axvline(1, color=_GREY, linestyle=":", linewidth=1)
    axes.hlines(heights, [e.low for e in effects], [e.high for e in effects], color=_GREY)
    axes.plot(
        [e.odds_ratio for e in effects], heights, "o", color=COLOURS["logistic"], markersize=5
    )
    axes.set_yticks(heights, [e.name for e in effects])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_ylim(-0.7, len(effects) - 0.3)
    axes.set_xlabel("Odds ratio, 95 % interval\n(numbers: for one standard deviation more)")
    axes.set_title("Coefficients of the logistic regression", loc="left")
    _plain(axes)
    return _markdown(figure, "Coefficients")


def _models(found: Benchmark) -> list[Subject]:
    return [subject for subject in found.subjects if subject.name != RULES]


def _name(subject: Subject) -> str:
    return subject.name.replace("_", " ")


def _axes(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left")
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)


def _markdown(figure: Figure, alternative: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(file.getvalue()).decode()})"
