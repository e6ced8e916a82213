"""Names in groups: each project finds its own first."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import names
from fakes.names import APP, BACK, ask, source_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.records import Group
from netagent.model.sandbox import Sandbox
from netagent.resolver.name_table import EndpointRow, Key, Row
from netagent.resolver.row import fields_of, read_change_untrusted
from netagent.resolver.zone_source import ZoneSource

NX = "nxdomain mesh.internal."
SHOP, BLOG, PLAIN, LINKED = "in-shop", "in-blog", "plain", "linked"


def two_projects(*more: tuple[Key, Row], refuses_shared: bool = False) -> ZoneSource:
    """Two projects with a `db` each in one network, and containers of each and of none."""
    return source_of(
        dict(
            [
                names.settings(),
                names.host("1" * 32, "h1", "192.0.2.1"),
                names.network(APP, "app", "10.160.0.0/20", refuses_shared=refuses_shared),
                names.network(BACK, "back", "10.170.0.0/24"),
                names.endpoint(1, "shop-db-1", "10.160.0.1", group="shop/db", ports=("sql=5432",)),
                names.endpoint(2, "blog-db-1", "10.160.0.2", group="blog/db", ports=("sql=5432",)),
                names.endpoint(3, "shop-web-1", "10.160.0.3", group="shop/web", aliases=("www",)),
                names.endpoint(4, "shop-web-2", "10.160.0.4", group="shop/web"),
                names.sandbox(SHOP, APP, group="shop"),
                names.sandbox(BLOG, APP, group="blog"),
                names.sandbox(PLAIN, APP),
                names.sandbox(LINKED, APP, group="shop", links=("db:data", "db.blog:other", "web:db")),
                *more,
            ]
        )
    )


@pytest.mark.parametrize("name", ["db", "db.app", "db.app.mesh.internal"])
def test_each_project_finds_its_own(name: str) -> None:
    source = two_projects()
    assert ask(source, name, client=SHOP) == ["10.160.0.1"]
    assert ask(source, name, client=BLOG) == ["10.160.0.2"]
    assert ask(source, name, client=PLAIN) == ["10.160.0.1", "10.160.0.2"]


@pytest.mark.parametrize("client", [SHOP, BLOG, PLAIN])
@pytest.mark.parametrize("where", ["", ".app", ".app.mesh.internal"])
def test_every_project_is_reached_by_its_name_from_everywhere_in_the_network(client: str, where: str) -> None:
    source = two_projects()
    assert ask(source, f"db.shop{where}", client=client) == ["10.160.0.1"]
    assert ask(source, f"db.blog{where}", client=client) == ["10.160.0.2"]
    assert ask(source, f"web.shop{where}", client=client) == ["10.160.0.3", "10.160.0.4"]
    assert ask(source, f"www.shop{where}", client=client) == ["10.160.0.3"]
    assert ask(source, f"_sql._tcp.db.blog{where}", "SRV", client) == ["5432 blog-db-1.h1.app.mesh.internal."]


def test_what_the_own_project_has_not_got_is_the_networks() -> None:
    source = two_projects(names.endpoint(9, "cache", "10.160.0.9"))
    assert ask(source, "web", client=BLOG) == ["10.160.0.3", "10.160.0.4"]
    assert ask(source, "www", client=BLOG) == ["10.160.0.3"]
    assert ask(source, "cache", client=BLOG) == ["10.160.0.9"]
    assert ask(source, "shop-db-1", client=BLOG) == ["10.160.0.1"]


@pytest.mark.parametrize("name", ["db", "db.app", "db.app.mesh.internal", "db.back", "db.back.mesh.internal"])
def test_none_stands_in_for_what_the_own_project_has_had(name: str) -> None:
    """The other project's, a chosen service, an alias, a plain container, and all that in a further network."""
    others = [
        names.endpoint(8, "blog-db-2", "10.160.0.8", group="blog/db"),
        names.endpoint(9, "pg", "10.160.0.9", service="db"),
        names.endpoint(10, "x", "10.160.0.10", aliases=("db",)),
        names.endpoint(11, "db", "10.160.0.11"),
        names.endpoint(12, "db", "10.170.0.12", network_id=BACK),
        names.endpoint(13, "shop-web-1", "10.160.0.13", group="shop/web"),
    ]
    both = names.sandbox("both", BACK, APP, group="shop")
    rows = [names.network(APP, "app"), names.network(BACK, "back"), both, names.sandbox(PLAIN, BACK, APP)]
    gone = source_of(dict([*rows, *others, names.group_label("db", "shop")]))
    full = "mesh" in name
    assert ask(gone, name, client="both") == (
        NX if full else "nxdomain ." if name == "db" else "kept inside ."
    )
    never = source_of(dict([*rows, *others]))
    assert ask(never, name, client="both") == ask(never, name, client=PLAIN)
    assert ask(gone, name, client=PLAIN) == ask(never, name, client=PLAIN)
    back = source_of(dict([*rows, *others, names.endpoint(14, "shop-db-1", "10.160.0.14", group="shop/db")]))
    answer = ["10.160.0.14"] if "back" not in name else NX if full else "kept inside ."
    assert ask(back, name, client="both") == answer, "in whichever network the project has it"


def test_a_name_with_the_own_group_does_not_leave_the_host_while_its_endpoint_is_away() -> None:
    source = two_projects(names.group_label("cache", "shop"))
    assert ask(source, "cache.shop", client=SHOP) == "nxdomain ."
    assert ask(source, "cache.shop.app.mesh.internal", client=SHOP) == NX
    assert ask(source, "cache.shop", client=BLOG) == "not ours"
    assert ask(source, "never.shop", client=SHOP) == "not ours"


def test_links_do_not_lead_past_the_own_project_either() -> None:
    linked = names.sandbox(LINKED, APP, group="shop", links=("cache:store", "cache.blog:theirs"))
    source = two_projects(
        linked,
        names.group_label("cache", "shop"),
        names.endpoint(9, "blog-cache-1", "10.160.0.9", group="blog/cache"),
    )
    assert ask(source, "store", client=LINKED) == "nxdomain ."
    assert ask(source, "theirs", client=LINKED) == ["10.160.0.9"]


def test_a_plain_container_takes_no_name_from_a_project() -> None:
    source = two_projects(names.endpoint(9, "db", "10.160.0.9"), names.endpoint(10, "web", "10.160.0.10"))
    assert ask(source, "db", client=SHOP) == ["10.160.0.1"]
    assert ask(source, "db", client=PLAIN) == ["10.160.0.1", "10.160.0.2"]
    assert ask(source, "web", client=PLAIN) == ["10.160.0.3", "10.160.0.4"]
    assert ask(source, "db.h1.app", client=PLAIN) == ["10.160.0.9"]


def test_a_chosen_service_stands_first_except_in_a_project_that_has_the_name() -> None:
    source = two_projects(
        names.endpoint(9, "pg-1", "10.160.0.9", service="db"), names.endpoint(10, "db", "10.160.0.10")
    )
    assert ask(source, "db", client=PLAIN) == ["10.160.0.9", "10.160.0.10"]
    assert ask(source, "db", client=SHOP) == ["10.160.0.1"]


def test_links_come_before_the_own_project() -> None:
    source = two_projects()
    assert ask(source, "data", client=LINKED) == ["10.160.0.1"], "a link leads to the own project's"
    assert ask(source, "other", client=LINKED) == ["10.160.0.2"]
    assert ask(source, "db", client=LINKED) == ["10.160.0.3", "10.160.0.4"]


def test_a_network_that_refuses_shared_names_denies_them_to_third_parties_only() -> None:
    source = two_projects(refuses_shared=True)
    assert ask(source, "db.app.mesh.internal", client=PLAIN) == NX
    assert ask(source, "db.app", client=PLAIN) == "kept inside ."
    assert ask(source, "db", client=PLAIN) == "nxdomain .", "Docker's resolver would answer with one of them"
    assert ask(source, "db", client=SHOP) == ["10.160.0.1"]
    assert ask(source, "db.shop", client=PLAIN) == ["10.160.0.1"]
    assert ask(source, "web", client=PLAIN) == ["10.160.0.3", "10.160.0.4"], "of one project"
    chosen = two_projects(names.endpoint(9, "pg", "10.160.0.9", service="db"), refuses_shared=True)
    assert ask(chosen, "db", client=PLAIN) == ["10.160.0.9"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gone.shop", "not ours"),
        ("www.google.shop", "not ours"),
        ("db.nobody", "not ours"),
        ("gone.shop.app", "kept inside ."),
        ("gone.nobody.app", "not ours"),
        ("shop.app.mesh.internal", "nodata mesh.internal."),
        ("gone.shop.app.mesh.internal", NX),
        ("db.shop.mesh.internal", NX),
        ("db.shop.back", "not ours"),
    ],
)
def test_absent_names_of_a_project(name: str, expected: str) -> None:
    """A project may have the name of a top-level domain, and anyone may start one: outside names are not taken."""
    assert ask(two_projects(), name, client=PLAIN) == expected


def test_a_network_comes_before_a_project_and_a_host_before_both_of_one_name() -> None:
    source = two_projects(
        names.endpoint(9, "x-1", "10.160.0.9", group="app/x"),
        names.endpoint(10, "db", "10.160.0.10", group="h1/db", on="h2"),
        names.endpoint(11, "h1-db", "10.160.0.11", on="h1"),
    )
    assert ask(source, "x.app", client=PLAIN) == ["10.160.0.9"]
    assert ask(source, "db.app", client=SHOP) == ["10.160.0.1"]
    assert ask(source, "db.h1.app", client=PLAIN) == ["10.160.0.10"]
    assert ask(source, "shop-db-1.h1.app", client=PLAIN) == ["10.160.0.1"]


def test_the_networks_are_asked_in_the_order_of_attaching() -> None:
    source = two_projects(
        names.endpoint(9, "shop-only-1", "10.170.0.9", network_id=BACK, group="shop/only"),
        names.endpoint(10, "shop-db-1", "10.170.0.10", network_id=BACK, group="shop/db"),
        names.sandbox("both", APP, BACK, group="shop"),
    )
    assert ask(source, "db", client="both") == ["10.160.0.1"]
    assert ask(source, "only", client="both") == ["10.170.0.9"]
    assert ask(source, "only.shop", client="both") == ["10.170.0.9"]
    assert ask(source, "only.shop", client=SHOP) == "not ours"


def test_reverse_names_go_by_the_host() -> None:
    source = two_projects()
    assert ask(source, "2.0.160.10.in-addr.arpa", "PTR", SHOP) == ["blog-db-1.h1.app.mesh.internal."]


# -- the order, against a slow and plain one ------------------------------------------------------------------------

LABELS = st.sampled_from(("db", "web", "x"))
ENDPOINTS = st.lists(
    st.tuples(
        LABELS | st.sampled_from(("a-1", "b-1")),
        st.none() | LABELS,
        st.none() | st.tuples(st.sampled_from(("shop", "blog")), st.none() | LABELS),
        st.lists(LABELS, max_size=2).map(tuple),
    ),
    max_size=5,
)


def row_of(
    number: int,
    name: str,
    service: str | None,
    group: tuple[str, str | None] | None,
    aliases: tuple[str, ...],
) -> tuple[Key, Row]:
    text = "" if group is None else f"{group[0]}/{group[1] or ''}"
    part = None if group is None else group[1]
    aliases = tuple(alias for alias in aliases if part is None or alias != part)
    address = f"10.0.0.{number}"
    return names.endpoint(number, name, address, service=service or "", group=text, aliases=aliases)


def looked_up(
    rows: list[EndpointRow], label: str, group: str | None, had: tuple[str, ...]
) -> list[EndpointRow]:
    """As the documents say it."""

    def of_group(row: EndpointRow) -> str | None:
        return None if row.group is None else row.group.service or row.name

    def is_chosen(row: EndpointRow) -> bool:
        return row.service != row.name and not (row.group and row.service == row.group.service)

    own = [row for row in rows if row.group and row.group.name == group]
    plain = [row for row in rows if row.group is None]
    chosen = [row for row in rows if is_chosen(row) and row.service == label]
    inside = [
        [row for row in own if of_group(row) == label],
        [row for row in own if row.name == label],
        [row for row in own if label in row.aliases],
    ]
    if any(inside) or (group and label in had):
        return next(filter(None, inside), [])
    steps = [
        chosen
        and [
            row
            for row in rows
            if row in chosen
            or (row in plain and label == row.name == row.service and label not in row.aliases)
        ],
        [row for row in rows if of_group(row) == label or label in row.aliases],
        [row for row in rows if row.group and row.name == label],
        [row for row in plain if row.name == row.service == label],
        [row for row in plain if row.name == label],
    ]
    return next(filter(None, steps), [])


@given(
    ENDPOINTS, LABELS | st.just("a-1"), st.sampled_from((None, "shop", "blog")), st.lists(LABELS).map(tuple)
)
def test_the_order_of_the_look_up(
    endpoints: list[Any], label: str, group: str | None, had: tuple[str, ...]
) -> None:
    rows = [row_of(number, *fields) for number, fields in enumerate(endpoints, 1)]
    kept = [names.group_label(one, group) for one in had] if group else []
    source = source_of(
        dict(
            [names.settings(), names.network(APP, "app"), names.sandbox("c", APP, group=group), *rows, *kept]
        )
    )
    found = ask(source, f"{label}.app.mesh.internal")
    expected = looked_up([row for _, row in rows if isinstance(row, EndpointRow)], label, group, had)
    shown = [f"10.0.0.{int(row.endpoint_id[:2], 16)}" for row in expected]
    assert found == (shown or found)
    assert shown or found in (NX, "nodata mesh.internal.")


# -- between releases -----------------------------------------------------------------------------------------------


def test_a_resolver_of_the_release_before_finds_the_service_among_the_aliases() -> None:
    change = names.endpoint(1, "shop-db-1", "10.0.0.1", group="shop/db", aliases=("pg",))
    array = fields_of(change)
    assert array[6] == ["pg", "db"]
    (_, older) = read_change_untrusted(array[:9])
    assert isinstance(older, EndpointRow)
    assert (older.aliases, older.group) == (("pg", "db"), None)


@pytest.mark.parametrize(
    ("array", "group"),
    [
        (fields_of(names.sandbox("c", APP, group="shop")), "shop"),
        (fields_of(names.sandbox("c", APP, group="shop"))[:5], None),
        (fields_of(names.endpoint(1, "web", group="shop/")), Group("shop")),
        (fields_of(names.endpoint(1, "web", group="shop/db")), Group("shop", "db")),
        (fields_of(names.endpoint(1, "web", group="shop/db"))[:10], None),
    ],
)
def test_rows_of_the_release_before_have_no_group(array: list[Any], group: Group | str | None) -> None:
    (_, row) = read_change_untrusted(array)
    assert isinstance(row, EndpointRow | Sandbox)
    assert row.group == group
