"""What passes a device: who asks for whom."""

from __future__ import annotations

import socket

from kernel.overlay import Namespace

from netagent.datapath.netns import opened_netns, run_in_netns

ETH_P_ALL, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0806, 0x86DD
ICMPV6, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 58, 135, 136


async def packets_at(namespace: Namespace, device: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((device, ETH_P_ALL))
        made.setblocking(False)
        return made

    with opened_netns(namespace.path) as fd:
        return await run_in_netns(fd, make)


def questions(tunnel: socket.socket) -> list[str]:
    """What left by the tunnel since the last call to find somebody out: ARP, and neighbour discovery's two words."""
    found = []
    while True:
        try:
            frame, (*_, kind, _type, _mac) = tunnel.recvfrom(2000)
        except BlockingIOError:
            return found
        if kind != socket.PACKET_OUTGOING:
            continue
        protocol = int.from_bytes(frame[12:14], "big")
        if protocol == ETH_P_ARP:
            found.append(f"ARP for {socket.inet_ntoa(frame[38:42])}")
        elif protocol == ETH_P_IPV6 and frame[20] == ICMPV6 and frame[54] in {135, 136}:
            word = "solicitation" if frame[54] == NEIGHBOUR_SOLICITATION else "advertisement"
            found.append(f"{word} of {socket.inet_ntop(socket.AF_INET6, frame[62:78])}")
