"""A kernel that hears that an address has another MAC believes it, and makes no entry of what it did not ask for."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
import trio
from harness.namespaces import Namespace, NamespaceFactory, make_veth, wait_until

from netagent.datapath.endpoint.gratuitous_arp import announcement
from netagent.datapath.endpoint.netns import opened_netns, run_in_netns
from netagent.projection.mac_announcer import open_socket, sending

pytestmark = pytest.mark.kernel

OLD, NEW = "02:cc:00:00:00:01", "02:cc:00:00:00:02"


def neighbours(namespace: Namespace) -> dict[str, str]:
    listed = json.loads(namespace.run("ip -json neigh show dev eth0"))
    return {one["dst"]: one["lladdr"] for one in listed if "lladdr" in one}


@pytest.mark.parametrize("state", ["reachable", "stale"])
def test_an_entry_is_changed_and_none_is_made(namespaces: NamespaceFactory, state: str) -> None:
    host, box = namespaces("h"), namespaces("c")
    make_veth(host, "nv00000001", box, "10.66.0.1/24", "fd66::1/64")
    for address in ("10.66.0.9", "fd66::9"):
        box.run(f"ip neigh add {address} lladdr {OLD} nud {state} dev eth0")

    async def main() -> None:
        with opened_netns(host.path) as fd:
            sock = await run_in_netns(fd, open_socket)
        with closing(sock):
            send = sending(sock)
            for address in ("10.66.0.9", "fd66::9", "10.66.0.8", "fd66::8"):
                send("nv00000001", announcement(address, NEW))
            send("nv-gone", announcement("10.66.0.9", OLD))
            wanted = {"10.66.0.9": NEW, "fd66::9": NEW}
            await wait_until(lambda: neighbours(box) == wanted, "the entries are as before")

    trio.run(main)
    assert neighbours(box) == {"10.66.0.9": NEW, "fd66::9": NEW}
