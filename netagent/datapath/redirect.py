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

import socket
from typing import Final

from netagent.datapath import nftables
from netagent.datapath.nftables import Change, attribute, expression, nest, number, text

EXEMPT_ADDRESS: Final = "127.0.0.53"
"""Queries from here go past our table."""

_ADDRESS: Final = "127.0.0.11"
_PORT: Final = 53
_TABLE: Final = "netagent"
_CHAIN: Final = "output"
_PRIORITY: Final = -110
"""Docker's chains, in iptables and in nftables, are at -100 (NF_IP_PRI_NAT_DST)."""

_LOCAL_OUT: Final = 3
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOURCE_OFFSET, _DESTINATION_OFFSET, _DESTINATION_PORT_OFFSET = 12, 16, 2
_META_L4PROTO: Final = 16
_EQ, _NEQ = 0, 1
_ACCEPT: Final = 1
_DNAT: Final = 1


def open_redirect() -> socket.socket:
    """Make the table in the calling thread's namespace and return the socket that it lives by.

    OSError when the kernel refuses; EPERM also when another process holds one there.
    """
    sock = nftables.open_socket()
    try:
        nftables.commit(sock, _changes())
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


def _changes() -> list[Change]:
    table = text(1, _TABLE) + number(2, nftables.TABLE_F_OWNER)
    hook = nest(4, number(1, _LOCAL_OUT) + number(2, _PRIORITY & 0xFFFFFFFF))
    chain = text(1, _TABLE) + text(3, _CHAIN) + hook + number(5, _ACCEPT) + text(7, "nat")
    rules = [
        text(1, _TABLE) + text(2, _CHAIN) + nest(4, _expressions(protocol))
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
    ]
    return [
        Change(nftables.NEWTABLE, nftables.EXCLUSIVE, table),
        Change(nftables.NEWCHAIN, nftables.EXCLUSIVE, chain),
        *(Change(nftables.NEWRULE, nftables.APPEND, rule) for rule in rules),
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
            expression("meta", number(1, 1) + number(2, _META_L4PROTO)),
            _compare(_EQ, bytes([protocol])),
            _payload(_TRANSPORT_HEADER, _DESTINATION_PORT_OFFSET, 2),
            _compare(_EQ, port),
            expression("immediate", number(1, 1) + nest(2, attribute(1, address))),
            expression("immediate", number(1, 2) + nest(2, attribute(1, port))),
            expression("nat", number(1, _DNAT) + number(2, socket.AF_INET) + number(3, 1) + number(5, 2)),
        )
    )


def _payload(base: int, offset: int, length: int) -> bytes:
    return expression("payload", number(1, 1) + number(2, base) + number(3, offset) + number(4, length))


def _compare(how: int, value: bytes) -> bytes:
    return expression("cmp", number(1, 1) + number(2, how) + nest(3, attribute(1, value)))
