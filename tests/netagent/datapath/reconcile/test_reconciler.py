"""When the loop looks, what it does with failures, and that it never spins.

The kernel is a stand-in that can refuse; time is virtual.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing
from fakes.scratch_state import InhabitedNetwork, RemoteEndpoint, desired_state

from netagent.datapath.netlink.link import RTM_NEWLINK
from netagent.datapath.netlink.neighbour import AF_BRIDGE, RTM_NEWNEIGH
from netagent.datapath.netlink.route_socket import HEADER, NetlinkMessage, NetlinkRequest
from netagent.datapath.reconcile import reconciler as reconciler_module
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.datapath.reconcile.reconciler import Reconciler
from netagent.datapath.reconcile.schedule import INTERVAL_S, RETRY_MAX_S, RETRY_MIN_S, SETTLE_S
from netagent.datapath.state import DesiredChange, EntryKey, KernelState
from netagent.model.ids import ClusterId, EndpointId, NetworkId


class StandIn:
    """A kernel without any device that takes every request, or refuses it with `refusal`."""

    def __init__(self) -> None:
        self.dumps = 0
        self.executed: list[NetlinkRequest] = []
        self.found: list[NetlinkRequest] = []
        self.refusal: OSError | None = None
        self.refused_type: int | None = None
        """Only of these messages; None: of all."""
        self.dump_error: OSError | None = None

    async def dump(self, request: NetlinkRequest) -> list[NetlinkMessage]:
        await trio.lowlevel.checkpoint()
        self.dumps += 1
        if self.dump_error is not None:
            raise self.dump_error
        return []

    async def find(self, request: NetlinkRequest) -> NetlinkMessage | None:
        await trio.lowlevel.checkpoint()
        self.found.append(request)
        return None

    async def execute(self, requests: Sequence[NetlinkRequest]) -> list[OSError | None]:
        await trio.lowlevel.checkpoint()
        self.executed += requests
        return [self.refusal if self.refused_type in {None, one.type} else None for one in requests]


def state(*vnis: int, local: LocalEndpoint | None = None) -> KernelState:
    locals_ = () if local is None else (local,)
    networks = [
        InhabitedNetwork(network_id=NetworkId("0a" * 16), vni=vni, mtu_bytes=1400, locals=locals_)
        for vni in vnis
    ]
    return desired_state(
        networks, None, underlay="192.0.2.1", vxlan_port=4799, cluster_id=ClusterId("c1" * 16)
    )


def run(body: Callable[[StandIn, Reconciler, socket.socket], Awaitable[None]]) -> None:
    async def main() -> None:
        kernel = StandIn()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        reconciler = Reconciler(kernel, ours)  # type: ignore[arg-type]
        with theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reconciler.run)
                await trio.testing.wait_all_tasks_blocked()
                await body(kernel, reconciler, theirs)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_nothing_is_touched_before_it_is_known_what_is_wanted() -> None:
    async def body(kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        await trio.sleep(100)
        assert (kernel.dumps, kernel.executed) == (0, [])
        assert reconciler.programmed_generation == -1

    run(body)


def test_a_new_state_costs_no_look_and_idle_time_one_an_interval() -> None:
    async def body(kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        for generation in range(5):
            reconciler.set_desired(DesiredChange(state(*range(1, generation + 2))), generation)
            await reconciler.wait_programmed(generation)
        assert reconciler.status().looks == 1
        assert reconciler.status().devices == 10
        kernel.executed.clear()
        await trio.sleep(INTERVAL_S * 3.5)
        assert reconciler.status().looks == 4
        # The stand-in forgets everything, which is drift: ten devices, made and set up anew after each look.
        assert reconciler.status().drift == {"device-deleted": 30}
        assert kernel.executed

    run(body)


def test_devices_that_stand_are_not_waited_for_but_those_that_come_or_go_are() -> None:
    async def body(_kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        async def stands(number: int, generation: int) -> bool:
            with trio.move_on_after(0):
                await reconciler.wait_in_kernel({f"na-{number}"}, generation)
                return True
            return False

        assert not await stands(1, 1)
        reconciler.set_desired(DesiredChange(state(1)), 1)
        assert not await stands(1, 1)
        await reconciler.wait_in_kernel({"na-1"}, 1)
        assert await stands(1, 99), "a newer state is no reason to wait"
        assert not await stands(2, 2)
        reconciler.set_desired(DesiredChange(state(2)), 2)
        assert not await stands(1, 2), "it is about to be removed"
        await reconciler.wait_in_kernel({"na-2"}, 99)
        reconciler.set_desired(DesiredChange(state(1, 2)), 3)
        assert await stands(2, 3)
        assert not await stands(1, 3)
        await reconciler.wait_in_kernel({"na-1", "na-3"}, 3)  # tried, and there is no na-3

    run(body)


def test_an_interface_counts_as_absent_only_after_a_look() -> None:
    async def body(kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        reconciler.set_desired(DesiredChange(state(1)), 1)
        await reconciler.wait_programmed(1)
        local = LocalEndpoint(
            endpoint_id=EndpointId("00000002" * 4),
            network_id=NetworkId("0a" * 16),
            vni=90,
            mtu_bytes=1400,
            mac="02:0a:00:00:00:02",
            addresses=("10.66.0.2/20",),
        )
        reconciler.set_desired(DesiredChange(state(1, local=local)), 2)
        await reconciler.wait_programmed(2)
        assert reconciler.absent_endpoints == frozenset()
        with trio.fail_after(INTERVAL_S + 1):
            assert await reconciler.wait_absent_changed(frozenset()) == {local.endpoint_id}

    run(body)


def test_a_refusal_is_shown_and_tried_again_with_growing_pauses() -> None:
    async def body(kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        kernel.refusal = OSError(errno.EPERM, "not today")
        reconciler.set_desired(DesiredChange(state(1)), 7)
        await reconciler.wait_programmed(7)
        assert reconciler.trouble_with("na-1") == "not today"
        assert reconciler.trouble_with("na-2") is None
        assert {reason for _command, reason in reconciler.status().dirty} == {"not today"}
        await trio.sleep(600)
        # After 0.5, 1, 2, 4 and 8 s, then with the timer.
        assert 60 <= reconciler.status().looks <= 6 + 600 / RETRY_MAX_S
        assert len(reconciler.status().dirty) == 2  # one a device, not one for all that depends on it
        kernel.refusal = None
        await trio.sleep(RETRY_MAX_S + 1)
        assert reconciler.status().dirty == ()

    run(body)


def test_a_refused_entry_stays_dirty_and_is_tried_again_by_itself() -> None:
    """One bad record must not make every change of others cost a look at everything."""
    remote = RemoteEndpoint(EndpointId("00000003" * 4), "02:0a:00:00:00:03", (), "192.0.2.2")

    def with_remotes(*remotes: RemoteEndpoint) -> KernelState:
        network = InhabitedNetwork(network_id=NetworkId("0a" * 16), vni=1, mtu_bytes=1400, remotes=remotes)
        return desired_state(
            [network], None, underlay="192.0.2.1", vxlan_port=4799, cluster_id=ClusterId("c1" * 16)
        )

    async def body(kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        reconciler.set_desired(DesiredChange(with_remotes()), 1)
        await reconciler.wait_programmed(1)
        keys: frozenset[EntryKey] = frozenset(
            {("self", ("nx-1", remote.mac)), ("master", ("na-1", remote.mac))}
        )
        kernel.refusal, kernel.refused_type = OSError(errno.EINVAL, "not this one"), RTM_NEWNEIGH
        reconciler.set_desired(DesiredChange(with_remotes(remote), keys), 2)
        await reconciler.wait_programmed(2)
        assert {reason for _, reason in reconciler.status().dirty} == {"not this one"}
        dumps = kernel.dumps
        await trio.sleep(RETRY_MIN_S + 0.1)
        assert kernel.found, "it was looked at"
        assert kernel.dumps == dumps, "and nothing else"
        kernel.refusal = None
        reconciler.set_desired(DesiredChange(with_remotes(remote), frozenset()), 3)
        await reconciler.wait_programmed(3)
        assert len(reconciler.status().dirty) == 2, "a change of something else does not hide it"
        await trio.sleep(4 * RETRY_MIN_S)
        assert reconciler.status().dirty == ()
        assert reconciler.status().entries == 2

    run(body)


def test_a_device_that_goes_while_it_is_written_to_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def body(kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        kernel.refusal = OSError(errno.ENODEV, "unknown ifindex")
        reconciler.set_desired(DesiredChange(state(1)), 1)
        await reconciler.wait_programmed(1)
        assert reconciler.trouble_with("na-1") is None
        assert reconciler.status().dirty == ()
        kernel.refusal = None
        await trio.sleep(RETRY_MIN_S + 0.1)
        assert reconciler.status().looks == 2, "it is looked at soon"
        assert reconciler.status().drift == {}
        assert not caplog.records

        kernel.refusal = OSError(errno.ENODEV, "unknown ifindex")
        await trio.sleep(INTERVAL_S + RETRY_MIN_S + 0.1)
        assert reconciler.trouble_with("na-1") == "unknown ifindex", "it does not go away by itself"
        await trio.sleep(60)
        assert len(caplog.records) == len(reconciler.status().dirty) == 2, "reported once"

    run(body)


def test_a_kernel_that_can_t_be_read_is_tried_again() -> None:
    async def body(kernel: StandIn, reconciler: Reconciler, _theirs: socket.socket) -> None:
        kernel.dump_error = OSError(errno.ENOBUFS, "no buffers")
        reconciler.set_desired(DesiredChange(state(1)), 1)
        await trio.sleep(60)
        assert reconciler.programmed_generation == -1
        assert "no buffers" in reconciler.status().trouble
        assert kernel.dumps <= 6 + 60 / RETRY_MAX_S
        kernel.dump_error = None
        with trio.fail_after(RETRY_MAX_S + 1):
            await reconciler.wait_programmed(1)
        assert reconciler.status().trouble == ""

    run(body)


def test_a_storm_of_notifications_about_others_costs_no_look() -> None:
    async def body(kernel: StandIn, reconciler: Reconciler, theirs: socket.socket) -> None:
        reconciler.set_desired(DesiredChange(state(1)), 1)
        await reconciler.wait_programmed(1)
        body_bytes = bytes(12)
        frame = HEADER.pack(HEADER.size + len(body_bytes), RTM_NEWNEIGH, 0, 0, 0) + body_bytes
        for _ in range(50):
            theirs.send(frame)
            await trio.testing.wait_all_tasks_blocked()
        assert reconciler.status().looks == 1

    run(body)


def test_of_a_burst_of_notifications_every_one_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = 64  # a socket of this kind does not hold many more than twice as many
    monkeypatch.setattr(reconciler_module, "NOTIFICATIONS_AT_ONCE", at_once)

    async def body(_kernel: StandIn, reconciler: Reconciler, theirs: socket.socket) -> None:
        reconciler.set_desired(DesiredChange(state(1)), 1)
        await reconciler.wait_programmed(1)
        others = HEADER.pack(HEADER.size + 12, RTM_NEWNEIGH, 0, 0, 0) + bytes(12)
        for place in (1, at_once, at_once + 1):
            index = next(
                iter(reconciler._belief.names)
            )  # drawn anew after each look: the stand-in keeps nothing
            ours = HEADER.pack(HEADER.size + 16, RTM_NEWLINK, 0, 0, 0)
            ours += bytes([AF_BRIDGE, 0, 0, 0]) + index.to_bytes(4, sys.byteorder) + bytes(8)
            looks = reconciler.status().looks
            for number in range(1, 2 * at_once):  # they are all there when the first is read
                theirs.send(ours if number == place else others)
            await trio.sleep(2 * SETTLE_S)
            assert reconciler.status().looks == looks + 1, place

    run(body)
