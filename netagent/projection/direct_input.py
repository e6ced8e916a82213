"""Which networks' TCP segments go through the encrypted tunnel without VXLAN, and to which hosts. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Set

from netagent.datapath.direct.layout import DirectHost, DirectInput, DirectNetwork
from netagent.datapath.host.uplink import Underlay, version_of
from netagent.model.address.tunnel import tunnel_address, tunnel_number
from netagent.model.ids import NetworkId, vxlan_name
from netagent.projection.datapath_input import networks_here, networks_taken_part, vxlan_underlay
from netagent.registry.encryption import is_encrypted, own_salt, tunnel_peers
from netagent.registry.view import NetworkView, RegistryView

_COMMON_BYTES = 12
_HEADER_BYTES = 20
"""An IPv4 packet becomes an IPv6 packet in the tunnel, whose header is so much longer."""


def direct_input(
    view: RegistryView, inhabited: Set[NetworkId], underlay: Underlay, tunnel: str
) -> DirectInput | None:
    """Return what the programs need; None while the cluster does not encrypt. `inhabited`: networks with endpoints of
    this host; `tunnel`: the name of its device."""
    if not is_encrypted(view):
        return None
    inside = vxlan_underlay(view, underlay)
    version = version_of(inside.address)
    hosts = {}
    for host_id, address, record in tunnel_peers(view):
        if version_of(address) == version:
            number = tunnel_number(host_id, record.salt)
            hosts[tunnel_address(number, version=version)] = DirectHost(number, record.takes_direct)
    networks = networks_here(view, networks_taken_part(view, inhabited))
    return DirectInput(
        number=tunnel_number(view.local, own_salt(view)),
        tunnel=tunnel,
        networks={
            vxlan_name(one.record.vni): DirectNetwork(
                one.record.vni, _common(one), one.record.mtu_bytes + _HEADER_BYTES <= inside.mtu_bytes
            )
            for one in networks
        },
        hosts=hosts,
    )


def _common(network: NetworkView) -> bytes:
    for subnet in network.record.subnets:
        if ":" in subnet:
            return ipaddress.IPv6Network(subnet).network_address.packed[:_COMMON_BYTES]
    return bytes(_COMMON_BYTES)
