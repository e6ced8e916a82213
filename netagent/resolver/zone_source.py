"""The answers for one sandbox: the resolver process's `netdns` source over the table.

A client is a sandbox; it sees the networks it is in and nothing else. A name in another network looks the same as one
that does not exist, so that no client can probe for it. Which names exist is in scope.py, which reverse names in
reverse.py. Everything below the domain and inside the sandbox's subnets is answered here, whatever the type. A name
of the form `<name>.<network>` is not forwarded. (Single labels are not either, by the resolver's own rule.)

The SOA's serial is the version of the client's view, so two runs of `dig SOA <domain>` show whether it changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Final

from netagent.model.ids import EndpointId, NetworkId
from netagent.model.locality import WORDS, Choice, is_warming, warm_steps
from netagent.model.port import HTTP_1
from netagent.model.records import Port
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.index import NetworkIndex, id_label, instance_label, service_type
from netagent.resolver.name_table import (
    SETTINGS_KEY,
    Change,
    EndpointRow,
    ExternalRow,
    GroupLabelRow,
    HostRow,
    Key,
    NetworkRow,
    OwnNameRow,
    Row,
    ServiceAddressRow,
    SettingsRow,
    Subnet,
)
from netagent.resolver.order import Ranked, Rankings, Surroundings, firsts, led_to, nearest_of, ranked
from netagent.resolver.reverse import ReverseName, parse_reverse
from netagent.resolver.scope import (
    NO_SANDBOX,
    Browse,
    BrowseDomains,
    BrowseType,
    BrowseTypes,
    Labels,
    Node,
    Scope,
    https_ports,
)
from netdns import constants, rdata, rebinding
from netdns.name import MAX_NAME_BYTES, ROOT, from_labels, from_text, is_within, labels
from netdns.source import Answer, Client, Found, Name, NoData, NoSuchName, NotOurs, RRset, Zone

TTL_S: Final = 5
"""Long enough to spare a busy client most queries, short enough that no client uses a dead address for long: with the
600 s of another resolver, proxies keep dead addresses for ten minutes. A service's own address never dies, but
whether the kernel leads on from there may change: then clients ask again within this time and get replicas."""

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

MAX_TYPES: Final = 1000
"""Bound of the service types in an answer of DNS-SD; beyond it: those that were there first."""
MAX_INSTANCES: Final = 1000
"""Bound of the instances in an answer of DNS-SD; beyond it: those with the smallest ids."""
MAX_INSTANCES_WITH_GLUE: Final = 16
"""So many of them come with their SRV, TXT and addresses (RFC 6763 12.1); few more fit into a datagram."""

MAX_IN_SRV: Final = 1000
"""Bound of the endpoints in an SRV answer; beyond it: the nearest ones, other ones for each container. More do not
fit into a message."""
MAX_IN_HTTPS: Final = 32
"""Bound of the endpoints in an HTTPS or SVCB answer; beyond it: the nearest ones, other ones for each container.
Browsers ask for HTTPS before each address, and try a few records at most."""
MAX_WITH_GLUE: Final = 64
"""So many targets of SRV come with their addresses; a datagram has room for some twenty."""

_ADDRESS_BYTES: Final = {constants.A: 4, constants.AAAA: 16}
_ANY: Final = (constants.A, constants.AAAA, constants.SRV, constants.TXT, constants.HTTPS)
_PTR_OR_ANY: Final = frozenset({constants.PTR, constants.ANY})


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
        self._zone_label = ""
        self._now_s = 0
        self._rankings: Rankings = {}
        """Of the present table."""
        self._warming: dict[int, Counter[NetworkId]] = {}
        """By the second since which endpoints are up whose share still grows: how many, by network."""

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
                    case EndpointRow() | GroupLabelRow() | ExternalRow() | OwnNameRow() | ServiceAddressRow():
                        networks.add(one.network_id)
                    case NetworkRow():
                        networks.add(key[1])
                    case Sandbox():
                        sandboxes.add(key[1])
                    case HostRow() | SettingsRow():
                        all_clients = True
            self._unindex(key, before, row)
            self._index(key, row)
        if all_clients or networks or sandboxes:
            self._raise_versions(networks, sandboxes, all_clients=all_clients)

    def handle_time(self, now_s: int) -> None:
        """Set the time (Unix), which decides how far the warm-up of endpoints is. Costs the seconds in which
        endpoints came up, not the endpoints. Call it before changes, and every few seconds."""
        before_s, self._now_s = self._now_s, now_s
        networks: set[str] = set()
        for since_s, counts in list(self._warming.items()):
            if warm_steps(since_s, before_s) != warm_steps(since_s, now_s):
                networks.update(counts)
            if not is_warming(since_s, now_s):
                del self._warming[since_s]
        if networks:
            self._raise_versions(networks, set(), all_clients=False)

    def _count_warming(self, row: EndpointRow, change: int) -> None:
        since_s = row.up_since_s
        if since_s is None or not (
            since_s in self._warming or (change > 0 and is_warming(since_s, self._now_s))
        ):
            return
        counts = self._warming.setdefault(since_s, Counter())
        counts[row.network_id] += change
        counts += Counter()  # drops zero counts
        if not counts:
            del self._warming[since_s]

    def _raise_versions(self, networks: set[str], sandboxes: set[str], *, all_clients: bool) -> None:
        self._counter += 1
        self._rankings.clear()
        for sandbox_id, sandbox in self._sandboxes.items():
            if all_clients or sandbox_id in sandboxes or not networks.isdisjoint(sandbox.networks):
                self._versions[sandbox_id] = self._counter

    def _index(self, key: Key, row: Row | None) -> None:
        match row:
            case EndpointRow():
                self._count_warming(row, 1)
                self._network(row.network_id).add(row)
            case GroupLabelRow():
                self._network(row.network_id).keep_label(row)
            case ExternalRow():
                index = self._network(row.network_id)
                for address in row.addresses():
                    index.add(address)
            case OwnNameRow():
                self._network(row.network_id).add_own_name(row)
            case ServiceAddressRow():
                self._network(row.network_id).add_service(row)
            case HostRow():
                self._hosts.setdefault(row.label.encode(), {})[key[1]] = row
            case NetworkRow():
                self._count_subnets(row, 1)
                self._network(NetworkId(key[1])).set_row(row)
            case Sandbox():
                self._sandboxes[row.sandbox_id] = row
        if key == SETTINGS_KEY:
            settings = row if isinstance(row, SettingsRow) else SettingsRow(DEFAULT_DOMAIN)
            self._domain, self._zone_label = from_text(settings.domain), settings.zone

    def _unindex(self, key: Key, before: Row | None, row: Row | None) -> None:
        """Take a row out of the indexes; the next one that has its key replaces what is indexed by the key alone."""
        match before:
            case EndpointRow():
                self._count_warming(before, -1)
                self._networks[before.network_id].discard(before)
                self._drop_if_empty(before.network_id)
            case GroupLabelRow():
                self._networks[before.network_id].discard_label(before)
                self._drop_if_empty(before.network_id)
            case ExternalRow():
                for address in before.addresses():
                    self._networks[before.network_id].discard(address)
                self._drop_if_empty(before.network_id)
            case OwnNameRow():
                self._networks[before.network_id].discard_own_name(before)
                self._drop_if_empty(before.network_id)
            case ServiceAddressRow():
                self._networks[before.network_id].discard_service(before)
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

    def _count_subnets(self, network: NetworkRow, change: int) -> None:
        for subnet in _all_subnets(network):
            bits = 8 * len(subnet.base)
            kind = (bits, bits - subnet.prefix_bits)
            counts = self._subnets.setdefault(kind, Counter())
            counts[int.from_bytes(subnet.base, "big") >> kind[1]] += change
            counts += Counter()  # drops zero counts
            if not counts:
                del self._subnets[kind]

    def _network(self, network_id: NetworkId) -> NetworkIndex:
        return self._networks.setdefault(network_id, NetworkIndex(network_id))

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
            if scope.is_kept(parts):
                return NoSuchName(self._zone(ROOT, client))
            kept = rtype in _LEAD_TO_ADDRESSES and scope.is_like_ours(parts)
            return NotOurs(self._zone(ROOT, client) if kept else None)
        return self._records(node, rtype, self._zone(ROOT, client), client)

    def claims(self, client: Client, address: bytes) -> bool:
        """Return whether an address (4 or 16 octets) is in a network of the client's, so that only we may answer
        it."""
        value, bits = int.from_bytes(address, "big"), 8 * len(address)
        return any(
            len(subnet.base) == len(address)
            and (value ^ int.from_bytes(subnet.base, "big")) >> (bits - subnet.prefix_bits) == 0
            for index in self.scope(client).networks
            for subnet in _all_subnets(index.row)
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
        if node is not None:
            return self._records(node, rtype, zone, client)
        browse = scope.browsed(relative)
        return NoSuchName(zone) if browse is None else self._browsed(browse, rtype, zone)

    def _answer_reverse(self, parts: Labels, reverse: ReverseName, rtype: int, client: Client) -> Answer:
        for index in self.scope(client).networks:
            for subnet in _all_subnets(index.row):
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
        row, service = index.with_address(reverse.address), index.service_with_address(reverse.address)
        if row is None and service is None:
            return NoSuchName(zone)
        if rtype not in (constants.PTR, constants.ANY):
            return NoData(zone)
        name = None if row is None else self.canonical_name(row)
        if service is not None and row is None:
            name = self._below(index, *(one.encode() for one in service.service if one))
        return _pointers((name,)) or NoData(zone)

    def _records(self, node: Node, rtype: int, zone: Zone, client: Client) -> Answer:
        canonical = self._canonical(node)
        if canonical is not None and rtype == constants.CNAME:
            return Found(RRset(constants.CNAME, TTL_S, (canonical,)))
        answer = self._data(node, rtype, zone, client)
        if canonical is not None and isinstance(answer, Found):
            return replace(answer, canonical=canonical)
        return answer

    def _canonical(self, node: Node) -> Name | None:
        """Return the name to which an own name leads; None: there is none, or it is too long to be given."""
        if node.canonical is None:
            return None
        return _name_of((*node.canonical, *labels(self._domain)))

    def _data(self, node: Node, rtype: int, zone: Zone, client: Client) -> Answer:
        for one in _ANY if rtype == constants.ANY else (rtype,):
            match one:
                case constants.A | constants.AAAA:
                    found = self._addresses(node, one, client)
                case constants.SRV:
                    found = self._srv(node, client)
                case constants.TXT:
                    found = _texts(node.rows) or _own_texts(node.texts)
                case constants.HTTPS:
                    found = self._https(node, client)
                case constants.SVCB:
                    found = self._svcb(node, client)
                case _:
                    found = None
            if found is not None:
                return found
        return NoData(zone)

    @property
    def around(self) -> Surroundings:
        """Where this host is among the others, and when."""
        return Surroundings(self._hosts, self._zone_label, self._now_s, self._rankings)

    def _addresses(self, node: Node, rtype: int, client: Client) -> Found | None:
        size, ttl_s = _ADDRESS_BYTES[rtype], TTL_S if node.ttl_s is None else node.ttl_s
        if own := node.service_addresses:
            # Never with addresses of replicas beside it: a client would fix upon one of these.
            found = tuple(address for address in own if len(address) == size)
            return Found(RRset(rtype, ttl_s, found)) if found else None
        around, choice = self.around, node.choice
        rows, turning = led_to(node.rows, choice, around, str(client))
        with_address = [
            (address, number)
            for number, row in enumerate(rows)
            for address in row.addresses
            if len(address) == size
        ]
        addresses = tuple(dict.fromkeys([address for address, _ in with_address]))[:MAX_RECORDS]
        addresses += tuple(address for address in node.host_addresses if len(address) == size)
        if not addresses:
            return None
        has_both = any(len(address) != size for row in rows for address in row.addresses)
        is_one_shown = rtype == constants.AAAA and has_both and len(addresses) > 1 and not choice.every
        if len(addresses) < len(with_address) or not rows:  # two with one address, or too many: each in turn
            return Found(RRset(rtype, ttl_s, addresses, shown=AAAA_SHOWN if is_one_shown else 0))
        before = [number for _, number in with_address if number < turning]
        return Found(
            RRset(
                rtype,
                ttl_s,
                addresses,
                shown=AAAA_SHOWN if is_one_shown else 0,
                firsts=firsts([rows[number] for number in before], around),
                turning=0 if len(before) == len(addresses) else len(before),
            )
        )

    def _ranked(
        self, services: Iterable[tuple[EndpointRow, Port]], choice: Choice, most: int, client: Client
    ) -> list[tuple[Ranked, Port]]:
        """Rank the endpoints of ports, and return those of the nearest; the ports of one follow each other."""
        ports: dict[EndpointId, list[Port]] = {}
        rows: dict[EndpointId, EndpointRow] = {}
        for row, port in services:
            rows[row.endpoint_id] = row
            ports.setdefault(row.endpoint_id, []).append(port)
        every = ranked(tuple(rows.values()), choice, self.around)
        every = nearest_of(every, most if choice.top is None else min(most, choice.top), str(client))
        return [(one, port) for one in every for port in ports[one.row.endpoint_id]][:MAX_RECORDS]

    def _srv(self, node: Node, client: Client) -> Found | None:
        if not node.services or node.is_https:
            return None
        around = self.around
        records: dict[bytes, None] = {}
        glue: dict[tuple[Name, RRset], None] = {}
        for one, port in self._ranked(node.services, node.choice, MAX_IN_SRV, client):
            target = self.canonical_name(one.row)
            if target is None:
                continue
            records[rdata.srv(one.tier, around.weight_of(one.row), port.number, target)] = None
            if len(records) <= MAX_WITH_GLUE:
                glue.update(dict.fromkeys(_glue(target, one.row)))
        return Found(RRset(constants.SRV, TTL_S, tuple(records)), glue=tuple(glue)) if records else None

    def _https(self, node: Node, client: Client) -> Found | None:
        """Say how to reach `https://NAME`, or `https://NAME:PORT` for `_PORT._https.NAME` (RFC 9460 9)."""
        services = node.services if node.is_https else tuple(https_ports(node.rows))
        return self._service_bindings(constants.HTTPS, services, node.choice, client)

    def _svcb(self, node: Node, client: Client) -> Found | None:
        """Say how to reach a named port whose server speaks TLS, at the name that has its SRV."""
        services = () if node.is_https else tuple(one for one in node.services if one[1].alpn)
        return self._service_bindings(constants.SVCB, services, node.choice, client)

    def _service_bindings(
        self, rtype: int, services: Iterable[tuple[EndpointRow, Port]], choice: Choice, client: Client
    ) -> Found | None:
        spoken: dict[tuple[EndpointId, int], dict[str, None]] = {}
        tiers: dict[tuple[EndpointId, int], Ranked] = {}
        for one, port in self._ranked(services, choice, MAX_IN_HTTPS, client):
            # h2 by TCP and h3 by UDP on one port are one way to reach one server.
            place = one.row.endpoint_id, port.number
            spoken.setdefault(place, {}).update(dict.fromkeys(port.alpn))
            tiers[place] = one
        if not spoken:
            return None
        records: list[bytes] = []
        for place, protocols in spoken.items():
            one, target = tiers[place], self.canonical_name(tiers[place].row)
            if target is None:
                continue
            parameters = _parameters(one.row, place[1], protocols, is_https=rtype == constants.HTTPS)
            records.append(rdata.svcb(1 + one.tier, target, parameters))
        # No glue: the hints have the addresses.
        return Found(RRset(rtype, TTL_S, tuple(records))) if records else None

    def _browsed(self, browse: Browse, rtype: int, zone: Zone) -> Answer:
        """Answer DNS-SD. A browser asks for PTR, and for SRV and TXT of an instance."""
        found: Found | None = None
        match browse:
            case BrowseDomains(networks) if rtype in _PTR_OR_ANY:
                found = _pointers(self._below(index) for index in networks)
            case BrowseTypes(index) if rtype in _PTR_OR_ANY:
                kinds = sorted(islice(index.types, MAX_TYPES))
                found = _pointers(self._below(index, *kind.split(b".")) for kind in kinds)
            case BrowseType(index, kind, None) if rtype in _PTR_OR_ANY:
                found = self._instances(index, kind)
            case BrowseType(index, kind, bytes(label)):
                rows = index.instance(label, kind)
                if rtype in {constants.SRV, constants.ANY}:
                    found = self._srv(Node(services=_ports_of(rows, kind)), "")
                elif rtype == constants.TXT:
                    # An instance always has one, if only an empty one (RFC 6763 6.1).
                    found = _texts(rows) or Found(RRset(constants.TXT, TTL_S, (rdata.txt(b""),)))
        return NoData(zone) if found is None else found

    def _instances(self, index: NetworkIndex, kind: bytes) -> Found | None:
        every = index.of_type(kind)
        # A browser shows all alike, so those of last resort only if there are no others.
        rows = (tuple(row for row in every if not row.is_behind) or every)[:MAX_INSTANCES]
        names = [self._below(index, instance_label(row), *kind.split(b".")) for row in rows]
        glue: dict[tuple[Name, RRset], None] = {}
        for name, row in list(zip(names, rows, strict=True))[:MAX_INSTANCES_WITH_GLUE]:
            if name is None:
                continue
            srv, texts = self._srv(Node(services=_ports_of((row,), kind)), ""), _texts((row,))
            glue.update({(name, one.rrset): None for one in (srv, texts) if one is not None})
            glue.update(dict.fromkeys(srv.glue if srv is not None else ()))
        found = _pointers(names)
        return None if found is None else replace(found, glue=tuple(glue))

    def _below(self, index: NetworkIndex, *leading: bytes) -> Name | None:
        return _name_of((*leading, index.label, *labels(self._domain)))

    def canonical_name(self, row: EndpointRow) -> Name | None:
        """Return the one name that stands for this endpoint alone, and that resolves to it.

        `<name>.<host>.<network>.<domain>`. The label of the id replaces the name if the name has an underscore, which
        many programs reject in a host name, if it has another meaning before a label (scope.py), or if the whole
        would be longer than a name can be. None: it would be so even then, below a very long domain (`init` refuses
        such a one).
        """
        above = (row.host_label.encode(), self._networks[row.network_id].label, *labels(self._domain))
        is_usable = "_" not in row.name and row.name not in WORDS
        named = _name_of((row.name.encode(), *above)) if is_usable else None
        return named or _name_of((id_label(row), *above))

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


def _all_subnets(row: NetworkRow | None) -> tuple[Subnet, ...]:
    """Return all ranges whose addresses are a network's."""
    return () if row is None else (*row.subnets, *row.service_ranges)


def _texts(rows: Iterable[EndpointRow]) -> Found | None:
    """One record for each endpoint that has texts."""
    found = dict.fromkeys(rdata.txt(*row.texts) for row in rows if row.texts)
    return Found(RRset(constants.TXT, TTL_S, tuple(found)[:MAX_RECORDS])) if found else None


def _own_texts(texts: Iterable[bytes]) -> Found | None:
    found = tuple(dict.fromkeys(map(rdata.txt, texts)))
    return Found(RRset(constants.TXT, TTL_S, found)) if found else None


def _glue(target: Name, row: EndpointRow) -> Iterator[tuple[Name, RRset]]:
    for rtype, size in _ADDRESS_BYTES.items():
        addresses = tuple(address for address in row.addresses if len(address) == size)
        if addresses:
            yield target, RRset(rtype, TTL_S, addresses)


def _name_of(parts: Collection[bytes]) -> Name | None:
    """Join labels; None: the name would be longer than one can be."""
    return from_labels(parts) if sum(len(label) + 1 for label in parts) < MAX_NAME_BYTES else None


def _pointers(names: Iterable[Name | None]) -> Found | None:
    targets = tuple(rdata.ptr(name) for name in names if name is not None)
    return Found(RRset(constants.PTR, TTL_S, targets)) if targets else None


def _ports_of(rows: Iterable[EndpointRow], kind: bytes) -> tuple[tuple[EndpointRow, Port], ...]:
    return tuple((row, port) for row in rows for port in row.ports if service_type(port) == kind)


def _parameters(
    row: EndpointRow, port: int, protocols: Collection[str], *, is_https: bool
) -> dict[int, bytes]:
    """Return the parameters of a service binding. HTTP/1.1 is what a client of HTTPS assumes without being told (RFC
    9460 9.1); if the server does not speak it, the record must say so."""
    parameters = {
        constants.KEY_ALPN: rdata.alpn(one.encode() for one in protocols),
        constants.KEY_PORT: port.to_bytes(2, "big"),
    }
    if is_https and HTTP_1 not in protocols:
        parameters[constants.KEY_NO_DEFAULT_ALPN] = b""
    for key, size in ((constants.KEY_IPV4HINT, 4), (constants.KEY_IPV6HINT, 16)):
        hint = b"".join(address for address in row.addresses if len(address) == size)
        if hint:
            parameters[key] = hint
    return parameters
