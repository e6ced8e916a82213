"""The programs that take TCP segments past VXLAN. Pure.

`outward`, for what leaves by a network's VXLAN device: a frame with a TCP segment, to a MAC on a host that takes such
segments, becomes a packet as `layout` says, and goes to the tunnel's device. Everything else, and all in doubt, goes
on to VXLAN: other protocols, the SYN of a connection, fragments, headers with options. A SYN may come before the
records that say where its sender is; by the time of the answer both hosts have them.

`inward`, for what arrives by the tunnel's device: such a packet becomes the frame again, and arrives at the VXLAN
device as if that had unwrapped it. One from a host that does not have the MAC of the sender is dropped. What is no
such packet goes on to the firewall, which lets nothing but VXLAN in from there.

A segment may stand for up to 64 KiB of them (GSO): nothing here splits it, which is what it is for.
"""

from __future__ import annotations

from typing import Final

from netagent.datapath.bpf.instructions import Assembler, Label, Register
from netagent.datapath.direct.layout import (
    COMMON_BYTES,
    FAR,
    FAR_FROM,
    FAR_TAKES,
    FAR_TO,
    HEAD_BYTES,
    INWARD,
    INWARD_COMMON,
    INWARD_DEVICE,
    IPV4_FIRST,
    IPV6_FIRST,
    NEAR,
    NEAR_COMMON,
    NEAR_HEAD,
    NEAR_TUNNEL,
    NEAR_VNI,
)
from netagent.datapath.flows.layout import network_order

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = Register
CONTEXT: Final = R6

# Functions of the kernel.
_MAP_LOOKUP, _STORE_BYTES, _CHECKSUM_REPLACE, _VLAN_POP = 1, 9, 11, 19
_REDIRECT, _LOAD_BYTES, _CHECKSUM_DIFFERENCE, _CHANGE_PROTOCOL, _CHANGE_HEAD = 23, 26, 28, 31, 43
_PSEUDO_HEADER: Final = 1 << 4
_AT_INGRESS: Final = 1

# struct __sk_buff
_LENGTH, _PROTOCOL, _VLAN_PRESENT, _VLAN, _INDEX = 0, 16, 20, 24, 40

_GO_ON: Final = -1
"""TCX_NEXT: other programs and filters follow."""
_DROP: Final = 2
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP: Final = 6
_SYN: Final = 0x02
_ETHER, _FOUR, _SIX = 14, 20, 40
"""Sizes of headers."""
_FLAGS_AT, _CHECKSUM_AT = 13, 16
"""In TCP's header."""
_MOST_BYTES: Final = 65_000
"""wireguard-go reads no packet of more than 65,535 bytes, and IPv6's header is longer than IPv4's."""
_VLAN_MASK: Final = 0xFFF

# The stack. The frame's headers, the headers that take their place, a key of a table, and two words.
_FRAME_AT: Final = -64
"""Ethernet's begins two octets further down, so that IP's is aligned."""
_ETHER_AT: Final = _FRAME_AT + 2
_IP_AT: Final = _ETHER_AT + _ETHER
_NEW_AT: Final = -112
_SOURCE_AT, _TARGET_AT = _NEW_AT + 8, _NEW_AT + 24
_KEY_AT: Final = -128
_TUNNEL_AT: Final = -136
_FLAG_AT: Final = -132
_FOUR_AT: Final = -160
"""IPv4's header, of a packet that arrives."""


def outward() -> Assembler:
    """Return the program for what leaves by a VXLAN device."""
    asm, done, ipv6, untagged = Assembler(), Label(), Label(), Label()
    asm.move(CONTEXT, R1)
    asm.load(4, R1, CONTEXT, _LENGTH)
    asm.jump_if(R1, ">=", _MOST_BYTES, done)
    asm.load(4, R1, CONTEXT, _VLAN_PRESENT)
    asm.jump_if(R1, "==", 0, untagged)
    # The tag of VLAN 0 is ours (netagent.datapath.reconcile.bridge_nf_bypass), and would be taken off further on.
    asm.load(4, R1, CONTEXT, _VLAN)
    asm.bitwise_and(R1, _VLAN_MASK)
    asm.jump_if(R1, "!=", 0, done)
    asm.move(R1, CONTEXT)
    asm.call(_VLAN_POP)
    asm.jump_if(R0, "!=", 0, done)
    asm.place(untagged)
    asm.load(4, R1, CONTEXT, _INDEX)
    asm.store(4, FP, _KEY_AT, R1)
    _look_up(asm, NEAR.name)
    asm.jump_if(R0, "==", 0, done)
    asm.move(R7, R0)
    asm.load(4, R1, CONTEXT, _PROTOCOL)
    asm.jump_if(R1, "==", network_order(_IPV6), ipv6)
    asm.jump_if(R1, "!=", network_order(_IPV4), done)
    _outward(asm, done, is_ipv6=False)
    asm.place(ipv6)
    _outward(asm, done, is_ipv6=True)
    asm.place(done)
    asm.exit(_GO_ON)
    return asm


def _outward(asm: Assembler, done: Label, *, is_ipv6: bool) -> None:
    size = _SIX if is_ipv6 else _FOUR
    source, target, tail = (
        (_IP_AT + 8, _IP_AT + 24, COMMON_BYTES) if is_ipv6 else (_IP_AT + 12, _IP_AT + 16, 0)
    )
    _load_bytes(asm, done, 0, _ETHER_AT, _ETHER + size)
    _load_bytes(asm, done, _ETHER + size + _FLAGS_AT, _FLAG_AT, 1)
    asm.load(1, R1, FP, _FLAG_AT)
    asm.jump_if(R1, "&", _SYN, done)
    if is_ipv6:
        asm.load(1, R1, FP, _IP_AT + 6)
        asm.jump_if(R1, "!=", _TCP, done)
        for address in (source, target):
            for at in range(0, COMMON_BYTES, 4):
                asm.load(4, R1, FP, address + at)
                asm.load(4, R2, R7, NEAR_COMMON + at)
                asm.jump_if(R1, "!=", R2, done)
    else:
        asm.load(1, R1, FP, _IP_AT)
        asm.jump_if(R1, "!=", 0x45, done)
        # Neither a fragment nor to be fragmented: its identification is of no use, and gets lost.
        asm.load(2, R1, FP, _IP_AT + 6)
        asm.jump_if(R1, "!=", network_order(0x4000), done)
        asm.load(1, R1, FP, _IP_AT + 9)
        asm.jump_if(R1, "!=", _TCP, done)
    asm.load(4, R1, R7, NEAR_VNI)
    asm.store(4, FP, _KEY_AT, R1)
    _copy(asm, FP, _ETHER_AT, _KEY_AT + 4, HEAD_BYTES)
    asm.store(2, FP, _KEY_AT + 10, 0)
    _look_up(asm, FAR.name)
    asm.jump_if(R0, "==", 0, done)
    asm.load(4, R1, R0, FAR_TAKES)
    asm.jump_if(R1, "==", 0, done)
    _copy(asm, R0, FAR_TO, _TARGET_AT, HEAD_BYTES)
    _copy(asm, R7, NEAR_HEAD, _SOURCE_AT, HEAD_BYTES)
    asm.load(4, R8, R7, NEAR_TUNNEL)
    _copy(asm, FP, _ETHER_AT, _TARGET_AT + HEAD_BYTES, 6)
    _copy(asm, FP, _ETHER_AT + 6, _SOURCE_AT + HEAD_BYTES, 6)
    for at, to in ((source + tail, _SOURCE_AT + 12), (target + tail, _TARGET_AT + 12)):
        asm.load(4, R1, FP, at)
        asm.store(4, FP, to, R1)
    if is_ipv6:
        for at in (_SOURCE_AT, _TARGET_AT):
            asm.store(1, FP, at, IPV6_FIRST)
    _difference(asm, source, 32 if is_ipv6 else 8, _SOURCE_AT, 32)
    if is_ipv6:
        _store_bytes(asm, done, _ETHER + 8, _SOURCE_AT, 32)
    else:
        _head_of_six(asm)
        asm.move(R1, CONTEXT)
        asm.move(R2, network_order(_IPV6))
        asm.move(R3, 0)
        asm.call(_CHANGE_PROTOCOL)
        asm.jump_if(R0, "!=", 0, done)
        _store_bytes(asm, done, _ETHER, _NEW_AT, _SIX)
    _replace_checksum(asm, _ETHER + _SIX + _CHECKSUM_AT)
    _redirect(asm, R8, 0)


def _head_of_six(asm: Assembler) -> None:
    """Write the first eight octets of IPv6's header for the IPv4 packet on the stack."""
    asm.load(1, R1, FP, _IP_AT + 1)
    asm.move(R2, R1)
    asm.shift_right(R2, 4)
    asm.add(R2, 0x60)
    asm.store(1, FP, _NEW_AT, R2)
    asm.multiply(R1, 16)
    asm.store(1, FP, _NEW_AT + 1, R1)
    asm.store(2, FP, _NEW_AT + 2, 0)
    asm.load(1, R1, FP, _IP_AT + 2)
    asm.multiply(R1, 256)
    asm.load(1, R2, FP, _IP_AT + 3)
    asm.add(R1, R2)
    asm.add(R1, -_FOUR)
    asm.store(1, FP, _NEW_AT + 5, R1)
    asm.shift_right(R1, 8)
    asm.store(1, FP, _NEW_AT + 4, R1)
    asm.store(1, FP, _NEW_AT + 6, _TCP)
    asm.load(1, R1, FP, _IP_AT + 8)
    asm.store(1, FP, _NEW_AT + 7, R1)


def inward() -> Assembler:
    """Return the program for what arrives by the tunnel's device."""
    asm, done, drop, ipv4 = Assembler(), Label(), Label(), Label()
    asm.move(CONTEXT, R1)
    asm.load(4, R1, CONTEXT, _PROTOCOL)
    asm.jump_if(R1, "!=", network_order(_IPV6), done)
    _load_bytes(asm, done, 0, _NEW_AT, _SIX)
    asm.load(1, R1, FP, _SOURCE_AT)
    asm.load(1, R2, FP, _TARGET_AT)
    asm.jump_if(R1, "!=", R2, done)
    asm.load(1, R1, FP, _NEW_AT + 6)
    asm.jump_if(R1, "!=", _TCP, done)
    # The VNI, of its two halves.
    asm.load(1, R9, FP, _SOURCE_AT + 4)
    asm.bitwise_and(R9, 0xF)
    for address, at, mask in ((_SOURCE_AT, 5, 0xFF), (_TARGET_AT, 4, 0xF), (_TARGET_AT, 5, 0xFF)):
        asm.multiply(R9, 16 if mask == 0xF else 256)
        asm.load(1, R1, FP, address + at)
        asm.bitwise_and(R1, mask)
        asm.add(R9, R1)
    asm.store(4, FP, _KEY_AT, R9)
    _look_up(asm, INWARD.name)
    asm.jump_if(R0, "==", 0, done)
    asm.move(R7, R0)
    asm.load(4, R8, R7, INWARD_DEVICE)
    _copy(asm, FP, _SOURCE_AT + HEAD_BYTES, _KEY_AT + 4, 6)
    asm.store(2, FP, _KEY_AT + 10, 0)
    _look_up(asm, FAR.name)
    asm.jump_if(R0, "==", 0, drop)
    asm.load(1, R9, FP, _SOURCE_AT)
    # WireGuard has made sure of the sending host; this, that the sender's MAC is there. The first octet is the
    # family's, and the same in the table for both.
    asm.store(1, FP, _SOURCE_AT, IPV4_FIRST)
    for at in range(0, HEAD_BYTES, 2):
        asm.load(2, R1, FP, _SOURCE_AT + at)
        asm.load(2, R2, R0, FAR_FROM + at)
        asm.jump_if(R1, "!=", R2, drop)
    asm.store(1, FP, _SOURCE_AT, R9)
    _copy(asm, FP, _TARGET_AT + HEAD_BYTES, _ETHER_AT, 6)
    _copy(asm, FP, _SOURCE_AT + HEAD_BYTES, _ETHER_AT + 6, 6)
    asm.jump_if(R9, "==", IPV4_FIRST, ipv4)
    asm.jump_if(R9, "!=", IPV6_FIRST, drop)
    _inward(asm, drop, is_ipv6=True)
    asm.place(ipv4)
    _inward(asm, drop, is_ipv6=False)
    asm.place(drop)
    asm.exit(_DROP)
    asm.place(done)
    asm.exit(_GO_ON)
    return asm


def _inward(asm: Assembler, drop: Label, *, is_ipv6: bool) -> None:
    asm.store(2, FP, _ETHER_AT + 12, network_order(_IPV6 if is_ipv6 else _IPV4))
    if is_ipv6:
        for address, old in ((_IP_AT, _SOURCE_AT), (_IP_AT + 16, _TARGET_AT)):
            for at in range(0, COMMON_BYTES, 4):
                asm.load(4, R1, R7, INWARD_COMMON + at)
                asm.store(4, FP, address + at, R1)
            asm.load(4, R1, FP, old + COMMON_BYTES)
            asm.store(4, FP, address + COMMON_BYTES, R1)
        _difference(asm, _SOURCE_AT, 32, _IP_AT, 32)
        _store_bytes(asm, drop, 8, _IP_AT, 32)
    else:
        _head_of_four(asm)
        _difference(asm, _SOURCE_AT, 32, _FOUR_AT + 12, 8)
        asm.move(R1, CONTEXT)
        asm.move(R2, network_order(_IPV4))
        asm.move(R3, 0)
        asm.call(_CHANGE_PROTOCOL)
        asm.jump_if(R0, "!=", 0, drop)
        _store_bytes(asm, drop, 0, _FOUR_AT, _FOUR)
    _replace_checksum(asm, (_SIX if is_ipv6 else _FOUR) + _CHECKSUM_AT)
    asm.move(R1, CONTEXT)
    asm.move(R2, _ETHER)
    asm.move(R3, 0)
    asm.call(_CHANGE_HEAD)
    asm.jump_if(R0, "!=", 0, drop)
    _store_bytes(asm, drop, 0, _ETHER_AT, _ETHER)
    _redirect(asm, R8, _AT_INGRESS)


def _head_of_four(asm: Assembler) -> None:
    """Write IPv4's header for the IPv6 packet on the stack."""
    asm.store(1, FP, _FOUR_AT, 0x45)
    asm.load(1, R1, FP, _NEW_AT)
    asm.multiply(R1, 16)
    asm.load(1, R2, FP, _NEW_AT + 1)
    asm.shift_right(R2, 4)
    asm.add(R1, R2)
    asm.store(1, FP, _FOUR_AT + 1, R1)
    asm.load(1, R1, FP, _NEW_AT + 4)
    asm.multiply(R1, 256)
    asm.load(1, R2, FP, _NEW_AT + 5)
    asm.add(R1, R2)
    asm.add(R1, _FOUR)
    asm.store(1, FP, _FOUR_AT + 3, R1)
    asm.shift_right(R1, 8)
    asm.store(1, FP, _FOUR_AT + 2, R1)
    asm.store(2, FP, _FOUR_AT + 4, 0)
    asm.store(2, FP, _FOUR_AT + 6, network_order(0x4000))
    asm.load(1, R1, FP, _NEW_AT + 7)
    asm.store(1, FP, _FOUR_AT + 8, R1)
    asm.store(1, FP, _FOUR_AT + 9, _TCP)
    asm.store(2, FP, _FOUR_AT + 10, 0)
    for at, to in ((_SOURCE_AT + 12, 12), (_TARGET_AT + 12, 16)):
        asm.load(4, R1, FP, at)
        asm.store(4, FP, _FOUR_AT + to, R1)
    _difference(asm, _FOUR_AT, 0, _FOUR_AT, _FOUR)
    for _ in range(2):
        asm.move(R1, R9)
        asm.bitwise_and(R1, 0xFFFF)
        asm.shift_right(R9, 16)
        asm.add(R9, R1)
    asm.move(R1, 0xFFFF)
    asm.exclusive_or(R9, R1)
    asm.store(2, FP, _FOUR_AT + 10, R9)


def _look_up(asm: Assembler, name: str) -> None:
    asm.load_map(R1, name)
    asm.move(R2, FP)
    asm.add(R2, _KEY_AT)
    asm.call(_MAP_LOOKUP)


def _copy(asm: Assembler, base: Register, at: int, to: int, count: int) -> None:
    """Copy to the stack by halves of words, as which all of it is aligned."""
    for step in range(0, count, 2):
        asm.load(2, R1, base, at + step)
        asm.store(2, FP, to + step, R1)


def _load_bytes(asm: Assembler, done: Label, offset: int, to: int, count: int) -> None:
    asm.move(R1, CONTEXT)
    asm.move(R2, offset)
    asm.move(R3, FP)
    asm.add(R3, to)
    asm.move(R4, count)
    asm.call(_LOAD_BYTES)
    asm.jump_if(R0, "!=", 0, done)


def _store_bytes(asm: Assembler, failed: Label, offset: int, at: int, count: int) -> None:
    asm.move(R1, CONTEXT)
    asm.move(R2, offset)
    asm.move(R3, FP)
    asm.add(R3, at)
    asm.move(R4, count)
    asm.move(R5, 0)
    asm.call(_STORE_BYTES)
    asm.jump_if(R0, "!=", 0, failed)


def _difference(asm: Assembler, old: int, old_bytes: int, new: int, new_bytes: int) -> None:
    """Set R9 to what the sum of the new octets has more than that of the old ones."""
    asm.move(R1, FP)
    asm.add(R1, old)
    asm.move(R2, old_bytes)
    asm.move(R3, FP)
    asm.add(R3, new)
    asm.move(R4, new_bytes)
    asm.move(R5, 0)
    asm.call(_CHECKSUM_DIFFERENCE)
    asm.move(R9, R0)


def _replace_checksum(asm: Assembler, offset: int) -> None:
    """Add R9 to TCP's checksum, of which the addresses are part."""
    asm.move(R1, CONTEXT)
    asm.move(R2, offset)
    asm.move(R3, 0)
    asm.move(R4, R9)
    asm.move(R5, _PSEUDO_HEADER)
    asm.call(_CHECKSUM_REPLACE)


def _redirect(asm: Assembler, device: Register, flags: int) -> None:
    asm.move(R1, device)
    asm.move(R2, flags)
    asm.call(_REDIRECT)
    asm.exit()
