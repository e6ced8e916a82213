"""What the host reports of its own network: run inside a namespace, by a thread that stays there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from harness.datapath import MTU_BYTES, desired_of, network, open_host, program
from harness.namespaces import Namespace, NamespaceFactory

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.datapath.host.probe_device import ProbeInput
from netagent.datapath.host.underlay import find_underlay, host_routes
from netagent.datapath.host.underlay_watch import LOOK_S, SETTLE_S, UnderlayWatch
from netagent.datapath.host.uplink import Underlay
from netagent.errors import FailedError, InputError, NetagentError

pytestmark = pytest.mark.kernel


def underlay_in(namespace: Namespace, wanted: str | None) -> Underlay:
    async def main() -> Underlay:
        def inside() -> Underlay | NetagentError:
            try:
                return trio.run(find_underlay, wanted)
            except NetagentError as error:
                return error

        with opened_netns(namespace.path) as fd:
            found = await run_in_netns(fd, inside)
        if isinstance(found, NetagentError):
            raise found
        return found

    return trio.run(main)


def test_the_underlay_is_chosen(wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory) -> None:
    h1 = wire[0]
    h1.run("ip link set wire mtu 1450")
    assert underlay_in(h1, None) == Underlay("192.0.2.1", "wire", 1450)
    assert underlay_in(h1, "0.0.0.0") == Underlay("192.0.2.1", "wire", 1450)
    assert underlay_in(h1, "2001:db8::1") == Underlay("2001:db8::1", "wire", 1450)
    with pytest.raises(InputError, match=r"it has 192\.0\.2\.1, 2001:db8::1"):
        underlay_in(h1, "192.0.2.7")
    h1.run("ip addr add 198.51.100.1/24 dev wire")
    h1.run("ip route add default via 198.51.100.2 src 198.51.100.1")
    assert underlay_in(h1, None).address == "198.51.100.1"
    with pytest.raises(FailedError, match="no address"):
        underlay_in(namespaces("c1"), None)


def test_an_address_that_is_another_every_day_is_not_chosen(wire: tuple[Namespace, Namespace]) -> None:
    """Privacy extensions: for what begins here the kernel takes such an address (RFC 8981)."""
    h1 = wire[0]
    h1.run("ip addr flush dev wire")
    h1.run("sysctl -qw net.ipv6.conf.wire.use_tempaddr=2")
    h1.run("ip addr add 2001:db8::1/64 dev wire nodad mngtmpaddr valid_lft 200000 preferred_lft 100000")
    shown = h1.run("ip addr show dev wire")
    assert "temporary" in shown
    assert shown.index("temporary") < shown.index("2001:db8::1/64"), "the kernel names it first"
    assert underlay_in(h1, None).address == "2001:db8::1"
    h1.run("ip route add default via 2001:db8::2")
    assert "src 2001:db8::1 " not in h1.run("ip route get 2001:db8:ffff::1")
    assert underlay_in(h1, None).address == "2001:db8::1"


def test_routes_of_others_are_reported_and_ours_are_not(wire: tuple[Namespace, Namespace]) -> None:
    h1 = wire[0]
    h1.run("ip route add default via 192.0.2.2")
    h1.run("ip route add 0.0.0.0/1 via 192.0.2.2")
    h1.run("ip route add 10.50.0.0/16 via 192.0.2.2")
    h1.run("ip route add 10.51.0.0/16 via 192.0.2.2 table 77")
    h1.run("ip -6 route add fd99::/48 via 2001:db8::2")

    async def main() -> None:
        async with open_host(h1, "192.0.2.1") as host:
            probe = ProbeInput(vni=77, address="fdc1::1", mac="02:00:00:00:00:01", mtu_bytes=MTU_BYTES)
            await program(host, desired_of(host, network(), probe=probe))
            assert await host_routes(host.netlink) == (
                "10.50.0.0/16",
                "10.51.0.0/16",
                "192.0.2.0/24",
                "2001:db8::/64",
                "fd99::/48",
            )

    trio.run(main)


def test_a_move_is_noticed_and_a_renewed_lease_is_none(wire: tuple[Namespace, Namespace]) -> None:
    h1 = wire[0]
    address_changes: list[str] = []
    failing = [FailedError("the port is taken"), None, None, None]

    async def move(underlay: Underlay) -> None:
        await trio.lowlevel.checkpoint()
        if (error := failing.pop(0)) is not None:
            raise error
        address_changes.append(underlay.address)

    async def main() -> None:
        present = await find_underlay(None)
        watch = UnderlayWatch(None, present, move=move, note_look=lambda: None)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            h1.run("ip addr del 192.0.2.1/24 dev wire")
            h1.run("ip addr add 192.0.2.1/24 dev wire")
            await trio.sleep(2 * SETTLE_S)
            assert address_changes == []
            h1.run("ip addr del 192.0.2.1/24 dev wire")
            h1.run("ip addr add 192.0.2.9/24 dev wire")
            with trio.fail_after(5.0):
                while not watch.problem:
                    await trio.sleep(0.05)
                assert "192.0.2.9, but the port is taken" in watch.problem
                while address_changes != ["192.0.2.9"]:
                    await trio.sleep(0.05)
                while watch.problem:
                    await trio.sleep(0.05)
            h1.run("ip link set wire mtu 1400")
            with trio.fail_after(5.0):
                while len(address_changes) < 2:
                    await trio.sleep(0.05)
            h1.run("ip addr flush dev wire")
            with trio.fail_after(5.0):
                while "no address" not in watch.problem:
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

    run_inside(h1, main)
    assert address_changes == ["192.0.2.9", "192.0.2.9"]


def test_a_lease_that_is_renewed_when_the_timer_looks_is_no_move(wire: tuple[Namespace, Namespace]) -> None:
    h1 = wire[0]
    address_changes: list[str] = []

    async def move(underlay: Underlay) -> None:
        await trio.lowlevel.checkpoint()
        address_changes.append(underlay.address)

    async def main() -> None:
        watch = UnderlayWatch(None, await find_underlay(None), move=move, note_look=lambda: None)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch.run)
            await trio.sleep(LOOK_S - SETTLE_S / 3)
            h1.run("ip addr del 192.0.2.1/24 dev wire")
            await trio.sleep(2 * SETTLE_S / 3)  # past the timer, and less than it takes to settle
            h1.run("ip addr add 192.0.2.1/24 dev wire")
            await trio.sleep(2 * LOOK_S)
            assert address_changes == []
            assert watch.problem == ""
            nursery.cancel_scope.cancel()

    run_inside(h1, main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def run_inside(
    namespace: Namespace, main: Callable[[], Awaitable[None]], clock: trio.abc.Clock | None = None
) -> None:
    """An event loop in a thread in there."""

    async def visit() -> None:
        with opened_netns(namespace.path) as fd:
            await run_in_netns(fd, lambda: trio.run(main, clock=clock))

    trio.run(visit)
