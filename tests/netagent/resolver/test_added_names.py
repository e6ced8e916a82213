"""What sandboxes are answered for external services and for names that operators added to a network."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes.names import APP, BACK, ask, group_label, packed, sandbox, source_of, world
from fakes.work import instructions_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import NetworkId, OwnNameId, ServiceId
from netagent.model.records import Port
from netagent.resolver.index import NetworkIndex
from netagent.resolver.name_table import ExternalRow, Key, OwnNameRow, Row, RowKind
from netagent.resolver.row import fields_of, read_change_untrusted
from netagent.resolver.zone_source import TTL_S, ZoneSource
from netdns import constants
from netdns.name import from_text, to_text
from netdns.source import Found


def external(number: int, name: str, *places: tuple[str, int | None], **fields: Any) -> tuple[Key, Row]:
    usual = ExternalRow(
        service_id=ServiceId(f"{number:032x}"[::-1]),
        network_id=APP,
        name=name,
        host_label="h1",
        places=tuple((packed(address)[0], port) for address, port in places),
        ports=(),
        weight=1,
        ttl_s=None,
        is_inside=False,
    )
    row = dataclasses.replace(usual, **fields)
    return (RowKind.EXTERNAL, row.service_id), row


def own(number: int, name: str, to: str = "", *, place: NetworkId = APP, **data: Any) -> tuple[Key, Row]:
    name_id = OwnNameId(f"{number:032x}")
    row = OwnNameRow(name_id, APP, name, (place, to) if to else None, **data)
    return (RowKind.OWN_NAME, name_id), row


def source(*rows: tuple[Key, Row]) -> ZoneSource:
    return source_of(world() | dict(rows))


PG = external(1, "pg", ("203.0.113.50", 5432), ("2001:db8::50", 5432), ("203.0.113.51", 5433))
NX, NODATA = "nxdomain mesh.internal.", "nodata mesh.internal."


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        ("pg.app.mesh.internal", "A", ["203.0.113.50", "203.0.113.51"]),
        ("pg.app.mesh.internal", "AAAA", ["2001:db8::50"]),
        ("pg.app", "A", ["203.0.113.50", "203.0.113.51"]),
        ("pg", "A", ["203.0.113.50", "203.0.113.51"]),
        ("pg.app.mesh.internal", "TXT", NODATA),
        ("pg.back.mesh.internal", "A", NX),
        ("x100000000000-2.h1.app.mesh.internal", "A", ["203.0.113.51"]),
        ("_5433._tcp.pg.app.mesh.internal", "SRV", ["5433 x100000000000-2.h1.app.mesh.internal."]),
        ("_postgres._tcp.pg.app.mesh.internal", "SRV", NX),
        ("50.113.0.203.in-addr.arpa", "PTR", "not ours"),
    ],
)
def test_an_external_service_has_the_names_of_a_service(
    name: str, rtype: str, expected: list[str] | str
) -> None:
    assert ask(source(PG), name, rtype) == expected


def test_each_target_of_srv_is_one_address_with_its_weight_and_glue() -> None:
    ports = (Port("postgres", 5432),)
    row = external(1, "pg", ("203.0.113.50", None), ("2001:db8::50", None), ports=ports, weight=7)
    name = from_text("_postgres._tcp.pg.app.mesh.internal")
    answer = source(row).lookup(name, constants.SRV, "c")
    assert isinstance(answer, Found)
    assert [data[2:4] for data in answer.rrset.rdatas] == [b"\0\7", b"\0\7"]
    assert {(to_text(name), one.rdatas[0]) for name, one in answer.glue} == {
        ("x100000000000-0.h1.app.mesh.internal.", packed("203.0.113.50")[0]),
        ("x100000000000-1.h1.app.mesh.internal.", packed("2001:db8::50")[0]),
    }


def test_a_container_always_comes_first_without_mixing() -> None:
    shadowed = source(external(1, "web", ("203.0.113.50", 80)), own(1, "dup", "web"), own(2, "web-1", "dup"))
    assert ask(shadowed, "web.app.mesh.internal") == ["10.160.0.11", "10.160.1.12"]
    assert ask(shadowed, "dup.app.mesh.internal") == ["10.160.0.41"]
    assert ask(shadowed, "web-1.app.mesh.internal") == ["10.160.0.11"]


def test_nothing_that_was_added_stands_in_for_what_the_own_group_has_had() -> None:
    added = (
        external(2, "db", ("203.0.113.60", 5432)),
        own(1, "cache", addresses=packed("203.0.113.61")),
    )
    shop = sandbox("shop-web", APP, group="shop")
    before = source(*added, shop)
    after = source(*added, shop, group_label("db", "shop"), group_label("cache", "shop"))
    for label, address in (("db", "203.0.113.60"), ("cache", "203.0.113.61")):
        for name in (label, f"{label}.app", f"{label}.app.mesh.internal"):
            assert ask(before, name, client="shop-web") == [address]
            assert ask(after, name, client="shop-web") in {NX, "nxdomain .", "kept inside ."}
            assert ask(after, name) == [address]


def test_answers_keep_the_ttl_of_an_outside_name() -> None:
    found = source(external(1, "pg", ("203.0.113.50", 5432), ttl_s=299)).lookup(
        from_text("pg.app.mesh.internal"), constants.A, "c"
    )
    assert isinstance(found, Found)
    assert found.rrset.ttl_s == 299
    found = source(PG).lookup(from_text("pg.app.mesh.internal"), constants.A, "c")
    assert isinstance(found, Found)
    assert found.rrset.ttl_s == TTL_S


def test_a_program_of_a_host_is_found_by_its_inside_address() -> None:
    inside = source(external(1, "node", ("10.160.0.9", 9100), is_inside=True))
    assert ask(inside, "9.0.160.10.in-addr.arpa", "PTR") == ["x100000000000-0.h1.app.mesh.internal."]
    # What an outside service claims to be inside does not take the reverse name of a container.
    forged = source(external(1, "node", ("10.160.0.11", 9100)))
    assert ask(forged, "11.0.160.10.in-addr.arpa", "PTR") == ["web-1.h1.app.mesh.internal."]


def test_a_link_leads_to_an_external_service() -> None:
    table = world() | dict([PG, sandbox("linked", APP, links=("pg:database",))])
    assert ask(source_of(table), "database", "A", "linked") == ["203.0.113.50", "203.0.113.51"]


@pytest.mark.parametrize(
    ("name", "rtype", "expected"),
    [
        ("shop.app.mesh.internal", "A", ["10.160.0.11", "10.160.1.12"]),
        ("shop.app.mesh.internal", "AAAA", ["fd00:1::11", "fd00:1::12"]),
        ("shop.app.mesh.internal", "TXT", NODATA),
        ("shop", "A", ["10.160.0.11", "10.160.1.12"]),
        ("_http._tcp.shop.app.mesh.internal", "SRV", ["80 web-1.h1", "8080 web-2.h2"]),
        ("store.app.mesh.internal", "A", ["10.170.0.21"]),
        ("deep.app.mesh.internal", "A", ["10.160.0.11", "10.160.1.12"]),
        ("loop.app.mesh.internal", "A", NX),
        ("away.app.mesh.internal", "A", NX),
        ("up.app.mesh.internal", "A", ["203.0.113.9"]),
        ("up.app.mesh.internal", "AAAA", NODATA),
        ("up.app.mesh.internal", "TXT", ["data", "data"]),
        ("b.up.app.mesh.internal", "A", ["203.0.113.10"]),
        ("a.wild.app.mesh.internal", "A", ["10.160.0.11", "10.160.1.12"]),
        ("b.a.wild.app.mesh.internal", "A", ["10.160.0.11", "10.160.1.12"]),
        ("wild.app.mesh.internal", "A", NODATA),
        ("exact.wild.app.mesh.internal", "A", ["203.0.113.11"]),
        # Below a name that exists the wildcard above it does not count (RFC 4592 2.2.2).
        ("a.exact.wild.app.mesh.internal", "A", NX),
        ("a.other.app.mesh.internal", "A", NX),
    ],
)
def test_own_names(name: str, rtype: str, expected: list[str] | str) -> None:
    made = source(
        own(1, "shop", "web"),
        own(2, "store", "db", place=BACK),
        own(3, "deep", "shop"),
        own(4, "loop", "loop"),
        own(5, "away", "nothing"),
        own(6, "up", addresses=packed("203.0.113.9"), texts=("v=1", "v=2")),
        own(7, "b.up", addresses=packed("203.0.113.10")),
        own(8, "*.wild", "web"),
        own(9, "exact.wild", addresses=packed("203.0.113.11")),
    )
    found = ask(made, name, rtype)
    assert (
        [one.removesuffix(".app.mesh.internal.") for one in found] if rtype == "SRV" else found
    ) == expected


def test_an_alias_says_what_it_is_another_name_of() -> None:
    made = source(own(1, "shop", "web"), own(2, "deep", "shop"))
    for name in ("shop", "deep"):
        asked = from_text(f"{name}.app.mesh.internal")
        for rtype in (constants.A, constants.AAAA):
            answer = made.lookup(asked, rtype, "c")
            assert isinstance(answer, Found)
            assert answer.canonical == from_text("web.app.mesh.internal")
        answer = made.lookup(asked, constants.CNAME, "c")
        assert isinstance(answer, Found)
        assert answer.rrset.rdatas == (from_text("web.app.mesh.internal"),)


def test_an_alias_leads_to_no_network_that_the_asker_does_not_see() -> None:
    table = world() | dict([own(1, "store", "db", place=BACK), sandbox("only-app", APP)])
    made = source_of(table)
    assert ask(made, "store.app.mesh.internal", "A", "c") == ["10.170.0.21"]
    for rtype in ("A", "AAAA", "TXT", "ANY", "SRV"):
        assert ask(made, "store.app.mesh.internal", rtype, "only-app") == NX
    assert ask(made, "store.app.mesh.internal", "A", "only-back") == NX


def test_a_chain_of_aliases_ends_whatever_its_length() -> None:
    links = [own(number, f"n{number}", f"n{(number + 1) % 40}") for number in range(40)]
    assert ask(source(*links), "n0.app.mesh.internal") == NX


def test_a_change_is_a_new_version_for_those_who_see_it_and_leaves_nothing_behind() -> None:
    made = source_of(world())
    versions = [made.version(client) for client in ("c", "only-back")]
    rows = [PG, own(1, "shop", "web"), own(2, "*.wild", "web")]
    made.apply(rows)
    assert made.version("c") != versions[0]
    assert made.version("only-back") == versions[1]
    made.apply([(key, None) for key, _ in rows])
    assert dict(made.rows) == world()
    for name in ("pg", "shop", "a.wild", "wild"):
        assert ask(made, f"{name}.app.mesh.internal") == NX


rows = st.one_of(
    st.builds(
        external,
        st.integers(1, 3),
        st.sampled_from(["pg", "a-b", "x_y"]),
        st.tuples(st.sampled_from(["203.0.113.50", "2001:db8::1"]), st.none() | st.integers(1, 65535)),
        ttl_s=st.none() | st.integers(0, 86_400),
        weight=st.integers(0, 1000),
        is_inside=st.booleans(),
        is_behind=st.booleans(),
        ports=st.just((Port("http", 80),)),
    ),
    st.builds(
        own, st.integers(1, 3), st.sampled_from(["shop", "*.shop", "a.b"]), st.sampled_from(["web", "web.h1"])
    ),
    st.builds(
        own,
        st.integers(1, 3),
        st.just("shop"),
        addresses=st.just(packed("203.0.113.1")),
        texts=st.just(("v=1",)),
    ),
)


@given(rows)
def test_a_row_comes_back_as_it_was_sent_also_with_later_fields(change: tuple[Key, Row]) -> None:
    assert read_change_untrusted(fields_of(change)) == change
    assert read_change_untrusted([*fields_of(change), "later", 7]) == change


@given(rows, st.data())
def test_a_row_with_a_false_field_is_refused_by_one_kind_of_error(
    change: tuple[Key, Row], data: st.DataObject
) -> None:
    fields = fields_of(change)
    at = data.draw(st.integers(2, len(fields) - 1))
    fields[at] = data.draw(
        st.sampled_from([None, "UPPER", -1, [[]], [b"12345"], {"a": 1}, b"", True, 1 << 70])
    )
    try:
        read = read_change_untrusted(fields)
    except (ValueError, TypeError):
        return
    made = source_of(world())
    made.apply([read])
    made.lookup(from_text("shop.app.mesh.internal"), constants.A, "c")


def test_a_name_below_a_group_or_a_host_is_a_container_s_or_none() -> None:
    address = packed("203.0.113.9")
    added = (
        own(1, "*.shop", addresses=address),
        own(2, "*.h1", addresses=address),
        own(3, "*.x", addresses=address),
    )
    shop = sandbox("shop-web", APP, group="shop")
    one = source(*added, shop)
    assert ask(one, "db.x.app.mesh.internal") == ["203.0.113.9"]
    assert ask(one, "db.h1.app.mesh.internal") == NX, "an endpoint of h1, or none"
    assert ask(one, "db.shop.app.mesh.internal", client="shop-web") == NX, "of the own group, or none"


def test_own_names_are_taken_out_at_a_cost_of_their_own() -> None:
    def work(count: int) -> int:
        index = NetworkIndex(APP)
        rows = [
            OwnNameRow(OwnNameId(f"{one:032x}"), APP, f"a{one}.b{one}.c{one}", None) for one in range(count)
        ]
        for row in rows:
            index.add_own_name(row)
        done = instructions_of(index.discard_own_name, rows[0], most=10_000)
        for row in rows[1:]:
            index.discard_own_name(row)
        assert index.is_empty()
        assert not index.has_own_names([b"c1"])
        return done

    assert work(20) == work(200)
