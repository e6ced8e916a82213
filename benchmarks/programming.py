#!/usr/bin/env python3
"""How fast does a host's kernel learn of remote endpoints, and how long is the agent's event loop blocked?

Runs in a network namespace of its own. First the reconciler alone writes a network of N endpoints (two neighbours, an
FDB entry at the bridge and one at the VXLAN device each) into an empty kernel; then `ip -batch` and `bridge -batch`
write the same entries, and the ratio is printed. Then a whole agent (journal, gossip, resolver process, firewall),
with one container in the network, receives the records of N endpoints on 300 hosts, host by host, as from the gossip;
then one endpoint after the other; then it is asked for them all, is left alone for its timer, and leaves the network.

Before all that another agent gets the whole of a large network from a node in a separate process, which joins the
cluster, over the gossip's sealed streams: N endpoints of 300 hosts, then as many of one host. For each part it prints
the longest time during which the event loop did not run a task that wanted to run, up to a millisecond too much, and
for the first sync also that of the sender: by the wall clock, and in CPU seconds of its own thread, which other
programs on the machine do not lengthen.

    sudo .venv/bin/python benchmarks/programming.py [--sizes 100,1000,10000] [--changes 20] [--only-sync]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import trio
from elsewhere import (  # adds the product to the module path
    ADDRESS,
    CLUSTER,
    HOSTS,
    RING_KEY,
    SENDER_ADDRESS,
    TICK_S,
    Elsewhere,
    Ticks,
    offset_of,
    sender_process,
    underlay_of,
)

from netagent import config as configuration
from netagent.access.grant import FULL
from netagent.control.api import build_app, socket_access
from netagent.daemon.cluster import Cluster
from netagent.daemon.memory import keep_collections_short
from netagent.datapath.host.uplink import Underlay
from netagent.datapath.netlink.route_socket import Netlink, open_notification_socket, open_socket
from netagent.datapath.reconcile.desired import NetworkInput, network_devices, remote_entries
from netagent.datapath.reconcile.ip_commands import render
from netagent.datapath.reconcile.operations import EntryOperation
from netagent.datapath.reconcile.plan import plan
from netagent.datapath.reconcile.reconciler import Reconciler
from netagent.datapath.state import DesiredChange, EntryKey, KernelState
from netagent.events.keeper import EventKeeper
from netagent.main import handlers_of
from netagent.model.ids import ClusterId, NetworkId
from netagent.model.request import AttachRequest, NetworkRequest
from netagent.state_dir import ClusterKeys, StateDir
from netgossip.join.identity import Identity
from netgossip.slice_runner import turn
from netgossip.slices import at_once
from netgossip.types import EntriesChanged

if TYPE_CHECKING:
    from netagent.daemon.agent import Agent

INSIDE = "NATBENCH_INSIDE"
SYNC_BOUND_S = 120.0
REST_S = 2.0
TIMER_S = 11.0
"""A little more than the reconciler's."""
QUESTIONS = (
    ("/v1/endpoints",),
    ("/v1/services",),
    ("/v1/networks",),
    ("/v1/inspect", "thing=app"),
    ("/v1/inspect", "thing=web7"),
    ("/v1/inspect", "thing=x5"),
)


def state_of(count: int) -> KernelState:
    """Return a network of `count` remote endpoints."""
    network = NetworkInput(network_id=NetworkId("0a" * 16), vni=90, mtu_bytes=1400)
    devices = network_devices(
        network, ADDRESS, underlay=ADDRESS, vxlan_port=4798, cluster_id=ClusterId("c1" * 16)
    )
    entries: dict[EntryKey, str] = {}
    for number in range(count):
        four, six, mac = offset_of(number)
        entries |= remote_entries(network, mac, (four, six), underlay_of(number % HOSTS))
    return KernelState(devices={one.name: one for one in devices}).with_entries(entries)


async def measure_reconciler(count: int) -> float:
    """Return the entries per second of the reconciler alone."""
    state = state_of(count)
    bare = KernelState(devices=state.devices)
    netlink, ticks = Netlink(open_socket()), Ticks()
    reconciler = Reconciler(netlink, open_notification_socket())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_collections_short)
        nursery.start_soon(reconciler.run)
        reconciler.set_desired(DesiredChange(bare), 1)
        await reconciler.wait_programmed(1)
        nursery.start_soon(ticks.run)
        await trio.sleep(0.1)
        await ticks.taken()
        began_s, cpu_s = time.monotonic(), time.thread_time()
        reconciler.set_desired(DesiredChange(state), 2)
        await reconciler.wait_programmed(2)
        took_s, cpu_s = time.monotonic() - began_s, time.thread_time() - cpu_s
        print(
            f"reconciler alone: {state.entry_count} entries in {took_s:.2f} s ({cpu_s:.2f} s CPU): "
            f"{state.entry_count / took_s:,.0f} per second; {await ticks.taken()}"
        )
        reconciler.set_desired(DesiredChange(KernelState()), 3)
        await reconciler.wait_programmed(3)
        nursery.cancel_scope.cancel()
    netlink.close()
    return state.entry_count / took_s


def measure_batches(count: int, folder: Path) -> float:
    """Return the entries per second of `ip -batch` and `bridge -batch`: the same ones, on devices made by hand."""
    state = state_of(count)
    for line in ("na-90 type bridge", f"nx-90 type vxlan id 90 dstport 4798 local {ADDRESS} nolearning"):
        run(f"ip link add {line}")
    run("ip link set nx-90 master na-90")
    run("ip link set na-90 up")
    run("ip link set nx-90 up")
    operations = at_once(plan(state, KernelState(devices=state.devices)))
    lines = [render(one) for one in operations if isinstance(one, EntryOperation)]
    took_s = 0.0
    for program in ("bridge", "ip"):
        batch = folder / program
        own = [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]
        batch.write_text("\n".join(own) + "\n", encoding="ascii")
        began_s = time.monotonic()
        run(f"{program} -batch {batch}")
        took_s += time.monotonic() - began_s
    run("ip link del na-90")
    run("ip link del nx-90")
    print(
        f"ip -batch and bridge -batch: {len(lines)} entries in {took_s:.2f} s: {len(lines) / took_s:,.0f} per second"
    )
    return len(lines) / took_s


async def no_drops(_asked: object) -> tuple[str, ...]:
    """Stand in for requests to other hosts, which are not answered here."""
    return ()


async def no_commands(*_asked: object) -> None:
    """Stand in for a runtime, which runs the commands of checks."""


@asynccontextmanager
async def an_agent(folder: Path, box: str) -> AsyncIterator[tuple[Cluster, NetworkId, Ticks]]:
    """Run the whole agent, with one container in a network."""
    settings = {"advertise": ADDRESS, "bind": ADDRESS, "name": "h1"}
    settings |= {"state_dir": f"{folder}/state", "run_dir": f"{folder}/run"}
    config = configuration.load(
        None, {}, {f"NETAGENT_{key.upper()}": value for key, value in settings.items()}
    )
    state = StateDir(folder / "state", folder / "run", folder / "state" / "keyring")
    cluster = Cluster(
        config,
        ClusterKeys(CLUSTER, "mesh", "mesh.internal", (RING_KEY,)),
        identity=Identity(b"1" * 32),
        state=state,
        underlay=Underlay(ADDRESS, "up0", 1500),
        egress_interfaces=lambda: frozenset({"up0"}),
        find_drops=no_drops,
        execute=no_commands,
        answer_events=EventKeeper(state.events_file).answer,
    )
    ticks = Ticks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_collections_short)
        await nursery.start(cluster.run)
        nursery.start_soon(ticks.run)
        await cluster.networks.create(NetworkRequest(name="app", subnets=("10.160.0.0/16", "fd00:1::/64")))
        await cluster.endpoints.attach(AttachRequest(target=box, network="app", name="me"))
        network = cluster.live.view.network_named("app")
        assert network is not None
        yield cluster, network.network_id, ticks
        await cluster.controllers.supervisor.stop()
        nursery.cancel_scope.cancel()
    state.close()


async def measure_agent(sizes: Sequence[int], changes: int, folder: Path, box: str) -> None:
    """Measure the whole agent, growing from size to size."""
    async with an_agent(folder, box) as (cluster, network_id, ticks):
        elsewhere = Elsewhere(network_id)
        await told(cluster, list(elsewhere.hosts()))
        count = 0
        for size in sizes:
            events = list(elsewhere.endpoints(range(count, size)))
            await trio.sleep(REST_S)
            await ticks.taken()
            await measure_fill(cluster, events, size)
            await trio.sleep(REST_S)
            print(f"    meanwhile: {await ticks.taken()}")
            count = size
            await measure_changes(cluster, elsewhere, range(count, count + changes))
            count += changes
            print(f"    meanwhile: {await ticks.taken()}")
        for question in QUESTIONS:
            await measure_question(cluster, *question)
            print(f"    meanwhile: {await ticks.taken()}")
        await trio.sleep(TIMER_S)
        print(f"left alone with {count} endpoints for {TIMER_S:.0f} s: {await ticks.taken()}")
        await measure_leaving(cluster, elsewhere)
        print(f"    meanwhile: {await ticks.taken()}")


async def measure_sync(size: int, folder: Path, box: str) -> None:
    """Measure the first sync of a network over the gossip: of 300 hosts, then of one with as many endpoints."""
    async with an_agent(folder, box) as (cluster, network_id, ticks):
        for hosts, numbers in (
            (range(HOSTS), range(size)),
            (range(HOSTS, HOSTS + 1), range(size, 2 * size)),
        ):
            await trio.sleep(REST_S)
            wanted = len(cluster.live.view.endpoints_in(network_id)) + len(numbers)
            arguments = [
                network_id,
                hosts.start,
                hosts.stop,
                numbers.start,
                numbers.stop,
                cluster.config.gossip_port,
            ]
            arguments += [cluster.config.record_port]
            with sender_process([str(one) for one in arguments]) as longest, trio.fail_after(SYNC_BOUND_S):
                await ticks.taken()  # starting and ending the other process is not the agent's work
                while len(cluster.live.view.endpoints_in(network_id)) <= 1 + numbers.start:
                    await trio.sleep(TICK_S)
                began_s = time.monotonic()
                while len(cluster.live.view.endpoints_in(network_id)) < wanted:
                    await trio.sleep(TICK_S)
                known_s = time.monotonic() - began_s
                await cluster.controllers.projection.wait_programmed(cluster.live.revision)
                took_s = time.monotonic() - began_s
                await cluster.controllers.projection.wait_followed(cluster.live.revision)
                meanwhile = await ticks.taken()
            print(
                f"first sync over streams, {len(numbers)} endpoints of {len(hosts)} hosts: known after {known_s:.2f} "
                f"s, in the kernel after {took_s:.2f} s; {meanwhile}; the sender's {longest[0]}"
            )


async def told(cluster: Cluster, events: Sequence[EntriesChanged]) -> None:
    """Apply each as one step of the gossip; other tasks run between two."""
    for event in events:
        cluster.gossip.event_queue.handle((event,))
        await trio.lowlevel.checkpoint()
    await cluster.controllers.projection.wait_followed(cluster.live.revision)


async def measure_fill(cluster: Cluster, events: Sequence[EntriesChanged], size: int) -> None:
    """Apply all at once, and measure from the first record to the last entry."""
    before, cpu_s = cluster.kernel.reconciler.status().entries, time.thread_time()
    began_s = time.monotonic()
    for event in events:
        async with turn():  # as the gossip's driver does with data from a stream
            cluster.gossip.event_queue.handle((event,))
    await cluster.controllers.projection.wait_programmed(cluster.live.revision)
    took_s, cpu_s = time.monotonic() - began_s, time.thread_time() - cpu_s
    entries = cluster.kernel.reconciler.status().entries - before
    await cluster.controllers.projection.wait_followed(cluster.live.revision)
    print(
        f"agent, first fill to {size} endpoints: {entries} entries from record to kernel in {took_s:.2f} s "
        f"({cpu_s:.2f} s CPU): {entries / took_s:,.0f} per second, {entries / cpu_s:,.0f} per CPU second"
    )


async def measure_changes(cluster: Cluster, elsewhere: Elsewhere, numbers: range) -> None:
    """Add one endpoint after the other, each with time to settle."""
    kernel_s, cpus_s = [], []
    for number in numbers:
        (event,) = elsewhere.endpoints(range(number, number + 1))
        await trio.sleep(0.1)
        began_s, cpu_s = time.monotonic(), time.thread_time()
        cluster.gossip.event_queue.handle((event,))
        await cluster.controllers.projection.wait_programmed(cluster.live.revision)
        kernel_s.append(time.monotonic() - began_s)
        await cluster.controllers.projection.wait_followed(cluster.live.revision)
        cpus_s.append(time.thread_time() - cpu_s)
    print(
        f"agent, one more among {numbers.start}: from the record to its kernel entries "
        f"{statistics.median(kernel_s) * 1000:.2f} ms (worst {max(kernel_s) * 1000:.1f}); "
        f"with its names {statistics.median(cpus_s) * 1000:.2f} ms CPU"
    )


async def measure_question(cluster: Cluster, path: str, query: str = "") -> None:
    """Ask for all endpoints, or something computed from all of them, as the command line does."""
    handlers = handlers_of(cast("Agent", SimpleNamespace(member=lambda: cluster)))
    app = build_app(handlers, cluster.live.wait_newer, access=socket_access(FULL))
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    size_bytes = 0

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal size_bytes
        size_bytes += len(message.get("body", b""))
        await trio.lowlevel.checkpoint()

    began_s = time.monotonic()
    await app(scope, trio.sleep_forever, send)
    print(f"{path} {query}: {size_bytes:,} bytes after {time.monotonic() - began_s:.2f} s")


async def measure_leaving(cluster: Cluster, elsewhere: Elsewhere) -> None:
    """Remove the network and detach its last endpoint here, until nothing of it stays."""
    cluster.gossip.event_queue.handle((elsewhere.removal(),))
    began_s = time.monotonic()
    for endpoint_id in tuple(cluster.live.rows):
        await cluster.endpoints.detach(endpoint_id, 0.0)
    while cluster.live.view.endpoints:
        await trio.sleep(TICK_S)
    print(f"the network removed and left: nothing of it remains after {time.monotonic() - began_s:.2f} s")


def run(command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command.split(), check=True, timeout=120)


@contextmanager
def a_box() -> Iterator[str]:
    """Yield the path of an empty namespace."""
    with subprocess.Popen(["unshare", "-n", "sleep", "infinity"]) as sleeper:
        own = Path("/proc/self/ns/net").readlink()
        path = Path(f"/proc/{sleeper.pid}/ns/net")
        while path.readlink() == own:
            time.sleep(0.01)
        try:
            yield str(path)
        finally:
            sleeper.kill()


def main() -> None:
    """Enter a namespace, measure, and leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--only-sync", action="store_true", help="only the first sync over the gossip")
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        os.execvpe("unshare", ["unshare", "-n", sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    # Not every kernel has dummy devices.
    run("ip link add up0 type bridge")
    for line in (
        "link set lo up",
        f"addr add {ADDRESS}/24 dev up0",
        f"addr add {SENDER_ADDRESS}/24 dev up0",
        "link set up0 up",
    ):
        run(f"ip {line}")
    sizes = [int(size) for size in arguments.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="natbench-") as name, a_box() as box:
        trio.run(measure_sync, max(sizes), Path(name), box)
    if arguments.only_sync:
        return
    with tempfile.TemporaryDirectory(prefix="natbench-") as name, a_box() as box:
        ours = trio.run(measure_reconciler, max(sizes))
        theirs = measure_batches(max(sizes), Path(name))
        print(f"the reconciler writes {ours / theirs:.2f} times as many entries per second")
        trio.run(measure_agent, sizes, arguments.changes, Path(name), box)


if __name__ == "__main__":
    main()
