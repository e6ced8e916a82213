"""Which replicas a name leads to, and in which order."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterable, Sequence

import dns.message
import pytest
from fakes import names
from fakes.names import APP, ask, packed, source_of

from netagent.model.locality import WARM_UP_STEP_S, WARM_UP_STEPS, AnswerOrder, Choice
from netagent.resolver import order
from netagent.resolver.name_table import EndpointRow, HostRow, Key, Row, SettingsRow
from netagent.resolver.order import MAX_RANKINGS
from netagent.resolver.zone_source import ZoneSource
from netdns import constants
from netdns.name import from_text, to_text
from netdns.resolver import Resolver, Transport
from netdns.source import Found

NOW_S = 1_700_000_000
WEB = ["10.160.0.11", "10.160.0.12", "10.160.0.13", "10.160.0.14"]
NX = "nxdomain mesh.internal."


def world(
    *more: tuple[Key, Row], answer: AnswerOrder = AnswerOrder.SPREAD, zone: str = "a"
) -> dict[Key, Row]:
    """The asker's host is h1 in zone a; h2 is as near as h3, but h3 is in another zone; h4 is far."""
    return dict(
        [
            names.settings(zone=zone),
            names.host("1" * 32, "h1", "192.0.2.1", zone=zone, distance=0),
            names.host("2" * 32, "h2", "192.0.2.2", zone="a", distance=1),
            names.host("3" * 32, "h3", "192.0.2.3", zone="b", distance=1),
            names.host("4" * 32, "h4", "192.0.2.4", zone="b", distance=4),
            names.network(APP, "app", "10.160.0.0/20", "fd00:1::/64", answer=answer),
            names.sandbox("c", APP, links=("web:www",)),
            *more,
        ]
    )


def web(*hosts: int, **fields: object) -> Iterable[tuple[Key, Row]]:
    for number in hosts:
        addresses = (f"10.160.0.{10 + number}", f"fd00:1::{10 + number:x}")
        key, row = names.endpoint(
            number, f"web-{number}", *addresses, service="web", on=f"h{number}", ports=("http=80",)
        )
        yield key, names.replaced(row, **fields)


def on(*hosts: int) -> list[str]:
    return [WEB[number - 1] for number in hosts]


@pytest.mark.parametrize(
    ("present", "name", "expected"),
    [
        ((1, 2, 3, 4), "web", on(1, 2, 3, 4)),
        ((1, 2, 3, 4), "nearest.web", on(1)),
        ((2, 3, 4), "nearest.web", on(2)),
        ((3, 4), "nearest.web", on(3)),
        ((4,), "nearest.web", on(4)),
        ((1, 2, 3, 4), "top2.nearest.web", on(1, 2)),
        ((1, 2, 3, 4), "top3.nearest.web", on(1, 2, 3)),
        ((3, 4), "top16.nearest.web", on(3, 4)),
        ((1, 2, 3, 4), "a.zone.web", on(1, 2)),
        ((1, 2, 3, 4), "b.zone.web", on(3, 4)),
        ((1, 2), "b.zone.web", on(1)),
        ((3, 4), "a.zone.web", on(3)),
        ((2, 4), "nosuch.zone.web", on(2)),
        ((1, 2, 3, 4), "all.web", on(1, 2, 3, 4)),
        ((), "nearest.web", NX),
        ((), "all.web", NX),
        ((1,), "top99.nearest.web", NX),
        ((1,), "nearest.nosuch", NX),
        ((1,), "zone.web", "nodata mesh.internal."),
        ((1, 2), "nearest.web-2", on(2)),
    ],
)
def test_words_before_a_service_choose_its_replicas(
    present: tuple[int, ...], name: str, expected: list[str] | str
) -> None:
    source = source_of(world(*web(*present)))
    assert ask(source, f"{name}.app.mesh.internal") == expected


@pytest.mark.parametrize(
    "name", ["nearest.web", "nearest.web.app", "nearest.www", "top1.nearest.web", "a.zone.web"]
)
def test_the_words_work_without_the_domain(name: str) -> None:
    source = source_of(world(*web(1, 4)))
    assert ask(source, name) == on(1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nearest.web.app", "kept inside ."),  # a form of ours: it must not become an outside name
        ("b.zone.web.app", "kept inside ."),
        ("all.web", "not ours"),
        ("nearest.org", "not ours"),
    ],
)
def test_a_service_that_is_away_leads_nowhere_else(name: str, expected: str) -> None:
    assert ask(source_of(world()), name) == expected


@pytest.mark.parametrize(
    ("answer", "zone", "present", "expected"),
    [
        (AnswerOrder.NEAREST, "a", (1, 2, 3), on(1)),
        (AnswerOrder.NEAREST, "a", (2, 3, 4), on(2)),
        (AnswerOrder.ZONE, "a", (1, 2, 3), on(1, 2)),
        (AnswerOrder.ZONE, "b", (1, 2, 3, 4), on(1, 3, 4)),
        (AnswerOrder.ZONE, "a", (3, 4), on(3)),
        (AnswerOrder.ZONE, "", (2, 3, 4), on(2, 3)),  # neither is in this host's zone, and both are as far
    ],
)
def test_a_network_says_what_its_names_lead_to(
    answer: AnswerOrder, zone: str, present: tuple[int, ...], expected: list[str]
) -> None:
    source = source_of(world(*web(*present), answer=answer, zone=zone))
    assert ask(source, "web.app.mesh.internal") == expected
    assert ask(source, "all.web.app.mesh.internal") == on(*present)


def test_without_zones_all_hosts_are_in_one() -> None:
    table = world(*web(1, 2, 4), answer=AnswerOrder.ZONE, zone="")
    table = {
        key: names.replaced(row, zone="") if isinstance(row, HostRow | SettingsRow) else row
        for key, row in table.items()
    }
    assert ask(source_of(table), "web.app.mesh.internal") == on(1, 2, 4)


def test_an_unreached_replica_is_not_near_however_short_the_path_was() -> None:
    rows = [*web(1, is_behind=True), *web(4)]
    source = source_of(world(*rows))
    assert ask(source, "nearest.web.app.mesh.internal") == on(4)
    assert ask(source, "top2.nearest.web.app.mesh.internal") == on(4)
    assert ask(source, "all.web.app.mesh.internal") == on(1, 4)
    assert ask(source_of(world(*web(1, is_behind=True))), "nearest.web.app.mesh.internal") == on(1)


def srv(source: ZoneSource, name: str) -> list[tuple[int, int, str]]:
    answer = source.lookup(from_text(name), constants.SRV, "c")
    assert isinstance(answer, Found)
    return [
        (*struct.unpack_from("!HH", data), to_text(data[6:]).partition(".app.")[0])
        for data in answer.rrset.rdatas
    ]


def test_srv_gives_the_distance_as_priority_where_the_order_asks_for_it() -> None:
    rows = [*web(4, 3, 2), *web(1, is_behind=True)]
    far = [(0, 100, "web-2.h2"), (1, 100, "web-3.h3"), (2, 100, "web-4.h4"), (3, 100, "web-1.h1")]
    source = source_of(world(*rows))
    assert srv(source, "_http._tcp.nearest.web.app.mesh.internal") == far
    assert srv(source, "_http._tcp.top2.nearest.web.app.mesh.internal") == far[:2]
    assert srv(source, "_http._tcp.b.zone.web.app.mesh.internal") == [
        (0, 100, "web-3.h3"), (0, 100, "web-4.h4"), (1, 100, "web-2.h2"), (2, 100, "web-1.h1"),
    ]  # fmt: skip
    assert {one[0] for one in srv(source, "_http._tcp.web.app.mesh.internal")} == {0, 1}
    near = source_of(world(*rows, answer=AnswerOrder.NEAREST))
    assert srv(near, "_http._tcp.web.app.mesh.internal") == far


def first_addresses(source: ZoneSource, name: str, rtype: str, *, repeats: int = 700) -> Counter[str]:
    """The first address of each answer, as the resolver gives them."""
    resolver = Resolver(source=source, rng=random.Random(7), now=0.0)
    query = dns.message.make_query(name, rtype).to_wire()
    firsts: Counter[str] = Counter()
    for _ in range(repeats):
        payload = resolver.handle_query(query, "c", Transport.UDP, None, 0.0)
        assert payload is not None
        firsts[dns.message.from_wire(payload).answer[0][0].to_text()] += 1
    return firsts


@pytest.mark.parametrize(("rtype", "address"), [("A", "10.160.0.1{}"), ("AAAA", "fd00:1::{}")])
def test_the_share_of_first_places_is_the_weight(rtype: str, address: str) -> None:
    rows = [*web(1, 2), *web(3, weight=50), *web(4, weight=0)]
    firsts = first_addresses(source_of(world(*rows)), "web.app.mesh.internal", rtype, repeats=500)
    numbers = [f"{10 + number:x}" if rtype == "AAAA" else str(number) for number in (1, 2, 3)]
    assert firsts == {
        address.format(number): count for number, count in zip(numbers, (200, 200, 100), strict=True)
    }


def test_a_weight_of_zero_is_for_when_there_is_no_other() -> None:
    rows = [*web(1, weight=0), *web(2, weight=0)]
    source = source_of(world(*rows))
    assert set(first_addresses(source, "web.app.mesh.internal", "A")) == set(on(1, 2))
    assert srv(source, "_http._tcp.web.app.mesh.internal") == [(0, 0, "web-1.h1"), (0, 0, "web-2.h2")]


def test_the_nearest_replicas_rotate_and_the_next_ones_follow_them() -> None:
    rows = [*web(1), *names_on_host_one(5), *web(4)]
    source = source_of(world(*rows))
    resolver = Resolver(source=source, rng=random.Random(7), now=0.0)
    query = dns.message.make_query("top3.nearest.web.app.mesh.internal", "A").to_wire()
    orders = set()
    for _ in range(20):
        payload = resolver.handle_query(query, "c", Transport.UDP, None, 0.0)
        assert payload is not None
        orders.add(tuple(one.to_text() for one in dns.message.from_wire(payload).answer[0]))
    assert orders == {(WEB[0], "10.160.0.15", WEB[3]), ("10.160.0.15", WEB[0], WEB[3])}


def names_on_host_one(*numbers: int) -> Iterable[tuple[Key, Row]]:
    for number in numbers:
        yield names.endpoint(number, f"web-{number}", f"10.160.0.{10 + number}", service="web", on="h1")


def test_the_n_nearest_of_many_are_spread_over_the_askers() -> None:
    rows = [*names_on_host_one(*range(1, 11))]
    boxes = [names.sandbox(f"c{number}", APP) for number in range(500)]
    source = source_of(world(*rows, *boxes))
    chosen: Counter[str] = Counter()
    for number in range(500):
        found = ask(source, "top2.nearest.web.app.mesh.internal", client=f"c{number}")
        assert found == ask(source, "top2.nearest.web.app.mesh.internal", client=f"c{number}")
        assert len(found) == 2
        chosen.update(found)
    assert len(chosen) == 10
    assert all(60 <= count <= 140 for count in chosen.values()), chosen


def test_all_gives_every_address_of_both_families() -> None:
    source = source_of(world(*web(1, 2, 3, 4)))
    for name, shown in (("all.web", 4), ("web", 1)):
        answer = source.lookup(from_text(f"{name}.app.mesh.internal"), constants.AAAA, "c")
        assert isinstance(answer, Found)
        assert answer.rrset.count == shown
        assert set(answer.rrset.rdatas) == set(packed("fd00:1::b", "fd00:1::c", "fd00:1::d", "fd00:1::e"))


def test_an_endpoint_that_came_up_warms_up() -> None:
    source = ZoneSource()
    source.handle_time(NOW_S)
    source.apply(world(*web(1), *web(2, up_since_s=NOW_S)).items())
    seen = []
    for _ in range(WARM_UP_STEPS + 1):
        version = source.version("c")
        weights = {name: weight for _, weight, name in srv(source, "_http._tcp.web.app.mesh.internal")}
        firsts = first_addresses(source, "web.app.mesh.internal", "A")
        assert firsts[WEB[1]] / firsts.total() == pytest.approx(
            weights["web-2.h2"] / (100 + weights["web-2.h2"]), abs=0.01
        )
        seen.append((weights["web-2.h2"], version))
        source.handle_time(NOW_S + WARM_UP_STEP_S * len(seen) - 1)
        assert source.version("c") == version, "nothing changes between two steps"
        source.handle_time(NOW_S + WARM_UP_STEP_S * len(seen))
    assert [weight for weight, _ in seen] == [17, 34, 50, 67, 84, 100, 100]
    versions = [version for _, version in seen]
    assert len(set(versions)) == WARM_UP_STEPS, (
        "finished answers end with each step, and with none after the last"
    )
    assert source._warming == {}


def test_endpoints_that_leave_while_they_warm_up_leave_nothing() -> None:
    source = ZoneSource()
    source.handle_time(NOW_S)
    rows = dict([*web(1, 2, up_since_s=NOW_S), *web(3, up_since_s=NOW_S - 100)])
    source.apply(world(*rows.items()).items())
    assert set(source._warming) == {NOW_S}
    source.apply([(key, None) for key in rows])
    assert source._warming == {}


def test_a_thousand_starts_in_one_second_cost_a_step_one_look() -> None:
    source = ZoneSource()
    source.handle_time(NOW_S)
    rows = [names.endpoint(1, "web", "10.160.0.1", up_since_s=NOW_S)]
    rows = [
        ((key[0], f"{number:032x}"), names.replaced(row, endpoint_id=f"{number:032x}"))
        for number in range(1000)
        for key, row in rows
    ]
    source.apply(world(*rows).items())
    assert [dict(one) for one in source._warming.values()] == [{APP: 1000}]


def test_a_distance_is_one_row_and_reaches_the_answers() -> None:
    source = source_of(world(*web(2, 3)))
    assert ask(source, "nearest.web.app.mesh.internal") == on(2)
    version = source.version("c")
    source.apply([names.host("2" * 32, "h2", "192.0.2.2", zone="a", distance=5)])
    assert source.version("c") != version
    assert ask(source, "nearest.web.app.mesh.internal") == on(3)


# -- names that could mean two things ------------------------------------------------------------------------------


def test_words_win_over_an_endpoint_of_that_name_on_a_host_that_is_called_like_a_service() -> None:
    rows = [
        *web(2),
        names.host("5" * 32, "web", "192.0.2.5"),
        names.endpoint(7, "nearest", "10.160.0.77", on="web"),
        names.endpoint(8, "all", "10.160.0.88", on="h2"),
        names.endpoint(9, "zone", "10.160.0.99", on="h2"),
    ]
    source = source_of(world(*rows))
    assert ask(source, "nearest.web.app.mesh.internal") == on(2)
    assert ask(source, "nearest.app.mesh.internal") == ["10.160.0.77"], "below a network alone it is a name"
    assert ask(source, "all.app.mesh.internal") == ["10.160.0.88"]
    assert ask(source, "all.h2.app.mesh.internal") == ["10.160.0.88"], "no service is called h2"
    assert ask(source, "zone.h2.app.mesh.internal") == ["10.160.0.99"]
    # What stands for one endpoint alone leads to it, whatever it is called.
    for address, ours in (("77.0.160.10", "10.160.0.77"), ("88.0.160.10", "10.160.0.88")):
        target = ask(source, f"{address}.in-addr.arpa", "PTR")[0]
        assert target.startswith("e0")
        assert ask(source, target.removesuffix(".")) == [ours]


def test_words_before_a_group_s_service() -> None:
    rows = [
        names.endpoint(1, "shop-db-1", "10.160.0.11", on="h2", group="shop/db"),
        names.endpoint(2, "shop-db-2", "10.160.0.12", on="h4", group="shop/db"),
        names.endpoint(3, "blog-db-1", "10.160.0.13", on="h1", group="blog/db"),
        names.sandbox("s", APP, group="shop"),
    ]
    source = source_of(world(*rows))
    assert ask(source, "nearest.db.shop.app.mesh.internal") == ["10.160.0.11"]
    assert ask(source, "b.zone.db.shop.app.mesh.internal") == ["10.160.0.12"]
    assert ask(source, "nearest.db", client="s") == ["10.160.0.11"], (
        "its own group's, though blog's is nearer"
    )
    assert ask(source, "nearest.db.shop") == ["10.160.0.11"]
    assert ask(source, "all.db.shop.app.mesh.internal") == ["10.160.0.11", "10.160.0.12"]
    # While its own group's service is away, a word leads to no other group's, as the plain name does not.
    away = [names.endpoint(1, "x", "10.160.0.21", group="shop/x"), names.group_label("db", "shop", APP)]
    source = source_of(world(*rows[2:], *away))
    for name in ("db", "nearest.db", "all.db"):
        assert ask(source, f"{name}.app.mesh.internal", client="s") == NX
    assert ask(source, "nearest.db.app.mesh.internal") == ["10.160.0.13"]


def test_many_replicas_are_ranked_once_for_each_choice_and_state_of_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranked: list[int] = []
    rank = order._rank

    def counted(
        rows: Sequence[EndpointRow], choice: Choice, around: order.Surroundings
    ) -> list[order.Ranked]:
        ranked.append(len(rows))
        return rank(rows, choice, around)

    monkeypatch.setattr(order, "_rank", counted)
    many = [
        names.endpoint(number, f"many-{number}", f"10.160.1.{number}", service="many", ports=("http=80",))
        for number in range(256)
    ]
    source = source_of(world(*many, names.sandbox("d", APP)))

    def look_up(*asked: str) -> int:
        ranked.clear()
        for text in asked:
            name, rtype = text.split()
            for client in "cdc":
                found = source.lookup(
                    from_text(f"{name}.app.mesh.internal"), getattr(constants, rtype), client
                )
                assert isinstance(found, Found)
        assert set(ranked) <= {256}
        return len(ranked)

    assert look_up("top3.nearest.many A", "_http._tcp.nearest.many SRV") == 1
    assert look_up("_http._tcp.many SRV", "_http._tcp.a.zone.many SRV", "_http._tcp.b.zone.many SRV") == 3
    assert look_up("top3.nearest.many A") == 0
    source.apply([names.host("1" * 32, "h1", "192.0.2.1", zone="a", distance=3)])
    assert look_up("top3.nearest.many A", "_http._tcp.nearest.many SRV") == 1
    for number in range(MAX_RANKINGS + 5):
        source.lookup(from_text(f"_http._tcp.z{number}.zone.many.app.mesh.internal"), constants.SRV, "c")
    assert len(source.around.rankings) == MAX_RANKINGS
