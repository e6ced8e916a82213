"""StateStore: what this host knows now, and waiting for changes.

It holds three things: the cluster's registry, which all hosts see alike in the end; the endpoints of this host, of
which others see only the records; and the paths from here that carry less than they should. A reader keeps the
revision that it has acted on and waits for a newer one: a wake-up that is lost, doubled or late costs time, never a
change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import trio

from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, HostId
from netagent.registry.local_rows import LocalRows, local_rows
from netagent.registry.view import RegistryView


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known at one revision: for readers that act in several steps, and must not mix two revisions."""

    revision: int
    view: RegistryView
    rows: LocalRows
    limits: Mapping[HostId, int]


class StateStore:
    """The latest registry view and the latest local endpoints. Written and read on the trio thread only."""

    def __init__(
        self,
        view: RegistryView,
        rows: Mapping[EndpointId, LocalEndpointRow],
        fenced: Mapping[EndpointId, LocalEndpointRow] | None = None,
        limits: Mapping[HostId, int] | None = None,
    ) -> None:
        self._view = view
        self._rows = local_rows(rows)
        self._limits: Mapping[HostId, int] = limits or {}
        self._fenced = fenced or {}
        self._revision = 1
        self._changed = trio.Event()

    @property
    def view(self) -> RegistryView:
        """The latest registry; immutable."""
        return self._view

    @property
    def rows(self) -> LocalRows:
        """This host's endpoints as in the journal, in the order of their attaching; never changed in place."""
        return self._rows

    @property
    def limits(self) -> Mapping[HostId, int]:
        """The largest packet, in bytes, that the path to a host carries in one piece; only for paths that carry less
        than a network wants. Never changed in place."""
        return self._limits

    @property
    def fenced(self) -> Mapping[EndpointId, LocalEndpointRow]:
        """The endpoints that this host had when it was evicted, as noted; none of them works."""
        return self._fenced

    @property
    def revision(self) -> int:
        """Grows with every change of any part."""
        return self._revision

    @property
    def now(self) -> Snapshot:
        """All parts together."""
        return Snapshot(self._revision, self._view, self._rows, self._limits)

    def update_view(self, change: Callable[[RegistryView], RegistryView]) -> None:
        """Make the view that `change` returns, given the latest one, the latest. The only way to replace the view.

        `change` may not await: nothing that another task adds meanwhile can be lost.
        """
        view = change(self._view)
        if view is not self._view:
            self._view = view
            self._ring()

    def set_row(self, row: LocalEndpointRow) -> None:
        """Add or replace an endpoint of this host."""
        self._rows = self._rows.with_row(row)
        self._ring()

    def drop_row(self, endpoint_id: EndpointId) -> None:
        """Remove an endpoint of this host."""
        if endpoint_id in self._rows:
            self._rows = self._rows.without_row(endpoint_id)
            self._ring()

    def note_change(self) -> None:
        """Make readers read the registry again, because something else that they depend on has changed."""
        self._ring()

    def set_limit(self, host_id: HostId, size_bytes: int | None) -> None:
        """Set the bytes that the path to a host carries at most; None: all that networks want."""
        if self._limits.get(host_id) != size_bytes:
            others = {known: size for known, size in self._limits.items() if known != host_id}
            self._limits = others if size_bytes is None else {**others, host_id: size_bytes}
            self._ring()

    def set_fenced(self, rows: Mapping[EndpointId, LocalEndpointRow]) -> None:
        """Set all fenced endpoints."""
        self._fenced = dict(rows)
        self._ring()

    def drop_fenced(self, endpoint_ids: Collection[EndpointId]) -> None:
        """Remove some fenced endpoints."""
        self.set_fenced({known: row for known, row in self._fenced.items() if known not in endpoint_ids})

    async def wait_newer(self, revision: int) -> int:
        """Wait until the revision is above `revision` (return at once when it is already), and return it."""
        while self._revision <= revision:
            await self._changed.wait()
        return self._revision

    def _ring(self) -> None:
        self._revision += 1
        self._changed.set()
        self._changed = trio.Event()
