"""Which address a host advertises follows from what it has."""

from __future__ import annotations

import pytest

from netagent.datapath.host.uplink import (
    Underlay,
    Uplinks,
    addresses_of,
    choose,
    common_version,
    egress_interfaces,
)

ETH0, ETH1 = Underlay("192.0.2.1", "eth0", 1500), Underlay("198.51.100.1", "eth1", 9000)
V6 = Underlay("2001:db8::1", "eth0", 1500)
BOTH = (ETH0, ETH1, V6)


@pytest.mark.parametrize(
    ("candidates", "sources", "present", "chosen"),
    [
        (BOTH, (), None, ETH0),
        (BOTH, ("198.51.100.1", "2001:db8::1"), None, ETH1),
        (BOTH, ("198.51.100.1",), ETH0, ETH1),
        (BOTH, (), ETH1, ETH1),
        ((ETH0, V6), (), ETH1, ETH0),
        ((V6,), ("2001:db8::1",), ETH0, V6),
        (BOTH, ("2001:db8::1",), ETH0, ETH0),
        (BOTH, ("2001:db8::1",), V6, V6),
        (BOTH, ("10.0.0.1",), ETH0, ETH0),
        ((), (), ETH0, None),
    ],
    ids=[
        "the first",
        "by the default route",
        "the default route moved",
        "no default route: where it is",
        "its address vanished",
        "its family vanished",
        "no other family while there is the present one",
        "IPv6",
        "the route's source is on a device of ours",
        "nothing",
    ],
)
def test_the_choice(
    candidates: tuple[Underlay, ...],
    sources: tuple[str, ...],
    present: Underlay | None,
    chosen: Underlay | None,
) -> None:
    assert choose(Uplinks(candidates, sources), None, present) == chosen
    if chosen is not V6:
        assert choose(Uplinks(candidates, sources), "0.0.0.0", present) == chosen
    if chosen is not None:
        assert choose(Uplinks(candidates, sources), None, chosen) == chosen, "it stays"


def test_the_cluster_s_family_comes_first_while_the_host_has_one_of_it() -> None:
    assert choose(Uplinks(BOTH), None, None, 6) == V6
    assert choose(Uplinks(BOTH), None, ETH0, 6) == V6, "also when another one works"
    assert choose(Uplinks(BOTH, ("198.51.100.1", "2001:db8::1")), None, V6, 4) == ETH1
    assert choose(Uplinks((ETH0, ETH1)), None, ETH1, 6) == ETH1, "none of it: as ever"
    assert choose(Uplinks((V6,)), None, ETH0, 4) == V6
    assert choose(Uplinks(BOTH), "192.0.2.1", None, 6) == ETH0, "what is configured is that"


def test_a_port_on_all_addresses_of_a_family_is_reached_by_that_family() -> None:
    assert choose(Uplinks(BOTH), "::", ETH0) == V6
    assert choose(Uplinks(BOTH), "0.0.0.0", V6, 6) == ETH0
    assert choose(Uplinks((V6,)), "0.0.0.0") is None


@pytest.mark.parametrize(
    ("addresses", "version"),
    [
        ([], None),
        (["192.0.2.1"], 4),
        (["2001:db8::1"], 6),
        (["192.0.2.1", "2001:db8::1"], None),
        (["192.0.2.1", "2001:db8::1", "2001:db8::2"], 6),
    ],
)
def test_the_family_of_most(addresses: list[str], version: int | None) -> None:
    assert common_version(addresses) == version


def test_a_configured_address_is_that_or_none() -> None:
    uplinks = Uplinks(BOTH, ("198.51.100.1",))
    assert choose(uplinks, "192.0.2.1", ETH1) == ETH0
    assert choose(uplinks, "2001:0db8::1") == V6
    assert choose(uplinks, "192.0.2.9", ETH0) is None


def test_packets_leave_by_what_leads_out() -> None:
    docker = Underlay("172.17.0.1", "docker0", 1500)
    bridged = Underlay("192.0.2.9", "br0", 1500)
    uplinks = Uplinks((*BOTH, docker, bridged), ("192.0.2.9",), frozenset({"eth0", "eth1"}))
    assert egress_interfaces(uplinks, ETH0) == {"eth0", "eth1", "br0"}
    assert egress_interfaces(Uplinks((docker,)), docker) == {"docker0"}


def test_the_addresses_of_devices() -> None:
    assert addresses_of(Uplinks(BOTH), ("eth1", "eth0", "eth9")) == {
        "eth0": "192.0.2.1",
        "eth1": "198.51.100.1",
    }
