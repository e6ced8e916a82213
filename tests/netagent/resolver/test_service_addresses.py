"""Names of services that have an address of their own."""

from __future__ import annotations

import ipaddress
import random

import pytest
from fakes import names
from fakes.names import APP, BACK, ask, source_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId, NetworkId, OwnNameId, ServiceId
from netagent.model.locality import AnswerOrder
from netagent.model.records import ServiceKey, service_key
from netagent.resolver.name_table import (
    EndpointRow,
    ExternalRow,
    Key,
    OwnNameRow,
    Row,
    RowKind,
    ServiceAddressRow,
)
from netagent.resolver.zone_source import TTL_S, ZoneSource
from netdns import constants
from netdns.message import message_untrusted, render_query
from netdns.name import from_text
from netdns.resolver import Resolver, Transport
from netdns.source import Found

OLD = "old"
"""A sandbox whose kernel does not translate."""
IN_SHOP, IN_BLOG = "in-shop", "in-blog"
OWN4, OWN6 = ["10.200.0.7"], ["fd00:2::7"]
WEB4, WEB6 = ["10.160.0.11", "10.160.1.12"], ["fd00:1::11", "fd00:1::12"]
NX, NODATA = "nxdomain mesh.internal.", "nodata mesh.internal."


def replica(number: int, name: str, octet: int, **more: str | tuple[str, ...] | int) -> tuple[Key, Row]:
    addresses = (f"10.160.{number - 1}.{octet}", f"fd00:1::{octet}")
    return names.endpoint(number, name, *addresses, on=f"h{number}", **more)  # type: ignore[arg-type]


WEB = (
    replica(1, "web-1", 11, service="web", ports=("http=80",), aliases=("www",)),
    replica(2, "web-2", 12, service="web", ports=("http=8080",), aliases=("www", "canary"), weight=50),
)
OWN = names.service_address("web", *OWN4, *OWN6)


def box(
    name: str, *networks: NetworkId, group: str | None = None, links: tuple[str, ...] = ()
) -> tuple[Key, Row]:
    return names.sandbox(name, *networks, group=group, links=links, translates=networks)


def table(*more: tuple[Key, Row], answer: AnswerOrder = AnswerOrder.SPREAD) -> dict[Key, Row]:
    return dict(
        [
            names.settings(),
            names.host("1" * 32, "h1", "192.0.2.1", distance=0),
            names.host("2" * 32, "h2", "192.0.2.2", distance=1),
            names.network(
                APP,
                "app",
                "10.160.0.0/20",
                "fd00:1::/64",
                ranges=("10.200.0.0/20", "fd00:2::/64"),
                answer=answer,
            ),
            names.network(BACK, "back", "10.170.0.0/24", ranges=("10.201.0.0/24",)),
            box("c", APP, BACK, links=("web:server", "web.app:other")),
            names.sandbox(OLD, APP, BACK, links=("web:server",)),
            box(IN_SHOP, APP, group="shop", links=("web:server",)),
            box(IN_BLOG, APP, group="blog"),
            names.sandbox("old-in-shop", APP, group="shop"),
            *more,
        ]
    )


def served(*more: tuple[Key, Row]) -> ZoneSource:
    return source_of(table(*more))


@pytest.mark.parametrize("answer", AnswerOrder)
@pytest.mark.parametrize(
    "name", ["web", "WEB.app", "web.app.mesh.internal", "server", "server.app.mesh.internal", "other", "www"]
)
def test_a_name_of_the_service_leads_to_its_own_address(name: str, answer: AnswerOrder) -> None:
    """Links' aliases and aliases of all replicas as well."""
    source = source_of(table(*WEB, OWN, answer=answer))
    assert ask(source, name, "A") == OWN4
    assert ask(source, name, "AAAA") == OWN6
    assert ask(source, name, "ANY") == OWN4
    assert ask(source, name, "MX").startswith("nodata")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("all.web", WEB4),
        ("all.web.app.mesh.internal", WEB4),
        ("nearest.web", WEB4[:1]),
        ("top2.nearest.web.app", WEB4),
        ("rack1.zone.web", WEB4[:1]),  # none there: the nearest
        ("web-2", WEB4[1:]),
        ("web-2.h2.app.mesh.internal", WEB4[1:]),
        ("canary", WEB4[1:]),  # an alias of some replicas is no name of the service
    ],
)
def test_a_name_that_chooses_leads_to_replicas(name: str, addresses: list[str]) -> None:
    for client in ("c", OLD):
        assert ask(served(*WEB, OWN), name, client=client) == addresses


@pytest.mark.parametrize("name", ["web", "web.app.mesh.internal", "server", "www", "all.web"])
def test_a_sandbox_that_does_not_translate_gets_replicas(name: str) -> None:
    source = served(*WEB, OWN)
    assert ask(source, name, "A", OLD) == WEB4
    assert ask(source, name, "AAAA", OLD) == WEB6


def test_a_sandbox_translates_network_by_network() -> None:
    back = names.service_address("db", "10.201.0.9", network_id=BACK)
    db = names.endpoint(3, "db", "10.170.0.21", network_id=BACK)
    only_back = names.sandbox("c", APP, BACK, translates=(BACK,))
    source = served(*WEB, OWN, back, db, only_back)
    assert ask(source, "web") == WEB4
    assert ask(source, "db") == ["10.201.0.9"]


@pytest.mark.parametrize("name", ["web", "web.app", "web.app.mesh.internal", "server"])
def test_without_a_replica_the_name_still_leads_to_the_address(name: str) -> None:
    """So that a program is refused at once, and none is led elsewhere."""
    source = served(OWN)
    assert ask(source, name) == OWN4
    assert ask(source, name, "AAAA") == OWN6


def test_without_a_replica_what_asks_for_replicas_exists_without_data() -> None:
    source = served(OWN)
    for name in (
        "all.web.app.mesh.internal",
        "nearest.web.app.mesh.internal",
        "a.zone.web.app.mesh.internal",
    ):
        assert ask(source, name) == NODATA
    assert ask(source, "web.app.mesh.internal", client=OLD) == NODATA
    assert ask(source, "web", client=OLD) == "nxdomain .", "Docker's resolver may know another one"
    assert ask(source, "server", client=OLD) == "nxdomain ."
    assert ask(source, "_http._tcp.web.app.mesh.internal", "SRV") == NX
    assert ask(source, "www.app.mesh.internal") == NX, "an alias is its replicas'"


def test_only_the_families_of_the_range_are_answered() -> None:
    source = served(*WEB, names.service_address("web", *OWN4))
    assert ask(source, "web.app.mesh.internal", "A") == OWN4
    assert ask(source, "web.app.mesh.internal", "AAAA") == NODATA, "a replica would be used for ever"


def test_of_two_owners_the_first_one_is_in_names_and_both_have_a_reverse_name() -> None:
    """Both halves of a cut gave the service an address; both work for ever."""
    source = served(*WEB, OWN, names.service_address("web", "10.200.0.99", "fd00:2::99", owner=2))
    assert ask(source, "web") == OWN4
    for address in ("10.200.0.7", "10.200.0.99", "fd00:2::99"):
        reverse = ipaddress.ip_address(address).reverse_pointer
        assert ask(source, reverse, "PTR") == ["web.app.mesh.internal."]
    source.apply([(OWN[0], None)])
    assert ask(source, "web") == ["10.200.0.99"]
    assert ask(source, "7.0.200.10.in-addr.arpa", "PTR") == "nxdomain 0.200.10.in-addr.arpa."


def test_of_two_addresses_by_one_owner_the_first_is_in_names() -> None:
    """An heir has its own and that of the host whose addresses it took over."""
    source = served(OWN, names.service_address("web", "10.200.0.6", "fd00:2::6"))
    assert ask(source, "web") == ["10.200.0.6"]
    assert ask(source, "7.0.200.10.in-addr.arpa", "PTR") == ["web.app.mesh.internal."]


def test_reverse_names_of_a_range_are_the_networks() -> None:
    source = served(OWN, names.service_address("db.shop", "10.200.0.8"))
    assert ask(source, "8.0.200.10.in-addr.arpa", "PTR", OLD) == ["db.shop.app.mesh.internal."]
    assert ask(source, "7.0.200.10.in-addr.arpa", "A") == "nodata 0.200.10.in-addr.arpa."
    assert ask(source, "9.0.200.10.in-addr.arpa", "PTR") == "nxdomain 0.200.10.in-addr.arpa."
    assert ask(source, "0.200.10.in-addr.arpa", "SOA") == ["data"]
    assert ask(source, "7.0.200.10.in-addr.arpa", "PTR", "a stranger") == "not ours"


def test_nothing_outside_may_claim_an_address_of_a_range() -> None:
    source = served()
    address = names.packed("10.200.0.250")[0]
    assert source.is_inside(address)
    assert source.claims("c", address)
    assert not source.claims("a stranger", address)
    source.apply([names.network(APP, "app", "10.160.0.0/20")])
    assert not source.is_inside(address)


def test_srv_names_the_replicas_with_their_weights() -> None:
    source = served(*WEB, OWN)
    expected = ["80 web-1.h1.app.mesh.internal.", "8080 web-2.h2.app.mesh.internal."]
    assert ask(source, "_http._tcp.web", "SRV") == expected
    found = source.lookup(from_text("_http._tcp.nearest.web.app.mesh.internal"), constants.SRV, "c")
    assert isinstance(found, Found)
    assert [(data[:2], int.from_bytes(data[2:4])) for data in found.rrset.rdatas] == [
        (b"\0\0", 100),
        (b"\0\1", 50),
    ]


# -- which service a label means ---------------------------------------------------------------------------------

SHOP_DB = replica(1, "shop-db-1", 31, group="shop/db")
BLOG_DB = replica(2, "blog-db-1", 32, group="blog/db")
OWN_SHOP_DB = names.service_address("db.shop", "10.200.0.31")
OWN_BLOG_DB = names.service_address("db.blog", "10.200.0.32")


def test_each_group_finds_its_own_service_address() -> None:
    source = served(SHOP_DB, BLOG_DB, OWN_SHOP_DB, OWN_BLOG_DB)
    assert ask(source, "db", client=IN_SHOP) == ["10.200.0.31"]
    assert ask(source, "db", client=IN_BLOG) == ["10.200.0.32"]
    assert ask(source, "db.shop", client="c") == ["10.200.0.31"]
    assert ask(source, "db.blog.app.mesh.internal", client=IN_SHOP) == ["10.200.0.32"]


def test_a_label_that_several_services_share_leads_to_replicas_of_all() -> None:
    source = served(SHOP_DB, BLOG_DB, OWN_SHOP_DB, OWN_BLOG_DB)
    assert ask(source, "db", client="c") == ["10.160.0.31", "10.160.1.32"]
    one_down = served(SHOP_DB, OWN_SHOP_DB, OWN_BLOG_DB)
    assert ask(one_down, "db", client="c") == ["10.160.0.31"], "not an address that is used for ever"


def test_a_group_without_replicas_keeps_its_services() -> None:
    """In the group nothing stands in for it, and from outside its full name leads to the address."""
    others = (replica(1, "db", 41), names.endpoint(2, "pg", "10.160.0.42", service="db"))
    source = served(OWN_SHOP_DB, *others)
    assert ask(source, "db", client=IN_SHOP) == ["10.200.0.31"]
    assert ask(source, "db.shop") == ["10.200.0.31"]
    assert ask(source, "db.shop", client=OLD) == "not ours", "a group's name may be a top-level domain"
    assert ask(source, "db.shop.app.mesh.internal", client=OLD) == NODATA
    chosen = ["10.160.0.41", "10.160.0.42"]
    assert ask(source, "db", client="c") == chosen, "a chosen service comes first, as ever"


def test_what_is_merely_called_so_stands_in_for_no_service() -> None:
    called = replica(1, "db", 41)
    assert ask(served(called, OWN_SHOP_DB), "db", client="c") == ["10.200.0.31"]
    assert ask(served(called, OWN_SHOP_DB), "db.app.mesh.internal", client=OLD) == NODATA


def test_an_address_that_an_operator_gave_makes_the_service_a_chosen_one() -> None:
    called = replica(2, "db", 41)
    own = names.service_address("db", "10.200.0.41")
    chosen = names.service_address("db", "10.200.0.41", is_chosen=True)
    assert ask(served(SHOP_DB, called, own), "db", client="c") == ["10.160.0.31"]
    for more in ((), (called,)):
        source = served(SHOP_DB, *more, chosen)
        assert ask(source, "db", client="c") == ["10.200.0.41"]
        assert ask(source, "db", client=IN_SHOP) == ["10.160.0.31"], "the own group comes first"
    assert ask(served(SHOP_DB, called, chosen), "db", client=OLD) == ["10.160.1.41"], "the same service"
    assert ask(served(SHOP_DB, chosen), "db.app.mesh.internal", client=OLD) == NODATA


def test_the_name_of_the_only_replica_leads_to_that() -> None:
    """It may get company, and then the name must not have led to the service."""
    alone = replica(1, "web-1", 11, service="web", aliases=("www",))
    source = served(alone, OWN)
    assert ask(source, "web-1") == ["10.160.0.11"]
    assert ask(source, "www") == OWN4
    of_group = served(SHOP_DB, OWN_SHOP_DB)
    assert ask(of_group, "shop-db-1", client=IN_SHOP) == ["10.160.0.31"]
    assert ask(of_group, "shop-db-1", client="c") == ["10.160.0.31"]
    assert ask(of_group, "db", client="c") == ["10.200.0.31"]


def test_a_network_that_refuses_shared_names_refuses_them() -> None:
    rows = table(SHOP_DB, BLOG_DB, OWN_SHOP_DB)
    key = (RowKind.NETWORK, APP)
    rows[key] = names.replaced(rows[key], refuses_shared=True)
    source = source_of(rows)
    assert ask(source, "db.app.mesh.internal") == NX
    assert ask(source, "db.shop") == ["10.200.0.31"]
    assert ask(source, "db", client=IN_SHOP) == ["10.200.0.31"]


# -- what operators added ----------------------------------------------------------------------------------------


def external(ttl_s: int | None = None) -> tuple[Key, Row]:
    service_id = ServiceId("e" * 32)
    places = ((names.packed("203.0.113.5")[0], 5432),)
    row = ExternalRow(service_id, APP, "pg", "h1", places, (), 100, ttl_s, is_inside=False)
    return (RowKind.EXTERNAL, service_id), row


def test_an_external_service_can_have_an_address_of_its_own() -> None:
    source = served(external(ttl_s=300), names.service_address("pg", "10.200.0.5"))
    assert ask(source, "pg") == ["10.200.0.5"]
    assert ask(source, "pg", client=OLD) == ["203.0.113.5"]
    assert ask(source, "all.pg") == ["203.0.113.5"]
    found = source.lookup(from_text("pg.app.mesh.internal"), constants.A, "c")
    assert isinstance(found, Found)
    assert found.rrset.ttl_s == TTL_S, "its target's 300 s are not the address's"


def test_an_own_name_is_an_alias_of_the_service() -> None:
    key = (RowKind.OWN_NAME, "9" * 32)
    row = OwnNameRow(OwnNameId("9" * 32), BACK, "old-web", (APP, "web"))
    for more in ((), WEB):
        source = served(OWN, (key, row), *more)
        found = source.lookup(from_text("old-web.back.mesh.internal"), constants.A, "c")
        assert isinstance(found, Found)
        assert found.canonical == from_text("web.app.mesh.internal")
        assert ask(source, "old-web.back.mesh.internal", "A") == OWN4
    assert ask(source, "old-web", "A", OLD) == WEB4


def test_an_own_name_takes_no_name_from_a_service() -> None:
    own = OwnNameRow(OwnNameId("9" * 32), APP, "web", None, names.packed("203.0.113.9"))
    source = served(OWN, ((RowKind.OWN_NAME, own.name_id), own))
    assert ask(source, "web") == OWN4
    assert ask(source, "web.app.mesh.internal", client=OLD) == NODATA


# -- the process -------------------------------------------------------------------------------------------------


def test_finished_answers_follow_the_sandbox_and_the_service() -> None:
    """Whatever changes what the name leads to, a kept answer is not given again."""
    source = served(*WEB, OWN)
    resolver = Resolver(source=source, rng=random.Random(1), now=0.0)
    query = render_query(7, from_text("web.app.mesh.internal"), constants.A, flags=constants.RD, opt=b"")

    def answered() -> set[str]:
        found = set()
        for _ in range(4):
            reply = resolver.handle_query(query, "c", Transport.UDP, "t", 1.0)
            assert reply is not None
            records = message_untrusted(reply).records
            found |= {str(ipaddress.ip_address(one.rdata)) for one in records if one.rtype == constants.A}
        return found

    assert answered() == set(OWN4)
    source.apply([names.sandbox("c", APP, BACK)])
    assert answered() == set(WEB4)
    source.apply([box("c", APP, BACK)])
    assert answered() == set(OWN4)
    source.apply([(OWN[0], None)])
    assert answered() == set(WEB4)
    source.apply([OWN, *((key, None) for key, _ in WEB)])
    assert answered() == set(OWN4)


def test_an_address_without_room_in_the_kernel_stands_in_for_no_replica() -> None:
    """It keeps its reverse name, and its service's names; of two the one that the kernel has is given."""
    refused = names.service_address("web", *OWN4, *OWN6, is_chosen=True, is_refused=True)
    source = served(*WEB, refused)
    assert sorted(ask(source, "web", "A")) == WEB4
    assert ask(source, "7.0.200.10.in-addr.arpa", "PTR") == ["web.app.mesh.internal."]
    assert ask(served(refused), "web.app.mesh.internal", "A") == NODATA, (
        "the service is there, and has no replica"
    )
    other = names.service_address("web", "10.200.0.9", owner=2)
    assert ask(served(*WEB, refused, other), "web", "A") == ["10.200.0.9"]
    assert ask(served(*WEB, OWN, other), "web", "A") == OWN4


LABELS, GROUPS = ("web", "db", "web-1"), ("", "shop", "blog")
SERVICES = st.builds(
    lambda name, group, owner, chosen: names.service_address(
        f"{name}.{group}" if group else name,
        f"10.200.{owner}.{10 * LABELS.index(name) + GROUPS.index(group)}",
        owner=owner,
        is_chosen=chosen,
    ),
    st.sampled_from(LABELS),
    st.sampled_from(GROUPS),
    st.integers(1, 3),
    st.booleans(),
)
REPLICAS = st.builds(
    lambda number, name, service, group, alias: names.endpoint(
        number, name, f"10.160.0.{number}", service=service, group=group, aliases=(alias,) if alias else ()
    ),
    st.integers(1, 5),
    st.sampled_from(LABELS),
    st.sampled_from((*LABELS, "")),
    st.sampled_from(("", "shop/web", "shop/db", "blog/db")),
    st.sampled_from(("", "www", "web")),
)
TABLES = st.lists(SERVICES | REPLICAS, max_size=10).map(dict)


@given(TABLES)
def test_a_name_means_the_same_service_whether_or_not_its_address_is_translated(rows: dict[Key, Row]) -> None:
    """An answer is what those get that do not translate, or one service's address, by its first owner; then the
    others get replicas of this service alone, and all of them by an alias."""
    source = source_of(table(*rows.items()))
    owned: dict[ServiceKey, dict[tuple[HostId, tuple[bytes, ...]], tuple[bytes, ...]]] = {}
    replicas: dict[ServiceKey, set[str]] = {}
    for row in rows.values():
        if isinstance(row, ServiceAddressRow):
            owned.setdefault(row.service, {})[row.owner, row.addresses] = row.addresses
        elif isinstance(row, EndpointRow):
            key = service_key(row.name, row.service, row.group)
            replicas.setdefault(key, set()).add(str(ipaddress.ip_address(row.addresses[0])))
    for label in (*LABELS, "www", "web.shop", "db.blog"):
        for translating, plain in (("c", OLD), (IN_SHOP, "old-in-shop")):
            name = f"{label}.app.mesh.internal"
            answer, others = ask(source, name, client=translating), ask(source, name, client=plain)
            if answer == others:
                continue
            (service,) = [key for key, by in owned.items() if names.packed(*answer) == by[min(by)]]
            if isinstance(others, str):
                assert others == NODATA
                assert service.name == label.partition(".")[0]
            else:
                assert set(others) <= replicas[service]
                assert service.name == label.partition(".")[0] or set(others) == replicas[service]
