"""The sets and maps of our tables: how their elements look as nft's text and as the kernel's bytes. Pure.

An element is a tuple of words, one for each field of its key; a map's element has a second tuple, for its value. The
kernel stores a concatenation field by field, each padded to 32 bits; numbers are in network order.
"""

from __future__ import annotations

import enum
import ipaddress
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

Words: TypeAlias = tuple[str, ...]


class Family(enum.Enum):
    """The table that a set is in: all are named `netagent`."""

    BRIDGE = "bridge"
    INET = "inet"
    NETDEV = "netdev"


class Field(enum.Enum):
    """nft's name of a data type."""

    IFNAME = "ifname"
    ETHER = "ether_addr"
    IPV4 = "ipv4_addr"
    IPV6 = "ipv6_addr"
    PROTOCOL = "inet_proto"
    PORT = "inet_service"
    PLACE = "numgen random mod 64"
    """A number that a rule draws at random, 32 bits in the processor's order; nft has no name for the type."""
    BYTES16 = "tcp option maxseg size"
    """A number of bytes, 16 bits; nft has no name for the type, only for expressions that have it."""


@dataclass(frozen=True, slots=True)
class SetKind:
    """A named set; a map when its elements have a value."""

    family: Family
    name: str
    key: tuple[Field, ...]
    value: tuple[Field, ...] = ()
    typeof: str = ""
    """The expression that tells nft the types where `type` can't name them."""

    def declaration(self) -> str:
        """Return nft's declaration, without the elements."""
        key, value = (" . ".join(field.value for field in fields) for fields in (self.key, self.value))
        word = "map" if self.value else "set"
        types = f"typeof {self.typeof}" if self.typeof else f"type {key}" + (f" : {value}" if value else "")
        return f"{word} {self.name} {{ {types}; "


def render(kind: SetKind, key: Words, value: Words = ()) -> str:
    """Return an element as nft's text."""
    words = " . ".join(_text(field, word) for field, word in zip(kind.key, key, strict=True))
    values = " . ".join(_text(field, word) for field, word in zip(kind.value, value, strict=True))
    return f"{words} : {values}" if kind.value else words


def encode(fields: tuple[Field, ...], words: Words) -> bytes:
    """Encode a key or a value for the kernel."""
    parts = [_ENCODERS[field](word) for field, word in zip(fields, words, strict=True)]
    return parts[0] if len(parts) == 1 else b"".join(part + bytes(-len(part) % 4) for part in parts)


def _text(field: Field, word: str) -> str:
    return f'"{word}"' if field is Field.IFNAME else word


def _name(word: str) -> bytes:
    return word.encode("ascii").ljust(16, b"\0")


def _mac(word: str) -> bytes:
    return bytes.fromhex(word.replace(":", ""))


def _address(word: str) -> bytes:
    return ipaddress.ip_address(word).packed


def _number(word: str) -> bytes:
    return int(word).to_bytes(2, "big")


_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_ENCODERS: Final[Mapping[Field, Callable[[str], bytes]]] = {
    Field.IFNAME: _name,
    Field.ETHER: _mac,
    Field.IPV4: _address,
    Field.IPV6: _address,
    Field.PROTOCOL: lambda word: bytes([_PROTOCOLS[word]]),
    Field.PORT: _number,
    Field.PLACE: lambda word: int(word).to_bytes(4, sys.byteorder),
    Field.BYTES16: _number,
}
