"""What the resolver process says by itself, while the agent is away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric

from netagent.openmetrics.dns_families import dns_families
from netagent.openmetrics.family import gauge
from netagent.openmetrics.process_families import families_of_usage


def agent_up(is_up: bool) -> Metric:  # noqa: FBT001  (a value, not a switch)
    """Return whether the agent runs."""
    return gauge(
        "netagent_agent_up", "1 if the agent runs; 0 while the resolver process answers in its place.", is_up
    )


def away_families(counts: Mapping[str, int], away_s: float, usage: bytes) -> Iterator[Iterable[Metric]]:
    """Yield the metrics of the resolver process. `away_s`: since when no agent is connected; `usage`: what the kernel
    says of the process."""
    yield [
        agent_up(False),
        gauge("netagent_agent_away_seconds", "For how long the agent has been away.", away_s),
    ]
    for family in dns_families(counts):
        yield [family]
    yield families_of_usage(usage)
