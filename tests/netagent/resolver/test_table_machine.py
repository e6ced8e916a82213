"""Whatever the order of changes, the answers are those of the table."""

from __future__ import annotations

from random import Random
from typing import Any

from fakes import names
from fakes.names import APP, BACK, TYPES, ask
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.locality import AnswerOrder
from netagent.resolver.name_table import Key, Row, changes_between
from netagent.resolver.protocol import Rows, parse_request_untrusted, rows_messages
from netagent.resolver.zone_source import ZoneSource
from netdns.name import from_text

LABELS = ("web", "db", "h1", "x_y")
ROWS = st.one_of(
    st.builds(
        lambda number, name, service, on, network_id, octet, aliases, group, order: names.endpoint(
            number,
            name,
            f"10.0.0.{octet}",
            f"fd00::{octet}",
            service=service,
            on=on,
            network_id=network_id,
            aliases=tuple(aliases),
            ports=("http=80", "https=443+h2"),
            group=group,
            **order,
        ),
        st.integers(1, 4),
        st.sampled_from(LABELS),
        st.sampled_from(LABELS),
        st.sampled_from(("h1", "h2")),
        st.sampled_from((APP, BACK)),
        st.integers(2, 4),
        st.lists(st.sampled_from(LABELS), max_size=2),
        st.sampled_from(("", "shop/", "shop/s", "blog/s")),
        st.fixed_dictionaries(
            {
                "weight": st.sampled_from((0, 50, 100)),
                "up_since_s": st.sampled_from((None, 50, 100)),
                "texts": st.sampled_from(((), (b"a=b",))),
                "is_behind": st.booleans(),
            }
        ),
    ),
    st.builds(
        lambda network_id, label, refuses, answer, ranges: names.network(
            network_id, label, "10.0.0.0/24", refuses_shared=refuses, answer=answer, ranges=ranges
        ),
        st.sampled_from((APP, BACK)),
        st.sampled_from(("app", "back")),
        st.booleans(),
        st.sampled_from(AnswerOrder),
        st.sampled_from(((), ("10.1.0.0/24", "10.1.1.0/24"))),
    ),
    st.builds(
        lambda number, label, zone, distance: names.host(
            f"{number}" * 32, label, "192.0.2.1", zone=zone, distance=distance
        ),
        st.sampled_from((1, 2)),
        st.sampled_from(("h1", "h2")),
        st.sampled_from(("", "a")),
        st.sampled_from((None, 0, 1)),
    ),
    st.builds(
        lambda order, links, group, translates: names.sandbox(
            "c", *order, links=tuple(links), group=group, translates=translates
        ),
        st.permutations([APP, BACK]),
        st.lists(st.sampled_from(("db:web", "web:alias", "web.back:db")), max_size=2),
        st.sampled_from((None, "shop", "blog")),
        st.sampled_from(((), (APP,), (APP, BACK))),
    ),
    st.builds(
        lambda service, octet, owner, network_id, is_chosen, is_refused: names.service_address(
            service,
            f"10.1.0.{octet}",
            owner=owner,
            network_id=network_id,
            is_chosen=is_chosen,
            is_refused=is_refused,
        ),
        st.sampled_from((*LABELS[:3], "web.shop", "s.shop", "s.blog")),
        st.integers(1, 3),
        st.integers(1, 2),
        st.sampled_from((APP, BACK)),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        names.group_label,
        st.sampled_from((*LABELS, "s")),
        st.sampled_from(("shop", "blog")),
        st.sampled_from((APP, BACK)),
    ),
    st.builds(
        lambda domain, zone: names.settings(domain, zone=zone),
        st.sampled_from(("mesh.internal", "other.internal")),
        st.sampled_from(("", "a")),
    ),
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
        "nearest.web.app.mesh.internal",
        "top1.nearest.web",
        "a.zone.db.app.mesh.internal",
        "all.web",
        "_http._tcp.app.mesh.internal",
        "_services._dns-sd._udp.app.mesh.internal",
        "web@h1._http._tcp.app.mesh.internal",
        "alias",
        "mesh.internal",
        "app.mesh.internal",
        "h1.node.mesh.internal",
        "2.0.0.10.in-addr.arpa",
        "3.0.0.10.in-addr.arpa",
        "2.0.1.10.in-addr.arpa",
    )
    for prefix, rtype in (
        ("", "A"),
        ("", "AAAA"),
        ("", "PTR"),
        ("", "TXT"),
        ("_http._tcp.", "SRV"),
        ("_tcp.", "A"),
    )
]


NOW_S = 100


def new_source() -> ZoneSource:
    source = ZoneSource()
    source.handle_time(NOW_S)
    return source


def answers(source: ZoneSource) -> dict[tuple[str, str], object]:
    """What is answered, and how often each record is first."""
    return {question: ask(source, *question) for question in QUESTIONS} | {
        question: source.lookup(from_text(question[0]), TYPES[question[1]], "c")
        for question in QUESTIONS
        if question[1] in {"A", "SRV"} and not isinstance(ask(source, *question), str)
    }


def made_of(table: dict[Key, Row]) -> ZoneSource:
    source = new_source()
    source.apply(table.items())
    return source


@given(st.lists(TABLES, min_size=1, max_size=4))
def test_changes_lead_to_the_same_answers_as_the_whole_table(tables: list[dict[Key, Row]]) -> None:
    source = new_source()
    before: dict[Key, Row] = {}
    for table in tables:
        seen, version = answers(source), source.version("c")
        source.apply(changes_between(before, table))
        before = table
        assert dict(source.rows) == table
        now = answers(source)
        assert now == answers(made_of(table))
        assert now == seen or source.version("c") != version, "a kept answer would be wrong"
        assert source._warming == made_of(table)._warming


@given(TABLES, st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(table: dict[Key, Row], random: Random) -> None:
    changes = list(table.items())
    random.shuffle(changes)
    source = new_source()
    for change in changes:
        source.apply([change])
    assert answers(source) == answers(made_of(table))


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
    source = made_of(table)
    source.apply((key, None) for key in table)
    assert not source.rows
    assert answers(source) == answers(new_source())
