"""The rules for conflicting records: which of them keeps what two claim. Pure, and a function of the records alone.

Every host sees the same records in the end, so every host decides the same without asking another. No rule looks at a
clock, at arrival order, or at which side of a partition we were on.

* Of several networks with one name, those that are unused yield and vanish: so creating a network on every host at
  the same instant ends with one and no error. In use means that its creator granted part of its space or takes part
  in it, or that another host has taken it over; all are in scope 0, so hosts outside the network decide alike.
  Several in use stay, because endpoints would be cut off otherwise; the smallest id keeps the name, the others show
  as `<name>-<4 hex>`.
* Of two networks with one VNI, the smaller id is built, the other is not: no traffic is ever mixed.
* A host is evicted when another host says so. But two hosts that evict each other were on two sides of a partition,
  and both were alive: then neither eviction counts, nor what either said of others. A host that takes its own back
  disputes the other's eviction, up to its present version; otherwise that would stand alone meanwhile, and count.
* An eviction of a compromised host stays whatever that host says: none of its words counts. Of hosts that call each
  other compromised, also in a ring, one may be an attacker's, and the records do not say which: all of them are out,
  until a host outside says it of one of them, whose words end with it.
* Of endpoints with one address the one of the host keeps it to which the network's creator gave the address
  (netagent.model.address.owners), of those with one id the one whose host made the id. Where that is not known,
  and of those with one MAC, the smaller host id keeps it. An endpoint whose addresses are not one offset in its
  network's subnets is fenced, whichever host claims them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from netagent.model.ids import HostId, NetworkId, is_derived_mac, mac_of
from netagent.model.records import EndpointRecord, NetworkRecord
from netagent.model.subnet import offset_of
from netagent.registry.store import Claim


def in_force(claims: Mapping[HostId, NetworkRecord]) -> tuple[HostId, NetworkRecord]:
    """Return the revision of one network that counts: highest revision, then highest host id, of those that are equal
    to the first one apart from the revision. A network's properties never change: a revision only says which host
    continues it."""
    first = claims[min(claims, key=lambda host: (claims[host].revision, host))]
    alike = {host: one for host, one in claims.items() if replace(one, revision=first.revision) == first}
    owner = max(alike, key=lambda host: (alike[host].revision, host))
    return owner, alike[owner]


def creator_of(claims: Mapping[HostId, NetworkRecord]) -> HostId | None:
    """The host that wrote revision 0. Several must be forged; all hosts then believe the smallest id."""
    return min((host for host, record in claims.items() if record.revision == 0), default=None)


def keep_networks(used_by_id: Mapping[NetworkId, bool]) -> tuple[NetworkId, ...]:
    """Of networks with one name, return those that stay, the one that holds the name first."""
    used = sorted(network_id for network_id, used in used_by_id.items() if used)
    return tuple(used) if used else tuple(sorted(used_by_id)[:1])


def unique_host_name(host_id: HostId, name: str, namesakes: Iterable[HostId]) -> str:
    """`<name>` for the smallest id among the namesakes, else `<name>-<4 hex>`."""
    return name if host_id == min(namesakes) else f"{name}-{host_id[:4]}"


def compromised_hosts(words: Mapping[HostId, Collection[HostId]]) -> dict[HostId, frozenset[HostId]]:
    """Return the compromised hosts, and by whose word: of those that `words` says are compromised (host -> the hosts
    that say so), all but those of which only compromised hosts say so. Costs the words."""
    against = {host: set(writers) - {host} for host, writers in words.items()}
    by_writer: dict[HostId, list[HostId]] = {}
    for host, writers in against.items():
        for writer in writers:
            by_writer.setdefault(writer, []).append(host)
    trusted = [writer for writer in by_writer if not against.get(writer)]
    certain: set[HostId] = set()
    while trusted:
        for host in by_writer.get(trusted.pop(), ()):
            if host in certain:
                continue
            certain.add(host)
            for other in by_writer.get(host, ()):  # its words end
                if other not in certain:
                    against[other].discard(host)
                    if not against[other]:
                        trusted.append(other)
    return {host: frozenset(writers - certain) for host, writers in against.items() if writers}


def evicted_hosts(
    words: Mapping[HostId, frozenset[HostId]],
    disputed: Collection[tuple[HostId, HostId]],
    compromised: Mapping[HostId, frozenset[HostId]],
) -> dict[HostId, frozenset[HostId]]:
    """Return the evicted hosts and by which hosts: those that are compromised; and of those that `words` says are
    gone (host -> the hosts that say so) those with at least one writer that is neither compromised nor contested.
    `disputed`: pairs (writer, host) that do not count."""
    heard = {host: writers.difference(compromised) for host, writers in words.items()}
    contested = {
        one
        for host, writers in heard.items()
        for writer in writers
        if host in heard.get(writer, ()) or ((writer, host) in disputed and host not in compromised)
        for one in (host, writer)
    }
    found = {host: writers - contested for host, writers in heard.items()}
    return {host: writers for host, writers in found.items() if writers} | dict(compromised)


def lies_inside(record: EndpointRecord, network: NetworkRecord) -> bool:
    """True when the endpoint's addresses are one usable offset in each of the network's subnets."""
    return offset_of(network.subnets, record.addresses) is not None


def has_mac_of_another(record: EndpointRecord, network: NetworkRecord) -> bool:
    """True when the endpoint's MAC follows from an address that is not its own: packets for that one would go to it.
    Nobody claims such a MAC, so it is refused whether or not the address is in use."""
    if not is_derived_mac(record.network_id, record.mac):
        return False
    offset = offset_of(network.subnets, record.addresses)
    return offset is None or record.mac != mac_of(record.network_id, offset)


def is_mac(what: str) -> bool:
    """True for a claim of a MAC, False for one of an address."""
    parts = what.split(":")  # six of an IPv6 address have an empty one among them
    return len(parts) == 6 and all(len(part) == 2 for part in parts)


def claims_of(record: EndpointRecord) -> tuple[Claim, ...]:
    """What no other endpoint may have: its id, and within the network its addresses and its MAC. A MAC that follows
    from an address is no claim of its own: it goes with the address (has_mac_of_another)."""
    within = dict.fromkeys(record.addresses)
    if record.mac and not is_derived_mac(record.network_id, record.mac):
        within[record.mac] = None
    return ("", record.endpoint_id), *((record.network_id, one) for one in within)
