"""Our VXLAN devices leave checksums to the card or do not, whatever changes it; others' are not touched."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
import trio
from harness.namespaces import Namespace, NamespaceFactory, wait_until

from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.datapath.host.offload import OffloadKeeper, set_tx_checksum, tx_checksum

pytestmark = pytest.mark.kernel

OURS, THEIRS = "nx-8388609", "nx-8388610"


async def socket_in(namespace: Namespace) -> socket.socket:
    with opened_netns(namespace.path) as fd:
        return await run_in_netns(fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def make(namespace: Namespace, name: str) -> None:
    namespace.run(f"ip link add {name} type vxlan id {name[3:]} dstport 4799 local 127.0.0.1 nolearning")


def test_checksums_are_left_to_the_card_as_set(namespaces: NamespaceFactory) -> None:
    host = namespaces("h")
    make(host, OURS)
    make(host, THEIRS)

    async def main() -> None:
        with closing(await socket_in(host)) as sock:
            keeper = OffloadKeeper(sock, lambda name: name != THEIRS)
            keeper.set_devices([OURS, THEIRS, "nx-8388611"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                set_tx_checksum(sock, OURS, is_on=False)
                await trio.sleep(1.2)
                assert not tx_checksum(sock, OURS), "without a verdict it stays as it is"
                keeper.set_wanted(True)
                await wait_until(lambda: tx_checksum(sock, OURS), "it is turned on")
                keeper.set_wanted(False)
                await wait_until(lambda: not tx_checksum(sock, OURS), "it is turned off")
                set_tx_checksum(sock, OURS, is_on=True)
                await wait_until(lambda: not tx_checksum(sock, OURS), "again, whatever turned it on", 2.0)
                host.run(f"ip link del {OURS}")
                make(host, OURS)
                assert tx_checksum(sock, OURS), "a new device has the kernel's default"
                await wait_until(lambda: not tx_checksum(sock, OURS), "off for the new one, too", 2.0)
                assert tx_checksum(sock, THEIRS)
                nursery.cancel_scope.cancel()
            assert not tx_checksum(sock, OURS), "an agent that ends leaves it"

    trio.run(main)
