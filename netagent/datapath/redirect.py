"""One nftables table that leads a sandbox's queries to our resolver where Docker's own holds 127.0.0.11.

In every container on a user-defined network, Docker's rules in the namespace's `nat` table send what goes to
127.0.0.11 port 53 on to a high port, where dockerd answers. Port 53 itself is free, so we bind it as everywhere; only
the packets must stay:

    table ip netagent {                                   # flags owner
        chain output { type nat hook output priority -110
            ip daddr 127.0.0.11 ip saddr != 127.0.0.53 udp dport 53 dnat to 127.0.0.11:53
            ip daddr 127.0.0.11 ip saddr != 127.0.0.53 tcp dport 53 dnat to 127.0.0.11:53 } }

A connection is translated once: of all chains of a hook, the first (by priority) that binds it wins, and Docker's are
at -100. What comes from 127.0.0.53 is left to Docker's rules, and that is how Docker's resolver stays in reach for
names that are not ours, whatever its port.

The table belongs to the socket that made it and goes when the last copy of that socket is closed, by the kernel's
own hand. Whoever answers holds it; when that process dies, however it dies, Docker answers again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

EXEMPT_ADDRESS: Final = "127.0.0.53"
"""Queries from here go past our table."""

_ADDRESS: Final = "127.0.0.11"
_PORT: Final = 53
_TABLE: Final = "netagent"
_CHAIN: Final = "output"
_PRIORITY: Final = -110
"""Docker's chains, in iptables and in nftables, are at -100 (NF_IP_PRI_NAT_DST)."""

_HEADER: Final = struct.Struct("=IHHII")
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE, _NLM_F_APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
_NLMSG_ERROR: Final = 2
_RECEIVE_BYTES: Final = 1 << 16

_NETLINK_NETFILTER: Final = 12
# <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
_BATCH_BEGIN, _BATCH_END, _NFTABLES = 0x10, 0x11, 10
_NEWTABLE, _NEWCHAIN, _NEWRULE = 0, 3, 6
_TABLE_F_OWNER: Final = 0x2
_LOCAL_OUT: Final = 3
_ACCEPT: Final = 1
_NESTED: Final = 0x8000
_EQ, _NEQ = 0, 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOURCE_OFFSET, _DESTINATION_OFFSET, _DESTINATION_PORT_OFFSET = 12, 16, 2
_META_L4PROTO: Final = 16
_DNAT: Final = 1


def open_redirect() -> socket.socket:
    """Make the table in the calling thread's namespace and return the socket that it lives by.

    OSError when the kernel refuses; EPERM also when another process holds one there.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        sock.bind((0, 0))
        messages = _messages()
        sock.send(_batch(messages))
        # The kernel works inside `send`: all answers are there already, one to each message or, to a batch that is
        # refused, at least one.
        sock.setblocking(False)
        answers = _answers(sock)
        if (code := next((code for code in answers if code), 0)) != 0:
            raise OSError(code, f"the kernel refused the nftables table: {os.strerror(code)}")
        if len(answers) < len(messages):
            raise OSError(errno.EIO, "the kernel did not answer for the nftables table")
    except BaseException:
        sock.close()
        raise
    return sock


def open_exempt(kind: socket.SocketKind) -> socket.socket:
    """Make a socket in the calling thread's namespace whose queries go past our table. OSError when it can't be."""
    sock = socket.socket(socket.AF_INET, kind)
    try:
        sock.bind((EXEMPT_ADDRESS, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _answers(sock: socket.socket) -> list[int]:
    codes: list[int] = []
    while True:
        try:
            data = sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return codes
        offset = 0
        while offset + _HEADER.size + 4 <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, offset)
            if kind == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", data, offset + _HEADER.size)
                codes.append(-code)
            offset += max((length + 3) & ~3, _HEADER.size)


def _messages() -> list[tuple[int, int, bytes]]:
    """(type, flags, attributes) of all that is to be made, in order."""
    table = _text(1, _TABLE) + _number(2, _TABLE_F_OWNER)
    hook = _nest(4, _number(1, _LOCAL_OUT) + _number(2, _PRIORITY & 0xFFFFFFFF))
    chain = _text(1, _TABLE) + _text(3, _CHAIN) + hook + _number(5, _ACCEPT) + _text(7, "nat")
    rules = [
        _text(1, _TABLE) + _text(2, _CHAIN) + _nest(4, _expressions(protocol))
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
    ]
    return [
        (_NEWTABLE, _NLM_F_EXCL, table),
        (_NEWCHAIN, _NLM_F_EXCL, chain),
        *((_NEWRULE, _NLM_F_APPEND, rule) for rule in rules),
    ]


def _expressions(protocol: int) -> bytes:
    """One rule: every comparison goes through register 1; what fails one goes on to Docker's chains."""
    address, port = socket.inet_aton(_ADDRESS), _PORT.to_bytes(2, "big")
    return b"".join(
        (
            _payload(_NETWORK_HEADER, _DESTINATION_OFFSET, 4),
            _compare(_EQ, address),
            _payload(_NETWORK_HEADER, _SOURCE_OFFSET, 4),
            _compare(_NEQ, socket.inet_aton(EXEMPT_ADDRESS)),
            _expression("meta", _number(1, 1) + _number(2, _META_L4PROTO)),
            _compare(_EQ, bytes([protocol])),
            _payload(_TRANSPORT_HEADER, _DESTINATION_PORT_OFFSET, 2),
            _compare(_EQ, port),
            _expression("immediate", _number(1, 1) + _nest(2, _attribute(1, address))),
            _expression("immediate", _number(1, 2) + _nest(2, _attribute(1, port))),
            _expression(
                "nat", _number(1, _DNAT) + _number(2, socket.AF_INET) + _number(3, 1) + _number(5, 2)
            ),
        )
    )


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _number(1, 1) + _number(2, base) + _number(3, offset) + _number(4, length))


def _compare(how: int, value: bytes) -> bytes:
    return _expression("cmp", _number(1, 1) + _number(2, how) + _nest(3, _attribute(1, value)))


def _expression(name: str, data: bytes) -> bytes:
    return _nest(1, _text(1, name) + _nest(2, data))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, value.to_bytes(4, "big"))


def _batch(messages: list[tuple[int, int, bytes]]) -> bytes:
    """All or nothing: what stands between BEGIN and END becomes one transaction."""
    border = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(_NFTABLES))
    generation = struct.pack("=BBH", socket.AF_INET, 0, 0)
    frames = [_frame(_BATCH_BEGIN, 0, border, 0)]
    for sequence, (kind, flags, attributes) in enumerate(messages, start=1):
        frames.append(
            _frame(
                _NFTABLES << 8 | kind, flags | _NLM_F_CREATE | _NLM_F_ACK, generation + attributes, sequence
            )
        )
    frames.append(_frame(_BATCH_END, 0, border, len(messages) + 1))
    return b"".join(frames)


def _frame(kind: int, flags: int, body: bytes, sequence: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _NLM_F_REQUEST, sequence, 0) + body
