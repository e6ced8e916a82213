"""What `status` and `lookup` tell, from parts that are pretended."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from fakes.registry import H1, H2, H3, N1, N2, Writer, endpoint, host, network
from fakes.rows import NETNS, local_row
from fakes.virtual import virtual

from netagent.cli import screen
from netagent.commands.lookup import look_up
from netagent.commands.status import STATISTICS_S, status_of
from netagent.datapath.flows.counters import CountingTrouble
from netagent.doctor.checks.finding import Finding
from netagent.doctor.checks.foreign_rules import PortUse
from netagent.doctor.facts.agent_ports import PortState
from netagent.doctor.facts.name_servers import NameServerReply
from netagent.endpoints.validation import sandboxes
from netagent.errors import InputError, NotFoundError
from netagent.interface.schema import Notice, Status
from netagent.journal.rows import Bound
from netagent.keys.stages import KeyPicture, PeerKeys, RingKey
from netagent.membership.event_queue import UNKNOWN_SOURCE_KEPT_S, HeardOutside
from netagent.model.ids import KeyId, bridge_name
from netagent.model.records import AttachmentRecord, Drain, Group, Health, Link, ServiceRangeRecord
from netagent.probes.quality import PathStatus, Quality
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.resolver.explain_name import FORWARDED
from netagent.state_dir import Revocation
from netgossip.join.discovery import DiscoveredPeer
from netgossip.types import Member, MemberState

KEYS = SimpleNamespace(cluster_id="c1" * 16, cluster="mesh", domain="mesh.internal")


class Names:
    def __init__(self) -> None:
        self.delay_s = 0.0
        self.trouble = ""
        self.servers = ()

    def name_servers(self) -> tuple[str, ...]:
        return self.servers

    async def statistics(self) -> dict[str, int]:
        await trio.sleep(self.delay_s)
        return {"queries": 7, "refused_malformed": 2}

    def status(self) -> dict[str, Any]:
        return {"running": not self.trouble, "trouble": self.trouble}


class Clear:
    """The cluster does not encrypt."""

    async def status(self) -> None:
        return None


OLD, NEW = KeyId("0a" * 16), KeyId("0b" * 16)


class Keys:
    """The ring of a host with another one."""

    def __init__(self) -> None:
        self.is_overdue = False
        self.peer = PeerKeys(H2, is_live=True, primary=OLD, held={OLD: 1})
        self.ring = (RingKey(OLD, 1, 100.0),)

    def picture(self) -> KeyPicture:
        return KeyPicture(local=H1, ring=self.ring, peers=(self.peer,), now_s=160.0)


class Foreign:
    """Other people's rules."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.ports: list[Any] = []
        self.asked: list[Any] = []

    async def in_the_way(
        self, *, is_routing: bool, is_apart: bool, is_bridging: bool = True, version: int | None = None
    ) -> list[Finding]:
        self.asked.append((is_routing, is_apart))
        return list(self.found)

    async def at_ports(self, use: PortUse) -> list[Finding]:
        return list(self.ports)

    async def at_bridges(self) -> list[Any]:
        return []


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """What dead agents' ports come to, by host; no packet is sent."""
    states: dict[Any, Any] = {}

    async def try_hosts(
        addresses: dict[str, str], ports: tuple[int, ...], patience_s: float = 0.5
    ) -> dict[str, tuple[PortState, ...]]:
        return {name: states.get(name, (PortState.SILENT,) * 2) for name in addresses}

    monkeypatch.setattr("netagent.commands.status.try_hosts", try_hosts)
    return states


def agent_of(
    cluster: Any = None,
    *neighbours: DiscoveredPeer,
    problem: str = "",
    troubles: tuple[str, ...] = (),
    address: str = "",
    former: list[str] | tuple[()] = (),
    config: str = "",
    waiting: list[str] | tuple[()] = (),
) -> Any:
    return SimpleNamespace(
        config_problem=config,
        former_ids=former,
        waiting_keys=waiting,
        revocation=None,
        past_revocation=None,
        identity=SimpleNamespace(node_id=H1),
        config=SimpleNamespace(name="h1", zone="", mdns=True),
        underlay=SimpleNamespace(address="192.0.2.1"),
        uplinks=SimpleNamespace(problem=address),
        started_at=trio.current_time() - 5,
        cluster=cluster,
        runtimes=SimpleNamespace(troubles=lambda: troubles),
        http=None,
        tokens=SimpleNamespace(trouble=""),
        foreign_rules=Foreign(),
        neighbours=SimpleNamespace(heard={n.node_id: n for n in neighbours}, problem=problem),
    )


def cluster_of() -> Any:
    view = RegistryView(H1).with_member(Member(H1, ("192.0.2.1", 7956), MemberState.ALIVE, 1))
    writer = Writer(H1)
    for record in (host("h1"), network(), AttachmentRecord(N1), endpoint()):
        view = view.with_entries(writer.put(record))
    row = local_row(
        endpoint().endpoint_id,
        N1,
        name="web1",
        stage=Bound(NETNS),
        links=(Link("web", "shop"),),
    )
    datapath = SimpleNamespace(failures=0, looks=0, looked_at=0.0, drift={}, dirty=())
    guard = SimpleNamespace(
        restored=0,
        dropped={"spoofed": 2, "crossed": 0},
        audited=3,
        crowded=frozenset[tuple[str, str]](),
        uncounted="",
    )
    return SimpleNamespace(
        live=StateStore(view, {row.endpoint_id: row}),
        keys=KEYS,
        kernel=SimpleNamespace(
            reconciler=SimpleNamespace(status=lambda: datapath),
            guard=SimpleNamespace(
                status=lambda: guard,
                trouble="",
            ),
            bridge_nf_bypass=SimpleNamespace(trouble="", is_active=True),
            service_tables=SimpleNamespace(trouble=None, lack=None, refused={}),
        ),
        controllers=SimpleNamespace(
            supervisor=Names(),
            forwarding=SimpleNamespace(trouble=""),
            resets=SimpleNamespace(trouble=None),
            sandboxes=lambda known: sandboxes(known.rows.values(), frozenset()),
            untranslated="",
        ),
        group_labels=SimpleNamespace(gone=lambda network_id, group: {"db": 1_800_000_000}),
        interfaces=SimpleNamespace(troubles={}),
        encryption=Clear(),
        ring_keeper=Keys(),
        signed_members=SimpleNamespace(allows_unsigned=True, unsigned=lambda: ["h5"]),
        flows=SimpleNamespace(trouble=lambda: None),
        datapath=datapath,
        underlay=SimpleNamespace(address="192.0.2.1", device="eth0"),
        config=SimpleNamespace(
            vxlan_port=4799,
            gossip_port=7956,
            record_port=7957,
            state_dir="/var/lib/netagent",
            connections_per_container=100,
        ),
        allocator=SimpleNamespace(space=lambda network_id: SimpleNamespace(count=4096)),
        journal=SimpleNamespace(has_room=True),
        probing=SimpleNamespace(
            prober=SimpleNamespace(
                rtt_s=lambda host_id: None,
                fastest_rtt_s=lambda host_id: None,
                path=lambda host_id: None,
                broken_checksums=frozenset(),
            )
        ),
        gossip=SimpleNamespace(
            node=SimpleNamespace(
                statistics=lambda: {"gossip_refused_label": 3, "gossip_refused_key": 0, "probes": 9},
                membership=SimpleNamespace(
                    lacks_datagrams=lambda host_id: False, is_signer=lambda host_id: True
                ),
                records=SimpleNamespace(is_signer=lambda host_id: True),
            ),
            event_queue=SimpleNamespace(heard=HeardOutside(), held_evictions=SimpleNamespace(waiting=())),
        ),
    )


def neighbour(number: int, cluster: str = "", cluster_id: str = "") -> DiscoveredPeer:
    address = (f"192.0.2.{number}", 7956)
    return DiscoveredPeer(f"{number:032x}", f"h{number}", cluster, cluster_id, address, address)


def codes(status: Status) -> list[str]:
    return [notice["code"] for notice in status["warnings"]]


@virtual
async def test_an_address_that_is_gone_is_shown() -> None:
    status = await status_of(agent_of(address="this host has no address that other hosts could reach"))
    assert [one["code"] for one in status["warnings"]].count("address") == 1
    assert all(one["message"] and one["cure"] for one in status["warnings"])


@virtual
async def test_a_configuration_that_was_refused_is_shown() -> None:
    problem = "netagent.toml has the unknown key 'seed'; did you mean 'seeds'?"
    for cluster in (None, cluster_of()):
        status = await status_of(agent_of(cluster, config=problem))
        (notice,) = (one for one in status["warnings"] if one["code"] == "config")
        assert problem in notice["message"]
        assert "SIGHUP" in notice["cure"]


@virtual
async def test_tokens_that_do_not_work_are_told() -> None:
    agent = agent_of(cluster_of())
    agent.tokens.trouble = "the tokens in /var/lib/netagent/tokens cannot be read"
    (notice,) = (one for one in (await status_of(agent))["warnings"] if one["code"] == "tokens")
    assert notice["message"] == agent.tokens.trouble
    assert "new tokens" in notice["cure"]


@virtual
async def test_what_stands_in_the_way_of_containers_is_named() -> None:
    cluster = cluster_of()
    agent = agent_of(cluster)
    agent.foreign_rules.found = [Finding("chain f", "chain f drops everything", "nft delete chain f")]
    cluster.controllers.forwarding.trouble = "cannot turn on routing for containers: no such luck"
    status = await status_of(agent)
    cluster.kernel.bridge_nf_bypass.trouble, cluster.kernel.bridge_nf_bypass.is_active = (
        "no such luck",
        False,
    )
    cluster.controllers.resets.trouble = "the kernel was built without CONFIG_INET_DIAG_DESTROY"
    reported = codes(await status_of(agent))
    assert "resets" in set(reported) - set(codes(status))
    assert {"foreign-firewall", "routing"} <= set(codes(status)) < set(reported)
    assert "bridge-netfilter" in reported
    assert agent.foreign_rules.asked == [(True, True), (True, False)]
    cluster.live.drop_row(endpoint().endpoint_id)
    assert "foreign-firewall" not in codes(await status_of(agent)), "there are none that it could stop"


@virtual
async def test_a_full_disk_is_told_before_somebody_is_refused() -> None:
    cluster = cluster_of()
    cluster.journal.has_room = False
    (notice,) = (await status_of(agent_of(cluster)))["warnings"]
    assert notice["code"] == "disk-full"
    assert "/var/lib/netagent is full" in notice["message"]


@virtual
async def test_a_host_that_counts_no_flows_says_why_and_what_helps() -> None:
    cluster = cluster_of()
    cluster.flows.trouble = lambda: CountingTrouble("no such luck", "take another kernel")
    (notice,) = (await status_of(agent_of(cluster)))["warnings"]
    assert (notice["code"], notice["cure"]) == ("flows-not-counted", "take another kernel")
    assert "flows of this host are not counted, or not all: no such luck" in notice["message"]


@virtual
async def test_in_no_cluster_it_says_what_to_type() -> None:
    status = await status_of(agent_of())
    assert status["cluster"] is None
    (notice,) = status["warnings"]
    assert notice["code"] == "no-cluster"
    assert "netagent init" in notice["cure"]
    status = await status_of(agent_of(None, neighbour(2, "mesh", "c1" * 16), problem="no multicast"))
    assert codes(status) == ["cluster-heard", "mdns"]
    assert "netagent join ADDRESS" in status["warnings"][1]["cure"]
    assert "the cluster mesh is on this link" in status["warnings"][0]["message"]
    assert status["heard"] == [{"name": "h2", "address": "192.0.2.2", "cluster": "mesh", "how": "mdns"}]


@virtual
async def test_a_host_that_does_not_listen_says_that_it_hears_nobody() -> None:
    agent = agent_of()
    agent.config.mdns = False
    status = await status_of(agent)
    assert codes(status) == ["no-cluster", "mdns"]
    assert "is off here" in status["warnings"][1]["message"]
    assert "netagent join ADDRESS" in status["warnings"][1]["cure"]


@virtual
async def test_each_cluster_that_is_heard_is_named() -> None:
    status = await status_of(
        agent_of(None, neighbour(2, "red", "d2" * 16), neighbour(3, "mesh", "c1" * 16), neighbour(4))
    )
    (notice,) = status["warnings"]
    assert "clusters are (mesh, red) on this link" in notice["message"]
    assert "netagent invite" in notice["cure"]


@virtual
async def test_keys_that_wait_for_a_restart_are_shown() -> None:
    for cluster in (None, cluster_of()):
        status = await status_of(agent_of(cluster, waiting=["gossip_port", "zone"]))
        (waits,) = (one for one in status["warnings"] if one["code"] == "config-waits")
        assert "gossip_port, zone" in waits["message"]
        assert "restart" in waits["cure"]


@virtual
async def test_a_member_in_good_order_has_no_warnings() -> None:
    cluster = cluster_of()
    status = await status_of(agent_of(cluster, neighbour(2, "mesh", KEYS.cluster_id)))
    assert status["warnings"] == []
    assert status["heard"] == [], "members of our cluster are no news"
    assert (status["members"], status["networks"]) == ({"alive": 1}, ["app"])
    assert status["endpoints"] == {"local": 1, "total": 1, "hidden": 0}
    assert status["dns"] == {"running": True, "sandboxes": 1, "queries": 7}
    assert status["refused"] == {
        "gossip_refused_label": 3,
        "dns_refused_malformed": 2,
        "packets_spoofed": 2,
    }
    assert status["drift"]["checked_s"] is None


@virtual
async def test_drained_hosts_are_named_this_one_and_others() -> None:
    cluster = cluster_of()
    live, peer, drain = cluster.live, Writer(H2), Drain(1_796_083_985, "anna")
    live.update_view(lambda view: view.with_entries(peer.put(host("h2", drain=drain))))
    [notice] = [one for one in (await status_of(agent_of(cluster)))["warnings"] if one["code"] == "drained"]
    since = "drained by anna, since 2026-12-01 00:13:05 UTC"
    assert notice["message"] == f"names lead to no container of h2: {since}"
    assert notice["cure"] == "on h2: `netagent undrain --host` gives the names back"
    own = Writer(H1)
    for _ in range(5):  # of which the last is newer than what the cluster began with
        changed = own.put(host("h1", drain=drain))
    live.update_view(lambda view: view.with_entries(changed))
    shown = [one["message"] for one in (await status_of(agent_of(cluster)))["warnings"]]
    assert f"names lead to no container of this host: {since}" in shown


@virtual
async def test_a_container_beyond_its_quota_is_named_and_so_is_a_kernel_that_counts_none() -> None:
    cluster = cluster_of()
    (row,) = cluster.live.rows.values()
    cluster.live.set_row(dataclasses.replace(row, addresses=("10.66.0.2", "fd66::2")))
    guard = cluster.kernel.guard.status()
    bridge = bridge_name(cluster.live.view.networks[N1].record.vni)
    guard.crowded = frozenset({(bridge, "10.66.0.2"), (bridge, "fd66::2"), ("na-1", "10.66.0.3")})
    guard.uncounted = "no such module"
    counted, over = (await status_of(agent_of(cluster)))["warnings"]
    assert (counted["code"], over["code"]) == ("connections-not-counted", "connection-quota")
    assert "no such module" in counted["message"]
    assert over["message"].startswith("web1 has 100 connections")


@virtual
async def test_everything_that_is_wrong_is_named_with_a_cure() -> None:
    cluster = cluster_of()
    live, peer = cluster.live, Writer(H2)
    for record in (host("h2", routes=("10.1.0.0/16",), underlay="192.0.2.2"), endpoint(9, offset=2)):
        live.update_view(lambda view: view.with_entries(peer.put(record)))
    live.update_view(lambda view: view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.DEAD, 1)))
    cluster.datapath.failures, cluster.datapath.dirty = 1, (("ip link add na-1", "no"),)
    cluster.controllers.supervisor.trouble = "it died"
    now = trio.current_time()
    cluster.gossip.event_queue.heard.unknown_sources |= {
        "198.51.100.1": ("other-label", now),
        "198.51.100.2": ("wrong-key", now - UNKNOWN_SOURCE_KEPT_S - 1),
    }
    cluster.gossip.event_queue.heard.identity_conflict = "192.0.2.77", now
    status = await status_of(agent_of(cluster))
    wrong = ["datapath", "resolver", "address", "address", "stranger", "identity", "overlap", "agent-dead"]
    assert codes(status) == wrong, "both addresses clash"
    assert all(notice["cure"] for notice in status["warnings"])
    assert [one["address"] for one in status["heard"]] == ["198.51.100.1"], "the other has long been silent"
    overlap, dead = status["warnings"][-2:]
    assert "not known yet" in dead["message"], "no host has asked its kernel"
    assert "10.1.0.0/16 of h2 overlaps network app" in overlap["message"]


@virtual
async def test_a_route_over_a_service_range_is_told_with_what_follows() -> None:
    cluster = cluster_of()
    peer = Writer(H2)
    ranges = ServiceRangeRecord(N1, ("10.9.0.0/24", "fd00:9::/64"))
    for record in (host("h2", routes=("10.9.0.0/16",)), ranges):
        cluster.live.update_view(lambda view, record=record: view.with_entries(peer.put(record)))
    status = await status_of(agent_of(cluster))
    assert codes(status) == ["overlap"]
    (overlap,) = status["warnings"]
    assert "10.9.0.0/16 of h2 overlaps 10.9.0.0/24 and fd00:9::/64" in overlap["message"]
    assert "answered with their replicas" in overlap["message"]


@virtual
async def test_members_and_paths_are_counted_with_those_first_that_are_well() -> None:
    cluster = cluster_of()
    live = cluster.live
    for number, state in ((2, MemberState.LEFT), (3, MemberState.DEAD), (4, MemberState.ALIVE)):
        peer = Writer(f"{number}" * 32)
        live.update_view(
            lambda view: view.with_entries(peer.put(host(f"h{number}", underlay=f"192.0.2.{number}")))
        )
        live.update_view(
            lambda view: view.with_member(Member(peer.owner, (f"192.0.2.{number}", 7956), state, 1))
        )
    status = await status_of(agent_of(cluster))
    assert list(status["members"].items()) == [("alive", 2), ("dead", 1), ("left", 1)]
    assert status["paths"] == {"unknown": 2}, "to one that has left there is none"


@virtual
async def test_a_host_that_was_forgotten_says_what_became_of_its_containers() -> None:
    cluster = cluster_of()
    (notice,) = (await status_of(agent_of(cluster, former=["ab" * 16])))["warnings"]
    assert notice["code"] == "forgotten"
    assert "(abababab)" in notice["message"]
    (row,) = cluster.live.rows.values()
    cluster.live.set_fenced({str(n): dataclasses.replace(row, name=f"web{n}") for n in range(7)})
    (notice,) = (await status_of(agent_of(cluster)))["warnings"]
    assert "web0, web1, web2, web3, web4 and 2 more lost their addresses" in notice["message"]
    assert "netagent attach" in notice["cure"]
    cluster.live.set_fenced({"1": dataclasses.replace(row, name="web1")})
    (notice,) = (await status_of(agent_of(cluster)))["warnings"]
    assert notice["message"] == (
        "the cluster evicted this host while it was away: web1 lost its address and is fenced"
    )


@virtual
async def test_a_host_that_was_revoked_and_invited_again_says_so() -> None:
    cluster = cluster_of()
    (row,) = cluster.live.rows.values()
    cluster.live.set_fenced({"1": dataclasses.replace(row, name="web1")})
    agent = agent_of(cluster)
    agent.past_revocation = Revocation("c" * 32, "lab", "h1", "ab" * 16)
    (notice,) = (await status_of(agent))["warnings"]
    assert notice["message"] == (
        "this host (abababab) was revoked, on h1, and was invited again: web1 lost its address and is fenced"
    )


@pytest.mark.parametrize(
    ("answers", "words"), [(True, "containers keep running"), (False, "does not answer either")]
)
@virtual
async def test_a_dead_agent_is_told_apart_from_a_dead_host(answers: bool, words: str) -> None:
    cluster = cluster_of()
    view = cluster.live.view.with_entries(Writer(H3).put(host("h3", underlay="192.0.2.3")))
    view = view.with_member(Member(H3, ("192.0.2.3", 7956), MemberState.DEAD, 1))
    cluster.live.update_view(lambda _: view.with_host_answers({H3: answers}))
    (notice,) = (await status_of(agent_of(cluster)))["warnings"]
    assert words in notice["message"]


@virtual
async def test_a_resolver_that_hangs_does_not_hang_status() -> None:
    cluster = cluster_of()
    cluster.controllers.supervisor.delay_s = 1000.0
    status = await status_of(agent_of(cluster))
    assert trio.current_time() == pytest.approx(STATISTICS_S)
    assert status["dns"]["queries"] == 0


@virtual
async def test_a_lookup_answers_as_the_resolver_would() -> None:
    cluster = cluster_of()
    found = await look_up(cluster, "web.app", "A", "")
    assert (found["status"], [one["data"] for one in found["answers"]]) == ("NOERROR", ["10.1.0.2"])
    assert found["asked_for"] == ""
    found = await look_up(cluster, "shop", "AAAA", "web1")
    assert [one["data"] for one in found["answers"]] == ["fd00:1::2"], "a link of that sandbox"
    assert found["asked_for"] == endpoint().endpoint_id
    assert (await look_up(cluster, "nobody", "A", ""))["status"] == "NXDOMAIN"


@virtual
async def test_a_lookup_from_outside_a_network_says_so_before_it_blames_name_servers() -> None:
    cluster, other = cluster_of(), Writer(H2)
    front = network(N2, "front", vni=8388609, subnets=("10.2.0.0/24",))
    for record in (front, endpoint(7, network_id=N2, name="db")):
        cluster.live.update_view(lambda view, record=record: view.with_entries(other.put(record)))
    (row,) = cluster.live.rows.values()
    cluster.live.set_row(dataclasses.replace(row, target="netns:web1"))
    found = await look_up(cluster, "db.front", "A", "web1")
    assert found["status"] == FORWARDED
    assert found["reason"] == (
        "web1 is not in network front; `netagent attach netns:web1 --network front` puts it there; "
        "the query goes to the host's name servers"
    )
    found = await look_up(cluster, "db.front.mesh.internal.", "A", "web1")
    assert found["reason"].startswith("web1 is not in network front; ")
    for name in ("nobody.app", "example.com", "db"):
        assert "is not in network" not in (await look_up(cluster, name, "A", "web1"))["reason"]
    attached = Writer(H1)
    for mine in (host("h1"), AttachmentRecord(N2)):
        cluster.live.update_view(lambda view, mine=mine: view.with_entries(attached.put(mine)))
    found = await look_up(cluster, "google.front", "A", "web1")
    assert "is not in network" not in found["reason"], "a network may be called like a top-level domain"


@virtual
async def test_a_lookup_of_nonsense_is_refused() -> None:
    cluster = cluster_of()
    with pytest.raises(InputError, match=r"'HINFO'.*use one of A"):
        await look_up(cluster, "web", "HINFO", "")
    with pytest.raises(InputError, match="not a domain name"):
        await look_up(cluster, "a..b", "A", "")
    with pytest.raises(NotFoundError, match="no endpoint 'nobody'"):
        await look_up(cluster, "web", "A", "nobody")


@virtual
async def test_a_name_that_two_projects_share_is_warned_of_by_status_and_lookup() -> None:
    cluster, writer = cluster_of(), Writer(H2)
    for number, project in ((5, "shop"), (6, "blog")):
        name = f"{project}-db-1"
        one = endpoint(number, offset=number, name=name, service=name, group=Group(project, "db"))
        cluster.live.update_view(lambda view: view.with_entries(writer.put(one)))
    status = await status_of(agent_of(cluster))
    (notice,) = (one for one in status["warnings"] if one["code"] == "shared-name")
    for part in ("name db in network app", "group blog on", "group shop on"):
        assert part in notice["message"]
    assert "docs/how-to/projects.md" in notice["cure"]
    for name in ("db", "db.app", "db.app.mesh.internal."):
        found = await look_up(cluster, name, "A", "web1")
        assert found["warnings"] == [notice], name
        assert found["reason"].endswith(
            f"db is shared by 2 groups: blog (10.1.0.6 on {H2[:8]}), shop (10.1.0.5 on {H2[:8]}); "
            "ask for db.blog or db.shop"
        )
    for name, address in (("db.shop", "10.1.0.5"), ("db.blog.app", "10.1.0.6")):
        found = await look_up(cluster, name, "A", "web1")
        assert [one["data"] for one in found["answers"]] == [address]
        assert "warnings" not in found
    assert "warnings" not in await look_up(cluster, "web", "A", "web1")
    (row,) = cluster.live.rows.values()
    cluster.live.set_row(dataclasses.replace(row, group=Group("shop")))
    found = await look_up(cluster, "db", "A", "web1")
    assert "warnings" not in found
    assert found["reason"] == f"found in group shop of network app: shop-db-1 on {H2[:8]}"


@virtual
async def test_a_project_in_two_folders_is_warned_of() -> None:
    cluster = cluster_of()
    for number, owner in ((5, H2), (6, H3)):
        group = Group("app", "db", f"{number}".encode() * 8)
        one = endpoint(
            number, offset=number, name=f"app-db-{number}", service=f"app-db-{number}", group=group
        )
        event = Writer(owner).put(one)
        cluster.live.update_view(lambda view, event=event: view.with_entries(event))
    status = await status_of(agent_of(cluster))
    (notice,) = (one for one in status["warnings"] if one["code"] == "split-project")
    assert "service db of project app in network app was started from different folders" in notice["message"]
    assert "docker compose -p NAME" in notice["cure"]


@virtual
async def test_look_up_says_that_the_own_project_had_the_name_and_who_else_has_it() -> None:
    cluster, writer = cluster_of(), Writer(H2)
    records = [
        endpoint(number, offset=number, name=name, service=name, group=group)
        for number, name, group in (
            (5, "shop-db-1", Group("shop", "db")),
            (6, "blog-db-1", Group("blog", "db")),
            (7, "shop-web-1", Group("shop", "web")),
        )
    ]
    (row,) = cluster.live.rows.values()
    cluster.live.set_row(dataclasses.replace(row, group=Group("shop")))
    for event in (*map(writer.put, records), writer.delete(records[0])):
        cluster.live.update_view(lambda view, event=event: view.with_entries(event))
    expected = (
        "db is a name of group shop, which has had no endpoint for it since 2027-01-15 08:00:00 UTC; "
        f"containers of this group are not led to blog-db-1 on {H2[:8]} instead: ask for db.blog"
    )
    for name in ("db", "db.app.mesh.internal."):
        found = await look_up(cluster, name, "A", "web1")
        assert (found["status"], found["reason"]) == ("NXDOMAIN", expected)
        assert "warnings" not in found
    found = await look_up(cluster, "db.app", "A", "web1")
    assert found["status"] == "NXDOMAIN"
    assert found["reason"].startswith(expected)
    assert (await look_up(cluster, "db.blog", "A", "web1"))["answers"]
    hidden = endpoint(8, offset=8, name="shop-db-2", group=Group("shop", "db"), health=Health.UNHEALTHY)
    cluster.live.update_view(lambda view: view.with_entries(writer.put(hidden)))
    found = await look_up(cluster, "db", "A", "web1")
    assert found["reason"].endswith(f"left out: shop-db-2 on {H2[:8]} (its health check fails)"), found[
        "reason"
    ]


@virtual
async def test_a_container_is_asked_from_by_what_its_runtime_calls_it() -> None:
    cluster = cluster_of()
    (row,) = cluster.live.rows.values()
    labels = (("netagent.container-id", "c" * 64), ("netagent.original-name", "Web_1"))
    cluster.live.set_row(dataclasses.replace(row, labels=labels))
    for asker in ("c" * 64, "c" * 12, "Web_1"):
        assert (await look_up(cluster, "web", "A", asker))["asked_for"] == row.endpoint_id


@virtual
async def test_what_runtimes_complain_of_is_shown_with_the_way_out() -> None:
    troubles = ("Docker has a network app of its own; remove it", "Podman is silent")
    status = await status_of(agent_of(troubles=troubles))
    assert [(n["message"], n["cure"]) for n in status["warnings"] if n["code"] == "runtime"] == [
        ("Docker has a network app of its own", "remove it"),
        ("Podman is silent", "see the agent's log"),
    ]


@virtual
async def test_why_an_agent_is_dead_is_said_as_far_as_it_is_known(tried: dict[Any, Any]) -> None:
    cluster = cluster_of()
    live, peer = cluster.live, Writer(H2)
    for record in (host("h2", underlay="192.0.2.2"),):
        live.update_view(lambda view: view.with_entries(peer.put(record)))
    live.update_view(lambda view: view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.DEAD, 1)))

    async def dead() -> Notice:
        status = await status_of(agent_of(cluster))
        (notice,) = (one for one in status["warnings"] if one["code"] == "agent-dead")
        return notice

    tried["h2"] = (PortState.SILENT, PortState.OPEN)
    notice = await dead()
    assert "the agent of h2 runs" in notice["message"]
    assert "TCP port 7956 does not answer and TCP port 7957 accepts connections" in notice["message"]
    assert "between 192.0.2.1 and 192.0.2.2; TCP port 7956 is blocked" in notice["cure"]
    tried["h2"] = (PortState.OPEN, PortState.OPEN)
    assert "UDP port 7956 is blocked" in (await dead())["cure"]
    tried["h2"] = (PortState.CLOSED, PortState.CLOSED)
    notice = await dead()
    assert "does not run" in notice["message"]
    assert notice["cure"] == "on h2: `sudo systemctl start netagent`"
    tried["h2"] = (PortState.SILENT, PortState.SILENT)
    assert "does not answer at TCP ports 7956 and 7957" in (await dead())["message"]


@virtual
async def test_name_servers_that_are_dead_or_slow_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_of()
    answers = [
        NameServerReply("192.0.2.53", None, "no answer"),
        NameServerReply("192.0.2.54", 0.6, status="NOERROR"),
    ]

    async def ask(servers: tuple[str, ...]) -> tuple[NameServerReply, ...]:
        assert servers == ("192.0.2.53", "192.0.2.54")
        return tuple(answers)

    monkeypatch.setattr("netagent.commands.status.ask_servers", ask)
    cluster.controllers.supervisor.servers = ("192.0.2.53", "192.0.2.54")
    status = await status_of(agent_of(cluster))
    dead, slow = (one for one in status["warnings"] if one["code"].startswith("upstream"))
    assert (dead["code"], slow["code"]) == ("upstream-dead", "upstream-slow")
    assert "192.0.2.53 does not answer (no answer): look-ups" in dead["message"]
    assert "192.0.2.54 took 0.6 s" in slow["message"]
    answers.pop()
    status = await status_of(agent_of(cluster))
    (dead,) = (one for one in status["warnings"] if one["code"].startswith("upstream"))
    assert "do not resolve" in dead["message"]
    cluster.live = StateStore(cluster.live.view, {})
    codes = [
        {one["code"] for one in status["warnings"]}
        for status in (
            await status_of(agent_of(cluster)),
            await status_of(agent_of(cluster), is_thorough=True),
        )
    ]
    assert "upstream-dead" not in codes[0], "no container asks it"
    assert "upstream-dead" in codes[1], "as the doctor looks"


@virtual
async def test_a_full_network_is_named() -> None:
    cluster = cluster_of()
    cluster.allocator.space = lambda network_id: SimpleNamespace(count=8)
    assert "network-full" not in codes(await status_of(agent_of(cluster)))
    writer, live = Writer(H2), cluster.live
    for number in range(2, 7):
        live.update_view(lambda view: view.with_entries(writer.put(endpoint(number, offset=number))))
    status = await status_of(agent_of(cluster))
    (notice,) = (one for one in status["warnings"] if one["code"] == "network-full")
    assert "of its 5 addresses" in notice["message"]
    assert "--subnet" in notice["cure"]


@virtual
async def test_a_rule_at_our_ports_is_named_where_no_container_is() -> None:
    cluster = cluster_of()
    for endpoint_id in list(cluster.live.rows):
        cluster.live.drop_row(endpoint_id)
    agent = agent_of(cluster)
    agent.foreign_rules.ports = [
        Finding("chain f", "a rule drops membership (udp 7956)", "nft delete rule f")
    ]
    assert "foreign-firewall" in codes(await status_of(agent))


@virtual
async def test_an_agent_that_udp_does_not_reach_is_named_unless_a_rule_here_is_why() -> None:
    cluster = cluster_of()
    view = cluster.live.view.with_entries(Writer(H2).put(host("h2", underlay="192.0.2.2")))
    cluster.live = StateStore(view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.ALIVE, 1)), {})
    cluster.gossip.node.membership.lacks_datagrams = lambda host_id: host_id == H2
    agent = agent_of(cluster)
    assert "agent-udp" in codes(await status_of(agent))
    agent.foreign_rules.ports = [Finding("chain f", "a rule drops it", "nft delete rule f")]
    found = codes(await status_of(agent))
    assert "foreign-firewall" in found
    assert "agent-udp" not in found


@virtual
async def test_a_port_of_a_live_agent_that_is_blocked_is_told_to_the_doctor(tried: dict[Any, Any]) -> None:
    cluster = cluster_of()
    view = cluster.live.view.with_entries(Writer(H2).put(host("h2", underlay="192.0.2.2")))
    cluster.live = StateStore(view.with_member(Member(H2, ("192.0.2.2", 7956), MemberState.ALIVE, 1)), {})
    tried["h2"] = (PortState.OPEN, PortState.SILENT)
    assert "agent-port" not in {one["code"] for one in (await status_of(agent_of(cluster)))["warnings"]}
    status = await status_of(agent_of(cluster), is_thorough=True)
    (reported,) = (one for one in status["warnings"] if one["code"] == "agent-port")
    assert reported["message"].startswith("TCP port 7957 of h2 does not answer, though its agent is alive")
    assert reported["cure"] == "allow UDP and TCP ports 7956 and 7957 between 192.0.2.1 and 192.0.2.2"
    cluster.probing.prober.path = lambda _: PathStatus(Quality.LOSSY, 1450, 1450, 0.3, 0.001, None)
    told = codes(await status_of(agent_of(cluster), is_thorough=True))
    assert "path-lossy" in told
    assert "agent-port" not in told, "what is lost on the way is no closed port"
    cluster.probing.prober.path = lambda _: None
    tried["h2"] = (PortState.OPEN, PortState.OPEN)
    status = await status_of(agent_of(cluster), is_thorough=True)
    assert "agent-port" not in {one["code"] for one in status["warnings"]}


@virtual
async def test_a_clone_is_blamed_for_what_it_breaks_and_no_path_and_no_port(tried: dict[Any, Any]) -> None:
    """The clone was h3 before; h1 has the identity that it uses now, and packets from it do not arrive."""
    cluster = cluster_of()
    for node, name, state in ((H2, "h2", MemberState.ALIVE), (H3, "h3", MemberState.DEAD)):
        address = f"192.0.2.{name[1:]}"
        view = cluster.live.view.with_entries(Writer(node).put(host(name, underlay=address)))
        cluster.live.update_view(lambda _, view=view: view)
        member = Member(node, (address, 7956), state, 1)
        cluster.live.update_view(lambda view, member=member: view.with_member(member))
    tried["h3"] = (PortState.OPEN, PortState.OPEN)
    cluster.probing.prober.path = lambda _: PathStatus(Quality.DOWN, 1450, None, 1.0, None, None)
    cluster.gossip.event_queue.heard.identity_conflict = "192.0.2.3", trio.current_time()
    warned = (await status_of(agent_of(cluster)))["warnings"]
    assert [one["code"] for one in warned] == ["identity", "agent-dead"]
    cause = "the machine at 192.0.2.3, which was h3, uses the identity of this host now"
    assert warned[-1]["message"] == cause


@virtual
async def test_a_change_of_the_ring_key_is_shown_and_who_holds_it_up() -> None:
    cluster = cluster_of()
    keys = cluster.ring_keeper
    shown = await status_of(agent_of(cluster))
    assert shown["ring_key"] == {"id": OLD, "age_s": 60.0, "changing_to": "", "lacking": []}
    assert not any(line.startswith("ring key") for line in screen.status(cast("Any", shown)))
    keys.ring = (RingKey(OLD, 1, 100.0), RingKey(NEW, 2, 159.0))
    shown = await status_of(agent_of(cluster))
    assert shown["ring_key"]["changing_to"] == NEW
    (line,) = (one for one in screen.status(cast("Any", shown)) if one.startswith("ring key"))
    assert line == f"ring key:   changes to {NEW[:12]}; not yet on {H2[:8]}"
    keys.peer, keys.is_overdue = PeerKeys(H2, is_live=True), True
    shown = await status_of(agent_of(cluster))
    assert "keys-held-up" in {one["code"] for one in shown["warnings"]}
