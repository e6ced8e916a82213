"""Decide the reply to a question from the source's answer, or decide to forward it. Pure.

    refused without a closer look        class other than IN, transfers, meta types
    not to be redefined by any source    localhost
    owned by the source                  Found, NoData, NoSuchName: authoritative, any type, never forwarded
    not forwarded                        names that look like the source's, special names, private reverse zones,
                                         addresses of single labels
    all others                           forwarded if the client asked for recursion and may look outside

A server near the client is on the inside as well, so it is asked for the last two kinds alike.

A negative answer carries the zone's SOA with the TTL of RFC 2308 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from netdns import constants as c
from netdns import rdata, special
from netdns.message import Query, Reply
from netdns.source import Answer, Client, Found, Name, NoData, NoSuchName, NotOurs, RecordSource, RRset, Zone

_META_TYPES: Final = frozenset({c.OPT, c.TKEY, c.TSIG, c.MAILB, c.MAILA})
_ANY_TTL_S: Final = 5
_ANY: Final = RRset(c.HINFO, _ANY_TTL_S, (rdata.hinfo(b"RFC8482", b""),))


@dataclass(frozen=True, slots=True)
class Forward:
    """Forward the question to upstream servers."""

    otherwise: Reply | None = None
    """If given, only a server near the client may be asked, and this is the reply when it has no answer."""


FORWARD: Final = Forward()
Decision: TypeAlias = Reply | Forward


def failure(ede_code: int, text: str) -> Reply:
    """Return SERVFAIL with the reason for clients that understand RFC 8914."""
    return Reply(c.SERVFAIL, ede=(ede_code, text))


def absence(query: Query) -> Reply:
    """Return "no such name" for a name that is in no zone of ours."""
    return _own(query, NoSuchName(special.ROOT_ZONE))


def decide(
    query: Query, source: RecordSource, client: Client, *, forwarding: bool, near: bool = False
) -> Decision:
    """Decide what to answer to a query of operation QUERY. `near`: whether the client has a server near it."""
    if query.opt is not None and query.opt.version > 0:
        return Reply(c.BADVERS)
    if query.rclass != c.IN or query.rtype in {c.AXFR, c.IXFR}:
        return Reply(c.REFUSED)
    if query.rtype in _META_TYPES:
        return Reply(c.NOTIMP)
    answer = special.lookup_before(query.name, query.rtype)
    if isinstance(answer, NotOurs):
        answer = source.lookup(query.name, query.rtype, client)
    if not isinstance(answer, NotOurs):
        return _own(query, answer)
    kept = _kept_inside(query, answer, forwarding=forwarding)
    if kept is None:
        return FORWARD
    return Forward(otherwise=kept) if near and query.recursion_desired else kept


def _kept_inside(query: Query, not_ours: NotOurs, *, forwarding: bool) -> Reply | None:
    """Answer a question that the source does not own but that must not leave the host; None: it may."""
    if not_ours.zone is not None:
        return _own(query, NoSuchName(not_ours.zone))
    answer = special.lookup_after(query.name, query.rtype)
    if not isinstance(answer, NotOurs):
        return _own(query, answer)
    if not forwarding:
        return Reply(c.REFUSED, ede=(c.EDE_PROHIBITED, "this client may not resolve outside names"))
    if not query.recursion_desired:
        return Reply(c.REFUSED, ede=(c.EDE_NOT_AUTHORITATIVE, "recursion was not asked for"))
    return None


def _own(query: Query, answer: Answer) -> Reply:
    match answer:
        case Found(rrset, canonical, glue):
            if query.rtype == c.ANY:
                # RFC 8482 4.2: the name exists; a client that needs a type may ask for it.
                return Reply(c.NOERROR, authoritative=True, answers=((query.name, _ANY),))
            return Reply(
                c.NOERROR,
                authoritative=True,
                answers=_chain(query.name, rrset, canonical),
                additional=glue,
            )
        case NoData(zone):
            if query.rtype == c.ANY:
                return Reply(c.NOERROR, authoritative=True, answers=((query.name, _ANY),))
            if query.rtype == c.SOA and query.name == zone.apex:
                return Reply(c.NOERROR, authoritative=True, answers=((zone.apex, _soa(zone, zone.ttl_s)),))
            return Reply(c.NOERROR, authoritative=True, authority=(_negative(zone),))
        case NoSuchName(zone):
            return Reply(c.NXDOMAIN, authoritative=True, authority=(_negative(zone),))
        case NotOurs():
            return Reply(c.REFUSED)


def _chain(owner: Name, rrset: RRset, canonical: Name | None) -> tuple[tuple[Name, RRset], ...]:
    if canonical is None:
        return ((owner, rrset),)
    return ((owner, RRset(c.CNAME, rrset.ttl_s, (canonical,))), (canonical, rrset))


def _negative(zone: Zone) -> tuple[Name, RRset]:
    return zone.apex, _soa(zone, min(zone.ttl_s, rdata.soa_minimum_s(zone.soa)))


def _soa(zone: Zone, ttl_s: int) -> RRset:
    return RRset(c.SOA, ttl_s, (zone.soa,))
