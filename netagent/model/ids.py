"""Identifiers and names: their form, how they are derived, and which are refused.

Identifiers are lower-case hex text everywhere except on the wire, so that they can be logged, typed and compared.
"""

from __future__ import annotations

import re
from typing import NewType

HostId = NewType("HostId", str)
"""32 hex digits, see netgossip.types.NodeId."""

NetworkId = NewType("NetworkId", str)
"""32 hex digits, random. The 16 bytes are the network's scope in the replicated table."""

EndpointId = NewType("EndpointId", str)
"""32 hex digits: half of them random, half of them its host's (`new_endpoint_id`)."""

ServiceId = NewType("ServiceId", str)
"""32 hex digits, random: a service that is no container (ExternalServiceRecord)."""

OwnNameId = NewType("OwnNameId", str)
"""32 hex digits, random: a name that an operator added to a network."""

ClusterId = NewType("ClusterId", str)
"""32 hex digits, random; the label on every gossip packet."""

KeyId = NewType("KeyId", str)
"""32 hex digits: a hash of a ring key, which reveals nothing about it."""

NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
"""A name that users give: a host, network, endpoint, service, alias or port name. One DNS label."""

MAX_NAME = 63
"""Characters of a DNS label."""

NODE_LABEL = "node"
"""`<host>.node.<domain>`; hence no network may have this name."""


def new_endpoint_id(owner: HostId, drawn: bytes) -> EndpointId:
    """Return a new id of 8 bytes that were drawn and half of its owner's: no other host can say that it made it."""
    return EndpointId(drawn.hex() + owner[16:])


def is_minted_by(endpoint_id: EndpointId, host_id: HostId) -> bool:
    """True for an id that this host has made. Those that earlier releases made are no host's."""
    return endpoint_id[16:] == host_id[16:]


LOCALHOST = "localhost"
"""The container itself for every program, so a service with an address cannot have this name."""


def is_name(text: str) -> bool:
    """True when `text` may be used as a name as it stands."""
    return NAME.fullmatch(text) is not None


def nearest_name(text: str) -> str:
    """Convert a foreign name to a valid one; '' when no valid character is left."""
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    return cleaned[:MAX_NAME].rstrip("-_")


def vni_of(network_id: NetworkId) -> int:
    """Return the network's VXLAN id, 2**23 … 2**24-1, derived from its random id."""
    return (1 << 23) | (int(network_id[:6], 16) & 0x7FFFFF)


def bridge_name(vni: int) -> str:
    """Return the kernel's name of a network's bridge."""
    return f"na-{vni}"


def vxlan_name(vni: int) -> str:
    """Return the kernel's name of a network's VXLAN device."""
    return f"nx-{vni}"


def veth_name(endpoint_id: EndpointId) -> str:
    """Return the kernel's name of the host side of an endpoint's veth pair."""
    return f"nv{endpoint_id[:8]}"


def peer_name(endpoint_id: EndpointId) -> str:
    """Return the kernel's name of the container's side while it is in the host's namespace, before a runtime moves
    it."""
    return f"nc{endpoint_id[:8]}"


def mac_of(network_id: NetworkId, offset: int) -> str:
    """Return the MAC of an address: locally administered, and the same wherever and whenever the address is used.

    The network's byte makes MACs of two networks on one host differ; the offset makes it unique in the network.
    """
    return "02:" + ":".join(f"{b:02x}" for b in bytes.fromhex(network_id[:2]) + offset.to_bytes(4, "big"))


def is_derived_mac(network_id: NetworkId, mac: str) -> bool:
    """True for a MAC that `mac_of` derives from an address of the network: an offset below 2**20; there are no larger
    ones (netagent.model.subnet)."""
    return mac.startswith(f"02:{network_id[:2]}:00:0")
