"""The text of all metrics, made for one request at a time.

It is made in slices, a few families in each, so a scrape delays nothing else for longer than any other long
work (docs/design/0031). One scrape is made at a time, and whoever asks while it is made gets the same text, for
KEPT_S longer: however many strangers ask, the agent works for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import trio
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.openmetrics.exposition import generate_latest

from netagent.daemon.agent import Agent
from netagent.metrics.collect import Collection
from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

KEPT_S: Final = 0.5
"""How long a text answers further requests. Shorter than any scrape interval."""
STATISTICS_S: Final = 0.5
"""How long a scrape waits for the counters of the resolver process; later: the last known ones."""

_END: Final = b"# EOF\n"


__all__ = ["CONTENT_TYPE", "Scrapes", "rendered"]


class Scrapes:
    """Makes the text, one at a time."""

    def __init__(self, agent: Agent) -> None:
        self._collection = Collection(agent)
        self._making = trio.Lock()
        self._text = b""
        self._made_at = float("-inf")

    async def text(self) -> bytes:
        """Return the metrics as of now, or as of KEPT_S ago."""
        async with self._making:
            if trio.current_time() - self._made_at > KEPT_S:
                dns: Mapping[str, int] = {}
                with trio.move_on_after(STATISTICS_S):
                    dns = await self._collection.resolver_counts()
                self._text = await in_slices(rendered(self._collection.families(dns)))
                self._made_at = trio.current_time()
            return self._text


class _Families:
    """What prometheus_client takes for a registry: it reads nothing else of one."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def rendered(pieces: Iterator[Iterable[Metric]]) -> Slices[bytes]:
    """Return the text of all families, made piece by piece."""
    text = []
    for piece in pieces:
        part: bytes = generate_latest(_Families(piece))  # type: ignore[no-untyped-call]
        text.append(part.removesuffix(_END))
        yield
    return b"".join([*text, _END])
