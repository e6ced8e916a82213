"""Two nftables tables in a sandbox that make our resolver answer at 127.0.0.11 port 53.

**The first** redirects to the port of our sockets. They do not use port 53 itself, so that a DNS server in the
container can (on 0.0.0.0, [::], even 127.0.0.11), and queries to 127.0.0.11 port 53 still reach us:

    table ip netagent-dns {                               # flags owner
        chain input { type filter hook input priority 1000
            ip daddr 127.0.0.11 udp dport 53 udp dport set 61053
            ip daddr 127.0.0.11 tcp dport 53 tcp dport set 61053 }
        chain output { type filter hook output priority -1000
            ip saddr 127.0.0.11 udp sport 61053 udp sport set 53
            ip saddr 127.0.0.11 tcp sport 61053 tcp sport set 53 } }

The port is changed right at our sockets: as the last step before a query arrives, and as the first when an answer
leaves. Everything else in the namespace (connection tracking, the container's own rules for port 53, tcpdump) sees
port 53 both ways, as if the sockets had it. This needs no connection tracking, and the kernel computes the checksum,
which it omits on `lo`. The table belongs to a netlink socket that is passed on together with our sockets, and exists
as long as they do (docs/design/0025). Where the kernel has no table owners (before 5.12), the table stays until it is
deleted, which any process in the namespace with CAP_NET_ADMIN may do.

**The second** precedes Docker's own resolver. In every container on a user-defined network, Docker's rules in the
namespace's `nat` table send packets for 127.0.0.11 port 53 to a high port, where dockerd answers. Our table keeps
these packets where they are:

    table ip netagent {                                   # flags owner
        chain output { type nat hook output priority -110
            ip daddr 127.0.0.11 ip saddr != 127.0.0.53 udp dport 53 dnat to 127.0.0.11:53
            ip daddr 127.0.0.11 ip saddr != 127.0.0.53 tcp dport 53 dnat to 127.0.0.11:53 } }

A connection is translated once: of all chains of a hook, the first one (by priority) that binds it wins, and Docker's
are at -100. Packets from 127.0.0.53 are left to Docker's rules, so Docker's resolver stays reachable for names that
are not ours, whatever its port.

This table belongs to a socket that only the resolver process has. The kernel removes the table with the socket, so
that Docker answers again when that process ends, however it ends.
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.nftables import (
    NftMessage,
    attribute,
    expression,
    nest,
    number,
    split_attributes,
    text,
)

EXEMPT_ADDRESS: Final = "127.0.0.53"
"""Queries from this address skip our table."""

_ADDRESS: Final = "127.0.0.11"
_PORT: Final = 53
_PORT_REDIRECT: Final = "netagent-dns"
_PRIORITY_LAST, _PRIORITY_FIRST = 1000, -1000
"""Priorities after and before every named one of nft(8), including connection tracking and NAT."""
_TABLE: Final = "netagent"
_CHAIN: Final = "output"
_PRIORITY: Final = -110
"""Docker's chains, in iptables and in nftables, are at -100 (NF_IP_PRI_NAT_DST)."""

_LOCAL_IN, _LOCAL_OUT = 1, 3
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOURCE_OFFSET, _DESTINATION_OFFSET = 12, 16
_SOURCE_PORT_OFFSET, _DESTINATION_PORT_OFFSET = 0, 2
_CHECKSUM_OFFSETS: Final = {socket.IPPROTO_UDP: 6, socket.IPPROTO_TCP: 16}
_CHECKSUM_INET: Final = 1
_REGISTER: Final = 1
_META_L4PROTO: Final = 16
_EQ, _NEQ = 0, 1
_ACCEPT: Final = 1
_DNAT: Final = 1


class RedirectOutcome(enum.Enum):
    """The state of the first table."""

    OWNED = enum.auto()
    """It exists, and only its socket can remove it."""
    THERE = enum.auto()
    """It exists, but any process with CAP_NET_ADMIN may delete it."""
    MISSING = enum.auto()


def open_port_redirect(port: int) -> socket.socket:
    """Create the first table in the calling thread's namespace and return the socket that owns it.

    A table without an owner is replaced. OSError when the kernel refuses; EPERM also when another process owns one.
    """
    sock = nftables.open_socket()
    try:
        make_port_redirect(sock, port)
    except BaseException:
        sock.close()
        raise
    return sock


def make_port_redirect(sock: socket.socket, port: int) -> None:
    """Create the first table in the namespace of the socket, which owns it if the kernel supports owners."""
    try:
        nftables.commit(sock, _redirect_changes(port, nftables.TABLE_F_OWNER))
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        nftables.commit(sock, _redirect_changes(port, 0))


def end_port_redirect(sock: socket.socket) -> None:
    """Remove the first table at once; no error if it is gone already.

    Closing the socket would not do: other copies of it may stay open for a while, and closing the last one waits for
    the kernel, some 15 ms.
    """
    _end(sock, _PORT_REDIRECT)


def end_redirect(sock: socket.socket) -> None:
    """Remove the second table likewise."""
    _end(sock, _TABLE)


def _end(sock: socket.socket, name: str) -> None:
    with suppress(OSError):
        nftables.commit(sock, [NftMessage(nftables.DELTABLE, 0, text(1, name))])


def port_redirect_outcome(sock: socket.socket) -> RedirectOutcome:
    """Ask for the first table in the namespace of its socket. OSError when the kernel does not answer."""
    request = text(1, _PORT_REDIRECT)
    for kind, body in nftables.exchange(
        sock, nftables.TABLES << 8 | nftables.GETTABLE, 0, socket.AF_INET, request
    ):
        if kind == nftables.TABLES << 8 | nftables.NEWTABLE:
            flags = dict(split_attributes(body[4:])).get(2, bytes(4))
            return (
                RedirectOutcome.OWNED
                if int.from_bytes(flags, "big") & nftables.TABLE_F_OWNER
                else RedirectOutcome.THERE
            )
    return RedirectOutcome.MISSING


def redirected_port() -> int | None:
    """Return the port to which the first table of the calling thread's namespace redirects; None if incomplete.

    OSError when the kernel does not answer.
    """
    with nftables.open_socket() as sock:
        try:
            rules = nftables.dump(sock, nftables.GETRULE, socket.AF_INET, text(1, _PORT_REDIRECT))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
    found = [one for rule in rules for one in _immediates(rule)]
    # Two rules write the port into queries, two write 53 into answers.
    ports = sorted(set(found) - {_PORT})
    return ports[0] if len(found) == 4 and len(ports) == 1 and found.count(_PORT) == 2 else None


def _immediates(rule: bytes) -> Iterator[int]:
    """Yield the values that a rule loads."""
    expressions = dict(split_attributes(rule)).get(4, b"")
    for _, element in split_attributes(expressions):
        fields = dict(split_attributes(element))
        if fields.get(1, b"").rstrip(b"\0") == b"immediate":
            data = dict(split_attributes(dict(split_attributes(fields.get(2, b""))).get(2, b"")))
            yield int.from_bytes(data.get(1, b"")[:2], "big")


def open_redirect() -> socket.socket:
    """Create the second table in the calling thread's namespace and return the socket that owns it.

    OSError when the kernel refuses; EPERM also when another process owns one there.
    """
    sock = nftables.open_socket()
    try:
        nftables.commit(sock, _changes())
    except BaseException:
        sock.close()
        raise
    return sock


def open_exempt(kind: socket.SocketKind) -> socket.socket:
    """Return a socket in the calling thread's namespace whose queries skip our table. OSError when impossible."""
    sock = socket.socket(socket.AF_INET, kind)
    try:
        sock.bind((EXEMPT_ADDRESS, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _redirect_changes(port: int, flags: int) -> list[NftMessage]:
    """Create, delete and create again, so that an existing table is replaced in one transaction."""
    table = text(1, _PORT_REDIRECT) + number(2, flags)
    return [
        NftMessage(nftables.NEWTABLE, 0, table),
        NftMessage(nftables.DELTABLE, 0, text(1, _PORT_REDIRECT)),
        NftMessage(nftables.NEWTABLE, 0, table),
        _redirect_chain("input", _LOCAL_IN, _PRIORITY_LAST),
        _redirect_chain("output", _LOCAL_OUT, _PRIORITY_FIRST),
        *(_redirect_rule("input", protocol, _PORT, port) for protocol in _CHECKSUM_OFFSETS),
        *(_redirect_rule("output", protocol, port, _PORT) for protocol in _CHECKSUM_OFFSETS),
    ]


def _redirect_chain(name: str, hook: int, priority: int) -> NftMessage:
    where = nest(4, number(1, hook) + number(2, priority & 0xFFFFFFFF))
    fields = text(1, _PORT_REDIRECT) + text(3, name) + where + number(5, _ACCEPT) + text(7, "filter")
    return NftMessage(nftables.NEWCHAIN, nftables.EXCLUSIVE, fields)


def _redirect_rule(chain: str, protocol: int, old: int, new: int) -> NftMessage:
    """Change our port from `old` to `new`: the destination's on input, the source's on output."""
    address = _DESTINATION_OFFSET if chain == "input" else _SOURCE_OFFSET
    offset = _DESTINATION_PORT_OFFSET if chain == "input" else _SOURCE_PORT_OFFSET
    write = number(5, _REGISTER) + number(2, _TRANSPORT_HEADER) + number(3, offset) + number(4, 2)
    checksum = number(6, _CHECKSUM_INET) + number(7, _CHECKSUM_OFFSETS[protocol])
    expressions = (
        _payload(_NETWORK_HEADER, address, 4),
        _compare(_EQ, socket.inet_aton(_ADDRESS)),
        expression("meta", number(1, _REGISTER) + number(2, _META_L4PROTO)),
        _compare(_EQ, bytes([protocol])),
        _payload(_TRANSPORT_HEADER, offset, 2),
        _compare(_EQ, old.to_bytes(2, "big")),
        expression("immediate", number(1, _REGISTER) + nest(2, attribute(1, new.to_bytes(2, "big")))),
        expression("payload", write + checksum),
    )
    rule = text(1, _PORT_REDIRECT) + text(2, chain) + nest(4, b"".join(expressions))
    return NftMessage(nftables.NEWRULE, nftables.APPEND, rule)


def _changes() -> list[NftMessage]:
    table = text(1, _TABLE) + number(2, nftables.TABLE_F_OWNER)
    hook = nest(4, number(1, _LOCAL_OUT) + number(2, _PRIORITY & 0xFFFFFFFF))
    chain = text(1, _TABLE) + text(3, _CHAIN) + hook + number(5, _ACCEPT) + text(7, "nat")
    rules = [
        text(1, _TABLE) + text(2, _CHAIN) + nest(4, _expressions(protocol))
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
    ]
    return [
        NftMessage(nftables.NEWTABLE, nftables.EXCLUSIVE, table),
        NftMessage(nftables.NEWCHAIN, nftables.EXCLUSIVE, chain),
        *(NftMessage(nftables.NEWRULE, nftables.APPEND, rule) for rule in rules),
    ]


def _expressions(protocol: int) -> bytes:
    """Return one rule: every comparison uses register 1; a packet that fails one goes on to Docker's chains."""
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
    return expression(
        "payload", number(1, _REGISTER) + number(2, base) + number(3, offset) + number(4, length)
    )


def _compare(how: int, value: bytes) -> bytes:
    return expression("cmp", number(1, _REGISTER) + number(2, how) + nest(3, attribute(1, value)))
