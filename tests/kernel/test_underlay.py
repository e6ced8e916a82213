"""What the host tells of its own network: run inside a namespace, by a thread that stays there."""

from __future__ import annotations

import pytest
import trio
from kernel.overlay import CLUSTER, MTU_BYTES, Namespace, NamespaceFactory, network, open_host

from netagent.datapath.desired import ProbeInput, desired_state
from netagent.datapath.netns import opened_netns, run_in_netns
from netagent.datapath.underlay import Underlay, find_underlay, host_routes
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
            state = desired_state(
                [network()], probe, underlay="192.0.2.1", vxlan_port=4799, cluster_id=CLUSTER
            )
            host.reconciler.set_desired(state, 1)
            with trio.fail_after(10):
                await host.reconciler.wait_programmed(1)
            assert await host_routes(host.netlink) == (
                "10.50.0.0/16",
                "10.51.0.0/16",
                "192.0.2.0/24",
                "2001:db8::/64",
                "fd99::/48",
            )

    trio.run(main)
