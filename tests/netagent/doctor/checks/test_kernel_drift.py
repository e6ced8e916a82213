"""Each kind of difference between kernel and records is found, named, and has its command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_interface
from typing import TypeVar

import pytest
from fakes.doctor_world import World
from fakes.registry import H1, endpoint, network

from netagent.datapath.state import CONTAINER_PORT, TUNNEL_PORT, Device, KernelState, LinkKind, PortFlags
from netagent.doctor.checks.kernel_drift import Difference, KernelTable, differences
from netagent.doctor.checks.object_status import State
from netagent.model.ids import bridge_name, veth_name, vxlan_name
from netgossip.slices import at_once

WEB2 = endpoint(2, offset=3)


@pytest.fixture
def names(world: World) -> tuple[str, ...]:
    vni = next(iter(world.view.networks.values())).record.vni
    return bridge_name(vni), vxlan_name(vni)


K = TypeVar("K")
V = TypeVar("V")


def without(mapping: Mapping[K, V], key: K) -> dict[K, V]:
    return {one: value for one, value in mapping.items() if one != key}


def only(world: World, observed: KernelState) -> Difference:
    (found,) = at_once(differences(world.kernel(), observed))
    return found


def test_a_kernel_that_has_what_the_records_say_has_no_difference(world: World) -> None:
    assert at_once(differences(world.kernel(), world.kernel())) == []


def test_a_missing_neighbour(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    key = (names[0], WEB2.addresses[0])
    found = only(world, replace(kernel, neighbours=without(kernel.neighbours, key)))
    assert (found.part, found.device, found.key, found.state) == (KernelTable.NEIGHBOUR, *key, State.MISSING)
    assert found.fix == f"ip neigh replace {key[1]} lladdr {WEB2.mac} dev {key[0]} nud permanent"


def test_an_altered_tunnel_entry(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    key = (names[1], WEB2.mac)
    found = only(world, replace(kernel, selves={**kernel.selves, key: "203.0.113.9"}))
    assert (found.part, found.state) == (KernelTable.TUNNEL_ENTRY, State.ALTERED)
    assert found.detail == "maps to 203.0.113.9 instead of 192.0.2.2"
    assert found.fix == f"bridge fdb replace {WEB2.mac} dev {names[1]} dst 192.0.2.2 self permanent"


def test_a_bridge_entry_that_is_left_over(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    found = only(world, replace(kernel, masters={**kernel.masters, (names[0], "02::9"): names[1]}))
    assert (found.part, found.state, found.key) == (KernelTable.BRIDGE_ENTRY, State.LEFT_OVER, "02::9")
    assert found.fix.startswith("bridge fdb del 02::9")


def test_a_missing_and_a_foreign_address(world: World) -> None:
    kernel = world.kernel()
    device, cidr = next(one for one in kernel.addresses if one[0].startswith("nx-"))
    others = kernel.addresses - {(device, cidr)}
    missing, extra = sorted(
        at_once(differences(kernel, replace(kernel, addresses=others | {(device, "10.9.9.9/24")}))),
        key=lambda one: one.state is State.LEFT_OVER,
    )
    assert (missing.part, missing.key, missing.state) == (KernelTable.ADDRESS, cidr, State.MISSING)
    assert (extra.part, extra.key, extra.state) == (KernelTable.ADDRESS, "10.9.9.9/24", State.LEFT_OVER)


def test_a_missing_route(world: World) -> None:
    kernel = world.kernel()
    device, cidr = next(iter(kernel.addresses))
    found = only(world, replace(kernel, unrouted=frozenset({(device, cidr)})))
    subnet = str(ip_interface(cidr).network)
    assert (found.part, found.device, found.key, found.state) == (
        KernelTable.ROUTE,
        device,
        subnet,
        State.MISSING,
    )
    assert found.fix.startswith(f"ip route add {subnet} dev {device} proto kernel")


@pytest.mark.parametrize(
    ("change", "part", "told"),
    [
        ({"up": False}, KernelTable.DEVICE, ("it is down", "up")),
        ({"mtu_bytes": 1200}, KernelTable.DEVICE, ("its MTU is 1200 instead of 1450", "mtu 1450")),
        ({"mac": "06::9"}, KernelTable.DEVICE, ("its MAC is 06::9 instead of", "address")),
        ({"port": CONTAINER_PORT}, KernelTable.PORT, ("learning is on, flood is on", "bridge link set")),
    ],
)
def test_an_altered_tunnel_device(
    world: World,
    names: tuple[str, ...],
    change: dict[str, bool] | dict[str, int] | dict[str, PortFlags] | dict[str, str],
    part: KernelTable,
    told: tuple[str, ...],
) -> None:
    kernel = world.kernel()
    device = replace(kernel.devices[names[1]], **change)
    found = only(world, replace(kernel, devices={**kernel.devices, names[1]: device}))
    assert (found.part, found.device, found.state) == (part, names[1], State.ALTERED)
    assert told[0] in found.detail
    assert told[1] in found.fix


def test_a_bridge_whose_arp_was_turned_off(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    silent = replace(kernel.devices[names[0]], noarp=True)
    found = at_once(differences(kernel, replace(kernel, devices={**kernel.devices, names[0]: silent})))
    device = next(one for one in found if one.part is KernelTable.DEVICE)
    assert (device.state, device.detail) == (State.ALTERED, "it answers no ARP")
    assert device.fix == f"ip link set {names[0]} arp on"


def test_a_port_that_was_taken_out_of_its_bridge(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    bridge, tunnel = names
    loose = replace(kernel.devices[tunnel], master=None, port=None)
    masters = {key: port for key, port in kernel.masters.items() if port != tunnel}
    observed = replace(kernel, devices={**kernel.devices, tunnel: loose}, masters=masters)
    port, entry = at_once(differences(kernel, observed))
    assert (port.part, port.detail) == (
        KernelTable.PORT,
        f"it is in no bridge instead of {bridge}; its port flags are not set",
    )
    assert port.fix.startswith(f"ip link set {tunnel} master {bridge}; bridge link set dev {tunnel}")
    assert (entry.part, entry.state) == (KernelTable.BRIDGE_ENTRY, State.MISSING)


def test_one_device_with_two_kinds_of_damage_is_two_findings(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    device = replace(kernel.devices[names[1]], up=False, port=replace(TUNNEL_PORT, flood=True))
    found = at_once(differences(kernel, replace(kernel, devices={**kernel.devices, names[1]: device})))
    assert {one.part for one in found} == {KernelTable.DEVICE, KernelTable.PORT}


def test_a_missing_device_takes_its_entries_along_in_one_finding(
    world: World, names: tuple[str, ...]
) -> None:
    kernel = world.kernel()
    bridge, tunnel = names
    observed = replace(
        kernel,
        devices=without(kernel.devices, tunnel),
        selves={key: value for key, value in kernel.selves.items() if key[0] != tunnel},
        masters={key: port for key, port in kernel.masters.items() if port != tunnel},
    )
    found = only(world, observed)
    assert (found.part, found.device, found.state) == (KernelTable.DEVICE, tunnel, State.MISSING)
    assert found.detail == "with its 2 entries"
    assert f"ip link add {tunnel}" in found.fix
    assert bridge in kernel.devices


def test_a_missing_veth_is_found_although_nobody_can_make_it_by_hand(world: World) -> None:
    kernel = world.kernel()
    veth = veth_name(next(iter(world.rows)))
    observed = replace(
        kernel,
        devices=without(kernel.devices, veth),
        masters={key: port for key, port in kernel.masters.items() if port != veth},
    )
    found = only(world, observed)
    assert (found.device, found.state, found.detail) == (
        veth,
        State.MISSING,
        "the container has no interface",
    )


def test_a_device_that_is_left_over(world: World) -> None:
    kernel = world.kernel()
    old = Device(name="na-9", kind=LinkKind.BRIDGE, alias="netagent old", mtu_bytes=1400, mac="06::1")
    found = only(world, replace(kernel, devices={**kernel.devices, "na-9": old}))
    assert (found.device, found.state, found.fix) == ("na-9", State.LEFT_OVER, "ip link del na-9")


def test_a_device_of_another_vni_must_be_made_anew(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    device = kernel.devices[names[1]]
    assert device.tunnel is not None
    other = replace(device, tunnel=replace(device.tunnel, vni=7))
    found = only(world, replace(kernel, devices={**kernel.devices, names[1]: other}))
    assert (found.state, found.detail) == (State.ALTERED, "its kind, VNI or port is different")
    assert found.fix == f"ip link del {names[1]}"


def test_a_renamed_device_is_one_finding(world: World, names: tuple[str, ...]) -> None:
    kernel = world.kernel()
    tunnel = names[1]
    renamed = {"stolen": replace(kernel.devices[tunnel], name="stolen"), **without(kernel.devices, tunnel)}
    observed = replace(
        kernel,
        devices=renamed,
        masters={key: "stolen" if port == tunnel else port for key, port in kernel.masters.items()},
        selves={("stolen" if d == tunnel else d, mac): to for (d, mac), to in kernel.selves.items()},
    )
    found = only(world, observed)
    assert (found.device, found.state, found.detail) == (tunnel, State.ALTERED, "it was renamed to stolen")
    assert f"name {tunnel}" in found.fix


def test_flood_entries_of_a_network_that_carries_multicast(world: World, names: tuple[str, ...]) -> None:
    world.put(H1, network(multicast=True))
    kernel = world.kernel()
    assert kernel.floods
    missing = only(world, replace(kernel, floods={}))
    assert (missing.part, missing.key, missing.state) == (KernelTable.FLOOD, "192.0.2.2", State.MISSING)
    assert "bridge fdb append 00:00:00:00:00:00" in missing.fix
    extra = only(world, replace(kernel, floods={**kernel.floods, (names[1], "203.0.113.9"): ""}))
    assert (extra.part, extra.state) == (KernelTable.FLOOD, State.LEFT_OVER)
