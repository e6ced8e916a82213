"""What the resolver process counts. The process counts on while the agent is away, and for as long as it lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import Metric

from netagent.metrics.family import counter, gauge

_RCODES: Final = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED",
}  # fmt: skip


def dns_families(counts: Mapping[str, int]) -> Iterator[Metric]:
    """Yield the metrics of names, from the counters of the resolver process."""
    yield counter("netagent_dns_queries", "Queries that were understood.", counts.get("queries", 0))
    yield gauge("netagent_dns_sandboxes", "Containers that are answered.", counts.get("sandboxes", 0))
    yield gauge("netagent_dns_rows", "Rows in the resolver's table.", counts.get("rows", 0))
