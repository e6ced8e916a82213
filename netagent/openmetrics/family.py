"""How a metric family is made, with the types of prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from netgossip.histogram import Histogram

K = TypeVar("K", bound=tuple[str, ...])
"""The values of the labels."""


def as_label(words: str) -> str:
    """Return words that people read in the form that labels have."""
    return words.replace(" ", "_").replace("-", "_")


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a value that rises and falls."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, labels: Iterable[str], values: Mapping[K, float]) -> Metric:
    """Return values that rise and fall, one per combination of labels."""
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """Return a count since the start of its process; its sample is called NAME_total."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, labels: Iterable[str], values: Mapping[K, float]) -> Metric:
    """Return counts since the start of their process, one per combination of labels."""
    family = CounterMetricFamily(name, text, labels=tuple(labels))
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def histograms(name: str, text: str, labels: Iterable[str], values: Mapping[K, Histogram]) -> Metric:
    """Return histograms, one per combination of labels."""
    family = HistogramMetricFamily(name, text, labels=tuple(labels))
    for key, value in values.items():
        buckets = [("+Inf" if bound == float("inf") else str(bound), n) for bound, n in value.cumulative()]
        family.add_metric(key, buckets, value.total)
    return family
