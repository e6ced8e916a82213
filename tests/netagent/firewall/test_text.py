"""What every packet goes through: the chains at the hooks, and no more rules in them than something here needs.

Each rule there costs every packet, also of other bridges of the host; `benchmarks/datapath.py` tells how much.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest

from netagent.firewall import text
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.firewall.ruleset import ruleset_of
from netagent.model.address.tunnel import TUNNEL_PREFIX6

NETWORK = GuardedNetwork(bridge="na-1", bridge_mac="06:00:00:00:00:01", tunnel="nx-1")
LINKED = GuardedNetwork(bridge="na-2", bridge_mac="06:00:00:00:00:02", tunnel="nx-2", restricted=True)
LOUD = GuardedNetwork(bridge="na-3", bridge_mac="06:00:00:00:00:03", tunnel="nx-3", multicast=True)
WEB = GuardedEndpoint(veth="nv1", mac="02:0a:00:00:00:02", addresses=("10.66.0.2", "fd66::2"), bridge="na-1")

SENDER, LINKS = 'iifname "nv*" jump sender', "iifname @restricted goto linked"
CLAMP, FLOOD = (
    "tcp flags & syn == syn jump clamp",
    'meta pkttype { broadcast, multicast } oifname "nx-*" goto flood',
)


def chains(given: FirewallInput, family: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each, the one that says its hook included."""
    table = re.search(rf"^table {family} netagent {{\n(.*?)^}}$", text.render(ruleset_of(given)), re.M | re.S)
    assert table is not None
    for name, body in re.findall(r"^\tchain (\w+) {\n(.*?)^\t}$", table[1], re.M | re.S):
        yield name, [line.strip() for line in body.splitlines()]


def at_the_bridge(
    *networks: GuardedNetwork, clamps: Mapping[tuple[str, str], int] | None = None
) -> dict[str, list[str]]:
    """Hook -> the rules that every packet meets that a bridge of the host passes."""
    given = FirewallInput(vxlan_port=4799, endpoints=(WEB,), networks=networks, clamps=clamps or {})
    return {
        hook[1]: rules
        for _, (first, *rules) in chains(given, "bridge")
        if (hook := re.match(r"type filter hook (prerouting|forward|postrouting)", first)) is not None
    }


def test_between_two_containers_a_packet_is_asked_for_its_sender_and_for_nothing_else() -> None:
    assert at_the_bridge() == at_the_bridge(NETWORK) == {"prerouting": [SENDER]}


@pytest.mark.parametrize(
    ("network", "prerouting", "forward"),
    [(LOUD, [SENDER], [FLOOD]), (LINKED, [SENDER, LINKS], [CLAMP, FLOOD])],
    ids=["multicast", "links"],
)
def test_what_a_network_needs_is_there_with_it(
    network: GuardedNetwork, prerouting: list[str], forward: list[str]
) -> None:
    """Tables with links have everything at once: to be put anew would make them forget who asked whom."""
    assert at_the_bridge(NETWORK, network) == {"prerouting": prerouting, "forward": forward}


def test_what_a_small_path_needs_is_there_with_it() -> None:
    clamps = {("nx-1", "02:0a:00:00:00:03"): 1350}
    assert at_the_bridge(NETWORK, clamps=clamps) == {"prerouting": [SENDER], "forward": [CLAMP]}
    assert at_the_bridge(NETWORK, LOUD, clamps=clamps)["forward"] == [CLAMP, FLOOD]


def test_the_first_rule_that_a_datagram_in_its_senders_own_name_meets_lets_it_pass() -> None:
    found = dict(chains(FirewallInput(vxlan_port=4799, endpoints=(WEB,)), "bridge"))
    assert found["sender"][0] == "ether type ip iifname . ether saddr . ip saddr @senders4 return"
    assert found["sender6"][0] == (
        "meta protocol ip6 meta l4proto != icmpv6 iifname . ether saddr . ip6 saddr @senders6 return"
    )
    for chain in ("sender", "sender6", "senderarp"):
        assert found[chain][-1] == "counter name spoofed drop", "what is not let pass"


def test_a_host_with_a_tunnel_that_is_not_fenced_yet_takes_vxlan_by_both_ways_and_nothing_else_by_the_tunnel() -> (
    None
):
    found = dict(chains(FirewallInput(vxlan_port=4799, tunnel="nx-tunnel"), "inet"))
    assert found["input"][1:3] == [
        "udp dport 4799 goto tunnel",
        'iifname "nx-tunnel" counter name strangers drop',
    ]
    assert "counter name clear drop" not in " ".join(found["input"] + found["tunnelled"])
    # A member's underlay address, while the cluster changes over: WireGuard knows whose it is.
    assert found["tunnel"][-3:] == [
        'iifname "nx-tunnel" ip saddr @members4 accept',
        'iifname "nx-tunnel" ip6 saddr @members6 accept',
        "counter name strangers drop",
    ]


def test_nothing_is_routed_by_way_of_the_tunnel() -> None:
    """A member would reach what this host reaches."""
    found = dict(chains(FirewallInput(vxlan_port=4799, tunnel="nx-tunnel"), "inet"))
    assert found["forward"][1:3] == [
        'iifname "nx-tunnel" counter name strangers drop',
        'oifname "nx-tunnel" counter name strangers drop',
    ]
    in_the_clear = dict(chains(FirewallInput(vxlan_port=4799), "inet"))
    assert not any("nx-tunnel" in rule for rule in in_the_clear["forward"])


def test_vxlan_of_a_cluster_that_encrypts_passes_the_tunnel_alone() -> None:
    found = dict(chains(FirewallInput(vxlan_port=4799, tunnel="nx-tunnel", is_fenced=True), "inet"))
    assert found["input"][1:4] == [
        'iifname != "nx-tunnel" iifname != "na-*" udp dport 4799 counter name clear drop',
        "udp dport 4799 goto tunnel",
        'iifname "nx-tunnel" counter name strangers drop',
    ]
    assert found["tunnelled"][-1] == 'oifname != "nx-tunnel" counter name clear drop'


def test_what_is_for_an_address_in_the_tunnel_leaves_by_no_other_device() -> None:
    elsewhere = 'oifname != { "lo", "nx-tunnel" } counter name clear drop'
    fences = [
        f"ip daddr 240.0.0.0-255.255.255.254 {elsewhere}",
        f"ip6 daddr {TUNNEL_PREFIX6} {elsewhere}",
    ]
    fenced = dict(chains(FirewallInput(vxlan_port=4799, tunnel="nx-tunnel", is_fenced=True), "inet"))
    assert fenced["output"][-2:] == fences
    assert fenced["forward"][3:5] == fences
    not_yet = dict(chains(FirewallInput(vxlan_port=4799, tunnel="nx-tunnel"), "inet"))
    assert not set(fences) & {*not_yet["output"], *not_yet["forward"]}


def test_vxlan_of_a_proven_member_is_let_pass_by_one_rule_and_a_strangers_by_none() -> None:
    found = dict(chains(FirewallInput(vxlan_port=4799), "inet"))
    assert found["input"][1] == "udp dport 4799 goto tunnel"
    *proven, four, six, last = found["tunnel"]
    assert proven == ["iif . ip saddr @proven4 accept", "iif . ip6 saddr @proven6 accept"]
    # Only this leads to where a proof is noted.
    assert four == "ip saddr @members4 fib saddr . iif oif exists goto proven"
    assert six == "ip6 saddr @members6 fib saddr . iif oif exists goto proven"
    assert last == "counter name strangers drop"
    assert found["proven"][-1] == "accept", "also where there is no room to note it"
