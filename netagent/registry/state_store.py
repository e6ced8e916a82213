"""What this host knows now, and waiting for it to change.

Three things are known: the cluster's registry, which everybody sees alike in the end; the endpoints of this host, of
which others see only the records; and the paths from here that carry less than they should. Readers keep the revision
that they have acted on and ask for anything newer: a wake-up that is lost, doubled or late costs time, never a
change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import trio

from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, HostId
from netagent.registry.local_rows import LocalRows, local_rows
from netagent.registry.view import RegistryView


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known at one revision: for whoever acts in several steps, and must not mix two revisions up."""

    revision: int
    view: RegistryView
    rows: LocalRows
    limits: Mapping[HostId, int]


class StateStore:
    """The latest registry view and the latest local endpoints. Written on the trio thread, read by anybody there."""

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
        """This host's endpoints as the journal has them, in the order of their attaching; never changed in place."""
        return self._rows

    @property
    def limits(self) -> Mapping[HostId, int]:
        """The largest packet, in bytes, that the path to a host carries in one piece; only of paths that carry less
        than a network wants. Never changed in place."""
        return self._limits

    @property
    def fenced(self) -> Mapping[EndpointId, LocalEndpointRow]:
        """What is noted of endpoints that this host had when it was forgotten; nothing of them works."""
        return self._fenced

    @property
    def revision(self) -> int:
        """Grows with every change of any."""
        return self._revision

    @property
    def now(self) -> Snapshot:
        """All of it together."""
        return Snapshot(self._revision, self._view, self._rows, self._limits)

    def set_view(self, view: RegistryView) -> None:
        """Make `view` the latest."""
        if view is not self._view:
            self._view = view
            self._ring()

    def set_row(self, row: LocalEndpointRow) -> None:
        """An endpoint of this host is new or different."""
        self._rows = self._rows.with_row(row)
        self._ring()

    def drop_row(self, endpoint_id: EndpointId) -> None:
        """An endpoint of this host is gone."""
        if endpoint_id in self._rows:
            self._rows = self._rows.without_row(endpoint_id)
            self._ring()

    def note_change(self) -> None:
        """What readers make of the registry depends on something that has changed: they are to read it again."""
        self._ring()

    def set_limit(self, host_id: HostId, size_bytes: int | None) -> None:
        """The path to a host carries `size_bytes` at most; None: all that networks want."""
        if self._limits.get(host_id) != size_bytes:
            others = {known: size for known, size in self._limits.items() if known != host_id}
            self._limits = others if size_bytes is None else {**others, host_id: size_bytes}
            self._ring()

    def set_fenced(self, rows: Mapping[EndpointId, LocalEndpointRow]) -> None:
        """All that is noted so."""
        self._fenced = dict(rows)
        self._ring()

    def drop_fenced(self, endpoint_ids: Collection[EndpointId]) -> None:
        """Some are noted no longer."""
        self.set_fenced({known: row for known, row in self._fenced.items() if known not in endpoint_ids})

    async def wait_newer(self, revision: int) -> int:
        """The latest revision, as soon as it is above `revision` (at once when it is already)."""
        while self._revision <= revision:
            await self._changed.wait()
        return self._revision

    def _ring(self) -> None:
        self._revision += 1
        self._changed.set()
        self._changed = trio.Event()
