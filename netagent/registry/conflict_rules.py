"""Who keeps what two records claim. Pure, and a function of the records alone.

Every host sees the same records in the end, so every host decides the same without asking anybody. No rule looks
at a clock, at arrival order, or at which side of a partition we were on.

* Of several networks with one name, those that nobody uses yield and vanish: so creating a network on every host at
  the same instant ends with one and no error. In use means that its creator granted part of its space or takes part
  in it, or that another host has taken it over; all are in scope 0, so hosts outside the network judge alike. Several
  in use stay, because endpoints would be cut off otherwise; the smallest id keeps the name, the others show as
  `<name>-<4 hex>`.
* Of two networks with one VNI, the smaller id is built, the other is not: no traffic is ever mixed.
* A host is forgotten when somebody says so. But two hosts that each say it of the other were on two sides of a cut,
  and both lived: then neither word counts, nor what either said of others. Whoever takes it back goes on to
  dispute the other's word, up to its present version, or that would stand alone meanwhile, and count.
* Of two endpoints with one address (or one MAC, or one id), the smaller host id keeps it. An endpoint whose addresses
  are not one offset in its network's subnets is fenced whoever claims them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from netagent.model.ids import HostId, NetworkId, is_derived_mac
from netagent.model.records import EndpointRecord, NetworkRecord
from netagent.model.subnet import offset_of
from netagent.registry.store import Claim


def in_force(claims: Mapping[HostId, NetworkRecord]) -> tuple[HostId, NetworkRecord]:
    """Of the revisions of one network, the one that counts: highest revision, then highest host id, of those that say
    the same as the first one. What a network is, it stays: a revision only tells who goes on with it."""
    first = claims[min(claims, key=lambda host: (claims[host].revision, host))]
    alike = {host: one for host, one in claims.items() if replace(one, revision=first.revision) == first}
    owner = max(alike, key=lambda host: (alike[host].revision, host))
    return owner, alike[owner]


def creator_of(claims: Mapping[HostId, NetworkRecord]) -> HostId | None:
    """Who wrote revision 0. Several would be a lie; the smallest id is believed everywhere alike."""
    return min((host for host, record in claims.items() if record.revision == 0), default=None)


def keep_networks(used_by_id: Mapping[NetworkId, bool]) -> tuple[NetworkId, ...]:
    """Of networks with one name, those that stay, the one that holds the name first."""
    used = sorted(network_id for network_id, used in used_by_id.items() if used)
    return tuple(used) if used else tuple(sorted(used_by_id)[:1])


def unique_host_name(host_id: HostId, name: str, namesakes: Iterable[HostId]) -> str:
    """`<name>` for the smallest id among the namesakes, else `<name>-<4 hex>`."""
    return name if host_id == min(namesakes) else f"{name}-{host_id[:4]}"


def forgotten_hosts(
    words: Mapping[HostId, frozenset[HostId]], disputed: Collection[tuple[HostId, HostId]]
) -> dict[HostId, frozenset[HostId]]:
    """Who is forgotten, and by whom: of the hosts that somebody says are gone (`words`: by host, who says so), those
    of whom somebody says it who is not contested. `disputed`: writers, and of whom their word does not count."""
    contested = {
        one
        for host, writers in words.items()
        for writer in writers
        if host in words.get(writer, ()) or (writer, host) in disputed
        for one in (host, writer)
    }
    found = {host: writers - contested for host, writers in words.items()}
    return {host: writers for host, writers in found.items() if writers}


def lies_inside(record: EndpointRecord, network: NetworkRecord) -> bool:
    """True when the endpoint's addresses are one usable offset in each of the network's subnets."""
    return offset_of(network.subnets, record.addresses) is not None


def claims_of(record: EndpointRecord) -> tuple[Claim, ...]:
    """What no other endpoint may have: its id, and within the network its addresses and its MAC. A MAC that follows
    from an address is no claim of its own."""
    within = dict.fromkeys(record.addresses)
    if record.mac and not is_derived_mac(record.network_id, record.mac):
        within[record.mac] = None
    return ("", record.endpoint_id), *((record.network_id, one) for one in within)
