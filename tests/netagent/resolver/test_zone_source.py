"""What each sandbox is answered."""

from __future__ import annotations

import dataclasses
import ipaddress
import random
import struct
from typing import Any

import pytest
from fakes import names
from fakes.names import APP, BACK, ask, source_of, world

from netagent.resolver.name_table import EndpointRow, Key, RowKind, changes_between
from netagent.resolver.zone_source import NEGATIVE_TTL_S, ZoneSource
from netdns import constants
from netdns.message import message_untrusted, render_query
from netdns.name import from_text
from netdns.rdata import soa_minimum_s
from netdns.resolver import Resolver, Transport
from netdns.source import Found


@pytest.fixture(scope="module")
def source() -> ZoneSource:
    return source_of(world())


WEB4 = ["10.160.0.11", "10.160.1.12"]
WEB6 = ["fd00:1::11", "fd00:1::12"]
NX, NODATA = "nxdomain mesh.internal.", "nodata mesh.internal."


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        ("web.app.mesh.internal", "A", WEB4),
        ("WEB.App.Mesh.INTERNAL", "AAAA", WEB6),
        ("web-1.app.mesh.internal", "A", WEB4[:1]),
        ("web-2.h2.app.mesh.internal", "A", WEB4[1:]),
        ("web-2.h1.app.mesh.internal", "A", NX),
        ("web.h1.app.mesh.internal", "A", NX),  # a service is on no host: only names are
        ("store.back.mesh.internal", "A", ["10.170.0.21"]),
        ("h2.node.mesh.internal", "A", ["192.0.2.2"]),
        ("h2.node.mesh.internal", "AAAA", NODATA),
        ("h9.node.mesh.internal", "A", NX),
        ("a.h2.node.mesh.internal", "A", NX),
    ],
)
def test_fully_qualified_names(source: ZoneSource, name: str, rtype: str, expected: list[str] | str) -> None:
    assert ask(source, name, rtype) == expected


@pytest.mark.parametrize("name", ["nobody", "nobody.app.mesh.internal", "9.0.160.10.in-addr.arpa", "gone"])
def test_what_may_be_attached_next_is_absent_for_a_second(name: str) -> None:
    """The bare label as well, which is the resolver's to answer: the answer is what was kept at longest."""
    table = world() | dict([names.sandbox("c", APP, links=("away:gone",))])
    resolver = Resolver(source=source_of(table), rng=random.Random(1), now=0.0)
    query = render_query(7, from_text(name), constants.A, flags=constants.RD, opt=b"")
    reply = resolver.handle_query(query, "c", Transport.UDP, "t", 1.0)
    assert reply is not None
    message = message_untrusted(reply)
    assert message.flags & 0xF == constants.NXDOMAIN
    (soa,) = message.records
    assert (soa.rtype, soa.ttl_s, soa_minimum_s(soa.rdata)) == (constants.SOA, NEGATIVE_TTL_S, NEGATIVE_TTL_S)


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        ("db.back.mesh.internal", "AAAA", NODATA),
        ("db.back.mesh.internal", "MX", NODATA),
        ("nosuch.app.mesh.internal", "A", NX),
        ("nosuch.mesh.internal", "A", NX),
        ("a.b.web.app.mesh.internal", "A", NX),
        ("mesh.internal", "A", NODATA),
        ("mesh.internal", "NS", NODATA),
        ("mesh.internal", "SOA", ["data"]),
        ("app.mesh.internal", "A", NODATA),
        ("node.mesh.internal", "A", NODATA),
        ("h1.app.mesh.internal", "A", NODATA),  # names are below it
        ("_tcp.web.app.mesh.internal", "A", NODATA),
        ("_udp.web.app.mesh.internal", "A", NX),
        ("mesh.internal.example.com", "A", "not ours"),
        ("xmesh.internal", "A", "not ours"),
        ("internal", "A", "not ours"),
    ],
)
def test_what_is_not_there(source: ZoneSource, name: str, rtype: str, expected: list[str] | str) -> None:
    assert ask(source, name, rtype) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", WEB4),
        ("dup", ["10.160.0.41"]),  # the first network that has it, and no mixture
        ("dup.back", ["10.170.0.42"]),
        ("web.app", WEB4),
        ("web-2.h2.app", WEB4[1:]),
        ("h1.node", ["192.0.2.1"]),
        ("h1", "not ours"),
        ("gone.app", "kept inside ."),  # a stranger has that name, where `app` is a top-level domain
        ("gone.back", "kept inside ."),
        ("gone.h1.app", "kept inside ."),
        ("h1.app", "kept inside ."),
        ("h9.node", "kept inside ."),
        ("www.google.app", "not ours"),  # google is no host of ours
        ("a.gone.h1.app", "not ours"),
        ("gone.other", "not ours"),
        ("example.com", "not ours"),
        (".", "not ours"),
    ],
)
def test_names_without_the_domain(source: ZoneSource, name: str, expected: list[str] | str) -> None:
    assert ask(source, name) == expected


@pytest.mark.parametrize("rtype", ["A", "AAAA", "SRV", "HTTPS", "ANY"])
def test_absent_names_of_our_form_lead_to_no_stranger(source: ZoneSource, rtype: str) -> None:
    assert ask(source, "gone.app", rtype) == "kept inside ."
    assert ask(source, "_http._tcp.gone.app", rtype) == "kept inside ."


@pytest.mark.parametrize("rtype", ["DS", "DNSKEY", "NS", "SOA", "TXT"])
def test_what_a_validating_resolver_needs_for_names_below_goes_outside(
    source: ZoneSource, rtype: str
) -> None:
    assert ask(source, "go.app", rtype) == "not ours"


def test_only_those_in_a_network_have_its_names(source: ZoneSource) -> None:
    assert ask(source, "gone.app", client="only-back") == "not ours"
    assert ask(source, "gone.back", client="only-back") == "kept inside ."
    assert ask(source, "gone.app", client="nobody") == "not ours"


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.160.0.0", True),
        ("10.160.15.255", True),
        ("10.160.16.0", False),
        ("10.170.0.9", True),
        ("::ffff:10.170.0.9", True),
        ("fd00:1::99", True),
        ("fd00:2::99", False),
        ("127.0.0.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("::", True),
        ("127.0.0.2", False),  # what block lists of mail servers answer
        ("192.0.2.1", False),  # a host of ours: its name outside may well lead there
        ("192.168.7.7", False),
    ],
)
def test_which_addresses_no_server_outside_may_give(source: ZoneSource, address: str, inside: bool) -> None:
    assert source.is_inside(ipaddress.ip_address(address).packed) is inside


def test_subnets_that_are_gone_or_moved_are_no_longer_inside() -> None:
    inside = ipaddress.ip_address("10.170.0.9").packed
    table = world()
    source = source_of(table)
    moved = dict([names.network(BACK, "back", "10.171.0.0/24", "10.170.0.0/24")])
    for changes, expected in (
        (moved, True),
        (dict([names.network(BACK, "back", "10.171.0.0/24")]), False),
        (dict([names.network("c" * 32, "more", "10.170.0.0/24")]), True),
        (dict([names.network("d" * 32, "same", "10.170.0.0/24")]), True),
        ({(RowKind.NETWORK, "c" * 32): None}, True),
        ({(RowKind.NETWORK, "d" * 32): None}, False),
    ):
        source.apply(changes.items())
        assert source.is_inside(inside) is expected
    source.apply([(key, None) for key in source.rows])
    assert source._subnets == {}


def test_a_link_is_in_one_sandbox_only(source: ZoneSource) -> None:
    assert ask(source, "database") == ["10.170.0.21"]
    assert ask(source, "www") == WEB4
    assert ask(source, "full") == ["10.170.0.21"]
    assert ask(source, "database", client="only-back") == "not ours"
    assert ask(source, "database", "AAAA") == "nodata ."


def test_a_link_stands_where_the_search_list_looks_first(source: ZoneSource) -> None:
    assert ask(source, "database.app.mesh.internal") == ["10.170.0.21"]
    assert ask(source, "database.back.mesh.internal") == NX
    assert ask(source, "database.app.mesh.internal", client="only-back") == NX


def test_a_link_to_no_service_never_means_another() -> None:
    table = world() | dict([names.endpoint(9, "gone", "10.160.0.99")])
    source = source_of(table)
    assert ask(source, "gone") == "nxdomain ."
    assert ask(source, "gone.app.mesh.internal") == NX
    assert ask(source, "gone.app.mesh.internal", client="nobody") == NX
    assert ask(source, "gone.h1.app.mesh.internal") == ["10.160.0.99"]


def test_a_link_to_its_own_name_is_no_loop() -> None:
    table = world() | dict([names.sandbox("c", APP, links=("web:web", "web.app:dup"))])
    source = source_of(table)
    assert ask(source, "web") == WEB4
    assert ask(source, "dup") == WEB4
    assert ask(source, "dup.app.mesh.internal") == WEB4


def test_of_two_links_with_one_alias_the_first_counts() -> None:
    source = source_of(world() | dict([names.sandbox("c", APP, BACK, links=("db:x", "web:x"))]))
    assert ask(source, "x") == ["10.170.0.21"]


def test_another_network_is_as_absent_as_any_name(source: ZoneSource) -> None:
    for name in ("web.app.mesh.internal", "nosuch.app.mesh.internal", "app.mesh.internal"):
        assert ask(source, name, client="only-back") == NX
    assert ask(source, "web", client="only-back") == "not ours"
    assert ask(source, "web.app", client="only-back") == "not ours"
    assert ask(source, "11.0.160.10.in-addr.arpa", "PTR", client="only-back") == "not ours"
    assert ask(source, "web.app.mesh.internal", client="never heard of") == NX


def test_a_network_that_lost_its_name_keeps_it_among_its_own() -> None:
    table = world() | dict([names.network(BACK, "app-bbbb", "10.170.0.0/24", given="app")])
    source = source_of(table)
    for name in ("db.app.mesh.internal", "db.app-bbbb.mesh.internal", "db.app", "db"):
        assert ask(source, name, client="only-back") == ["10.170.0.21"]
    assert ask(source, "web.app.mesh.internal", client="only-back") == NX, "never the other's"
    assert ask(source, "db.app.mesh.internal") == NX, "who is in both means the one that has the name"
    assert ask(source, "web.app.mesh.internal") == WEB4
    assert ask(source, "db.app-bbbb.mesh.internal") == ["10.170.0.21"]


def test_a_chosen_service_comes_before_an_alias_before_a_name() -> None:
    table = world() | dict(
        [
            names.endpoint(10, "web", "10.160.0.100", service="other"),
            names.endpoint(11, "x", "10.160.0.101", aliases=("other", "web-1", "free", "free")),
        ]
    )
    source = source_of(table)
    assert ask(source, "web") == WEB4
    assert ask(source, "other") == ["10.160.0.100"]
    assert ask(source, "web-1") == ["10.160.0.101"]
    assert ask(source, "free") == ["10.160.0.101"]
    assert ask(source, "web.h1.app.mesh.internal") == ["10.160.0.100"]


def test_ports_behind_a_path_that_is_down_come_last() -> None:
    """A client of SRV knows what to do with them."""
    source = source_of(world())
    rows = [(key, row) for key, row in source.rows.items() if isinstance(row, EndpointRow)]
    key, row = next((key, row) for key, row in rows if row.name == "web-1")
    source.apply([(key, dataclasses.replace(row, is_behind=True))])
    answer = source.lookup(from_text("_http._tcp.web.app.mesh.internal"), 33, "c")
    assert isinstance(answer, Found)
    found = [struct.unpack_from("!HHH", data) for data in answer.rrset.rdatas]
    assert found == [(0, 100, 8080), (1, 100, 80)]


def test_ports_by_name(source: ZoneSource) -> None:
    expected = ["80 web-1.h1.app.mesh.internal.", "8080 web-2.h2.app.mesh.internal."]
    assert ask(source, "_http._tcp.web.app.mesh.internal", "SRV") == expected
    assert ask(source, "_http._tcp.web", "SRV") == expected
    assert ask(source, "_http._tcp.www", "SRV") == expected
    assert ask(source, "_http._tcp.web-2.h2.app.mesh.internal", "SRV") == expected[1:]
    assert ask(source, "_http._tcp.web.app.mesh.internal", "A") == NODATA
    assert ask(source, "_ftp._tcp.web.app.mesh.internal", "SRV") == NX
    assert ask(source, "_http._udp.web.app.mesh.internal", "SRV") == NX
    answer = source.lookup(from_text("_http._tcp.web.app.mesh.internal"), 33, "c")
    assert isinstance(answer, Found)
    assert len(answer.glue) == 4


def test_every_srv_target_has_addresses(source: ZoneSource) -> None:
    answer = source.lookup(from_text("_http._tcp.web.app.mesh.internal"), 33, "c")
    assert isinstance(answer, Found)
    for target, rrset in answer.glue:
        found = source.lookup(target, rrset.rtype, "c")
        assert isinstance(found, Found)
        assert found.rrset == rrset


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("12.1.160.10.in-addr.arpa", ["web-2.h2.app.mesh.internal."]),
        ("99.1.160.10.in-addr.arpa", "nxdomain 1.160.10.in-addr.arpa."),
        ("1.160.10.in-addr.arpa", "nodata 1.160.10.in-addr.arpa."),
        ("160.10.in-addr.arpa", "nodata 160.10.in-addr.arpa."),
        ("10.in-addr.arpa", "nodata 10.in-addr.arpa."),
        ("in-addr.arpa", "not ours"),
        ("5.16.160.10.in-addr.arpa", "not ours"),
        ("16.160.10.in-addr.arpa", "not ours"),
        ("x.160.10.in-addr.arpa", "not ours"),
        ("300.1.160.10.in-addr.arpa", "nxdomain 1.160.10.in-addr.arpa."),
        ("012.1.160.10.in-addr.arpa", "nxdomain 1.160.10.in-addr.arpa."),
        ("1.12.1.160.10.in-addr.arpa", "nxdomain 1.160.10.in-addr.arpa."),
        ("21.0.170.10.in-addr.arpa", ["db.h2.back.mesh.internal."]),
        ("1.2.0.192.in-addr.arpa", "not ours"),
        ("61.0.160.10.in-addr.arpa", ["e060606060606.h1.app.mesh.internal."]),
    ],
)
def test_reverse_names(source: ZoneSource, name: str, expected: list[str] | str) -> None:
    assert ask(source, name, "PTR") == expected


def test_reverse_names_of_ipv6(source: ZoneSource) -> None:
    full = "1.1." + "0." * 14
    zone = "0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"
    assert ask(source, full + zone, "PTR") == ["web-1.h1.app.mesh.internal."]
    assert ask(source, "9." + full[2:] + zone, "PTR") == f"nxdomain {zone}."
    assert ask(source, "g." + full[2:] + zone, "PTR") == f"nxdomain {zone}."
    assert ask(source, full + zone, "A") == f"nodata {zone}."
    assert ask(source, zone, "SOA") == ["data"]


def test_a_reverse_name_leads_back(source: ZoneSource) -> None:
    for address in ("61.0.160.10.in-addr.arpa", "12.1.160.10.in-addr.arpa"):
        [target] = list(ask(source, address, "PTR"))
        [back] = list(ask(source, target, "A"))
        assert back.split(".")[::-1] == address.split(".")[:4]


def test_a_name_that_would_be_too_long_is_shortened() -> None:
    long, domain = "n" * 63, f"{'d' * 63}.internal"
    table = dict(
        [
            names.settings(domain),
            names.network(APP, "w" * 63, "10.0.0.0/24"),
            names.endpoint(1, long, "10.0.0.5", on="h" * 63),
            names.sandbox("c", APP),
        ]
    )
    [target] = list(ask(source_of(table), "5.0.0.10.in-addr.arpa", "PTR"))
    assert ask(source_of(table), target) == ["10.0.0.5"]


def test_any_gives_one_set_of_records(source: ZoneSource) -> None:
    assert ask(source, "web", "ANY") == WEB4
    assert ask(source, "_http._tcp.web", "ANY") != NODATA
    assert ask(source, "app.mesh.internal", "ANY") == NODATA


def test_versions_move_for_those_concerned_only() -> None:
    table = world()
    source = source_of(table)
    before = source.version("c"), source.version("only-back")
    source.apply([names.endpoint(20, "new", "10.160.0.50")])
    assert source.version("c") != before[0]
    assert source.version("only-back") == before[1]
    source.apply([names.host("3" * 32, "h3", "192.0.2.3")])
    assert source.version("only-back") != before[1]
    now = source.version("c"), source.version("only-back"), source.version("unknown")
    source.apply([names.host("3" * 32, "h3", "192.0.2.3")])
    assert (source.version("c"), source.version("only-back"), source.version("unknown")) == now


def test_the_serial_is_the_version(source: ZoneSource) -> None:
    answer = source.lookup(from_text("mesh.internal"), 6, "c")
    assert isinstance(answer, Found)
    assert int.from_bytes(answer.rrset.rdatas[0][-20:-16]) == source.version("c")


def test_changes_add_before_they_remove() -> None:
    old, new = world(), world()
    del new[RowKind.ENDPOINT, names.endpoint_id(4)]
    key, row = names.endpoint(30, "dup", "10.160.0.77")
    new[key] = row
    assert [change[1] is None for change in changes_between(old, new)] == [False, True]


class LookedAt(dict[Key, Any]):
    """Counts how many of its rows were read."""

    looks = 0

    def get(self, key: tuple[RowKind, str], default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)


def test_what_changed_among_many_is_looked_for_as_it_is_asked_for() -> None:
    new = LookedAt({(RowKind.ENDPOINT, f"{n:032x}"): object() for n in range(1000)})
    changes = changes_between({}, new, list(new))
    assert new.looks == 0
    next(changes)
    assert new.looks == 1
    assert len(list(changes)) == 999


def test_several_ipv6_addresses_are_answered_one_at_a_time_beside_all_ipv4(source: ZoneSource) -> None:
    both = source.lookup(from_text("web.app.mesh.internal"), 1, "c")
    six = source.lookup(from_text("web.app.mesh.internal"), 28, "c")
    assert isinstance(both, Found)
    assert isinstance(six, Found)
    assert both.rrset.count == len(both.rrset.rdatas) == len(six.rrset.rdatas) > 1
    assert six.rrset.count == 1
