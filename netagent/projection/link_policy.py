"""Networks in which only linked services may be reached: who may ask whom, as packets that come in by this host's
ports. Pure.

All of it follows from the records, a host's own among them: so both ends of a link judge alike, and go on judging
while an agent is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from netagent.firewall.inputs import AllowedFlow
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import NetworkId, veth_name, vxlan_name
from netagent.model.records import Policy
from netagent.registry.view import EndpointView, NetworkView, RegistryView


def ways(
    view: RegistryView, rows: Iterable[LocalEndpointRow], networks: Mapping[NetworkId, NetworkView]
) -> tuple[frozenset[AllowedFlow], frozenset[AllowedFlow]]:
    """Who may ask whom, and who may answer whom.

    For each endpoint of this host there are the packets that come out of it, and, where the other end of a link is
    elsewhere, those that come in by the tunnel."""
    requests: set[AllowedFlow] = set()
    answers: set[AllowedFlow] = set()
    if view.local in view.forgotten:
        return frozenset(), frozenset()
    for row in rows:
        network, own = networks.get(row.network_id), view.endpoints.get(row.endpoint_id)
        if network is None or network.record.policy is not Policy.LINKS or own is None:
            continue
        veth, tunnel = veth_name(row.endpoint_id), vxlan_name(network.record.vni)
        for server in view.linked_from(own):
            requests.update(_between(veth, own, server))
            if server.owner != view.local:
                answers.update(_between(tunnel, server, own))
        for client in view.linked_to(own):
            answers.update(_between(veth, own, client))
            if client.owner != view.local:
                requests.update(_between(tunnel, client, own))
    return frozenset(requests), frozenset(answers)


def _between(port: str, source: EndpointView, destination: EndpointView) -> Iterator[AllowedFlow]:
    for one in source.record.addresses:
        for other in destination.record.addresses:
            if (":" in one) == (":" in other):
                yield port, one, other
