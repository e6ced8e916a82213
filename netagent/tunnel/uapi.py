"""WireGuard's text protocol for configuration <-> values: what wireguard-go speaks on its socket.

A request is `get=1` or `set=1` with lines `key=value`, ended by an empty line; so is the response, whose last line is
`errno=0`. Keys are in hex. A peer begins with its `public_key`, and the lines up to the next one are about it.
https://www.wireguard.com/xplatform/#configuration-protocol

The process is ours, but what it says stems from strangers' packets in part, so it is parsed as bytes from outside.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from netagent.tunnel.keys import KEY_BYTES
from netagent.tunnel.peer import (
    NO_PRESHARED_KEY,
    DeviceReading,
    PeerChange,
    PeerEndpoint,
    ReadPeer,
    TunnelPeer,
)

GET: Final = b"get=1\n\n"
END: Final = b"\n\n"

RESPONSE_LIMIT_BYTES: Final = 16 << 20
"""Bound of one response of wireguard-go; beyond it: refused. A peer takes some 400 bytes."""
_LINE_LIMIT_BYTES: Final = 256
_PEERS_LIMIT: Final = 32_768
"""Bound of peers in a response; beyond it: refused."""
_ALLOWED_LIMIT: Final = 16
"""Bound of addresses allowed for a peer in a response; beyond it: refused. A host has one or two."""
_NUMBER_LIMIT: Final = (1 << 64) - 1


class UapiError(Exception):
    """The response is not one, or says that the request failed."""


def encode_set(
    *,
    private_key: bytes | None = None,
    port: int | None = None,
    changes: Sequence[PeerChange] = (),
) -> bytes:
    """Return the request that makes these changes."""
    lines = ["set=1"]
    if private_key is not None:
        lines.append(f"private_key={private_key.hex()}")
    if port is not None:
        lines.append(f"listen_port={port}")
    for change in changes:
        lines += _peer_lines(change)
    return "\n".join(lines).encode("ascii") + END


def _peer_lines(change: PeerChange) -> list[str]:
    lines = [f"public_key={change.public_key.hex()}"]
    if change.remove:
        return [*lines, "remove=true"]
    if change.preshared_key is not None:
        lines.append(f"preshared_key={change.preshared_key.hex()}")
    if change.endpoint is not None:
        lines.append(f"endpoint={_endpoint_text(change.endpoint)}")
    if change.keepalive_s is not None:
        lines.append(f"persistent_keepalive_interval={change.keepalive_s}")
    if change.allowed is not None:
        lines.append("replace_allowed_ips=true")
        lines += [f"allowed_ip={one}" for one in change.allowed]
    return lines


def _endpoint_text(endpoint: PeerEndpoint) -> str:
    address, port = endpoint
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def check_done_untrusted(response: bytes) -> None:
    """Raise UapiError unless the response says that a request was carried out."""
    lines = _lines(response)
    if lines != [("errno", "0")]:
        raise UapiError(f"wireguard-go refused the settings: {lines[-1][1] if lines else 'no answer'}")


def parse_state_untrusted(response: bytes) -> DeviceReading:
    """Parse the response to `GET`. UapiError."""
    lines = _lines(response)
    if not lines or lines.pop() != ("errno", "0"):
        raise UapiError("wireguard-go did not say its state")
    private_key: bytes | None = None
    port = 0
    peers: dict[bytes, ReadPeer] = {}
    current: bytes | None = None
    for key, value in lines:
        if key == "public_key":
            current = _key(value)
            if len(peers) >= _PEERS_LIMIT:
                raise UapiError(f"more than {_PEERS_LIMIT} peers")
            peers[current] = ReadPeer(
                peer=TunnelPeer(public_key=current), handshake_at_s=0.0, received_bytes=0, sent_bytes=0
            )
        elif current is not None:
            peers[current] = _with_line(peers[current], key, value)
        elif key == "private_key":
            private_key = _key(value)
        elif key == "listen_port":
            port = _number(value, 65535)
    return DeviceReading(private_key=private_key, port=port, peers=peers)


def _with_line(read: ReadPeer, key: str, value: str) -> ReadPeer:
    """Return the peer with what one line says of it. Lines that we have no use for are passed over."""
    peer = read.peer
    match key:
        case "preshared_key":
            preshared = _key(value)
            return replace(
                read, peer=replace(peer, preshared_key=None if preshared == NO_PRESHARED_KEY else preshared)
            )
        case "endpoint":
            return replace(read, peer=replace(peer, endpoint=_endpoint(value)))
        case "persistent_keepalive_interval":
            return replace(read, peer=replace(peer, keepalive_s=_number(value, 65535) or None))
        case "allowed_ip":
            if len(peer.allowed) >= _ALLOWED_LIMIT:
                raise UapiError(f"more than {_ALLOWED_LIMIT} addresses of one peer")
            return replace(read, peer=replace(peer, allowed=(*peer.allowed, _network(value))))
        case "last_handshake_time_sec":
            return replace(read, handshake_at_s=read.handshake_at_s + _number(value))
        case "last_handshake_time_nsec":
            return replace(read, handshake_at_s=read.handshake_at_s + _number(value, 999_999_999) / 1e9)
        case "rx_bytes":
            return replace(read, received_bytes=_number(value))
        case "tx_bytes":
            return replace(read, sent_bytes=_number(value))
    return read


def _lines(response: bytes) -> list[tuple[str, str]]:
    if len(response) > RESPONSE_LIMIT_BYTES:
        raise UapiError("the response is too long")
    if not response.endswith(END):
        raise UapiError("the response has no end")
    found = []
    for raw in response[: -len(END)].split(b"\n"):
        if len(raw) > _LINE_LIMIT_BYTES:
            raise UapiError("a line of the response is too long")
        try:
            key, sign, value = raw.decode("ascii").partition("=")
        except UnicodeDecodeError as error:
            raise UapiError("the response is not text") from error
        if not sign:
            raise UapiError("a line of the response has no value")
        found.append((key, value))
    return found


def _key(value: str) -> bytes:
    try:
        key = bytes.fromhex(value)
    except ValueError as error:
        raise UapiError("a key is not hex") from error
    if len(key) != KEY_BYTES:
        raise UapiError("a key has not 32 octets")
    return key


def _number(value: str, limit: int = _NUMBER_LIMIT) -> int:
    # Not int() alone: that takes blanks, signs and underscores as well.
    if not value.isascii() or not value.isdigit() or len(value) > 20 or int(value) > limit:
        raise UapiError("a number is none")
    return int(value)


def _endpoint(value: str) -> PeerEndpoint:
    host, _, port = value.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise UapiError("an endpoint has no address") from error
    return str(address), _number(port, 65535)


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise UapiError("an allowed address is none") from error
