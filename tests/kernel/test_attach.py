"""Binding an interface: what is refused, what is undone, what is found again."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from harness.datapath import (
    MTU_BYTES,
    VNI,
    Host,
    desired_of,
    endpoint,
    netns_of,
    network,
    open_host,
    program,
    seen_from_elsewhere,
)
from harness.namespaces import Namespace, NamespaceFactory, wait_until

from netagent.datapath.endpoint.link_delete import LinkDeletion
from netagent.datapath.endpoint.netns import (
    bind_resolver_sockets,
    boot_id,
    make_resolver_sockets,
    open_netns,
    opened_netns,
    reopened_netns,
    run_in_netns,
)
from netagent.datapath.endpoint.veth_pair import MAX_PORTS
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.datapath.reconcile.desired import LocalEndpoint
from netagent.endpoints.garbage_collector import _Mounts
from netagent.errors import FailedError, NetagentError, RefusedError
from netagent.model.ids import bridge_name, veth_name, vxlan_name
from netagent.model.sandbox import Netns

pytestmark = pytest.mark.kernel


def with_host(
    wire: tuple[Namespace, Namespace],
    local: tuple[LocalEndpoint, ...],
    body: Callable[[Host], Awaitable[None]],
) -> None:
    """Run `body` on a host whose network is programmed."""

    async def main() -> None:
        async with open_host(wire[0], "192.0.2.1") as host:
            await program(host, desired_of(host, network(local)))
            await body(host)

    trio.run(main)


async def refusal_of(host: Host, local: LocalEndpoint) -> NetagentError:
    with pytest.raises(NetagentError) as caught:
        await host.attacher.bind(local)
    assert caught.value.code != "bind-failed", caught.value
    assert veth_name(local.endpoint_id) not in host.namespace.run("ip link")
    return caught.value


def test_the_interface_is_as_it_was_asked_for(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1 = namespaces("c1")
    c1.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    local = endpoint(2, c1)

    async def body(host: Host) -> None:
        assert await host.attacher.bind(local) == "eth0"
        second = replace(endpoint(4, c1), addresses=("10.66.0.4/20",))
        assert await host.attacher.bind(second) == "eth1"
        third = replace(endpoint(5, c1, "db0"), addresses=("10.66.0.5/20",))
        assert await host.attacher.bind(third) == "db0"
        shown = c1.run("ip addr show eth0")
        assert local.mac in shown
        assert f"mtu {MTU_BYTES}" in shown
        assert "10.66.0.2/32" in shown
        assert "10.66.0.0/20 scope link src 10.66.0.2" in c1.run("ip route show dev eth0 proto 78")
        assert "fd66::2/64 scope global nodad" in shown
        assert "tentative" not in c1.run("ip addr show eth0 scope global")
        assert c1.run("ip route show default") + c1.run("ip -6 route show default") == ""
        assert c1.run("sysctl -n net.ipv6.conf.eth0.accept_ra").strip() == "0"
        assert "LOWER_UP" in c1.run("ip link show lo")
        assert "inet6" not in host.namespace.run(f"ip addr show {veth_name(local.endpoint_id)}")

    with_host(wire, (local,), body)


def test_scenario_01_what_a_container_sends_at_once_leaves_the_host(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    """Both ends have a carrier before the kernel lets packets through; one first packet in fifteen was lost then."""
    ends = tuple(endpoint(number, namespaces(f"c{number}")) for number in range(2, 32))
    far = seen_from_elsewhere(endpoint(99, namespaces("far")), "192.0.2.2")

    async def main() -> None:
        async with open_host(wire[0], "192.0.2.1") as host:
            await program(host, desired_of(host, network(ends, (far,))))
            for number, end in enumerate(ends, start=1):
                with reopened_netns(end.netns) as fd, ExitStack() as stack:
                    four, six = [
                        stack.enter_context(
                            await run_in_netns(fd, partial(socket.socket, family, socket.SOCK_DGRAM))
                        )
                        for family in (socket.AF_INET, socket.AF_INET6)
                    ]
                    await host.attacher.bind(end)
                    four.sendto(b"first", (far.addresses[0], 9))
                    six.sendto(b"first", (far.addresses[1], 9))
                # What was lost is sent after another question for the way, a second later.
                await wait_until(
                    lambda: sent_by(host) == 2 * number, f"number {number} left by the tunnel", 0.5
                )

    def sent_by(host: Host) -> int:
        return int(host.namespace.run(f"cat /sys/class/net/{vxlan_name(VNI)}/statistics/tx_packets"))

    trio.run(main)


def test_bind_again_finishes_what_is_there(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1 = namespaces("c1")
    local = endpoint(2, c1)

    async def body(host: Host) -> None:
        bind = host.attacher.bind
        await bind(local)
        index = c1.run("cat /sys/class/net/eth0/ifindex")
        c1.run("ip addr flush dev eth0")
        c1.run("ip link set eth0 down")
        assert await bind(local) == "eth0"
        assert c1.run("cat /sys/class/net/eth0/ifindex") == index
        assert "10.66.0.2/32" in c1.run("ip addr show eth0")
        assert "10.66.0.0/20" in c1.run("ip route")
        # A pair that leads to another namespace is not what was asked for.
        c2 = namespaces("c2")
        moved = replace(local, netns=netns_of(c2))
        assert await bind(moved) == "eth0"
        assert "eth0" not in c1.run("ip link")
        host_end = int(host.namespace.run(f"cat /sys/class/net/{veth_name(local.endpoint_id)}/ifindex"))
        assert host.netlink.has_link(host_end)
        await host.attacher.unbind(local.endpoint_id)
        assert not host.netlink.has_link(host_end)
        await host.attacher.unbind(local.endpoint_id)
        assert "eth0" not in c2.run("ip link")
        # In the moment in which the kernel is still busy with the one before, under the same names.
        assert await bind(moved) == "eth0"
        assert "10.66.0.2/32" in c2.run("ip addr show eth0")
        assert host.netlink.has_link(
            int(host.namespace.run(f"cat /sys/class/net/{veth_name(local.endpoint_id)}/ifindex"))
        )

    with_host(wire, (local,), body)


def test_many_unbound_at_once_leave_the_others_alone(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1 = namespaces("c1")
    locals_ = tuple(replace(endpoint(n, c1), addresses=(f"10.66.0.{n}/20",)) for n in range(2, 8))
    kept, never_bound, *others = (local.endpoint_id for local in locals_)

    async def body(host: Host) -> None:
        for local in locals_:
            if local.endpoint_id != never_bound:
                await host.attacher.bind(local)
        async with trio.open_nursery() as nursery:
            for endpoint_id in [never_bound, *others]:
                nursery.start_soon(host.attacher.unbind, endpoint_id)
        assert await host.attacher.list_endpoint_devices() == {kept: veth_name(kept)}
        assert bridge_name(VNI) in host.namespace.run("ip link")
        assert c1.run("ls /sys/class/net").split() == ["eth0", "lo"]

    with_host(wire, locals_, body)


def test_a_link_that_is_gone_does_not_keep_others_from_being_removed(
    wire: tuple[Namespace, Namespace],
) -> None:
    async def body(host: Host) -> None:
        indexes = {}
        for name in ("gone", "one", "two", "stays"):
            host.namespace.run(f"ip link add {name} type bridge")
            indexes[name] = int(host.namespace.run(f"cat /sys/class/net/{name}/ifindex"))
        host.namespace.run("ip link del gone")
        removal = LinkDeletion(host.netlink)
        async with trio.open_nursery() as nursery:
            for name in ("one", "gone", "two"):
                nursery.start_soon(removal.remove, indexes[name])
        left = host.namespace.run("ip -o link")
        assert " stays:" in left
        assert " one:" not in left
        assert " two:" not in left

    with_host(wire, (), body)


def test_the_kernel_ends_what_was_begun_though_the_socket_is_closed(
    wire: tuple[Namespace, Namespace],
) -> None:
    """As when the agent stops right after a detach."""

    async def body(host: Host) -> None:
        with opened_netns(host.namespace.path) as fd:
            for number in range(5):
                host.namespace.run(f"ip link add one type veth peer name other{number}")
                netlink = Netlink(await run_in_netns(fd, open_socket))
                index = int(host.namespace.run("cat /sys/class/net/one/ifindex"))
                await LinkDeletion(netlink).remove(index)
                netlink.close()
                assert " one@" not in host.namespace.run("ip -o link")

    with_host(wire, (), body)


def test_refusals_leave_no_trace(wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory) -> None:
    c1 = namespaces("c1")
    c1.run("ip link add taken type bridge")
    local = endpoint(2, c1)

    async def body(host: Host) -> None:
        assert (await refusal_of(host, replace(local, ifname="taken"))).code == "interface-taken"
        for path, identity, code in (
            ("/run/netns/nt4-none", c1.identity, "namespace-gone"),
            ("/etc/passwd", c1.identity, "not-a-namespace"),
            (c1.path, (1, 1), "namespace-gone"),
        ):
            elsewhere = replace(local, netns=Netns(path, identity, ""))
            assert (await refusal_of(host, elsewhere)).code == code
        itself = replace(local, netns=netns_of(wire[0]))
        assert (await refusal_of(host, itself)).code == "host-namespace"
        for ifname in ("a/b", "eth%d", "..", "all", "lo", "a b", "x" * 16):
            assert (await refusal_of(host, replace(local, ifname=ifname))).code == "bad-ifname"
        assert (await refusal_of(host, replace(local, vni=VNI + 1))).code == "network-not-programmed"

    with_host(wire, (local,), body)


def test_an_index_that_another_link_has_is_not_taken_for_free(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undoing the attach would remove that link, which may be another container's."""
    local = endpoint(2, namespaces("c1"))

    async def body(host: Host) -> None:
        host.namespace.run("ip link add another type bridge")
        taken = int(host.namespace.run("cat /sys/class/net/another/ifindex"))
        chosen = iter([taken, taken, 1 << 24])
        monkeypatch.setattr("netagent.datapath.endpoint.veth_pair.choose_index", lambda: next(chosen))
        assert await host.attacher.bind(local) == "eth0"
        links = host.namespace.run("ip -o link")
        assert " another:" in links
        assert f"{1 << 24}: " in links

    with_host(wire, (local,), body)


def test_a_bridge_without_a_free_port_is_named(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory, tmp_path: Path
) -> None:
    batch = tmp_path / "batch"
    first, beyond = endpoint(2, namespaces("c1")), endpoint(3, namespaces("c2"))

    async def body(host: Host) -> None:
        await host.attacher.bind(first)
        bridge = bridge_name(VNI)
        others = MAX_PORTS - 2  # the first one's and the VXLAN device
        batch.write_text(
            "".join(f"link add p{n} master {bridge} type veth peer q{n}\n" for n in range(others))
        )
        host.namespace.run(f"ip -batch {batch}")
        refused = await refusal_of(host, beyond)
        assert refused.code == "bridge-full"
        assert "1,023 ports" in refused.message
        assert refused.hint
        host.namespace.run("ip link del p0")
        await host.attacher.bind(beyond)

    with_host(wire, (first, beyond), body)


def test_a_foreign_device_with_our_name_is_not_taken_over(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    local = endpoint(2, namespaces("c1"))
    name = veth_name(local.endpoint_id)

    async def body(host: Host) -> None:
        host.namespace.run(f"ip link add {name} type bridge")
        with pytest.raises(RefusedError, match="has the interface name"):
            await host.attacher.bind(local)
        assert "alias" not in host.namespace.run(f"ip link show {name}")

    with_host(wire, (local,), body)


def test_an_address_the_kernel_refuses_undoes_the_bind(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    local = replace(endpoint(2, namespaces("c1")), addresses=("10.66.0.2/20", "ff02::1/64"))

    async def body(host: Host) -> None:
        with pytest.raises(FailedError):
            await host.attacher.bind(local)
        assert veth_name(local.endpoint_id) not in host.namespace.run("ip link")

    with_host(wire, (local,), body)


def test_cancelled_at_every_checkpoint_nothing_is_left(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1 = namespaces("c1")
    local = endpoint(2, c1)

    async def body(host: Host) -> None:
        for checkpoint in range(1, 200):
            is_finished = await cancelled_at(checkpoint, host, local)
            if is_finished:
                break
            assert veth_name(local.endpoint_id) not in host.namespace.run("ip link"), checkpoint
            assert "eth0" not in c1.run("ip link"), checkpoint
        assert checkpoint > 5
        assert is_finished

    with_host(wire, (local,), body)


async def cancelled_at(checkpoint: int, host: Host, local: LocalEndpoint) -> bool:
    """Bind and cancel at the n-th time that the task gives way; True when it was done before."""

    class Count(trio.abc.Instrument):
        passed = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is me:
                self.passed += 1
                if self.passed == checkpoint:
                    scope.cancel()

    me = trio.lowlevel.current_task()
    instrument = Count()
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(instrument)
        try:
            await host.attacher.bind(local)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return not scope.cancelled_caught


def test_a_container_that_goes_is_noticed(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    c1 = namespaces("c1")
    local = endpoint(2, c1)

    async def body(host: Host) -> None:
        assert host.reconciler.absent_endpoints == {local.endpoint_id}
        await host.attacher.bind(local)
        with trio.fail_after(5):
            absent = await host.reconciler.wait_absent_changed(frozenset({local.endpoint_id}))
            assert absent == frozenset()
            c1.remove()
            assert await host.reconciler.wait_absent_changed(absent) == {local.endpoint_id}
        await wait_until(lambda: not host.reconciler.status().failures, "no failures")

    with_host(wire, (local,), body)


def current_netns() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_the_kernel_tells_of_a_namespace_that_is_unmounted_and_keeps_its_name(
    namespaces: NamespaceFactory,
) -> None:
    container, mounts = namespaces("c1"), _Mounts()
    mounts.are_changed()
    subprocess.run(["umount", container.path], check=True)
    assert mounts.are_changed()
    assert Path(container.path).exists()


def test_the_event_loop_s_thread_never_changes_namespace(namespaces: NamespaceFactory) -> None:
    c1 = namespaces("c1")
    own = current_netns()

    async def main() -> None:
        with reopened_netns(netns_of(c1)) as fd:
            seen, ident = await run_in_netns(fd, lambda: (current_netns(), threading.get_ident()))
            assert seen == f"net:[{c1.identity[1]}]"
            assert ident not in {thread.ident for thread in threading.enumerate()}
            with pytest.raises(ZeroDivisionError):
                await run_in_netns(fd, lambda: 1 // 0)
        with pytest.raises(OSError, match="setns"):
            await run_in_netns(fd, list)  # closed

    trio.run(main)
    assert current_netns() == own


def test_what_is_no_network_namespace_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (str(fifo), str(tmp_path), "/proc/self/ns/mnt", "/dev/null"):
        with pytest.raises(RefusedError) as caught:
            os.close(open_netns(path))
        assert caught.value.code == "not-a-namespace"


def test_resolver_sockets_are_made_in_a_new_namespace_once(namespaces: NamespaceFactory) -> None:
    c1 = namespaces("c1")

    async def main() -> None:
        with opened_netns(c1.path) as fd:
            udp, tcp, port_redirect = await make_resolver_sockets(fd)
            with udp, tcp, port_redirect:
                assert udp.getsockname() == tcp.getsockname() == ("127.0.0.11", 61053)
                assert c1.run("ss -Hlntu").count("127.0.0.11:61053") == 2
                with pytest.raises(OSError, match="not permitted"):
                    await make_resolver_sockets(fd)  # what leads there has an owner
            for _ in range(2):
                again = await bind_resolver_sockets(fd)
                assert c1.run("ss -Hlntu").count("127.0.0.11:53") == 2
                with pytest.raises(OSError, match="in use"):
                    await bind_resolver_sockets(fd)
                for sock in again:
                    sock.close()

    trio.run(main)
    assert len(boot_id()) == 36


def test_a_runtime_moves_the_interface_itself(
    wire: tuple[Namespace, Namespace], namespaces: NamespaceFactory
) -> None:
    box = namespaces("box")
    local = endpoint(1, box)

    async def body(host: Host) -> None:
        peer = await host.attacher.create(local)
        assert peer == await host.attacher.create(local)
        assert f"master {bridge_name(VNI)}" in host.namespace.run(
            f"ip link show {veth_name(local.endpoint_id)}"
        )
        assert not await host.attacher.has_entered(local)
        host.namespace.run(f"ip link set {peer} netns {box.name}")
        box.run(f"ip link set {peer} name eth0")
        assert not await host.attacher.has_entered(local), "the runtime is still at work on it"
        box.run("ip link set eth0 up")
        assert await host.attacher.has_entered(local)
        assert await host.attacher.bind(local) == "eth0"
        assert local.addresses[0].partition("/")[0] in box.run("ip addr show eth0")
        await host.attacher.create(local)
        assert "eth0" not in box.run("ip link"), "the one that the container had leads nowhere"
        await host.attacher.unbind(local.endpoint_id)
        assert peer not in host.namespace.run("ip link")

    with_host(wire, (local,), body)
