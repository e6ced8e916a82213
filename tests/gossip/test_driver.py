"""The driver on real sockets of the loopback interface."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable

import pytest
import trio
import trio.testing

from netgossip import slice_runner
from netgossip.codec.meta import record_address
from netgossip.codec.sealing import Keyring
from netgossip.config import GossipConfig
from netgossip.driver import READ_BYTES, Driver
from netgossip.errors import GossipUsageError
from netgossip.node import GossipNode
from netgossip.records.record_log import RecordLog
from netgossip.slices import ENTRIES_PER_SLICE
from netgossip.sockets import open_sockets
from netgossip.types import CLUSTER_SCOPE, Address, Channel, EntriesChanged, Entry, Event, MemberState

BOUND_S = 60.0


class Host:
    """A node with its driver at 127.0.0.1."""

    def __init__(self, number: int, *, seeds: tuple[Address, ...] = (), ip: str = "127.0.0.1") -> None:
        sockets = open_sockets(ip, *free_ports())
        self.address: Address = sockets.udp[Channel.GOSSIP].getsockname()[:2]
        self.events: list[Event] = []
        self.node = GossipNode(
            config=GossipConfig.local(),
            node_id=f"{number:032x}",
            address=self.address,
            record_port=sockets.udp[Channel.RECORD].getsockname()[1],
            meta=b"meta",
            keyring=Keyring([bytes(32)]),
            label=b"label",
            identity=None,
            rng=random.Random(number),
            now=trio.current_time(),
            seeds=seeds,
        )
        self.driver = Driver(
            self.node,
            sockets,
            on_events=self.events.extend,
        )

    def put(self, key: bytes, value: bytes) -> None:
        entries = self.node.records.prepare([(CLUSTER_SCOPE, key, value)])
        self.node.records.commit(entries, trio.current_time())
        self.driver.flush_nowait()


def free_ports() -> tuple[int, int]:
    """Two different ones: the first is held until the second is chosen."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(BOUND_S):
        while not condition():
            await trio.sleep(0.005)


def sees(host: Host, other: Host, state: MemberState) -> bool:
    member = host.node.members().get(other.node.node_id)
    return member is not None and member.state is state


def test_two_nodes_meet_share_records_and_notice_a_death() -> None:
    async def main() -> None:
        one = Host(1)
        two = Host(2, seeds=(one.address,))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.driver.run)
            await nursery.start(run_until_told, two)
            await wait_until(lambda: sees(one, two, MemberState.ALIVE) and sees(two, one, MemberState.ALIVE))
            one.put(b"small", b"1")
            one.put(b"large", bytes(60_000))
            await wait_until(lambda: not one.node.records.unacknowledged(CLUSTER_SCOPE))
            got = {e.key for c in two.events if isinstance(c, EntriesChanged) for e in c.entries}
            assert got == {b"small", b"large"}
            assert one.node.statistics()["record_streams_dialled"] >= 1
            stop_of[two.node.node_id].cancel()
            await wait_until(lambda: sees(one, two, MemberState.DEAD))
            nursery.cancel_scope.cancel()

    trio.run(main)


stop_of: dict[str, trio.CancelScope] = {}


async def run_until_told(
    host: Host, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.CancelScope() as scope:
        stop_of[host.node.node_id] = scope
        task_status.started()
        await host.driver.run()


class Batches(trio.abc.Instrument):
    """Bytes of streams that a node is given, by what the event loop does between two looks for I/O."""

    def __init__(self, node: GossipNode) -> None:
        self.sizes: list[int] = []
        self._now = 0
        handle = node.handle_stream_data

        def counting(stream_id: int, data: bytes, now: float) -> None:
            self._now += len(data)
            handle(stream_id, data, now)

        node.handle_stream_data = counting  # type: ignore[method-assign]

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self.sizes.append(self._now)
        self._now = 0


class Puts(trio.abc.Instrument):
    """Entries that are put into one node's logs, by what the event loop does between two looks for I/O."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._now = 0
        put = RecordLog.put

        def counting(log: RecordLog, entry: Entry) -> None:
            self._now += 1
            put(log, entry)

        monkeypatch.setattr(RecordLog, "put", counting)

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self.sizes.append(self._now)
        self._now = 0


def test_others_run_while_a_large_log_is_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_runner, "STEPS_S", 0.0)

    async def main() -> None:
        one = Host(1)
        two = Host(2, seeds=(one.address,))
        for start in range(0, 4000, 250):
            changes = [(CLUSTER_SCOPE, b"%d" % at, bytes(100)) for at in range(start, start + 250)]
            two.node.records.commit(two.node.records.prepare(changes), trio.current_time())
        puts = Puts(monkeypatch)
        trio.lowlevel.add_instrument(puts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.driver.run)
            nursery.start_soon(two.driver.run)
            await wait_until(
                lambda: any(map(len, (log.entries for log in one.node.records.logs(CLUSTER_SCOPE))))
            )
            await wait_until(lambda: not two.node.records.unacknowledged(CLUSTER_SCOPE))
            nursery.cancel_scope.cancel()
        (log,) = one.node.records.logs(CLUSTER_SCOPE)
        assert len(log.entries) == 4000
        assert max(puts.sizes) <= ENTRIES_PER_SLICE

    trio.run(main)


def test_many_streams_at_once_are_taken_in_turn() -> None:
    async def main() -> None:
        hosts = [Host(1)]
        hosts += [Host(number, seeds=(hosts[0].address,)) for number in range(2, 7)]
        for host in hosts[1:]:
            changes = [(CLUSTER_SCOPE, b"%d" % at, bytes(40_000)) for at in range(20)]
            host.node.records.commit(host.node.records.prepare(changes), trio.current_time())
        batches = Batches(hosts[0].node)
        trio.lowlevel.add_instrument(batches)
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(host.driver.run)
            await wait_until(lambda: len(hosts[0].node.records.logs(CLUSTER_SCOPE)) == 5)
            nursery.cancel_scope.cancel()
        assert sum(batches.sizes) >= 5 * 20 * 40_000
        assert max(batches.sizes) <= READ_BYTES

    trio.run(main)


def test_ipv6() -> None:
    async def main() -> None:
        one = Host(1, ip="::1")
        two = Host(2, ip="::1", seeds=(one.address,))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.driver.run)
            nursery.start_soon(two.driver.run)
            await wait_until(lambda: sees(one, two, MemberState.ALIVE) and sees(two, one, MemberState.ALIVE))
            one.put(b"large", bytes(60_000))
            await wait_until(lambda: not one.node.records.unacknowledged(CLUSTER_SCOPE))
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_garbage_and_hangups_on_both_ports_are_survived() -> None:
    async def main() -> None:
        host = Host(1)
        record_port = host.node._record_port
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.driver.run)
            for port in (host.address[1], record_port):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                    udp.sendto(b"", ("127.0.0.1", port))
                    udp.sendto(random.Random(1).randbytes(1000), ("127.0.0.1", port))
                for handshake in (
                    b"",
                    b"\x00" * 100,
                    b"N" + bytes(200),
                    b"J",
                    random.Random(2).randbytes(500),
                ):
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                    await stream.send_all(handshake)
                    await stream.aclose()
            await wait_until(
                lambda: (
                    sum(v for k, v in host.node.statistics().items() if "_refused" in k) >= 8
                    and not host.driver._streams
                )
            )
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_busy_port_is_named_and_nothing_stays_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(GossipUsageError, match=rf"127\.0\.0\.1 port {port} \(TCP\) is in use"):
            open_sockets("127.0.0.1", free_ports()[0], port)
    with pytest.raises(GossipUsageError, match=r"203\.0\.113\.1 port"):
        open_sockets("203.0.113.1", *free_ports())


def test_events_may_command_the_node() -> None:
    async def main() -> None:
        host = Host(1)
        seen: list[Event] = []

        def on_events(events: tuple[Event, ...]) -> None:
            seen.extend(events)
            if sum(isinstance(event, EntriesChanged) for event in seen) < 3:
                host.put(b"again", b"1")

        host.driver._on_events = on_events
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.driver.run)
            await wait_until(lambda: sum(isinstance(event, EntriesChanged) for event in seen) == 3)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_lack_of_descriptors_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        one = Host(1)
        two = Host(2, seeds=(one.address,))
        real, refused = trio.socket.socket, 0

        def exhausted(*arguments: int) -> trio.socket.SocketType:
            nonlocal refused
            if refused < 3:
                refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return real(*arguments)

        monkeypatch.setattr(trio.socket, "socket", exhausted)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.driver.run)
            nursery.start_soon(two.driver.run)
            await wait_until(lambda: refused == 3 and sees(two, one, MemberState.ALIVE))
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_broadcast_after_a_quiet_time_is_no_lag() -> None:
    async def main() -> None:
        one = Host(1)
        two = Host(2, seeds=(one.address,))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.driver.run)
            nursery.start_soon(two.driver.run)
            await wait_until(lambda: sees(one, two, MemberState.ALIVE))
            await trio.sleep(10)
            two.node.set_meta(b"news", trio.current_time())
            two.driver.flush_nowait()
            await trio.sleep(1)
            assert two.node.statistics()["gossip_lags"] == 0
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.002))


def test_a_node_that_moves_to_another_address_is_found_there() -> None:
    async def main() -> None:
        one = Host(1)
        two = Host(2, seeds=(one.address,))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.driver.run)
            nursery.start_soon(two.driver.run)
            await wait_until(lambda: sees(one, two, MemberState.ALIVE) and sees(two, one, MemberState.ALIVE))
            ports = two.address[1], record_address(two.node.membership.members()[two.node.node_id])
            assert ports[1] is not None
            two.driver.rebind(open_sockets("127.0.0.2", ports[0], ports[1][1]))
            two.node.membership.set_address(("127.0.0.2", ports[0]), trio.current_time())
            two.driver.flush_nowait()
            two.put(b"first", b"word")
            await wait_until(lambda: one.node.members()[two.node.node_id].address[0] == "127.0.0.2")
            one.put(b"large", bytes(60_000))
            await wait_until(lambda: not one.node.records.unacknowledged(CLUSTER_SCOPE))
            got = {(e.owner, e.key) for c in one.events if isinstance(c, EntriesChanged) for e in c.entries}
            assert (two.node.node_id, b"first") in got
            assert sees(one, two, MemberState.ALIVE)
            with socket.socket() as probe:  # no socket listens at the old address any more
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has been closed may linger
                probe.bind(("127.0.0.1", ports[0]))
            nursery.cancel_scope.cancel()

    trio.run(main)
