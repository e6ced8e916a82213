"""`netagent map`: the graph that four lists make, as text, for Graphviz and for programs."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netagent.cli.map_command import Graph, as_json, dot, graph_of, text

NET = "0a"
HOSTS = [
    {
        "id": "1",
        "name": "h1",
        "address": "192.0.2.1",
        "agent": "alive",
        "local": True,
        "path": "local",
        "rtt_s": None,
    },
    {
        "id": "2",
        "name": "h2",
        "address": "192.0.2.2",
        "agent": "dead",
        "local": False,
        "path": "down",
        "rtt_s": 0.002,
    },
]


def service(name: str, group: str = "", hosts: tuple[str, ...] = ("h1",), **more: Any) -> dict[str, Any]:
    titled = f"{name}.{group}.app" if group else f"{name}.app"
    about = {"network": "app", "network_id": NET, "answering": 1, "endpoint_count": 2, "hosts": [*hosts]}
    return {"id": titled, "name": name, "group": group, **about, **more}


def endpoint(of: str, *links: str, group: str = "") -> dict[str, Any]:
    parts = [{"service": one, "alias": ""} for one in links]
    return {"network_id": NET, "service": of, "group": group, "links": parts}


def flow(
    start: str, end: str, openings: int = 1, *, refused: int = 0, port: int | None = 80, to: str = ""
) -> dict[str, Any]:
    kind = "outside" if to else "endpoint"
    counts = {"openings": openings, "refused": refused, "protocol": "tcp" if port else "icmp", "port": port}
    return {
        "network_id": NET,
        "from_service": start,
        "to_service": end,
        "to": to,
        "to_kind": kind,
        "linked": None,
        **counts,
    }


def drawn() -> Graph:
    return graph_of(
        HOSTS,
        [
            service("web", hosts=("h1", "h2")),
            service("db"),
            service("db", "shop"),
            service("pg", external=[{}]),
        ],
        [endpoint("web", "db", "pg.h1"), endpoint("db", "db"), endpoint("db", "db", group="shop")],
        [
            flow("web", "db", 3),
            flow("web", "db", 2, refused=2, port=81),
            flow("web", "db", port=None),
            flow("db", "db"),
            flow("db", "", to="198.51.100.7", port=443),
            flow("gone", "db"),
            {**flow("pg", "db"), "linked": True},
            {**flow("", "web", 7), "from_kind": "outside", "from": "outside"},
            {**flow("", "db", 2), "from_kind": "host", "from": "h1"},
            {**flow("job", "db", 4), "from_gone": True},
            {**flow("db", "cache", 5), "to_kind": "unknown", "to": "cache1", "to_gone": True},
        ],
    )


def test_text_says_where_services_run_and_whom_they_open_connections_to() -> None:
    assert [*text(drawn())] == [
        "HOSTS",
        "  h1  192.0.2.1  alive, this host",
        "  h2  192.0.2.2  dead, path down, 2.0 ms",
        "",
        "NETWORK app",
        "  db  1/2  on h1",
        "    -> 198.51.100.7 (outside)  tcp/443: 1 opening",
        "    -> cache (gone)  tcp/80: 5 openings",
        "  db.shop  1/2  on h1",
        "  pg  external  on h1",
        "    -> db  tcp/80: 1 opening, linked",
        "  web  1/2  on h1, h2",
        "    -> db  icmp, tcp/80, tcp/81: 6 openings, 2 of them refused, linked",
        "    -> pg  linked",
        "  h1 (a host)",
        "    -> db  tcp/80: 2 openings",
        "  job (gone)",
        "    -> db  tcp/80: 4 openings",
        "  outside",
        "    -> web  tcp/80: 7 openings",
    ]
    assert [*text(graph_of(HOSTS[:1], [], [], []))][-1] == "There is no service."


def test_graphviz_gets_the_same() -> None:
    lines = [*dot(drawn())]
    assert lines[0] == "digraph netagent {"
    assert lines[-1] == "}"
    assert '    "0a web" [label="web  1/2"];' in lines
    assert '  "0a web" -> "host 2" [style=dotted, dir=none];' in lines
    assert '  "0a web" -> "0a pg" [label="linked", style="dashed"];' in lines
    assert any(one.startswith('  "0a web" -> "0a db"') and 'color="red"' in one for one in lines)
    assert '  "0a outside" -> "0a web" [label="tcp/80: 7 openings"];' in lines
    assert '  "0a 198.51.100.7" [shape=plaintext, label="198.51.100.7 (outside)"];' in lines


def test_programs_get_the_same() -> None:
    said: Any = as_json(drawn())
    (edge,) = [one for one in said["edges"] if (one["from"], one["to"]) == ("web.app", "db.app")]
    assert edge == {
        "from": "web.app", "to": "db.app", "linked": True, "openings": 6, "refused": 2,
        "ports": ["icmp", "tcp/80", "tcp/81"],
    }  # fmt: skip
    assert said["others"] == [
        {"id": "198.51.100.7", "network_id": NET, "kind": "outside"},
        {"id": "cache", "network_id": NET, "kind": "gone"},
        {"id": "h1", "network_id": NET, "kind": "host"},
        {"id": "job", "network_id": NET, "kind": "gone"},
        {"id": "outside", "network_id": NET, "kind": "outside"},
    ]


@given(st.text(max_size=30))
def test_no_name_ends_its_quotes_or_its_line(name: str) -> None:
    graph = graph_of(
        [{**HOSTS[0], "name": name}],
        [service(name, hosts=(name,)), service("db")],
        [endpoint(name, "db")],
        [flow(name, "", to=name + "!")],
    )
    quoted = re.compile(r'"(?:[^"\\]|\\["\\])*"')
    for line in dot(graph):
        bare = quoted.sub("", line)
        assert re.fullmatch(r"[\w\s=\[\],;{}>-]*", bare, re.ASCII), line
    assert all(one.isprintable() for one in [*dot(graph), *text(graph)])
