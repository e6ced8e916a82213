"""A host's agent that can be killed before any of its effects. A program of its own, in a namespace of its own.

`python crash_host.py FOLDER NAME ADDRESS PEER` waits for commands, a line of JSON each, and answers each by a line:

    ["start", N]            a new life: the process forks, and the child runs a whole Cluster (journal, netlink,
                            firewall, resolver process, gossip) with the disk that the one before has left
    ["do", N, NAME, …]      one of `OPERATIONS`; {"done": …}, or {"refused": …}
    ["all", N, [NAME, …]…]  several beside each other; {"acknowledged": …} for each that is done, as soon as it is
    ["report"]              what the agent says it has
    ["die"]                 SIGKILL at rest

With an N above 0 the agent kills itself (SIGKILL) before the N-th effect that is begun from then on by whatever task.

Only SIGKILL ends a life: {"ended": -9}. An effect is what outlives the process: a write to the journal, a request
that changes links, addresses, routes or entries, a transaction of nftables, a setting under /proc/sys, a message to
the resolver process, a file, and the hand-over of records to the network. Between two effects nothing happens that a
next life, or another host, could see: an agent that dies before each of them has died everywhere.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import trio

from netagent import config as configuration
from netagent.daemon.cluster import Cluster
from netagent.daemon.journal_recovery import require_journal
from netagent.datapath.host.forwarding import Forwarding
from netagent.datapath.host.sysctls import Settings
from netagent.datapath.host.underlay import find_underlay
from netagent.datapath.netlink import nftables
from netagent.datapath.netlink.route_socket import Netlink
from netagent.endpoints import resolv_conf
from netagent.endpoints.find import network_called
from netagent.events.keeper import EventKeeper
from netagent.journal.rows import LocalEndpointRow
from netagent.journal.writer import Writer
from netagent.model.check import ExecCheck
from netagent.model.ids import NetworkId, peer_name
from netagent.model.publication import Publication
from netagent.model.request import AttachRequest, NetworkRequest
from netagent.registry.view import AgentState
from netagent.resolver.channel import SocketChannel
from netagent.rpc.messages import Drops
from netagent.state_dir import ClusterKeys, StateDir
from netgossip.join.identity import PRIVATE_KEY_BYTES
from netgossip.records.replication import Replication

KEYS = ClusterKeys("c1" * 16, "mesh", "mesh.internal", (bytes(32),))


class Fuse:
    """Counts effects down; 0: no kill."""

    left = 0

    @classmethod
    def set(cls, left: int) -> None:
        cls.left = left

    @classmethod
    def burn(cls) -> None:
        """Called where the next effect is about to begin."""
        if cls.left:
            cls.left -= 1
            if not cls.left:
                os.kill(os.getpid(), signal.SIGKILL)


def lay_fuses() -> None:
    """At each of the few places through which all effects go."""
    for owner, name in (
        (Netlink, "_send"),
        (nftables, "commit"),
        (Settings, "write"),
        (Forwarding, "_turn"),
        (Forwarding, "_note"),
        (Writer, "_commit"),
        (Replication, "commit"),
        (SocketChannel, "send"),
        (resolv_conf, "write"),
        (resolv_conf, "remove"),
    ):
        setattr(owner, name, _fused(getattr(owner, name)))


def _fused(effect: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(effect)
    def fused(*arguments: Any, **options: Any) -> Any:
        Fuse.burn()
        return effect(*arguments, **options)

    return fused


# ---- what a user or a runtime asks for


async def create(cluster: Cluster, network: str) -> str:
    return (await cluster.networks.create(NetworkRequest(name=network)))[0].network_id


async def delete(cluster: Cluster, network: str) -> str:
    return (await cluster.networks.remove(network, force=False)).network_id


async def attach(cluster: Cluster, network: str, box: str, name: str, port: int = 0) -> list[str]:
    publish = (Publication(port, 80),) if port else ()
    request = AttachRequest(target=f"netns:{box}", network=network, name=name, publish=publish)
    row, _ = await cluster.endpoints.attach(request)
    return [row.endpoint_id, *row.addresses]


async def detach(cluster: Cluster, name: str) -> str:
    return (await cluster.endpoints.detach(name)).endpoint_id


async def plug(cluster: Cluster, network: str, origin: str) -> str:
    """A runtime's first calls: the address, the endpoint, the interface."""
    found = network_called(cluster.live.view, network)
    address = (await cluster.endpoints.staged.hold(found.network_id))[0]
    request = AttachRequest(target=origin, network=network, addresses=(address,))
    await cluster.endpoints.staged.reserve(request, origin=origin)
    return await cluster.endpoints.staged.create(origin)


async def enter(cluster: Cluster, origin: str, box: str, name: str) -> list[str]:
    """The runtime moves the interface, and its last call."""
    row = cluster.live.rows.with_origin(origin)
    assert row is not None, origin
    mine = peer_name(row.endpoint_id)
    commands = [f"ip link set {mine} netns {box} name eth0"] if has_link(mine) else []
    commands += [f"ip -n {box} address replace {row.addresses[0]} dev eth0", f"ip -n {box} link set eth0 up"]
    for command in commands:  # the agent may be killed beside any of them, which is not to stop the runtime
        await trio.run_process(command.split())
    row = await cluster.endpoints.staged.bind(origin, f"/run/netns/{box}", name=name, behind_runtime=False)
    return [row.endpoint_id, *row.addresses]


async def unplug(cluster: Cluster, origin: str) -> bool:
    """A runtime's last calls; whether there was anything to end."""
    await cluster.endpoints.staged.unbind(origin)
    return await cluster.endpoints.detach_origin(origin) is not None


def has_link(name: str) -> bool:
    """On this host."""
    return Path("/sys/class/net", name).exists()


OPERATIONS: dict[str, Callable[..., Awaitable[Any]]] = {
    one.__name__: one for one in (create, delete, attach, detach, plug, enter, unplug)
}


# ---- the life


def report(cluster: Cluster) -> dict[str, Any]:
    """What the agent itself believes."""
    view = cluster.live.view
    known = [*view.endpoints.values(), *view.fenced.values()]
    return {
        "rows": {row.endpoint_id: _row(row) for row in cluster.live.rows.values()},
        "own": sorted(one.endpoint_id for one in known if one.owner == view.local),
        "foreign": sorted(one.endpoint_id for one in known if one.owner != view.local),
        "networks": {n: network.record.name for n, network in view.networks.items()},
        "used": sum(_used(cluster, network_id) for network_id in view.networks),
        "resolver": cluster.controllers.supervisor.status()["process_id"],
        "is_alone": not any(
            host.agent is AgentState.ALIVE for one, host in view.hosts.items() if one != view.local
        ),
    }


def _row(row: LocalEndpointRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "network": row.network_id,
        "stage": "published" if row.is_published else "reserved",
        "addresses": row.addresses,
        "origin": row.origin,
        "ports": [one.host_port for one in row.publish],
        "plugged": has_link(peer_name(row.endpoint_id)),
    }


def _used(cluster: Cluster, network_id: NetworkId) -> int:
    free, usable = cluster.allocator.free_count(network_id)
    return usable - free


async def no_commands(_row: LocalEndpointRow, _check: ExecCheck, _timeout_s: float) -> None:
    """There is no runtime."""


async def no_drops(_asked: Drops) -> tuple[str, ...]:
    return ()


async def live(folder: Path, name: str, address: str, peer: str) -> None:
    flags = {
        "name": name,
        "advertise": address,
        "state_dir": str(folder / "state"),
        "run_dir": str(folder / "run"),
        "timing": "local",
    }
    config = configuration.load(None, flags, {})
    state = StateDir(config.state_dir, config.run_dir, config.keyring_file)
    identity = state.identity(os.urandom(PRIVATE_KEY_BYTES))
    if config.keyring_file.exists():
        await require_journal(state.journal_file, config.keyring_file)
    state.save_cluster_keys(KEYS)
    cluster = Cluster(
        config,
        KEYS,
        identity=identity,
        state=state,
        underlay=await find_underlay(address),
        egress_interfaces=lambda: frozenset({"wire"}),
        find_drops=no_drops,
        execute=no_commands,
        answer_events=EventKeeper(state.events_file).answer,
        introduced=[(peer, config.gossip_port)],
    )
    cluster.set_seeds(())
    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.run)
        Fuse.set(0)
        say({"up": report(cluster)})
        while True:
            say(await _obey(cluster, json.loads(await trio.to_thread.run_sync(read_line))))


async def _obey(cluster: Cluster, command: list[Any]) -> dict[str, Any]:
    match command:
        case ["report"]:
            return report(cluster)
        case ["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["all", int(left), *operations]:
            Fuse.set(left)
            async with trio.open_nursery() as nursery:
                for one in operations:
                    nursery.start_soon(_acknowledge, cluster, one)
            Fuse.set(0)
            return {"done": len(operations)}
        case ["do", int(left), str(name), *arguments]:
            Fuse.set(left)
    try:
        return {"done": await OPERATIONS[name](cluster, *arguments)}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    finally:
        Fuse.set(0)


async def _acknowledge(cluster: Cluster, operation: list[Any]) -> None:
    name, *arguments = operation
    await OPERATIONS[name](cluster, *arguments)
    say({"acknowledged": operation})


def read_line() -> str:
    """Byte by byte: what comes after it is for another process."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os.kill(os.getpid(), signal.SIGKILL)
        line += byte
    return line.decode()


def say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def main(folder: Path, name: str, address: str, peer: str) -> None:
    """Forks a life for each `start`, so that all code is loaded once."""
    logging.basicConfig(
        filename=folder / "agent.log", format="%(asctime)s %(name)s: %(message)s", level="INFO"
    )
    resolv_conf.NETNS_ETC = folder / "etc"
    lay_fuses()
    while True:
        line = read_line()
        command, fuse = json.loads(line)
        assert command == "start", line
        pid = os.fork()
        if not pid:
            Fuse.set(fuse)
            trio.run(live, folder, name, address, peer)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        say({"ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
