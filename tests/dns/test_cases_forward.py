"""The checklist's cases about forwarding and the cache, against servers that misbehave on loopback."""

from __future__ import annotations

import time

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
import trio
from dns.rcode import Rcode

from netdns.resolver import Transport
from netdns.testing import ReceivedQuery, UpstreamDouble, listening_pair
from tests.dns.conftest import Play
from tests.dns.world import World, option, receive_message, respond, respond_to, send_message, silence, texts

SOA = ("test.", 60, "SOA", "ns.test. who.test. 1 2 3 4 30")
GOOD = respond(("a.test.", 60, "A", "192.0.2.1"))


def echo(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
    """An A record for whatever was asked."""
    qname = dns.message.from_wire(heard.payload).question[0].name.to_text()
    return [(0.0, respond_to(heard, (qname, 60, "A", "192.0.2.1")).to_wire())]


def test_t85_unknown_types_pass_untouched(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.upstream(respond(("x.test.", 60, "TYPE65280", r"\# 4 0a0b0c0d")))
        assert texts(await world.ask("x.test", "TYPE65280")) == {r"\# 4 0a0b0c0d"}

    play(scenario)


def test_spelling_of_the_question_is_the_clients(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(GOOD)
        for spelled in ("A.tEst.", "a.TEST."):
            reply = await world.ask(spelled)
            assert reply.question[0].name.to_text() == spelled
            assert reply.answer[0].name.to_text() == spelled
        assert len(upstream.heard) == 1

    play(scenario)


def test_t110_t111_random_port_and_id(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(echo)
        for number in range(200):
            await world.send(dns.message.make_query(f"n{number}.test", "A", id=7))
        ports = {heard.peer_port for heard in upstream.heard}
        ids = {heard.payload[:2] for heard in upstream.heard}
        assert len(ports) >= 190
        assert max(ports) - min(ports) > 16_384
        assert len(ids) >= 190

    play(scenario)


def test_t113_t114_forged_answers_are_dropped_and_the_wait_goes_on(play: Play) -> None:
    async def scenario(world: World) -> None:
        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            good = respond_to(heard, ("a.test.", 60, "A", "192.0.2.1")).to_wire()
            bad = respond_to(heard, ("a.test.", 60, "A", "203.0.113.66")).to_wire()
            other_id = bytes([bad[0] ^ 1]) + bad[1:]
            other_name = bad.replace(b"\x01a\x04test", b"\x01b\x04test")
            other_type = bad.replace(b"\x04test\x00\x00\x01", b"\x04test\x00\x00\x1c")
            a_query = bad[:2] + bytes([bad[2] & 0x7F]) + bad[3:]
            forged = (other_id, other_name, other_type, a_query, b"", b"rubbish")
            return [(0.0, payload) for payload in forged] + [(0.05, good)]

        world.upstream(behave)
        assert texts(await world.ask("a.test")) == {"192.0.2.1"}
        assert world.resolver.statistics()["upstream_refused_answers"] == 6

    play(scenario)


def test_many_forged_answers_make_the_flight_go_on_by_tcp(play: Play) -> None:
    async def scenario(world: World) -> None:
        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            good = respond_to(heard, ("a.test.", 60, "A", "192.0.2.1")).to_wire()
            if heard.transport is Transport.TCP:
                return [(0.0, good)]
            return [(0.0, bytes([good[0] ^ 1]) + good[1:])] * 8

        upstream = world.upstream(behave)
        assert texts(await world.ask("a.test")) == {"192.0.2.1"}
        assert upstream.heard[-1].transport is Transport.TCP

    play(scenario)


def test_t23_t115_equal_questions_fly_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            return [(0.1, respond_to(heard, ("a.test.", 60, "A", "192.0.2.1")).to_wire())]

        upstream = world.upstream(behave)
        answered = []

        async def ask() -> None:
            answered.append(texts(await world.ask("a.test")))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
        assert answered == [{"192.0.2.1"}] * 100
        # Beside the question there is one for a loop, because the question arrived again while it was under way.
        assert sorted(b"\x01a\x04test" in heard.payload for heard in upstream.heard) == [False, True]

    play(scenario)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
def test_t117_a_server_that_cannot_is_followed_by_the_next(play: Play, rcode: Rcode) -> None:
    async def scenario(world: World) -> None:
        world.upstream(respond(rcode=rcode))
        world.upstream(GOOD)
        started = time.monotonic()
        assert texts(await world.ask("a.test")) == {"192.0.2.1"}
        assert time.monotonic() - started < 1

    play(scenario)


def test_t118_no_such_name_is_an_answer(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.upstream(respond(rcode=dns.rcode.NXDOMAIN, authority=[SOA]))
        second = world.upstream(GOOD)
        assert (await world.ask("no.test")).rcode() == dns.rcode.NXDOMAIN
        assert second.heard == []

    play(scenario)


def test_t119_a_server_without_edns(play: Play) -> None:
    async def scenario(world: World) -> None:
        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            if dns.message.from_wire(heard.payload).edns >= 0:
                return [(0.0, heard.payload[:2] + b"\x80\x01" + bytes(8))]
            return echo(heard)

        upstream = world.upstream(behave)
        assert texts(await world.ask("a.test", use_edns=0)) == {"192.0.2.1"}
        assert len(upstream.heard) == 2
        assert texts(await world.ask("b.test", use_edns=0)) == {"192.0.2.1"}
        assert len(upstream.heard) == 3

    play(scenario)


def test_t120_a_lost_query_is_sent_again_soon(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(lambda heard: echo(heard) if len(upstream.heard) > 1 else [])
        started = time.monotonic()
        assert texts(await world.ask("a.test")) == {"192.0.2.1"}
        assert time.monotonic() - started < 1.2

    play(scenario)


def test_t121_a_silent_first_server_costs_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        silent = world.upstream(silence)
        world.upstream(echo)
        for number in range(20):
            assert texts(await world.ask(f"n{number}.test")) == {"192.0.2.1"}
        # Once it has owed an answer for 100 ms, the second is asked at the same time: a repeated query shows a wait.
        assert len(silent.heard) == 20

    play(scenario)


def test_a_first_server_that_is_not_there_costs_nothing(play: Play) -> None:
    async def scenario(world: World) -> None:
        udp, tcp = listening_pair()
        absent = udp.getsockname()
        udp.close()
        tcp.close()
        present = world.upstream(echo)
        world.resolver.set_default_upstreams([absent, present.address])
        assert texts(await world.ask("a.test")) == {"192.0.2.1"}
        assert world.resolver.statistics()["upstream_network_errors"] == 1

    play(scenario)


def test_t122_t123_all_silent_ends_before_the_client_gives_up_and_is_remembered(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        first, second = world.upstream(silence), world.upstream(silence)
        started = time.monotonic()
        reply = await world.ask("a.test", use_edns=0)
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert [option.code for option in reply.options] == [dns.edns.EDECode.NO_REACHABLE_AUTHORITY]
        assert 4 < time.monotonic() - started < 5
        sent = len([one for one in first.heard + second.heard if b"\x01a\x04test" in one.payload])
        assert 4 <= sent <= 12
        assert (await world.ask("a.test")).rcode() == dns.rcode.SERVFAIL
        again = len([one for one in first.heard + second.heard if b"\x01a\x04test" in one.payload])
        assert again == sent

    play(scenario)


def test_no_upstream_at_all(play: Play) -> None:
    async def scenario(world: World) -> None:
        assert (await world.ask("a.test")).rcode() == dns.rcode.SERVFAIL

    play(scenario)


def test_t124_truncated_upstream_is_asked_by_tcp(play: Play) -> None:
    async def scenario(world: World) -> None:
        rows = [("a.test.", 60, "A", f"192.0.2.{number}") for number in range(100)]

        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            if heard.transport is Transport.TCP:
                return [(0.0, respond_to(heard, *rows).to_wire(max_size=65535))]
            return [(0.0, respond_to(heard, flags=dns.flags.TC).to_wire())]

        upstream = world.upstream(behave)
        small = await world.ask("a.test")
        assert small.flags & dns.flags.TC
        stream = await world.stream()
        await send_message(stream, dns.message.make_query("a.test", "A"))
        assert len(texts(await receive_message(stream))) == 100
        assert [heard.transport for heard in upstream.heard] == [Transport.UDP, Transport.TCP]

    play(scenario, budget_s=3.5)


@pytest.mark.parametrize("cut_bytes", [0, 1, 5, 13, 15])
def test_t124_an_answer_that_is_cut_inside_a_record_is_truncated_and_no_rubbish(
    play: Play, cut_bytes: int
) -> None:
    """As Docker's resolver and others cut it: to 512 octets, wherever that is."""

    async def scenario(world: World) -> None:
        rows = [("a.test.", 60, "A", f"192.0.2.{number}") for number in range(100)]

        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            wire = bytearray(respond_to(heard, *rows).to_wire(max_size=65535))
            if heard.transport is Transport.TCP:
                return [(0.0, bytes(wire))]
            wire[2] |= 0x02
            return [(0.0, bytes(wire[: 12 + 12 + 16 * 20 + cut_bytes]))]

        upstream = world.upstream(behave)
        assert len(texts(await world.ask("a.test", use_edns=0, payload=4096))) > 20
        assert [heard.transport for heard in upstream.heard] == [Transport.UDP, Transport.TCP]
        assert "upstream_refused_answers" not in world.resolver.statistics()

    play(scenario)


def test_what_stays_truncated_by_tcp_is_handed_on_as_that(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.upstream(respond(("a.test.", 60, "A", "192.0.2.1"), flags=dns.flags.TC))
        reply = await world.ask("a.test")
        assert reply.flags & dns.flags.TC
        assert world.resolver.statistics()["cache_entries"] == 0

    play(scenario)


def test_t125_truncated_and_no_tcp_is_a_failure_that_caches_nothing_else(play: Play) -> None:
    async def scenario(world: World) -> None:
        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            if heard.transport is Transport.TCP:
                return []
            return [(0.0, respond_to(heard, ("a.test.", 60, "A", "192.0.2.1"), flags=dns.flags.TC).to_wire())]

        world.upstream(behave)
        assert (await world.ask("a.test")).rcode() == dns.rcode.SERVFAIL
        assert world.resolver.statistics()["cache_entries"] == 1  # the failure

    play(scenario, budget_s=0.6)


def test_t126_a_large_answer_is_cut_to_the_clients_size(play: Play) -> None:
    async def scenario(world: World) -> None:
        rows = [("a.test.", 60, "A", f"192.0.2.{number}") for number in range(55)]
        world.upstream(respond(*rows))
        payload = await world.raw(dns.message.make_query("a.test", "A").to_wire())
        assert payload is not None
        assert 496 < len(payload) <= 512
        assert dns.message.from_wire(payload).flags & dns.flags.TC

    play(scenario)


def test_t127_t128_options_stay_on_their_hop(play: Play) -> None:
    async def scenario(world: World) -> None:
        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            reply = respond_to(heard, ("a.test.", 60, "A", "192.0.2.1"))
            reply.use_edns(0, payload=4000, options=[option(10, b"c" * 16)])
            return [(0.0, reply.to_wire())]

        upstream = world.upstream(behave)
        reply = await world.ask("a.test", use_edns=0, options=[dns.edns.ECSOption("10.1.0.0", 24)])
        assert (reply.options, reply.payload) == ((), 1232)
        assert (await world.ask("a.test")).edns == -1
        assert dns.message.from_wire(upstream.heard[0].payload).options == ()

    play(scenario)


def test_t129_signatures_only_for_those_who_asked(play: Play) -> None:
    async def scenario(world: World) -> None:
        def behave(heard: ReceivedQuery) -> list[tuple[float, bytes]]:
            query = dns.message.from_wire(heard.payload)
            rows = [("s.test.", 60, "A", "192.0.2.1")]
            if query.ednsflags & dns.flags.DO:
                rows.append(("s.test.", 60, "RRSIG", "A 8 2 60 20300101000000 20200101000000 1 test. AAAA"))
            return [(0.0, respond_to(heard, *rows, flags=dns.flags.AD).to_wire())]

        world.upstream(behave)
        signed = await world.ask("s.test", want_dnssec=True)
        assert {rrset.rdtype for rrset in signed.answer} == {dns.rdatatype.A, dns.rdatatype.RRSIG}
        assert not signed.flags & dns.flags.AD
        assert len((await world.ask("s.test")).answer) == 1

    play(scenario)


def test_t137_t142_views_do_not_share(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.listen("corp")
        world.upstream(respond(("a.test.", 60, "A", "192.0.2.1")))
        corp = UpstreamDouble(respond(("a.test.", 60, "A", "192.0.2.2")))
        world.nursery.start_soon(corp.run)
        world.resolver.set_upstreams("corp", [corp.address])
        for _ in range(2):
            assert texts(await world.ask("a.test")) == {"192.0.2.1"}
            assert texts(await world.ask("a.test", client="corp")) == {"192.0.2.2"}

    play(scenario)


def test_t138_an_upstream_that_is_ourselves(play: Play) -> None:
    async def scenario(world: World) -> None:
        good = world.upstream(echo)
        world.resolver.set_default_upstreams([world.addresses["ask"], good.address])
        started = time.monotonic()
        for number in range(5):
            assert texts(await world.ask(f"n{number}.test")) == {"192.0.2.1"}
        assert time.monotonic() - started < 1
        assert world.resolver.statistics()["upstream_loops"] == 1
        world.resolver.set_default_upstreams([world.addresses["ask"]])
        assert (await world.ask("x.test")).rcode() == dns.rcode.SERVFAIL
        await world.is_alive()

    play(scenario)


def test_t140_a_loop_of_aliases_is_the_clients_business(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.upstream(respond(("a.test.", 60, "CNAME", "b.test."), ("b.test.", 60, "CNAME", "a.test.")))
        reply = await world.ask("a.test")
        assert len(reply.answer) == 2

    play(scenario)


def test_t143_new_upstream_servers_are_used_at_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.upstream(respond(("a.test.", 60, "A", "192.0.2.1")))
        assert texts(await world.ask("a.test")) == {"192.0.2.1"}
        world.upstreams.clear()
        world.upstream(respond(("a.test.", 60, "A", "192.0.2.2")))
        assert texts(await world.ask("a.test")) == {"192.0.2.2"}

    play(scenario)


def test_too_many_waiting_queries_fail_at_once_and_harm_nobody_else(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.listen("other")
        world.upstream(lambda heard: echo(heard) if b"quick" in heard.payload else [])
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(world.addresses["ask"])
            for number in range(5):
                await sock.send(dns.message.make_query(f"n{number}.test", "A").to_wire())
            refused = dns.message.from_wire(await sock.recv(512))
            assert refused.rcode() == dns.rcode.SERVFAIL
            assert refused.question[0].name.to_text() == "n4.test."
        assert texts(await world.ask("quick.test", client="other")) == {"192.0.2.1"}
        await world.is_alive()

    play(scenario, max_waiting_per_client=4)
