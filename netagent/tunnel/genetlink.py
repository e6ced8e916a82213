"""WireGuard's generic netlink messages <-> values: how a device of the kernel is configured.

The layout is <linux/wireguard.h>, and that of finding the family <linux/genetlink.h>. pyroute2 has the messages too,
but sends one peer in each, and opens sockets with a loop of their own.

The kernel sends a device with many peers in several messages, each of which repeats the device; a peer with many
addresses may go on in the next one.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from netagent.datapath.netlink.nftables import attribute, nest, split_attributes, text
from netagent.datapath.netlink.route_socket import NetlinkRequest
from netagent.tunnel.peer import (
    NO_PRESHARED_KEY,
    DeviceReading,
    PeerChange,
    PeerEndpoint,
    ReadPeer,
    TunnelPeer,
)

NETLINK_GENERIC: Final = 16
"""The protocol of the socket."""
PEERS_PER_REQUEST: Final = 128
"""Bound of peers in one request; beyond it: the rest goes into the next one. An attribute holds 64 KiB, and a peer
takes some 200 bytes."""

_FAMILY: Final = "wireguard"
_CONTROLLER, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_GET_DEVICE, _SET_DEVICE = 0, 1
_DEVICE_NAME, _DEVICE_PRIVATE_KEY, _DEVICE_PORT, _DEVICE_PEERS = 2, 3, 6, 8
_PUBLIC_KEY, _PRESHARED_KEY, _FLAGS, _ENDPOINT, _KEEPALIVE = 1, 2, 3, 4, 5
_HANDSHAKE, _RECEIVED, _SENT, _ALLOWED = 6, 7, 8, 9
_REMOVE, _REPLACE_ALLOWED = 0x1, 0x2
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_LENGTH = 1, 2, 3

_HEADER: Final = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved
_IPV4: Final = struct.Struct("=H2s4s8x")  # struct sockaddr_in: family, port in network order, address
_IPV6: Final = struct.Struct("=H2s4x16s4x")  # struct sockaddr_in6: with flow and scope
_TIME: Final = struct.Struct("=qq")  # struct __kernel_timespec: seconds and nanoseconds since 1970


def family_request() -> NetlinkRequest:
    """Ask for the number of WireGuard's family; ENOENT: this kernel has none. The kernel loads the module if it has
    one."""
    return NetlinkRequest(_CONTROLLER, 0, _HEADER.pack(_GET_FAMILY, 1, 0) + text(_FAMILY_NAME, _FAMILY))


def decode_family(body: bytes) -> int:
    """Return the family's number. OSError."""
    for kind, value in split_attributes(body[_HEADER.size :]):
        if kind == _FAMILY_ID and len(value) == 2:
            return _u16(value)
    raise OSError("the kernel names WireGuard's family without its number")


def device_request(family: int, name: str) -> NetlinkRequest:
    """Ask for a device with its peers; to be sent as a dump."""
    return NetlinkRequest(family, 0, _HEADER.pack(_GET_DEVICE, 1, 0) + text(_DEVICE_NAME, name))


def encode_changes(
    family: int,
    name: str,
    *,
    private_key: bytes | None = None,
    port: int | None = None,
    changes: Sequence[PeerChange] = (),
) -> Iterator[NetlinkRequest]:
    """Yield the requests that make these changes, in order."""
    head = _HEADER.pack(_SET_DEVICE, 1, 0) + text(_DEVICE_NAME, name)
    own = b"" if private_key is None else attribute(_DEVICE_PRIVATE_KEY, private_key)
    own += b"" if port is None else attribute(_DEVICE_PORT, struct.pack("=H", port))
    # The key goes with the first peers: a session that one of them begins finds both as they are to be.
    for start in range(0, max(1, len(changes)), PEERS_PER_REQUEST):
        peers = [nest(0, _peer(one)) for one in changes[start : start + PEERS_PER_REQUEST]]
        body = head + own + (nest(_DEVICE_PEERS, b"".join(peers)) if peers else b"")
        yield NetlinkRequest(family, 0, body)
        own = b""


def _peer(change: PeerChange) -> bytes:
    flags = _REMOVE * change.remove | _REPLACE_ALLOWED * (change.allowed is not None)
    parts = [attribute(_PUBLIC_KEY, change.public_key), attribute(_FLAGS, struct.pack("=I", flags))]
    if change.preshared_key is not None:
        parts.append(attribute(_PRESHARED_KEY, change.preshared_key))
    if change.endpoint is not None:
        parts.append(attribute(_ENDPOINT, _socket_address(change.endpoint)))
    if change.keepalive_s is not None:
        parts.append(attribute(_KEEPALIVE, struct.pack("=H", change.keepalive_s)))
    if change.allowed:
        parts.append(nest(_ALLOWED, b"".join(nest(0, _allowed(one)) for one in change.allowed)))
    return b"".join(parts)


def _socket_address(endpoint: PeerEndpoint) -> bytes:
    address, port = ipaddress.ip_address(endpoint[0]), endpoint[1].to_bytes(2, "big")
    if address.version == 4:
        return _IPV4.pack(socket.AF_INET, port, address.packed)
    return _IPV6.pack(socket.AF_INET6, port, address.packed)


def _allowed(cidr: str) -> bytes:
    network = ipaddress.ip_network(cidr)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return (
        attribute(_ALLOWED_FAMILY, struct.pack("=H", family))
        + attribute(_ALLOWED_ADDRESS, network.network_address.packed)
        + attribute(_ALLOWED_LENGTH, bytes([network.prefixlen]))
    )


def decode_device(bodies: Iterable[bytes]) -> DeviceReading:
    """Decode the messages of a dump of one device."""
    private_key: bytes | None = None
    port = 0
    peers: dict[bytes, ReadPeer] = {}
    for body in bodies:
        for kind, value in split_attributes(body[_HEADER.size :]):
            if kind == _DEVICE_PRIVATE_KEY:
                private_key = value
            elif kind == _DEVICE_PORT:
                port = _u16(value)
            elif kind == _DEVICE_PEERS:
                for _, raw in split_attributes(value):
                    _take_peer(peers, dict(split_attributes(raw)))
    return DeviceReading(private_key=private_key, port=port, peers=peers)


def _take_peer(peers: dict[bytes, ReadPeer], found: dict[int, bytes]) -> None:
    key = found.get(_PUBLIC_KEY, b"")
    allowed = tuple(_decode_allowed(one) for _, one in split_attributes(found.get(_ALLOWED, b"")))
    if key in peers:  # the last one of the message before goes on, with addresses only
        before = peers[key]
        peers[key] = replace(before, peer=replace(before.peer, allowed=before.peer.allowed + allowed))
        return
    preshared = found.get(_PRESHARED_KEY, NO_PRESHARED_KEY)
    peer = TunnelPeer(
        public_key=key,
        preshared_key=None if preshared == NO_PRESHARED_KEY else preshared,
        endpoint=_decode_endpoint(found.get(_ENDPOINT, b"")),
        allowed=allowed,
        keepalive_s=_u16(found.get(_KEEPALIVE, bytes(2))) or None,
    )
    seconds, nanoseconds = _TIME.unpack(found.get(_HANDSHAKE, bytes(_TIME.size)))
    peers[key] = ReadPeer(
        peer=peer,
        handshake_at_s=seconds + nanoseconds / 1e9,
        received_bytes=_u64(found.get(_RECEIVED, bytes(8))),
        sent_bytes=_u64(found.get(_SENT, bytes(8))),
    )


def _decode_endpoint(raw: bytes) -> PeerEndpoint | None:
    if len(raw) == _IPV4.size:
        _, port, address = _IPV4.unpack(raw)
    elif len(raw) == _IPV6.size:
        _, port, address = _IPV6.unpack(raw)
    else:
        return None
    return str(ipaddress.ip_address(address)), int.from_bytes(port, "big")


def _decode_allowed(raw: bytes) -> str:
    found = dict(split_attributes(raw))
    address = ipaddress.ip_address(found[_ALLOWED_ADDRESS])
    return f"{address}/{found[_ALLOWED_LENGTH][0]}"


def _u16(raw: bytes) -> int:
    (value,) = struct.unpack_from("=H", raw)
    return int(value)


def _u64(raw: bytes) -> int:
    (value,) = struct.unpack_from("=Q", raw)
    return int(value)
