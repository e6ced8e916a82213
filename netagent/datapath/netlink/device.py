"""Messages that create bridges and VXLAN devices and set their options. The only file that uses pyroute2.

These are the messages with the most attributes, and the rarest: two for each network that a host takes part in. So
pyroute2's message classes encode them; it serves as a codec only. Messages that an attach waits for are encoded by
hand (netagent.datapath.netlink.link).
"""

from __future__ import annotations

from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from netagent.datapath.netlink.link import RTM_NEWLINK, mark_link
from netagent.datapath.netlink.route_socket import HEADER, NLM_F_CREATE, NLM_F_EXCL, NetlinkRequest
from netagent.datapath.state import Device, LinkKind


def create_link(device: Device, index: int) -> list[NetlinkRequest]:
    """Create a bridge or VXLAN device: down, without addresses of its own making, and marked as ours.

    The kernel accepts no alias in the creating message, so the mark follows in the same `send`: a killed agent can't
    leave the link without it. The second message names the link by an index that we choose. If the creation failed
    because another program's link has the name, the mark then finds nothing, instead of marking that link as ours.
    """
    attributes: list[Any] = [("IFLA_IFNAME", device.name), ("IFLA_MTU", device.mtu_bytes)]
    if device.mac is not None:
        attributes.append(("IFLA_ADDRESS", device.mac))
    attributes.append(_link_info(device.kind, _kind_data(device)))
    mark = mark_link(index, device.alias, device.mtu_bytes)
    return [_request(NLM_F_CREATE | NLM_F_EXCL, attributes, index=index), mark]


def set_kind_options(device: Device) -> NetlinkRequest:
    """Change what can be changed after the creation: a bridge's protocols, a VXLAN device's local address,
    learning."""
    # The kernel refuses a change that names the port, even if the port is the same.
    data = [(name, value) for name, value in _kind_data(device) if name != "IFLA_VXLAN_PORT"]
    return _request(0, [("IFLA_IFNAME", device.name), _link_info(device.kind, data)])


def _kind_data(device: Device) -> list[tuple[str, Any]]:
    if device.kind is LinkKind.BRIDGE:
        return [
            ("IFLA_BR_MCAST_SNOOPING", int(device.mcast_snooping)),
            ("IFLA_BR_STP_STATE", int(device.stp)),
        ]
    if device.tunnel is None:
        raise ValueError(f"{device.name}: only bridges and VXLAN devices are created from a Device")
    local = "IFLA_VXLAN_LOCAL6" if ":" in device.tunnel.local else "IFLA_VXLAN_LOCAL"
    return [
        ("IFLA_VXLAN_ID", device.tunnel.vni),
        ("IFLA_VXLAN_PORT", device.tunnel.port),
        (local, device.tunnel.local),
        ("IFLA_VXLAN_LEARNING", int(device.tunnel.learning)),
        ("IFLA_VXLAN_DF", int(device.tunnel.dont_fragment)),
        ("IFLA_VXLAN_TTL", device.tunnel.ttl),
    ]


def _link_info(kind: LinkKind, data: list[tuple[str, Any]]) -> tuple[str, Any]:
    return "IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind.value), ("IFLA_INFO_DATA", {"attrs": data})]}


def _request(flags: int, attributes: list[Any], *, index: int = 0) -> NetlinkRequest:
    message: Any = ifinfmsg()
    message["index"], message["attrs"] = index, attributes
    message.encode()
    return NetlinkRequest(RTM_NEWLINK, flags, bytes(message.data[HEADER.size :]))
