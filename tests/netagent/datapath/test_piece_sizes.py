"""However many entries there are, what is done to all of them is done in pieces of some hundreds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netagent.datapath.damage import Damage, DamageKind, comparing
from netagent.datapath.operations import DeleteDevice, DeviceOperation, RenameDevice, SetDevice, doing
from netagent.datapath.plan import planning
from netagent.datapath.state import TUNNEL_PORT, Device, KernelState, Kind, Tunnel
from netagent.pieces import Pieces

ENDPOINTS = 5_000
MOST_A_PIECE = 256
UNDERLAY = "192.0.2.2"


def device(name: str, kind: Kind, master: str | None = None, tunnel: Tunnel | None = None) -> Device:
    port = TUNNEL_PORT if master else None
    return Device(
        name=name, kind=kind, alias=name, mtu_bytes=1400, master=master, port=port, tunnel=tunnel, mac="m"
    )


def mac(number: int) -> str:
    return bytes([2, 0, 0, 0, *number.to_bytes(2, "big")]).hex(":")


def state_of(bridge: str = "na-1", tunnel: str = "nx-1") -> KernelState:
    """A network's, made anew: nothing of it is the very object of another."""
    devices = [
        device(bridge, Kind.BRIDGE),
        device(tunnel, Kind.VXLAN, bridge, Tunnel(vni=1, port=4799, local="192.0.2.1")),
    ]
    return KernelState(
        devices={one.name: one for one in devices},
        neighbours={(bridge, f"10.0.{n >> 8}.{n & 255}"): mac(n) for n in range(ENDPOINTS)},
        masters={(bridge, mac(n)): tunnel for n in range(ENDPOINTS)},
        selves={(tunnel, mac(n)): UNDERLAY for n in range(ENDPOINTS)},
        floods={(tunnel, UNDERLAY): ""},
    )


def counted(pieces: Pieces[object]) -> tuple[int, object]:
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
    stops, result = counted(doing(WHOLE, [operation]))
    assert result == expected
    # Who leaves a bridge costs what the bridge knew, and nothing else.
    tables = 1 if isinstance(operation, SetDevice) else 3
    assert stops >= tables * (ENDPOINTS // MOST_A_PIECE)


def test_a_device_that_is_renamed() -> None:
    stops, result = counted(doing(WHOLE, [RenameDevice("na-1", "na-2"), RenameDevice("nx-1", "nx-2")]))
    expected = state_of("na-2", "nx-2")
    aliases = {name: replace(one, alias=f"{name[:2]}-1") for name, one in expected.devices.items()}
    assert result == replace(expected, devices=aliases)
    assert stops >= 2 * 3 * (ENDPOINTS // MOST_A_PIECE)


def test_a_look_that_finds_all_as_it_was() -> None:
    stops, result = counted(comparing(WHOLE, state_of()))
    assert result == []
    assert stops >= 3 * (ENDPOINTS // MOST_A_PIECE)


def test_a_look_that_finds_one_entry_gone() -> None:
    lacking = state_of().with_entries({("self", ("nx-1", mac(7))): None})
    stops, result = counted(comparing(WHOLE, lacking))
    assert result == [Damage(DamageKind.ENTRY_DELETED, f"{mac(7)} on nx-1")]
    assert stops >= 3 * (ENDPOINTS // MOST_A_PIECE)


@pytest.mark.parametrize(("desired", "observed"), [(WHOLE, KernelState()), (KernelState(), WHOLE)])
def test_a_plan_for_a_whole_network(desired: KernelState, observed: KernelState) -> None:
    stops, _ = counted(planning(desired, observed))
    assert stops >= 3 * (ENDPOINTS // MOST_A_PIECE)
