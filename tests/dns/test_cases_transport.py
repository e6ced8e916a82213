"""The checklist's cases about EDNS, size, truncation and TCP, and the driver's own promises."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Hashable
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
import trio

from netdns import server
from netdns.errors import UsageError
from netdns.source import Found, NoData, NoSuchName, NotOurs
from netdns.testing import ReceivedQuery, listening_pair
from tests.dns.conftest import Play
from tests.dns.world import WEB_A, World, option, receive_message, respond_to, send_message, silence, texts

EDNS: list[dict[str, Any]] = [{}, {"use_edns": 0, "payload": 512}]
"""Without, and with."""


def test_t50_t51_opt_only_for_those_who_sent_one(play: Play) -> None:
    async def scenario(world: World) -> None:
        assert (await world.ask("web")).edns == -1
        for qname in ("web", "nosuch.mesh.internal"):
            reply = await world.ask(qname, use_edns=0, payload=4096)
            assert (reply.edns, reply.payload, reply.ednsflags, reply.options) == (0, 1232, 0, ())

    play(scenario)


def test_t52_badvers(play: Play) -> None:
    async def scenario(world: World) -> None:
        reply = await world.ask("web", use_edns=1)
        assert reply.rcode() == dns.rcode.BADVERS
        assert (reply.edns, reply.answer) == (0, [])

    play(scenario)


def test_t53_t54_t69_t69c_options_and_flags_are_not_echoed(play: Play) -> None:
    async def scenario(world: World) -> None:
        # The last is keepalive, which has no meaning by UDP.
        options = [option(65001, b"\xab\xcd"), option(10, b"12345678"), option(11, b"")]
        reply = await world.ask("web", use_edns=0, ednsflags=0x8080, options=options)
        assert texts(reply) == set(WEB_A)
        assert reply.options == ()
        assert reply.ednsflags == 0x8000  # DO is copied (RFC 3225 3), the unknown bit is not

    play(scenario)


@pytest.mark.timeout(30)
def test_a_copy_of_a_socket_that_waits_holds_nobody_up(play: Play) -> None:
    """All copies of a socket wait, or none: the agent's copies are of the process's sockets."""

    async def scenario(world: World) -> None:
        udp, tcp = listening_pair()
        world.server.remove_listener("ask")
        world.addresses["ask"] = udp.getsockname()
        world.server.add_listener("ask", udp, tcp)
        os.set_blocking(udp.fileno(), True)
        for _ in range(2):
            assert texts(await world.ask("web")) == set(WEB_A)

    play(scenario)


@pytest.mark.parametrize(
    ("edns", "limit_bytes"),
    [
        pytest.param({}, 512, id="T57"),
        pytest.param({"use_edns": 0, "payload": 10}, 512, id="T56"),
        pytest.param({"use_edns": 0, "payload": 512}, 512, id="T59"),
        pytest.param({"use_edns": 0, "payload": 700}, 700, id="between"),
        pytest.param({"use_edns": 0, "payload": 4096}, 1232, id="T58"),
    ],
)
def test_truncation_keeps_whole_records(play: Play, edns: dict[str, Any], limit_bytes: int) -> None:
    async def scenario(world: World) -> None:
        query = dns.message.make_query("huge", "A", **edns)
        payload = await world.raw(query.to_wire())
        assert payload is not None
        reply = dns.message.from_wire(payload)
        assert reply.flags & dns.flags.TC
        assert limit_bytes - 16 < len(payload) <= limit_bytes  # one more A is 16 octets
        assert (reply.edns >= 0) == bool(edns)

    play(scenario)


def test_t61_t62_tcp_gives_all(play: Play) -> None:
    async def scenario(world: World) -> None:
        stream = await world.stream()
        for edns in EDNS:
            await send_message(stream, dns.message.make_query("big", "A", **edns))
            reply = await receive_message(stream)
            assert len(texts(reply)) == 60
            assert not reply.flags & dns.flags.TC

    play(scenario)


def test_t63_t65_one_connection_many_queries_in_any_cut(play: Play) -> None:
    async def scenario(world: World) -> None:
        stream = await world.stream()
        wires = [dns.message.make_query(qname, "A").to_wire() for qname in ("web", "db", "six")]
        for octet in b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires):
            await stream.send_all(bytes([octet]))
        replies = [await receive_message(stream) for _ in wires]
        assert [len(texts(reply)) for reply in replies] == [3, 1, 0]

    play(scenario)


def test_t64_an_answer_does_not_wait_for_an_earlier_query(play: Play) -> None:
    async def scenario(world: World) -> None:
        release = trio.Event()

        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            release.set()
            return [(0.3, respond_to(heard, ("slow.test.", 60, "A", "192.0.2.1")).to_wire())]

        world.upstream(behave)
        stream = await world.stream()
        await send_message(stream, dns.message.make_query("slow.test", "A", id=1))
        await release.wait()
        await send_message(stream, dns.message.make_query("web", "A", id=2))
        await stream.send_eof()  # what is still due comes all the same
        assert (await receive_message(stream)).id == 2
        assert (await receive_message(stream)).id == 1
        assert await stream.receive_some() == b""

    play(scenario)


def test_t66_half_messages_hold_a_connection_for_a_bounded_time_only(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.5)

    async def scenario(world: World) -> None:
        started = time.monotonic()
        silent, half = await world.stream(), await world.stream()
        await half.send_all(b"\x00\x3c" + b"\x00" * 20)
        await world.is_alive()
        assert await silent.receive_some() == b""
        assert await half.receive_some() == b""
        assert 0.4 < time.monotonic() - started < 5
        await world.is_alive()

    play(scenario)


def test_t66_trickled_octets_do_not_keep_a_connection(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.2)

    async def scenario(world: World) -> None:
        stream = await world.stream()
        await stream.send_all(b"\x00\x3c")
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.02)
        await world.is_alive()

    play(scenario)


@pytest.mark.parametrize(
    "message", [b"", b"\x00\x07\x01\x00", b"\x00\x07\x81\x00" + bytes(8)], ids=["empty", "short", "an answer"]
)
def test_what_is_no_query_ends_a_connection_at_once(play: Play, message: bytes) -> None:
    """Also one that comes again and again: it used to count as a sign of life, and then as a query under way."""

    async def scenario(world: World) -> None:
        release = trio.Event()

        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            release.set()
            return [(0.1, respond_to(heard, ("slow.test.", 60, "A", "192.0.2.1")).to_wire())]

        world.upstream(behave)
        stream = await world.stream()
        await send_message(stream, dns.message.make_query("web", "A"))
        await send_message(stream, dns.message.make_query("slow.test", "A"))
        await release.wait()
        await stream.send_all((len(message).to_bytes(2, "big") + message) * 3)
        assert texts(await receive_message(stream)) == set(WEB_A)
        assert texts(await receive_message(stream)) == {"192.0.2.1"}, (
            "what was asked before is still answered"
        )
        with trio.fail_after(server.IDLE_CROWDED_S - 0.5), contextlib.suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        assert world.server.statistics()["refused_not_a_query"] == 1
        await world.wait_until(lambda: world.server.statistics()["connections"] == 0)
        await world.is_alive()

    play(scenario)


def test_t67_the_longest_idle_connection_makes_room(play: Play) -> None:
    async def scenario(world: World) -> None:
        streams = [await world.stream() for _ in range(server.MAX_CONNECTIONS)]
        for stream in streams[1:]:
            await send_message(stream, dns.message.make_query("db", "A"))
            await receive_message(stream)
        late = await world.stream()
        await send_message(late, dns.message.make_query("web", "A"))
        assert texts(await receive_message(late)) == set(WEB_A)
        assert await streams[0].receive_some() == b""
        assert world.server.statistics()["connections"] == server.MAX_CONNECTIONS

    play(scenario)


def test_a_client_that_does_not_read_is_cut_off(play: Play) -> None:
    async def scenario(world: World) -> None:
        stream = await world.stream()
        wire = dns.message.make_query("huge", "A").to_wire()
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all((len(wire).to_bytes(2, "big") + wire) * 100)
        await world.is_alive()

    play(scenario)


def test_t69d_a_client_that_may_not_look_outside(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        world.resolver.set_upstreams("ask", forwarding=False)
        reply = await world.ask("example.test", use_edns=0)
        assert reply.rcode() == dns.rcode.REFUSED
        assert [option.code for option in reply.options] == [dns.edns.EDECode.PROHIBITED]
        stream = await world.stream()
        await send_message(stream, dns.message.make_query("example.test", "A"))
        assert (await receive_message(stream)).rcode() == dns.rcode.REFUSED
        assert upstream.heard == []
        await world.is_alive()

    play(scenario)


def test_t145_removing_a_listener_frees_its_sockets_at_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        udp, tcp = listening_pair()
        world.addresses["gone"] = udp.getsockname()
        world.server.add_listener("gone", udp, tcp)
        stream = await world.stream("gone")
        await send_message(stream, dns.message.make_query("slow.test", "A"))
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(world.addresses["gone"])
            await sock.send(dns.message.make_query("slow.test", "A").to_wire())
            await world.wait_until(lambda: world.resolver.statistics().get("forwarded", 0) == 2)
        world.server.remove_listener("gone")
        world.server.remove_listener("gone")
        assert (udp.fileno(), tcp.fileno()) == (-1, -1)
        assert world.server.statistics()["connections"] == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(world.addresses["gone"])
        with contextlib.suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        await world.is_alive()
        assert len(upstream.heard) >= 1
        assert world.server.clients() == ("ask",)

    play(scenario)


def test_a_query_under_way_is_answered_by_a_listener_that_was_replaced(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RETIRING_S", 1.0)

    async def scenario(world: World) -> None:
        record = ("late.test.", 60, "A", "192.0.2.1")
        world.upstream(lambda heard: [(0.3, respond_to(heard, record).to_wire())])
        old, new = listening_pair(), listening_pair()
        world.addresses["moving"] = old[0].getsockname()
        world.server.add_listener("moving", *old)
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(world.addresses["moving"])
            await sock.send(dns.message.make_query("late.test", "A").to_wire())
            await world.wait_until(lambda: world.resolver.statistics().get("forwarded", 0) == 1)
            world.server.replace_listener("moving", *new)
            world.addresses["moving"] = new[0].getsockname()
            with trio.fail_after(5):
                assert dns.message.from_wire(await sock.recv(4096)).answer
        assert (await world.ask("late.test", client="moving")).answer
        await world.wait_until(lambda: old[0].fileno() == old[1].fileno() == -1)
        assert (await world.ask("late.test", client="moving")).answer
        # Removed, it takes along what retires.
        last = listening_pair()
        world.server.replace_listener("moving", *last)
        world.server.remove_listener("moving")
        assert {one.fileno() for one in (*new, *last)} == {-1}
        udp, tcp = listening_pair()
        with udp, tcp, pytest.raises(UsageError, match="no listener"):
            world.server.replace_listener("moving", udp, tcp)

    play(scenario)


def test_a_second_listener_for_a_client_is_refused(play: Play) -> None:
    async def scenario(world: World) -> None:
        udp, tcp = listening_pair()
        with pytest.raises(UsageError, match="'ask'"):
            world.server.add_listener("ask", udp, tcp)
        udp.close()
        tcp.close()
        await world.is_alive()

    play(scenario)


def test_a_fault_in_the_source_costs_one_answer(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        lookup = world.source.lookup

        def faulty(wire: bytes, rtype: int, client: Hashable) -> Found | NoData | NoSuchName | NotOurs:
            if wire.startswith(b"\x04boom"):
                raise RuntimeError("boom")
            return lookup(wire, rtype, client)

        monkeypatch.setattr(world.source, "lookup", faulty)
        query = dns.message.make_query("boom", "A").to_wire()
        assert await world.raw(query, wait_s=0.1) is None
        await world.is_alive()
        assert world.server._counts.pop("internal_errors") == 1
        assert "boom" in caplog.text

    play(scenario)


def test_at_the_end_of_run_all_sockets_are_closed(play: Play) -> None:
    sockets: list[socket.socket] = []

    async def scenario(world: World) -> None:
        udp, tcp = listening_pair()
        sockets.extend((udp, tcp))
        world.server.add_listener("late", udp, tcp)
        world.addresses["late"] = udp.getsockname()
        assert (await world.ask("web", client="late")).rcode() == dns.rcode.NXDOMAIN

    play(scenario)
    assert [sock.fileno() for sock in sockets] == [-1, -1]


def test_out_of_descriptors_the_server_waits_and_goes_on(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        tcp = world.server._listeners["ask"].tcp
        failures = iter([OSError(24, "Too many open files")] * 2)

        class Failing:
            def __getattr__(self, attribute: str) -> Any:
                return getattr(tcp, attribute)

            def accept(self) -> tuple[socket.socket, tuple[str, int]]:
                for failure in failures:
                    raise failure
                return tcp.accept()

        monkeypatch.setattr(world.server._listeners["ask"], "tcp", Failing())
        await world.is_alive()
        streams = [await world.stream() for _ in range(2)]
        for stream in streams:
            await send_message(stream, dns.message.make_query("web", "A"))
            assert texts(await receive_message(stream)) == set(WEB_A)
        assert world.server.statistics()["accept_errors"] == 2

    play(scenario)
