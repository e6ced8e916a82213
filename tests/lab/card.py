"""A network card that breaks checksums inside VXLAN, between two devices given by name. Runs in the fabric.

The kernel leaves checksums to the card: what it hands over has none yet. This one makes those of ordinary packets,
and of the outer packets of a tunnel, and forgets the inner ones, as some real ones do. It says `ready`, and
works until it is killed.
"""

from __future__ import annotations

import select
import socket
import struct
import sys

SOL_PACKET, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 23, 3
IPV4, TCP, UDP = 0x0800, 6, 17


def finished(frame: bytearray) -> bytearray:
    """With the outer checksum in place: for UDP over IPv4 none is as good as a right one (RFC 768)."""
    if len(frame) < 34 or struct.unpack_from("!H", frame, 12)[0] != IPV4:
        return frame
    at, protocol = 14 + (frame[14] & 15) * 4, frame[23]
    end = 14 + struct.unpack_from("!H", frame, 16)[0]
    if protocol == UDP:
        frame[at + 6 : at + 8] = b"\0\0"
    elif protocol == TCP:
        frame[at + 16 : at + 18] = b"\0\0"
        summed = bytes(frame[26:34]) + struct.pack("!HH", TCP, end - at) + bytes(frame[at:end])
        summed += bytes(len(summed) % 2)
        total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", frame, at + 16, ~total & 0xFFFF)
    return frame


def work(names: list[str]) -> None:
    """For ever."""
    ends = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) for _ in names]
    for end, name in zip(ends, names, strict=True):
        end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        end.bind((name, ETH_P_ALL))
    others = dict(zip(ends, reversed(ends), strict=True))
    print("ready", flush=True)
    while True:
        for end in select.select(ends, [], [])[0]:
            try:
                others[end].send(finished(bytearray(end.recv(65536))))
            except (
                OSError
            ) as error:  # larger than the device's MTU: the hosts are set to cut before they send
                print(error, file=sys.stderr)


if __name__ == "__main__":
    work(sys.argv[1:3])
