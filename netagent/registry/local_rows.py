"""This host's endpoints as one immutable value, with indexes. Pure.

A host may have thousands, and each attach and detach changes one. So a change makes a new value that shares nearly
all of the previous one; a reader that derived something from that one learns from `touched_since` where to look
(netagent.registry.changelog); and the endpoints of a sandbox, a network, an origin or a name are found without a walk
through all. A walk through all is in the order of attaching, and costs a sort.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from immutables import Map

from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.sandbox import Netns, NetnsIdentity
from netagent.registry.changelog import ChangedKeys, Changelog, ChangelogStep, extended, touched_between

_Order: TypeAlias = tuple[int, EndpointId]


class LocalRows(Mapping[EndpointId, LocalEndpointRow]):
    """Endpoint rows by id, in the order of their attaching. A mapping that never changes."""

    __slots__ = ("_changelog", "_inhabited", "_sorted", "_tables")
    __hash__ = object.__hash__

    def __init__(
        self,
        rows: Iterable[LocalEndpointRow] = (),
        *,
        tables: _Tables | None = None,
        changelog: Changelog = (),
        inhabited: frozenset[NetworkId] = frozenset(),
    ) -> None:
        self._tables = _Tables() if tables is None else tables
        for row in rows:
            self._tables.put(row)
        self._changelog = changelog or (ChangelogStep(),)
        now = frozenset(self._tables.networks)
        self._inhabited = inhabited if now == inhabited else now
        self._sorted: tuple[EndpointId, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Mapping) and dict(self) == dict(other))

    # -- as a mapping ------------------------------------------------------------------------------------------

    def __getitem__(self, endpoint_id: EndpointId) -> LocalEndpointRow:
        return self._tables.rows[endpoint_id]

    def __contains__(self, endpoint_id: object) -> bool:
        return endpoint_id in self._tables.rows

    def __len__(self) -> int:
        return len(self._tables.rows)

    def __iter__(self) -> Iterator[EndpointId]:
        if self._sorted is None:
            self._sorted = tuple(sorted(self._tables.rows, key=self._tables.orders.__getitem__))
        return iter(self._sorted)

    def listed(self) -> tuple[LocalEndpointRow, ...]:
        """All rows at once, in the order of `values`."""
        return tuple(map(self._tables.rows.__getitem__, self))

    # -- looked up ---------------------------------------------------------------------------------------------

    def in_namespace(self, identity: NetnsIdentity | None) -> list[LocalEndpointRow]:
        """The rows in this namespace, in the order of attaching; none for None."""
        return self._found(("namespace", identity))

    def in_sandbox(self, netns: Netns) -> list[LocalEndpointRow]:
        """The rows in this namespace in the same boot, in the order of attaching."""
        return [one for one in self.in_namespace(netns.identity) if netns.is_same_as(one.netns)]

    def mates_of(self, row: LocalEndpointRow) -> list[LocalEndpointRow]:
        """All rows in the sandbox of a row, itself included if it is one of these; none before it is in a
        namespace."""
        return [] if row.netns is None else self.in_sandbox(row.netns)

    def in_network(self, network_id: NetworkId) -> Mapping[EndpointId, LocalEndpointRow]:
        """The rows in a network, in no order."""
        return self._tables.networks.get(network_id, Map())

    @property
    def networks(self) -> frozenset[NetworkId]:
        """The networks of all rows; the same object again as long as these are the same."""
        return self._inhabited

    @property
    def folders(self) -> Mapping[str, Mapping[EndpointId, LocalEndpointRow]]:
        """The rows by the folder of the path by which they were attached; in no order."""
        return self._tables.folders

    def with_origin(self, origin: str) -> LocalEndpointRow | None:
        """The row that a runtime calls `origin`."""
        return next(iter(self._found(("origin", origin))), None)

    def called(self, network_id: NetworkId, name: str) -> list[LocalEndpointRow]:
        """The rows with a name in a network."""
        return self._found(("name", (network_id, name)))

    def publishing(self) -> Iterable[LocalEndpointRow]:
        """The rows that publish ports of this host; in no order."""
        return self._tables.publishing.values()

    def with_path(self, path: str) -> list[LocalEndpointRow]:
        """The rows that were attached by this path."""
        return self._found(("path", path))

    def touched_since(self, earlier: LocalRows) -> frozenset[EndpointId] | None:
        """All that can differ from an earlier value; None if that is no longer known."""
        if earlier is self:
            return frozenset()
        touched = touched_between(earlier._changelog, self._changelog)
        return None if touched is None else frozenset(endpoint_id for _, endpoint_id in touched.endpoints)

    def _found(self, key: tuple[str, Hashable]) -> list[LocalEndpointRow]:
        rows = self._tables.rows
        return [rows[endpoint_id] for _, endpoint_id in self._tables.indexes.get(key, ())]

    # -- another value -----------------------------------------------------------------------------------------

    def with_row(self, row: LocalEndpointRow) -> LocalRows:
        """Return the value with this row added or replaced."""
        tables = replace(self._tables)
        tables.drop(row.endpoint_id)
        tables.put(row)
        return self._later(tables, row)

    def without_row(self, endpoint_id: EndpointId) -> LocalRows:
        """Return the value without this row."""
        row = self._tables.rows.get(endpoint_id)
        if row is None:
            return self
        tables = replace(self._tables)
        tables.drop(endpoint_id)
        tables.orders = tables.orders.delete(endpoint_id)
        return self._later(tables, row)

    def _later(self, tables: _Tables, changed: LocalEndpointRow) -> LocalRows:
        place = (changed.network_id, changed.endpoint_id)
        changelog = extended(self._changelog, ChangedKeys(endpoints=frozenset({place})))
        return LocalRows(tables=tables, changelog=changelog, inhabited=self._inhabited)


@dataclass(slots=True)
class _Tables:
    """The parts of a value. The maps never change; a copy of these is edited while a new value is made."""

    rows: Map[EndpointId, LocalEndpointRow] = field(default_factory=Map)
    orders: Map[EndpointId, int] = field(default_factory=Map)
    indexes: Map[Hashable, tuple[_Order, ...]] = field(default_factory=Map)
    """Rows by properties that few have in common."""
    networks: Map[NetworkId, Map[EndpointId, LocalEndpointRow]] = field(default_factory=Map)
    folders: Map[str, Map[EndpointId, LocalEndpointRow]] = field(default_factory=Map)
    publishing: Map[EndpointId, LocalEndpointRow] = field(default_factory=Map)
    next: int = 0

    def put(self, row: LocalEndpointRow) -> None:
        """Add or replace a row; it keeps its place in the order."""
        endpoint_id = row.endpoint_id
        order = self.orders.get(endpoint_id)
        if order is None:
            order, self.next = self.next, self.next + 1
            self.orders = self.orders.set(endpoint_id, order)
        self.rows = self.rows.set(endpoint_id, row)
        own = self.networks.get(row.network_id, Map())
        self.networks = self.networks.set(row.network_id, own.set(endpoint_id, row))
        if row.netns is not None:
            folder = folder_of(row.netns.path)
            self.folders = self.folders.set(folder, self.folders.get(folder, Map()).set(endpoint_id, row))
        if row.publish:
            self.publishing = self.publishing.set(endpoint_id, row)
        for key in _keys(row):
            places = sorted((*self.indexes.get(key, ()), (order, endpoint_id)))
            self.indexes = self.indexes.set(key, tuple(places))

    def drop(self, endpoint_id: EndpointId) -> None:
        """Remove a row from the indexes; it keeps its place in the order."""
        row = self.rows.get(endpoint_id)
        if row is None:
            return
        self.rows = self.rows.delete(endpoint_id)
        own = self.networks[row.network_id].delete(endpoint_id)
        self.networks = _with(self.networks, row.network_id, own)
        if row.netns is not None:
            folder = folder_of(row.netns.path)
            self.folders = _with(self.folders, folder, self.folders[folder].delete(endpoint_id))
        if row.publish:
            self.publishing = self.publishing.delete(endpoint_id)
        place = (self.orders[endpoint_id], endpoint_id)
        for key in _keys(row):
            left = tuple(one for one in self.indexes[key] if one != place)
            self.indexes = _with(self.indexes, key, left)


def folder_of(path: str) -> str:
    """The folder of a namespace's path."""
    return path.rpartition("/")[0] or "/"


def _with(index: Map[Any, Any], key: Hashable, value: Any) -> Map[Any, Any]:
    """Return `index` with the value, or without the key where the value is empty."""
    return index.set(key, value) if value else index.delete(key)


def _keys(row: LocalEndpointRow) -> Iterator[tuple[str, Hashable]]:
    yield "name", (row.network_id, row.name)
    if row.netns is not None:
        yield "namespace", row.netns.identity
        yield "path", row.netns.path
    if row.origin is not None:
        yield "origin", row.origin


def local_rows(rows: Mapping[EndpointId, LocalEndpointRow]) -> LocalRows:
    """Return the rows as LocalRows, with indexes."""
    return rows if isinstance(rows, LocalRows) else LocalRows(rows.values())
