"""The answers for one sandbox: the resolver process's `netdns` source over the table.

A client is a sandbox; it sees the networks it is in and nothing else. A name in another network looks the same as one
that does not exist, so that no client can probe for it. Which names exist is in scope.py, which reverse names in
reverse.py. Everything below the domain and inside the sandbox's subnets is answered here, whatever the type. A name
of the form `<name>.<network>` is not forwarded. (Single labels are not either, by the resolver's own rule.)

The SOA's serial is the version of the client's view, so two runs of `dig SOA <domain>` show whether it changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from netagent.model.ids import NetworkId
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.index import NetworkIndex, id_label
from netagent.resolver.name_table import (
    SETTINGS_KEY,
    Change,
    EndpointRow,
    HostRow,
    Key,
    NetworkRow,
    Row,
    SettingsRow,
    Subnet,
)
from netagent.resolver.reverse import ReverseName, parse_reverse
from netagent.resolver.scope import NO_SANDBOX, Labels, Node, Scope
from netdns import constants, rdata, rebinding
from netdns.name import MAX_NAME_BYTES, ROOT, from_labels, from_text, is_within, labels
from netdns.source import Answer, Client, Found, Name, NoData, NoSuchName, NotOurs, RRset, Zone

TTL_S: Final = 5
"""Long enough to spare a busy client most queries, short enough that no client uses a dead address for long: with the
600 s of another resolver, proxies keep dead addresses for ten minutes."""

NEGATIVE_TTL_S: Final = 1
"""A name that is missing now may be attached in the next second."""

DEFAULT_DOMAIN: Final = "mesh.internal"
"""Until the table says otherwise."""

MAX_RECORDS: Final = 2000
"""Per answer: 2,000 AAAA with compressed owners are 56,000 bytes, and a message ends at 65,535."""

AAAA_SHOWN: Final = 1
"""IPv6 addresses in one answer, rotating from answer to answer, if the name has IPv4 addresses as well.

getaddrinfo(3) puts IPv6 first and sorts it by the longest common prefix with the client's own address (RFC 6724
rule 9): given all, a client would use one replica for ever. Given one, it uses that one first and then all IPv4
addresses, so load spreads and a client still has an alternative when one replica does not answer."""

_LEAD_TO_ADDRESSES: Final = frozenset(
    {
        constants.A,
        constants.AAAA,
        constants.CNAME,
        constants.SRV,
        constants.SVCB,
        constants.HTTPS,
        constants.ANY,
    }
)
"""Types whose answer would lead a client to an outside host, if a name of ours does not exist."""

_RNAME: Final = from_text("nobody.invalid")
"""A zone like ours has no mailbox (RFC 6303 3 uses the same name)."""

_SRV_WEIGHT: Final = 1
"""Equal shares. With weight 0 everywhere, RFC 2782's algorithm always takes the first record."""

_SRV_BEHIND: Final = 1
"""The priority of endpoints that this host does not reach: used only if none of priority 0 is reached."""


class ZoneSource:
    """Implements `netdns.source.RecordSource` for clients that are sandbox ids."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._networks: dict[NetworkId, NetworkIndex] = {}
        self._hosts: dict[bytes, dict[str, HostRow]] = {}
        self._sandboxes: dict[SandboxId, Sandbox] = {}
        self._domain = from_text(DEFAULT_DOMAIN)
        self._counter = 1
        self._versions: dict[Client, int] = {}
        self._subnets: dict[tuple[int, int], Counter[int]] = {}

    @property
    def rows(self) -> Mapping[Key, Row]:
        """The table as applied so far."""
        return MappingProxyType(self._rows)

    # --- changes ------------------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply the changes, each as a whole. Changes without effect cost nothing downstream."""
        all_clients = False
        networks: set[str] = set()
        sandboxes: set[str] = set()
        for key, row in changes:
            before = self._rows.get(key)
            if before == row:
                continue
            if row is None:
                del self._rows[key]
            else:
                self._rows[key] = row
            for one in (before, row):
                match one:
                    case EndpointRow():
                        networks.add(one.network_id)
                    case NetworkRow():
                        networks.add(key[1])
                    case Sandbox():
                        sandboxes.add(key[1])
                    case HostRow() | SettingsRow():
                        all_clients = True
            self._index(key, before, row)
        if all_clients or networks or sandboxes:
            self._raise_versions(networks, sandboxes, all_clients=all_clients)

    def _raise_versions(self, networks: set[str], sandboxes: set[str], *, all_clients: bool) -> None:
        self._counter += 1
        for sandbox_id, sandbox in self._sandboxes.items():
            if all_clients or sandbox_id in sandboxes or not networks.isdisjoint(sandbox.networks):
                self._versions[sandbox_id] = self._counter

    def _index(self, key: Key, before: Row | None, row: Row | None) -> None:
        match before:
            case EndpointRow():
                self._networks[before.network_id].discard(before)
                self._drop_if_empty(before.network_id)
            case HostRow():
                hosts = self._hosts[before.label.encode()]
                del hosts[key[1]]
                if not hosts:
                    del self._hosts[before.label.encode()]
            case NetworkRow():
                self._count_subnets(before, -1)
                if row is None:
                    self._networks[NetworkId(key[1])].set_row(None)
                    self._drop_if_empty(NetworkId(key[1]))
            case Sandbox() if row is None:
                del self._sandboxes[before.sandbox_id]
                self._versions.pop(before.sandbox_id, None)
        match row:
            case EndpointRow():
                self._network(row.network_id).add(row)
            case HostRow():
                self._hosts.setdefault(row.label.encode(), {})[key[1]] = row
            case NetworkRow():
                self._count_subnets(row, 1)
                self._network(NetworkId(key[1])).set_row(row)
            case Sandbox():
                self._sandboxes[row.sandbox_id] = row
        if key == SETTINGS_KEY:
            self._domain = from_text(row.domain if isinstance(row, SettingsRow) else DEFAULT_DOMAIN)

    def _count_subnets(self, network: NetworkRow, change: int) -> None:
        for subnet in network.subnets:
            bits = 8 * len(subnet.base)
            kind = (bits, bits - subnet.prefix_bits)
            counts = self._subnets.setdefault(kind, Counter())
            counts[int.from_bytes(subnet.base, "big") >> kind[1]] += change
            counts += Counter()  # drops zero counts
            if not counts:
                del self._subnets[kind]

    def _network(self, network_id: NetworkId) -> NetworkIndex:
        return self._networks.setdefault(network_id, NetworkIndex())

    def _drop_if_empty(self, network_id: NetworkId) -> None:
        if self._networks[network_id].is_empty():
            del self._networks[network_id]

    # --- questions ----------------------------------------------------------------------------------------------

    def version(self, client: Client) -> int:
        """Return a number that changes with every change of what `client` may see."""
        # One counter numbers all changes, so a client that is not known (and sees nothing) never has the same number
        # as before it was forgotten.
        return self._versions.get(client, self._counter)

    def lookup(self, name: Name, rtype: int, client: Client) -> Answer:
        """Answer for one sandbox; see the module's docstring. A client that is not a sandbox of ours sees no
        network."""
        scope = self.scope(client)
        parts = labels(name)
        if is_within(name, self._domain):
            return self._answer_below(scope, parts, rtype, client)
        reverse = parse_reverse(parts)
        if reverse is not None:
            return self._answer_reverse(parts, reverse, rtype, client)
        node = scope.bare(parts)
        if node is None:
            if scope.is_alias(parts):
                return NoSuchName(self._zone(ROOT, client))
            kept = rtype in _LEAD_TO_ADDRESSES and scope.is_like_ours(parts)
            return NotOurs(self._zone(ROOT, client) if kept else None)
        return self._records(node, rtype, self._zone(ROOT, client))

    def claims(self, client: Client, address: bytes) -> bool:
        """Return whether an address (4 or 16 octets) is in a network of the client's, so that only we may answer
        it."""
        value, bits = int.from_bytes(address, "big"), 8 * len(address)
        return any(
            len(subnet.base) == len(address)
            and (value ^ int.from_bytes(subnet.base, "big")) >> (bits - subnet.prefix_bits) == 0
            for index in self.scope(client).networks
            for subnet in (index.row.subnets if index.row else ())
        )

    def is_inside(self, address: bytes) -> bool:
        """Return whether an address (4 or 16 octets) must not come from an outside name server: loopback, our
        networks.

        One look-up for each length of prefix that our subnets have, whatever their number.
        """
        address = rebinding.unmapped(address)
        if rebinding.is_loopback(address):
            return True
        value, bits = int.from_bytes(address, "big"), 8 * len(address)
        return any(
            kind_bits == bits and value >> host_bits in subnets
            for (kind_bits, host_bits), subnets in self._subnets.items()
        )

    def _answer_below(self, scope: Scope, parts: Labels, rtype: int, client: Client) -> Answer:
        zone = self._zone(self._domain, client)
        relative = parts[: len(parts) - len(scope.domain)]
        if not relative and rtype == constants.SOA:
            return Found(RRset(constants.SOA, TTL_S, (zone.soa,)))
        node = scope.below_domain(relative)
        return NoSuchName(zone) if node is None else self._records(node, rtype, zone)

    def _answer_reverse(self, parts: Labels, reverse: ReverseName, rtype: int, client: Client) -> Answer:
        for index in self.scope(client).networks:
            for subnet in index.row.subnets if index.row else ():
                if reverse.overlaps(subnet):
                    return self._answer_in_subnet(parts, reverse, rtype, (client, index, subnet))
        return NotOurs()

    def _answer_in_subnet(
        self, parts: Labels, reverse: ReverseName, rtype: int, where: tuple[Client, NetworkIndex, Subnet]
    ) -> Answer:
        client, index, subnet = where
        apex_labels = reverse.zone_labels(subnet)
        if len(parts) - reverse.junk_labels < apex_labels:
            # Above the zone: on the way to it, or a neighbouring name that is not ours.
            return NotOurs() if reverse.junk_labels else NoData(self._zone(from_labels(parts), client))
        zone = self._zone(from_labels(parts[-apex_labels:]), client)
        if len(parts) == apex_labels and rtype == constants.SOA:
            return Found(RRset(constants.SOA, TTL_S, (zone.soa,)))
        if reverse.address is None:
            return NoSuchName(zone) if reverse.junk_labels else NoData(zone)
        row = index.with_address(reverse.address)
        if row is None:
            return NoSuchName(zone)
        if rtype not in (constants.PTR, constants.ANY):
            return NoData(zone)
        return Found(RRset(constants.PTR, TTL_S, (rdata.ptr(self.canonical_name(row)),)))

    def _records(self, node: Node, rtype: int, zone: Zone) -> Answer:
        for one in (constants.A, constants.AAAA, constants.SRV) if rtype == constants.ANY else (rtype,):
            match one:
                case constants.A if found := node.addresses(4):
                    return Found(RRset(one, TTL_S, found[:MAX_RECORDS]))
                case constants.AAAA if found := node.addresses(16):
                    shown = AAAA_SHOWN if len(found) > 1 and node.addresses(4) else 0
                    return Found(RRset(one, TTL_S, found[:MAX_RECORDS], shown=shown))
                case constants.SRV if node.services:
                    return self._services(node)
        return NoData(zone)

    def _services(self, node: Node) -> Found:
        records: dict[bytes, None] = {}
        glue: dict[tuple[Name, RRset], None] = {}
        for row, port in sorted(node.services, key=lambda one: one[0].is_behind)[:MAX_RECORDS]:
            target = self.canonical_name(row)
            priority = _SRV_BEHIND if row.is_behind else 0
            records[rdata.srv(priority, _SRV_WEIGHT, port.number, target)] = None
            for rtype, size in ((constants.A, 4), (constants.AAAA, 16)):
                addresses = tuple(address for address in row.addresses if len(address) == size)
                if addresses:
                    glue[target, RRset(rtype, TTL_S, addresses)] = None
        return Found(RRset(constants.SRV, TTL_S, tuple(records)), glue=tuple(glue))

    def canonical_name(self, row: EndpointRow) -> Name:
        """Return the one name that stands for this endpoint alone, and that resolves to it.

        `<name>.<host>.<network>.<domain>`. The label of the id replaces the name if the name has an underscore, which
        many programs reject in a host name, or if the whole would be longer than a name can be.
        """
        above = (row.host_label.encode(), self._networks[row.network_id].label, *labels(self._domain))
        name = row.name.encode()
        if b"_" in name or sum(len(label) + 1 for label in (name, *above)) >= MAX_NAME_BYTES:
            name = id_label(row)
        return from_labels((name, *above))

    def scope(self, client: Client) -> Scope:
        """Return everything that answers for `client` may be built from."""
        sandbox = NO_SANDBOX
        if isinstance(client, str):
            sandbox = self._sandboxes.get(SandboxId(client), NO_SANDBOX)
        known = (self._networks.get(network_id) for network_id in sandbox.networks)
        networks = [index for index in known if index is not None and index.row is not None]
        return Scope(sandbox, networks, self._hosts, labels(self._domain))

    def _zone(self, apex: Name, client: Client) -> Zone:
        soa = rdata.soa(apex, _RNAME, serial=self.version(client), minimum_s=NEGATIVE_TTL_S)
        return Zone(apex, soa, NEGATIVE_TTL_S)
