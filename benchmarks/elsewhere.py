"""Simulated remote hosts: the records of each, and a process with a node that sends all of them to an agent.

As a program it is that process, for `programming.py`:

    elsewhere.py NETWORK FIRST-HOST LAST-HOST FIRST-ENDPOINT LAST-ENDPOINT GOSSIP-PORT RECORD-PORT
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from netagent.daemon.memory import keep_collections_short  # noqa: E402
from netagent.model.ids import EndpointId, NetworkId  # noqa: E402
from netagent.model.records import (  # noqa: E402
    AttachmentRecord,
    EndpointRecord,
    HostRecord,
    Record,
    RemovalRecord,
)
from netagent.registry.record_codec import encode, key_of, scope_of  # noqa: E402
from netgossip.codec.sealing import Keyring  # noqa: E402
from netgossip.config import GossipConfig  # noqa: E402
from netgossip.driver import Driver  # noqa: E402
from netgossip.join.identity import Identity  # noqa: E402
from netgossip.node import GossipNode  # noqa: E402
from netgossip.sockets import open_sockets  # noqa: E402
from netgossip.types import EntriesChanged, Entry, History, Log, Scope, Version  # noqa: E402

HOSTS = 300
ADDRESS = "192.0.2.1"
SENDER_ADDRESS = "192.0.2.2"
"""The address of the node with all the records."""
CLUSTER = "ab" * 16
RING_KEY = bytes(32)
TICK_S = 0.001


class Ticks:
    """A task that wants to run every millisecond, and records how long it could not: never less than it was blocked,
    and up to that millisecond more."""

    def __init__(self) -> None:
        self._wall_s = self._cpu_s = 0.0

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            began_s, cpu_s = time.monotonic(), time.thread_time()
            await trio.sleep(TICK_S)
            self._wall_s = max(self._wall_s, time.monotonic() - began_s)
            self._cpu_s = max(self._cpu_s, time.thread_time() - cpu_s)

    async def taken(self) -> str:
        """Return the longest block since the last call, including one that may just have ended."""
        await trio.sleep(3 * TICK_S)
        wall_s, cpu_s, self._wall_s, self._cpu_s = self._wall_s, self._cpu_s, 0.0, 0.0
        return f"longest block {wall_s * 1000:.1f} ms, of which CPU {cpu_s * 1000:.1f} ms"


def offset_of(number: int) -> tuple[str, str, str]:
    """Return IPv4, IPv6 and MAC of a remote endpoint."""
    at = number + 600
    mac = bytes([2, 0x22, 0, *at.to_bytes(3, "big")]).hex(":")
    return f"10.160.{at >> 8}.{at & 255}", f"fd00:1::{at:x}", mac


def underlay_of(number: int) -> str:
    """Return a host's underlay address."""
    return f"198.18.{number >> 8}.{number & 255}"


class Elsewhere:
    """Some hosts, 300 by default, and the records of each."""

    def __init__(self, network_id: NetworkId, hosts: range = range(HOSTS)) -> None:
        self._network_id = network_id
        self._hosts = hosts
        self.identities = [Identity((number + 7).to_bytes(32, "big")) for number in hosts]
        self._sequences: Counter[tuple[int, Scope]] = Counter()

    def hosts(self) -> Iterator[EntriesChanged]:
        """Yield their host records, and their participation in the network."""
        for at, number in enumerate(self._hosts):
            record = HostRecord(
                name=f"x{number}",
                public_key=self.identities[at].public_key,
                underlay=underlay_of(number),
                vxlan_port=4799,
                probe_address=f"fd00::{number + 10:x}",
                probe_mac=bytes([2, 0x11, 0, 0, *number.to_bytes(2, "big")]).hex(":"),
            )
            yield self._said(at, [record, AttachmentRecord(self._network_id)])

    def removal(self) -> EntriesChanged:
        """Return the removal of the network, published by the first of them."""
        return self._said(0, [RemovalRecord(self._network_id)])

    def endpoints(self, numbers: range) -> Iterator[EntriesChanged]:
        """Yield endpoints distributed over the hosts, one delta for each host."""
        for at in range(len(self._hosts)):
            records = [self._endpoint(one) for one in numbers if one % len(self._hosts) == at]
            if records:
                yield self._said(at, records)

    def _endpoint(self, number: int) -> EndpointRecord:
        four, six, mac = offset_of(number)
        return EndpointRecord(
            endpoint_id=EndpointId(f"{number + 0xE0000:032x}"),
            network_id=self._network_id,
            name=f"web{number}",
            service=f"web{number % 50}",
            addresses=(four, six),
            mac=mac,
        )

    def _said(self, at: int, records: Sequence[Record]) -> EntriesChanged:
        owner, entries = self.identities[at].node_id, []
        scope = key_of(records[0])[0]
        for record in records:
            self._sequences[at, scope] += 1
            version = Version(1, self._sequences[at, scope])
            entries.append(Entry(scope, owner, key_of(record)[1], encode(record), version))
        return EntriesChanged(
            scope, owner, 1, entries[-1].version.sequence, 0, tuple(entries), replaced=False
        )


@contextmanager
def sender_process(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Run another process with a node that holds all the records and joins the agent; yields its longest block."""
    command = [sys.executable, __file__, *arguments]
    longest: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        try:
            yield longest
            longest.append(sender.communicate(timeout=10)[0].strip())
        finally:
            sender.kill()


async def tell(
    network_id: NetworkId, hosts: range, numbers: range, gossip_port: int, record_port: int
) -> None:
    """Act as the first of some hosts, hold the records of all, and join the agent, until standard input closes."""
    elsewhere, scope = Elsewhere(network_id, hosts), scope_of(network_id)
    said = [*elsewhere.hosts(), *elsewhere.endpoints(numbers)]
    logs = [Log(e.scope, e.owner, e.epoch, e.head, 0, {one.key: one for one in e.entries}) for e in said]
    own = elsewhere.identities[0].node_id
    sockets = open_sockets(SENDER_ADDRESS, gossip_port, record_port)
    node = GossipNode(
        config=GossipConfig.lan(),
        node_id=own,
        address=(SENDER_ADDRESS, gossip_port),
        record_port=record_port,
        meta=b"teller",
        history=History(
            own_logs=[log for log in logs if log.owner == own],
            replicas=[log for log in logs if log.owner != own],
        ),
        keyring=Keyring([RING_KEY]),
        label=bytes.fromhex(CLUSTER),
        identity=None,
        rng=random.SystemRandom(),
        now=trio.current_time(),
        seeds=[(ADDRESS, gossip_port)],
    )
    node.records.set_scope_members(
        scope, frozenset(one.node_id for one in elsewhere.identities), trio.current_time()
    )
    node.records.enter_scope(scope, trio.current_time())
    driver = Driver(
        node,
        sockets,
        on_events=lambda _: None,
    )
    ticks = Ticks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_collections_short)
        # Its first collection visits all those records, and is no work of the gossip's. Tasks that begin together run
        # in either order, so it would be measured in every other run.
        await trio.lowlevel.checkpoint()
        nursery.start_soon(ticks.run)
        nursery.start_soon(driver.run)
        await trio.to_thread.run_sync(sys.stdin.read)
        print(await ticks.taken())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    network, *numbers = sys.argv[1:]
    first, last, low, high, gossip_port, record_port = map(int, numbers)
    trio.run(tell, NetworkId(network), range(first, last), range(low, high), gossip_port, record_port)
