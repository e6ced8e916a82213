"""The checklist's cases about own data, against a real server on loopback: header, negative answers, types, views."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio

from tests.dns.conftest import Play
from tests.dns.world import (
    WEB_A,
    WEB_AAAA,
    World,
    option,
    receive_message,
    respond,
    send_message,
    silence,
    texts,
)

SOA_MINIMUM_S = 5
EDNS: list[dict[str, Any]] = [{}, {"use_edns": 0}]
"""Without, and with."""


def header(message_id: int, flags: int, *counts: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in (message_id, flags, *counts))


def is_negative(message: dns.message.Message, rcode: str, zone: str = "mesh.internal.") -> bool:
    """NODATA or NXDOMAIN with exactly the zone's SOA, whose TTL is the MINIMUM."""
    (soa,) = message.authority
    assert soa.rdtype == dns.rdatatype.SOA
    assert soa.name.to_text().lower() == zone
    assert soa.ttl <= soa[0].minimum
    return dns.rcode.to_text(message.rcode()) == rcode and not message.answer


def test_t01_t02_header_of_own_and_foreign_answers(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.upstream(respond(("example.test.", 60, "A", "192.0.2.1"), flags=dns.flags.AA | dns.flags.AD))
        own = await world.ask("web")
        assert own.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
        assert texts(own) == set(WEB_A)
        foreign = await world.ask("example.test")
        assert foreign.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA

    play(scenario)


def test_t03_t04_without_recursion_desired(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        own = await world.ask("web", flags=0)
        assert texts(own) == set(WEB_A)
        assert not own.flags & dns.flags.RD
        assert (await world.ask("example.test", flags=0)).rcode() == dns.rcode.REFUSED
        assert upstream.heard == []

    play(scenario)


def test_t05_t06_case_is_kept_and_ignored(play: Play) -> None:
    async def scenario(world: World) -> None:
        mixed = await world.ask("WeB.MeSh.InTeRnAl")
        assert mixed.question[0].name.to_text() == "WeB.MeSh.InTeRnAl."
        assert mixed.answer[0].name.to_text() == "WeB.MeSh.InTeRnAl."
        assert texts(mixed) == set(WEB_A)
        assert texts(await world.ask("DATABASE")) == {"10.2.0.21"}
        assert texts(await world.ask("Web.FRONT.mesh.internal")) == set(WEB_A)
        assert texts(await world.ask("11.0.1.10.IN-ADDR.ARPA", "PTR")) == {"web.h1.front.mesh.internal."}

    play(scenario)


def test_t07_only_ascii_is_folded(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.ask(r"\195\132.mesh.internal")
        assert (await world.ask(r"\195\164.mesh.internal")).rcode() == dns.rcode.NXDOMAIN
        await world.is_alive()

    play(scenario)


QUESTION_WEB = b"\x03web\x00\x00\x01\x00\x01"


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(header(7, 0x0100, 0, 0, 0, 0), id="T08-no-question"),
        pytest.param(header(7, 0x0100, 2, 0, 0, 0) + QUESTION_WEB * 2, id="T09-two-questions"),
        pytest.param(
            header(7, 0x0100, 1, 0, 0, 0) + b"\x40" + b"a" * 64 + b"\x00\x00\x01\x00\x01", id="T11-long-label"
        ),
        pytest.param(
            header(7, 0x0100, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\x00\x00\x01\x00\x01",
            id="T11-long-name",
        ),
        pytest.param(header(7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01", id="T11-pointer-loop"),
        pytest.param(
            header(7, 0x0100, 1, 0, 0, 2) + QUESTION_WEB + (b"\x00\x00\x29" + bytes(8)) * 2, id="T55-two-OPT"
        ),
        pytest.param(
            header(7, 0x0100, 1, 0, 0, 1) + QUESTION_WEB + b"\x01x\x00\x00\x29" + bytes(8), id="T55-OPT-owner"
        ),
        pytest.param(header(7, 0x0100, 1, 0, 0, 65535) + QUESTION_WEB, id="counts-without-records"),
        pytest.param(
            header(7, 0x0100, 1, 0, 0, 1)
            + QUESTION_WEB
            + b"\x00\x00\x29"
            + bytes(6)
            + b"\x00\x05\x00\x0a\x00\x01\x01",
            id="T69b-cookie-of-one-octet",
        ),
    ],
)
def test_malformed_queries_get_formerr(play: Play, payload: bytes) -> None:
    async def scenario(world: World) -> None:
        reply = await world.raw(payload)
        assert reply is not None
        assert reply[:2] == payload[:2]
        assert reply[2] & 0x80
        assert reply[3] & 0xF == dns.rcode.FORMERR
        assert world.server.statistics()["refused_format"] == 1
        await world.is_alive()

    play(scenario)


def test_t12_octets_behind_the_message_are_no_part_of_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(respond(("a.test.", 60, "A", "192.0.2.1")))
        behave = upstream.behave
        upstream.behave = lambda heard: [(delay_s, wire + b"rubbish") for delay_s, wire in behave(heard)]
        for qname, data in (("web", set(WEB_A)), ("a.test", {"192.0.2.1"})):
            for opt in EDNS:
                query = dns.message.make_query(qname, "A", **opt)
                payload = await world.raw(query.to_wire() + b"rubbish")
                assert payload is not None
                reply = dns.message.from_wire(payload)  # which takes no octet too many
                assert texts(reply) == data
                assert reply.edns == query.edns

    play(scenario)


BAD_COOKIE = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x05\x00\x0a\x00\x01\x01"
OPT = BAD_COOKIE[:9] + b"\x00\x00"


@pytest.mark.parametrize(
    ("payload", "rcode", "question", "edns"),
    [
        pytest.param(header(7, 0x0100, 1, 0, 0, 1) + QUESTION_WEB + BAD_COOKIE, "FORMERR", True, 0),
        pytest.param(header(7, 0x0100, 1, 0, 0, 2) + QUESTION_WEB + OPT * 2, "FORMERR", True, 0),
        pytest.param(header(7, 0x0100, 1, 0, 1, 0) + QUESTION_WEB + OPT, "FORMERR", True, 0),
        pytest.param(header(7, 0x0100, 1, 0, 0, 1) + QUESTION_WEB + OPT[:-1], "FORMERR", True, -1),
        pytest.param(header(7, 0x0100, 0, 0, 0, 1) + OPT, "FORMERR", False, 0),
        pytest.param(header(7, 0x0100, 2, 0, 0, 1) + QUESTION_WEB * 2 + OPT, "FORMERR", False, -1),
        pytest.param(header(7, 0x0100, 1, 0, 0, 1) + b"\xc0\x0c\x00\x01\x00\x01" + OPT, "FORMERR", False, -1),
        pytest.param(header(7, 0x2100, 1, 0, 0, 1) + QUESTION_WEB + OPT, "NOTIMP", True, 0),
        pytest.param(header(7, 0x7900, 1, 0, 0, 0) + QUESTION_WEB, "NOTIMP", True, -1),
        pytest.param(header(7, 0x7900, 0, 0, 0, 0), "NOTIMP", False, -1),
    ],
)
def test_a_refusal_repeats_the_question_and_answers_the_opt(
    play: Play, payload: bytes, rcode: str, question: bool, edns: int
) -> None:
    """An answer without OPT tells a resolver in a container that we know no EDNS (RFC 6891 7)."""

    async def scenario(world: World) -> None:
        raw = await world.raw(payload)
        assert raw is not None
        reply = dns.message.from_wire(raw)
        assert dns.rcode.to_text(reply.rcode()) == rcode
        assert [rrset.name.to_text() for rrset in reply.question] == ["web."] * question
        assert (reply.edns, reply.options) == (edns, ())
        assert reply.payload == (1232 if edns == 0 else 0)
        assert bool(reply.ednsflags & 0x8000) == (edns == 0)
        assert reply.id == 7

    play(scenario)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", header(7, 0x0100, 1, 0, 0)[:11], header(7, 0x8100, 1, 0, 0, 0) + QUESTION_WEB]
)
def test_t10_what_is_no_query_gets_silence(play: Play, payload: bytes) -> None:
    async def scenario(world: World) -> None:
        assert await world.raw(payload, wait_s=0.1) is None
        await world.is_alive()
        assert world.server.statistics()["refused_not_a_query"] == 1

    play(scenario)


def test_random_octets_change_nothing_and_are_counted(play: Play) -> None:
    rng = random.Random(11)

    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        packets = [rng.randbytes(rng.randrange(300)) for _ in range(500)]
        # A header that says "one question" gets further into the parser than noise does.
        packets += [header(1, 0x0100, 1, 0, 0, rng.randrange(3)) + rng.randbytes(60) for _ in range(500)]
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(world.addresses["ask"])
            for packet in packets:
                await sock.send(packet)
                await trio.lowlevel.checkpoint()
        await world.is_alive()
        statistics = world.server.statistics()
        refused = sum(count for reason, count in statistics.items() if reason.startswith("refused_"))
        assert refused > 900
        assert len(upstream.heard) <= 5

    play(scenario)


def test_t13_t14_other_operations(play: Play) -> None:
    async def scenario(world: World) -> None:
        for opcode in (1, 2, 4, 5, 15):
            reply = await world.raw(header(7, opcode << 11, 0, 0, 0, 0))
            assert reply is not None
            assert reply[3] & 0xF == dns.rcode.NOTIMP
            assert reply[2] >> 3 & 0xF == opcode

    play(scenario)


def test_t15_ad_cd_and_z_bits(play: Play) -> None:
    async def scenario(world: World) -> None:
        reply = await world.ask("web", flags=dns.flags.RD | dns.flags.AD | dns.flags.CD | 0x0040)
        assert texts(reply) == set(WEB_A)
        assert reply.flags & dns.flags.CD
        assert not reply.flags & (dns.flags.AD | 0x0040)

    play(scenario)


def test_t16_t17_t18_classes_and_transfers(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        for qname, rtype, rclass in (
            ("version.bind", "TXT", "CH"),
            ("id.server", "TXT", "CH"),
            ("web", "A", "HS"),
            ("web", "A", "ANY"),
            ("mesh.internal", "IXFR", "IN"),
        ):
            reply = await world.ask(qname, rtype, rclass=rclass)
            assert reply.rcode() == dns.rcode.REFUSED
            assert not reply.answer
        stream = await world.stream()
        await send_message(stream, dns.message.make_query("mesh.internal", "AXFR"))
        assert (await receive_message(stream)).rcode() == dns.rcode.REFUSED
        await send_message(stream, dns.message.make_query("web", "A"))
        assert texts(await receive_message(stream)) == set(WEB_A)
        assert upstream.heard == []

    play(scenario)


def test_t20_one_ttl(play: Play) -> None:
    async def scenario(world: World) -> None:
        for qname in ("web", "six"):
            reply = await world.ask(qname, "AAAA")
            assert {rrset.ttl for rrset in reply.answer} == {5}

    play(scenario)


@pytest.mark.parametrize("qname", ["nosuch.mesh.internal", "a.b.web.mesh.internal", "secret.mesh.internal"])
def test_t30_t37_t40_t47_t92_no_such_name(play: Play, qname: str) -> None:
    async def scenario(world: World) -> None:
        reply = await world.ask(qname)
        assert is_negative(reply, "NXDOMAIN")
        assert reply.authority[0].ttl == SOA_MINIMUM_S
        assert reply.flags & dns.flags.AA

    play(scenario)


def test_t47_a_hidden_name_is_as_absent_as_any_other(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.listen("other")
        assert texts(await world.ask("secret.mesh.internal", client="other")) == {"10.9.0.9"}
        hidden = (await world.ask("secret.mesh.internal")).to_wire()
        absent = (await world.ask("nosuch.mesh.internal")).to_wire()
        assert hidden[2:].replace(b"secret", b"nosuch") == absent[2:]
        assert is_negative(await world.ask("web.mesh.internal", client="other"), "NXDOMAIN")

    play(scenario)


def test_t31_t32_t34_missing_family(play: Play) -> None:
    async def scenario(world: World) -> None:
        assert is_negative(await world.ask("db.mesh.internal", "AAAA"), "NOERROR")
        assert is_negative(await world.ask("six.mesh.internal", "A"), "NOERROR")
        replies: dict[int, dns.message.Message] = {}
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(world.addresses["ask"])
            for message_id, rtype in ((1, "A"), (2, "AAAA")):
                await sock.send(dns.message.make_query("db", rtype, id=message_id).to_wire())
            for _ in range(2):
                reply = dns.message.from_wire(await sock.recv(512))
                replies[reply.id] = reply
        assert texts(replies[1]) == {"10.2.0.21"}
        assert is_negative(replies[2], "NOERROR", ".")

    play(scenario)


@pytest.mark.parametrize(
    "rtype",
    ["MX", "TXT", "HTTPS", "SVCB", "NAPTR", "CAA", "DS", "DNSKEY", "TLSA", "SRV", "NS", "CNAME", "TYPE65280"],
)
def test_t33_t84_t87_t106_other_types_of_own_names_stay_here(play: Play, rtype: str) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        assert is_negative(await world.ask("db.mesh.internal", rtype), "NOERROR")
        assert is_negative(await world.ask("database", rtype), "NOERROR", ".")
        assert is_negative(await world.ask("x.y.mesh.internal", rtype), "NXDOMAIN")
        assert upstream.heard == []

    play(scenario)


@pytest.mark.parametrize("rtype", ["A", "AAAA", "HTTPS", "SVCB", "ANY"])
def test_t36_addresses_of_single_labels_are_never_asked_outside(play: Play, rtype: str) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        reply = await world.ask("nosuch", rtype)
        assert is_negative(reply, "NXDOMAIN", ".")
        assert (reply.authority[0].ttl, reply.authority[0][0].minimum) == (
            1,
            1,
        )  # it may be put in the next second
        assert upstream.heard == []

    play(scenario)


@pytest.mark.parametrize("rtype", ["DS", "DNSKEY", "NS", "SOA", "TXT", "RRSIG"])
def test_a_top_level_domain_is_the_worlds(play: Play, rtype: str) -> None:
    """A resolver in a container that validates asks for it, and "no such name" would undo all below."""
    soa = (".", 60, "SOA", "ns.test. who.test. 1 2 3 4 30")

    async def scenario(world: World) -> None:
        upstream = world.upstream(respond(authority=[soa]))
        assert is_negative(await world.ask("com", rtype), "NOERROR", ".")
        assert len(upstream.heard) == 1

    play(scenario)


@pytest.mark.parametrize("qname", ["home.arpa", "10.in-addr.arpa", "local", "8.e.f.ip6.arpa"])
def test_the_zone_above_says_whether_an_empty_one_is_signed(play: Play, qname: str) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(respond(rcode=dns.rcode.NXDOMAIN))
        await world.ask(qname, "DS")
        assert len(upstream.heard) == 1
        assert is_negative(await world.ask(qname, "DNSKEY"), "NOERROR", f"{qname}.")
        assert is_negative(await world.ask(f"x.{qname}", "DS"), "NXDOMAIN", f"{qname}.")
        assert len(upstream.heard) == 1

    play(scenario)


@pytest.mark.parametrize(
    "qname", ["_tcp.web.mesh.internal", "front.mesh.internal", "mesh.internal", "apps.mesh.internal"]
)
def test_t38_t39_empty_non_terminals_and_apex(play: Play, qname: str) -> None:
    async def scenario(world: World) -> None:
        assert is_negative(await world.ask(qname), "NOERROR")

    play(scenario)


def test_t39_soa_of_the_apex(play: Play) -> None:
    async def scenario(world: World) -> None:
        reply = await world.ask("Mesh.internal", "SOA")
        assert reply.answer[0][0].serial == 77
        assert not reply.authority

    play(scenario)


def test_t46_wildcards(play: Play) -> None:
    async def scenario(world: World) -> None:
        assert texts(await world.ask("q.apps.mesh.internal")) == {"10.1.0.50"}
        assert is_negative(await world.ask("apps.mesh.internal"), "NOERROR")
        assert is_negative(await world.ask("x.apps.mesh.internal", "AAAA"), "NOERROR")
        assert is_negative(await world.ask("a.x.apps.mesh.internal"), "NXDOMAIN")

    play(scenario)


def test_t70_t71_a_change_is_seen_by_the_next_query(play: Play) -> None:
    async def scenario(world: World) -> None:
        for number in range(50):
            world.source.put("new.mesh.internal", 1, [bytes([10, 0, 0, number])], client="ask")
            assert texts(await world.ask("new.mesh.internal")) == {f"10.0.0.{number}"}
            world.source.remove("new.mesh.internal", client="ask")
            assert is_negative(await world.ask("new.mesh.internal"), "NXDOMAIN")

    play(scenario)


def test_t74_t75_addresses_and_pointers(play: Play) -> None:
    async def scenario(world: World) -> None:
        assert texts(await world.ask("web", "AAAA")) == set(WEB_AAAA)
        ip6 = ipaddress.ip_address(WEB_AAAA[0]).reverse_pointer
        assert texts(await world.ask("11.0.1.10.in-addr.arpa", "PTR")) == {"web.h1.front.mesh.internal."}
        assert texts(await world.ask(ip6, "PTR")) == {"web.h1.front.mesh.internal."}

    play(scenario)


def test_t76_t77_t78_reverse_names_without_an_owner(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        zone = "0.1.10.in-addr.arpa."
        assert is_negative(await world.ask("99.0.1.10.in-addr.arpa", "PTR"), "NXDOMAIN", zone)
        assert is_negative(await world.ask("0.1.10.in-addr.arpa", "PTR"), "NOERROR", zone)
        assert is_negative(await world.ask("300.0.1.10.in-addr.arpa", "PTR"), "NXDOMAIN", zone)
        assert is_negative(await world.ask("0." * 33 + "0.d.f.ip6.arpa", "PTR"), "NXDOMAIN", "d.f.ip6.arpa.")
        assert upstream.heard == []

    play(scenario)


def test_t79_t80_srv(play: Play) -> None:
    async def scenario(world: World) -> None:
        query = dns.message.make_query("_http._tcp.web.mesh.internal", "SRV")
        payload = await world.raw(query.to_wire())
        assert payload is not None
        assert b"\x1f\x90\x03web\x05front\x04mesh\x08internal\x00" in payload
        assert texts(dns.message.from_wire(payload)) == {"0 1 8080 web.front.mesh.internal."}

    play(scenario)


def test_t83_any_is_minimal(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        reply = await world.ask("web", "ANY")
        assert texts(reply) == {'"RFC8482" ""'}
        assert is_negative(await world.ask("nosuch.mesh.internal", "ANY"), "NXDOMAIN")
        assert upstream.heard == []

    play(scenario)


def test_t86_long_txt(play: Play) -> None:
    async def scenario(world: World) -> None:
        (rdata,) = (await world.ask("web.mesh.internal", "TXT")).answer[0]
        assert rdata.strings == (b"v" * 255, b"v" * 45, b"version=3")

    play(scenario)


@pytest.mark.parametrize("fresh_octets", [False, True])
def test_t91_rotation(play: Play, fresh_octets: bool) -> None:
    """Once from finished answers, once with an option that makes every query's octets new."""

    async def scenario(world: World) -> None:
        firsts: Counter[str] = Counter()
        for number in range(300):
            options = [option(65001, number.to_bytes(2, "big"))] if fresh_octets else None
            reply = await world.ask("web", "A", use_edns=0, options=options)
            await world.ask("web", "AAAA")  # the pair that stubs send must not freeze the order
            firsts[reply.answer[0][0].to_text()] += 1
            assert texts(reply) == set(WEB_A)
        assert set(firsts) == set(WEB_A)
        assert all(75 <= count <= 126 for count in firsts.values()), firsts

    play(scenario)


@pytest.mark.parametrize(
    ("qname", "rtype", "rcode", "answer"),
    [
        ("localhost", "A", "NOERROR", {"127.0.0.1"}),
        ("a.localhost", "AAAA", "NOERROR", {"::1"}),
        ("localhost", "MX", "NOERROR", set()),
        ("x.invalid", "A", "NXDOMAIN", set()),
        ("printer.local", "A", "NXDOMAIN", set()),
        ("x.onion", "A", "NXDOMAIN", set()),
        ("x.alt", "A", "NXDOMAIN", set()),
        ("x.home.arpa", "A", "NXDOMAIN", set()),
        ("home.arpa", "A", "NOERROR", set()),
        ("_dns.resolver.arpa", "SVCB", "NXDOMAIN", set()),
        ("1.0.0.127.in-addr.arpa", "PTR", "NOERROR", {"localhost."}),
        ("2.0.0.127.in-addr.arpa", "PTR", "NXDOMAIN", set()),
        ("7.77.168.192.in-addr.arpa", "PTR", "NXDOMAIN", set()),
        ("1.0.20.172.in-addr.arpa", "PTR", "NXDOMAIN", set()),
        ("1" + ".0" * 31 + ".ip6.arpa", "PTR", "NOERROR", {"localhost."}),
        ("1" + ".0" * 28 + ".8.e.f.ip6.arpa", "PTR", "NXDOMAIN", set()),
    ],
)
def test_t100_to_t105_special_names_stay_here(
    play: Play, qname: str, rtype: str, rcode: str, answer: set[str]
) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(silence)
        reply = await world.ask(qname, rtype)
        assert dns.rcode.to_text(reply.rcode()) == rcode
        assert texts(reply) == answer
        assert bool(reply.authority) != bool(answer)
        assert upstream.heard == []

    play(scenario)


def test_neighbours_of_special_names_are_forwarded(play: Play) -> None:
    async def scenario(world: World) -> None:
        upstream = world.upstream(respond(rcode=dns.rcode.NXDOMAIN))
        for qname in (
            "1.0.32.172.in-addr.arpa",
            "1.0.15.172.in-addr.arpa",
            "metadata.google.internal",
            "xlocal.test",
        ):
            await world.ask(qname, "PTR")
        assert len(upstream.heard) == 4

    play(scenario)
