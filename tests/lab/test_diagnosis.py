"""`status`, `doctor`, `ping` and `lookup` name the cause of what other programs, hosts and servers break."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from lab.faults import rule
from lab.harness import Cluster

from netagent.control.openapi import document
from netgossip.slices import at_once

pytestmark = pytest.mark.lab


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


def test_explicit_rules_at_our_ports_and_bridges_are_named_on_either_host(lasting: Cluster) -> None:
    lasting.wait(lambda: lasting.try_netagent("h2", "doctor").status == 0, 10.0, "doctor finds something")
    with rule(lasting, "h2", "inet", "input", "th dport 7956 drop"):
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
    with rule(lasting, "h2", "bridge", "forward", "tcp dport 7002 drop"):
        assert "drops some packets on netagent's bridges" in findings(lasting, "h2", "forward-rules")[0]
        assert lasting.try_netagent("h1", "ping", "c1", "c2").status == 0
        text = said(lasting, 1, "ping", "c1", "c2:7002")
        assert "foreign firewall of h2: the rule `tcp dport 7002 drop`" in text
        assert "(lost at: policy)" in text
    with rule(lasting, "h1", "bridge", "forward", "tcp dport 7002 drop"):
        assert "foreign firewall: the rule `tcp dport 7002 drop`" in said(lasting, 1, "ping", "c1", "c2:7002")
    lasting.wait(lambda: lasting.try_netagent("h2", "doctor").status == 0, 10.0, "something is left over")


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
