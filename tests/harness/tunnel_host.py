"""A host's tunnel as a program of its own, in a namespace of its own.

`python tunnel_host.py SOCKETS` waits for commands, a line of JSON each, and answers each by a line. SOCKETS is what
it has as /run/wireguard, so that hosts of one machine do not meet there. It ends with its input, as an agent that
stops: device and process stay.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import trio

from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.errors import NetagentError
from netagent.model.ids import ClusterId
from netagent.tunnel.device import TunnelDevice
from netagent.tunnel.genetlink import NETLINK_GENERIC
from netagent.tunnel.peer import TunnelPeer

CLUSTER = ClusterId("c1" * 16)


def peer_of(said: dict[str, Any]) -> TunnelPeer:
    return TunnelPeer(
        public_key=bytes.fromhex(said["public_key"]),
        preshared_key=bytes.fromhex(said["preshared_key"]) if said.get("preshared_key") else None,
        endpoint=(said["endpoint"][0], said["endpoint"][1]) if said.get("endpoint") else None,
        allowed=tuple(said["allowed"]),
        keepalive_s=said.get("keepalive_s"),
    )


async def answer(device: TunnelDevice, command: str, said: dict[str, Any]) -> Any:
    match command:
        case "ensure":
            key = bytes.fromhex(said["private_key"])
            await device.ensure(key, said["port"], said["addresses"], said["mtu_bytes"])
        case "peers":
            peers = [peer_of(one) for one in said["peers"]]
            repoint = [bytes.fromhex(one) for one in said.get("repoint", ())]
            await device.set_peers({one.public_key: one for one in peers}, repoint=repoint)
        case "states":
            found = await device.states()
            return {
                key.hex(): [one.endpoint, one.handshake_s_ago, one.received_bytes, one.sent_bytes]
                for key, one in found.items()
            }
        case "process":
            return {"id": device.process_id, "starts": device.starts, "backend": device.backend}
        case "remove":
            await device.remove()
    return None


async def main() -> None:
    with (
        closing(Netlink(open_socket())) as netlink,
        closing(Netlink(open_socket(NETLINK_GENERIC))) as generic,
    ):
        device = TunnelDevice(netlink, generic, CLUSTER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run)
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                command, said = json.loads(line)
                try:
                    print(json.dumps({"done": await answer(device, command, said)}), flush=True)
                except NetagentError as error:
                    print(json.dumps({"refused": str(error)}), flush=True)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    Path("/run/wireguard").mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", sys.argv[1], "/run/wireguard"], check=True)
    trio.run(main)
