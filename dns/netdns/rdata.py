"""Record data in wire form, encoded from values. Names inside are never compressed (RFC 2782 and 3597 forbid it for
newer types, and no client needs it for older ones)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping

from netdns import constants, name
from netdns.errors import UsageError
from netdns.source import Name


def a(address: ipaddress.IPv4Address | str) -> bytes:
    """Return an A's 4 octets. Raises UsageError."""
    try:
        return ipaddress.IPv4Address(address).packed
    except ValueError as error:
        raise UsageError(f"not an IPv4 address: {error}") from error


def aaaa(address: ipaddress.IPv6Address | str) -> bytes:
    """Return an AAAA's 16 octets. Raises UsageError."""
    try:
        return ipaddress.IPv6Address(address).packed
    except ValueError as error:
        raise UsageError(f"not an IPv6 address: {error}") from error


def ptr(target: Name) -> bytes:
    """Return the data of PTR, CNAME or NS."""
    return target


def srv(priority: int, weight: int, port: int, target: Name) -> bytes:
    """Return an SRV's data (RFC 2782); each number 0 to 65535."""
    return struct.pack("!HHH", priority, weight, port) + target


def soa(
    mname: Name,
    rname: Name,
    *,
    serial: int,
    refresh_s: int = 3600,
    retry_s: int = 600,
    expire_s: int = 86400,
    minimum_s: int = 5,
) -> bytes:
    """Return an SOA's data. `serial` is taken modulo 2**32; only `minimum_s` matters to those who cache."""
    return mname + rname + struct.pack("!IIIII", serial % 2**32, refresh_s, retry_s, expire_s, minimum_s)


def soa_minimum_s(data: bytes) -> int:
    """Return the MINIMUM of an SOA's data, compressed or not: it is the last field."""
    minimum: int = struct.unpack("!I", data[-4:])[0]
    return minimum


def txt(*texts: bytes) -> bytes:
    """Return a TXT's data. A text above 255 octets becomes several strings, in order."""
    strings = [text[start : start + 255] for text in texts for start in range(0, len(text) or 1, 255)]
    if not strings:
        raise UsageError("a TXT record needs at least one string")
    return b"".join(bytes([len(string)]) + string for string in strings)


def svcb(priority: int, target: Name, parameters: Mapping[int, bytes]) -> bytes:
    """Return the data of an SVCB or HTTPS (RFC 9460 2.2); `parameters` by their keys. Raises UsageError."""
    if not parameters.get(constants.KEY_ALPN) and constants.KEY_NO_DEFAULT_ALPN in parameters:
        raise UsageError("no-default-alpn without alpn")
    written = [struct.pack("!HH", key, len(parameters[key])) + parameters[key] for key in sorted(parameters)]
    return struct.pack("!H", priority) + target + b"".join(written)


def alpn(protocols: Iterable[bytes]) -> bytes:
    """Return the value of SVCB's `alpn`: each identifier 1 to 255 octets."""
    return b"".join(bytes([len(one)]) + one for one in protocols)


def strings_of(data: bytes) -> list[bytes]:
    """Return the strings of a TXT's data, or the identifiers of an `alpn`, that this package wrote."""
    found, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        found.append(data[at + 1 : end])
        at = end
    return found


def parts_of_svcb(data: bytes) -> tuple[int, Name, dict[int, bytes]]:
    """Return priority, target and parameters of an SVCB's data that this package wrote."""
    target, at = name.read_plain_untrusted(data, 2)
    parameters: dict[int, bytes] = {}
    while at < len(data):
        key, length = struct.unpack_from("!HH", data, at)
        parameters[key] = data[at + 4 : at + 4 + length]
        at += 4 + length
    return int.from_bytes(data[:2], "big"), target, parameters


def hinfo(cpu: bytes, os: bytes) -> bytes:
    """Return an HINFO's data; RFC 8482 makes it the answer to ANY."""
    return bytes([len(cpu)]) + cpu + bytes([len(os)]) + os
