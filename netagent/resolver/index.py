"""The endpoints of one network, by every label that they answer to.

One label can stand for three things, looked up in this order; the first that has an endpoint wins, without mixing:

    a service   all its endpoints: what `--service` says, and by default the endpoint's name
    a name      the endpoints with that name, one per host
    an alias    the endpoints that have it

A service comes first because clients are written against services: an endpoint that happens to have the name of
another's service must not receive that service's traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from netagent.resolver.name_table import EndpointRow, NetworkRow

_Labelled: TypeAlias = dict[bytes, dict[str, EndpointRow]]

_ID_LABEL_DIGITS: Final = 12
"""48 bits of a random id: two of a million endpoints of one host share them with a probability of 0.2 %, and then a
lookup of that one label shows both."""


def id_label(row: EndpointRow) -> bytes:
    """Return the label made from the endpoint's id: always a legal host name, and short."""
    return f"e{row.endpoint_id[:_ID_LABEL_DIGITS]}".encode()


class NetworkIndex:
    """Rows of one network. `row` is None while the network's own row has not arrived."""

    def __init__(self) -> None:
        self.row: NetworkRow | None = None
        self.label = self.given = b""
        self._services: _Labelled = {}
        self._names: _Labelled = {}
        self._aliases: _Labelled = {}
        self._on_host: dict[tuple[bytes, bytes], dict[str, EndpointRow]] = {}
        self._hosts: _Labelled = {}
        self._addresses: _Labelled = {}

    def set_row(self, row: NetworkRow | None) -> None:
        """Set the network's name and subnets."""
        self.row = row
        self.label = b"" if row is None else row.label.encode()
        self.given = self.label if row is None or not row.given else row.given.encode()

    def add(self, row: EndpointRow) -> None:
        """Add an endpoint. An older row of it must have been discarded."""
        for table, label in self._places(row):
            table.setdefault(label, {})[row.endpoint_id] = row
        for pair in _pairs(row):
            self._on_host.setdefault(pair, {})[row.endpoint_id] = row

    def discard(self, row: EndpointRow) -> None:
        """Undo `add`."""
        for table, label in self._places(row):
            rows = table[label]
            rows.pop(row.endpoint_id, None)
            if not rows:
                del table[label]
        for pair in _pairs(row):
            rows = self._on_host[pair]
            rows.pop(row.endpoint_id, None)
            if not rows:
                del self._on_host[pair]

    def members(self, label: bytes) -> tuple[EndpointRow, ...]:
        """Return the endpoints for `<label>.<network>`, by id; empty when there are none."""
        for table in (self._services, self._names, self._aliases):
            rows = table.get(label)
            if rows:
                return tuple(rows[endpoint_id] for endpoint_id in sorted(rows))
        return ()

    def on_host(self, label: bytes, host_label: bytes) -> tuple[EndpointRow, ...]:
        """Return the endpoints for `<label>.<host>.<network>`: one, as long as its host keeps the rules."""
        rows = self._on_host.get((label, host_label), {})
        return tuple(rows[endpoint_id] for endpoint_id in sorted(rows))

    def has_host(self, host_label: bytes) -> bool:
        """Whether there are names below `<host>.<network>`."""
        return host_label in self._hosts

    def with_address(self, address: bytes) -> EndpointRow | None:
        """Return the endpoint that has the address; of two, which the registry does not allow, the smaller id."""
        rows = self._addresses.get(address)
        return rows[min(rows)] if rows else None

    def is_empty(self) -> bool:
        """Whether nothing is known of the network."""
        return self.row is None and not self._hosts

    def labels(self) -> frozenset[str]:
        """Return all labels that `members` knows, for suggestions."""
        return frozenset(
            label.decode() for table in (self._services, self._names, self._aliases) for label in table
        )

    def _places(self, row: EndpointRow) -> Iterator[tuple[_Labelled, bytes]]:
        yield self._services, row.service.encode()
        yield self._names, row.name.encode()
        yield self._hosts, row.host_label.encode()
        for alias in dict.fromkeys(row.aliases):
            yield self._aliases, alias.encode()
        for address in dict.fromkeys(row.addresses):
            yield self._addresses, address


def _pairs(row: EndpointRow) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    host_label = row.host_label.encode()
    return (row.name.encode(), host_label), (id_label(row), host_label)
