"""TXT, DNS-SD, HTTPS and SVCB, as a client reads them from the wire."""

from __future__ import annotations

import random

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from fakes import names
from fakes.names import APP, source_of

from netagent.resolver.name_table import Key, Row
from netagent.resolver.zone_source import (
    MAX_IN_HTTPS,
    MAX_IN_SRV,
    MAX_INSTANCES,
    MAX_WITH_GLUE,
    ZoneSource,
)
from netdns import constants
from netdns.name import from_text
from netdns.resolver import Resolver, Transport
from netdns.source import Found

ZONE = "app.mesh.internal"
LONG = "a" * 40
REACHED = names.endpoint(
    2, "web-2", "10.160.0.12", service="web", on="h2", ports=("http=8080", "https=8443+h2")
)
"""The second replica, which is unreached without this row."""


def table(*more: tuple[Key, Row]) -> ZoneSource:
    rows = [
        names.settings(),
        names.host("1" * 32, "h1", "192.0.2.1", distance=0),
        names.host("2" * 32, "h2", "192.0.2.2", distance=1),
        names.network(APP, "app", "10.160.0.0/20", "fd00:1::/64"),
        names.sandbox("c", APP),
        names.endpoint(
            1,
            "web-1",
            "10.160.0.11",
            "fd00:1::11",
            service="web",
            ports=("http=80", "https=443/tcp+h2+http/1.1", "https3=443/udp+h3"),
            texts=(b"path=/shop", b"version=2"),
        ),
        names.endpoint(
            2,
            "web-2",
            "10.160.0.12",
            service="web",
            on="h2",
            ports=("http=8080", "https=8443+h2"),
            is_behind=True,
        ),
        names.endpoint(3, "dns", "10.160.0.13", ports=("dot=853+dot", "53=53/udp", "diameter=3868/sctp")),
        *more,
    ]
    return source_of(dict(rows))


def ask(
    source: ZoneSource, name: str, rtype: str, transport: Transport = Transport.TCP, *, use_edns: bool = False
) -> dns.message.Message:
    resolver = Resolver(source=source, rng=random.Random(7), now=0.0)
    payload = resolver.handle_query(
        dns.message.make_query(name, rtype, use_edns=use_edns).to_wire(), "c", transport, None, 0.0
    )
    assert payload is not None
    return dns.message.from_wire(payload)


def records(source: ZoneSource, name: str, rtype: str) -> list[str]:
    reply = ask(source, f"{name}.mesh.internal", rtype)
    assert reply.rcode() == dns.rcode.NOERROR, dns.rcode.to_text(reply.rcode())
    assert reply.flags & dns.flags.AA
    return sorted(one.to_text() for rrset in reply.answer for one in rrset)


def code(source: ZoneSource, name: str, rtype: str = "PTR") -> str:
    reply = ask(source, f"{name}.mesh.internal", rtype)
    return "NODATA" if reply.rcode() == 0 and not reply.answer else dns.rcode.to_text(reply.rcode())


# -- TXT -----------------------------------------------------------------------------------------------------------


def test_a_name_has_the_texts_of_its_endpoints() -> None:
    source = table()
    for name in ("web.app", "web-1.app", "web-1.h1.app", "all.web.app"):
        assert records(source, name, "TXT") == ['"path=/shop" "version=2"']
    assert code(source, "web-2.h2.app", "TXT") == "NODATA"
    assert code(source, "nosuch.app", "TXT") == "NXDOMAIN"


# -- DNS-SD --------------------------------------------------------------------------------------------------------


def test_a_browser_finds_types_instances_and_their_ports() -> None:
    source = table(REACHED)
    assert records(source, "b._dns-sd._udp", "PTR") == [f"{ZONE}."]
    assert records(source, "lb._dns-sd._udp.app", "PTR") == [f"{ZONE}."]
    # A port called by a number, and one of SCTP, are of no service type.
    assert records(source, "_services._dns-sd._udp.app", "PTR") == [
        f"_dot._tcp.{ZONE}.", f"_http._tcp.{ZONE}.", f"_https._tcp.{ZONE}.", f"_https3._udp.{ZONE}.",
    ]  # fmt: skip
    assert records(source, "_http._tcp.app", "PTR") == [
        rf"web-1\@h1._http._tcp.{ZONE}.", rf"web-2\@h2._http._tcp.{ZONE}.",
    ]  # fmt: skip
    assert records(source, "web-1@h1._http._tcp.app", "SRV") == [f"0 100 80 web-1.h1.{ZONE}."]
    assert records(source, "WEB-1@H1._Http._TCP.app", "TXT") == ['"path=/shop" "version=2"']
    assert records(source, "web-2@h2._http._tcp.app", "TXT") == ['""'], "an instance always has one"


def test_an_instance_comes_with_what_the_client_asks_next() -> None:
    reply = ask(table(REACHED), f"_http._tcp.{ZONE}", "PTR")
    more = {(str(rrset.name), dns.rdatatype.to_text(rrset.rdtype)) for rrset in reply.additional}
    assert more == {
        (rf"web-1\@h1._http._tcp.{ZONE}.", "SRV"),
        (rf"web-1\@h1._http._tcp.{ZONE}.", "TXT"),
        (rf"web-2\@h2._http._tcp.{ZONE}.", "SRV"),
        (f"web-1.h1.{ZONE}.", "A"),
        (f"web-1.h1.{ZONE}.", "AAAA"),
        (f"web-2.h2.{ZONE}.", "A"),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_dns-sd._udp", "NODATA"),
        ("_udp", "NODATA"),
        ("_udp.app", "NODATA"),
        ("_dns-sd._udp.app", "NODATA"),
        ("_tcp.app", "NODATA"),
        ("_sctp.app", "NXDOMAIN"),
        ("_smtp._tcp.app", "NXDOMAIN"),
        ("_53._udp.app", "NXDOMAIN"),
        ("nosuch@h1._http._tcp.app", "NXDOMAIN"),
        ("dns@h1._http._tcp.app", "NXDOMAIN"),
        ("_http._tcp.other", "NXDOMAIN"),
        ("b._dns-sd._udp.other", "NXDOMAIN"),
    ],
)
def test_names_of_discovery_that_have_nothing(name: str, expected: str) -> None:
    assert code(table(), name) == expected


def test_a_container_in_no_network_browses_nothing() -> None:
    source = table(names.sandbox("c"))
    assert code(source, "b._dns-sd._udp") == "NXDOMAIN"
    assert code(source, "_services._dns-sd._udp.app") == "NXDOMAIN"


def test_an_instance_whose_label_would_be_too_long_is_called_by_its_id() -> None:
    source = table(names.endpoint(9, LONG, "10.160.0.19", on=LONG, ports=("imap=143",)))
    (instance,) = records(source, "_imap._tcp.app", "PTR")
    assert instance == f"e{'09' * 6}._imap._tcp.{ZONE}."
    assert records(source, instance.removesuffix(".mesh.internal."), "SRV")


@pytest.mark.parametrize("length", [100, 104, 154, 170, 200])
def test_below_a_long_domain_each_query_gets_an_answer_with_the_names_that_are_possible(length: int) -> None:
    domain = ".".join(["d" * 49] * (length // 50) + ["e" * (length % 50)] * (length % 50 > 0))
    long = "n" * 63
    ports = ("http=80", f"{'p' * 15}=443+h2")
    rows = [
        names.settings(domain),
        names.network(APP, long, "10.160.0.0/20"),
        names.endpoint(5, "x" * 63, "10.160.0.15", on="h" * 63, ports=ports),
    ]
    source = table(*rows)
    asked = [
        (f"{below}{middle}{domain}", rtype)
        for below in ("", "_services._dns-sd._udp.", "b._dns-sd._udp.", "_http._tcp.", f"e{'05' * 6}.")
        for middle in (f"{long}.", "")
        for rtype in ("PTR", "SRV", "HTTPS", "SVCB", "TXT", "ANY")
    ]
    for name, rtype in [*asked, ("15.0.160.10.in-addr.arpa", "PTR")]:
        if len(name) < 254:
            ask(source, name, rtype)
    if length == 100:
        assert len(ask(source, f"_{'p' * 15}._tcp.{long}.{domain}", "PTR").answer[0]) == 1


def test_instances_of_last_resort_are_listed_only_if_there_are_no_others() -> None:
    def row(number: int, *, is_behind: bool = False) -> tuple[Key, Row]:
        address = f"10.160.0.{number}"
        return names.endpoint(number, f"m{number}", address, ports=("imap=143",), is_behind=is_behind)

    behind = [row(21, is_behind=True), row(22, is_behind=True)]
    for rows, listed in ((behind, ["m21", "m22"]), ([*behind, row(23)], ["m23"])):
        found = records(table(*rows), "_imap._tcp.app", "PTR")
        assert found == [rf"{name}\@h1._imap._tcp.{ZONE}." for name in listed]
    assert records(table(*behind, row(23)), "m21@h1._imap._tcp.app", "SRV"), "one that is known is found"


def test_a_thousand_types_are_the_most_in_an_answer_those_that_were_there_first() -> None:
    many = [
        names.endpoint(
            number,
            f"n{number}",
            f"10.160.1.{number}",
            ports=tuple(f"p{number}-{n}={n}" for n in range(1, 257)),
        )
        for number in range(10, 20)
    ]
    reply = ask(table(*many), f"_services._dns-sd._udp.{ZONE}", "PTR")
    assert len(reply.answer[0]) == MAX_INSTANCES
    assert f"_http._tcp.{ZONE}." in {one.to_text() for one in reply.answer[0]}


def test_a_thousand_instances_are_the_most_in_an_answer() -> None:
    rows = [
        names.endpoint(number % 256, f"n{number}", "10.160.0.1", ports=("imap=143",))
        for number in range(1200)
    ]
    many = [
        ((key[0], f"{number:032x}"), names.replaced(row, endpoint_id=f"{number:032x}"))
        for number, (key, row) in enumerate(rows)
    ]
    reply = ask(table(*many), f"_imap._tcp.{ZONE}", "PTR")
    assert len(reply.answer[0]) == MAX_INSTANCES
    by_udp = ask(table(*many), f"_imap._tcp.{ZONE}", "PTR", Transport.UDP, use_edns=True)
    assert by_udp.flags & dns.flags.TC


# -- HTTPS and SVCB ------------------------------------------------------------------------------------------------


def test_https_says_port_protocols_and_addresses() -> None:
    assert records(table(), "web.app", "HTTPS") == [
        f'1 web-1.h1.{ZONE}. alpn="h2,http/1.1,h3" port="443" ipv4hint="10.160.0.11" ipv6hint="fd00:1::11"',
        f'2 web-2.h2.{ZONE}. alpn="h2" no-default-alpn port="8443" ipv4hint="10.160.0.12"',
    ]


def test_https_of_another_port_has_its_own_name() -> None:
    source = table()
    expected = [f'1 web-2.h2.{ZONE}. alpn="h2" no-default-alpn port="8443" ipv4hint="10.160.0.12"']
    assert records(source, "_8443._https.web.app", "HTTPS") == expected
    assert code(source, "_8443._https.web.app", "SRV") == "NODATA"
    assert code(source, "_80._https.web.app", "HTTPS") == "NXDOMAIN"


def test_svcb_stands_where_srv_does() -> None:
    source = table()
    assert records(source, "_dot._tcp.dns.app", "SVCB") == [
        f'1 dns.h1.{ZONE}. alpn="dot" port="853" ipv4hint="10.160.0.13"'
    ]
    assert code(source, "_http._tcp.web.app", "SVCB") == "NODATA"
    assert code(source, "dns.app", "HTTPS") == "NODATA", "DNS over TLS is no HTTPS"


def test_the_protocols_of_the_nearest_come_first() -> None:
    source = table()
    targets = [one.split()[0:2] for one in records(source, "nearest.web.app", "HTTPS")]
    assert targets == [["1", f"web-1.h1.{ZONE}."], ["2", f"web-2.h2.{ZONE}."]]


def test_answers_of_a_service_with_two_thousand_replicas_are_bounded_and_not_the_same_for_all() -> None:
    rows = [
        names.endpoint(number % 256, f"n{number}", "10.160.0.1", service="big", ports=("https=443+h2",))
        for number in range(2000)
    ]
    many = [
        ((key[0], f"{number:032x}"), names.replaced(row, endpoint_id=f"{number:032x}"))
        for number, (key, row) in enumerate(rows)
    ]
    source = table(*many, names.sandbox("d", APP))
    seen: dict[tuple[str, int], set[bytes]] = {}
    for client in ("c", "d"):
        for name, rtype, most in (
            (f"big.{ZONE}", constants.HTTPS, MAX_IN_HTTPS),
            (f"_https._tcp.big.{ZONE}", constants.SRV, MAX_IN_SRV),
        ):
            answer = source.lookup(from_text(name), rtype, client)
            assert isinstance(answer, Found)
            assert len(answer.rrset.rdatas) == most
            assert len(answer.glue) <= 2 * MAX_WITH_GLUE
            seen[client, rtype] = set(answer.rrset.rdatas)
    for rtype in (constants.HTTPS, constants.SRV):
        assert seen["c", rtype] != seen["d", rtype]


def test_every_type_is_within_a_datagram_or_says_so() -> None:
    for rtype in ("TXT", "HTTPS", "SRV", "PTR", "SVCB"):
        for name in ("web.app", "_http._tcp.app", "_services._dns-sd._udp.app", "_http._tcp.web.app"):
            reply = ask(table(), f"{name}.mesh.internal", rtype, Transport.UDP)
            assert len(reply.to_wire()) <= 512
