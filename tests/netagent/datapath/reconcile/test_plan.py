"""The plan's properties, over any two states, against the model of the kernel."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_interface

from hypothesis import given
from hypothesis import strategies as st

from netagent.datapath.reconcile.ip_commands import render
from netagent.datapath.reconcile.operations import (
    CreateDevice,
    DeleteAddress,
    DeleteDevice,
    DeleteEntry,
    Operation,
    RenameDevice,
    SetAddress,
    SetDevice,
    SetEntry,
    after,
    device_of,
)
from netagent.datapath.reconcile.plan import plan, plan_within
from netagent.datapath.state import (
    CONTAINER_PORT,
    FLOODED_TUNNEL_PORT,
    TUNNEL_PORT,
    Device,
    EntryKey,
    KernelState,
    LinkKind,
    PortFlags,
    Table,
    Tunnel,
)
from netgossip.slices import at_once

TABLES: tuple[Table, ...] = ("neighbour", "master", "self", "flood")

# A small world, so that two states often speak of the same things.
BRIDGES, TUNNELS, VETHS = ("na-1", "na-2"), ("nx-1", "nx-2"), ("nv1", "nv2")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1")
UNDERLAYS = ("192.0.2.1", "192.0.2.2", "2001:db8::1")


@st.composite
def kernel_states(draw: st.DrawFn, *, is_desired: bool = False) -> KernelState:
    """Any state that a kernel can hold; a desired one has its ports in bridges and everything up."""
    bridges = draw(st.sets(st.sampled_from(BRIDGES)))
    devices = {name: _bridge(draw, name, is_desired=is_desired) for name in bridges}
    for name in draw(st.sets(st.sampled_from(TUNNELS))) | draw(st.sets(st.sampled_from(VETHS))):
        devices[name] = _port(draw, name, sorted(bridges), is_desired=is_desired)
    ports = {name: device.master for name, device in devices.items() if device.master}
    tunnels = [name for name, device in devices.items() if device.kind is LinkKind.VXLAN]
    masters = {}
    for port, bridge in ports.items():
        for mac in draw(st.sets(st.sampled_from(MACS))):
            masters[bridge, mac] = port
    pairs = (
        st.sets(st.tuples(st.sampled_from(sorted(devices)), st.sampled_from(ADDRESSES)))
        if devices
        else st.just(set())
    )
    addresses = frozenset((name, f"{address}/24") for name, address in draw(pairs))
    is_lost = not is_desired and addresses
    state = KernelState(
        devices=devices,
        addresses=addresses,
        unrouted=draw(st.frozensets(st.sampled_from(sorted(addresses)))) if is_lost else frozenset(),
        neighbours={key: draw(st.sampled_from(MACS)) for key in draw(pairs)},
        masters=masters,
        selves={
            (name, mac): draw(st.sampled_from(UNDERLAYS))
            for name in tunnels
            for mac in draw(st.sets(st.sampled_from(MACS)))
        },
        floods={
            (name, underlay): "" for name in tunnels for underlay in draw(st.sets(st.sampled_from(UNDERLAYS)))
        },
    )
    astray = draw(st.sets(st.sampled_from(sorted(devices)))) if devices and not is_desired else ()
    return at_once(after(state, [RenameDevice(name, f"x{name}") for name in astray]))


def _bridge(draw: st.DrawFn, name: str, *, is_desired: bool) -> Device:
    return Device(
        name=name,
        kind=LinkKind.BRIDGE,
        alias=f"netagent network {name[-1]}" if is_desired or draw(st.booleans()) else "netagent else",
        mtu_bytes=draw(st.sampled_from([1400, 1450])),
        mac=draw(st.sampled_from(MACS)),
        mcast_snooping=draw(st.booleans()),
        noarp=not is_desired and draw(st.booleans()),
        up=draw(st.booleans()),
    )


def _port(draw: st.DrawFn, name: str, bridges: list[str], *, is_desired: bool) -> Device:
    master = draw(st.sampled_from([*bridges, None]))
    is_tunnel = name in TUNNELS
    tunnel = Tunnel(
        vni=draw(st.sampled_from([1, 2])),
        port=draw(st.sampled_from([4799, 4800])),
        local=draw(st.sampled_from(UNDERLAYS)),
        learning=draw(st.booleans()),
        dont_fragment=draw(st.booleans()),
        ttl=draw(st.sampled_from([0, 1])),
    )
    flags: PortFlags = draw(st.sampled_from([TUNNEL_PORT, FLOODED_TUNNEL_PORT, CONTAINER_PORT]))
    return Device(
        name=name,
        kind=LinkKind.VXLAN if is_tunnel else LinkKind.VETH,
        alias=f"netagent {'network' if is_tunnel else 'endpoint'} {name[-1]}",
        mtu_bytes=1400,
        mac=MACS[0] if is_tunnel else None,
        master=master,
        port=flags if master else None,
        tunnel=tunnel if is_tunnel else None,
        up=is_desired or draw(st.booleans()),
    )


def with_names_back(desired: KernelState, observed: KernelState) -> KernelState:
    """`observed` once devices of ours that were renamed have their names again."""
    return at_once(
        after(observed, [o for o in at_once(plan(desired, observed)) if isinstance(o, RenameDevice)])
    )


DESIRED = kernel_states(is_desired=True)
OBSERVED = kernel_states()


def without_spare_veths(state: KernelState, desired: KernelState) -> KernelState:
    """`state` less the veths that `desired` does not have: a plan leaves these where they are."""
    spare = {n for n, d in state.devices.items() if d.kind is LinkKind.VETH and n not in desired.devices}
    return replace(state, devices={n: d for n, d in state.devices.items() if n not in spare})


def reachable(desired: KernelState, observed: KernelState) -> KernelState:
    """`desired` without the veths that do not exist, and without the entries that lead to them."""
    missing = {n for n, d in desired.devices.items() if d.kind is LinkKind.VETH and n not in observed.devices}
    return replace(
        desired,
        devices={n: d for n, d in desired.devices.items() if n not in missing},
        masters={key: port for key, port in desired.masters.items() if port not in missing},
    )


@given(DESIRED)
def test_nothing_to_do_when_they_agree(desired: KernelState) -> None:
    assert at_once(plan(desired, desired)) == []


@given(DESIRED, OBSERVED)
def test_the_plan_leads_to_the_desired_state(desired: KernelState, observed: KernelState) -> None:
    reached = at_once(after(observed, at_once(plan(desired, observed))))
    assert without_spare_veths(reached, desired) == reachable(desired, with_names_back(desired, observed))
    assert at_once(plan(desired, reached)) == []


@given(DESIRED, OBSERVED)
def test_veths_are_neither_made_nor_deleted(desired: KernelState, observed: KernelState) -> None:
    operations = at_once(plan(desired, observed))
    assert not {device_of(o) for o in operations if isinstance(o, CreateDevice | DeleteDevice)} & set(VETHS)


@given(DESIRED, OBSERVED)
def test_additions_come_before_removals(desired: KernelState, observed: KernelState) -> None:
    operations = at_once(plan(desired, observed))
    while operations and isinstance(operations[0], RenameDevice | DeleteDevice):
        operations.pop(0)  # what stands in the way of the same name
    missing = {
        (one.device, ip_interface(one.cidr).network) for one in operations if isinstance(one, SetAddress)
    }
    operations = [
        one
        for one in operations
        if not (isinstance(one, DeleteAddress) and (one.device, ip_interface(one.cidr).network) in missing)
    ]
    is_removal = [
        isinstance(operation, DeleteEntry | DeleteAddress | DeleteDevice) for operation in operations
    ]
    assert is_removal == sorted(is_removal)


@given(DESIRED, OBSERVED)
def test_an_address_never_becomes_a_secondary_one(desired: KernelState, observed: KernelState) -> None:
    """The kernel removes it with the first address of its subnet."""
    there = {(device, ip_interface(cidr).network) for device, cidr in observed.addresses - desired.addresses}
    for operation in at_once(plan(desired, observed)):
        match operation:
            case DeleteAddress(device, cidr):
                there.discard((device, ip_interface(cidr).network))
            case DeleteDevice(name):
                there = {one for one in there if one[0] != name}
            case SetAddress(device, cidr):
                assert (device, ip_interface(cidr).network) not in there


@given(DESIRED, OBSERVED)
def test_no_prefix_leaves_two_paths_or_a_path_of_neither_state(
    desired: KernelState, observed: KernelState
) -> None:
    """At every step an address leads where one of the two states leads it, and only there."""
    observed = with_names_back(desired, observed)
    desired = reachable(desired, observed)
    operations = at_once(plan(desired, observed))
    for length in range(len(operations) + 1):
        between = at_once(after(observed, operations[:length]))
        for table in ("neighbours", "masters", "selves"):
            for key, value in getattr(between, table).items():
                assert value in {getattr(desired, table).get(key), getattr(observed, table).get(key)}


@given(DESIRED)
def test_arp_is_answered_only_once_the_way_is_laid(desired: KernelState) -> None:
    operations = at_once(plan(desired, KernelState()))
    order = ["self", "master", "neighbour"]
    tables = [o.key[0] for o in operations if isinstance(o, SetEntry) and o.key[0] in order]
    assert tables == sorted(tables, key=order.index)
    operations = at_once(plan(KernelState(devices=desired.devices), desired))
    tables = [o.key[0] for o in operations if isinstance(o, DeleteEntry) and o.key[0] in order]
    assert tables == sorted(tables, key=order.index, reverse=True)


@given(DESIRED, OBSERVED)
def test_a_host_that_stays_is_flooded_all_the_time(desired: KernelState, observed: KernelState) -> None:
    """Where a stream of multicast runs, hosts that come and go beside it cost it nothing."""
    operations = at_once(plan(desired, observed))
    removed = {o.key[1] for o in operations if isinstance(o, DeleteEntry) and o.key[0] == "flood"}
    added = {o.key[1] for o in operations if isinstance(o, SetEntry) and o.key[0] == "flood"}
    assert not removed & ({*desired.floods} | added)
    rebuilt = {device_of(o) for o in operations if isinstance(o, DeleteDevice)}
    assert {key for key in added & {*observed.floods} if key[0] not in rebuilt} == set()


def entry_keys(*states: KernelState) -> set[EntryKey]:
    return {(table, place) for table in TABLES for state in states for place in state.table(table)}


def kind_of(operation: Operation) -> tuple[type[Operation], str]:
    return type(operation), operation.key[0] if isinstance(operation, SetEntry | DeleteEntry) else ""


@given(DESIRED, OBSERVED, st.sets(st.sampled_from([*BRIDGES, *TUNNELS, *VETHS])))
def test_a_plan_for_the_entries_that_differ_is_the_plan(
    desired: KernelState, observed: KernelState, missing: set[str]
) -> None:
    """Where devices agree, but for veths that are not there yet."""
    devices = {n: d for n, d in desired.devices.items() if d.kind is not LinkKind.VETH or n not in missing}
    standing = replace(observed, devices=devices, addresses=desired.addresses, unrouted=frozenset())
    on_nothing: dict[EntryKey, None] = {
        key: None
        for key in entry_keys(standing)
        if key[1][0] not in devices or (key[0] == "master" and standing.entry(key) not in devices)
    }
    standing = standing.with_entries(on_nothing)
    keys = entry_keys(desired, standing)
    differing = {key for key in keys if desired.entry(key) != standing.entry(key)}
    whole = at_once(plan(desired, standing))
    for asked in (keys, differing):
        for is_settled in (True, False):
            within = at_once(plan_within(desired, standing, asked, are_devices_settled=is_settled))
            assert within is not None
            assert Counter(within) == Counter(whole)
            assert [kind_of(operation) for operation in within] == [kind_of(operation) for operation in whole]
    assert at_once(plan_within(desired, standing, ())) == []


@given(DESIRED, OBSERVED)
def test_a_plan_for_some_entries_never_leaves_a_device_wrong(
    desired: KernelState, observed: KernelState
) -> None:
    """It is refused, or does all that there is to do."""
    within = at_once(plan_within(desired, observed, entry_keys(desired, observed)))
    if within is not None:
        assert at_once(plan(desired, at_once(after(observed, within)))) == []


@given(DESIRED, OBSERVED)
def test_every_operation_can_be_shown(desired: KernelState, observed: KernelState) -> None:
    for operation in at_once(plan(desired, observed)):
        assert render(operation).startswith(("ip ", "bridge "))


def test_a_tunnel_whose_port_changed_is_made_anew_with_its_entries() -> None:
    tunnel = Tunnel(vni=1, port=4799, local="192.0.2.1")
    bridge = Device(name="na-1", kind=LinkKind.BRIDGE, alias="netagent a", mtu_bytes=1400, mac=MACS[0])
    old = Device(
        name="nx-1",
        kind=LinkKind.VXLAN,
        alias="netagent a",
        mtu_bytes=1400,
        mac=MACS[0],
        tunnel=tunnel,
        master="na-1",
        port=TUNNEL_PORT,
    )
    new = replace(old, tunnel=replace(tunnel, port=4800))
    entries = KernelState(masters={("na-1", MACS[1]): "nx-1"}, selves={("nx-1", MACS[1]): "192.0.2.2"})
    before = replace(entries, devices={"na-1": bridge, "nx-1": old})
    wanted = replace(entries, devices={"na-1": bridge, "nx-1": new})
    assert at_once(plan(wanted, before)) == [
        DeleteDevice("nx-1"),
        CreateDevice(new),
        SetDevice(new, ("master", "port", "up")),
        SetEntry(("self", ("nx-1", MACS[1])), "192.0.2.2"),
        SetEntry(("master", ("na-1", MACS[1])), "nx-1"),
    ]
    moved = replace(old, tunnel=replace(tunnel, local="192.0.2.9"))
    assert at_once(plan(replace(entries, devices={"na-1": bridge, "nx-1": moved}), before)) == [
        SetDevice(moved, ("tunnel",))
    ]


def test_a_tunnel_over_ipv6_whose_source_changed_is_made_anew() -> None:
    tunnel = Tunnel(vni=1, port=4799, local="2001:db8::1")
    old = Device(
        name="nx-1", kind=LinkKind.VXLAN, alias="netagent a", mtu_bytes=1400, mac=MACS[0], tunnel=tunnel
    )
    new = replace(old, tunnel=replace(tunnel, local="2001:db8::9"))
    entries = KernelState(selves={("nx-1", MACS[1]): "2001:db8::2"})
    before, wanted = (replace(entries, devices={"nx-1": one}) for one in (old, new))
    assert at_once(plan(wanted, before)) == [
        DeleteDevice("nx-1"),
        CreateDevice(new),
        SetDevice(new, ("up",)),
        SetEntry(("self", ("nx-1", MACS[1])), "2001:db8::2"),
    ]
    assert at_once(plan_within(wanted, before, [("self", ("nx-1", MACS[1]))])) is None


def test_a_bridge_that_is_to_answer_arp_again_takes_a_whole_plan() -> None:
    """Turning it costs all its neighbours, also those that no caller asked about."""
    bridge = Device(name="na-1", kind=LinkKind.BRIDGE, alias="netagent a", mtu_bytes=1400, mac=MACS[0])
    entries = KernelState(neighbours={("na-1", address): MACS[1] for address in ADDRESSES})
    wanted = replace(entries, devices={"na-1": bridge})
    before = replace(entries, devices={"na-1": replace(bridge, noarp=True)})
    assert at_once(plan_within(wanted, before, [("neighbour", ("na-1", ADDRESSES[0]))])) is None
    assert at_once(after(before, at_once(plan(wanted, before)))) == wanted


def test_the_world_is_in_canonical_text() -> None:
    assert all(str(ip_address(address)) == address for address in (*ADDRESSES, *UNDERLAYS))
