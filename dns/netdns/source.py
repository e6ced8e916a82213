"""The interface of a record source: one method that answers, one number that shows changes.

A source never sees a DNS message. It is asked for a name and a type on behalf of a client, and returns one of four
results, each a type of its own so that no caller can confuse "exists, but not with this type" with "does not exist":

    Found(rrset)       the records
    NoData(zone)       the name exists (or names below it do), but not with this type                 -> NOERROR + SOA
    NoSuchName(zone)   the name is inside our zones, and neither it nor a name below it exists        -> NXDOMAIN
    NotOurs()          another server's: forwarded, or refused if the client may not resolve outside names

The client is whatever value the listener was added with. It identifies a socket, never a source address.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Name: TypeAlias = bytes
"""A domain name in wire form, uncompressed, with the root's zero octet: b"\\x03web\\x00". At most 255 octets."""

Client: TypeAlias = Hashable
"""The client that asks."""


@dataclass(frozen=True, slots=True)
class RRset:
    """All records of one name and type. `rdatas` are in wire form with uncompressed names, without duplicates."""

    rtype: int
    ttl_s: int
    rdatas: tuple[bytes, ...]
    shown: int = 0
    """How many records one answer has, rotating from answer to answer; 0 means all."""
    firsts: tuple[int, ...] = ()
    """Which record each answer begins with, answer by answer and then from the beginning again, by its index. A
    record that is in it more often is first more often. Empty: each record in turn."""
    turning: int = 0
    """How many of the records, from the first on, rotate; the others follow them in their order. 0 means all."""

    @property
    def beginnings(self) -> Sequence[int]:
        """`firsts`, or each record that rotates."""
        return self.firsts or range(self.turning or len(self.rdatas))

    def turned(self, first: int) -> tuple[bytes, ...]:
        """Return the records of an answer that begins with the one of this index."""
        turning = self.turning or len(self.rdatas)
        first %= turning or 1
        rdatas = self.rdatas
        if first:
            rdatas = rdatas[first:turning] + rdatas[:first] + rdatas[turning:]
        return rdatas[: self.count]

    @property
    def count(self) -> int:
        """How many records an answer has."""
        return min(self.shown or len(self.rdatas), len(self.rdatas))


@dataclass(frozen=True, slots=True)
class Zone:
    """The zone of a negative answer.

    `apex` must be an ancestor of (or equal to) the name that was asked for, or the root. `soa` is the SOA's wire
    rdata (see `rdata.soa`); a client that asks for the SOA of the apex gets it without the source's help. Resolvers
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
    """The source does not own the name.

    With a zone the name looks like one of the source's and does not leave the host: a server near the client may know
    it, and otherwise it does not exist, with this zone in the answer.
    """

    zone: Zone | None = None


Answer: TypeAlias = Found | NoData | NoSuchName | NotOurs


class RecordSource(Protocol):
    """The one extension point."""

    def lookup(self, name: Name, rtype: int, client: Client) -> Answer:
        """Return what `client` may see. `name` is lower case. Never blocks, never raises.

        For type ANY (255) return any one RRset of the name, or NoData; the resolver turns it into RFC 8482's minimal
        answer.
        """
        ...

    def version(self, client: Client) -> int:
        """Return a number that changes whenever any answer for `client` may have changed.

        It is called on every query, so it should cost no more than reading an attribute. Rendered answers are kept
        until it changes.
        """
        ...
