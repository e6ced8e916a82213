"""Whatever the order of changes, the answers are those of the table."""

from __future__ import annotations

from random import Random
from typing import Any

from fakes import names
from fakes.names import APP, BACK, ask, source_of
from hypothesis import given
from hypothesis import strategies as st

from netagent.resolver.name_table import Key, Row, changes_between
from netagent.resolver.protocol import Rows, parse_request_untrusted, rows_messages
from netagent.resolver.zone_source import ZoneSource

LABELS = ("web", "db", "h1", "x_y")
ROWS = st.one_of(
    st.builds(
        lambda number, name, service, on, network_id, octet, aliases, group: names.endpoint(
            number,
            name,
            f"10.0.0.{octet}",
            f"fd00::{octet}",
            service=service,
            on=on,
            network_id=network_id,
            aliases=tuple(aliases),
            ports=("http=80",),
            group=group,
        ),
        st.integers(1, 4),
        st.sampled_from(LABELS),
        st.sampled_from(LABELS),
        st.sampled_from(("h1", "h2")),
        st.sampled_from((APP, BACK)),
        st.integers(2, 4),
        st.lists(st.sampled_from(LABELS), max_size=2),
        st.sampled_from(("", "shop/", "shop/s", "blog/s")),
    ),
    st.builds(
        lambda network_id, label, refuses: names.network(
            network_id, label, "10.0.0.0/24", refuses_shared=refuses
        ),
        st.sampled_from((APP, BACK)),
        st.sampled_from(("app", "back")),
        st.booleans(),
    ),
    st.builds(lambda label: names.host("1" * 32, label, "192.0.2.1"), st.sampled_from(("h1", "h2"))),
    st.builds(
        lambda order, links, group: names.sandbox("c", *order, links=tuple(links), group=group),
        st.permutations([APP, BACK]),
        st.lists(st.sampled_from(("db:web", "web:alias", "web.back:db")), max_size=2),
        st.sampled_from((None, "shop", "blog")),
    ),
    st.builds(
        names.group_label,
        st.sampled_from((*LABELS, "s")),
        st.sampled_from(("shop", "blog")),
        st.sampled_from((APP, BACK)),
    ),
    st.builds(names.settings, st.sampled_from(("mesh.internal", "other.internal"))),
)
TABLES = st.lists(ROWS, max_size=12).map(dict)

QUESTIONS = [
    (f"{prefix}{base}", rtype)
    for base in (
        *(
            f"{label}{where}"
            for label in LABELS
            for where in ("", ".app", ".app.mesh.internal", ".h1.app.mesh.internal")
        ),
        "s",
        "s.shop",
        "s.app.mesh.internal",
        "web.shop.app.mesh.internal",
        "alias",
        "mesh.internal",
        "app.mesh.internal",
        "h1.node.mesh.internal",
        "2.0.0.10.in-addr.arpa",
        "3.0.0.10.in-addr.arpa",
    )
    for prefix, rtype in (("", "A"), ("", "AAAA"), ("", "PTR"), ("_http._tcp.", "SRV"), ("_tcp.", "A"))
]


def answers(source: ZoneSource) -> dict[tuple[str, str], list[str] | str]:
    return {question: ask(source, *question) for question in QUESTIONS}


@given(st.lists(TABLES, min_size=1, max_size=4))
def test_changes_lead_to_the_same_answers_as_the_whole_table(tables: list[dict[Key, Row]]) -> None:
    source = ZoneSource()
    before: dict[Key, Row] = {}
    for table in tables:
        seen, version = answers(source), source.version("c")
        source.apply(changes_between(before, table))
        before = table
        assert dict(source.rows) == table
        now = answers(source)
        assert now == answers(source_of(table))
        assert now == seen or source.version("c") != version, "a kept answer would be wrong"


@given(TABLES, st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(table: dict[Key, Row], random: Random) -> None:
    changes = list(table.items())
    random.shuffle(changes)
    source = ZoneSource()
    for change in changes:
        source.apply([change])
    assert answers(source) == answers(source_of(table))


@given(TABLES, TABLES)
def test_what_is_sent_is_what_arrives(old: dict[Key, Row], new: dict[Key, Row]) -> None:
    changes = list(changes_between(old, new))
    received: list[Any] = []
    for payload in rows_messages(7, changes):
        request = parse_request_untrusted(payload)
        assert isinstance(request, Rows)
        received += request.changes
    assert received == changes


@given(TABLES)
def test_removing_everything_leaves_nothing(table: dict[Key, Row]) -> None:
    source = source_of(table)
    source.apply((key, None) for key in table)
    assert not source.rows
    assert answers(source) == answers(ZoneSource())
