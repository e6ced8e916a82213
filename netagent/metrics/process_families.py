"""The two processes, as the kernel sees them, by the usual names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric


class Processes:
    """Reads /proc: of the agent as `process_…`, of the resolver process as `netagent_resolver_process_…`."""

    def __init__(self) -> None:
        self._resolver_id = 0
        self._own = ProcessCollector(registry=None)
        self._resolver = ProcessCollector("netagent_resolver", lambda: self._resolver_id, registry=None)

    def families(self, resolver_id: int | None) -> Iterator[Iterable[Metric]]:
        """Yield the families, a process at a time."""
        yield self._own.collect()
        if resolver_id is not None:
            self._resolver_id = resolver_id
            yield self._resolver.collect()
