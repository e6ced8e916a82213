"""The programs at the ports: what happens to a packet. Pure.

`netagent_count`, for packets from the container:

1. TCP: only a SYN without ACK opens. All other segments are let go after some twenty instructions, and touch no
   memory but their own headers.
2. Datagrams (UDP, UDP-Lite, DCCP, SCTP): the first one between two ends, unless either has sent one to the other
   within KEPT. Which ends have is remembered in the interface's own slots, by a hash that is the same in both
   directions. Where another flow has taken its slot, a datagram from a port below 32768 to one above is an answer:
   clients' ports are chosen from there. An echo request of ICMP counts as a datagram between its identifier and no
   port.
3. An opening is counted with its flow, if that has an element or the interface has room for one more; otherwise with
   those that the interface left out.

`netagent_heard`, for packets to the container, only remembers datagrams, so that the container's answers are none.

`netagent_inward`, for packets that leave by the bridge itself: what the host sends to containers, and what it
forwards to them. What containers send each other goes from port to port, and is not seen here. A packet that no
device has received is the host's own. All others come in by published ports, since nothing else is forwarded to
containers; this includes those of a container that uses an address of the host. Openings are counted as above, by
their destination alone: outsiders may be as many as they like. What goes to all is no opening. So that answers to
containers are none, `netagent_heard` sees what arrives at the bridge. The containers of a network share the
bridge's slots: where another flow has taken the slot, any datagram to a port above 32767 is an answer.

`netagent_refuse`, for packets that arrive at the bridge itself: the firewall marks what no link allows and delivers
it there (netagent.firewall.policy). If it opened a flow that is counted, that has one more refusal.

Fragments but the first, and what follows an extension header of IPv6, are not counted. The programs change nothing
that is sent, and let all go on.
"""

from __future__ import annotations

import sys
from typing import Final

from netagent.datapath.bpf.instructions import Assembler, Label, Register
from netagent.datapath.flows.layout import (
    FIRST_AT,
    FLOWS,
    FLOWS_AT,
    LAST_AT,
    LEFT_OUT_AT,
    MAPPED,
    MOST_FLOWS_OF_BRIDGE,
    MOST_FLOWS_OF_PORT,
    NUMBER_AT,
    OPENINGS_AT,
    RECENT,
    REFUSED_AT,
    SHARES,
    SLOT_BYTES,
    SLOTS,
    TAG_AT,
    TIME_AT,
    Opener,
    network_order,
)

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = Register
CONTEXT: Final = R6

# Functions of the kernel.
_MAP_LOOKUP, _MAP_UPDATE, _KTIME, _PULL_DATA = 1, 2, 5, 39
_ONLY_NEW: Final = 1

# struct __sk_buff
_MARK, _PROTOCOL, _FROM_INDEX, _INDEX, _TC_INDEX, _DATA, _DATA_END = 8, 16, 36, 40, 44, 76, 80
"""_FROM_INDEX: of the device that received the packet last; 0 for those of the host itself."""

_ETHER_BYTES: Final = 14
_TCP, _UDP, _DCCP, _SCTP, _UDPLITE = 6, 17, 33, 132, 136
_DATAGRAMS: Final = (_UDP, _DCCP, _SCTP, _UDPLITE)
_SYN, _SYN_ACK = 0x02, 0x12
_GO_ON: Final = -1
"""TCX_NEXT: other programs and filters follow."""

# The stack. The key of a flow, the hash of both ends, the device's index, the place, and the value of a new flow.
_KEY_AT: Final = -24
_KEY_SOURCE, _KEY_PORT, _KEY_PROTOCOL, _KEY_ADDRESS = _KEY_AT, _KEY_AT + 4, _KEY_AT + 6, _KEY_AT + 8
_HASH_AT: Final = -32
_SOURCE_PORT_AT: Final = -28
_INDEX_AT: Final = -40
_PLACE_AT: Final = -36
_VALUE_AT: Final = -72

_GOLDEN: Final = 2654435761 - (1 << 32)
_OTHER_ODD: Final = 0x9E3779B1 - (1 << 32) ^ 0x5BD1E994
TIME_BITS: Final = 30
"""A slot's time is in units of 2^30 ns, about a second."""
KEPT: Final = 168
"""Of these units: three minutes, as long as policy `links` expects answers."""
_REFRESHED: Final = 8


def count() -> Assembler:
    """Return the program for packets from the container."""
    return _program(counts=True)


def heard() -> Assembler:
    """Return the program for packets to the container, and for those that arrive at the bridge."""
    return _program(counts=False)


def inward() -> Assembler:
    """Return the program for packets that leave by the bridge."""
    return _program(counts=True, is_inward=True)


def refused(mark: int) -> Assembler:
    """Return the program for packets that the firewall has marked so and delivered to the bridge."""
    asm, done, ipv6, opened = Assembler(), Label(), Label(), Label()
    asm.move(CONTEXT, R1)
    asm.load(4, R1, CONTEXT, _MARK)
    asm.jump_if(R1, "!=", mark, done, width=4)
    asm.load(4, R1, CONTEXT, _TC_INDEX)
    asm.jump_if(R1, "==", 0, done)
    asm.load(4, R1, CONTEXT, _PROTOCOL)
    asm.jump_if(R1, "==", network_order(0x86DD), ipv6)
    asm.jump_if(R1, "!=", network_order(0x0800), done)
    _family(asm, done, opened, opened, is_ipv6=False, counts=True)
    asm.place(ipv6)
    _family(asm, done, opened, opened, is_ipv6=True, counts=True)
    asm.place(opened)
    asm.load(4, R1, CONTEXT, _TC_INDEX)
    asm.store(4, FP, _KEY_SOURCE, R1)
    _look_up(asm, FLOWS.name, _KEY_AT)
    asm.jump_if(R0, "==", 0, done)
    asm.move(R1, 1)
    asm.atomic_add(R0, REFUSED_AT, R1)
    asm.place(done)
    asm.exit(_GO_ON)
    return asm


def _program(*, counts: bool, is_inward: bool = False) -> Assembler:
    asm, done, ipv6, datagram, opened = Assembler(), Label(), Label(), Label(), Label()
    asm.move(CONTEXT, R1)
    if counts and not is_inward:
        # The kernel keeps tc_index when a packet leaves a namespace, so a program or a queueing discipline within the
        # container may have written another's number there. Of each packet, since a refused one need not be counted.
        asm.move(R1, 0)
        asm.store(4, CONTEXT, _TC_INDEX, R1)
    asm.load(4, R1, CONTEXT, _PROTOCOL)
    asm.jump_if(R1, "==", network_order(0x86DD), ipv6)
    asm.jump_if(R1, "!=", network_order(0x0800), done)
    _family(asm, done, datagram, opened, is_ipv6=False, counts=counts)
    asm.place(ipv6)
    _family(asm, done, datagram, opened, is_ipv6=True, counts=counts)
    asm.place(datagram)
    _pass_only_first_datagrams(asm, done, counts=counts, is_inward=is_inward)
    if counts:
        asm.place(opened)
        _place(asm, done, is_inward=is_inward)
        _count(asm, done, is_inward=is_inward)
    asm.place(done)
    asm.exit(_GO_ON)
    return asm


def _family(
    asm: Assembler, done: Label, datagram: Label, opened: Label, *, is_ipv6: bool, counts: bool
) -> None:
    """Go on at `opened` for a TCP segment that opens, at `datagram` with the hash on the stack, or at `done`. Both
    with the key of the flow on the stack."""
    head = _ETHER_BYTES + (40 if is_ipv6 else 20)
    _need(asm, done, head)
    if is_ipv6:
        asm.load(1, R9, R7, _ETHER_BYTES + 6)
        asm.move(R5, R7)
        asm.add(R5, head)
    else:
        asm.load(2, R1, R7, _ETHER_BYTES + 6)
        asm.jump_if(R1, "&", network_order(0x1FFF), done)
        asm.load(1, R9, R7, _ETHER_BYTES + 9)
        asm.load(1, R1, R7, _ETHER_BYTES)
        asm.bitwise_and(R1, 0xF)
        asm.multiply(R1, 4)
        asm.move(R5, R7)
        asm.add(R5, R1)
        asm.add(R5, _ETHER_BYTES)
    has_ports, is_datagram, counted = Label(), Label(), Label()
    asm.jump_if(R9, "!=", _TCP, is_datagram)
    if counts:
        _need_from(asm, done, R5, 14)
        asm.load(1, R1, R5, 13)
        asm.bitwise_and(R1, _SYN_ACK)
        asm.jump_if(R1, "!=", _SYN, done)
        _write_key(asm, is_ipv6=is_ipv6)
        asm.jump(opened)
    else:
        asm.jump(done)
    asm.place(is_datagram)
    for protocol in _DATAGRAMS:
        asm.jump_if(R9, "==", protocol, has_ports)
    if not counts:
        asm.jump(done)
    else:
        asm.jump_if(R9, "!=", 58 if is_ipv6 else 1, done)
        _need_from(asm, done, R5, 8)
        asm.load(1, R1, R5, 0)
        asm.jump_if(R1, "!=", 128 if is_ipv6 else 8, done)
        # The identifier takes the place of the source's port, and no port that of the destination's.
        asm.load(2, R3, R5, 4)
        asm.move(R4, 0)
        _write_key(asm, is_ipv6=is_ipv6, port=R4)
        asm.jump(counted)
    asm.place(has_ports)
    _need_from(asm, done, R5, 8)
    asm.load(2, R3, R5, 0)
    asm.load(2, R4, R5, 2)
    _write_key(asm, is_ipv6=is_ipv6, port=R4)
    asm.place(counted)
    asm.store(4, FP, _SOURCE_PORT_AT, R3)
    _hash(asm, is_ipv6=is_ipv6)
    asm.jump(datagram)


def _need(asm: Assembler, done: Label, count_: int) -> None:
    """Set R7 to the packet and R8 to the end of what can be read of it, if that are so many octets."""
    enough = Label()
    asm.load(4, R7, CONTEXT, _DATA)
    asm.load(4, R8, CONTEXT, _DATA_END)
    asm.move(R1, R7)
    asm.add(R1, count_)
    asm.jump_if(R8, ">=", R1, enough)
    # The headers are in a fragment of the buffer, which takes a packet that was built for it.
    asm.move(R1, CONTEXT)
    asm.move(R2, count_ + 20)
    asm.call(_PULL_DATA)
    asm.load(4, R7, CONTEXT, _DATA)
    asm.load(4, R8, CONTEXT, _DATA_END)
    asm.move(R1, R7)
    asm.add(R1, count_)
    asm.jump_if(R8, ">=", R1, enough)
    asm.jump(done)
    asm.place(enough)


def _need_from(asm: Assembler, done: Label, base: Register, count_: int) -> None:
    enough = Label()
    asm.move(R1, base)
    asm.add(R1, count_)
    asm.jump_if(R8, ">=", R1, enough)
    asm.jump(done)
    asm.place(enough)


def _write_key(asm: Assembler, *, is_ipv6: bool, port: Register | None = None) -> None:
    """Write the key of the flow to the stack; the packet is at R7, what IP carries at R5, its protocol in R9."""
    asm.load(4, R1, CONTEXT, _INDEX)
    asm.store(4, FP, _INDEX_AT, R1)
    if port is None:
        asm.load(2, R1, R5, 2)
    asm.store(2, FP, _KEY_PORT, R1 if port is None else port)
    asm.store(2, FP, _KEY_PROTOCOL, 0)
    asm.store(1, FP, _KEY_PROTOCOL, R9)
    if is_ipv6:
        for at in range(0, 16, 4):
            asm.load(4, R1, R7, _ETHER_BYTES + 24 + at)
            asm.store(4, FP, _KEY_ADDRESS + at, R1)
    else:
        asm.store(8, FP, _KEY_ADDRESS, 0)
        asm.store(4, FP, _KEY_ADDRESS + 8, int.from_bytes(MAPPED[8:], sys.byteorder, signed=True))
        asm.load(4, R1, R7, _ETHER_BYTES + 16)
        asm.store(4, FP, _KEY_ADDRESS + 12, R1)


def _hash(asm: Assembler, *, is_ipv6: bool) -> None:
    """Write a hash to the stack that is the same for both directions; the ports are in R3 and R4.

    Each end by itself is mixed into one number, and the sum of two does not know their order.
    """
    source, size = (_ETHER_BYTES + 8, 16) if is_ipv6 else (_ETHER_BYTES + 12, 4)
    for port, at in ((R3, source), (R4, source + size)):
        for word in range(0, size, 4):
            asm.multiply(port, _GOLDEN)
            asm.load(4, R1, R7, at + word)
            asm.exclusive_or(port, R1)
        asm.multiply(port, _GOLDEN)
        asm.move(R1, port)
        asm.shift_right(R1, 15)
        asm.exclusive_or(port, R1)
        asm.multiply(port, _OTHER_ODD)
    asm.add(R3, R4)
    asm.exclusive_or(R3, R9)
    asm.store(4, FP, _HASH_AT, R3)


def _look_up(asm: Assembler, name: str, at: int) -> None:
    asm.load_map(R1, name)
    asm.move(R2, FP)
    asm.add(R2, at)
    asm.call(_MAP_LOOKUP)


def _pass_only_first_datagrams(asm: Assembler, done: Label, *, counts: bool, is_inward: bool) -> None:
    """Remember that these two ends talk; go on behind if that was not known and `counts`."""
    fresh, again, taken, is_opening = Label(), Label(), Label(), Label()
    _look_up(asm, RECENT.name, _INDEX_AT)
    asm.jump_if(R0, "==", 0, done)
    asm.move(R8, R0)
    asm.load(4, R9, FP, _HASH_AT)
    asm.move(R1, R9)
    asm.shift_right(R1, 16)
    asm.bitwise_and(R1, SLOTS - 1)
    asm.multiply(R1, SLOT_BYTES)
    asm.add(R8, R1)
    asm.call(_KTIME)
    asm.shift_right(R0, TIME_BITS, width=8)
    asm.load(4, R2, R8, TIME_AT)
    asm.jump_if(R2, "==", 0, fresh)
    asm.move(R1, R0)
    asm.subtract(R1, R2)
    asm.jump_if(R1, ">=", KEPT, fresh)
    asm.load(4, R2, R8, TAG_AT)
    asm.jump_if(R2, "!=", R9, taken, width=4)
    # Read before it is written, because processors that write to one line of memory wait for each other.
    asm.jump_if(R1, ">=", _REFRESHED, again)
    asm.jump(done)
    asm.place(again)
    asm.store(4, R8, TIME_AT, R0)
    asm.jump(done)
    asm.place(taken)
    asm.store(4, R8, TAG_AT, R9)
    asm.store(4, R8, TIME_AT, R0)
    if counts:
        # The first octets of ports as packets have them: from 32768 on they have the highest bit.
        may_answer = Label()
        asm.load(1, R1, FP, _KEY_PORT)
        asm.jump_if(R1, "&", 0x80, may_answer)
        asm.jump(is_opening)
        asm.place(may_answer)
        if not is_inward:
            asm.load(1, R1, FP, _SOURCE_PORT_AT)
            asm.jump_if(R1, "&", 0x80, is_opening)
    asm.jump(done)
    asm.place(fresh)
    asm.store(4, R8, TAG_AT, R9)
    asm.store(4, R8, TIME_AT, R0)
    if not counts:
        asm.jump(done)
    asm.place(is_opening)


def _low_half(at: int) -> int:
    """Return where the lower half of eight bytes in memory is."""
    return at if sys.byteorder == "little" else at + 4


def _place(asm: Assembler, done: Label, *, is_inward: bool) -> None:
    """Write to the stack where the opening comes from; go on at `done` if it goes to all. The packet is at R7."""
    outside = Label()
    asm.load(4, R1, CONTEXT, _INDEX)
    if is_inward:
        asm.load(1, R2, R7, 0)
        asm.jump_if(R2, "&", 1, done)
        asm.load(4, R2, CONTEXT, _FROM_INDEX)
        asm.add(R1, Opener.OUTSIDE)
        asm.jump_if(R2, "!=", 0, outside)
        asm.add(R1, Opener.HOST - Opener.OUTSIDE)
        asm.place(outside)
    asm.store(4, FP, _PLACE_AT, R1)


def _count(asm: Assembler, done: Label, *, is_inward: bool) -> None:
    """Count an opening with its flow."""
    known, full, absent, left_out = Label(), Label(), Label(), Label()
    _look_up(asm, SHARES.name, _PLACE_AT)
    asm.jump_if(R0, "==", 0, done)
    asm.move(R8, R0)
    asm.load(4, R1, R8, _low_half(NUMBER_AT))
    asm.store(4, FP, _KEY_SOURCE, R1)
    if not is_inward:
        asm.store(4, CONTEXT, _TC_INDEX, R1)
    asm.call(_KTIME)
    asm.move(R9, R0)
    _look_up(asm, FLOWS.name, _KEY_AT)
    asm.jump_if(R0, "!=", 0, known)
    asm.load(8, R1, R8, FLOWS_AT)
    asm.jump_if(R1, ">=", MOST_FLOWS_OF_BRIDGE if is_inward else MOST_FLOWS_OF_PORT, left_out)
    asm.store(8, FP, _VALUE_AT + OPENINGS_AT, 1)
    asm.store(8, FP, _VALUE_AT + REFUSED_AT, 0)
    asm.store(8, FP, _VALUE_AT + FIRST_AT, R9)
    asm.store(8, FP, _VALUE_AT + LAST_AT, R9)
    asm.load_map(R1, FLOWS.name)
    asm.move(R2, FP)
    asm.add(R2, _KEY_AT)
    asm.move(R3, FP)
    asm.add(R3, _VALUE_AT)
    asm.move(R4, _ONLY_NEW)
    asm.call(_MAP_UPDATE)
    asm.jump_if(R0, "!=", 0, full)
    asm.move(R1, 1)
    asm.atomic_add(R8, FLOWS_AT, R1)
    asm.jump(done)
    asm.place(full)
    # Either another processor has counted the same flow's first opening just now, or the table is full.
    _look_up(asm, FLOWS.name, _KEY_AT)
    asm.jump_if(R0, "==", 0, absent)
    asm.place(known)
    asm.move(R1, 1)
    asm.atomic_add(R0, OPENINGS_AT, R1)
    asm.store(8, R0, LAST_AT, R9)
    asm.jump(done)
    asm.place(absent)
    asm.place(left_out)
    asm.move(R1, 1)
    asm.atomic_add(R8, LEFT_OUT_AT, R1)
