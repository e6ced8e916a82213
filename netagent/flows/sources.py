"""Who opens what is counted at a place (netagent.datapath.flows.layout), also when that is gone. Pure.

The kernel knows a port by its index, and its name begins with the endpoint's id. A record goes before its port does,
so who had a port is noted while the record is there, and kept as long as the port's flows are. At a network's bridge
this host opens to containers, and what is outside does through ports that this host publishes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from netagent.datapath.flows.layout import Opener, split_place
from netagent.model.ids import EndpointId, HostId, NetworkId, bridge_name, veth_name
from netagent.registry.view import EndpointView, RegistryView

MOST_DEPARTED: Final = 4096
"""Bound of containers that are gone and whose flows are still named; beyond it: the flows of those that went first
are shown with the id of the port alone."""


SourceKind: TypeAlias = Literal["endpoint", "host", "outside"]
"""`host`: programs of the host itself; `outside`: clients of ports that it publishes."""
_KINDS: Final[Mapping[Opener, SourceKind]] = {
    Opener.CONTAINER: "endpoint",
    Opener.HOST: "host",
    Opener.OUTSIDE: "outside",
}


@dataclass(frozen=True, slots=True)
class FlowSource:
    """Who opens connections: a container, as it was called when it was seen last, or what is in no network."""

    endpoint_id: EndpointId
    """"" if the record was never seen, and of all but containers."""
    network_id: NetworkId | None
    name: str
    """`outside` for all that is outside."""
    service: str
    group: str
    host_id: HostId
    """The one that counts."""
    kind: SourceKind = "endpoint"
    is_gone: bool = False
    """A container without a record by now."""

    @property
    def full_service(self) -> str:
        """The service, with its group if it has one."""
        return f"{self.service}.{self.group}" if self.group else self.service


class FlowSources:
    """Remembers who opens at each place."""

    def __init__(self) -> None:
        self._by_place: dict[int, FlowSource] = {}
        self._departed: dict[int, None] = {}
        """In the order of their going."""

    @property
    def known(self) -> Mapping[int, FlowSource]:
        """All, by place."""
        return self._by_place

    def restore(self, known: Mapping[int, FlowSource]) -> None:
        """Add what an earlier agent knew."""
        self._by_place = {**known, **self._by_place}

    def note(
        self,
        view: RegistryView,
        own: Iterable[EndpointId],
        ports: Mapping[int, str],
        bridges: Mapping[int, str],
    ) -> None:
        """Note who opens at new places. `ports`, `bridges`: all that this host has now, by index and name; `own`: its
        endpoints."""
        self._forget_others(view, ports, bridges)
        new = {name: index for index, name in ports.items() if index not in self._by_place}
        if new:
            for endpoint_id in own:
                index, endpoint = new.get(veth_name(endpoint_id)), view.endpoints.get(endpoint_id)
                if index is not None and endpoint is not None:
                    self._by_place[index] = source_of(endpoint)
        new = {name: index for index, name in bridges.items() if index | Opener.HOST not in self._by_place}
        for network_id, network in view.networks.items() if new else ():
            index = new.get(bridge_name(network.record.vni))
            if index is not None:
                for opener in (Opener.HOST, Opener.OUTSIDE):
                    self._by_place[index | opener] = _not_in(network_id, view, opener)
        present = ports.keys() | {index | one for index in bridges for one in (Opener.HOST, Opener.OUTSIDE)}
        for place in self._departed.keys() & present:
            del self._departed[place]
        for place in self._by_place.keys() - present:
            self._departed.setdefault(place)
        while len(self._departed) > MOST_DEPARTED:
            first = next(iter(self._departed))
            del self._departed[first], self._by_place[first]

    def _forget_others(
        self, view: RegistryView, ports: Mapping[int, str], bridges: Mapping[int, str]
    ) -> None:
        """A network namespace that is made anew has the same indexes again."""
        for place, name in ports.items():
            known = self._by_place.get(place)
            if known is not None and veth_name(known.endpoint_id) != name:
                del self._by_place[place]
        for index, name in bridges.items():
            known = self._by_place.get(index | Opener.HOST)
            network = None if known is None else view.networks.get(known.network_id or NetworkId(""))
            if known is not None and (network is None or bridge_name(network.record.vni) != name):
                for opener in (Opener.HOST, Opener.OUTSIDE):
                    self._by_place.pop(index | opener, None)

    def owner(self, view: RegistryView, place: int | None) -> FlowSource:
        """Return who opens at a place, by the present record, or did."""
        found = None if place is None else self._by_place.get(place)
        endpoint = None if found is None else view.endpoints.get(found.endpoint_id)
        if endpoint is not None and endpoint.owner == view.local:
            return source_of(endpoint)
        if found is not None:
            return found if found.kind != "endpoint" else dataclasses.replace(found, is_gone=True)
        index, opener = split_place(place or 0)
        if opener is not Opener.CONTAINER:
            return _not_in(None, view, opener)
        return FlowSource(EndpointId(""), None, f"port {index}", "", "", view.local)


def kind_of_place(place: int) -> SourceKind:
    """Return who opens at a place."""
    return _KINDS[split_place(place)[1]]


def _not_in(network_id: NetworkId | None, view: RegistryView, opener: Opener) -> FlowSource:
    """Return the source of what is opened to containers from the host, or from outside."""
    host = view.hosts.get(view.local)
    own = host.unique_name if host is not None else view.local[:8]
    kind = _KINDS[opener]
    return FlowSource(EndpointId(""), network_id, own if kind == "host" else kind, "", "", view.local, kind)


def source_of(endpoint: EndpointView) -> FlowSource:
    """Return an endpoint as the source of flows."""
    record = endpoint.record
    group = "" if record.group is None else record.group.name
    return FlowSource(
        record.endpoint_id, record.network_id, record.name, record.service_key.name, group, endpoint.owner
    )
