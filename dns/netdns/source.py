"""Where own answers come from: one method that says what is known, one number that says when it changed.

A source never sees a DNS message. It is asked for a name and a type on behalf of a client, and says one of four
things, each a type of its own so that no caller can mix "exists, but not with this type" up with "does not exist":

    Found(rrset)       here it is
    NoData(zone)       the name exists (or names below it do), this type of it does not       -> NOERROR + SOA
    NoSuchName(zone)   the name is inside what we answer for, and neither it nor a name below it exists -> NXDOMAIN
    NotOurs()          somebody else's: forwarded, or refused where the client may not look outside

The client is whatever the listener was added with. It is the identity of a socket, never a source address.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Name: TypeAlias = bytes
"""A domain name in wire form, uncompressed, with the root's zero octet: b"\\x03web\\x00". At most 255 octets."""

Client: TypeAlias = Hashable
"""Who asks."""


@dataclass(frozen=True, slots=True)
class RRset:
    """All records of one name and type. `rdatas` are wire form with every name in them uncompressed, no doubles."""

    rtype: int
    ttl_s: int
    rdatas: tuple[bytes, ...]
    shown: int = 0
    """How many records one answer carries, each answer others in turn; 0 means all."""

    @property
    def count(self) -> int:
        """How many records an answer carries."""
        return min(self.shown or len(self.rdatas), len(self.rdatas))


@dataclass(frozen=True, slots=True)
class Zone:
    """What stands behind a negative answer.

    `apex` must be an ancestor of (or equal to) the name that was asked for, or the root. `soa` is the SOA's
    wire rdata (see `rdata.soa`); who asks for the SOA of the apex gets it without the source's help. Resolvers
    downstream keep the negative answer for min(ttl_s, its MINIMUM).
    """

    apex: Name
    soa: bytes
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Found:
    """Records for the name.

    With `canonical` the answer is a CNAME from the asked name to `canonical` followed by the records of
    `canonical`. `glue` are addresses of names in the records (SRV targets), sent where there is room.
    """

    rrset: RRset
    canonical: Name | None = None
    glue: tuple[tuple[Name, RRset], ...] = ()


@dataclass(frozen=True, slots=True)
class NoData:
    """The name exists without records of this type."""

    zone: Zone


@dataclass(frozen=True, slots=True)
class NoSuchName:
    """The name does not exist, nor does any below it."""

    zone: Zone


@dataclass(frozen=True, slots=True)
class NotOurs:
    """The name belongs to somebody else.

    With a zone it looks like one of the source's all the same, and does not leave the host: a server near the client
    may know it, and otherwise it does not exist, with this zone behind that answer.
    """

    zone: Zone | None = None


Answer: TypeAlias = Found | NoData | NoSuchName | NotOurs


class RecordSource(Protocol):
    """The one extension point."""

    def lookup(self, name: Name, rtype: int, client: Client) -> Answer:
        """Say what `client` is to see. `name` is lower case. Never blocks, never raises.

        For type ANY (255) return any one RRset of the name, or NoData; the resolver makes RFC 8482's minimal
        answer of it.
        """
        ...

    def version(self, client: Client) -> int:
        """Return a number that changes whenever any answer for `client` may have changed.

        Called on every query, so make it an attribute's worth of work. Rendered answers are kept until it moves.
        """
        ...
