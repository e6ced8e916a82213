"""The eight programs at the sockets, each as instructions: what happens to the address that a call names. Pure.

`connect` and `sendmsg`, for IPv4 and IPv6 each (`_lead`):

1. The address is no service's: go on. That is all that other traffic pays, one look-up.
2. The namespace of the socket is no member of the service's network: go on. The namespace of a socket is the one that
   it was made in, whichever program uses it.
3. The service names its ports and this is none of them, or there is no backend: refuse. `connect` is led to port 0 of
   the service's address, where no program can listen; the namespace's own kernel, where the address is local, answers
   that the connection is refused. So a connect of a UDP socket never fails: ping(8) and getaddrinfo(3) make one to
   learn their own address. `sendmsg` fails with EPERM.
4. Choose a place: at random; for a datagram by the socket's cookie, so that a socket keeps its backend while the
   table stays; in a sticky service by the namespace's.
5. Write the backend's address and port into the call, mark it at the member, and remember at the socket what it
   stands for.

`recvmsg` and `getpeername` (`_name_service`) put back the service's end, if the address in question has one at this
socket. IPv4 by way of an IPv6 socket (::ffff:a.b.c.d, as of Java and Go) comes to `connect6` and takes the way of
IPv4 there; its datagrams come to `sendmsg4`.

Only functions of Linux 5.7 are called (bpf-helpers(7)); `getpeername` has a hook from 5.8 on. Written for the
verifier: all loops are written out, and each use of a pointer from a look-up follows the test that it is there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from netagent.datapath.bpf.cgroup import Hook
from netagent.datapath.bpf.instructions import Assembler, Label, Register
from netagent.datapath.sockets.layout import (
    COUNT_AT,
    END_BYTES,
    FLAGS_AT,
    GOLDEN,
    HAS_PORTS,
    MAPPED,
    MARK_SHIFT,
    MEMBERS,
    ORIGIN_BYTES,
    ORIGINS,
    ORIGINS_AT,
    ORIGINS_OF_SOCKETS,
    PLACES,
    PLACES_AT,
    PORT_AT,
    PORTS,
    SERVICES4,
    SERVICES6,
    STICKY,
)

R0, R1, R2, R3, R4, _R5, R6, R7, R8, R9, FP = Register
CONTEXT, SERVICE, CHOICE, PORT = R6, R7, R8, R9
"""What the registers that survive calls hold: the context, the service's element, first the cookie that a choice is
made by and then the place, and the port of the backend."""

# Functions of the kernel.
_MAP_LOOKUP, _RANDOM, _SOCKET_COOKIE, _SOCKET_STORAGE, _NETNS_COOKIE = 1, 7, 46, 107, 122
_CREATE: Final = 1

# struct bpf_sock_addr: the address, port and protocol that the call is about, and the socket.
_IP4, _IP6, _USER_PORT, _PROTOCOL, _SOCKET = 4, 8, 24, 36, 64
_TCP, _UDP = 6, 17

# The stack.
_MEMBER_AT: Final = -16
_MARKS_AT: Final = -72
"""Where the member's marks are."""
_BACKEND_AT: Final = -40
_SERVICE_AT: Final = -64
"""The end that the call names."""

_GO_ON, _FAIL = 1, 0
_MAPPED_WORD: Final = int.from_bytes(MAPPED[8:], sys.byteorder, signed=True)
_GOLDEN: Final = GOLDEN - (1 << 32)
"""As 32 bits with a sign. Cookies come one after another, and so do addresses."""
_MIXED_BITS: Final = 16
"""The lower bits of a product are spread worst."""


def programs() -> Mapping[Hook, tuple[str, Assembler]]:
    """Return name and instructions of the program for each hook. The four that remember come last: an exchange hook
    by hook must not leave a moment in which an origin is written that no program reads."""
    return {
        Hook.RECVMSG4: ("netagent_recv4", _name_service(is_ipv6=False)),
        Hook.RECVMSG6: ("netagent_recv6", _name_service(is_ipv6=True)),
        Hook.GETPEERNAME4: ("netagent_peer4", _name_service(is_ipv6=False)),
        Hook.GETPEERNAME6: ("netagent_peer6", _name_service(is_ipv6=True)),
        Hook.SENDMSG4: ("netagent_send4", _lead(is_ipv6=False, is_datagram=True)),
        Hook.SENDMSG6: ("netagent_send6", _lead(is_ipv6=True, is_datagram=True)),
        Hook.CONNECT4: ("netagent_conn4", _lead(is_ipv6=False, is_datagram=False)),
        Hook.CONNECT6: ("netagent_conn6", _lead(is_ipv6=True, is_datagram=False)),
    }


def _lead(*, is_ipv6: bool, is_datagram: bool) -> Assembler:
    asm, refuse, done, not_mapped = Assembler(), Label(), Label(), Label()
    asm.move(CONTEXT, R1)
    _copy_end_of_call(asm, is_ipv6=is_ipv6)
    if is_ipv6 and not is_datagram:
        for at in (0, 4):
            asm.load(4, R1, FP, _SERVICE_AT + at)
            asm.jump_if(R1, "!=", 0, not_mapped)
        asm.load(4, R1, FP, _SERVICE_AT + 8)
        asm.jump_if(R1, "!=", _MAPPED_WORD, not_mapped, width=4)
        _lead_family(asm, refuse, done, is_ipv6=False, is_datagram=False, field=_IP6 + 12)
    asm.place(not_mapped)
    _lead_family(asm, refuse, done, is_ipv6=is_ipv6, is_datagram=is_datagram, field=_IP6 if is_ipv6 else _IP4)
    asm.place(refuse)
    if is_datagram:
        asm.exit(_FAIL)
    else:
        asm.move(R1, 0)
        asm.store(4, CONTEXT, _USER_PORT, R1)
    asm.place(done)
    asm.exit(_GO_ON)
    return asm


def _lead_family(
    asm: Assembler, refuse: Label, done: Label, *, is_ipv6: bool, is_datagram: bool, field: int
) -> None:
    """Lead the end on the stack to a backend of this family, whose address goes to this `field` of the context. Ends
    at `refuse` or `done`."""
    # An IPv4 address is the last word of its end.
    _look_up(asm, SERVICES6.name if is_ipv6 else SERVICES4.name, _SERVICE_AT if is_ipv6 else _SERVICE_AT + 12)
    asm.jump_if(R0, "==", 0, done)
    asm.move(SERVICE, R0)
    _pass_only_members(asm, done)
    _find_port(asm, refuse)
    _choose_place(asm, done, is_datagram=is_datagram)
    _write_backend(asm, is_ipv6=is_ipv6, field=field)
    _mark(asm)
    _remember(asm, done)


def _pass_only_members(asm: Assembler, done: Label) -> None:
    """Leaves the cookie of the namespace in CHOICE, and its marks on the stack."""
    is_known = Label()
    asm.move(R1, CONTEXT)
    asm.call(_NETNS_COOKIE)
    asm.move(CHOICE, R0)
    asm.store(8, FP, _MEMBER_AT, CHOICE)
    asm.load(4, R1, SERVICE, 0)
    asm.store(4, FP, _MEMBER_AT + 8, R1)
    asm.store(4, FP, _MEMBER_AT + 12, 0)
    _look_up(asm, MEMBERS.name, _MEMBER_AT)
    asm.jump_if(R0, "==", 0, done)
    asm.store(8, FP, _MARKS_AT, R0)
    asm.load(4, R1, CONTEXT, _PROTOCOL)
    asm.jump_if(R1, "==", _TCP, is_known)
    asm.jump_if(R1, "!=", _UDP, done)
    asm.place(is_known)


def _find_port(asm: Assembler, refuse: Label) -> None:
    """Leaves the port of the backend in PORT."""
    any_port = Label()
    asm.load(2, PORT, FP, _SERVICE_AT + PORT_AT)
    asm.load(2, R1, SERVICE, FLAGS_AT)
    asm.bitwise_and(R1, HAS_PORTS)
    asm.jump_if(R1, "==", 0, any_port)
    _look_up(asm, PORTS.name, _SERVICE_AT)
    asm.jump_if(R0, "==", 0, refuse)
    asm.load(2, PORT, R0, 0)
    asm.place(any_port)
    asm.load(2, R1, SERVICE, COUNT_AT)
    asm.jump_if(R1, "==", 0, refuse)


def _choose_place(asm: Assembler, done: Label, *, is_datagram: bool) -> None:
    """Turns the cookie of the namespace in CHOICE into the number of a place."""
    mix, chosen = Label(), Label()
    asm.load(2, R1, SERVICE, FLAGS_AT)
    asm.bitwise_and(R1, STICKY)
    asm.jump_if(R1, "!=", 0, mix)
    if is_datagram:
        asm.move(R1, CONTEXT)
        asm.call(_SOCKET_COOKIE)
        asm.move(CHOICE, R0)
    else:
        asm.call(_RANDOM)
        asm.move(CHOICE, R0)
        asm.jump(chosen)
    asm.place(mix)
    asm.multiply(CHOICE, _GOLDEN)
    asm.shift_right(CHOICE, _MIXED_BITS)
    asm.place(chosen)
    asm.load(2, R1, SERVICE, COUNT_AT)
    asm.modulo(CHOICE, R1)
    asm.jump_if(CHOICE, ">=", PLACES, done)  # never, but the verifier does not know


def _write_backend(asm: Assembler, *, is_ipv6: bool, field: int) -> None:
    """Write the backend at this place into the call, and to the stack. Leaves a hash of its address in R2."""
    asm.multiply(CHOICE, 16 if is_ipv6 else 4)
    asm.add(SERVICE, CHOICE)
    # From here on SERVICE points into the element, so that the chosen place is PLACES_AT behind it.
    if is_ipv6:
        for at in range(0, 16, 4):
            asm.load(4, R1, SERVICE, PLACES_AT + at)
            asm.store(4, FP, _BACKEND_AT + at, R1)
            asm.store(4, CONTEXT, field + at, R1)
            if at:
                asm.exclusive_or(R2, R1)
            else:
                asm.move(R2, R1)
    else:
        _store_mapped(asm, _BACKEND_AT)
        asm.load(4, R2, SERVICE, PLACES_AT)
        asm.store(4, FP, _BACKEND_AT + 12, R2)
        asm.store(4, CONTEXT, field, R2)
    asm.store(4, CONTEXT, _USER_PORT, PORT)
    asm.store(2, FP, _BACKEND_AT + PORT_AT, PORT)
    asm.store(2, FP, _BACKEND_AT + PORT_AT + 2, 0)


def _mark(asm: Assembler) -> None:
    """Mark the backend whose hash is in R2: only namespaces with that mark are searched for connections to reset."""
    is_marked = Label()
    asm.multiply(R2, _GOLDEN)
    asm.shift_right(R2, MARK_SHIFT)
    asm.load(8, R1, FP, _MARKS_AT)
    asm.add(R1, R2)
    # Read before it is written, because processors that write to one line of memory wait for each other.
    asm.load(1, R2, R1, 0)
    asm.jump_if(R2, "!=", 0, is_marked)
    asm.store(1, R1, 0, 1)
    asm.place(is_marked)


def _remember(asm: Assembler, done: Label) -> None:
    """Note at the socket which service the backend on the stack stands for: in the place of an earlier note about the
    same backend, or else of the oldest one. Ends at `done`."""
    _socket_storage(asm, done, flags=_CREATE)
    for number in range(ORIGINS):
        at, other = ORIGINS_AT + ORIGIN_BYTES * number, Label()
        _jump_unless_same(asm, at, _BACKEND_AT, other)
        _copy_to_storage(asm, at + END_BYTES, _SERVICE_AT)
        asm.jump(done)
        asm.place(other)
    asm.load(4, R2, R0, 0)
    for number in range(ORIGINS):
        at, other = ORIGINS_AT + ORIGIN_BYTES * number, Label()
        if number < ORIGINS - 1:
            asm.jump_if(R2, "!=", number, other)
        _copy_to_storage(asm, at, _BACKEND_AT)
        _copy_to_storage(asm, at + END_BYTES, _SERVICE_AT)
        asm.store(4, R0, 0, (number + 1) % ORIGINS)
        asm.jump(done)
        asm.place(other)


def _name_service(*, is_ipv6: bool) -> Assembler:
    """The end in question is the sender of a datagram or the peer of the socket."""
    asm, done = Assembler(), Label()
    asm.move(CONTEXT, R1)
    _copy_end_of_call(asm, is_ipv6=is_ipv6)
    _socket_storage(asm, done, flags=0)
    for number in range(ORIGINS):
        at, other = ORIGINS_AT + ORIGIN_BYTES * number, Label()
        service = at + END_BYTES
        _jump_unless_same(asm, at, _SERVICE_AT, other)
        if is_ipv6:
            for word in range(0, 16, 4):
                asm.load(4, R1, R0, service + word)
                asm.store(4, CONTEXT, _IP6 + word, R1)
        else:
            asm.load(4, R1, R0, service + 12)
            asm.store(4, CONTEXT, _IP4, R1)
        asm.load(2, R1, R0, service + PORT_AT)
        asm.store(4, CONTEXT, _USER_PORT, R1)
        asm.jump(done)
        asm.place(other)
    asm.place(done)
    asm.exit(_GO_ON)
    return asm


def _copy_end_of_call(asm: Assembler, *, is_ipv6: bool) -> None:
    """Copy address and port that the call is about to the stack."""
    if is_ipv6:
        for at in range(0, 16, 4):
            asm.load(4, R1, CONTEXT, _IP6 + at)
            asm.store(4, FP, _SERVICE_AT + at, R1)
    else:
        _store_mapped(asm, _SERVICE_AT)
        asm.load(4, R1, CONTEXT, _IP4)
        asm.store(4, FP, _SERVICE_AT + 12, R1)
    asm.load(4, R1, CONTEXT, _USER_PORT)
    asm.store(2, FP, _SERVICE_AT + PORT_AT, R1)
    asm.store(2, FP, _SERVICE_AT + PORT_AT + 2, 0)


def _store_mapped(asm: Assembler, at: int) -> None:
    for word, value in ((0, 0), (4, 0), (8, _MAPPED_WORD)):
        asm.store(4, FP, at + word, value)


def _look_up(asm: Assembler, map_name: str, key_at: int) -> None:
    """Set R0 to the element whose key is on the stack, or to 0."""
    asm.load_map(R1, map_name)
    asm.move(R2, FP)
    asm.add(R2, key_at)
    asm.call(_MAP_LOOKUP)


def _socket_storage(asm: Assembler, without: Label, *, flags: int) -> None:
    """Set R0 to the origins of the socket; go to a label if there are none, or the kernel has no memory for them."""
    asm.load(8, R2, CONTEXT, _SOCKET)
    asm.jump_if(R2, "==", 0, without)
    asm.load_map(R1, ORIGINS_OF_SOCKETS.name)
    asm.move(R3, 0)
    asm.move(R4, flags)
    asm.call(_SOCKET_STORAGE)
    asm.jump_if(R0, "==", 0, without)


def _jump_unless_same(asm: Assembler, stored_at: int, on_stack_at: int, other: Label) -> None:
    """Compare an end in the storage that R0 points to with one on the stack. The port first, where most differ."""
    asm.load(2, R1, R0, stored_at + PORT_AT)
    asm.load(2, R2, FP, on_stack_at + PORT_AT)
    asm.jump_if(R1, "!=", R2, other)
    for at in (12, 8, 4, 0):
        asm.load(4, R1, R0, stored_at + at)
        asm.load(4, R2, FP, on_stack_at + at)
        asm.jump_if(R1, "!=", R2, other)


def _copy_to_storage(asm: Assembler, stored_at: int, on_stack_at: int) -> None:
    for at in range(0, END_BYTES, 4):
        asm.load(4, R1, FP, on_stack_at + at)
        asm.store(4, R0, stored_at + at, R1)
