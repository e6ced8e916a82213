"""Whose port it is that flows are counted at, also when the container is gone. Pure.

The kernel knows a port by its index, and its name begins with the endpoint's id. A record goes before its port does,
so who had a port is noted while the record is there, and kept as long as the port's flows are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from netagent.model.ids import EndpointId, HostId, NetworkId, veth_name
from netagent.registry.view import EndpointView, RegistryView

MOST_DEPARTED: Final = 4096
"""Bound of containers that are gone and whose flows are still named; beyond it: the flows of those that went first
are shown with the id of the port alone."""


@dataclass(frozen=True, slots=True)
class FlowSource:
    """A container that opens connections, as it was called when it was seen last."""

    endpoint_id: EndpointId
    """"" if the record was never seen."""
    network_id: NetworkId | None
    name: str
    service: str
    group: str
    host_id: HostId

    @property
    def full_service(self) -> str:
        """The service, with its group if it has one."""
        return f"{self.service}.{self.group}" if self.group else self.service


class FlowSources:
    """Remembers the owner of each port."""

    def __init__(self) -> None:
        self._by_port: dict[int, FlowSource] = {}
        self._departed: dict[int, None] = {}
        """In the order of their going."""

    def note(self, view: RegistryView, own: Iterable[EndpointId], ports: Mapping[int, str]) -> None:
        """Note the owners of new ports; `ports`: all that this host has now, by index and name; `own`: its
        endpoints."""
        new = {name: index for index, name in ports.items() if index not in self._by_port}
        if new:
            for endpoint_id in own:
                index, endpoint = new.get(veth_name(endpoint_id)), view.endpoints.get(endpoint_id)
                if index is not None and endpoint is not None:
                    self._by_port[index] = source_of(endpoint)
        for index in self._departed.keys() & ports.keys():
            del self._departed[index]
        for index in self._by_port.keys() - ports.keys():
            self._departed.setdefault(index)
        while len(self._departed) > MOST_DEPARTED:
            first = next(iter(self._departed))
            del self._departed[first], self._by_port[first]

    def owner(self, view: RegistryView, index: int | None) -> FlowSource:
        """Return whose port it is, by its present record, or was."""
        found = None if index is None else self._by_port.get(index)
        endpoint = None if found is None else view.endpoints.get(found.endpoint_id)
        if endpoint is not None and endpoint.owner == view.local:
            return source_of(endpoint)
        return found or FlowSource(EndpointId(""), None, f"port {index}", "", "", view.local)


def source_of(endpoint: EndpointView) -> FlowSource:
    """Return an endpoint as the source of flows."""
    record = endpoint.record
    group = "" if record.group is None else record.group.name
    return FlowSource(
        record.endpoint_id, record.network_id, record.name, record.service_key.name, group, endpoint.owner
    )
