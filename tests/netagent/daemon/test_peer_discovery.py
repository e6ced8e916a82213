"""Which addresses the gossip gets to dial, and what is announced of this host. mDNS itself is faked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from fakes.virtual import virtual

from netagent.daemon import peer_discovery as module
from netagent.daemon.peer_discovery import GIVE_UP_S, MAX_HEARD, RESOLVE_S, HeardSeeds, PeerDiscovery
from netagent.datapath.host.uplink import Underlay, Uplinks
from netagent.errors import InputError
from netagent.model.ids import ClusterId
from netgossip.join.discovery import DiscoveredPeer

OURS, THEIRS = ClusterId("c1" * 16), ClusterId("c2" * 16)


class PretendedDiscovery:
    def __init__(self, on_change: Callable[[], None]) -> None:
        self.on_change = on_change
        self.neighbours: dict[str, DiscoveredPeer] = {}
        self.problem = ""
        self.announced: list[tuple[DiscoveredPeer, tuple[str, ...]]] = []

    async def run(self, me: DiscoveredPeer, links: tuple[str, ...]) -> None:
        self.announced.append((me, links))
        await trio.sleep_forever()

    def hear(self, *addresses: str, cluster_id: ClusterId = OURS) -> None:
        for address in addresses:
            node_id = f"{len(self.neighbours):032x}"
            gossip, record = (address, 7956), (address, 7957)
            self.neighbours[node_id] = DiscoveredPeer(node_id, "h", "mesh", cluster_id, gossip, record)
        self.on_change()


def uplinks(**devices: str) -> Uplinks:
    return Uplinks(tuple(Underlay(address, device, 1500) for device, address in devices.items()))


class Resolver(trio.abc.HostnameResolver):
    """Knows the names in `hosts`."""

    def __init__(self, **hosts: str) -> None:
        self.hosts = hosts

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        if (found := self.hosts.get(host.decode())) is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (found, port))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


class Member:
    def __init__(self) -> None:
        self.keys = SimpleNamespace(cluster="mesh", cluster_id=OURS)
        self.seeds: list[list[tuple[str, int]]] = []
        self.live = SimpleNamespace(view=SimpleNamespace(hosts={}))

    def set_seeds(self, seeds: list[tuple[str, int]]) -> None:
        self.seeds.append(seeds)


@pytest.fixture
def agent() -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(mdns=True, interfaces=(), name="h1", gossip_port=7956, record_port=7957),
        underlay=SimpleNamespace(address="192.0.2.1"),
        uplinks=SimpleNamespace(uplinks=Uplinks((Underlay("192.0.2.1", "eth0", 1500),))),
        identity=SimpleNamespace(node_id="aa" * 16),
        cluster=None,
    )


@pytest.fixture
def neighbours(monkeypatch: pytest.MonkeyPatch) -> PeerDiscovery:
    monkeypatch.setattr(module, "Discovery", PretendedDiscovery)
    return PeerDiscovery()


def discovery_of(neighbours: PeerDiscovery) -> PretendedDiscovery:
    discovery: Any = neighbours._discovery
    assert isinstance(discovery, PretendedDiscovery)
    return discovery


@virtual
async def test_seeds_and_neighbours_of_our_cluster_are_tried_once_each_and_ourselves_not(
    neighbours: PeerDiscovery, agent: Any
) -> None:
    agent.cluster = Member()
    neighbours.set_seeds(["ü" * 63, "192.0.2.2", "192.0.2.3:9000", "[2001:db8::4]:9001", "192.0.2.1"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbours.run, lambda: agent)
        await trio.sleep(1)
        seeds = [("192.0.2.2", 7956), ("192.0.2.3", 9000), ("2001:db8::4", 9001)]
        assert agent.cluster.seeds[-1] == seeds
        discovery_of(neighbours).hear("192.0.2.2", "192.0.2.5")
        discovery_of(neighbours).hear("192.0.2.6", cluster_id=THEIRS)
        await trio.testing.wait_all_tasks_blocked()
        assert agent.cluster.seeds[-1] == [*seeds, ("192.0.2.5", 7956)], "at once"
        assert len(neighbours.heard) == 3, "others are shown, and no more"
        neighbours.set_seeds([])
        await trio.testing.wait_all_tasks_blocked()
        assert agent.cluster.seeds[-1] == [("192.0.2.2", 7956), ("192.0.2.5", 7956)]
        nursery.cancel_scope.cancel()


def heard(number: int, host: str = "192.0.2.5", port: int = 7956) -> DiscoveredPeer:
    return DiscoveredPeer(f"{number:032x}", "h", "mesh", OURS, (host, port), (host, 7957))


def test_announcements_lead_to_few_dials_and_not_for_ever() -> None:
    """Anyone on the link can announce any address as one of our cluster."""
    seeds = HeardSeeds()
    lies = [heard(number, f"203.0.113.{number % 256}", 1024 + number) for number in range(500)]
    for now in (0.0, 10.0, GIVE_UP_S - 1):
        wanted = seeds.wanted(lies, (), now)
        assert len(wanted) == MAX_HEARD
    assert wanted == [one.gossip for one in lies[:MAX_HEARD]]
    assert set(seeds.wanted(lies, (), GIVE_UP_S)).isdisjoint(wanted), "others get a turn"
    assert len(seeds.wanted(lies, (), 10 * GIVE_UP_S)) <= MAX_HEARD
    few = HeardSeeds()
    assert few.wanted(lies[:3], (), 0.0)
    assert not few.wanted(lies[:3], (), GIVE_UP_S)
    moved = heard(1, "192.0.2.77")
    assert few.wanted([moved], (), GIVE_UP_S + 1) == [moved.gossip], "a new address is tried"


def test_only_where_a_host_can_be_and_whom_we_do_not_know_is_dialled() -> None:
    nowhere = [
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.251",
        "169.254.1.1",
        "255.255.255.255",
        "::1",
        "ff02::fb",
        "fe80::1",
    ]
    seeds = HeardSeeds()
    lies = [heard(number, host) for number, host in enumerate(nowhere)]
    lies += [heard(100, "192.0.2.1", 22)]
    assert seeds.wanted(lies, (), 0.0) == []
    member, other = heard(200, "203.0.113.1"), heard(201)
    assert seeds.wanted([member, other], {member.node_id}, 0.0) == [other.gossip]


@virtual
async def test_a_seed_s_name_is_looked_up_again_and_again(neighbours: PeerDiscovery, agent: Any) -> None:
    resolver = Resolver()
    trio.socket.set_custom_hostname_resolver(resolver)
    agent.cluster = Member()
    neighbours.set_seeds(["first.example", "second.example:9000"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbours.run, lambda: agent)
        await trio.sleep(1)
        assert agent.cluster.seeds == [[]], "a name that is not known stops nothing"
        resolver.hosts = {"second.example": "192.0.2.7"}
        await trio.sleep(RESOLVE_S)
        assert agent.cluster.seeds[-1] == [("192.0.2.7", 9000)]
        resolver.hosts = {"second.example": "192.0.2.8", "first.example": "192.0.2.9"}
        await trio.sleep(RESOLVE_S)
        assert agent.cluster.seeds[-1] == [("192.0.2.9", 7956), ("192.0.2.8", 9000)]
        nursery.cancel_scope.cancel()


@virtual
async def test_a_cluster_that_was_left_while_a_name_was_resolved_gets_no_seeds(
    neighbours: PeerDiscovery, agent: Any
) -> None:
    class Leaving(Resolver):
        async def getaddrinfo(self, *what: Any) -> list[tuple[Any, ...]]:
            agent.cluster = None
            return await super().getaddrinfo(*what)

    trio.socket.set_custom_hostname_resolver(Leaving(seed="192.0.2.2"))
    agent.cluster = member = Member()
    neighbours.set_seeds(["seed"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbours.run, lambda: agent)
        await trio.sleep(1)
        assert member.seeds == []
        nursery.cancel_scope.cancel()


@virtual
async def test_what_is_announced_follows_the_cluster(neighbours: PeerDiscovery, agent: Any) -> None:
    agent.config.interfaces = ("eth1",)
    agent.uplinks.uplinks = uplinks(eth0="192.0.2.1", eth1="198.51.100.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbours.run, lambda: agent)
        await trio.testing.wait_all_tasks_blocked()
        discovery_of(neighbours).hear("192.0.2.5")
        await trio.testing.wait_all_tasks_blocked()
        ((me, links),) = discovery_of(neighbours).announced
        assert (me.node_id, me.name, me.cluster, me.cluster_id) == ("aa" * 16, "h1", "", "")
        assert (me.gossip, me.record) == (("192.0.2.1", 7956), ("192.0.2.1", 7957))
        assert links == ("198.51.100.1",)
        agent.cluster = Member()
        neighbours.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert [me.cluster_id for me, _ in discovery_of(neighbours).announced] == ["", OURS]
        assert agent.cluster.seeds == [[("192.0.2.5", 7956)]], "whom we heard before, we try now"
        agent.cluster = None
        neighbours.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert [me.cluster_id for me, _ in discovery_of(neighbours).announced] == ["", OURS, ""]
        nursery.cancel_scope.cancel()


@virtual
async def test_what_is_announced_and_where_follows_the_host_s_addresses(
    neighbours: PeerDiscovery, agent: Any
) -> None:
    agent.config.interfaces = ("eth1",)
    agent.uplinks.uplinks = uplinks(eth0="192.0.2.1", eth1="198.51.100.1")
    announced = discovery_of(neighbours).announced
    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbours.run, lambda: agent)
        await trio.testing.wait_all_tasks_blocked()
        neighbours.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert len(announced) == 1, "nothing that it says is different"
        agent.underlay = SimpleNamespace(address="192.0.2.33")
        neighbours.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert announced[-1][0].gossip == ("192.0.2.33", 7956)
        agent.uplinks.uplinks = uplinks(eth0="192.0.2.33")
        neighbours.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert len(announced) == 2, "a device without an address may get it back"
        agent.uplinks.uplinks = uplinks(eth0="192.0.2.33", eth1="198.51.100.7")
        neighbours.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert announced[-1][1] == ("198.51.100.7",)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_device_that_is_not_there_at_the_start_is_named(
    neighbours: PeerDiscovery, agent: Any
) -> None:
    agent.config.interfaces = ("eth9",)
    with pytest.raises(InputError, match=r"eth9 is down or has no address.*eth0"):
        await neighbours.run(lambda: agent)


@virtual
async def test_without_mdns_nothing_is_announced_and_seeds_work(
    neighbours: PeerDiscovery, agent: Any
) -> None:
    agent.config.mdns = False
    agent.cluster = Member()
    neighbours.set_seeds(["192.0.2.2"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbours.run, lambda: agent)
        await trio.sleep(1)
        assert discovery_of(neighbours).announced == []
        assert agent.cluster.seeds == [[("192.0.2.2", 7956)]]
        nursery.cancel_scope.cancel()
