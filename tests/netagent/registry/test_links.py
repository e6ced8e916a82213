"""Which links open the way to whom, where projects have the same names."""

from __future__ import annotations

from itertools import product

import pytest
from fakes.registry import H1, H2, N1, Writer, endpoint, host, network
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.records import EndpointRecord, Group, Policy
from netagent.registry.links import linked_from, linked_to
from netagent.registry.view import RegistryView


def view_of(*records: EndpointRecord) -> RegistryView:
    """The endpoints, in turn on two hosts."""
    writers = (Writer(H1), Writer(H2))
    view = RegistryView(H1)
    for number, writer in enumerate(writers, 1):
        view = view.with_entries(writer.put(host(f"h{number}")))
    view = view.with_entries(writers[0].put(network(N1, "app", policy=Policy.LINKS)))
    for number, record in enumerate(records):
        view = view.with_entries(writers[number % 2].put(record))
    assert len(view.endpoints) == len(records)
    return view


def box(
    number: int,
    name: str,
    group: Group | None = None,
    *,
    service: str = "",
    links: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
) -> EndpointRecord:
    fields = {"name": name, "service": service or name, "group": group, "links": links, "aliases": aliases}
    return endpoint(number, offset=number + 1, **fields)  # type: ignore[arg-type]


SHOP_DB, BLOG_DB = box(1, "shop-db-1", Group("shop", "db")), box(2, "blog-db-1", Group("blog", "db"))
PLAIN_DB = box(3, "db")


@pytest.mark.parametrize(
    ("client", "led"),
    [
        (box(4, "web", Group("shop", "web"), links=("db",)), ["shop-db-1"]),
        (box(4, "web", Group("other", "web"), links=("db",)), ["blog-db-1", "db", "shop-db-1"]),
        (box(4, "web", links=("db",)), ["blog-db-1", "db", "shop-db-1"]),
        (box(4, "web", links=("db.blog",)), ["blog-db-1"]),
        (box(4, "web", Group("shop", "web"), links=("db.blog",)), ["blog-db-1"]),
        (box(4, "web", links=("db.h1",)), ["db"]),
        (box(4, "web", Group("shop", "web"), links=("shop-db-1",)), ["shop-db-1"]),
        (box(4, "web", Group("shop", "web"), links=("blog-db-1",)), ["blog-db-1"]),
        (box(4, "web", links=("db.nobody",)), []),
    ],
)
def test_a_link_means_the_own_project_first(client: EndpointRecord, led: list[str]) -> None:
    view = view_of(SHOP_DB, BLOG_DB, PLAIN_DB, client)
    found = linked_from(view, view.endpoints[client.endpoint_id])
    assert sorted(one.record.name for one in found) == led


def test_a_link_opens_no_way_to_another_project_while_the_own_database_restarts() -> None:
    client = box(4, "web", Group("shop", "web"), links=("db",))
    view = view_of(SHOP_DB, BLOG_DB, PLAIN_DB, client)
    writer = Writer(H1)
    writer.sequence = 99
    view = view.with_entries(writer.delete(SHOP_DB))
    assert SHOP_DB.endpoint_id not in view.endpoints
    assert linked_from(view, view.endpoints[client.endpoint_id]) == ()
    for other in (BLOG_DB, PLAIN_DB):
        assert linked_to(view, view.endpoints[other.endpoint_id]) == ()


LABELS = st.sampled_from(("db", "web", "x"))
LINKS = st.sampled_from(("db", "web", "x", "db.shop", "x.blog", "db.h1", "x.h2"))
BOXES = st.lists(
    st.tuples(
        LABELS,
        st.none() | st.builds(Group, st.sampled_from(("shop", "blog")), st.none() | LABELS),
        st.none() | LABELS,
        st.sets(LINKS, max_size=2).map(sorted).map(tuple),
        st.lists(LABELS, max_size=1).map(tuple),
    ),
    max_size=5,
)


@given(BOXES)
def test_both_ends_of_a_link_agree(
    fields: list[tuple[str, Group | None, str | None, tuple[str, ...], tuple[str, ...]]],
) -> None:
    records = [
        box(
            number,
            name,
            group,
            service=service or "",
            links=links,
            aliases=aliases if group is None else group.not_in(aliases),
        )
        for number, (name, group, service, links, aliases) in enumerate(fields, 1)
    ]
    every = list(view_of(*records).endpoints.values())
    view = view_of(*records)
    for one, other in product(every, every):
        assert (other in linked_from(view, one)) == (one in linked_to(view, other))
