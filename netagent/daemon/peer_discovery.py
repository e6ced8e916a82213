"""Peer discovery: neighbours heard by mDNS, and the configured seeds, passed to the gossip for as long as it runs.

Outside a cluster the neighbours are only shown: a host never joins a cluster because it heard one. Nothing proves an
announcement, and anyone on the link can make any: so few are dialled, only where a host can be, and not for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from netagent.config import Config
from netagent.daemon.cluster import Cluster
from netagent.datapath.host.underlay import require_devices
from netagent.datapath.host.underlay_watch import UnderlayWatch
from netagent.datapath.host.uplink import Underlay, addresses_of
from netagent.membership.seeds import UnknownHostError, look_up
from netagent.model.allowed import underlay_flaw
from netagent.model.ids import HostId
from netgossip.join.discovery import DiscoveredPeer, Discovery
from netgossip.join.identity import Identity
from netgossip.types import Address, NodeId

RESOLVE_S = 10.0
"""Interval for resolving seeds given by name: an address may change, a name server may come back."""

FIRST_PORT = 1024
"""Ports below belong to other services."""
MAX_HEARD = 16
"""Bound of neighbours of our cluster, heard by mDNS, dialled at the same time; beyond it: others follow when one has
been tried without success for ten minutes. One that answers leads to all others."""
GIVE_UP_S = 600.0
"""A neighbour that has not become a live member by then is not dialled until it announces another address, and makes
room for others if there are more than MAX_HEARD."""

logger = logging.getLogger("netagent.daemon.peer_discovery")


class HeardSeeds:
    """Which announced addresses to dial."""

    def __init__(self) -> None:
        self._since: dict[NodeId, tuple[Address, float]] = {}
        """By neighbour the address, and since when it is dialled."""

    def wanted(self, heard: Iterable[DiscoveredPeer], live: Collection[NodeId], now: float) -> list[Address]:
        """Return the addresses to dial of neighbours that announce our cluster; `live`: the live members."""
        said = {
            one.node_id: one.gossip for one in heard if one.node_id not in live and _can_be_a_host(one.gossip)
        }
        self._since = {node: known for node, known in self._since.items() if said.get(node) == known[0]}
        for node_id, address in said.items():
            if node_id in self._since:
                continue
            if len(self._since) >= MAX_HEARD:
                self._drop_one_given_up(now)
            if len(self._since) < MAX_HEARD:
                self._since[node_id] = (address, now)
        return [address for address, since in self._since.values() if now < since + GIVE_UP_S]

    def _drop_one_given_up(self, now: float) -> None:
        for node_id, (_, since) in self._since.items():
            if now >= since + GIVE_UP_S:
                del self._since[node_id]
                return


def _can_be_a_host(address: Address) -> bool:
    return not underlay_flaw(address[0]) and address[1] >= FIRST_PORT


@dataclass(frozen=True, slots=True)
class HostContext:
    """What this host is at one moment: what it announces, and where it looks for others."""

    config: Config
    identity: Identity
    underlay: Underlay
    uplinks: UnderlayWatch
    cluster: Cluster | None


class PeerDiscovery:
    """Runs beside the agent in all its states."""

    def __init__(self) -> None:
        self._discovery = Discovery(self.note_change)
        self._changed = trio.Event()
        self._seeds: Sequence[str] = ()
        self._heard_seeds = HeardSeeds()

    @property
    def heard(self) -> Mapping[NodeId, DiscoveredPeer]:
        """The agents that announce themselves on our link."""
        return self._discovery.neighbours

    @property
    def problem(self) -> str:
        """Why multicast DNS does not work; '' when it works or is off."""
        return self._discovery.problem

    def set_seeds(self, seeds: Sequence[str]) -> None:
        """Set the seeds, `HOST[:PORT]`, as configured."""
        self._seeds = seeds
        self.note_change()

    def note_change(self) -> None:
        """Note that the cluster, the seeds or the neighbours have changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, look: Callable[[], HostContext]) -> None:
        """Run until cancelled; `look` returns the host as it is now. InputError when a device of `interfaces` does
        not exist."""
        host = look()
        if host.config.mdns:
            require_devices(host.uplinks.uplinks, host.config.interfaces)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._offer_seeds, look)
            if host.config.mdns:
                nursery.start_soon(self._announce, look)

    async def _announce(self, look: Callable[[], HostContext]) -> None:
        """Announce this host; anew when it joins or leaves a cluster, and when an address changes."""
        links: tuple[str, ...] = ()
        while True:
            links = _links(look()) or links  # devices without any address now may get one back
            said = (_announcement(look()), links)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._discovery.run, *said)
                    while (_announcement(look()), _links(look()) or links) == said:
                        await self._changed.wait()
                    scope.cancel()

    async def _offer_seeds(self, look: Callable[[], HostContext]) -> None:
        """Pass every address that may lead to our cluster to the gossip."""
        while True:
            changed = self._changed  # taken first: a change during the look-ups must start the next round
            cluster, port = look().cluster, look().config.gossip_port
            if cluster is not None:
                found = [address for text in self._seeds for address in await _resolved(text, port)]
                hosts = cluster.live.view.hosts
                ours = [n for n in self.heard.values() if n.cluster_id == cluster.keys.cluster_id]
                live = {n.node_id for n in ours if (known := hosts.get(HostId(n.node_id))) and known.is_live}
                found += self._heard_seeds.wanted(ours, live, trio.current_time())
                own = (look().underlay.address, port)
                if look().cluster is cluster:  # not left while the names were resolved
                    cluster.set_seeds([address for address in dict.fromkeys(found) if address != own])
            with trio.move_on_after(RESOLVE_S):
                await changed.wait()


def _links(host: HostContext) -> tuple[str, ...]:
    """Addresses of the devices on which mDNS runs; empty: on that of the advertised address."""
    return tuple(addresses_of(host.uplinks.uplinks, host.config.interfaces).values())


def _announcement(host: HostContext) -> DiscoveredPeer:
    keys = host.cluster.keys if host.cluster else None
    return DiscoveredPeer(
        node_id=host.identity.node_id,
        name=host.config.name,
        cluster=keys.cluster if keys else "",
        cluster_id=keys.cluster_id if keys else "",
        gossip=(host.underlay.address, host.config.gossip_port),
        record=(host.underlay.address, host.config.record_port),
    )


async def _resolved(text: str, default_port: int) -> list[Address]:
    try:
        return await look_up(text, default_port)
    except UnknownHostError as error:
        logger.debug("seed: %s", error)
        return []
