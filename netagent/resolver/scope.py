"""The meaning of names in one sandbox. Names are tuples of lower-case labels, the leftmost first.

Below `<domain>`:

    <label>.<network>                    its endpoints (see index.py); in a sandbox of a group, its group's or none if
                                         the group has had the label
    <name>.<host>.<network>              one endpoint
    <label>.<group>.<network>            endpoints of one group, unless that host has an endpoint of that name
    <external service>.<network>         its addresses, and names of an operator's own: only where no container
    <own name>.<network>                 has the name
    <host>.node                          a host's underlay address
    nearest.<any of the first>           the nearest of its endpoints; top<N>.nearest: the N nearest ones
    <zone>.zone.<any of the first>       those in a zone, or if there are none, the nearest ones
    all.<any of the first>               all, with all their addresses
    _<port>._<protocol>.<any of these>   SRV for a port that is exposed by name

`nearest`, `all` and `zone` have this meaning where the rest of the name leads to endpoints. Otherwise, and below a
network alone, they are labels like others: `all.app` is a service called `all`, and `nearest.h1.app` an endpoint of
that name. Where both exist, as when a service is called like a host, the words win, and SRV and PTR name an endpoint
that is called like one of them by its id.

A network may lose its name when two parts of the cluster join that each had one of that name. It is then called
`<name>-<4 hex>`; in its own sandboxes it also answers to the name, unless they are in the other network, too.

Without the domain, some forms are ours as well, because people type them:

    <label>                  an alias of this sandbox's links, else the first of its networks, in attach order, that
                             has the label; never a mixture of two networks
    <label>.<network>        of a network that the sandbox is in, and with one more label for a host or a group
    <label>.node
    <label>.<group>          in the first of its networks in which the group has that label

The second and third are ours although there are top-level domains such as `dev` and `app`: `db.dev` must not lead to
an outside host while our `db` is away. That holds for types that lead to an address, and for these forms only:
`pkg.go.dev` is forwarded (unless `go` is a host or group of the network `dev`), and so is `go.dev DS`, which a
validating resolver in the sandbox needs.

The last is ours only while the group has such an endpoint; any other name of this form is forwarded. A network has
one name, which an operator chose. A group is mostly called after a folder (`app`, `dev`, `shop` and `blog` are
top-level domains), and each container may bring another one: if absent names were kept, a project `com` would take
all of `.com` from every container of the network. A program that must never reach an outside host of the same name
asks for `db`, inside the group, or for `db.shop.app`.

A label or alias that means a service with an address of its own (see index.py) leads to that address where the
sandbox's programs are led on from there, and to the replicas elsewhere. `nearest`, `all` and `zone`, `<name>.<host>`
and SRV records always lead to replicas. So a name means the same service for all that ask, and only the address
differs. While no replica is up, the address stays; a sandbox that would get replicas finds the name without data, so
that its stub looks no further.

A stub resolver asks for a single label with the search list first: `db` becomes `db.<first network>.<domain>`. So a
link's alias also exists at that name, in that sandbox alone; otherwise a service of the same name would win over the
alias. An alias whose service has no address does not exist, and never means something else of the same name: a
client of `database` must not reach an outside host because the database is down.

The same holds for an own name that is an alias (a CNAME). It leads nowhere but to names of networks that the sandbox
is in: a sandbox that does not see the target does not see the alias either.

For the same reason a label of the sandbox's own group, in any of the sandbox's networks, leads to the group or
nowhere. While the group's `db` restarts, no `db` of another group stands in for it, no chosen service, no endpoint
that is called so, and nothing that an operator added. The table says which labels these are as long as the group has
no endpoint for them (GroupLabelRow). A label that the group never had is looked for in the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeAlias

from netagent.model.ids import NODE_LABEL
from netagent.model.locality import ZONE_LABEL, Choice, choice_of
from netagent.model.port import HTTP_ALPN
from netagent.model.records import Port
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.index import Meaning, NetworkIndex
from netagent.resolver.name_table import EndpointRow, ExternalAddressRow, HostRow, ServiceAddressRow

Labels: TypeAlias = tuple[bytes, ...]

NO_SANDBOX: Final = Sandbox(sandbox_id=SandboxId(""), forward=False)
"""A client that is not a sandbox of ours: it is in no network."""

_NODE: Final = NODE_LABEL.encode()
_MAX_ALIASES: Final = 8
"""Own names that lead to each other; a longer chain is a loop."""


@dataclass(frozen=True, slots=True)
class Node:
    """A name that exists. Without data of its own, there are only names below it."""

    rows: tuple[EndpointRow, ...] = ()
    """Endpoints whose addresses it has."""
    host_addresses: tuple[bytes, ...] = ()
    services: tuple[tuple[EndpointRow, Port], ...] = ()
    """Ports that its SRV records point to."""
    index: NetworkIndex | None = None
    """The network in which it was found."""
    alias: bool = False
    """Whether a link of the sandbox led here."""
    asked: Choice | None = None
    """Which of the endpoints the name asks for; None: as its network says."""
    is_https: bool = False
    """Whether `services` are for `https://NAME:PORT`, and have no SRV."""
    texts: tuple[bytes, ...] = ()
    """Of an own name."""
    canonical: Labels | None = None
    """The name, without the domain, to which an own name led; None: none led here."""
    service: ServiceAddressRow | None = None
    """The service that it means, if that has an address of its own."""
    is_translated: bool = False
    """Whether the kernel leads the sandbox's programs from that address to a replica."""

    @property
    def choice(self) -> Choice:
        """Which of the endpoints are meant."""
        if self.asked is not None:
            return self.asked
        row = None if self.index is None else self.index.row
        return Choice() if row is None else Choice(row.answer)

    @property
    def service_addresses(self) -> tuple[bytes, ...]:
        """The addresses that an answer gives instead of the endpoints'; empty: none."""
        is_given = self.service is not None and self.is_translated and self.asked is None
        return self.service.addresses if self.service is not None and is_given else ()

    @property
    def is_bare(self) -> bool:
        """Whether it has no records at all."""
        has_address = self.rows or self.host_addresses or self.service_addresses
        return not (has_address or self.services or self.texts)

    @property
    def ttl_s(self) -> int | None:
        """How long clients may keep what it has; None: as usual."""
        if self.service_addresses:
            return None
        given = [row.ttl_s for row in self.rows if isinstance(row, ExternalAddressRow)]
        return min((ttl_s for ttl_s in given if ttl_s is not None), default=None)


@dataclass(frozen=True, slots=True)
class BrowseDomains:
    """DNS-SD: the domains in which services can be browsed."""

    networks: tuple[NetworkIndex, ...]


@dataclass(frozen=True, slots=True)
class BrowseTypes:
    """DNS-SD: the service types of a network."""

    index: NetworkIndex


@dataclass(frozen=True, slots=True)
class BrowseType:
    """DNS-SD: the instances of a service type, or one of them."""

    index: NetworkIndex
    kind: bytes
    """`_http._tcp`."""
    label: bytes | None = None
    """The label of the one instance."""


@dataclass(frozen=True, slots=True)
class BrowseAbove:
    """DNS-SD: a name that has only names below it."""


Browse: TypeAlias = BrowseDomains | BrowseTypes | BrowseType | BrowseAbove

_BROWSE: Final = frozenset({b"b", b"lb", b"db"})
"""Labels for the domains to browse (RFC 6763 11): the recommended ones, those for legacy clients, the default."""


@dataclass(frozen=True)
class Scope:
    """Everything that one sandbox may see. Built for one question; the parts are the source's own tables."""

    sandbox: Sandbox
    networks: Sequence[NetworkIndex]
    """The sandbox's networks that are known by name, in attach order."""
    hosts: Mapping[bytes, Mapping[str, HostRow]]
    domain: Labels

    @cached_property
    def aliases(self) -> Mapping[bytes, Labels]:
        """The target of each link alias; of two links with one alias the first counts."""
        links = reversed(self.sandbox.links)
        return {link.alias.encode(): tuple(link.service.encode().split(b".")) for link in links}

    def below_domain(self, labels: Labels) -> Node | None:
        """Resolve a name without the domain at its end. None: no such name."""
        base, service = _split_service(labels)
        node = self._base(base)
        return _with_service(node, service)

    def bare(self, labels: Labels) -> Node | None:
        """Resolve a name that does not end in the domain. None: no such name, or not ours."""
        base, service = _split_service(labels)
        if len(base) == 1:
            node = self._single(base[0])
        elif len(base) > 1:
            node = self._base(base)
            if node is None or node.is_bare:
                node = self._chosen(base, self._without_network) or node
            if len(base) == 2 and (node is None or node.is_bare):
                node = self._in_group(*base) or node
        else:
            node = None
        node = _with_service(node, service)
        return None if node is None or (node.is_bare and not service) else node

    def browsed(self, labels: Labels) -> Browse | None:
        """Return what DNS-SD asks for by a name without the domain at its end (RFC 6763); None: nothing of it."""
        match labels:
            case [domains, b"_dns-sd", b"_udp"] if domains in _BROWSE and self.networks:
                return BrowseDomains(tuple(self.networks))
            case [b"_dns-sd", b"_udp"] | [b"_udp"] if self.networks:
                return BrowseAbove()
        index = self._network(labels[-1]) if len(labels) > 1 else None
        if index is None:
            return None
        match labels[:-1]:
            case [domains, b"_dns-sd", b"_udp"] if domains in _BROWSE:
                return BrowseDomains((index,))
            case [b"_services", b"_dns-sd", b"_udp"]:
                return BrowseTypes(index)
            case [b"_dns-sd", b"_udp"] | [b"_udp"]:
                return BrowseAbove()
            case [protocol] if any(one.endswith(b"." + protocol) for one in index.types):
                return BrowseAbove()
            case [service, protocol] if (kind := service + b"." + protocol) in index.types:
                return BrowseType(index, kind)
            case [label, service, protocol] if index.instance(label, kind := service + b"." + protocol):
                return BrowseType(index, kind, label)
        return None

    def is_kept(self, labels: Labels) -> bool:
        """Whether a name without the domain is ours even if it has no endpoint: a link's alias, a label of the own
        group, a service that has an address of its own, or one that groups share in a network which refuses that.
        Docker's resolver, which would be asked next, knows all groups on this host."""
        match _split_service(labels)[0]:
            case (label,):
                is_own = label in self.aliases or self.is_of_own_group(label)
                return is_own or any(one.meaning(label) or one.shared_by(label) for one in self.networks)
            case (label, group):
                return group == self.group and self.is_of_own_group(label)
        return False

    def is_own(self, labels: Labels) -> bool:
        """Whether a name without the domain means the group of the sandbox and no other."""
        match _split_service(labels)[0]:
            case (label,):
                return self.is_of_own_group(label)
            case (label, place, *_):
                is_group = place == self.group or self._network(place) is not None
                return is_group and self.is_of_own_group(label)
        return False

    def is_of_own_group(self, label: bytes) -> bool:
        """Whether the group of the sandbox has the label, or has had it, in one of the sandbox's networks."""
        group = self.group
        return group is not None and any(
            index.keeps(label, group) or bool(index.in_group(label, group)) for index in self.networks
        )

    def is_like_ours(self, labels: Labels) -> bool:
        """Whether a name without the domain has a form that is ours, whether or not it exists."""
        base = _split_service(labels)[0]
        if (chosen := choice_of(base)) and len(base) > chosen[1] + 1:
            base = base[chosen[1] :]
        match base:
            case (_, top):
                return top == _NODE or self._network(top) is not None
            case (_, place, top):
                index = self._network(top)
                return index is not None and (place in self.hosts or index.has_group(place))
        return False

    def _single(self, label: bytes) -> Node | None:
        return self._alias(label) if label in self.aliases else self._in_first_network(label)

    def _without_network(self, labels: Labels) -> Node | None:
        match labels:
            case (label,):
                return self._single(label)
            case (label, group):
                return self._in_group(label, group)
        return None

    def _chosen(self, labels: Labels, resolve: Callable[[Labels], Node | None]) -> Node | None:
        """Resolve a name that begins with one of the words; None: they have no such meaning here."""
        found = choice_of(labels)
        node = resolve(labels[found[1] :]) if found is not None else None
        if found is None or node is None or not (node.rows or node.service):
            return None
        return replace(node, asked=found[0])

    def _base(self, labels: Labels) -> Node | None:
        node = self._chosen(labels, self._plain_base) or self._plain_base(labels)
        if node is None and labels[:1] == (ZONE_LABEL,):  # above <zone>.zone.web.app (RFC 8020)
            node = self._plain_base(labels[1:])
            is_there = node is not None and (node.rows or node.service)
            return Node(index=node.index) if node is not None and is_there else None
        return node

    def _plain_base(self, labels: Labels) -> Node | None:
        if not labels:
            return Node()
        *rest, top = labels
        if top == _NODE:
            return self._host(rest)
        index = self._network(top)
        if index is None:
            return None
        if len(rest) == 1 and index is self.networks[0] and rest[0] in self.aliases:
            return self._alias(rest[0])
        return self._in_network(index, rest)

    @property
    def group(self) -> bytes | None:
        """The group of the sandbox."""
        return None if self.sandbox.group is None else self.sandbox.group.encode()

    def _network(self, label: bytes) -> NetworkIndex | None:
        """Find a network of this sandbox by its present name, or the name that its creator chose: if a network of
        another part of the cluster has taken the name, the sandboxes inside are not affected. In a sandbox that is in
        both, the name means the network that has it now."""
        named = (one for one in self.networks if one.label == label)
        given = (one for one in self.networks if one.given == label)
        return next(named, None) or next(given, None)

    def _alias(self, alias: bytes) -> Node | None:
        target = self.aliases[alias]
        if target[-len(self.domain) :] == self.domain:
            target = target[: -len(self.domain)]
        node = self._in_first_network(target[0]) if len(target) == 1 else self._plain(target)
        if node is None or node.is_bare:
            return None
        return replace(node, alias=True, texts=(), canonical=None)

    def _plain(self, labels: Labels) -> Node | None:
        """Resolve without aliases, so that a link to `db.app` under the alias `db` does not mean itself."""
        if labels and labels[-1] == _NODE:
            return self._host(labels[:-1])
        index = self._network(labels[-1]) if labels else None
        node = None if index is None else self._in_network(index, labels[:-1])
        if len(labels) == 2 and (node is None or node.is_bare):
            return self._in_group(*labels)
        return node

    def _in_first_network(self, label: bytes) -> Node | None:
        for index in self.networks:
            if node := self._labelled(index, label) or self._added(index, (label,)):
                return node
        return None

    def _labelled(self, index: NetworkIndex, label: bytes) -> Node | None:
        """Resolve `<label>.<network>` as programs in the sandbox see it; None: no endpoint and no service has it."""
        if self.group is not None and self.is_of_own_group(label):
            return self._meant(index, index.in_group(label, self.group))
        meaning = index.meaning(label)
        if meaning.service is not None and not meaning.rows:
            meaning = Meaning(index.external(label), meaning.service)
        return self._meant(index, meaning)

    def _meant(self, index: NetworkIndex, meaning: Meaning) -> Node | None:
        if not meaning:
            return None
        is_refused = meaning.service is not None and meaning.service.is_refused
        is_translated = index.network_id in self.sandbox.translates and not is_refused
        return Node(meaning.rows, index=index, service=meaning.service, is_translated=is_translated)

    def _in_group(self, label: bytes, group: bytes) -> Node | None:
        for index in self.networks:
            if node := self._meant(index, index.in_group(label, group)):
                return node
        return None

    def _in_network(self, index: NetworkIndex, labels: Sequence[bytes], depth: int = 0) -> Node | None:
        node: Node | None = None
        has_names = index.has_own_names(labels)
        match labels:
            case []:
                return Node(index=index)
            case [label]:
                node = self._labelled(index, label)
                has_names = has_names or index.has_host(label) or index.has_group(label)
            case [label, place]:
                # The host first: a target of SRV or PTR means this one endpoint, whatever groups are called.
                rows = index.on_host(label, place)
                node = Node(rows, index=index) if rows else self._meant(index, index.in_group(label, place))
        if node is not None:
            return node
        return self._added(index, labels, depth) or (Node(index=index) if has_names else None)

    def _added(self, index: NetworkIndex, labels: Sequence[bytes], depth: int = 0) -> Node | None:
        """Resolve what operators added to a network. It stands in for no label of the sandbox's own group either."""
        if len(labels) == 1 and self.is_of_own_group(labels[0]):
            return None
        if len(labels) == 2 and self._is_place_of_containers(index, labels[1]):
            return None
        if len(labels) == 1 and (rows := index.external(labels[0])):
            return Node(rows, index=index)
        own = index.own_name(labels)
        if own is None:
            return None
        if own.alias is None:
            return Node((), own.addresses, index=index, texts=tuple(text.encode() for text in own.texts))
        network_id, name = own.alias
        target = next((one for one in self.networks if one.network_id == network_id), None)
        if target is None or depth == _MAX_ALIASES:
            return None
        parts = tuple(name.encode().split(b"."))
        node = self._in_network(target, parts, depth + 1)
        if node is None or node.is_bare:
            return None
        return replace(node, canonical=node.canonical or (*parts, target.label))

    def _is_place_of_containers(self, index: NetworkIndex, place: bytes) -> bool:
        """True if names below it are those of a group's or a host's containers: `db.shop` leads there or nowhere."""
        return place == self.group or index.has_group(place) or index.has_host(place)

    def _host(self, labels: Sequence[bytes]) -> Node | None:
        if not labels:
            return Node()
        rows = self.hosts.get(labels[0]) if len(labels) == 1 else None
        return Node(host_addresses=tuple(rows[one].address for one in sorted(rows))) if rows else None


def _split_service(labels: Labels) -> tuple[Labels, Labels]:
    """Split off the leading labels with an underscore: no name of ours begins with one."""
    count = 0
    while count < min(2, len(labels)) and labels[count][:1] == b"_":
        count += 1
    return labels[count:], labels[:count]


def _with_service(node: Node | None, service: Labels) -> Node | None:
    """Narrow a node down to `_port._protocol` or `_protocol` below it."""
    if node is None or not service:
        return node
    protocol = service[-1][1:]
    ports = [(row, port) for row in node.rows for port in row.ports if port.protocol.encode() == protocol]
    if len(service) == 2:
        name = service[0][1:]
        ports = [(row, port) for row, port in ports if port.name.encode() == name]
        if protocol == b"https" and not ports:
            return _with_https_port(node, name)
    if not ports:
        return None
    return _narrowed(node, services=tuple(ports) if len(service) == 2 else ())


def _narrowed(node: Node, services: tuple[tuple[EndpointRow, Port], ...], *, is_https: bool = False) -> Node:
    """Return the node of a name below one, which has nothing but services."""
    return replace(
        node,
        rows=(),
        host_addresses=(),
        services=services,
        is_https=is_https,
        texts=(),
        canonical=None,
        service=None,
    )


def _with_https_port(node: Node, number: bytes) -> Node | None:
    """Narrow a node down to `_8443._https` below it (RFC 9460 9.1)."""
    ports = tuple((row, port) for row, port in https_ports(node.rows) if str(port.number).encode() == number)
    return _narrowed(node, ports, is_https=True) if ports else None


def https_ports(rows: Iterable[EndpointRow]) -> Iterator[tuple[EndpointRow, Port]]:
    """Return the ports whose servers speak HTTP behind TLS."""
    return ((row, port) for row in rows for port in row.ports if not HTTP_ALPN.isdisjoint(port.alpn))
