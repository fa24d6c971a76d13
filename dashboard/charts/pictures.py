"""The charts as pictures, for the metadata of a materialization: Markdown that carries them."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from json import loads
from typing import TYPE_CHECKING, Any

import pandas as pd

from credit_risk_dagster.domain.drift.baseline import bin_labels
from credit_risk_dagster.domain.drift.comparison import FeatureDrift
from credit_risk_dagster.domain.model.additive import Effect
from credit_risk_dagster.domain.model.benchmark import BASELINE, Benchmark
from credit_risk_dagster.domain.words import counted
from dashboard.charts import drift, model, theme
from dashboard.charts.vocabulary import DATASET, Spec
from dashboard.parts import formats

if TYPE_CHECKING:
    from credit_risk_dagster.pipelines.drift import DriftReport

_THEME = "light"  # Dagster's UI has both; a picture is on white
_WIDTH, _HEIGHT = 460, 320
_PANELS = 4


def benchmark(found: Benchmark) -> dict[str, str]:
    """ROC, gains, calibration and PD by outcome, by their names."""
    names = tuple(model.SUBJECTS[subject.name] for subject in found.subjects)
    curves = pd.concat(
        pd.DataFrame({"x": x, "y": y}).assign(
            subject=subject.name, curve=curve, point=range(len(x))
        )
        for subject in found.subjects
        for curve, (x, y) in subject.evaluation.curves.items()
    )
    tenths = model.tenths(
        {s.name: s.evaluation.calibration for s in found.subjects if s.evaluation.calibration}
    )
    baseline = model.SUBJECTS[BASELINE].lower()
    return {
        **{
            name: _markdown(
                f"{model.CURVES[name][0]}, out of fold",
                model.curve(name, names),
                model.curve_rows(curves, name),
            )
            for name in model.CURVES
        },
        "calibration": _markdown(
            "Calibration by tenths of the PD",
            model.calibration(tuple(tenths["subject"].unique())),
            tenths,
        ),
        "scores": _markdown(
            f"PD by outcome, {baseline}", model.scores(), model.densities(curves, BASELINE)
        ),
    }


def effects(found: Sequence[Effect]) -> str:
    """The coefficients of the logistic regression."""
    rows = model.effect_rows([asdict(effect) for effect in found])
    return _markdown(
        "Coefficients of the logistic regression", model.effects(), rows, height={"step": 20}
    )


def drift_of_features(report: "DriftReport") -> str:
    """PSI by feature, with the thresholds and what chance explains at this size."""
    thresholds = report.thresholds
    rows = pd.DataFrame(
        {
            "label": formats.feature(feature.feature),
            "psi": feature.psi,
            "text": formats.psi(feature.psi),
            "limit": feature.psi_limit,
            "verdict": drift.VERDICT_WORDS[feature.verdict],
        }
        for feature in _worst_first(report)
    )
    return _markdown(
        f"PSI of {counted(report.window.rows, 'decision')}",
        drift.features(thresholds.moderate, thresholds.significant, _THEME),
        rows,
        height={"step": 20},
    )


def distributions(report: "DriftReport") -> str:
    """Shares by bin, baseline against window, of the features with the highest PSI."""
    references = {reference.feature: reference for reference in report.baseline.references}
    drawn = []
    for feature in _worst_first(report)[:_PANELS]:
        reference = references[feature.feature]
        labels = bin_labels(reference.kind, reference.edges, reference.categories)
        title = f"{formats.feature(feature.feature)}: PSI {formats.psi(feature.psi)}"
        rows = drift.bins(labels, reference.shares, feature.shares)
        drawn.append(_markdown(title, drift.distribution(), rows, height={"step": 7}))
    return "\n\n".join(drawn)


def _worst_first(report: "DriftReport") -> list[FeatureDrift]:
    return sorted(report.drift.features, key=lambda feature: -(feature.psi or 0))


def _markdown(title: str, spec: Spec, rows: pd.DataFrame, height: Any = _HEIGHT) -> str:
    drawn = b64encode(svg(spec | {"title": title, "height": height}, rows).encode()).decode()
    return f"![{title}](data:image/svg+xml;base64,{drawn})"


def svg(spec: Spec, rows: pd.DataFrame) -> str:
    """Draw a chart of its rows."""
    # A JavaScript engine of 84 MB, for those who draw.
    from vl_convert import vegalite_to_svg

    text = theme.CHART_TEXT[_THEME]
    return vegalite_to_svg(
        {"width": _WIDTH}
        | spec
        | {
            "datasets": {DATASET: loads(rows.to_json(orient="records", date_format="iso"))},
            "config": theme.config(_THEME)
            | {"background": "white", "aria": False, "title": {"color": text}},
            "padding": 8,
        }
    )
