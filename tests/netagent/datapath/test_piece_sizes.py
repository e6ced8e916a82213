"""However many entries there are, what is done to all of them is done in pieces of some hundreds."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netagent.datapath.netlink.neighbour import (
    AF_BRIDGE,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_NEWNEIGH,
    NeighbourMessage,
    encode,
)
from netagent.datapath.netlink.route_socket import NetlinkMessage
from netagent.datapath.reconcile.apply import names_after
from netagent.datapath.reconcile.drift import Damage, DamageKind, damages_between
from netagent.datapath.reconcile.observe import Observation, read_entries
from netagent.datapath.reconcile.operations import (
    DeleteDevice,
    DeviceOperation,
    Operation,
    RenameDevice,
    SetDevice,
    after,
)
from netagent.datapath.reconcile.plan import plan, plan_within
from netagent.datapath.state import (
    TABLES,
    TUNNEL_PORT,
    ZERO_MAC,
    Device,
    EntryKey,
    KernelState,
    LinkKind,
    Tunnel,
)
from netgossip.slices import Slices, at_once

ENDPOINTS = 5_000
MOST_A_PIECE = 256
UNDERLAY = "192.0.2.2"


def device(name: str, kind: LinkKind, master: str | None = None, tunnel: Tunnel | None = None) -> Device:
    port = TUNNEL_PORT if master else None
    return Device(
        name=name, kind=kind, alias=name, mtu_bytes=1400, master=master, port=port, tunnel=tunnel, mac="m"
    )


def mac(number: int) -> str:
    return bytes([2, 0, 0, 0, *number.to_bytes(2, "big")]).hex(":")


def state_of(bridge: str = "na-1", tunnel: str = "nx-1") -> KernelState:
    """A network's, made anew: nothing of it is the very object of another."""
    devices = [
        device(bridge, LinkKind.BRIDGE),
        device(tunnel, LinkKind.VXLAN, bridge, Tunnel(vni=1, port=4799, local="192.0.2.1")),
    ]
    return KernelState(
        devices={one.name: one for one in devices},
        neighbours={(bridge, f"10.0.{n >> 8}.{n & 255}"): mac(n) for n in range(ENDPOINTS)},
        masters={(bridge, mac(n)): tunnel for n in range(ENDPOINTS)},
        selves={(tunnel, mac(n)): UNDERLAY for n in range(ENDPOINTS)},
        floods={(tunnel, UNDERLAY): ""},
    )


def counted(pieces: Slices[object]) -> tuple[int, object]:
    """How often it could stop, and the result."""
    stops = 0
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return stops, end.value
        stops += 1


WHOLE = state_of()
TUNNEL = WHOLE.devices["nx-1"]


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (
            DeleteDevice("na-1"),
            KernelState(
                devices={"nx-1": replace(TUNNEL, master=None, port=None)},
                selves=WHOLE.selves,
                floods=WHOLE.floods,
            ),
        ),
        (
            DeleteDevice("nx-1"),
            KernelState(devices={"na-1": WHOLE.devices["na-1"]}, neighbours=WHOLE.neighbours),
        ),
        (
            SetDevice(replace(TUNNEL, master=None, port=None), ("master", "port")),
            replace(
                WHOLE, devices={**WHOLE.devices, "nx-1": replace(TUNNEL, master=None, port=None)}, masters={}
            ),
        ),
    ],
    ids=["bridge deleted", "tunnel deleted", "tunnel leaves its bridge"],
)
def test_a_device_that_takes_its_entries_along(operation: DeviceOperation, expected: KernelState) -> None:
    stops, result = counted(after(WHOLE, [operation]))
    assert result == expected
    # Who leaves a bridge costs what the bridge knew, and nothing else.
    tables = 1 if isinstance(operation, SetDevice) else 3
    assert stops >= tables * (ENDPOINTS // MOST_A_PIECE)


def test_a_device_that_is_renamed() -> None:
    stops, result = counted(after(WHOLE, [RenameDevice("na-1", "na-2"), RenameDevice("nx-1", "nx-2")]))
    expected = state_of("na-2", "nx-2")
    aliases = {name: replace(one, alias=f"{name[:2]}-1") for name, one in expected.devices.items()}
    assert result == replace(expected, devices=aliases)
    assert stops >= 2 * 3 * (ENDPOINTS // MOST_A_PIECE)


def test_a_look_that_finds_all_as_it_was() -> None:
    stops, result = counted(damages_between(WHOLE, state_of()))
    assert result == []
    assert stops >= 3 * (ENDPOINTS // MOST_A_PIECE)


def test_a_look_that_finds_one_entry_gone() -> None:
    lacking = state_of().with_entries({("self", ("nx-1", mac(7))): None})
    stops, result = counted(damages_between(WHOLE, lacking))
    assert result == [Damage(DamageKind.ENTRY_DELETED, f"{mac(7)} on nx-1")]
    assert stops >= 3 * (ENDPOINTS // MOST_A_PIECE)


@pytest.mark.parametrize(("desired", "observed"), [(WHOLE, KernelState()), (KernelState(), WHOLE)])
def test_a_plan_for_a_whole_network(desired: KernelState, observed: KernelState) -> None:
    stops, _ = counted(plan(desired, observed))
    assert stops >= 3 * (ENDPOINTS // MOST_A_PIECE)


def messages_of(state: KernelState, seen: Observation) -> list[NetlinkMessage]:
    """What the kernel answers who asks for all neighbours and all FDB entries."""
    index = {name: number for number, name in seen.names.items()}
    every = [
        *(
            NeighbourMessage(socket.AF_INET, index[device], NUD_PERMANENT, 0, address, mac, None)
            for (device, address), mac in state.neighbours.items()
        ),
        *(
            NeighbourMessage(AF_BRIDGE, index[port], NUD_NOARP, 0, None, mac, index[bridge])
            for (bridge, mac), port in state.masters.items()
        ),
        *(
            NeighbourMessage(AF_BRIDGE, index[device], NUD_PERMANENT, NTF_SELF, underlay, mac, None)
            for (device, mac), underlay in state.selves.items()
        ),
        *(
            NeighbourMessage(AF_BRIDGE, index[device], NUD_PERMANENT, NTF_SELF, underlay, ZERO_MAC, None)
            for device, underlay in state.floods
        ),
    ]
    return [NetlinkMessage(RTM_NEWNEIGH, encode(one)) for one in every]


MACS = KernelState(
    devices=WHOLE.devices,
    neighbours={("na-1", f"10.0.{n >> 8}.{n & 255}"): mac(n) for n in range(1, ENDPOINTS)},
    masters={("na-1", mac(n)): "nx-1" for n in range(1, ENDPOINTS)},
    selves={("nx-1", mac(n)): UNDERLAY for n in range(1, ENDPOINTS)},
    floods={("nx-1", UNDERLAY): ""},
)
SEEN = Observation(state=KernelState(devices=WHOLE.devices), names={1: "na-1", 2: "nx-1"})


def test_a_look_that_finds_all_as_it_should_be_hands_back_the_very_tables() -> None:
    messages = messages_of(MACS, SEEN)
    count = len(messages)
    stops, result = counted(read_entries(messages, MACS, SEEN))
    assert isinstance(result, KernelState)
    for table in TABLES:
        assert result.table(table) is MACS.table(table)
    assert messages == [], "they are let go one by one"
    assert stops >= count + 3 * (ENDPOINTS // MOST_A_PIECE)


@pytest.mark.parametrize("believed", [MACS, KernelState(), state_of("na-2", "nx-2")])
def test_a_look_finds_what_is_there_whatever_was_believed(believed: KernelState) -> None:
    there = MACS.with_entries(
        {
            ("self", ("nx-1", mac(7))): None,
            ("master", ("na-1", mac(8))): None,
            ("neighbour", ("na-1", "10.0.0.9")): mac(99),
            ("flood", ("nx-1", UNDERLAY)): None,
            ("flood", ("nx-1", "192.0.2.9")): "",
        }
    )
    _, result = counted(read_entries(messages_of(there, SEEN), believed, SEEN))
    assert result == there


def test_of_two_messages_about_one_entry_the_last_counts() -> None:
    one = KernelState(selves={("nx-1", mac(7)): "192.0.2.8"})
    other = KernelState(selves={("nx-1", mac(7)): UNDERLAY})
    for believed in (one, other, KernelState()):
        _, result = counted(read_entries(messages_of(one, SEEN) + messages_of(other, SEEN), believed, SEEN))
        assert result == replace(other, devices=WHOLE.devices)


def test_a_plan_for_many_entries_among_others() -> None:
    keys: list[EntryKey] = [("self", place) for place in WHOLE.selves]
    lacking = replace(WHOLE, selves={})
    stops, result = counted(plan_within(WHOLE, lacking, keys))
    assert isinstance(result, list)
    assert len(result) == ENDPOINTS
    assert stops >= ENDPOINTS // MOST_A_PIECE


def test_the_names_of_devices_cost_no_look_at_the_entries_of_a_plan() -> None:
    class Watched(list[Operation]):
        looked_at = 0

        def __iter__(self) -> Iterator[Operation]:
            for one in super().__iter__():
                self.looked_at += 1
                yield one

    operations = Watched(at_once(plan(WHOLE, KernelState())))
    assert len(operations) > 3 * ENDPOINTS
    assert sorted(names_after(operations, {}).values()) == ["na-1", "nx-1"]
    assert operations.looked_at < 20
