"""The text of all metrics, in OpenMetrics.

It is made in slices, a few families in each, so a scrape delays nothing else for longer than any other long work
(docs/design/0031). One text is made at a time, and a client that asks while it is made gets the same one, for
KEPT_S longer: however many clients ask, a process works for one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeAlias

import trio
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.openmetrics.exposition import generate_latest

from netgossip.slice_runner import in_slices
from netgossip.slices import Slices

__all__ = ["CONTENT_TYPE", "KEPT_S", "Pieces", "SharedText", "rendered"]

KEPT_S: Final = 0.5
"""How long a text answers further requests. Shorter than any scrape interval."""

Pieces: TypeAlias = Iterator[Iterable[Metric]]
"""All families, a few at a time: other tasks run between two pieces."""

_END: Final = b"# EOF\n"


class SharedText:
    """Makes the text, one at a time. `pieces` is called for each."""

    def __init__(self, pieces: Callable[[], Awaitable[Pieces]]) -> None:
        self._pieces = pieces
        self._making = trio.Lock()
        self._text = b""
        self._made_at = float("-inf")

    async def get(self) -> bytes:
        """Return the metrics as of now, or as of KEPT_S ago."""
        async with self._making:
            if trio.current_time() - self._made_at > KEPT_S:
                self._text = await in_slices(rendered(await self._pieces()))
                self._made_at = trio.current_time()
            return self._text


class _Families:
    """What prometheus_client takes for a registry: it reads nothing else of one."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def rendered(pieces: Pieces) -> Slices[bytes]:
    """Return the text of all families, made piece by piece."""
    text = []
    for piece in pieces:
        part: bytes = generate_latest(_Families(piece))  # type: ignore[no-untyped-call]
        text.append(part.removesuffix(_END))
        yield
    return b"".join([*text, _END])
