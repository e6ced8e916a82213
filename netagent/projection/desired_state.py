"""The desired kernel state, kept up to date step by step. Pure.

A cluster changes endpoint by endpoint, and building the state of ten thousand takes half a second. So a
`DesiredStateBuilder` remembers what it has built for which endpoint and host, and repeats only what was touched since
(RegistryView says where to look). It rebuilds everything when that is no longer known, or when something changed that
everything depends on. So a new builder builds everything, as for the doctor. A test compares each step with what
other code builds from all records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from netagent.datapath.host.probe_device import ProbePeer, peer_entries, probe_mac, probe_state
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.reconcile.desired import (
    NetworkInput,
    flood_entries,
    local_entries,
    network_addresses,
    network_devices,
    remote_entries,
    veth_device,
)
from netagent.datapath.reconcile.entry_owners import Claimant, EntryOwners
from netagent.datapath.state import DesiredChange, Device, EntryKey, KernelState, assigned
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import ClusterId, EndpointId, HostId, NetworkId
from netagent.projection.datapath_input import (
    addresses_inside,
    bare_network,
    local_endpoint,
    networks_here,
    networks_taken_part,
    probe_input,
    underlay_towards,
    vxlan_underlay,
)
from netagent.registry.changelog import ChangedKeys
from netagent.registry.state_store import Snapshot
from netagent.registry.view import NetworkView, RegistryView
from netgossip.slices import Slices

# If two claim one entry, the higher rank wins, then the higher identifier. Endpoints win over hosts: the registry
# lets no two endpoints have one address, but a member can name any address, and any MAC, as its own in a network.
_HOST, _REMOTE, _LOCAL, _PROBE = range(4)

_ENTRIES_PER_SLICE: Final = 256


@dataclass(slots=True)
class _Built:
    """A network that has devices here, and the owner of each of its other endpoints."""

    network: NetworkView
    bare: NetworkInput
    owners: dict[EndpointId, HostId] = field(default_factory=dict)
    by_owner: dict[HostId, set[EndpointId]] = field(default_factory=dict)
    locals: set[EndpointId] = field(default_factory=set)
    hosts: frozenset[HostId] = frozenset()
    """Other hosts that have an address of their own in it."""
    devices: dict[str, Device] = field(default_factory=dict)

    def move(self, endpoint_id: EndpointId, owner: HostId | None) -> set[HostId]:
        """Note the endpoint's new owner, None: gone. Return the hosts that gained or lost it."""
        before = self.owners.pop(endpoint_id, None)
        if before is not None:
            self.by_owner[before].discard(endpoint_id)
            if not self.by_owner[before]:
                del self.by_owner[before]
        if owner is not None:
            self.owners[endpoint_id] = owner
            self.by_owner.setdefault(owner, set()).add(endpoint_id)
        return {host for host in (before, owner) if host is not None and before != owner}

    def claimant(self, rank: int, identifier: str) -> Claimant:
        """Return the key of a claimant in this network."""
        return rank, identifier, self.bare.network_id


class DesiredStateBuilder:
    """Builds the desired states of successive snapshots of one agent's life."""

    def __init__(self, cluster_id: ClusterId, *, vxlan_port: int) -> None:
        self._cluster_id = cluster_id
        self._vxlan_port = vxlan_port
        self._seen: tuple[Snapshot, Underlay] | None = None
        """What everything below was built from; None: nothing, or an unfinished step."""
        self._reset()

    def _reset(self) -> None:
        self._entry_owners = EntryOwners()
        self._built: dict[NetworkId, _Built] = {}
        self._underlays: dict[HostId, str] = {}
        self._peers: dict[HostId, ProbePeer] = {}
        self._probe = KernelState()
        self._state = KernelState()

    def make(self, known: Snapshot, underlay: Underlay) -> Slices[DesiredChange]:
        """Build the state that follows from `known` for a host with the address `underlay`.

        If the generator is not run to its end, the next call rebuilds everything.
        """
        underlay = vxlan_underlay(known.view, underlay)
        seen, self._seen = self._seen, None
        touched = _touched_since(seen, known, underlay)
        if seen is None or touched is None:
            self._reset()
            yield from self._follow_hosts(known.view, known.view.hosts, underlay)
            yield from self._follow_networks(known, underlay)
            self._follow_probe(known.view, underlay)
            self._gather_devices()
        else:
            before = seen[0]
            yield from self._follow_hosts(known.view, touched.hosts, underlay)
            has_other_networks = known.view.networks is not before.view.networks
            has_other_devices = has_other_networks or known.rows.networks is not before.rows.networks
            if has_other_devices:
                yield from self._follow_networks(known, underlay)
            veths: dict[str, Device | None] = {}
            for endpoint_id in known.rows.touched_since(before.rows) or ():
                veths |= self._follow_local(known.rows.get(endpoint_id), before.rows.get(endpoint_id))
            is_probe_concerned = has_other_networks or known.view.hosts is not before.view.hosts
            if is_probe_concerned or known.view.store.attachments is not before.view.store.attachments:
                self._follow_probe(known.view, underlay)
                has_other_devices = True
            for network_id, endpoint_id in touched.endpoints:
                if network_id in self._built:
                    self._follow_endpoint(known.view, self._built[network_id], endpoint_id)
                yield
            if has_other_devices:
                self._gather_devices()
            elif veths:
                self._state = replace(self._state, devices=assigned(self._state.devices, veths))
        entries = yield from self._take_entries()
        self._seen = known, underlay
        return DesiredChange(self._state, None if touched is None else entries)

    # -- hosts -------------------------------------------------------------------------------------------------

    def _follow_hosts(self, view: RegistryView, hosts: Iterable[HostId], underlay: Underlay) -> Slices[None]:
        for host_id in hosts:
            underlay_address = underlay_towards(view, host_id, underlay.address)
            if underlay_address == self._underlays.get(host_id):
                continue
            if underlay_address is None:
                del self._underlays[host_id]
            else:
                self._underlays[host_id] = underlay_address
            for built in self._built.values():
                for endpoint_id in tuple(built.by_owner.get(host_id, ())):
                    self._follow_endpoint(view, built, endpoint_id)
                    yield
                self._follow_flood(built, host_id)
                self._follow_host_inside(view, built, host_id)

    def _follow_probe(self, view: RegistryView, underlay: Underlay) -> None:
        probe = probe_input(view, self._cluster_id, underlay.mtu_bytes, underlay.address)
        peers = {peer.host_id: peer for peer in probe.peers}
        for host_id in self._peers.keys() | peers.keys():
            peer = peers.get(host_id)
            self._entry_owners.put(
                (_PROBE, _rank_of(host_id), ""), {} if peer is None else peer_entries(probe, peer)
            )
        self._peers = peers
        self._probe = probe_state(
            probe,
            underlay=underlay.address,
            vxlan_port=self._vxlan_port,
            cluster_id=self._cluster_id,
        )

    # -- networks and endpoints --------------------------------------------------------------------------------

    def _follow_networks(self, known: Snapshot, underlay: Underlay) -> Slices[None]:
        here = networks_here(known.view, networks_taken_part(known.view, known.rows.networks))
        wanted = {network.network_id: network for network in here}
        for network_id, built in tuple(self._built.items()):
            if wanted.get(network_id) != built.network:
                yield from self._clear(built)
        for network_id, network in wanted.items():
            if network_id not in self._built:
                built = self._built[network_id] = _Built(network, bare_network(known.view, network))
                for host_id in known.view.host_addresses(network_id):
                    self._follow_host_inside(known.view, built, host_id)
                for endpoint_id in known.view.endpoints_in(network_id):
                    self._follow_endpoint(known.view, self._built[network_id], endpoint_id)
                    yield
                own = network_devices(
                    built.bare,
                    probe_mac(known.view.local),
                    underlay=underlay.address,
                    vxlan_port=self._vxlan_port,
                    cluster_id=self._cluster_id,
                )
                built.devices.update((device.name, device) for device in own)
                for row in known.rows.in_network(network_id).values():
                    self._follow_local(row, None)
                    yield

    def _clear(self, built: _Built) -> Slices[None]:
        for endpoint_id in built.owners:
            self._entry_owners.put(built.claimant(_REMOTE, endpoint_id), {})
            yield
        for host_id in built.by_owner:
            self._entry_owners.put(built.claimant(_REMOTE, host_id), {})
        for host_id in built.hosts:
            self._entry_owners.put(built.claimant(_HOST, _rank_of(host_id)), {})
        for endpoint_id in built.locals:
            self._entry_owners.put(built.claimant(_LOCAL, endpoint_id), {})
        del self._built[built.bare.network_id]

    def _follow_local(
        self, row: LocalEndpointRow | None, before: LocalEndpointRow | None
    ) -> dict[str, Device | None]:
        """Update one endpoint of this host from old to new row; None: missing. Yields its device; None: not
        wanted."""
        devices: dict[str, Device | None] = {}
        for known in (before, row):
            built = self._built.get(known.network_id) if known is not None else None
            if known is None or built is None:
                continue
            is_here = known is row
            endpoint = local_endpoint(known, built.network)
            entries = local_entries(built.bare, endpoint) if is_here else {}
            self._entry_owners.put(built.claimant(_LOCAL, known.endpoint_id), entries)
            device = veth_device(built.bare, endpoint)
            if is_here:
                built.locals.add(known.endpoint_id)
                built.devices[device.name] = devices[device.name] = device
            else:
                built.locals.discard(known.endpoint_id)
                built.devices.pop(device.name, None)
                devices[device.name] = None
        return devices

    def _follow_endpoint(self, view: RegistryView, built: _Built, endpoint_id: EndpointId) -> None:
        endpoint = view.endpoints_in(built.bare.network_id).get(endpoint_id)
        owner = endpoint.owner if endpoint is not None and endpoint.owner != view.local else None
        underlay_address = self._underlays.get(owner) if owner is not None else None
        entries: Mapping[EntryKey, str] = {}
        if endpoint is not None and underlay_address is not None:
            record = endpoint.record
            entries = remote_entries(built.bare, record.mac, record.addresses, underlay_address)
        self._entry_owners.put(built.claimant(_REMOTE, endpoint_id), entries)
        for host_id in built.move(endpoint_id, owner):
            self._follow_flood(built, host_id)

    def _follow_flood(self, built: _Built, host_id: HostId) -> None:
        underlay_address = self._underlays.get(host_id) if host_id in built.by_owner else None
        entries = flood_entries(built.bare, underlay_address) if underlay_address is not None else {}
        self._entry_owners.put(built.claimant(_REMOTE, host_id), entries)

    def _follow_host_inside(self, view: RegistryView, built: _Built, host_id: HostId) -> None:
        """Update the entries for another host's own address in the network. If a host's record came or went,
        everything is rebuilt (`_touched_since`)."""
        own, underlay_address = (
            view.host_addresses(built.bare.network_id).get(host_id),
            self._underlays.get(host_id),
        )
        entries: dict[EntryKey, str] = {}
        if own is not None and underlay_address is not None:
            addresses = addresses_inside(built.network, own)
            entries = remote_entries(built.bare, own.mac, addresses, underlay_address)
            entries |= flood_entries(built.bare, underlay_address)
        self._entry_owners.put(built.claimant(_HOST, _rank_of(host_id)), entries)
        built.hosts |= {host_id}

    # -- the outcome -------------------------------------------------------------------------------------------

    def _gather_devices(self) -> None:
        devices: dict[str, Device] = {}
        for built in self._built.values():
            devices.update(built.devices)
        own = (network_addresses(built.bare) for built in self._built.values())
        self._state = replace(
            self._state,
            devices={**devices, **self._probe.devices},
            addresses=self._probe.addresses.union(*own),
        )

    def _take_entries(self) -> Slices[set[EntryKey]]:
        touched = self._entry_owners.take_touched()
        rest = iter(touched)
        while piece := {key: self._entry_owners.value(key) for key in islice(rest, _ENTRIES_PER_SLICE)}:
            self._state = self._state.with_entries(piece)
            yield
        return touched


def _rank_of(host_id: HostId) -> str:
    """Return an identifier by which the smaller of two host ids wins, as of two endpoints with one address."""
    return f"{(1 << 128) - 1 - int(host_id, 16):032x}"


def _touched_since(
    seen: tuple[Snapshot, Underlay] | None, known: Snapshot, underlay: Underlay
) -> ChangedKeys | None:
    """Return what was touched; None: rebuild everything."""
    if seen is None or seen[1] != underlay or seen[0].view.evicted is not known.view.evicted:
        return None
    if known.rows.touched_since(seen[0].rows) is None:
        return None
    if seen[0].view.store.host_addresses is not known.view.store.host_addresses:
        return None  # happens once for each new host and network
    return known.view.touched_since(seen[0].view)
