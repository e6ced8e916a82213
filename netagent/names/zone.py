"""From the registry's view to the table the resolver process answers from. Pure, apart from a memory of rows made.

Only what this host's sandboxes may ask for goes into the table: the networks they are in, with their visible
endpoints, and the hosts. `ZoneMaker` keeps the rows it made, so that a change in a network of thousands costs a walk
over that network's persistent map and the making of the rows that differ; untouched networks cost nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.sandbox import Sandbox
from netagent.names.table import (
    SETTINGS_KEY,
    EndpointRow,
    HostRow,
    Key,
    Kind,
    NetworkRow,
    Row,
    SettingsRow,
    Subnet,
    Table,
)
from netagent.pieces import Pieces, at_once
from netagent.registry.view import EndpointView, HostView, NetworkView, RegistryView

_MAX_LABEL = 63


@dataclass(frozen=True, slots=True)
class _Made:
    """The rows of one network, and the very objects that they were made from."""

    inputs: tuple[object, ...]
    rows: dict[Key, Row]
    views: dict[EndpointId, EndpointView]


class ZoneMaker:
    """Makes tables from successive views of one registry."""

    def __init__(self, domain: str) -> None:
        self._settings = SettingsRow(domain)
        self._made: dict[NetworkId, _Made] = {}

    def table(self, view: RegistryView, sandboxes: Iterable[Sandbox]) -> Table:
        """Return all rows for these sandboxes. Equal to what a new maker would make."""
        return at_once(self.making(view, sandboxes))

    def making(self, view: RegistryView, sandboxes: Iterable[Sandbox]) -> Pieces[Table]:
        """The same in pieces."""
        rows: dict[Key, Row] = {SETTINGS_KEY: self._settings}
        rows.update(_host_rows(view))
        wanted: set[NetworkId] = set()
        for sandbox in sandboxes:
            rows[Kind.SANDBOX, sandbox.sandbox_id] = sandbox
            wanted.update(sandbox.networks)
        made: dict[NetworkId, _Made] = {}
        for network_id in wanted:
            network = view.networks.get(network_id)
            if network is not None:
                made[network_id] = yield from self._network(view, network)
                rows.update(made[network_id].rows)
        self._made = made
        return rows

    def _network(self, view: RegistryView, network: NetworkView) -> Pieces[_Made]:
        endpoints = view.endpoints_in(network.network_id)
        inputs = (network, endpoints, view.hosts, view.forgotten)
        before = self._made.get(network.network_id)
        if before is not None and all(a is b for a, b in zip(inputs, before.inputs, strict=True)):
            return before
        labels: dict[HostId, str] = {host_id: host_label(host) for host_id, host in view.hosts.items()}
        rows: dict[Key, Row] = {(Kind.NETWORK, network.network_id): _network_row(network)}
        views: dict[EndpointId, EndpointView] = {}
        for endpoint_id, endpoint in endpoints.items():
            yield
            if not view.is_visible(endpoint):
                continue
            key = (Kind.ENDPOINT, endpoint_id)
            label = labels.get(endpoint.owner) or host_label(HostView(endpoint.owner))
            old = before.rows.get(key) if before and before.views.get(endpoint_id) is endpoint else None
            kept = isinstance(old, EndpointRow) and old.host_label == label
            rows[key] = old if old is not None and kept else _endpoint_row(endpoint, label)
            views[endpoint_id] = endpoint
        return _Made(inputs, rows, views)


def host_label(host: HostView) -> str:
    """Return the label of the host's names: its unique name, cut in the middle where a label would be too long."""
    return _label(host.unique_name or host.name)


def _label(name: str) -> str:
    # Only `<name>-<4 hex>` can be too long; the digits are what makes it unique.
    return name if len(name) <= _MAX_LABEL else name[: _MAX_LABEL - 5] + name[-5:]


def _host_rows(view: RegistryView) -> Iterable[tuple[Key, HostRow]]:
    for host_id, host in view.hosts.items():
        if host.record is not None and not view.is_host_hidden(host_id):
            yield (
                (Kind.HOST, host_id),
                HostRow(host_label(host), ipaddress.ip_address(host.record.underlay).packed),
            )


def _network_row(network: NetworkView) -> NetworkRow:
    subnets = [ipaddress.ip_network(text) for text in network.record.subnets]
    return NetworkRow(
        _label(network.unique_name),
        tuple(Subnet(one.network_address.packed, one.prefixlen) for one in subnets),
        "" if network.holds_name else network.name,
    )


def _endpoint_row(endpoint: EndpointView, label: str) -> EndpointRow:
    record = endpoint.record
    return EndpointRow(
        endpoint_id=record.endpoint_id,
        network_id=record.network_id,
        name=record.name,
        host_label=label,
        service=record.service,
        aliases=record.aliases,
        addresses=tuple(ipaddress.ip_address(address).packed for address in record.addresses),
        ports=record.ports,
    )
