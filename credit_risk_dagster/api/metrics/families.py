"""Prometheus' families, with the platform's prefix."""

from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

PREFIX = "credit_risk_"

Labels = dict[str, str]
Value = tuple[Labels, float | None]


def gauge(name: str, text: str, values: Sequence[Value]) -> Metric:
    """A gauge; a value of None is left out."""
    return _filled(GaugeMetricFamily(PREFIX + name, text, labels=_names(values)), values)


def counter(name: str, text: str, values: Sequence[Value]) -> Metric:
    """A counter, without the `_total` of its name."""
    return _filled(CounterMetricFamily(PREFIX + name, text, labels=_names(values)), values)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Sequence[Value]
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in values:
        if value is not None:
            family.add_metric(list(labels.values()), float(value))
    return family


def _names(values: Sequence[Value]) -> list[str]:
    return list(values[0][0]) if values else []


def histogram(
    name: str,
    text: str,
    bounds: Sequence[float],
    values: Sequence[tuple[Labels, Sequence[int], float]],
) -> Metric:
    """A histogram of counts by bucket, one more than there are bounds."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=list(values[0][0]))
    edges = [*(str(float(bound)) for bound in bounds), "+Inf"]
    for labels, counts, total in values:
        cumulative = [float(count) for count in accumulate(counts)]
        family.add_metric(
            list(labels.values()), list(zip(edges, cumulative, strict=True)), sum_value=total
        )
    return family
