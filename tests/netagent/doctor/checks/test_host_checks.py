"""Each check of the host: found when it is so, silent when it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from netagent.doctor.checks.finding import CheckVerdict, Outcome, Severity, examine, is_healthy
from netagent.doctor.checks.foreign_rules import ForeignChain
from netagent.doctor.checks.host_checks import (
    HOST_CHECKS,
    ForeignTunnel,
    HostFacts,
    ManagerFacts,
    NetworkFacts,
    PortHolder,
)

APP = NetworkFacts("app", 9000000, 1450, ("10.160.0.0/20", "fd00::/64"), is_here=True)
FIT = HostFacts(
    features={"bridge": "", "vxlan": "", "veth": "", "nf_tables": ""},
    programs={"nft": True, "ip": True, "bridge": True, "nsenter": True},
    settings={
        "net/ipv6/conf/all/disable_ipv6": "1",
        "net/bridge/bridge-nf-call-iptables": "1",
        "net/bridge/bridge-nf-call-ip6tables": "0",
    },
    holders=(),
    tunnels=(ForeignTunnel("flannel.1", 1, 8472),),
    links=frozenset({"eth0", "docker0"}),
    wanted_links=frozenset({"na-9000000", "nx-9000000"}),
    routes=("192.0.2.0/24",),
    networks=(APP,),
    vxlan_port=4799,
    underlay="192.0.2.1",
    underlay_device="eth0",
    underlay_mtu_bytes=1500,
    unreachable="",
    state_dir="/var/lib/netagent",
    free_bytes=1 << 30,
    free_inodes=None,
    chains=(),
    managers=(ManagerFacts("systemd-networkd", "/etc/systemd/network/10-netagent.network", is_there=True),),
    resolver="",
    open_files=(40, 1024),
    ports={"VXLAN": 4799, "membership": 7956, "records": 7957},
)
FORWARD = ForeignChain("ip", "filter", "FORWARD", "forward", drops_by_policy=True)
INPUT = ForeignChain("inet", "filter", "input", "input", drops_by_policy=True, ports=frozenset({22}))


def outcomes(**changes: Any) -> dict[str, Outcome]:
    return {one.name: one for one in examine(HOST_CHECKS, replace(FIT, **changes))}


def test_a_fit_host_passes_every_check() -> None:
    found = outcomes()
    assert {one.verdict for one in found.values()} == {CheckVerdict.PASSED}
    assert is_healthy(found.values())
    assert len(found) == len(HOST_CHECKS)


UNFIT = [
    ("kernel-features", {"features": {"vxlan": "Operation not supported"}}, "no vxlan", "modprobe vxlan"),
    (
        "programs",
        {"programs": {"ip": True, "bridge": True, "nsenter": True}},
        "nft is not installed",
        "nftables",
    ),
    (
        "address-family",
        {"others": {"h2": "192.0.2.2", "h3": "2001:db8::3"}},
        "h3 has the address 2001:db8::3 and this host 192.0.2.1",
        "`advertise`",
    ),
    (
        "kernel-settings",
        {"settings": {"net/bridge/bridge-nf-call-iptables": "1"}},
        "no IPv6",
        "ipv6.disable",
    ),
    ("own-address", {"unreachable": "this host has no address"}, "has no address", "assign it to a device"),
    ("open-files", {"open_files": (1000, 1024)}, "1000 of 1024 open files", "LimitNOFILE"),
    (
        "ports",
        {"holders": (PortHolder(4799, "udp", "socat (pid 7)"),)},
        "socat (pid 7) uses UDP port 4799",
        "vxlan_port",
    ),
    ("tunnels", {"tunnels": (ForeignTunnel("vx9", 9000000, 4789),)}, "uses VNI 9000000", "ip link del vx9"),
    (
        "device-names",
        {"links": frozenset({"na-9000000"})},
        "has the name na-9000000",
        "ip link set na-9000000",
    ),
    ("routes", {"routes": ("10.160.8.0/24",)}, "overlaps network app", "ip route del 10.160.8.0/24"),
    ("mtu", {"underlay_mtu_bytes": 1400}, "eth0 carries at most 1350", "ip link set eth0 mtu 1500"),
    ("mtu", {"is_encrypted": True}, "eth0 carries at most 1370", "ip link set eth0 mtu 1580"),
    ("mtu", {"underlay": "2001:db8::1"}, "eth0 carries at most 1430", "ip link set eth0 mtu 1520"),
    ("disk-space", {"free_bytes": 1000}, "0 MiB left", "free space"),
    ("disk-space", {"free_inodes": 3}, "3 free inodes", "free space"),
    ("resolver", {"resolver": "it ended"}, "it ended", "resolver.log"),
    ("forward-rules", {"chains": (FORWARD,)}, "by its policy", "nft insert rule ip filter FORWARD"),
]


def test_a_chain_for_both_families_is_cured_by_one_command_for_both_switches() -> None:
    switches = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
    both = replace(FORWARD, family="inet")
    (finding,) = outcomes(chains=(both,), settings=dict.fromkeys(switches, "1"))["forward-rules"].findings
    first, second = (switch.replace("/", ".") for switch in switches)
    assert f"{first} and {second} have it judge bridged packets" in finding.message
    assert finding.fix.split(", or ")[1:] == [f"sysctl -w {first}=0 {second}=0"]


@pytest.mark.parametrize(("name", "changes", "says", "fix"), UNFIT)
def test_what_is_unfit_fails_its_check_and_no_other(name: str, changes: Any, says: str, fix: str) -> None:
    found = outcomes(**changes)
    assert [one.name for one in found.values() if one.verdict is CheckVerdict.FAILED] == [name]
    (finding,) = found[name].findings
    assert says in finding.message
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("programs", {"programs": {"nft": True, "bridge": True, "nsenter": True}}, "ip is not installed"),
        ("tunnels", {"tunnels": (ForeignTunnel("vx9", 5, 4799),)}, "uses netagent's UDP port"),
        ("disk-space", {"free_bytes": 2 << 20}, "2 MiB left"),
        ("network-managers", {"managers": (ManagerFacts("NetworkManager", "/etc/x", False),)}, "runs"),
        ("kernel-settings", {"is_apart": False}, "net.bridge.bridge-nf-call-iptables is on, and nothing"),
        (
            "kernel-settings",
            {"is_apart": False, "settings": {**FIT.settings, "net/bridge/bridge-nf-filter-vlan-tagged": "1"}},
            "net.bridge.bridge-nf-filter-vlan-tagged is on",
        ),
        ("input-rules", {"chains": (INPUT,)}, "mentions VXLAN (4799), membership (7956), records (7957)"),
    ],
)
def test_what_may_be_wrong_is_a_warning(name: str, changes: Any, says: str) -> None:
    found = outcomes(**changes)
    assert [one.name for one in found.values() if one.verdict is CheckVerdict.WARNING] == [name]
    assert is_healthy(found.values())
    assert says in found[name].findings[0].message
    assert found[name].findings[0].severity is Severity.WARNING


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("kernel-features", {"features": None}),
        ("open-files", {"open_files": None}),
        ("mtu", {"underlay_mtu_bytes": 0}),
        ("disk-space", {"free_bytes": None}),
        ("resolver", {"resolver": None}),
        ("forward-rules", {"chains": None}),
        ("own-address", {"unreachable": None}),
    ],
)
def test_what_could_not_be_looked_at_is_neither_well_nor_wrong(
    name: str, changes: dict[str, None] | dict[str, int]
) -> None:
    found = outcomes(**changes)
    assert found[name].verdict is CheckVerdict.NOT_KNOWN
    assert found[name].note
    assert is_healthy(found.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"chains": (replace(FORWARD, lets_us_pass=True),)},
        {"chains": (replace(FORWARD, family="ip6"),)},  # bridge netfilter leaves IPv6 alone here
        {"chains": (replace(FORWARD, drops_by_policy=False),)},
        {"chains": (FORWARD,), "is_apart": True},  # it does not see what our bridges pass
        {"is_apart": False, "settings": {**FIT.settings, "net/bridge/bridge-nf-call-iptables": "0"}},
        {"chains": (replace(INPUT, ports=frozenset({4799, 7956, 7957})),)},
        {"networks": (replace(APP, is_here=False),), "underlay_mtu_bytes": 1400},
    ],
)
def test_what_does_no_harm_is_not_found(
    changes: dict[str, Any] | dict[str, tuple[ForeignChain, ...]],
) -> None:
    assert {one.verdict for one in outcomes(**changes).values()} == {CheckVerdict.PASSED}


def test_bridge_rules_judge_bridged_packets_whatever_the_switch_says() -> None:
    chain = ForeignChain("bridge", "x", "f", "forward", drops_by_policy=False, drops_by_rule=True)
    (finding,) = outcomes(chains=(chain,))["forward-rules"].findings
    assert "by a rule" in finding.message
    assert 'meta ibrname "na-*"' in finding.fix


def test_a_drop_of_what_the_host_routes_closes_the_way_out_and_is_a_warning() -> None:
    networks = (replace(APP, has_egress=True),)
    changes = {"chains": (FORWARD,), "settings": {}, "networks": networks}
    found = outcomes(**changes)["forward-rules"]
    assert found.verdict is CheckVerdict.WARNING
    assert "packets that containers send out of this host" in found.findings[0].message
    assert found.findings[0].fix.endswith('oifname "na-*" accept comment netagent')
    passing = replace(FORWARD, lets_us_pass=True)
    assert outcomes(**(changes | {"chains": (passing,)}))["forward-rules"].verdict is CheckVerdict.PASSED
    elsewhere = (replace(networks[0], is_here=False),)
    assert outcomes(**(changes | {"networks": elsewhere}))["forward-rules"].verdict is CheckVerdict.PASSED


def test_of_many_findings_some_are_shown_and_the_others_counted() -> None:
    holders = tuple(PortHolder(7956, "tcp", f"p (pid {number})") for number in range(60))
    found = outcomes(holders=holders)["ports"]
    assert (len(found.findings), found.left_out) == (50, 10)
