"""`status`, `doctor`, `ping` and `lookup` name the cause of what other programs, hosts and servers break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema_rs
import pytest
from lab.harness import Cluster

from netagent.control.openapi import document
from netgossip.slices import at_once

pytestmark = pytest.mark.lab

DEAD_S = 30.0
"""Until gossip takes a host for dead whose ports are blocked."""


def findings(cluster: Cluster, host: str, check: str) -> list[str]:
    answer: dict[str, Any] = json.loads(cluster.try_netagent(host, "doctor", "--json").stdout)
    checks = [*answer["host"], *answer["intent"], *answer["cluster"]]
    (found,) = (one for one in checks if one["name"] == check)
    return [one["message"] for one in found["findings"]]


def warned(cluster: Cluster, host: str, code: str) -> list[tuple[str, str]]:
    found = cluster.netagent(host, "status")["warnings"]
    return [(one["message"], one["cure"]) for one in found if one["code"] == code]


def said(cluster: Cluster, status: int, *words: str) -> str:
    done = cluster.try_netagent("h1", *words)
    assert done.status == status, done
    return done.stdout + done.stderr


@contextmanager
def table(cluster: Cluster, host: str, family: str, hook: str, rule: str) -> Iterator[None]:
    """Another program's table on a host, with one rule."""
    machine = cluster.lab.host(host)
    machine.must(["nft", "add", "table", family, "site"])
    hooked = f"{{ type filter hook {hook} priority 0; policy accept; }}"
    machine.must(["nft", "add", "chain", family, "site", "guard", hooked])
    machine.must(["nft", "add", "rule", family, "site", "guard", *rule.split()])
    try:
        yield
    finally:
        machine.must(["nft", "delete", "table", family, "site"])


def test_explicit_rules_at_our_ports_and_bridges_are_named_on_either_host(lasting: Cluster) -> None:
    lasting.wait(lambda: lasting.try_netagent("h2", "doctor").status == 0, 10.0, "doctor finds something")
    with table(lasting, "h2", "inet", "input", "th dport 7956 drop"):
        (message,) = findings(lasting, "h2", "input-rules")
        assert message == (
            "the rule `th dport 7956 drop` in chain guard of table inet site drops "
            "membership (udp 7956), membership (tcp 7956) from h1, h3"
        )
        (shown,) = warned(lasting, "h2", "foreign-firewall")
        assert shown[0] == message
        # The fix is a command that works.
        command = shown[1].partition(": ")[2]
        lasting.lab.host("h2").must(command.split())
        assert findings(lasting, "h2", "input-rules") == []
    with table(lasting, "h2", "bridge", "forward", "tcp dport 7002 drop"):
        assert "drops some packets on netagent's bridges" in findings(lasting, "h2", "forward-rules")[0]
        assert lasting.try_netagent("h1", "ping", "c1", "c2").status == 0
        text = said(lasting, 1, "ping", "c1", "c2:7002")
        assert "foreign firewall of h2: the rule `tcp dport 7002 drop`" in text
        assert "(lost at: policy)" in text
    with table(lasting, "h1", "bridge", "forward", "tcp dport 7002 drop"):
        assert "foreign firewall: the rule `tcp dport 7002 drop`" in said(lasting, 1, "ping", "c1", "c2:7002")
    lasting.wait(lambda: lasting.try_netagent("h2", "doctor").status == 0, 10.0, "something is left over")


def test_a_policy_is_named_where_it_refuses_a_port(lasting: Cluster) -> None:
    lasting.netagent("h1", "network", "create", "strict", "--policy", "links")
    lasting.attach("h1", "asker", "--network", "strict")
    lasting.attach("h2", "asked", "--network", "strict")
    address = lasting.netagent("h2", "inspect", "asked")["addresses"][0]
    text = said(lasting, 1, "ping", "asker", f"{address}:7002")
    assert "asker is not linked to asked" in text
    assert "(lost at: policy)" in text
    assert "nothing listens" not in text
    for name in ("asker", "asked"):
        lasting.lab.remove_container(name)
    lasting.netagent("h1", "network", "rm", "strict")


def test_a_host_without_a_route_is_named(lasting: Cluster) -> None:
    lasting.lab.host("h1").must(["ip", "route", "add", "unreachable", "198.51.100.0/24"])
    text = said(lasting, 1, "ping", "c1", "198.51.100.7", "--count", "1")
    assert "route of this host to 198.51.100.7: there is none" in text
    assert "check the other end" not in text
    lasting.lab.host("h1").must(["ip", "route", "del", "unreachable", "198.51.100.0/24"])


def test_a_trace_of_a_service_says_which_replica_it_follows(lasting: Cluster) -> None:
    for host in ("h1", "h2"):
        lasting.attach(host, f"replica-{host}", "--service", "pair")
    lasting.wait(lambda: len(lasting.answers("c1", "pair")) >= 2, 5.0, "a replica lacks its name")
    trace = lasting.netagent("h1", "ping", "c1", "pair", "--trace")["trace"]
    (replica,) = (hop for hop in trace if hop["layer"] == "name" and "the trace follows" in hop["says"])
    assert "replica-h" in replica["thing"]
    assert "replica-h" in replica["says"]
    for host in ("h1", "h2"):
        lasting.lab.remove_container(f"replica-{host}")


def test_doctor_fails_where_a_path_is_down_and_ping_of_the_host_says_one_thing(app: Cluster) -> None:
    app.lab.block("h2", 4799)
    app.wait(lambda: app.netagent("h1", "status")["paths"].get("down") == 1, DEAD_S, "the path is not down")
    assert any("h2" in message for message in findings(app, "h1", "paths"))
    assert app.try_netagent("h1", "doctor").status == 1
    assert "No problems found" not in app.try_netagent("h1", "doctor").stdout
    text = said(app, 1, "ping", "h2")
    assert "answers small packets" not in text
    assert "not even the host's kernel answers" in text


def test_a_blocked_gossip_port_is_not_taken_for_a_dead_agent(app: Cluster) -> None:
    app.lab.block("h2", 7956)
    app.wait(lambda: app.agents("h1").get("h2") == "dead", DEAD_S, "h2 is not taken for dead")
    (notice,) = warned(app, "h1", "agent-dead")
    assert "the agent of h2 runs, but gossip considers it dead" in notice[0]
    assert "allow UDP and TCP ports 7956 and 7957" in notice[1]
    assert findings(app, "h1", "agents") == [notice[0]]
    app.lab.heal()
    app.wait(lambda: app.agents("h1").get("h2") == "alive", DEAD_S, "h2 does not come back")
    with app.agent_of("h2") as agent:
        agent.stop_agent()
    app.wait(lambda: warned(app, "h1", "agent-dead") != [], DEAD_S, "h2's agent is not missed")
    app.wait(
        lambda: "the agent of h2 does not run" in warned(app, "h1", "agent-dead")[0][0],
        5.0,
        "it seems to run",
    )


def test_a_blocked_record_port_of_a_live_agent_is_named(lasting: Cluster) -> None:
    assert findings(lasting, "h1", "agents") == []
    lasting.lab.block("h2", 7957)
    (reported,) = findings(lasting, "h1", "agents")
    lasting.lab.heal()
    assert reported.startswith("TCP port 7957 of h2 does not answer, though its agent is alive")


def test_a_dead_name_server_is_named_by_status_doctor_and_lookup(lasting: Cluster) -> None:
    host = lasting.lab.host("h1")
    before = host.must(["cat", "/etc/resolv.conf"])
    host.must(["cp", "/dev/stdin", "/etc/resolv.conf"], stdin="nameserver 127.0.0.77\n")
    try:
        (notice,) = warned(lasting, "h1", "upstream-dead")
        assert "127.0.0.77 does not answer" in notice[0]
        assert findings(lasting, "h1", "name-servers") == [notice[0]]
        text = said(lasting, 1, "lookup", "www.example.com", "--from", "c1")
        assert "127.0.0.77 does not answer" in text
    finally:
        host.must(["cp", "/dev/stdin", "/etc/resolv.conf"], stdin=before)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("status", "/v1/status"),
        ("members", "/v1/members"),
        ("network ls", "/v1/networks"),
        ("endpoints", "/v1/endpoints"),
        ("services", "/v1/services"),
        ("doctor", "/v1/doctor"),
        ("inspect c1 --why", "/v1/inspect"),
        ("inspect h1 --why", "/v1/inspect"),
        ("inspect app --why", "/v1/inspect"),
        ("lookup c1", "/v1/lookup"),
        ("ping c1 c2 --trace", "/v1/ping"),
    ],
)
def test_a_running_agent_answers_as_its_openapi_document_says(
    lasting: Cluster, words: str, path: str
) -> None:
    whole = at_once(document())
    answers = whole["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    validator = jsonschema_rs.validator_for({**answers, "components": whole["components"]})
    validator.validate(json.loads(lasting.try_netagent("h1", *words.split(), "--json").stdout))
