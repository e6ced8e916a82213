"""Who talks to whom, asked on any host: what is counted, what links refused, and which links would cover it."""

from __future__ import annotations

from typing import Any

import pytest
from lab.harness import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.services]

FOLLOWED_S = 30.0
H1 = "192.0.2.1"
SERVE = """
import socket
with socket.create_server(("0.0.0.0", 7000)) as listener:
    while True:
        listener.accept()[0].close()
"""
OPEN = """
import socket, sys
for _ in range(int(sys.argv[2])):
    try:
        socket.create_connection((sys.argv[1], 7000), 5).close()
    except ConnectionRefusedError:
        print("refused")
"""


def connect(app: Cluster, client: str, address: str, times: int) -> list[str]:
    done = app.inside(client, "python3", "-c", OPEN, address, str(times))
    assert done.status == 0, done.stderr
    return list(done.stdout.split())


def counts(app: Cluster, host: str, *words: str) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Openings and refusals by source, target and port, as a host shows them."""
    rows: list[dict[str, Any]] = app.netagent(host, "flows", *words)
    return {(row["from"], row["to"], row["port"]): (row["openings"], row["refused"]) for row in rows}


def begun(app: Cluster, client: str, target: str, address: str) -> tuple[int, int]:
    """Connect until the port of the client counts; what has been counted then."""
    key = client, target, 7000

    def is_counted() -> bool:
        connect(app, client, address, 1)
        return key in counts(app, "h3", "--from", client)

    app.wait(is_counted, FOLLOWED_S, f"no flow of {client} is counted")
    return counts(app, "h3", "--from", client)[key]


def test_any_host_shows_what_was_opened_and_what_was_refused(lasting: Cluster) -> None:
    app = lasting
    app.netagent("h1", "network", "create", "shop", "--policy", "links")
    db = app.attach("h2", "db", "--network", "shop", command=("python3", "-c", SERVE))
    app.attach("h1", "web", "--network", "shop", "--link", "db")
    app.attach("h1", "other", "--network", "shop")
    address = db["addresses"][0]
    app.await_listening("db", 7000)
    app.wait(lambda: connect(app, "web", address, 1) == [], FOLLOWED_S, "the link opens no way")
    web, other = begun(app, "web", "db", address), begun(app, "other", "db", address)
    assert other[0] == other[1] > 0
    assert connect(app, "web", address, 5) == []
    assert connect(app, "other", address, 4) == ["refused"] * 4
    expected = {
        ("web", "db", 7000): (web[0] + 5, web[1]),
        ("other", "db", 7000): (other[0] + 4, other[1] + 4),
    }
    for host in ("h1", "h2", "h3"):
        assert counts(app, host, "--to", "db") == expected
        assert counts(app, host, "--from", "other", "--refused") == {
            ("other", "db", 7000): expected["other", "db", 7000]
        }
    assert counts(app, "h3", "--network", "shop", "--local") == {}
    drawn = {(one["from"], one["to"]): one for one in app.netagent("h3", "map", "--network", "shop")["edges"]}
    assert drawn["web.shop", "db.shop"]["linked"]
    assert not drawn["other.shop", "db.shop"]["linked"]
    for client in ("web", "other"):
        edge = drawn[f"{client}.shop", "db.shop"]
        assert (edge["openings"], edge["refused"]) == expected[client, "db", 7000]
    with app.agent_of("h1") as agent:
        agent.kill_agent()
    connect(app, "web", address, 3)
    assert "flows-not-known" in app.try_netagent("h3", "flows", "--network", "shop", "--json").stdout
    with app.agent_of("h1") as agent:
        agent.start_agent()
    app.wait(
        lambda: counts(app, "h3", "--from", "web") == {("web", "db", 7000): (web[0] + 8, web[1])},
        FOLLOWED_S,
        "what was opened without an agent is not counted",
    )


def test_the_links_that_are_suggested_cover_what_was_seen(lasting: Cluster) -> None:
    app = lasting
    app.netagent("h1", "network", "create", "blog")
    store = app.attach("h2", "store", "--network", "blog", command=("python3", "-c", SERVE))
    app.attach("h1", "site", "--network", "blog")
    address = store["addresses"][0]
    app.await_listening("store", 7000)
    begun(app, "site", "store", address)
    (link,) = app.netagent("h3", "policy", "suggest", "blog")["links"]
    assert (link["from_host"], link["ports"], link["also"]) == ("h1", ["7000/tcp"], 0)
    assert link["command"] == "sudo netagent link site.blog store"
    app.netagent("h1", *link["command"].split()[2:])
    app.netagent("h3", "network", "set", "blog", "--policy", "links")

    def is_covered() -> bool:
        found = app.netagent("h3", "policy", "suggest", "blog")
        return (found["policy"], found["covered"], found["links"]) == ("links", 1, [])

    app.wait(is_covered, FOLLOWED_S, "the link covers nothing")
    app.wait(lambda: connect(app, "site", address, 1) == [], FOLLOWED_S, "the link opens no way")


def test_what_hosts_open_and_what_comes_in_is_shown_also_when_the_container_is_gone(lasting: Cluster) -> None:
    app = lasting
    app.netagent("h1", "network", "create", "front")
    serve = ("python3", "-c", SERVE)
    app.attach("h1", "front1", "--network", "front", "-p", "7000:7000", command=serve)
    app.await_listening("front1", 7000)

    def from_host(host: str, times: int) -> None:
        done = app.lab.host(host).run(["python3", "-c", OPEN, H1, str(times)])
        assert (done.status, done.stdout) == (0, ""), done.stderr

    def is_counted() -> bool:
        from_host("h1", 1)
        from_host("h2", 1)
        found = counts(app, "h3", "--network", "front")
        return {("h1", "front1", 7000), ("outside", "front1", 7000)} <= found.keys()

    app.wait(is_counted, FOLLOWED_S, "what comes by the bridge is not counted")
    before = counts(app, "h3", "--network", "front")
    from_host("h2", 3)
    from_host("h1", 1)
    after = counts(app, "h3", "--network", "front")
    assert {key: after[key][0] - before[key][0] for key in before} == {
        ("h1", "front1", 7000): 1,
        ("outside", "front1", 7000): 3,
    }
    assert app.netagent("h3", "policy", "suggest", "front")["links"] == []
    app.remove("front1")

    def is_gone() -> bool:
        rows = app.netagent("h3", "flows", "--to", "front1")
        return [(row["from_kind"], row["to_gone"]) for row in rows] == [("host", True), ("outside", True)]

    app.wait(is_gone, FOLLOWED_S, "the container that is gone has no name")
    with app.agent_of("h1") as agent:
        agent.stop_agent()
        agent.start_agent()
    app.wait(is_gone, FOLLOWED_S, "the next agent does not know the name")
