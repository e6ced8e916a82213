"""What passes a device, or a cable between hosts: who asks for whom."""

from __future__ import annotations

import socket

from harness.datapath import PORT
from harness.namespaces import Namespace

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns

CABLE = "wire"
ETH_P_ALL, ETH_P_IPV4, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
UDP, ICMPV6, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 17, 58, 135, 136


async def packets_at(namespace: Namespace, device: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((device, ETH_P_ALL))
        made.setblocking(False)
        return made

    with opened_netns(namespace.path) as fd:
        return await run_in_netns(fd, make)


def questions(sock: socket.socket) -> list[str]:
    """What left since the last call to find a neighbour: ARP, and neighbour discovery's two words.

    At a cable between hosts that is what their tunnels carry; what the hosts ask for themselves is theirs.
    """
    found: list[str] = []
    while True:
        try:
            frame, (device, _protocol, kind, *_) = sock.recvfrom(2000)
        except BlockingIOError:
            return found
        if kind != socket.PACKET_OUTGOING:
            continue
        question = _question(carried(frame) if device == CABLE else frame)
        if question:
            found.append(question)


def carried(packet: bytes) -> bytes:
    """The container's frame in a frame of a host's; empty when that is not of a tunnel."""
    protocol = int.from_bytes(packet[12:14], "big")
    udp_at = 34 if protocol == ETH_P_IPV4 else 54
    is_udp = packet[23 if protocol == ETH_P_IPV4 else 20] == UDP
    port = int.from_bytes(packet[udp_at + 2 : udp_at + 4], "big")
    return packet[udp_at + 16 :] if is_udp and port == PORT else b""


def _question(frame: bytes) -> str:
    protocol = int.from_bytes(frame[12:14], "big")
    if protocol == ETH_P_ARP:
        return f"ARP for {socket.inet_ntoa(frame[38:42])}"
    if protocol == ETH_P_IPV6 and frame[20] == ICMPV6 and frame[54] in {135, 136}:
        word = "solicitation" if frame[54] == NEIGHBOUR_SOLICITATION else "advertisement"
        return f"{word} of {socket.inet_ntop(socket.AF_INET6, frame[62:78])}"
    return ""
