"""The two processes, as the kernel sees them, by the usual names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

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


def resolver_s_own() -> Iterable[Metric]:
    """Return those of this process, which is the resolver process."""
    return ProcessCollector(RESOLVER, registry=None).collect()
