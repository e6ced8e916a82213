"""What is reported of two states of the kernel: what another program did, and not what followed from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from netagent.datapath.reconcile.drift import Damage, DamageKind, Drift, damages_between
from netagent.datapath.reconcile.operations import DeleteDevice, RenameDevice, after
from netagent.datapath.state import CONTAINER_PORT, TUNNEL_PORT, Device, KernelState, LinkKind, Tunnel
from netgossip.slices import at_once

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
BRIDGE = Device(name="na-1", kind=LinkKind.BRIDGE, alias="netagent network 1", mtu_bytes=1400, mac=MAC)
TUNNEL = Device(
    name="nx-1",
    kind=LinkKind.VXLAN,
    alias="netagent network 1",
    mtu_bytes=1400,
    mac=OTHER,
    master="na-1",
    port=TUNNEL_PORT,
    tunnel=Tunnel(vni=1, port=4799, local="192.0.2.1"),
)
VETH = Device(
    name="nv1",
    kind=LinkKind.VETH,
    alias="netagent endpoint 1",
    mtu_bytes=1400,
    master="na-1",
    port=CONTAINER_PORT,
)
WHOLE = KernelState(
    devices={one.name: one for one in (BRIDGE, TUNNEL, VETH)},
    addresses=frozenset({("na-1", "10.0.0.9/24")}),
    neighbours={("na-1", "10.0.0.1"): OTHER},
    masters={("na-1", OTHER): "nx-1", ("na-1", MAC): "nv1"},
    selves={("nx-1", OTHER): "192.0.2.2"},
)


def with_device(device: Device) -> KernelState:
    return replace(WHOLE, devices={**WHOLE.devices, device.name: device})


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (WHOLE, []),
        (at_once(after(WHOLE, [DeleteDevice("na-1")])), ["device-deleted na-1"]),
        (at_once(after(WHOLE, [DeleteDevice("nx-1")])), ["device-deleted nx-1"]),
        (at_once(after(WHOLE, [DeleteDevice("nv1")])), []),  # as when a container ends
        (at_once(after(WHOLE, [RenameDevice("nx-1", "x")])), ["device-renamed nx-1 is now x"]),
        (at_once(after(WHOLE, [RenameDevice("nv1", "x")])), ["device-renamed nv1 is now x"]),
        (with_device(replace(TUNNEL, up=False)), ["device-down nx-1"]),
        (with_device(replace(TUNNEL, port=CONTAINER_PORT)), ["port-altered nx-1"]),
        (with_device(replace(BRIDGE, mac=OTHER, mtu_bytes=1)), ["mac-changed na-1", "mtu-changed na-1"]),
        (with_device(replace(BRIDGE, alias="")), ["device-altered na-1"]),
        (
            with_device(replace(TUNNEL, tunnel=Tunnel(vni=2, port=4799, local="192.0.2.1"))),
            ["device-altered nx-1"],
        ),
        (replace(WHOLE, unrouted=WHOLE.addresses), ["route-deleted to 10.0.0.0/24 by na-1"]),
        (
            replace(with_device(replace(VETH, master=None, port=None)), masters={("na-1", OTHER): "nx-1"}),
            ["port-detached nv1"],
        ),
        (replace(WHOLE, addresses=frozenset()), ["address-deleted 10.0.0.9/24 of na-1"]),
        (replace(WHOLE, neighbours={}), ["entry-deleted 10.0.0.1 on na-1"]),
        (replace(WHOLE, neighbours={("na-1", "10.0.0.1"): MAC}), ["entry-altered 10.0.0.1 on na-1"]),
        (replace(WHOLE, selves={**WHOLE.selves, ("nx-1", MAC): "::1"}), [f"entry-added {MAC} on nx-1"]),
    ],
)
def test_what_was_done_is_told_and_not_what_followed_from_it(seen: KernelState, expected: list[str]) -> None:
    assert [f"{one.kind} {one.thing}" for one in at_once(damages_between(WHOLE, seen))] == expected


def test_nothing_is_said_of_devices_in_doubt() -> None:
    seen = at_once(after(WHOLE, [DeleteDevice("na-1"), DeleteDevice("nx-1")]))
    assert [one.thing for one in at_once(damages_between(WHOLE, seen, {"na-1"}))] == ["nx-1"]


def test_many_are_counted_and_some_are_named() -> None:
    drift = Drift()
    reported = drift.note(
        [Damage(DamageKind.ENTRY_DELETED, f"10.0.0.{n} on na-1") for n in range(1, 7)]
        + [Damage(DamageKind.DEVICE_DOWN, "nx-1")]
    )
    assert reported == [
        "entry-deleted: 10.0.0.1 on na-1, 10.0.0.2 on na-1, 10.0.0.3 on na-1 and 3 more",
        "device-down: nx-1",
    ]
    drift.note([Damage(DamageKind.DEVICE_DOWN, "nx-1")])
    assert drift.kinds == {"device-down": 2, "entry-deleted": 6}
    assert drift.total == Counter(drift.kinds).total() == 8
