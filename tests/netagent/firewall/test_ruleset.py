"""What the sets of our tables hold follows from the inputs, and reads the same as text and as bytes."""

from __future__ import annotations

import dataclasses

from netagent.firewall import ruleset, text
from netagent.firewall.element import Field, encode
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork
from netagent.firewall.ruleset import link_local, ruleset_of

WEB = GuardedEndpoint(veth="nv1", mac="02:0a:00:00:00:02", addresses=("10.66.0.2", "fd66::2"))
NET = GuardedNetwork(bridge="na-1", bridge_mac="06:00:00:00:00:01")
GIVEN = FirewallInput(
    vxlan_port=4799,
    endpoints=(WEB,),
    networks=(NET,),
    members=frozenset({"192.0.2.2", "2001:db8::2"}),
    clamps={("nx-1", "02:0a:00:00:00:03"): 1350, ("nx-1", "02:0a:00:00:00:04"): 60},
)


def test_an_endpoint_speaks_for_its_addresses_and_its_link_local_one() -> None:
    elements = ruleset_of(GIVEN).elements
    assert elements[ruleset.SENDERS].keys() == {("nv1", WEB.mac)}
    assert elements[ruleset.SENDERS4].keys() == {("nv1", WEB.mac, "10.66.0.2")}
    assert elements[ruleset.SENDERS6].keys() == {
        ("nv1", WEB.mac, "fd66::2"),
        ("nv1", WEB.mac, "fe80::a:ff:fe00:2"),
    }
    assert link_local("52:54:00:12:34:56") == "fe80::5054:ff:fe12:3456"


def test_members_and_clamps_are_sorted_by_family() -> None:
    elements = ruleset_of(GIVEN).elements
    assert elements[ruleset.MEMBERS4].keys() == {("192.0.2.2",)}
    assert elements[ruleset.MEMBERS6].keys() == {("2001:db8::2",)}
    near, far = ("nx-1", "02:0a:00:00:00:03"), ("nx-1", "02:0a:00:00:00:04")
    assert elements[ruleset.CLAMPS4] == {near: ("1310",), far: ("48",)}
    assert elements[ruleset.CLAMPS6] == {near: ("1290",), far: ("48",)}
    assert set(elements) == set(ruleset.KINDS)


def test_the_text_is_one_transaction_and_matches_our_port_only() -> None:
    written = text.render(ruleset_of(dataclasses.replace(GIVEN, vxlan_port=4800)))
    assert written.startswith("add table bridge netagent\ndelete table bridge netagent\n")
    assert "4799" not in written
    assert "4800" in written
    assert 'elements = { "nv1" . 02:0a:00:00:00:02 . 10.66.0.2 }' in written
    assert 'elements = { "nx-1" . 02:0a:00:00:00:03 : 1310, "nx-1" . 02:0a:00:00:00:04 : 48 }' in written


def test_what_is_for_our_networks_does_not_leave_and_they_may_overlap() -> None:
    overlapping = ("10.66.0.0/16", "10.66.0.0/20", "10.67.0.0/20", "fd66::/64")
    made = ruleset_of(dataclasses.replace(GIVEN, subnets=overlapping, lent4=frozenset({"eth0"})))
    assert made.subnets == ("10.66.0.0/16", "10.67.0.0/20", "fd66::/64")
    written = text.render(made)
    assert "ip daddr { 10.66.0.0/16, 10.67.0.0/20 } counter name crossed drop" in written
    assert "ip6 daddr { fd66::/64 } counter name crossed drop" in written
    assert "daddr { }" not in text.render(ruleset_of(GIVEN))
    assert made.elements[ruleset.EGRESS_BRIDGES].keys() == {("na-1",)}
    assert made.elements[ruleset.LENT4].keys() == {("eth0",)}
    closed = dataclasses.replace(NET, has_egress=False)
    assert not ruleset_of(dataclasses.replace(GIVEN, networks=(closed,))).elements[ruleset.EGRESS_BRIDGES]


def test_the_kernel_fills_the_fields_of_a_concatenation_up() -> None:
    assert encode((Field.ETHER,), (WEB.mac,)) == bytes.fromhex("020a00000002")
    assert encode((Field.ETHER, Field.PORT), (WEB.mac, "80")) == bytes.fromhex("020a00000002 0000 0050 0000")
    assert encode((Field.IFNAME,), ("nv1",)) == b"nv1" + bytes(13)
    assert encode((Field.PROTOCOL, Field.IPV4), ("udp", "10.0.0.1")) == bytes.fromhex("11000000 0a000001")
