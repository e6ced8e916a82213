"""The two processes, as the kernel sees them, by the usual names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

RESOLVER: Final = "netagent_resolver"
"""Before `_process_…` in the names of the resolver process's; the agent's have nothing before it."""


class Processes:
    """Reads /proc of the agent and of the resolver process."""

    def __init__(self) -> None:
        self._resolver_id = 0
        self._own = ProcessCollector(registry=None)
        self._resolver = ProcessCollector(RESOLVER, lambda: self._resolver_id, registry=None)

    def families(self, resolver_id: int | None) -> Iterator[Iterable[Metric]]:
        """Yield the families, a process at a time."""
        yield self._own.collect()
        if resolver_id is not None:
            self._resolver_id = resolver_id
            yield self._resolver.collect()


def read_usage(process_id: int) -> bytes:
    """Read those of the resolver process for itself, which can read no file."""
    found = ProcessCollector(RESOLVER, lambda: process_id, registry=None).collect()
    return json.dumps(
        [[one.name, one.documentation, one.type, one.samples[0].value] for one in found]
    ).encode()


def families_of_usage(usage: bytes) -> Iterable[Metric]:
    """Return the families that `read_usage` has read."""
    for name, documentation, kind, value in json.loads(usage):
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        yield family(name, documentation, value=value)
