"""Planning of a new network: its subnets, MTU and VNI, and why a request is refused; and of its service range. Pure.

A network may overlap neither another network nor a route of any host, because packets would then take the wrong
path. The routes are part of every host's record, so this host knows them without asking.

Subnets that the request does not give come from the pools, starting at a place derived from the network's random id:
two hosts that create different networks at the same instant rarely choose the same subnet, and if they do, the
conflict rules decide. A service range is chosen in the same way, so that hosts that give a network its first service
address at the same instant make one range.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from netagent.errors import InputError, RefusedError
from netagent.model.address.span import Span, meets, merged, span_of
from netagent.model.allowed import MAX_MTU_BYTES, MIN_MTU_BYTES, range_flaw, subnet_flaw
from netagent.model.egress import text_of
from netagent.model.ids import NODE_LABEL, ClusterId, NetworkId, is_name, vni_of
from netagent.model.records import HostRecord, NetworkRecord, Policy, ServiceRangeRecord
from netagent.model.request import NetworkRequest
from netagent.model.subnet import MIN_IPV6_MTU_BYTES
from netagent.registry.service_rules import range_prefix

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_RANGES_TRIED = 4096
"""Bound of the subnets of one pool that are tried for a service range; beyond it: refused. A cluster has far fewer
networks."""
POOL_PREFIX = 20
"""A network gets 4,096 addresses from the pool; a /12 has room for 256 such networks."""
OVERHEAD_IPV4_BYTES = 50
"""Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348 section 5)."""
OVERHEAD_IPV6_BYTES = 70


@dataclass(frozen=True, slots=True)
class NetworkConstraints:
    """The constraints on a new network: other networks, routes, addresses and the underlay."""

    cluster_id: ClusterId
    pools: tuple[str, ...]
    networks: tuple[NetworkRecord, ...]
    hosts: tuple[HostRecord, ...]
    underlay: str
    underlay_mtu_bytes: int
    """What one packet outside VXLAN may have now, in the clear or in the tunnel."""
    tunnel_bytes: int
    """What the tunnel will take of it, once the cluster encrypts; 0 where it does."""
    ranges: tuple[ServiceRangeRecord, ...] = ()
    """Also those that are not in force: they may be again."""


def plan_network(request: NetworkRequest, network_id: NetworkId, around: NetworkConstraints) -> NetworkRecord:
    """Return the record of the new network. Raises InputError or RefusedError with the reason against it."""
    if not is_name(request.name) or request.name == NODE_LABEL:
        raise InputError(
            f"{request.name!r} cannot be the name of a network",
            thing=request.name,
            hint="use lower-case letters, digits, - and _, at most 63, and not 'node'",
        )
    refuse_contradiction(request)
    mtu_bytes = _mtu(request, around)
    asked = [_subnet(text) for text in request.subnets]
    for subnet in asked:
        against = conflict(subnet, around)
        if against:
            raise RefusedError(
                f"the subnet {subnet} overlaps {against}",
                code="subnet-in-use",
                thing=str(subnet),
                hint="use another one",
            )
    versions = {4, 6} if mtu_bytes >= MIN_IPV6_MTU_BYTES else {4}
    if asked:
        # A request with an IPv4 subnet gets an IPv6 one too; a request with only an IPv6 subnet gets no IPv4.
        versions = versions & {6} if all(subnet.version == 4 for subnet in asked) else set()
    subnets = [*asked, *_chosen(network_id, around, versions)]
    if mtu_bytes < MIN_IPV6_MTU_BYTES and any(subnet.version == 6 for subnet in subnets):
        raise RefusedError(
            f"an MTU of {mtu_bytes} bytes is too small for IPv6",
            code="mtu-too-small",
            thing=request.name,
            hint=f"leave out the IPv6 subnet, or use at least {MIN_IPV6_MTU_BYTES}",
        )
    return NetworkRecord(
        network_id=network_id,
        name=request.name,
        vni=vni_of(network_id),
        subnets=tuple(str(subnet) for subnet in sorted(subnets, key=lambda s: s.version)),
        mtu_bytes=mtu_bytes,
        internal=request.internal,
        policy=request.policy,
        multicast=request.multicast,
        host_access=request.host_access,
        answer=request.answer,
        feed_rules=request.feed_rules,
        feed_labels=request.feed_labels,
        refuses_shared_names=request.refuses_shared_names,
        service_addresses=request.service_addresses,
        egress=request.egress,
    )


def refuse_contradiction(request: NetworkRequest) -> None:
    """Raise InputError for options that contradict each other: the record must not have an option without effect."""
    if request.internal and request.egress is not None:
        raise InputError(
            "containers of an internal network connect nowhere outside, so it has no egress",
            thing="egress",
            hint="leave out --internal or --egress",
        )
    if request.policy is not Policy.LINKS:
        return
    for option, asked, what in (
        ("--multicast", request.multicast, "multicast reaches all containers of a network"),
        (
            "--host-access",
            request.host_access,
            "with --host-access all containers and hosts can connect to each other",
        ),
    ):
        if asked:
            raise InputError(
                f"{what}, but --policy links allows only linked services",
                thing="policy",
                hint=f"leave out {option} or --policy links",
            )


def shortcoming(record: NetworkRecord) -> tuple[str, str] | None:
    """Return what the creator of a network may not expect of it, and the cure; None if there is nothing."""
    if record.mtu_bytes >= MIN_IPV6_MTU_BYTES:
        return None
    return (
        f"network {record.name} has no IPv6, which needs {MIN_IPV6_MTU_BYTES} bytes: its MTU is {record.mtu_bytes}",
        f"if you need both, remove it and create it with --mtu {MIN_IPV6_MTU_BYTES} or more",
    )


def conflict(subnet: IPNetwork, around: NetworkConstraints) -> str:
    """Return what the subnet overlaps, in words; '' when it is free."""
    for network in around.networks:
        for text in network.subnets:
            if _overlap(subnet, ipaddress.ip_network(text)):
                return f"{text} of the network {network.name}"
    for one in around.ranges:
        for text in one.subnets:
            if _overlap(subnet, ipaddress.ip_network(text)):
                name = next((net.name for net in around.networks if net.network_id == one.network_id), "")
                return (
                    f"{text}, from which services of the network {name or one.network_id[:8]} have addresses"
                )
    for host in around.hosts:
        for text in host.routes:
            if _overlap(subnet, ipaddress.ip_network(text)):
                return f"the route {text} of host {host.name}"
        address = ipaddress.ip_address(host.underlay)
        if address.version == subnet.version and address in subnet:
            return f"the address {address} of host {host.name}"
    return ""


def plan_range(network: NetworkRecord, around: NetworkConstraints) -> ServiceRangeRecord:
    """Return subnets for the addresses of a network's services. RefusedError `pool-full` when none is free."""
    texts = [text for record in around.networks for text in record.subnets]
    texts += [text for record in around.ranges for text in record.subnets]
    for host in around.hosts:
        texts += [*host.routes, host.underlay, host.probe_address]
    taken = merged(map(span_of, [*texts, around.underlay]))
    found = []
    for version, length in map(range_prefix, network.subnets):
        pools = (
            list(map(ipaddress.ip_network, around.pools)) if version == 4 else [ula_prefix(around.cluster_id)]
        )
        subnet = _free_range(pools, length, int(network.network_id[14:22], 16), taken)
        if subnet is None:
            where = "address_pools" if version == 4 else "the cluster's ULA prefix"
            raise RefusedError(
                f"no private subnet of the size /{length} is free in {where} for services of network {network.name}",
                code="pool-full",
                thing=network.name,
                hint="remove a network, or enlarge the pool: the addresses of services need as much as the network",
            )
        found.append(str(subnet))
    return ServiceRangeRecord(network.network_id, tuple(found))


def _free_range(
    pools: Iterable[IPNetwork], length: int, start: int, taken: Sequence[Span]
) -> IPNetwork | None:
    """Return a free subnet of the pools with this prefix length: the first of those tried, from a place that depends
    on `start`. IPv6 subnets begin where those of networks do."""
    for pool in pools:
        step = 64 if pool.version == 6 else length
        count = 1 << max(0, step - pool.prefixlen) if length >= pool.prefixlen else 0
        # An odd stride comes to all subnets of a pool, whose number is a power of two, and soon leaves a taken part.
        stride = (count * 5 // 8) | 1
        for turn in range(min(count, MAX_RANGES_TRIED)):
            number = (start + turn * stride) % count
            base = int(pool.network_address) + (number << (pool.max_prefixlen - step))
            subnet = ipaddress.ip_network((base, length))
            # Subnet 0 of the cluster's prefix is the probe network's.
            is_kept = pool.version == 6 and number == 0
            if not is_kept and not range_flaw(subnet) and not meets(taken, span_of(str(subnet))):
                return subnet
    return None


def differences(request: NetworkRequest, record: NetworkRecord) -> list[str]:
    """Return the requested options in which an existing network differs. Empty: creating it again is a no-op."""
    found = []
    if not set(request.subnets) <= set(record.subnets):
        found.append(f"its subnets are {', '.join(record.subnets)}")
    if request.mtu_bytes is not None and request.mtu_bytes != record.mtu_bytes:
        found.append(f"its MTU is {record.mtu_bytes} bytes")
    found += [
        f"it is {'' if getattr(record, option) else 'not '}{option.replace('_', '-')}"
        for option in ("internal", "multicast", "host_access")
        if getattr(request, option) != getattr(record, option)
    ]
    if request.policy != record.policy:
        found.append(f"its policy is {record.policy.value}")
    if request.answer != record.answer:
        found.append(f"its answers are made by {record.answer.value}")
    if request.feed_rules != record.feed_rules:
        rules = ", ".join(record.feed_rules or ())
        found.append(f"its feed rules are {rules}" if rules else "it has no feed rules")
    if request.feed_labels != record.feed_labels:
        found.append(f"its labels for feeds are {'' if record.feed_labels else 'not '}published")
    if request.refuses_shared_names != record.refuses_shared_names:
        found.append(
            f"names that groups share are {'refused' if record.refuses_shared_names else 'answered'} in it"
        )
    if request.service_addresses != record.service_addresses:
        which = "each service" if record.service_addresses else "only a service that asks for one"
        found.append(f"{which} gets an address of its own in it")
    if request.egress != record.egress:
        found.append(f"its egress is {text_of(record.egress)}")
    return found


def ula_prefix(cluster_id: ClusterId) -> ipaddress.IPv6Network:
    """Return the cluster's unique local /48 (RFC 4193); its subnet 0 is the probe network's."""
    return ipaddress.IPv6Network((b"\xfd" + bytes.fromhex(cluster_id)[:5] + bytes(10), 48))


def _mtu(request: NetworkRequest, around: NetworkConstraints) -> int:
    overhead = OVERHEAD_IPV6_BYTES if ":" in around.underlay else OVERHEAD_IPV4_BYTES
    fits = around.underlay_mtu_bytes - overhead
    if request.mtu_bytes is None:
        # The MTU of a network is for ever, and any cluster may encrypt one day. IPv6 needs its least size even so.
        return max(fits - around.tunnel_bytes, min(fits, MIN_IPV6_MTU_BYTES))
    if not MIN_MTU_BYTES <= request.mtu_bytes <= MAX_MTU_BYTES:
        raise InputError(
            f"an MTU of {request.mtu_bytes} bytes is not possible",
            thing=request.name,
            hint=f"use {MIN_MTU_BYTES} to {MAX_MTU_BYTES}",
        )
    if request.mtu_bytes > fits:
        raise RefusedError(
            f"packets of {request.mtu_bytes} bytes plus {overhead} bytes of VXLAN do not fit the "
            f"{around.underlay_mtu_bytes} bytes of this host's own network",
            code="mtu-too-large",
            thing=request.name,
            hint=f"use at most {fits}",
        )
    return request.mtu_bytes


def _subnet(text: str) -> IPNetwork:
    subnet = ipaddress.ip_network(text)
    flaw = subnet_flaw(subnet)
    if flaw is not None:
        raise InputError(f"the subnet {subnet} {flaw[0]}", thing=text, hint=flaw[1])
    return subnet


def _chosen(
    network_id: NetworkId, around: NetworkConstraints, versions: Collection[int]
) -> Iterator[IPNetwork]:
    start = int(network_id[6:14], 16)
    if 4 in versions:
        yield _first_free(_slices(around.pools), start, around, "address_pools")
    if 6 in versions:
        prefix = int(ula_prefix(around.cluster_id).network_address)
        ula = [ipaddress.IPv6Network((prefix + (n << 64), 64)) for n in _around(start, 1, 0xFFFF)]
        yield _first_free([ula], 0, around, "the cluster's ULA prefix")


def _slices(pools: Iterable[str]) -> list[Sequence[IPNetwork]]:
    return [list(ipaddress.ip_network(pool).subnets(new_prefix=POOL_PREFIX)) for pool in pools]


def _around(start: int, low: int, high: int) -> Iterator[int]:
    """Yield some numbers of low … high from `start` on: enough to step over those that a cluster can have taken."""
    size = high - low + 1
    return (low + (start + step) % size for step in range(min(size, 512)))


def _first_free(
    pools: list[Sequence[IPNetwork]], start: int, around: NetworkConstraints, where: str
) -> IPNetwork:
    for slices in pools:
        for n in range(len(slices)):
            subnet = slices[(start + n) % len(slices)]
            if not conflict(subnet, around):
                return subnet
    raise RefusedError(
        f"no subnet is free in {where}",
        code="pool-full",
        thing=where,
        hint="remove a network, enlarge the pool, or name a subnet with --subnet",
    )


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)
