"""Many datagrams by one system call: every one has its own answer, none is lost, and it costs two calls."""

from __future__ import annotations

import random
import socket
import time
from array import array
from collections.abc import Iterator

import dns.message
import pytest
import trio

from netdns import server as driver
from netdns.batch import DATAGRAM_BYTES, SIZE, Batch, open_batch
from netdns.resolver import Resolver, Transport
from netdns.server import Server
from netdns.testing import listening_pair
from tests.dns.world import make_source

NAMES = ("web.front.mesh.internal", "db.back.mesh.internal", "six.front.mesh.internal", "no.mesh.internal")


@pytest.fixture
def batch() -> Batch:
    found = open_batch()
    assert found is not None
    return found


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        client.settimeout(5)
        yield server, client


def test_each_datagram_is_taken_whole_and_answered_to_where_it_came_from(
    batch: Batch, pair: tuple[socket.socket, ...]
) -> None:
    server, client = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.3", 0))
        other.settimeout(5)
        client.send(b"idone")
        other.sendto(b"id" + b"x" * DATAGRAM_BYTES, server.getsockname())
        client.send(b"")
        assert batch.receive(server.fileno()) == [5, DATAGRAM_BYTES, 0]
        assert [batch.peer(n) for n in range(3)] == [
            client.getsockname(),
            other.getsockname(),
            client.getsockname(),
        ]
        assert bytes(batch.slots[0][:5]) == b"idone"
        for number, text in enumerate((b"first", b"second", b"third")):
            batch.slots[number][: len(text)] = text
            batch.reply_bytes[number] = len(text)
        assert batch.send(server.fileno(), 0, 3) == 0
        assert [client.recv(99), other.recv(99), client.recv(99)] == [b"first", b"second", b"third"]
    assert batch.receive(server.fileno()) == []


def test_no_more_is_taken_than_fits(batch: Batch, pair: tuple[socket.socket, ...]) -> None:
    server, client = pair
    for number in range(SIZE + 3):
        client.send(b"%d" % number)
    assert len(batch.receive(server.fileno())) == SIZE
    assert [bytes(batch.slots[n][:1]) for n in range(len(batch.receive(server.fileno())))] == [b"6"] * 3


def test_one_that_can_not_be_sent_costs_the_others_nothing(
    batch: Batch, pair: tuple[socket.socket, ...]
) -> None:
    server, client = pair
    for text in (b"a", b"b", b"c"):
        client.send(text)
    for number, _ in enumerate(batch.receive(server.fileno())):
        batch.reply_bytes[number] = 1
    batch._names[16 + 2 : 16 + 4] = bytes(2)  # nothing can be sent to port 0
    assert batch.send(server.fileno(), 0, 3) == 1
    assert [client.recv(9), client.recv(9)] == [b"a", b"c"]


def test_a_socket_that_is_closed_is_an_error(batch: Batch) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        batch.receive(-1)


def test_where_there_are_no_such_calls_there_is_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **options: object())
    assert open_batch() is None


class Counting(Batch):
    """A batch that counts its calls."""

    def __init__(self, batch: Batch) -> None:
        self.__dict__.update(vars(batch))
        self._batch = batch
        self.calls: list[str] = []

    def receive(self, descriptor: int) -> list[int]:
        self.calls.append("receive")
        return self._batch.receive(descriptor)

    def send(self, descriptor: int, first: int, end: int) -> int:
        self.calls.append(f"send {end - first}")
        return self._batch.send(descriptor, first, end)


def questions(count: int) -> list[bytes]:
    """The names in turn, each with an id of its own."""
    names = [NAMES[number % len(NAMES)] for number in range(count)]
    return [dns.message.make_query(one, "A", id=number).to_wire() for number, one in enumerate(names)]


def replies(
    server: Server, client: socket.socket, payloads: list[bytes], rounds: int = 1
) -> list[dict[int, bytes]]:
    """Send all before the server is given a turn, and return what it says, by id, of each round."""
    said: list[dict[int, bytes]] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            for _ in range(rounds):
                for payload in payloads:
                    client.send(payload)
                heard: dict[int, bytes] = {}
                with trio.fail_after(8):
                    while len(heard) < len(payloads):
                        await trio.lowlevel.wait_readable(client)
                        reply = client.recv(4096)
                        heard[int.from_bytes(reply[:2], "big")] = reply
                said.append(heard)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return said


@pytest.mark.parametrize("way", ["batch", "singly"])
def test_all_are_answered_and_alike_however_they_are_taken(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """First none has a finished answer and most are left for later turns; then all have."""
    if way == "singly":
        monkeypatch.setattr(driver, "open_batch", lambda: None)
    resolver = Resolver(source=make_source(), rng=random.Random(1), now=time.monotonic())
    server = Server(resolver)
    udp, tcp = listening_pair()
    address = udp.getsockname()
    server.add_listener("ask", udp, tcp)
    payloads = questions(60)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(address)
        for heard in replies(server, client, payloads, rounds=2):
            for number, payload in enumerate(payloads):
                query, reply = dns.message.from_wire(payload), dns.message.from_wire(heard[number])
                assert query.is_response(reply)
                expected = {"web": 3, "db": 1, "six": 0, "no": 0}[
                    NAMES[number % len(NAMES)].partition(".")[0]
                ]
                assert sum(len(rrset) for rrset in reply.answer) == expected
    statistics = resolver.statistics()
    assert statistics["queries"] == 2 * len(payloads)
    assert statistics["hot_hits"] == 2 * len(payloads) - len(NAMES)
    assert statistics.get("send_errors", 0) == 0


@pytest.mark.parametrize(
    ("new", "calls"),
    [((), ["receive", "send 50"]), ((20,), ["receive", "send 20", "send 29"])],
    ids=["all finished", "one that is not"],
)
def test_what_is_finished_costs_one_call_to_take_and_one_to_send(
    new: tuple[int, ...], calls: list[str]
) -> None:
    """A query without a finished answer between the others parts them; none of them waits for it."""
    resolver = Resolver(source=make_source(), rng=random.Random(1), now=time.monotonic())
    server = Server(resolver)
    udp, tcp = listening_pair()
    address = udp.getsockname()
    server.add_listener("ask", udp, tcp)
    for payload in questions(len(NAMES)):
        resolver.handle_query(payload, "ask", Transport.UDP, None, time.monotonic())
    payloads = questions(50)
    for number in new:
        payloads[number] = dns.message.make_query("new.mesh.internal", "A", id=number).to_wire()
    assert server._batch is not None
    counting = server._batch = Counting(server._batch)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(address)
        replies(server, client, payloads)
    assert counting.calls == calls


def test_an_answer_that_is_longer_than_a_slot_has_another_way() -> None:
    resolver = Resolver(source=make_source(), rng=random.Random(1), now=time.monotonic())
    payload = questions(1)[0]
    resolver.handle_query(payload, "ask", Transport.UDP, None, time.monotonic())
    table = resolver.hot_table("ask")
    sizes = memoryview(array("L", [0, 0]))
    for room, done in ((4096, 1), (len(payload), 0)):
        slot = memoryview(bytearray(room))
        slot[: len(payload)] = payload
        assert table.answer_in_place([slot], [len(payload)], sizes, 0, time.monotonic()) == done
    assert bytes(slot) == payload
